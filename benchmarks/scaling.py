"""How a training step's cost grows with batch, image, K, classes and devices.

    python -m benchmarks.scaling

Each point runs in a process of its own, so that its peak memory is its own. The network is L-CapsNet with 9x9 kernels
and K=70 at batch 100 on images of MNIST's size, except for what a point changes. The command writes JSON and a picture,
and sweeps that were measured earlier stay in both.
"""

import json
import pathlib
import signal
import subprocess
import time

from absl import app, flags
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
import numpy as np

from benchmarks import timing
from benchmarks.timing import STEPS_A_CALL
from lcaps_jax.util import process

_SWEEP = flags.DEFINE_multi_string("sweep", None, "Sweep to run; may be repeated. Default: all.")
_POINT = flags.DEFINE_string("point", None, "Measure this one point, given as JSON, and print it as JSON.")
_ROUNDS = flags.DEFINE_integer("rounds", 4, "Calls of five steps that are measured at each point.", lower_bound=1)
_OUTPUT = flags.DEFINE_string("output", "benchmarks/results/scaling.json", "JSON file to write.")
_PICTURE = flags.DEFINE_string("picture", "docs/images/scaling.png", "Picture to write.")

_BLUE = "#0072B2"
_MANY_CLASSES = {"k": 10, "capsule_types": 8, "capsule_dim": 4, "pose_dim": 4}
_SWEEPS = {
    "batch": [(batch, {"batch_size": batch}) for batch in (10, 25, 50, 100, 200, 400)],
    # At batch 100 the network of 96x96 pixels (532 million parameters) ended without a result in 24 GiB.
    "image size, batch 25": [(size, {"image_size": size, "batch_size": 25}) for size in (28, 40, 64, 96)],
    "K": [(k, {"k": k}) for k in (25, 50, 100, 200, 400)],
    # 1000 classes at K=70 are 3.7 billion parameters: with Adam's moments and gradients 60 GB.
    "classes": [(10, {}), (100, {})],
    "classes of the narrow network": [(classes, _MANY_CLASSES) for classes in (10, 100, 1000)],
    "devices": [(count, {}) for count in (1, 2, 4)],
}


def _measure(point: dict) -> dict:
    """Seconds of a step and peak memory of a point, in this process."""
    process.reuse_freed_memory()
    settings = point["settings"]
    config = timing.configured(settings, settings.get("image_size", 28), point["classes"])
    case = timing.prepare(config, point["classes"])
    seconds = []
    for _ in range(_ROUNDS.value):
        began = time.perf_counter()
        case.run()
        seconds.append((time.perf_counter() - began) / STEPS_A_CALL)
    return {
        "seconds": float(np.median(seconds)),
        "parameters": case.parameters,
        "peak_memory_gib": timing.peak_memory_gib(),
        "images_per_second": config.schedule.batch_size / float(np.median(seconds)),
    }


def _measure_alone(sweep: str, value: int, settings: dict) -> dict:
    classes, count = value if sweep.startswith("classes") else 10, value if sweep == "devices" else 1
    options = [f"--rounds={_ROUNDS.value}", "--point", json.dumps({"settings": settings, "classes": classes})]
    try:
        devices = f"--xla_force_host_platform_device_count={count}"
        return timing.alone("benchmarks.scaling", options, XLA_FLAGS=devices)
    except subprocess.CalledProcessError as error:
        killed = error.returncode == -signal.SIGKILL
        return {"failed": "out of memory" if killed else (error.stderr.strip().splitlines() or ["?"])[-1]}


def _draw(results: dict) -> Figure:
    columns = -(-len(results) // 2)
    figure = Figure(figsize=(3.8 * columns, 6.4))
    for axes, (sweep, points) in zip(figure.subplots(2, columns, squeeze=False).ravel(), results.items()):
        measured = {int(value): point for value, point in points.items() if "seconds" in point}
        values, seconds = list(measured), [point["seconds"] for point in measured.values()]
        axes.plot(values, seconds, "o-", color=_BLUE)
        for place, point in zip(zip(values, seconds), measured.values()):
            memory = f"{point['peak_memory_gib']:.1f} GiB"
            axes.annotate(memory, place, fontsize=7, xytext=(3, -9), textcoords="offset points")
        axes.set(xlabel=sweep, ylabel="seconds a step", xscale="log", yscale="log")
        axes.set_xticks(values, [str(value) for value in values])
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
        axes.margins(0.15)
        axes.grid(alpha=0.3, which="both")
    figure.suptitle("Seconds of a training step; beside each point the peak memory")
    figure.tight_layout()
    return figure


def main(argv):
    del argv
    if _POINT.value:
        print(json.dumps(_measure(json.loads(_POINT.value))))
        return
    output = pathlib.Path(_OUTPUT.value)
    results = json.loads(output.read_text())["sweeps"] if output.exists() else {}
    for sweep in _SWEEP.value or _SWEEPS:
        results[sweep] = {}
        for value, settings in _SWEEPS[sweep]:
            results[sweep][str(value)] = point = _measure_alone(sweep, value, settings)
            print(f"{sweep} {value}: {point}", flush=True)
    results = {sweep: results[sweep] for sweep in _SWEEPS if sweep in results}
    timing.show({f"{sweep} {value}": point for sweep, points in results.items() for value, point in points.items()})
    timing.write(output, {"sweeps": results})
    pathlib.Path(_PICTURE.value).parent.mkdir(parents=True, exist_ok=True)
    _draw(results).savefig(_PICTURE.value, dpi=110)


if __name__ == "__main__":
    app.run(main)
