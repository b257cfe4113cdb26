"""Where the time of a training step goes: each part beside its arithmetic, and a picture of all.

    python -m benchmarks.step_profile

Five steps of a case of benchmarks.step_time run under JAX's profiler, and each op of the trace counts for the part of
the step that its name in the compiled program tells; a fusion counts for the part of its result. Beside a part's time
stand its products at the rate of a large product (M).

The command uses one core. With more, XLA runs ops beside each other, and the trace of an asynchronous op ends where it
was handed on. On one core the ops follow each other and add up to the step.
"""

from collections.abc import Callable, Mapping
import dataclasses
import json
import math
import os
import pathlib
import re
import tempfile

from absl import app, flags
import jax
from matplotlib.figure import Figure
from matplotlib.patches import Patch
import numpy as np

from benchmarks import step_time, timing
from benchmarks.timing import STEPS_A_CALL
from lcaps_jax.ops.conv import patches, spectral
from lcaps_jax.train.config import Config
from lcaps_jax.train.steps import UPDATE
from lcaps_jax.util import process

CASES = (
    "MNIST 9x9, K=70",
    "MNIST 9x9, K=70, released",
    "MNIST 9x9, CapsNet r=3",
    "affNIST 9x9, K=70",
    "affNIST 15x15, K=70",
    "MNIST, small network",
)
STATE, REST = "Adam, copies of the state", "capsules, loss, rest"
# The parts of a step, and what the name of an op holds that counts for one; the first that fits counts.
PARTS = {
    "products of spectra": (spectral.PRODUCT,),
    "transforms of images": (spectral.IMAGES, spectral.OUTPUTS),
    "transforms of kernels": (spectral.KERNEL,),
    "Conv1, ReLU, biases": (patches.PATCHES, "/primary_capsules/"),
    "class networks, ladder": ("/ladder/",),
    "routing, decoder": ("/routing/", "/decoder/"),
    STATE: (f"/{UPDATE}/",),
}
# The colour of each part and how strong it is. Parts of one kind share a colour.
_BLUE, _PINK, _YELLOW, _GREY = "#0072B2", "#CC79A7", "#F0E442", "#BBBBBB"
_COLOURS: dict[str, tuple[str, float]] = dict(
    zip(
        [*PARTS, REST],
        [(_BLUE, 1), (_BLUE, 0.6), (_BLUE, 0.3), (_YELLOW, 1), (_PINK, 1), (_PINK, 0.5), ("black", 0.85), (_GREY, 1)],
    )
)
_CONTROL = ("while", "conditional", "call")  # whose time is that of the ops within


@dataclasses.dataclass(frozen=True)
class Op:
    """An op of a compiled program: its kind, the shape of its result, its operands, the rest of its line."""

    opcode: str
    shape: tuple[int, ...]
    operands: tuple[str, ...]
    attributes: str

    @property
    def part(self) -> str:
        """Part of the step that it counts for."""
        found = re.search(r'op_name="([^"]*)"', self.attributes)
        name = found[1] if found else ""
        for part, marks in PARTS.items():
            if any(mark in name for mark in marks):
                return part
        # What XLA adds by itself to keep the state that a step changes.
        return STATE if self.opcode == "copy" and "jvp" not in name else REST


class Program:
    """The ops of a compiled program, by name, with their arithmetic."""

    def __init__(self, text: str):
        self.ops: dict[str, Op] = {}
        self._computations: dict[str, list[str]] = {}
        computation = ""
        for line in text.splitlines():
            if header := re.match(r"(?:ENTRY )?%?([\w.-]+) \(.*\{$", line):
                computation = header[1]
            elif found := re.match(r"\s+(?:ROOT )?%?([\w.-]+) = (\(.*?\)|\S+) ([\w-]+)\((.*?)\)(.*)", line):
                name, type_, opcode, operands, attributes = found.groups()
                sizes = re.search(r"\w+\[([\d,]*)\]", type_)
                shape = tuple(int(size) for size in sizes[1].split(",") if size) if sizes else ()
                self.ops[name] = Op(opcode, shape, tuple(re.findall(r"%([\w.-]+)", operands)), attributes)
                self._computations.setdefault(computation, []).append(name)

    def flop(self, name: str) -> float:
        """Arithmetic of the matrix products in an op, FLOP."""
        op = self.ops[name]
        if op.opcode == "dot":
            axes = re.search(r"lhs_contracting_dims={([\d,]*)}", op.attributes)[1].split(",")
            return 2.0 * math.prod(op.shape) * math.prod(self.ops[op.operands[0]].shape[int(axis)] for axis in axes)
        called = re.search(r"calls=%([\w.-]+)", op.attributes) if op.opcode == "fusion" else None
        return sum(map(self.flop, self._computations[called[1]])) if called else 0.0


def _trace(run: Callable[[], None]) -> list[tuple[str, float]]:
    """Ops that ran, by their names in the program, and their seconds."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            run()
        (path,) = pathlib.Path(folder).rglob("*.xplane.pb")
        profile = jax.profiler.ProfileData.from_file(str(path))
    events = (event for plane in profile.planes for line in plane.lines for event in line.events)
    found = ((dict(event.stats).get("hlo_op"), event) for event in events)
    return [(name, 1e-9 * event.duration_ns) for name, event in found if name == event.name]


def measure(config: Config) -> dict:
    """Profiles five steps: seconds of a step and of its ops, M, and ``seconds`` and ``flop`` of each part of a step."""
    case = timing.prepare(config)
    program = Program(case.program())
    seconds = timing.alternate({"step": case.run, "matmul": timing.matmul()}, 5)
    parts = {part: {"seconds": 0.0, "flop": 0.0} for part in (*PARTS, REST)}
    for name, duration in _trace(case.run):
        op = program.ops.get(name)
        if op is not None and op.opcode not in _CONTROL:
            parts[op.part]["seconds"] += duration / STEPS_A_CALL
            parts[op.part]["flop"] += program.flop(name) / STEPS_A_CALL
    parts = {name: part for name, part in parts.items() if part["seconds"]}
    return {
        "seconds": float(np.median(seconds["step"])) / STEPS_A_CALL,
        "seconds_of_ops": sum(part["seconds"] for part in parts.values()),
        "matmul_seconds": float(seconds["matmul"].min()),
        "parts": parts,
    }


def draw(cases: Mapping[str, Mapping]) -> Figure:
    """A bar for each case, and under it a thin one of its products at the full rate."""
    figure = Figure(figsize=(8.6, 0.7 * len(cases) + 1.3))
    axes = figure.subplots()
    longest = 1e3 * max(case["seconds_of_ops"] for case in cases.values())
    for row, case in enumerate(cases.values()):
        rate = timing.matmul_flops(case["matmul_seconds"])
        end = products = 0.0
        for name, part in case["parts"].items():
            colour, strength = _COLOURS[name]
            length, at_full_rate = 1e3 * part["seconds"], 1e3 * part["flop"] / rate
            axes.barh(row, length, 0.4, left=end, color=colour, alpha=strength)
            axes.barh(row + 0.3, at_full_rate, 0.1, left=products, color=colour, alpha=strength)
            if length > 0.035 * longest:
                ink = "white" if name in ("products of spectra", STATE) else "black"
                axes.text(end + length / 2, row, f"{length:.0f}", ha="center", va="center", fontsize=8, color=ink)
            end, products = end + length, products + at_full_rate
        axes.text(end, row, f" {end:.0f}", va="center", fontsize=8)
    axes.set_yticks(range(len(cases)), cases)
    axes.invert_yaxis()
    axes.set_xlim(right=1.13 * longest)
    axes.set_xlabel("ms a step of 100 images on one core; the thin bars are the products alone, at the full rate")
    axes.spines[["top", "right"]].set_visible(False)
    drawn = [name for name in _COLOURS if any(name in case["parts"] for case in cases.values())]
    handles = [Patch(facecolor=_COLOURS[name][0], alpha=_COLOURS[name][1], label=name) for name in drawn]
    figure.legend(handles=handles, loc="upper center", ncols=4, fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0, 1, 0.9))
    return figure


def main() -> None:
    """The command line."""
    only = flags.DEFINE_multi_enum("case", list(CASES), list(CASES), "Case to profile; may be repeated.")
    output = flags.DEFINE_string("output", "benchmarks/results/step_profile.json", "JSON file to write.")
    picture = flags.DEFINE_string("picture", "docs/images/step_time.png", "Picture to draw of all cases in the file.")

    def parsed(argv):
        del argv
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # before JAX starts its threads
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false"
        process.reuse_freed_memory()
        for name in only.value:
            measured = measure(step_time.config_of(name))
            step, ops, unit = (1e3 * measured[key] for key in ("seconds", "seconds_of_ops", "matmul_seconds"))
            print(f"\n{name}: {step:.0f} ms a step, {ops:.0f} in ops; M = {unit:.0f} ms")
            timing.show(measured["parts"])
            timing.write(output.value, measured, name)
        found = json.loads(pathlib.Path(output.value).read_text())
        draw({name: found[name] for name in CASES if name in found}).savefig(picture.value, dpi=110)

    app.run(parsed)


if __name__ == "__main__":
    main()
