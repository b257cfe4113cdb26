"""Times evaluation of affNIST's 320,000 images, generated and streamed, and watches the memory that it takes.

    python -m benchmarks.inference

The network is L-CapsNet with 15x15 kernels, K=70 and its initial weights. The images are the 10,000 bundled digits in
32 variants each. Generation and network are timed together, as an evaluation runs them, and generation once alone.
"""

import time

from absl import app, flags
import numpy as np

from benchmarks import steps, timing
from lcaps_jax import data, networks, parallel, runtime, training
from lcaps_jax.config import Config
from lcaps_jax.data import affnist, sample

_VARIANTS = flags.DEFINE_integer("variants", affnist.VARIANTS, "Variants of each digit.", 3, affnist.VARIANTS)
_BATCH = flags.DEFINE_integer("batch", 100, "Images of a step.", lower_bound=1)
_OUTPUT = flags.DEFINE_string("output", "benchmarks/results/inference.json", "JSON file to write.")


def main(argv):
    del argv
    runtime.prepare()
    source = sample.load()
    digits = data.Split(
        np.concatenate([source.train.images, source.test.images]),
        np.concatenate([source.train.labels, source.test.labels]),
    )
    config = Config(conv1_kernel=15, primary_kernel=15).resolved(affnist.CANVAS, 0)
    network = networks.from_config(config, 10)
    params = parallel.replicate(training.compute_once(lambda: training.init_params(network, config, 1)))
    eval_steps = training.make_eval_steps(network)

    split = data.Affnist(digits, _VARIANTS.value)
    peaks = []  # peak memory after each part

    def watched():
        for part in training.on_devices(split):
            yield part
            peaks.append(steps.peak_memory_gib())

    one_variant = training.on_devices(data.Affnist(digits))
    training.evaluate(eval_steps, params, one_variant, _BATCH.value)  # unmeasured, because it compiles
    began = time.perf_counter()
    evaluation = training.evaluate(eval_steps, params, watched(), _BATCH.value)
    seconds = time.perf_counter() - began
    began = time.perf_counter()
    list(data.Affnist(digits).parts())
    generation = (time.perf_counter() - began) / len(digits)

    metrics = {
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
        f"{metrics['images_per_second']:.0f}",
        f"{metrics['generated_per_second']:.0f}",
        f"{peaks[1]:.2f}",
        f"{peaks[-1]:.2f}",
    )
    header = ("images", "seconds", "images/s", "generated/s", "peak after two parts, GiB", "peak at the end, GiB")
    print(timing.table(header, [row]))
    timing.write(_OUTPUT.value, metrics)


if __name__ == "__main__":
    app.run(main)
