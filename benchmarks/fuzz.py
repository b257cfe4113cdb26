"""Gives the entry points damaged images, folders of images, command lines and runs, and counts what follows.

    python -m benchmarks.fuzz

Each must be done or refused in one line; a traceback ends the benchmark with the input that led to it. The entry points
run in this process, through ``cli.run``. Folders of images are trained on for a few steps, by a tiny network, which is
then evaluated and reported; elsewhere what the training and the evaluation would compute is left out.
"""

import argparse
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
import contextlib
import importlib
import io
import json
import os
import pathlib
import random
import shutil
import sys
import tempfile
import time
import traceback
from unittest import mock
import warnings

from absl import flags
import jax
import numpy as np
from PIL import Image

from benchmarks import timing
from lcaps_jax import cli, commands, parallel, pretrained
from lcaps_jax.training import Checkpoints, MetricLog, init_state, make_optimizer
from lcaps_jax.views import report

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_RUN = _ROOT / "tests" / "old_runs" / "lcapsnet"  # a run of two epochs, with both kinds of checkpoints
DONE, REFUSED = "done", "refused"
_VALUES = (
    "", " ", "0", "1", "-1", "2", "7", "28", "1000000", "99999999999999999999", "0.5", "1e400", "nan", "inf", "-inf",
    "true", "none", "sample", "folder", "paper", "lcapsnet", "cnn", "a,b", ",", "'quoted'", "\udcff", "ä", "*",
    "../..", "/", "~", "x" * 300, "--k=5", "%s", "{}",
)  # fmt: skip
_CLASSES, _TRAINED_ON, _TESTED_ON = ("ant", "bee", "cat"), 5, 2  # the images of each class that a folder has
_ODD_NAMES = ("$x_1$", "a,b", "n\u0303", "<b>", " ", "x" * 200, "\udcff", "%s", "-")
_TINY = [
    f"--{name}={value}"
    for name, value in {
        "dataset": "folder", "image_size": 20, "channels": 4, "capsule_types": 1, "capsule_dim": 2, "pose_dim": 2,
        "k": 3, "batch_size": 2, "epochs": 1,
    }.items()
]  # fmt: skip
# Values of these would train for long, or elsewhere.
_WITHOUT_END = {"epochs", "workdir", "data_dir"}
# What else is asked of a training, and of an evaluation.
_TRAININGS = (
    [], ["--keep_going"], ["--keep_going"], ["--keep_going", "--validation_size=3"], ["--frame=affine"],
    ["--max_rotation=20", "--flip=both"], ["--train_size=4"], ["--eval_datasets=folder,sample"], ["--max_shift=3"],
    ["--keep_going", "--model=capsnet", "--k=70"], ["--epochs=2", "--eval_every=2"],
)  # fmt: skip
_EVALUATIONS = (
    [], ["--keep_going"], ["--keep_going", "--invert"], ["--batch_size=1000000"], ["--search_angles=-10,0,10"],
    ["--checkpoint=best"], ["--eval_datasets=sample"],
)  # fmt: skip
# These would wait for other processes, look for a set in the network, or show absl's own help and tests.
_LEFT_OUT = {"distributed", "coordinator_address", "num_processes", "process_id", "dataset", "eval_datasets"}


class Stopped(Exception):
    """The entry point has come to what is left out."""


def images(folder: pathlib.Path) -> list[pathlib.Path]:
    """Valid image files in many formats and modes."""
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (24, 30, 4)).astype(np.uint8)
    turned = Image.Exif()
    turned[0x0112] = 6
    made = {
        "grey.png": (colours[..., 0], {}),
        "rgb.png": (colours[..., :3], {}),
        "rgba.png": (colours, {}),
        "deep.png": (colours[..., 0].astype(np.uint16) * 257, {}),
        "photo.jpg": (colours[..., :3], {"exif": turned}),
        "grey.jpg": (colours[..., 0], {}),
        "one.bmp": (colours[..., :3], {}),
        "one.gif": (colours[..., 0], {}),
        "one.tif": (colours[..., 0], {}),
        "packed.tif": (colours[..., :3], {"compression": "tiff_lzw"}),
        "one.webp": (colours[..., :3], {}),
        "one.ppm": (colours[..., :3], {}),
        "deep.pgm": (colours[..., 0].astype(np.uint16) * 257, {}),
        "one.ico": (colours, {}),
        "one.tga": (colours[..., :3], {}),
        "one.pcx": (colours[..., 0], {}),
        "one.jp2": (colours[..., :3], {}),
    }
    for name, (pixels, options) in made.items():
        Image.fromarray(pixels).save(folder / name, **options)
    Image.fromarray(colours[..., 0]).convert("P").save(folder / "palette.png", transparency=3)
    Image.fromarray(colours[..., 0]).convert("1").save(folder / "bits.png")
    return sorted(folder.iterdir())


def mutate(content: bytes, rng: random.Random) -> bytes:
    """Bytes with one to three kinds of damage."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(data)) if data else 0
        # Headers matter most.
        at = at % 64 if rng.random() < 0.5 else at
        kind = rng.randrange(6)
        if kind == 0:
            data[at : at + 1] = bytes([rng.randrange(256)])
        elif kind == 1:
            del data[at:]
        elif kind == 2:
            data[at:at] = rng.randbytes(rng.randint(1, 40))
        elif kind == 3:
            del data[at : at + rng.randint(1, 40)]
        elif kind == 4:
            size = rng.choice((2, 4))
            data[at : at + size] = rng.choice((0, 1, 2 ** (8 * size) - 1, 2 ** (8 * size - 1))).to_bytes(size, "big")
        else:
            for place in range(at, min(len(data), at + 8)):
                data[place] ^= 1 << rng.randrange(8)
    return bytes(data)


def called(entry_point: Callable, arguments: list[str]) -> str:
    """Runs an entry point: ``DONE``, or ``REFUSED`` where it ends with one line.

    Raises:
      AssertionError: It ends in another way.
    """
    for name in flags.FLAGS:
        flags.FLAGS[name].unparse()
    error = io.StringIO()
    try:
        with (
            mock.patch.object(sys, "argv", ["fuzz", *arguments]),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(error),
        ):
            cli.run(entry_point)
    except Stopped:
        return DONE
    except SystemExit as stop:
        if not stop.code:
            return DONE
        line = stop.code if isinstance(stop.code, str) else error.getvalue().split("\nPass --help")[0]
        if line.startswith("Error: ") and "\n" not in line.strip():
            return REFUSED
        if isinstance(stop.code, int) and "Traceback" not in line:
            return REFUSED
        raise AssertionError(f"{arguments} ended with {stop.code!r} and {error.getvalue()!r}") from stop
    except Exception as fault:
        raise AssertionError(f"{arguments} ended in a traceback:\n{traceback.format_exc()}") from fault
    return DONE


def image_files(count: int, rng: random.Random, entry_point: Callable, place: pathlib.Path) -> Counter:
    """Damaged image files, through ``eval.py --images`` one by one."""
    (place / "valid").mkdir()
    valid = images(place / "valid")
    outcomes: Counter = Counter()
    loaded = pretrained.load("whole")
    with mock.patch.object(pretrained, "load", lambda *arguments: loaded):  # once is enough
        for _ in range(count):
            source = rng.choice(valid)
            path = place / f"mutated{source.suffix}"
            path.write_bytes(mutate(source.read_bytes(), rng))
            outcomes[called(entry_point, ["--workdir=whole", f"--images={path}", "--format=json"])] += 1
    return outcomes


def _argument(rng: random.Random, names: Sequence[str], values: Sequence[str] = _VALUES) -> str:
    """A flag with a value of any kind, or with its default, sometimes misspelt."""
    name = rng.choice(names)
    default = flags.FLAGS[name].default_unparsed
    value = default if default is not None and rng.random() < 0.5 else rng.choice(values)
    argument = f"--{name}={value}"
    if rng.random() < 0.3:
        at = rng.randrange(len(argument))
        argument = argument[:at] + rng.choice(("", "=", "-", " ", "é", argument[at])) + argument[at + 1 :]
    return argument


def flag_lines(count: int, rng: random.Random, entry_point: Callable, names: list[str], given: list[str]) -> Counter:
    """Mutated command lines, half of them in a flagfile."""
    outcomes: Counter = Counter()
    for _ in range(count):
        line = [*given, *(_argument(rng, names) for _ in range(rng.randint(1, 3)))]
        if rng.random() < 0.5:
            content = "\n".join(line).encode(errors="surrogateescape")
            pathlib.Path("fuzz.flags").write_bytes(mutate(content, rng) if rng.random() < 0.3 else content)
            line = ["--flagfile=fuzz.flags"]
        outcomes[called(entry_point, line)] += 1
    return outcomes


def damage(run: pathlib.Path, rng: random.Random) -> None:
    """Damages one file of a run."""
    path = rng.choice(sorted(path for path in run.rglob("*") if path.is_file()))
    if rng.random() < 0.5:
        path = run / rng.choice(("config.json", "results.json", "metrics.jsonl"))
    kind = rng.randrange(5)
    if kind == 0:
        path.unlink()
    elif kind == 1:
        path.write_bytes(b"")
    elif kind == 2:
        path.unlink()
        path.mkdir()
    elif kind == 3 and path.suffix == ".json" and isinstance(content := json.loads(path.read_text()), dict):
        inside = rng.choice([content, *(value for value in content.values() if isinstance(value, dict))])
        if inside:
            inside[rng.choice(list(inside))] = rng.choice((None, "", -1, 0, 1.5, "x", [], {}, [1], True, 10**30))
        path.write_text(json.dumps(content))
    else:
        path.write_bytes(mutate(path.read_bytes(), rng))


def run_folders(count: int, rng: random.Random, entry_point: Callable, given: list[str]) -> Counter:
    """Damaged copies of a run, each through an entry point."""
    outcomes: Counter = Counter()
    for _ in range(count):
        shutil.rmtree("run", ignore_errors=True)
        shutil.copytree(_RUN, "run")
        damage(pathlib.Path("run"), rng)
        outcomes[called(entry_point, ["--workdir=run", *given])] += 1
    return outcomes


def image_folder(place: pathlib.Path, valid: Sequence[pathlib.Path], rng: random.Random) -> None:
    """Makes a folder of images of three classes, some of them damaged, and sometimes damages its structure too."""
    share = rng.choice((0, 0, 0.1, 0.4))  # of its files that are damaged
    for part, count in (("train", _TRAINED_ON), ("test", _TESTED_ON)):
        for name in _CLASSES:
            (place / part / name).mkdir(parents=True)
            for number in range(count):
                source = rng.choice(valid)
                content = source.read_bytes()
                content = mutate(content, rng) if rng.random() < share else content
                (place / part / name / f"{number}{source.suffix}").write_bytes(content)
    if rng.random() < 0.5:
        _disorder(place, rng)


def _disorder(place: pathlib.Path, rng: random.Random) -> None:
    """Changes one thing in the structure of a folder of images."""
    part, name = place / rng.choice(("train", "test")), rng.choice(_CLASSES)
    odd = rng.choice(_ODD_NAMES)
    kind = rng.randrange(8)
    if kind == 0:
        shutil.rmtree(part)
    elif kind == 1:
        (part / odd).mkdir()
    elif kind == 2:
        shutil.rmtree(part / name)
        (part / name).touch()
    elif kind == 3:
        (part / name / odd).mkdir()
    elif kind == 4:
        (part / name / "link.png").symlink_to(rng.choice(("link.png", "nowhere", "..")))
    elif kind == 5:
        for each in ("train", "test"):
            (place / each / name).rename(place / each / odd)
    elif kind == 6:
        shutil.copytree(part, place / "val")
    else:
        shutil.rmtree(part / name)


def trainings(count: int, rng: random.Random, entry_point: Callable, names: Sequence[str]) -> Counter:
    """Trains on folders of images, ``set0`` and so on, in the runs ``trained0`` and so on; some have a mutated flag."""
    names = sorted(set(names) - _WITHOUT_END)
    small = [value for value in _VALUES if not value.isdigit() or int(value) <= 28]
    outcomes: Counter = Counter()
    pathlib.Path("valid_images").mkdir()
    valid = images(pathlib.Path("valid_images"))
    for number in range(count):
        image_folder(pathlib.Path(f"set{number}"), valid, rng)
        line = [f"--workdir=trained{number}", f"--data_dir=set{number}", *_TINY, *rng.choice(_TRAININGS)]
        if rng.random() < 0.3:
            line.append(_argument(rng, names, small))
        outcomes[called(entry_point, line)] += 1
    return outcomes


def evaluations(count: int, rng: random.Random, entry_point: Callable) -> Counter:
    """Evaluates the runs that ``trainings`` made on their own and on other folders, and writes a page about each."""
    outcomes: Counter = Counter()
    runs = [path.parent for path in sorted(pathlib.Path().glob("trained*/results.json"))]
    for run in runs:
        other = f"set{rng.randrange(count)}"
        lines = (
            rng.choice(_EVALUATIONS),
            [*rng.choice(_EVALUATIONS), f"--data_dir={other}"],
            ["--report=report.html"],
            ["--report=report.html", f"--data_dir={other}"],
        )
        for line in lines:
            outcomes[called(entry_point, [f"--workdir={run}", *line])] += 1
    return outcomes


def _not_trained(config, network, train_split, validation, tests, workdir, on_epoch) -> None:
    """Stands for ``training.fit``: the network is built, its checkpoint and log are read, and nothing is trained."""
    del validation, tests, on_epoch
    state = jax.eval_shape(lambda: init_state(network, make_optimizer(config), config, train_split.channels))
    with contextlib.closing(Checkpoints(workdir)) as checkpoints:
        checkpoints.restore(parallel.like_replicated(state))
    MetricLog(workdir, 20, 30).close()
    raise Stopped


def _not_computed(*arguments, **options) -> None:
    """Stands for what eval.py computes of whole test sets."""
    del arguments, options
    raise Stopped


def _names() -> list[str]:
    """The flags of the entry point that is imported, without those of absl."""
    own = ("eval", "train", "lcaps_jax.config", "lcaps_jax.cli")
    by_module = flags.FLAGS.flags_by_module_dict()
    return sorted({flag.name for module in own for flag in by_module.get(module, ())} - _LEFT_OUT)


@contextlib.contextmanager
def _entry_point(name: str) -> Iterator[Callable]:
    """Imports ``train`` or ``eval``, and takes it out again with its flags, which the other one defines too."""
    before = set(flags.FLAGS)
    try:
        yield importlib.import_module(name).main
    finally:
        for flag in set(flags.FLAGS) - before:
            delattr(flags.FLAGS, flag)
        sys.modules.pop(name, None)


@contextlib.contextmanager
def _inside(place: pathlib.Path):
    """Works in a folder, as somebody would who types paths."""
    before = pathlib.Path.cwd()
    os.chdir(place)
    try:
        yield
    finally:
        os.chdir(before)


def fuzz(images_: int, lines: int, folders: int, trained: int, seed: int) -> dict[str, dict[str, int]]:
    """What becomes of so many inputs of each kind: how many are done, and how many are refused in one line.

    Args:
      images_: Damaged image files.
      lines: Mutated command lines.
      folders: Damaged run folders.
      trained: Folders of images to train on.
      seed: Seed of the damage.

    Raises:
      AssertionError: An entry point ended in another way.
    """
    rng, rng_of_sets = random.Random(seed), random.Random(seed)
    kinds = ("image files", "flag lines", "run folders", "trainings", "evaluations and reports")
    totals: dict[str, Counter] = {kind: Counter() for kind in kinds}
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # Pillow's, of what it makes of damaged files
        stack.enter_context(_inside(pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))))
        stack.enter_context(mock.patch.object(sys, "path", [str(_ROOT), *sys.path]))
        shutil.copytree(_RUN, "whole")
        Image.new("L", (28, 28), 9).save("digit.png")
        with _entry_point("train") as training:
            totals["trainings"] += trainings(trained, rng_of_sets, training, _names())
        with _entry_point("eval") as evaluation:
            totals["evaluations and reports"] += evaluations(trained, rng_of_sets, evaluation)
            totals["image files"] += image_files(images_, rng, evaluation, pathlib.Path.cwd())
            totals["run folders"] += run_folders(folders // 2, rng, evaluation, ["--images=digit.png", "--format=csv"])
            with (
                mock.patch.object(commands, "evaluate_run", _not_computed),
                mock.patch.object(report, "write", _not_computed),
            ):
                totals["flag lines"] += flag_lines(lines // 2, rng, evaluation, _names(), ["--workdir=whole"])
        with _entry_point("train") as training, mock.patch.object(commands, "fit", _not_trained):
            totals["flag lines"] += flag_lines(lines - lines // 2, rng, training, _names(), ["--workdir=new"])
            totals["run folders"] += run_folders(folders - folders // 2, rng, training, _CONTINUES)
    return {kind: {DONE: 0, REFUSED: 0, **outcomes} for kind, outcomes in totals.items()}


# The settings of the run, with one more epoch.
_CONTINUES = [
    f"--{name}={value}"
    for name, value in json.loads((_RUN / "config.json").read_text())["settings"].items()
    if value is not None and not isinstance(value, list | bool) and name != "epochs"
] + ["--epochs=3"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=2000, help="Damaged image files.")
    parser.add_argument("--lines", type=int, default=200, help="Mutated command lines.")
    parser.add_argument("--folders", type=int, default=100, help="Damaged run folders.")
    parser.add_argument("--trainings", type=int, default=40, help="Folders of images to train on.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the damage.")
    parser.add_argument("--output", default="benchmarks/results/fuzz.json", help="JSON file to write.")
    given = parser.parse_args()
    began = time.monotonic()
    counts = fuzz(given.images, given.lines, given.folders, given.trainings, given.seed)
    seconds = time.monotonic() - began
    rows = [(kind, sum(outcomes.values()), outcomes[DONE], outcomes[REFUSED], 0) for kind, outcomes in counts.items()]
    print(timing.table(("input", "tried", "done", "refused in one line", "tracebacks"), rows))
    timing.write(given.output, {**counts, "seed": given.seed, "seconds": seconds})


if __name__ == "__main__":
    main()
