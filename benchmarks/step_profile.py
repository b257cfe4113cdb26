"""Where the time of a training step goes: each part beside its arithmetic and its bytes, and a picture of all.

    python -m benchmarks.step_profile

Five steps of a case of benchmarks.step_time run under JAX's profiler, and each op of the trace counts for the part of
the step that its name in the compiled program tells. A fusion counts for the part of its result. Beside a part's time
stand its products at the rate of a large product (M), and the arrays that its ops read and write at the rate at which
an addition does. Arrays that a cache still holds are faster than that.

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
import jax.numpy as jnp
from matplotlib.figure import Figure
from matplotlib.patches import Patch
import numpy as np

from benchmarks import step_time, steps, timing
from lcaps_jax import convolution, runtime
from lcaps_jax.config import Config
from lcaps_jax.training.steps import UPDATE
from lcaps_jax.views import plots

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
    "products of spectra": (convolution.PRODUCT,),
    "transforms of images": (convolution.IMAGES, convolution.OUTPUTS),
    "transforms of kernels": (convolution.KERNEL,),
    "Conv1, ReLU, biases": (convolution.PATCHES, "/primary_capsules/"),
    "class networks, ladder": ("/ladder/",),
    "routing, decoder": ("/routing/", "/decoder/"),
    STATE: (f"/{UPDATE}/",),
}
# The colour of each part and how strong it is. Parts of one kind share a colour.
_COLOURS: dict[str, tuple[str, float]] = {
    "products of spectra": (plots.AMOUNT, 1),
    "transforms of images": (plots.AMOUNT, 0.6),
    "transforms of kernels": (plots.AMOUNT, 0.3),
    "Conv1, ReLU, biases": (plots.THIRD, 1),
    "class networks, ladder": (plots.SECOND, 1),
    "routing, decoder": (plots.SECOND, 0.5),
    STATE: ("black", 0.85),
    REST: (plots.OTHER, 1),
}
_DARK = ("products of spectra", STATE)  # on which ink is white

_CONTROL = ("while", "conditional", "call")  # whose time is that of the ops within
_SLICES = ("dynamic-slice", "slice", "gather")
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "f32": 4, "s32": 4, "u32": 4, "f64": 8, "s64": 8, "u64": 8}


@dataclasses.dataclass(frozen=True)
class Op:
    """An op of a compiled program.

    Attributes:
      opcode: Kind of op, such as ``"fusion"``.
      type: Type of its result in XLA's words, such as ``"f32[100,10]{1,0}"``.
      operands: Names of its operands.
      attributes: The rest of its line.
      computation: Name of the computation that it belongs to.
      is_root: Whether it is the result of that computation.
    """

    opcode: str
    type: str
    operands: tuple[str, ...]
    attributes: str
    computation: str
    is_root: bool

    @property
    def name_in_source(self) -> str:
        """Where in the traced functions it comes from, or ``""``."""
        found = re.search(r'op_name="([^"]*)"', self.attributes)
        return found[1] if found else ""

    @property
    def part(self) -> str:
        """Part of the step that it counts for."""
        name = self.name_in_source
        for part, marks in PARTS.items():
            if any(mark in name for mark in marks):
                return part
        # What XLA adds by itself to keep the state that a step changes.
        return STATE if self.opcode == "copy" and "jvp" not in name else REST


class Program:
    """The ops of a compiled program, by name, with their arithmetic and their bytes."""

    def __init__(self, text: str):
        self.ops: dict[str, Op] = {}
        self._computations: dict[str, dict[str, Op]] = {}
        computation = ""
        for line in text.splitlines():
            if header := re.match(r"(?:ENTRY )?%?([\w.-]+) \(.*\{$", line):
                computation = header[1]
            elif found := re.match(r"\s+(ROOT )?%?([\w.-]+) = (\(.*?\)|\S+) ([\w-]+)\((.*?)\)(.*)", line):
                root, name, type_, opcode, operands, attributes = found.groups()
                # A parameter has its number in place of operands.
                named = (operands,) if opcode == "parameter" else tuple(re.findall(r"%([\w.-]+)", operands))
                self.ops[name] = Op(opcode, type_, named, attributes, computation, bool(root))
                self._computations.setdefault(computation, {})[name] = self.ops[name]

    def flop(self, name: str) -> float:
        """Arithmetic of the matrix products in an op, FLOP."""
        op = self.ops[name]
        if op.opcode == "dot":
            contracted = [
                int(axis) for axis in re.search(r"lhs_contracting_dims={([\d,]*)}", op.attributes)[1].split(",")
            ]
            shape = _shapes(self.ops[op.operands[0]].type)[0][1]
            return 2.0 * math.prod(_shapes(op.type)[0][1]) * math.prod(shape[axis] for axis in contracted)
        return sum(self.flop(inner) for inner in self._within(op))

    def bytes(self, name: str) -> float:
        """Bytes of the arrays that an op reads and writes, each once; of slices of an array only the slices."""
        op = self.ops[name]
        return self._written(name) + sum(self._read(op, place) for place in range(len(op.operands)))

    def _within(self, op: Op) -> dict[str, Op]:
        called = re.search(r"calls=%([\w.-]+)", op.attributes) if op.opcode == "fusion" else None
        return self._computations[called[1]] if called else {}

    def _read(self, op: Op, place: int) -> float:
        whole = _size(self.ops[op.operands[place]].type)
        if op.opcode in _SLICES and place == 0:
            return min(whole, _size(op.type))
        inner = self._within(op)
        for name, parameter in inner.items():
            if parameter.opcode == "parameter" and parameter.operands == (str(place),):
                return min(whole, self._read_within(name, inner, whole))
        return whole

    def _read_within(self, name: str, inner: Mapping[str, Op], whole: float) -> float:
        """Bytes that a fusion reads of one of its values, which is a parameter."""
        total = 0.0
        for user_name, user in inner.items():
            if name not in user.operands:
                continue
            if user.opcode == "bitcast":
                total += self._read_within(user_name, inner, whole)
            elif user.operands[0] == name and user.opcode in _SLICES:
                total += _size(user.type)
            elif user.operands[0] != name or user.opcode != "dynamic-update-slice":
                return whole
        return total

    def _written(self, name: str) -> float:
        op = self.ops[name]
        inner = self._within(op)
        roots = [inner_name for inner_name, inner_op in inner.items() if inner_op.is_root]
        if roots:
            return self._written(roots[0])
        if op.opcode == "bitcast" and op.operands[0] in self.ops:
            return self._written(op.operands[0])
        if op.opcode == "dynamic-update-slice":
            return _size(self.ops[op.operands[1]].type)
        return _size(op.type)


def _shapes(type_: str) -> list[tuple[str, tuple[int, ...]]]:
    found = re.findall(r"(\w+)\[([\d,]*)\]", type_)
    return [(kind, tuple(int(size) for size in sizes.split(",") if size)) for kind, sizes in found]


def _size(type_: str) -> float:
    return float(sum(_BYTES.get(kind, 4) * math.prod(shape) for kind, shape in _shapes(type_)))


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
    """Profiles five steps.

    Args:
      config: Resolved settings.

    Returns:
      Seconds of a step, those of its ops, and ``seconds``, ``flop`` and ``bytes`` of each part in a step.
    """
    case = steps.prepare(config)
    program = Program(case.program())
    seconds = timing.alternate({"step": case.run}, 3)["step"] / steps.STEPS_A_CALL
    parts = {part: {"seconds": 0.0, "flop": 0.0, "bytes": 0.0} for part in (*PARTS, REST)}
    for name, duration in _trace(case.run):
        op = program.ops.get(name)
        if op is None or op.opcode in _CONTROL:
            continue
        part = parts[op.part]
        for key, value in (("seconds", duration), ("flop", program.flop(name)), ("bytes", program.bytes(name))):
            part[key] += value / steps.STEPS_A_CALL
    parts = {name: part for name, part in parts.items() if part["seconds"]}
    return {
        "seconds": float(np.median(seconds)),
        "seconds_of_ops": sum(part["seconds"] for part in parts.values()),
        "parts": parts,
    }


def _rates() -> dict:
    """Seconds of the large product, and bytes a second of an addition of two large arrays."""
    size = 2**25
    add, held, other = jax.jit(jnp.add, donate_argnums=0), jnp.zeros(size), jnp.ones(size)

    def run_add():
        nonlocal held
        held = jax.block_until_ready(add(held, other))

    seconds = timing.alternate({"matmul": timing.matmul(), "add": run_add}, 5)
    return {
        "matmul_seconds": float(seconds["matmul"].min()),
        "bytes_per_second": 12 * size / float(seconds["add"].min()),
    }


def _table(measured: Mapping) -> str:
    rate = timing.matmul_flops(measured["matmul_seconds"])
    rows = [
        (
            name,
            f"{1e3 * part['seconds']:.0f}",
            f"{1e3 * part['flop'] / rate:.0f}",
            f"{part['bytes'] / 1e6:.0f}",
            f"{1e3 * part['bytes'] / measured['bytes_per_second']:.0f}",
        )
        for name, part in measured["parts"].items()
    ]
    rows.append(("all", *(f"{sum(float(row[column]) for row in rows):.0f}" for column in range(1, 5))))
    return timing.table(("part", "ms", "its products at M's rate, ms", "MB", "as an addition, ms"), rows)


def draw(cases: Mapping[str, Mapping], before: Mapping[str, Mapping] | None = None) -> Figure:
    """A bar for each case, above it an earlier version's, and under it a thin one of its products at the full rate.

    Args:
      cases: What ``measure`` returns, and ``matmul_seconds``, by case.
      before: The same of an earlier version, for some of the cases.
    """
    before = before or {}
    figure = Figure(figsize=(8.6, 0.85 * len(cases) + 1.3))
    axes = figure.subplots()
    longest = max(case["seconds_of_ops"] for case in (*cases.values(), *before.values()))

    def draw_bar(place: float, height: float, lengths: Mapping[str, float]) -> float:
        left = 0.0
        for name, milliseconds in lengths.items():
            colour, strength = _COLOURS[name]
            axes.barh(place, milliseconds, height, left=left, color=colour, alpha=strength)
            if height > 0.2 and milliseconds > 35 * longest:
                ink = "white" if name in _DARK else "black"
                middle = left + milliseconds / 2
                axes.text(middle, place, f"{milliseconds:.0f}", ha="center", va="center", fontsize=8, color=ink)
            left += milliseconds
        return left

    for row, (name, case) in enumerate(cases.items()):
        versions = {"before": before[name], "now": case} if name in before else {"": case}
        places = (row - 0.25, row + 0.08)[-len(versions) :]
        for place, (version, measured) in zip(places, versions.items(), strict=True):
            parts = measured["parts"].items()
            end = draw_bar(place, 0.29, {part: 1e3 * measured["seconds"] for part, measured in parts})
            axes.text(end, place, f" {version} {end:.0f}", va="center", fontsize=8)
        rate = timing.matmul_flops(case["matmul_seconds"])
        draw_bar(row + 0.31, 0.1, {part: 1e3 * measured["flop"] / rate for part, measured in case["parts"].items()})
    axes.set_yticks(range(len(cases)), cases)
    axes.invert_yaxis()
    axes.set_xlim(right=1.13 * 1e3 * longest)
    axes.set_xlabel("ms a step of 100 images on one core; the thin bars are the products alone, at the full rate")
    axes.spines[["top", "right"]].set_visible(False)
    drawn = [name for name in _COLOURS if any(name in case["parts"] for case in cases.values())]
    handles = [Patch(facecolor=_COLOURS[name][0], alpha=_COLOURS[name][1], label=name) for name in drawn]
    figure.legend(handles=handles, loc="upper center", ncols=4, fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0, 1, 0.9))
    return figure


def _use_one_core() -> None:
    """Before JAX starts its threads."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false"


def main() -> None:
    """The command line."""
    only = flags.DEFINE_multi_string("only", None, "Case to profile, as in step_time; may be repeated.")
    output = flags.DEFINE_string("output", "benchmarks/results/step_profile.json", "JSON file to write.")
    before = flags.DEFINE_string("before", "benchmarks/results/step_profile_before.json", "That of an earlier version.")
    picture = flags.DEFINE_string("picture", "docs/images/step_time.png", "Picture to draw of all cases in it.")

    def parsed(argv):
        del argv
        _use_one_core()
        runtime.reuse_freed_memory()
        for name in only.value or CASES:
            config = Config(**step_time.CASES[name])
            measured = {**_rates(), **measure(config.resolved(config.image_size or 28, 0))}
            step, traced, unit = (measured[key] for key in ("seconds", "seconds_of_ops", "matmul_seconds"))
            print(f"\n{name}: {1e3 * step:.0f} ms a step, {1e3 * traced:.0f} in ops; M = {1e3 * unit:.0f} ms,", end=" ")
            print(f"an addition {measured['bytes_per_second'] / 1e9:.0f} GB/s")
            print(_table(measured), flush=True)
            timing.write(output.value, measured, name)
        now, earlier = (
            json.loads(pathlib.Path(file).read_text()) if pathlib.Path(file).exists() else {}
            for file in (output.value, before.value)
        )
        cases = [name for name in CASES if name in now]
        figure = draw({name: now[name] for name in cases}, {name: earlier[name] for name in cases if name in earlier})
        figure.savefig(picture.value, dpi=110)

    app.run(parsed)


if __name__ == "__main__":
    main()
