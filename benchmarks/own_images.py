"""Trains the networks on small sets of images by the README's recipe, and tells how often each of them errs.

    python -m benchmarks.own_images --copies=FOLDER

The sets are those of ``own_sets``: what they need is in ``benchmarks/requirements.txt``, and ``FOLDER`` holds copies of
two public repositories, which are left out where they are missing. Each training is one call of ``train.py`` with the
recipe's flags, and one or two more for another network. Every finished training is written at once, and those that
stand in the file are not done again.
"""

import json
import pathlib
import subprocess
import sys
import tempfile
import time

from absl import app, flags
import numpy as np

from benchmarks import own_sets, timing
from lcaps_jax import runs
from lcaps_jax.training import read_metrics

NETWORKS = {
    "ladder": (),
    "ladder in its frame": ("--frame=affine",),
    "ladder in its frame, by distance": ("--frame=affine", "--ground=distance"),
    "CapsNet": ("--model=capsnet",),
    "CapsNet in its frame": ("--model=capsnet", "--frame=affine"),
    "CNN": ("--model=cnn",),
    "CNN in its frame": ("--model=cnn", "--frame=affine"),
}
_SIZES = (10, 30, 100, 300)
_LAST_STEPS = 100  # over which the training error is a mean

_SETS = flags.DEFINE_multi_enum("sets", list(own_sets.SETS), list(own_sets.SETS), "Sets to train on.")
_SIZE = flags.DEFINE_multi_integer("per_class", _SIZES, "Training images of each class.", lower_bound=1)
_NETWORKS = flags.DEFINE_multi_enum("networks", list(NETWORKS), list(NETWORKS), "Networks to train.")
_SEEDS = flags.DEFINE_multi_integer("seeds", [0], "Seeds of the trainings and of the sets.", lower_bound=0)
_COPIES = flags.DEFINE_string("copies", ".", "Folder of the copies of public repositories.")
_OUTPUT = flags.DEFINE_string("output", "benchmarks/results/own_images.json", "JSON file that grows.")

_ROOT = pathlib.Path(__file__).resolve().parents[1]


def trained(folder: pathlib.Path, network: str, seed: int) -> dict:
    """Trains a network on a folder of images in a run of its own, which is removed again.

    Args:
      folder: Folder of ``train/CLASS/FILE`` and ``test/CLASS/FILE``.
      network: Name in ``NETWORKS``.
      seed: Seed of the training.

    Returns:
      Test error and the error of the last training steps, in percent; images, steps and minutes.
    """
    with tempfile.TemporaryDirectory() as place:
        workdir = pathlib.Path(place) / "run"
        recipe = [f"--workdir={workdir}", "--dataset=folder", f"--data_dir={folder}", "--image_size=32"]
        command = [sys.executable, "train.py", *recipe, *NETWORKS[network], *([f"--seed={seed}"] if seed else [])]
        began = time.monotonic()
        subprocess.run(command, cwd=_ROOT, check=True, stdout=subprocess.DEVNULL)
        minutes = (time.monotonic() - began) / 60
        (result,) = runs.read_results(workdir).values()
        log = [line for line in read_metrics(workdir) if line["split"] == "train"]
        last = [line["error"] for line in log if line["step"] > log[-1]["step"] - _LAST_STEPS]
    return {
        "error": result["error"],
        "count": result["count"],
        "train_error": float(np.mean(last)),
        "steps": result["step"],
        "minutes": round(minutes, 2),
    }


def table(trainings: list[dict]) -> str:
    """Errors by set and number of images, one column a network, means over the seeds, as Markdown."""
    networks = [name for name in NETWORKS if any(line["network"] == name for line in trainings)]
    rows = []
    for set_ in own_sets.SETS:
        for size in sorted({line["per_class"] for line in trainings if line["set"] == set_}):
            here = [line for line in trainings if (line["set"], line["per_class"]) == (set_, size)]
            errors = [[line["error"] for line in here if line["network"] == name] for name in networks]
            chance = 100 - 100 / here[0]["classes"]
            rows.append((set_, size, f"{chance:.0f}", *(f"{np.mean(each):.1f}" if each else "" for each in errors)))
    return timing.table(("set", "images a class", "chance, %", *(f"{name}, %" for name in networks)), rows)


def main(argv):
    del argv
    output = pathlib.Path(_OUTPUT.value)
    trainings = json.loads(output.read_text())["trainings"] if output.exists() else []
    keys = ("set", "per_class", "network", "seed")
    done = {tuple(line[key] for key in keys) for line in trainings}
    for set_ in _SETS.value:
        for size in _SIZE.value:
            for seed in _SEEDS.value:
                wanted = [name for name in _NETWORKS.value if (set_, size, name, seed) not in done]
                with tempfile.TemporaryDirectory() as place:
                    folder = pathlib.Path(place)
                    try:
                        classes = wanted and own_sets.write(set_, folder, size, seed, pathlib.Path(_COPIES.value))
                    except own_sets.MissingSetError as error:
                        print(f"{set_} is left out. {error}")
                        break
                    for name in wanted if classes else ():
                        line = {**dict(zip(keys, (set_, size, name, seed))), "classes": classes}
                        line |= trained(folder, name, seed)
                        trainings.append(line)
                        timing.write(output, {"trainings": trainings})
                        print(f"{set_}, {size} a class, {name}: {line['error']:.1f} %, {line['minutes']:.1f} minutes")
    print(table(trainings))


if __name__ == "__main__":
    app.run(main)
