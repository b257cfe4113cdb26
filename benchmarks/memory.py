"""Watches the memory that evaluations of a run on 96-pixel images take, that of a report among them.

    python -m benchmarks.memory

A report measures the error on 300 test images under 42 transformations, 64 at a time. Evaluations with batches of 64
and of 300 show what that takes, and what all the images at once would take.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
from PIL import Image

from benchmarks import timing

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_SIZE, _TRAINED_ON, _TESTED_ON = 96, 20, 300
_IN_A_REPORT = 64  # images that a run computes at a time
_SETTINGS = {"dataset": "folder", "channels": 64, "capsule_types": 4, "batch_size": 20, "epochs": 1}


def _make_images(folder: pathlib.Path) -> None:
    """Made images of two classes, one brighter on the left and one on the right."""
    rng = np.random.default_rng(0)
    for part, count in (("train", _TRAINED_ON), ("test", _TESTED_ON)):
        for number in range(count):
            image = rng.integers(0, 60, (_SIZE, _SIZE))
            half = number % 2
            image[20:76, 20 + 40 * half : 36 + 40 * half] += 150
            place = folder / part / ("left", "right")[half]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.astype(np.uint8)).save(place / f"{number}.png")


def _peak_gib(script: str, *arguments: str) -> float:
    """Runs an entry point, and returns the most memory that its process had."""
    process = subprocess.Popen([sys.executable, script, *arguments], cwd=_ROOT, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, f"{script} {' '.join(arguments)} failed"
    return usage.ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", default="benchmarks/results/memory.json", help="JSON file to write.")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder, workdir = pathlib.Path(place) / "images", f"--workdir={place}/run"
        _make_images(folder)
        settings = [f"--{name}={value}" for name, value in _SETTINGS.items()]
        _peak_gib("train.py", workdir, f"--data_dir={folder}", *settings)
        peaks = {
            "eval.py": _peak_gib("eval.py", workdir),
            "eval.py --report": _peak_gib("eval.py", workdir, f"--report={place}/report.html"),
            **{
                f"eval.py --batch_size={size}": _peak_gib("eval.py", workdir, f"--batch_size={size}")
                for size in (_IN_A_REPORT, _TESTED_ON)
            },
        }
    print(timing.table(("command", "peak memory, GiB"), [(name, f"{peak:.2f}") for name, peak in peaks.items()]))
    timing.write(given.output, {"image_size": _SIZE, "settings": _SETTINGS, "peak_memory_gib": peaks})


if __name__ == "__main__":
    main()
