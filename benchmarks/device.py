"""Checks, times and trains on the accelerator at hand: one command for a machine that is lent for minutes.

    python -m benchmarks.device                                       # checks and times, in less than six minutes
    python -m benchmarks.device --minutes=60 --data_dir=DIR           # and then trains cells of Table 2 for an hour

The checks compare outputs and gradients of the three networks with those of the CPU beside the accelerator, train the
network of the quickstart in two parts, of which the second continues the first, and hold its error against what it
reaches on a CPU. The benchmark fails where a check does. Times are those of the training step of ``train.py``, of all
cases of the paper's Table 3, with float32 products in the highest precision and in the lowest (TensorFloat-32 on a GPU,
one bfloat16 pass on a TPU) and in bfloat16, and by the size of the batch. What does not fit in ``--seconds`` is left
out and named. Cells are trained as ``train.py`` trains them, and the same command continues them. ``--tiny`` tries all
of this with a tiny network, on a CPU too.
"""

import dataclasses
import json
import os
import pathlib
import signal
import sys
import threading
import time

from absl import app, flags
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import step_time, steps, timing
from experiments.cells import CELLS
from lcaps_jax import commands, config, data, networks, parallel, runs, runtime, training
from lcaps_jax.config import Config
from lcaps_jax.precision import DEFAULT

_SECONDS = flags.DEFINE_float("seconds", 330, "Seconds for the checks and the times.", lower_bound=0)
_MINUTES = flags.DEFINE_float("minutes", 0, "Minutes for training cells of Table 2 after that.", lower_bound=0)
_WORKDIR = flags.DEFINE_string("workdir", "runs/device", "Folder of the runs.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of prepared TensorFlow Datasets; default: their own.")
_TINY = flags.DEFINE_boolean("tiny", False, "Do everything with a tiny network, to try the benchmark itself.")
_OUTPUT = flags.DEFINE_string("output", "benchmarks/results/device.json", "JSON file to write.")

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_TINY_NETWORK = {"channels": 8, "capsule_types": 2, "k": 5, "capsule_dim": 4, "pose_dim": 4}
MODES = {
    "float32": {},
    "fast float32": {"matmul_precision": DEFAULT},
    "bfloat16": {"precision": "bfloat16"},
}
_BATCHES = (32, 100, 256, 512, 1024, 2048)
_TURNS = 10  # of five steps
# The largest difference of an output or a gradient from the CPU's, by the largest number in it.
_TOLERANCE = 1e-3
# The quickstart's error on a CPU is 4.2 % of 2,000 images, with an interval up to 5.2.
_MOST_ERROR, _TINY_MOST_ERROR = 6.0, 80.0


def differences_from_cpu(tiny: bool) -> dict[str, float]:
    """Largest difference of each network's outputs and gradients from the CPU's, by the largest number in the array."""
    images = data.load("sample").test.images[:16].astype(np.float32) / 255
    labels = data.load("sample").test.labels[:16]
    found = {}
    for model in networks.NETWORKS:
        # The CNN is a narrow one, because a CPU takes long over the whole one.
        settings = _TINY_NETWORK if tiny or model == "cnn" else {}
        network = networks.from_config(Config(model=model, **settings).resolved(28, 0), 10)
        cpu = jax.devices("cpu")[0]
        with jax.default_device(cpu):
            params = jax.jit(network.init)(jax.random.key(0), images[:1])["params"]

        def outputs(params, images, network=network):
            def loss(params):
                output = network.apply({"params": params}, images, labels)
                return jnp.mean(network.loss(output, labels, images)), output.activity

            return jax.value_and_grad(loss, has_aux=True)(params)

        theirs, ours = (
            jax.jit(outputs)(*jax.device_put((params, images), device)) for device in (cpu, jax.devices()[0])
        )
        found[model] = max(map(_difference, jax.tree.leaves(ours), jax.tree.leaves(theirs)))
    return found


def _difference(ours: jax.Array, theirs: jax.Array) -> float:
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    return float(np.max(np.abs(ours - theirs)) / max(np.max(np.abs(theirs)), 1e-12))


def train_in_two_parts(workdir: pathlib.Path, tiny: bool) -> dict:
    """Trains the quickstart's network for an epoch and then to its end, as two commands would."""
    settings = config.from_flagfile(_ROOT / "configs" / "quickstart.flags")
    changes = {**_TINY_NETWORK, "learning_rate": 3e-3, "epochs": 2} if tiny else {}
    whole = dataclasses.replace(settings, batch_size=parallel.round_up(settings.batch_size), **changes)
    began = time.perf_counter()
    for epochs in (1, whole.epochs):
        commands.train(dataclasses.replace(whole, epochs=epochs), workdir)
    metrics = [line for line in training.read_metrics(workdir) if line["split"] == "train"]
    logged = [line["step"] for line in metrics]
    assert logged == sorted(set(logged)), "the log of a run that was continued repeats steps"
    error = runs.read_results(workdir)["sample"]["error"]
    assert error <= (_TINY_MOST_ERROR if tiny else _MOST_ERROR), f"the quickstart ends with an error of {error} %"
    return {"error": error, "seconds": time.perf_counter() - began}


def time_case(settings: dict) -> dict:
    """Times a case by itself: seconds of a step, images a second, and seconds of its compilation."""
    case_config = Config(**settings)
    case = steps.prepare(case_config.resolved(case_config.image_size or 28, 0))
    seconds = timing.alternate({"step": case.run}, _TURNS)["step"] / steps.STEPS_A_CALL
    median = float(np.median(seconds))
    return {
        "seconds": median,
        "images_per_second": case.config.batch_size / median,
        "compile_seconds": case.compile_seconds,
    }


def time_all(until: float, tiny: bool) -> tuple[dict, list[str]]:
    """Times cases until a moment of ``time.monotonic``: their results, and the names of those that were left out."""
    changes = {**_TINY_NETWORK, "batch_size": parallel.round_up(10)} if tiny else {}
    # Two networks first, so that little time shows something of both.
    names = [*list(step_time.TABLE3)[1::2], *list(step_time.TABLE3)[::2]]
    names, batches = (names[:1], _BATCHES[:1]) if tiny else (names, _BATCHES)
    cases = {f"{name}, {mode}": step_time.CASES[name] | how | changes for name in names for mode, how in MODES.items()}
    for batch in batches:
        for mode, how in MODES.items():
            cases[f"K=70, batch {batch}, {mode}"] = how | changes | {"batch_size": parallel.round_up(batch)}
    results, left_out = {}, []
    for name, settings in cases.items():
        if time.monotonic() > until:
            left_out.append(name)
            continue
        results[name] = time_case(settings)
        print(f"{name}: {1e3 * results[name]['seconds']:.2f} ms, {results[name]['images_per_second']:.0f} images/s")
    return results, left_out


class _Over(Exception):
    """The time for training is over."""


def train_cells(workdir: pathlib.Path, minutes: float, data_dir: str | None, tiny: bool) -> dict:
    """Trains cells of Table 2 in their order, each in its folder, until the minutes are over: errors by cell.

    The cell that is in training then saves itself and stops; the same command goes on with it.
    """

    def give_up(number, frame):  # between two trainings; a training in progress saves itself at this signal
        raise _Over("The time for training is over.")

    signal.signal(signal.SIGTERM, give_up)
    timer = threading.Timer(60 * minutes, os.kill, (os.getpid(), signal.SIGTERM))
    timer.daemon = True
    timer.start()
    errors: dict[str, dict] = {}
    try:
        for cell in CELLS:
            settings = config.from_flagfile(_ROOT / "configs" / f"{cell.flagfile}.flags")
            changes = {"batch_size": parallel.round_up(settings.batch_size), "data_dir": data_dir}
            if tiny:
                kernels = {"conv1_kernel": 9, "primary_kernel": 9}
                changes |= {**_TINY_NETWORK, **kernels, "dataset": "sample", "eval_datasets": None, "epochs": 1}
            folder = workdir / cell.flagfile
            commands.train(dataclasses.replace(settings, **changes).without_unused(), folder)
            errors[cell.flagfile] = {name: result["error"] for name, result in runs.read_results(folder).items()}
    except (training.Stopped, _Over) as over:
        print(over)
    timer.cancel()
    return errors


def main(argv):
    del argv
    runtime.prepare()
    began, workdir, tiny = time.monotonic(), pathlib.Path(_WORKDIR.value).absolute(), _TINY.value
    print(parallel.describe(), flush=True)
    metrics = {"devices": parallel.describe(), "differences": differences_from_cpu(tiny)}
    wrong = {name: value for name, value in metrics["differences"].items() if not value < _TOLERANCE}
    print(f"differences from the CPU: {json.dumps(metrics['differences'])}", flush=True)
    metrics["quickstart"] = train_in_two_parts(workdir / "quickstart", tiny)
    results, left_out = time_all(began + _SECONDS.value, tiny)
    metrics |= {"cases": results, "left_out": left_out, "minutes": (time.monotonic() - began) / 60}
    timing.write(_OUTPUT.value, metrics)  # before the training, which may be cut off
    rows = [
        (name, f"{1e3 * case['seconds']:.2f}", f"{case['images_per_second']:.0f}", f"{case['compile_seconds']:.1f}")
        for name, case in results.items()
    ]
    print(timing.table(("case", "ms a step", "images/s", "compile, s"), rows))
    if left_out:
        print(f"Left out for lack of time: {'; '.join(left_out)}.")
    if wrong:
        sys.exit(f"Not what a CPU computes, by more than {_TOLERANCE}: {json.dumps(wrong)}.")
    if _MINUTES.value:
        metrics["cells"] = train_cells(workdir, _MINUTES.value, _DATA_DIR.value, tiny)
        timing.write(_OUTPUT.value, metrics)


if __name__ == "__main__":
    app.run(main)
