"""Trains the networks on few images of a set by the README's recipe, and prints the test error of each.

    python -m benchmarks.own_images                                # on drawn shapes
    python -m benchmarks.own_images --images=FOLDER --set=flowers  # FOLDER/train/CLASS/FILE and FOLDER/test/CLASS/FILE

Each training is one call of ``train.py`` with the recipe's flags, and one or two more for another network. Every
finished training is written at once, and those that stand in the file are not repeated.
"""

import json
import math
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

from absl import app, flags
import numpy as np
from PIL import Image, ImageDraw

from benchmarks import timing
from lcaps_jax.train.log import read_metrics
from lcaps_jax.train.workdir import read_results

NETWORKS = {
    "ladder": (),
    "ladder in its frame": ("--frame=affine",),
    "ladder in its frame, by distance": ("--frame=affine", "--background=distance"),
    "CapsNet": ("--model=capsnet",),
    "CapsNet in its frame": ("--model=capsnet", "--frame=affine"),
    "CNN": ("--model=cnn",),
    "CNN in its frame": ("--model=cnn", "--frame=affine"),
}
SHAPES = "shapes"
_LAST_STEPS = 100  # over which the training error is a mean
_ROOT = pathlib.Path(__file__).resolve().parents[1]

_IMAGES = flags.DEFINE_string("images", None, "Folder of images. Default: drawn shapes.")
_SET = flags.DEFINE_string("set", SHAPES, "Name of the set in the table.")
_SIZES = flags.DEFINE_multi_integer("per_class", [10, 30, 100, 300], "Training images of each class.", lower_bound=1)
_NETWORKS = flags.DEFINE_multi_enum("networks", list(NETWORKS), list(NETWORKS), "Networks to train.")
_SEEDS = flags.DEFINE_multi_integer("seeds", [0], "Seeds of the trainings and of the images.", lower_bound=0)
_OUTPUT = flags.DEFINE_string("output", "benchmarks/results/own_images.json", "JSON file that grows.")


def choose(images: pathlib.Path, folder: pathlib.Path, per_class: int, seed: int = 0) -> int:
    """Copies so many training images of each class and all test images, and returns the number of classes."""
    shutil.copytree(images / "test", folder / "test")
    classes = sorted(path for path in (images / "train").iterdir() if path.is_dir())
    for place in classes:
        files = sorted(place.iterdir())
        (folder / "train" / place.name).mkdir(parents=True)
        for number in np.random.default_rng(seed).permutation(len(files))[:per_class]:
            shutil.copy(files[number], folder / "train" / place.name)
    return len(classes)


def draw_shapes(folder: pathlib.Path, per_class: int, seed: int = 0, tests: int = 100) -> int:
    """Draws turned circles, squares and triangles in two colours, and returns the number of classes."""
    corners = {"circle": 90, "square": 4, "triangle": 3}
    for number, (name, count) in enumerate(corners.items()):
        for part, images in (("train", per_class), ("test", tests)):
            (folder / part / name).mkdir(parents=True)
            for i in range(images):
                rng = np.random.default_rng([seed, number, part == "test", i])
                _shape(rng, count).save(folder / part / name / f"{i:03}.{'jpg' if i % 2 else 'png'}", quality=90)
    return len(corners)


def _shape(rng: np.random.Generator, corners: int) -> Image.Image:
    width, height = (int(side) for side in rng.integers(40, 121, 2))
    background, ink = rng.integers(0, 256, (2, 3))
    while np.abs(background - ink).sum() < 150:
        ink = rng.integers(0, 256, 3)
    radius = rng.uniform(0.2, 0.45) * min(width, height)
    x, y = (rng.uniform(radius, side - radius) for side in (width, height))
    angle, scale = rng.uniform(0, 2 * math.pi), 2  # drawn larger, so that its edge is smooth
    image = Image.new("RGB", (scale * width, scale * height), tuple(background.tolist()))
    turns = [angle + 2 * math.pi * corner / corners for corner in range(corners)]
    points = [(scale * (x + radius * math.cos(turn)), scale * (y + radius * math.sin(turn))) for turn in turns]
    ImageDraw.Draw(image).polygon(points, fill=tuple(ink.tolist()))
    return image.resize((width, height), Image.Resampling.LANCZOS)


def trained(folder: pathlib.Path, network: str, seed: int) -> dict:
    """Trains a network on a folder of images: test error and that of the last training steps, in percent; minutes."""
    with tempfile.TemporaryDirectory() as place:
        workdir = pathlib.Path(place) / "run"
        recipe = [f"--workdir={workdir}", "--dataset=folder", f"--data_dir={folder}", "--image_size=32"]
        command = [sys.executable, "train.py", *recipe, *NETWORKS[network], *([f"--seed={seed}"] if seed else [])]
        began = time.monotonic()
        subprocess.run(command, cwd=_ROOT, check=True, stdout=subprocess.DEVNULL)
        minutes = (time.monotonic() - began) / 60
        (result,) = read_results(workdir).values()
        log = [line for line in read_metrics(workdir) if line["split"] == "train"]
    last = [line["error"] for line in log if line["step"] > log[-1]["step"] - _LAST_STEPS]
    figures = {"train_error": float(np.mean(last)), "steps": result["step"], "minutes": round(minutes, 2)}
    return {"error": result["error"], "count": result["count"], **figures}


def table(trainings: list[dict]) -> str:
    """Errors by set and number of images, one column a network, means over the seeds, as Markdown."""
    networks = [name for name in NETWORKS if any(line["network"] == name for line in trainings)]
    rows = []
    for set_ in dict.fromkeys(line["set"] for line in trainings):
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
    for size, seed in ((size, seed) for size in _SIZES.value for seed in _SEEDS.value):
        with tempfile.TemporaryDirectory() as place:
            folder = pathlib.Path(place)
            if _IMAGES.value:
                classes = choose(pathlib.Path(_IMAGES.value), folder, size, seed)
            else:
                classes = draw_shapes(folder, size, seed)
            for name in _NETWORKS.value:
                case = dict(zip(keys, (_SET.value, size, name, seed)))
                if not any(case.items() <= line.items() for line in trainings):
                    trainings.append({**case, "classes": classes, **trained(folder, name, seed)})
                    timing.write(output, {"trainings": trainings})
    print(table(trainings))


if __name__ == "__main__":
    app.run(main)
