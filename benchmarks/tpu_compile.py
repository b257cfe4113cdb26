"""Compiles steps for TPUs on a machine without one, and says what they would need there.

    pip install -r requirements/tpu_compile.txt
    python -m benchmarks.tpu_compile

XLA's TPU compiler comes with libtpu and needs no TPU. Each case is compiled in a process of its own, which is ended
after ``--limit`` seconds, and is written to ``--output`` at once. The same command goes on with what is missing there.

Compile time is that of the processor, so that other programs on the machine count little. FLOP and bytes are the
compiler's own estimate of one step on one core. It counts neither the passes of a precise product nor what stays in
the core's fast memory.
"""

import dataclasses
import json
import os
import pathlib
import re
import subprocess
import sys
import time
from typing import Any

from absl import app, flags
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import timing
from lcaps_jax import networks, training
from lcaps_jax.config import PRECISIONS, Config
from lcaps_jax.precision import HIGHEST, MATMUL_PRECISIONS
from lcaps_jax.training.steps import Batches

_ROOT = pathlib.Path(__file__).resolve().parents[1]
TRAIN, EVALUATE = STEPS = ("train", "evaluate")
STEPS_A_CALL = 20
IMAGES = 60_000  # of MNIST, which lie in the memory of each core


@dataclasses.dataclass(frozen=True)
class Target:
    """What to compile for.

    Attributes:
      topology: Name of the smallest topology of such cores that the compiler knows.
      cores: Number of its cores that share a batch.
      gigabytes: Memory of a core, GB.
    """

    topology: str
    cores: int
    gigabytes: int


TARGETS = {
    "v5e": Target("v5e:2x2", 1, 16),  # as on Colab
    "v5e 2x4": Target("v5e:2x4", 8, 16),
    "v6e": Target("v6e:2x2", 1, 32),
    "v4": Target("v4:2x2x1", 1, 16),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """A program to compile.

    Attributes:
      target: Name in ``TARGETS``.
      model: Name of the network.
      image_size: Pixels along a side.
      precision: Type of the arithmetic.
      matmul_precision: Precision of float32 products.
      step: ``"train"`` or ``"evaluate"``.
      settings: Other settings of the run than the defaults, as ``(name, value)``.
    """

    target: str = "v5e"
    model: str = "lcapsnet"
    image_size: int = 28
    precision: str = "float32"
    matmul_precision: str = HIGHEST
    step: str = TRAIN
    settings: tuple[tuple[str, Any], ...] = ()

    @property
    def name(self) -> str:
        """The case in words, by which its results are kept."""
        how = self.precision if self.precision != "float32" else f"{self.precision} {self.matmul_precision}"
        return f"{self.target}, {self.model}, {self.image_size}x{self.image_size}, {how}, {self.step}"

    @property
    def config(self) -> Config:
        """Settings of the run, resolved."""
        fields = {name: getattr(self, name) for name in ("model", "precision", "matmul_precision")}
        config = Config(**{"batch_size": 128, **fields, **dict(self.settings)})
        return config.resolved(self.image_size, 0)


def topology_devices(target: Target) -> list[jax.Device]:
    """The target's cores, which are to be compiled for and nothing else."""
    from jax.experimental import topologies

    # Otherwise libtpu asks the machine's metadata server what TPU it has.
    os.environ.update(TPU_SKIP_MDS_QUERY="1", TPU_ACCELERATOR_TYPE="v5litepod-8", TPU_WORKER_HOSTNAMES="localhost")
    return topologies.get_topology_desc(platform="tpu", topology_name=target.topology).devices[: target.cores]


def compile_case(case: Case) -> dict:
    """Compiles a case in this process, and says what it took and what the program needs."""
    target, config = TARGETS[case.target], case.config
    devices = topology_devices(target)
    network, optimizer = networks.from_config(config, 10), training.make_optimizer(config)
    state = jax.eval_shape(lambda: training.init_state(network, optimizer, config, 1))
    array = jax.ShapeDtypeStruct
    images, labels = array((IMAGES, *[case.image_size] * 2, 1), jnp.uint8), array((IMAGES,), jnp.int32)
    shape = (target.cores, STEPS_A_CALL, config.batch_size // target.cores)
    batches = Batches(array(shape, jnp.int32), array(shape, jnp.int32), array(shape, jnp.float32))
    if case.step == TRAIN:
        steps = training.make_train_steps(network, optimizer, config.max_shift, devices=devices)
        data = training.TrainData(images, labels, jax.eval_shape(lambda: jax.random.key(0)))
        arguments = (state, data, batches)
    else:
        steps = training.make_eval_steps(network, devices)
        arguments = (state.params, (images, labels), batches)
    lowered = steps.lower(*arguments)
    began, began_wall = time.process_time(), time.monotonic()
    compiled = lowered.compile()
    seconds, wall = time.process_time() - began, time.monotonic() - began_wall
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    reduced = all_reduced(compiled.as_text())
    program = memory.output_size_in_bytes - memory.alias_size_in_bytes + memory.generated_code_size_in_bytes
    needed = memory.argument_size_in_bytes + memory.temp_size_in_bytes + program
    return {
        "compile_seconds": seconds,
        "wall_seconds": wall,
        "arguments": memory.argument_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "needed": needed,
        "code": memory.generated_code_size_in_bytes,
        "fits": needed < 1e9 * target.gigabytes,
        "flop": cost["flops"],
        "bytes": cost["bytes accessed"],
        "all_reduces": len(reduced),
        "largest_all_reduce": max(reduced, default=0),
        "all_reduced": sum(reduced),
    }


def all_reduced(text: str) -> list[int]:
    """Bytes of each all-reduce of a compiled program."""
    sizes = []
    for line in text.splitlines():
        if found := re.search(r"= (.*?) all-reduce(?:-start)?\(", line):
            arrays = re.findall(r"(pred|[a-z]+\d+)\[([\d,]*)\]", found[1])
            sizes.append(sum(_bytes(dtype) * int(np.prod(np.fromstring(dims, int, sep=","))) for dtype, dims in arrays))
    return sizes


def _bytes(dtype: str) -> int:
    return 1 if dtype == "pred" else int(re.search(r"\d+", dtype)[0]) // 8


def measure(case: Case, limit: float) -> dict:
    """Compiles a case in a process of its own; one that takes longer than ``limit`` seconds is only noted."""
    command = [sys.executable, "-m", "benchmarks.tpu_compile", f"--case={json.dumps(dataclasses.asdict(case))}"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "false"}
    try:
        done = subprocess.run(command, cwd=_ROOT, env=environment, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return {"over_seconds": limit}
    if done.returncode:
        raise RuntimeError(f"{case.name}: {done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


_HEADER = (
    "program", "compile, s", "arguments, GB", "temporaries, GB", "fits", "GFLOP a step", "GB a step", "all-reduces"
)  # fmt: skip


def _line(name: str, case: dict) -> tuple:
    """A row of the table that is printed."""
    if "over_seconds" in case:
        return (name, f"over {case['over_seconds']:.0f}", *[""] * (len(_HEADER) - 2))
    reduces = f"{case['all_reduces']}, {case['all_reduced'] / 1e6:.0f} MB" if case["all_reduces"] else ""
    return (
        name,
        f"{case['compile_seconds']:.0f}",
        f"{case['arguments'] / 1e9:.2f}",
        f"{case['temporaries'] / 1e9:.2f}",
        "yes" if case["fits"] else "no",
        f"{case['flop'] / 1e9:.0f}",
        f"{case['bytes'] / 1e9:.1f}",
        reduces,
    )


def main() -> None:
    """The command line."""
    targets = flags.DEFINE_multi_enum("target", list(TARGETS), list(TARGETS), "Cores to compile for.")
    models = flags.DEFINE_multi_enum("model", list(networks.NETWORKS), list(networks.NETWORKS), "Networks.")
    sizes = flags.DEFINE_multi_integer("image_size", [28, 40], "Pixels along a side.")
    precisions = flags.DEFINE_multi_enum("precision", list(PRECISIONS), list(PRECISIONS), "Types of the arithmetic.")
    matmul = flags.DEFINE_multi_enum(
        "matmul_precision", [HIGHEST], list(MATMUL_PRECISIONS), "Precisions of float32 products."
    )
    steps = flags.DEFINE_multi_enum("step", list(STEPS), list(STEPS), "Steps.")
    limit = flags.DEFINE_float("limit", 300, "Seconds after which a case is given up.")
    output = flags.DEFINE_string("output", "benchmarks/results/tpu_compile.json", "JSON file to go on with.")
    one = flags.DEFINE_string("case", None, "A single case as JSON, whose result is printed as JSON.")

    def parsed(argv):
        del argv
        jax.config.update("jax_platforms", "cpu")  # the compiler would otherwise look for a TPU
        if one.value:
            print(json.dumps(compile_case(Case(**json.loads(one.value)))))
            return
        path = pathlib.Path(output.value)
        cases = json.loads(path.read_text())["cases"] if path.exists() else {}
        wanted = [
            Case(target, model, size, precision, how, step)
            for target in targets.value
            for size in sizes.value
            for model in models.value
            for precision in precisions.value
            for how in (matmul.value if precision == "float32" else [HIGHEST])
            for step in steps.value
        ]
        for case in wanted:
            if case.name not in cases:
                cases[case.name] = measure(case, limit.value)
                print(case.name, json.dumps(cases[case.name]), flush=True)
                timing.write(path, {"cases": cases})
        print(timing.table(_HEADER, [_line(name, case) for name, case in cases.items()]))

    app.run(parsed)


if __name__ == "__main__":
    main()
