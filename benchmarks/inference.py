"""Times evaluation of affNIST's 320,000 images, generated and streamed, and watches the memory that it takes.

    python -m benchmarks.inference

L-CapsNet, 15x15 kernels, K=70, initial weights; the 10,000 bundled digits in 32 variants each. Generation and network
are timed together, as an evaluation runs them, and generation once alone.
"""

import time

from absl import app, flags
import numpy as np

from benchmarks import steps, timing
from lcaps_jax import affnist, data, parallel, training
from lcaps_jax.config import Config

_VARIANTS = flags.DEFINE_integer("variants", affnist.VARIANTS, "Of each of the 10,000 digits.", 3, affnist.VARIANTS)
_BATCH = flags.DEFINE_integer("batch", 100, "Images a step.", lower_bound=1)
_OUTPUT = flags.DEFINE_string("output", "benchmarks/results/inference.json", "JSON file to write.")


def main(argv):
    del argv
    parallel.prepare()
    source = data.load(data.SAMPLE)
    digits = data.Split(*(np.concatenate(pair) for pair in zip(*(
        (split.images, split.labels) for split in (source.train, source.test)
    ))))  # fmt: skip
    config = Config(conv1_kernel=15, primary_kernel=15).resolved(data.affnist.CANVAS, 0)
    model = training.make_model(config, 10)
    params = parallel.replicate(training.compute_once(lambda: training.init_params(model, config, 1)))
    eval_steps = training.make_eval_steps(model)

    split = data.Affnist(digits, _VARIANTS.value)
    peaks = []  # after each part

    def watched():
        for part in training.on_devices(split):
            yield part
            peaks.append(steps.peak_memory_gib())

    training.evaluate(eval_steps, params, training.on_devices(data.Affnist(digits)), _BATCH.value)  # compiles
    began = time.perf_counter()
    evaluation = training.evaluate(eval_steps, params, watched(), _BATCH.value)
    seconds = time.perf_counter() - began
    began = time.perf_counter()
    list(data.Affnist(digits).parts())
    generation = (time.perf_counter() - began) / len(digits)

    figures = {
        "images": evaluation.count,
        "seconds": seconds,
        "images_per_second": evaluation.count / seconds,
        "generated_per_second": 1 / generation,
        "peak_memory_gib_after_two_parts": peaks[1],
        "peak_memory_gib": peaks[-1],
    }
    row = (
        evaluation.count,
        f"{seconds:.0f}",
        f"{figures['images_per_second']:.0f}",
        f"{figures['generated_per_second']:.0f}",
        f"{peaks[1]:.2f}",
        f"{peaks[-1]:.2f}",
    )
    header = ("images", "seconds", "images/s", "of them generated/s", "peak after 20,000, GiB", "peak in the end, GiB")
    print(timing.table(header, [row]))
    timing.write(_OUTPUT.value, figures)


if __name__ == "__main__":
    app.run(main)
