"""Checks, times and trains on the accelerator at hand: one command for a machine that is lent for minutes.

    python -m benchmarks.device                                       # checks and times, in less than six minutes
    python -m benchmarks.device --minutes=60 --data_dir=DIR           # and then trains the paper's networks for an hour

The checks compare outputs and gradients of the three networks with those of the CPU beside the accelerator, train the
network of the quickstart at once and in two parts, of which the second continues the first, and hold both against each
other, and the error against what it reaches on a CPU. The benchmark fails where a check does. Times are those of the
training step of ``train.py``, of all cases of the paper's Table 3, with float32 products in the highest precision and
in the lowest (TensorFloat-32 on a GPU, one bfloat16 pass on a TPU) and in bfloat16, and by the size of the batch.
Beside them stand the rates of a large matrix product and of a copy, and on a GPU the convolution by its methods. What
does not fit in ``--seconds`` is left out and named.

Then runs are trained as ``train.py`` trains them: the cells of Table 2, what ``docs/open_questions.md`` asks for,
and further seeds of these and of the ablations. ``--only=FOLDER`` trains some of them, in the order given, and the same
command continues them. A GPU trains several at once (``--at_once``), so that one is trained while others are
compiled, evaluated or saved. ``python -m experiments table2 questions ablations --notrain --workdir=WORKDIR`` prints
their tables. ``--tiny`` tries all of this with a tiny network, on a CPU too.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import functools
import json
import multiprocessing
import multiprocessing.queues
import os
import pathlib
import sys
import tempfile
import time
import traceback
from typing import Any

from absl import app, flags, logging
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import gpu_compile, step_time, steps, timing
from experiments import ablations
from experiments.cells import CELLS
from experiments.plan import Plan
from lcaps_jax import commands, config, data, networks, parallel, runs, runtime, training
from lcaps_jax.config import Config
from lcaps_jax.convolution import DIRECT, POLYPHASE, strided_conv
from lcaps_jax.precision import DEFAULT, HIGHEST, MATMUL_PRECISIONS

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_TINY_NETWORK = {"channels": 8, "capsule_types": 2, "k": 6, "capsule_dim": 4, "pose_dim": 4}
MODES = {
    "float32": {},
    "fast float32": {"matmul_precision": DEFAULT},
    "bfloat16": {"precision": "bfloat16"},
}
_BATCHES = (32, 100, 256, 512, 1024, 2048)
_TURNS = 10  # of five steps
_RATE_SIZE = 8192  # rows of the matrices whose product and copy are timed
# The largest difference of an output or a gradient from the CPU's, by the largest number in it.
_TOLERANCE = 1e-3
# The largest change of the training loss by a pause. A CPU computes the same bits again. Others may add in another
# order, which a training magnifies: an H200 changed it by 0.04.
_RESUMED = 0.15
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


def train_at_once_and_in_two_parts(workdir: pathlib.Path, tiny: bool) -> dict:
    """Trains the quickstart's network without a pause, and for an epoch and then to its end, as two commands would.

    Returns:
      Errors of both in percent; seconds of the second; and by how much the mean loss after the pause differs from that
      of the same steps without one, as a share of it.
    """
    settings = config.from_flagfile(_ROOT / "configs" / "quickstart.flags")
    changes = {**_TINY_NETWORK, "learning_rate": 3e-3, "epochs": 2} if tiny else {}
    whole = dataclasses.replace(settings, batch_size=parallel.round_up(settings.batch_size), **changes)
    commands.train(whole, workdir / "at_once")
    began = time.perf_counter()
    for epochs in (1, whole.epochs):
        commands.train(dataclasses.replace(whole, epochs=epochs), workdir / "in_parts")
    seconds = time.perf_counter() - began
    losses, errors = {}, {}
    for name in ("at_once", "in_parts"):
        lines = [line for line in training.read_metrics(workdir / name) if line["split"] == "train"]
        losses[name] = {line["step"]: line["loss"] for line in lines if line["epoch"] > 1}
        errors[name] = runs.read_results(workdir / name)["sample"]["error"]
        assert len({line["step"] for line in lines}) == len(lines), f"the log of the training {name} repeats steps"
    assert losses["at_once"].keys() == losses["in_parts"].keys(), "the log of a run that was continued lacks steps"
    without, with_pause = (float(np.mean(list(losses[name].values()))) for name in ("at_once", "in_parts"))
    return {
        "error": errors["at_once"],
        "error_in_parts": errors["in_parts"],
        "changed_by_pause": abs(with_pause - without) / without,
        "seconds": seconds,
    }


def rates(size: int = _RATE_SIZE) -> dict[str, float]:
    """What the accelerator reaches in large, plain work: TFLOP/s of products by mode, and GB/s read and written."""
    numbers = jax.random.normal(jax.random.key(0), (size, size))
    found = {}
    for mode, (type_, precision) in {
        "float32": (jnp.float32, HIGHEST),
        "fast float32": (jnp.float32, DEFAULT),
        "bfloat16": (jnp.bfloat16, DEFAULT),
    }.items():
        product = jax.jit(lambda a, precision=precision: jnp.dot(a, a, precision=precision))
        found[f"{mode} product, TFLOP/s"] = 2e-12 * size**3 / _seconds(product, numbers.astype(type_))
    found["copy, GB/s"] = 2e-9 * numbers.nbytes / _seconds(jax.jit(lambda a: -a), numbers)
    return found


def _seconds(function: Callable[[jax.Array], Any], array: jax.Array, calls: int = 10) -> float:
    """Seconds of a call, the best of three rows of calls."""
    jax.block_until_ready(function(array))
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        for _ in range(calls):
            result = function(array)
        jax.block_until_ready(result)
        seconds.append(time.perf_counter() - began)
    return min(seconds) / calls


def time_convolutions(tiny: bool) -> dict[str, dict[str, float]]:
    """Milliseconds of the primary capsules' convolution with both gradients, in fast float32, by method."""
    found = {}
    batch, channels = (parallel.round_up(10), 16) if tiny else (100, 256)
    for name, (size, kernel) in gpu_compile.GEOMETRIES.items():
        x = jax.random.normal(jax.random.key(0), (batch, size, size, channels))
        weights = jax.random.normal(jax.random.key(1), (kernel, kernel, channels, channels)) / kernel**2
        found[name] = {}
        for method in (DIRECT, POLYPHASE):

            @jax.jit
            def both_gradients(x, weights, method=method):
                with jax.default_matmul_precision(DEFAULT):
                    y, pull = jax.vjp(lambda x, w: strided_conv(x, w, stride=2, method=method), x, weights)
                    return pull(y)

            found[name][method] = 1e3 * _seconds(functools.partial(both_gradients, weights=weights), x)
    return found


def time_all(until: float, tiny: bool) -> Iterator[tuple[str, dict | None]]:
    """Times cases until a moment of ``time.monotonic``: each name with its results, or None where it was left out."""
    changes = {**_TINY_NETWORK, "batch_size": parallel.round_up(10)} if tiny else {}
    # Two networks first, so that little time shows something of both.
    names = [*list(step_time.TABLE3)[1::2], *list(step_time.TABLE3)[::2]]
    names, batches = (names[:1], _BATCHES[:1]) if tiny else (names, _BATCHES)
    cases = {f"{name}, {mode}": step_time.CASES[name] | how | changes for name in names for mode, how in MODES.items()}
    for batch in batches:
        for mode, how in MODES.items():
            cases[f"K=70, batch {batch}, {mode}"] = how | changes | {"batch_size": parallel.round_up(batch)}
    for name, settings in cases.items():
        config = Config(**settings)
        yield name, _time(config.resolved(config.image_size or 28, 0)) if time.monotonic() < until else None


def _time(config: Config) -> dict:
    """Times a case: seconds of a step, images a second, its arithmetic, and seconds of its compilation."""
    case = steps.prepare(config)
    seconds = timing.alternate({"step": case.run}, _TURNS)["step"] / steps.STEPS_A_CALL
    median = float(np.median(seconds))
    return {
        "seconds": median,
        "images_per_second": config.batch_size / median,
        "tflops": 1e-12 * steps.step_flops(config) * config.batch_size / median,
        "compile_seconds": case.compile_seconds,
    }


def planned(plan: Plan) -> dict[pathlib.Path, Config]:
    """Runs by their folders, in the order of training: Table 2, the open questions, and then further seeds."""
    planned_runs = {}
    for seed in range(ablations.SEEDS):
        planned_runs |= {plan.folder(cell, seed): plan.settings(cell, seed) for cell in CELLS}
        for name, settings in ablations.settings(plan, seed).items():
            if seed or ablations.ABLATIONS[name].asked:  # the others have had their first seed on a CPU
                planned_runs[ablations.folder(plan, name, seed)] = settings
    return planned_runs


Train = Callable[[Config, pathlib.Path], None]


def train_runs(wanted: Mapping[pathlib.Path, Config], minutes: float, at_once: int, train: Train) -> None:
    """Trains runs in their order until the minutes are over, each in its folder and some of them at once.

    Those that are in training then save themselves and stop; the same command goes on with them.

    Args:
      wanted: Settings of the runs, by their folders.
      minutes: Minutes to train.
      at_once: Number of runs that are trained at once, each in a process of its own.
      train: Trains one; such as ``train_one``. It must be pickled.
    """
    spawn = multiprocessing.get_context("spawn")
    waiting = spawn.Queue()  # whose thread writes, because a pipe does not hold all runs
    processes = [spawn.Process(target=_train_waiting, args=(train, waiting)) for _ in range(min(at_once, len(wanted)))]
    until = time.monotonic() + 60 * minutes
    for process in processes:
        process.start()
    for run in [*wanted.items(), *(None for _ in processes)]:
        waiting.put(run)
    waiting.cancel_join_thread()  # because nobody reads the runs that are not begun
    for process in processes:
        process.join(max(0, until - time.monotonic()))
    if any(process.is_alive() for process in processes):
        print("The time for training is over.", flush=True)
    for process in processes:
        process.terminate()  # at this signal a training saves itself
    for process in processes:
        process.join()


def _train_waiting(train: Train, waiting: multiprocessing.queues.Queue) -> None:
    """Trains one run after the other of those that wait."""
    runtime.prepare()
    while run := waiting.get():
        folder, settings = run
        try:
            train(settings, folder)
        except training.Stopped as stopped:
            print(f"{folder.name}: {stopped}", flush=True)
            return
        except Exception:  # the other runs still have their time
            traceback.print_exc()
            print(f"{folder.name}: failed", flush=True)


def train_one(plan: Plan, tiny: bool, matmul_precision: str, settings: Config, folder: pathlib.Path) -> None:
    """Trains a run of a plan in its folder, to its end. What training prints goes to a file beside the folder."""
    settings = _as_here(settings, tiny, matmul_precision)
    began = time.monotonic()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".txt").open("a") as printed, contextlib.redirect_stdout(printed):
        finished = plan.finish(settings, folder)
    if finished:
        errors = ", ".join(f"{result['error']:.2f} % {name}" for name, result in runs.read_results(folder).items())
        print(f"{folder.name}: {errors}, after {time.monotonic() - began:.0f} s", flush=True)


def _as_here(settings: Config, tiny: bool, matmul_precision: str) -> Config:
    """Settings of a run, with a batch that divides among the devices, or with a tiny network."""
    changes: dict = {
        "batch_size": parallel.round_up(settings.batch_size),
        "matmul_precision": matmul_precision,
        "eval_every": 1,  # which takes a second, and shows where an error no longer falls
    }
    if tiny:
        kernels = {"conv1_kernel": 9, "primary_kernel": 9}
        few = {"dataset": "sample", "data_dir": None, "eval_datasets": None, "train_size": 500, "epochs": 1}
        changes |= {**_TINY_NETWORK, **kernels, **few}
    return dataclasses.replace(settings, **changes)


def _named(wanted: Mapping[pathlib.Path, Config], names: Sequence[str] | None) -> dict[pathlib.Path, Config]:
    """The runs of some names, in their order; all of them for None."""
    folders = {folder.name: folder for folder in wanted}
    if unknown := [name for name in names or () if name not in folders]:
        sys.exit(f"--only={unknown[0]}: there is no such run; there are {', '.join(folders)}.")
    return {folders[name]: wanted[folders[name]] for name in names or folders}


def check_and_time(seconds: float, tiny: bool, output: str) -> None:
    """Checks and times, and writes what was found; exits with a message where a check fails."""
    runtime.prepare()
    began = time.monotonic()
    print(parallel.describe(), flush=True)
    metrics: dict = {"devices": parallel.describe(), "cases": {}, "left_out": []}

    def note(**found) -> None:  # at once, because the machine may be taken away
        metrics.update(found, minutes=(time.monotonic() - began) / 60)
        timing.write(output, metrics)

    note(rates=rates(*([256] if tiny else [])))
    print(f"rates: {json.dumps(metrics['rates'])}", flush=True)
    note(differences=differences_from_cpu(tiny))
    print(f"differences from the CPU: {json.dumps(metrics['differences'])}", flush=True)
    with tempfile.TemporaryDirectory() as folder:  # because a quickstart of an earlier call would be finished
        note(quickstart=train_at_once_and_in_two_parts(pathlib.Path(folder), tiny))
    print(f"quickstart: {json.dumps(metrics['quickstart'])}", flush=True)
    if jax.default_backend() == "gpu" or tiny:  # a TPU's compiler takes long over them
        note(**{"convolutions, ms": time_convolutions(tiny)})
        print(f"convolutions, ms: {json.dumps(metrics['convolutions, ms'])}", flush=True)
    for name, case in time_all(began + seconds, tiny):
        if case is None:
            metrics["left_out"].append(name)
        else:
            metrics["cases"][name] = case
            print(f"{name}: {1e3 * case['seconds']:.2f} ms, {case['images_per_second']:.0f} images/s", flush=True)
        note()
    _show(metrics["cases"], metrics["left_out"])
    if wrong := _wrong(metrics, tiny):
        sys.exit(f"Not what a CPU computes: {'; '.join(wrong)}.")


def main() -> None:
    """The command line."""
    seconds = flags.DEFINE_float("seconds", 330, "Seconds for the checks and the times; 0 for neither.", lower_bound=0)
    minutes = flags.DEFINE_float("minutes", 0, "Minutes for training runs after that.", lower_bound=0)
    only = flags.DEFINE_multi_string("only", None, "Folder of a run to train; may be repeated. Default: all of them.")
    at_once = flags.DEFINE_integer(
        "at_once", 1, "Runs to train at once. A TPU trains one, a GPU with enough memory several.", lower_bound=1
    )
    precision = flags.DEFINE_enum(
        "matmul_precision", HIGHEST, MATMUL_PRECISIONS, "Precision of float32 products in the runs that are trained."
    )
    workdir = flags.DEFINE_string("workdir", "runs/device", "Folder of the runs.")
    data_dir = flags.DEFINE_string("data_dir", None, "Folder of prepared TensorFlow Datasets; default: their own.")
    tiny = flags.DEFINE_boolean("tiny", False, "Do everything with a tiny network, to try the benchmark itself.")
    output = flags.DEFINE_string("output", "benchmarks/results/device.json", "JSON file to write.")

    def parsed(argv):
        del argv
        logging.set_verbosity(logging.ERROR)  # because Orbax tells every step of its own
        plan = Plan(pathlib.Path(workdir.value).absolute(), quick=False, data_dir=data_dir.value)
        wanted = _named(planned(plan), only.value)
        # Processes of their own do the work, because a TPU serves one at a time, and because a GPU's memory stays with
        # the one that has taken it.
        if at_once.value > 1:
            os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        if seconds.value:
            arguments = (seconds.value, tiny.value, output.value)
            checks = multiprocessing.get_context("spawn").Process(target=check_and_time, args=arguments)
            checks.start()
            checks.join()
            if checks.exitcode:
                sys.exit(checks.exitcode)
        if minutes.value:
            train = functools.partial(train_one, plan, tiny.value, precision.value)
            train_runs(wanted, minutes.value, at_once.value, train)
            timing.write(output.value, trained(plan, wanted, tiny.value, precision.value), "runs")

    app.run(parsed)


def trained(plan: Plan, wanted: Mapping[pathlib.Path, Config], tiny: bool, matmul_precision: str) -> dict[str, dict]:
    """Errors of the runs that are finished, in percent, by their folders' names."""
    return {
        folder.name: {name: result["error"] for name, result in runs.read_results(folder).items()}
        for folder, settings in wanted.items()
        if plan.is_finished(_as_here(settings, tiny, matmul_precision), folder)
    }


def _show(results: Mapping[str, Mapping], left_out: Sequence[str]) -> None:
    """Prints the times."""
    rows = [
        (
            name,
            f"{1e3 * case['seconds']:.2f}",
            f"{case['images_per_second']:.0f}",
            f"{case['tflops']:.1f}",
            f"{case['compile_seconds']:.1f}",
        )
        for name, case in results.items()
    ]
    print(timing.table(("case", "ms a step", "images/s", "TFLOP/s", "compile, s"), rows))
    if left_out:
        print(f"Left out for lack of time: {'; '.join(left_out)}.")


def _wrong(metrics: Mapping, tiny: bool) -> list[str]:
    """What the checks have found to be wrong, in words."""
    quickstart, on_cpu = metrics["quickstart"], jax.default_backend() == "cpu"
    checks = {f"{name} differs by": (value, _TOLERANCE) for name, value in metrics["differences"].items()} | {
        "a continuation changes the loss by": (quickstart["changed_by_pause"], 0 if on_cpu else _RESUMED),
        "the quickstart ends with an error of": (quickstart["error"], _TINY_MOST_ERROR if tiny else _MOST_ERROR),
    }
    return [f"{what} {value:g}, more than {most:g}" for what, (value, most) in checks.items() if not value <= most]


if __name__ == "__main__":
    main()
