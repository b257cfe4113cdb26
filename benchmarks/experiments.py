"""Runs every experiment in its quick form, as a newcomer would, and says how many minutes that takes.

    python -m benchmarks.experiments

The benchmark fails when a table or a picture is missing at the end, or when it took longer than ``--minutes``.
"""

import pathlib
import subprocess
import sys
import tempfile
import time

from absl import app, flags

from benchmarks import timing

_MINUTES = flags.DEFINE_float("minutes", 15, "Most minutes that the experiments may take.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of prepared TensorFlow Datasets; default: their own.")
_OUTPUT = flags.DEFINE_string("output", "benchmarks/results/experiments.json", "JSON file to write.")

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_PRODUCTS = (
    *(
        f"{name}.{ending}"
        for name in ("table2", "table3", "figure1", "kept", "robustness", "poses", "ablations", "frames")
        for ending in ("md", "json")
    ),
    *(f"figures/{name}.png" for name in ("figure1", "figure4", "robustness", "transformed", "frames")),
)


def main(argv):
    del argv
    with tempfile.TemporaryDirectory() as folder:
        workdir = pathlib.Path(folder) / "quick"
        command = [sys.executable, "-m", "experiments", "all", "--quick", f"--workdir={workdir}"]
        command += [f"--data_dir={_DATA_DIR.value}"] if _DATA_DIR.value else []
        began = time.monotonic()
        subprocess.run(command, cwd=_ROOT, check=True)
        minutes = (time.monotonic() - began) / 60
        missing = [name for name in _PRODUCTS if not (workdir / name).exists()]
        trained = len(list(workdir.glob("*/results.json")))
    if missing:
        sys.exit(f"Not made: {', '.join(missing)}.")
    product = timing.matmul()
    matmul = timing.alternate({"matmul": product}, 20)["matmul"].min()
    print(f"{trained} runs, every table and picture: {minutes:.1f} minutes, M = {1e3 * matmul:.0f} ms")
    timing.write(_OUTPUT.value, {"minutes": minutes, "runs": trained, "matmul_seconds": matmul})
    if minutes > _MINUTES.value:
        sys.exit(f"That is more than {_MINUTES.value:g} minutes.")


if __name__ == "__main__":
    app.run(main)
