"""Times and trains on the accelerator at hand: one command for a machine that is lent for minutes.

    python -m benchmarks.device                                              # checks and times alone
    python -m benchmarks.device mnist_9x9_k70 ablation_length --minutes=60   # and then trains two networks

The check compares losses and gradients of the three networks with those of the CPU beside the accelerator. Times are
those of the training step, in float32, in float32 with --matmul_precision=default, and in bfloat16. What is not begun
after --seconds is left out. The networks to train are named as for `python -m experiments train`; a GPU trains several
at once with --at_once, so that one trains while others compile, evaluate or save. The same command continues them.
"""

from collections.abc import Iterable
import functools
import multiprocessing
import os
import pathlib
import sys
import time

from absl import app, flags
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import step_time, timing
from experiments import train
from lcaps_jax.data import api
from lcaps_jax.nn import NETWORKS
from lcaps_jax.util import devices, process

MODES = {"float32": {}, "fast float32": {"matmul_precision": "default"}, "bfloat16": {"dtype": "bfloat16"}}
_BATCHES = (32, 256, 1024)
_SMALL = {"filters": 8, "capsule_types": 2, "capsule_dim": 4, "pose_dim": 4}
_TOLERANCE = 1e-3  # of a difference from the CPU's, by the largest number in the array


def difference_from_cpu(settings: dict) -> float:
    """Largest difference of a network's loss and gradients from the CPU's, by the largest number in the array."""
    digits = api.load("sample").test.take(np.arange(16))
    images, network = digits.images / np.float32(255), timing.configured(settings).network
    with jax.default_device(cpu := jax.devices("cpu")[0]):
        params = jax.jit(network.init)(jax.random.key(0), images[:1])["params"]

    def loss(params, images):
        return jnp.mean(network.loss(network.apply({"params": params}, images, digits.labels), digits.labels, images))

    theirs, ours = (
        jax.tree.map(np.asarray, jax.jit(jax.value_and_grad(loss))(*jax.device_put((params, images), device)))
        for device in (cpu, jax.devices()[0])
    )
    differences = jax.tree.map(lambda a, b: np.max(np.abs(a - b)) / max(np.max(np.abs(b)), 1e-12), ours, theirs)
    return float(max(jax.tree.leaves(differences)))


def check_and_time(seconds: float, tiny: bool, output: str) -> None:
    """Checks and times, and writes what was found; exits with a message where the check fails."""
    process.prepare()
    until, small = time.monotonic() + seconds, _SMALL if tiny else {}
    found: dict = {"devices": devices.describe(), "differences": {}, "cases": {}, "left_out": []}
    for model in NETWORKS:  # a CPU takes long over the whole CNN
        found["differences"][model] = difference_from_cpu(
            {"model": model, **({"filters": 8} if model == "cnn" else small)}
        )
    print(f"differences from the CPU: {found['differences']}", flush=True)
    names = list(step_time.TABLE3)[:1] if tiny else list(step_time.TABLE3)
    cases = {f"{name}, {mode}": step_time.CASES[name] | how | small for mode, how in MODES.items() for name in names}
    for batch in _BATCHES[:1] if tiny else _BATCHES:
        cases |= {f"K=70, batch {batch}, {mode}": how | small | {"batch_size": batch} for mode, how in MODES.items()}
    for name, settings in cases.items():
        if time.monotonic() > until:
            found["left_out"].append(name)
            continue
        case = timing.prepare(timing.configured(settings))
        a_step = float(np.median(timing.alternate({"step": case.run}, 10)["step"])) / timing.STEPS_A_CALL
        rate = case.config.schedule.batch_size / a_step
        tflops = 1e-12 * timing.step_flops(case.config) * rate
        found["cases"][name] = {"seconds": a_step, "images_per_second": rate, "tflops": tflops}
        timing.show({name: found["cases"][name]})
        timing.write(output, found)  # at once, because the machine may be taken away
    print(f"Left out for lack of time: {found['left_out']}")
    if wrong := {name: value for name, value in found["differences"].items() if not value <= _TOLERANCE}:
        sys.exit(f"Not what a CPU computes: {wrong}.")


def train_in_time(names: Iterable[str], train_one, minutes: float, at_once: int) -> None:
    """Trains networks in their order, some at once; when the time is over, those in training save themselves."""
    until, waiting, training = time.monotonic() + 60 * minutes, list(names), []
    spawn = multiprocessing.get_context("spawn")
    while (waiting or training) and time.monotonic() < until:
        training = [each for each in training if each.is_alive()]
        while waiting and len(training) < at_once:
            training.append(spawn.Process(target=train_one, args=(waiting.pop(0),)))
            training[-1].start()
        time.sleep(0.2)
    for each in training:
        each.terminate()  # at this signal a training saves itself
    for each in training:
        each.join()


def _train(folder: pathlib.Path, data_dir: str, tiny: bool, name: str) -> None:
    """Trains the network of a name, with what it prints in a file beside its folder."""
    process.prepare()
    folder.mkdir(parents=True, exist_ok=True)
    sys.stdout = (folder / f"{name}.txt").open("a", buffering=1)
    train.run([name], folder, quick=tiny, data_dir=data_dir)


def main(argv):
    # Processes of their own do the work, because a TPU serves one at a time, and a GPU's memory stays with the first.
    if flags.FLAGS.seconds:
        spawn, arguments = (
            multiprocessing.get_context("spawn"),
            (flags.FLAGS.seconds, flags.FLAGS.tiny, flags.FLAGS.output),
        )
        check = spawn.Process(target=check_and_time, args=arguments)
        check.start()
        check.join()
        if check.exitcode:
            sys.exit(check.exitcode)
    if flags.FLAGS.minutes:
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # several share a GPU
        folder = pathlib.Path(flags.FLAGS.workdir).absolute()
        train_one = functools.partial(_train, folder, flags.FLAGS.data_dir, flags.FLAGS.tiny)
        train_in_time(argv[1:], train_one, flags.FLAGS.minutes, flags.FLAGS.at_once)


if __name__ == "__main__":
    flags.DEFINE_float("seconds", 330, "Seconds for the check and the times; 0 for neither.", lower_bound=0)
    flags.DEFINE_float("minutes", 0, "Minutes for training after that.", lower_bound=0)
    flags.DEFINE_integer("at_once", 1, "Networks to train at once; a TPU trains one.", lower_bound=1)
    flags.DEFINE_string("workdir", "runs/device", "Folder of the runs.")
    flags.DEFINE_string("data_dir", "", "Folder of prepared TensorFlow Datasets. Default: their own.")
    flags.DEFINE_boolean("tiny", False, "Do everything with tiny networks, to try the benchmark itself.")
    flags.DEFINE_string("output", "benchmarks/results/device.json", "JSON file to write.")
    app.run(main)
