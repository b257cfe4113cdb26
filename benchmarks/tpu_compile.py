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
import itertools
import json
import os
import pathlib
import re
import subprocess
import time
from typing import Any

from absl import app, flags
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import timing
from lcaps_jax.nn import NETWORKS
from lcaps_jax.train.config import Config
from lcaps_jax.train.evaluate import make_eval_steps
from lcaps_jax.train.steps import Batches, TrainData, init_state, make_train_steps

TRAIN, EVALUATE = STEPS = ("train", "evaluate")
STEPS_A_CALL = 20
IMAGES = 60_000  # of MNIST, which lie in the memory of each core
# The smallest topology of such cores that the compiler knows, the cores that share a batch, and the GB of a core.
TARGETS = {
    "v5e": ("v5e:2x2", 1, 16),  # as on Colab
    "v5e 2x4": ("v5e:2x4", 8, 16),
    "v6e": ("v6e:2x2", 1, 32),
    "v4": ("v4:2x2x1", 1, 16),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """A program to compile: its target, settings of the training by the names of flags, and whether it trains."""

    target: str = "v5e"
    model: str = "lcapsnet"
    image_size: int = 28
    dtype: str = "float32"
    matmul_precision: str = "highest"
    step: str = TRAIN
    settings: tuple[tuple[str, Any], ...] = ()

    @property
    def name(self) -> str:
        """The case in words, by which its results are kept."""
        how = self.dtype if self.dtype != "float32" else f"{self.dtype} {self.matmul_precision}"
        return f"{self.target}, {self.model}, {self.image_size}x{self.image_size}, {how}, {self.step}"

    @property
    def config(self) -> Config:
        """Settings of the run, resolved."""
        fields = {name: getattr(self, name) for name in ("model", "dtype", "matmul_precision")}
        return timing.configured({"batch_size": 128, **fields, **dict(self.settings)}, self.image_size)


def _cores(target: str) -> list[jax.Device]:
    """The target's cores, which can be compiled for and nothing else."""
    from jax.experimental import topologies

    # Otherwise libtpu asks the machine's metadata server what TPU it has.
    os.environ.update(TPU_SKIP_MDS_QUERY="1", TPU_ACCELERATOR_TYPE="v5litepod-8", TPU_WORKER_HOSTNAMES="localhost")
    topology, cores, _ = TARGETS[target]
    return topologies.get_topology_desc(platform="tpu", topology_name=topology).devices[:cores]


def compile_case(case: Case) -> dict:
    """Compiles a case in this process, and says what it took and what the program needs."""
    config, devices = case.config, _cores(case.target)
    network, optimizer = config.network, config.optimizer.make()
    state = jax.eval_shape(lambda: init_state(network, optimizer, (case.image_size, case.image_size, 1)))
    array = jax.ShapeDtypeStruct
    images, labels = array((IMAGES, *[case.image_size] * 2, 1), jnp.uint8), array((IMAGES,), jnp.int32)
    shape = (len(devices), STEPS_A_CALL, config.schedule.batch_size // len(devices))
    batches = Batches(array(shape, jnp.int32), array(shape, jnp.int32), array(shape, jnp.float32))
    if case.step == TRAIN:
        steps = make_train_steps(network, optimizer, config.augment, devices=devices)
        data = TrainData(images, labels, jax.eval_shape(lambda: jax.random.key(0)))
        arguments = (state, data, batches)
    else:
        steps = make_eval_steps(network, devices)
        arguments = (state.params, (images, labels), batches)
    lowered = steps.lower(*arguments)
    began = time.process_time()
    compiled = lowered.compile()
    seconds = time.process_time() - began
    memory, cost, reduced = compiled.memory_analysis(), compiled.cost_analysis(), all_reduced(compiled.as_text())
    program = memory.output_size_in_bytes - memory.alias_size_in_bytes + memory.generated_code_size_in_bytes
    needed = memory.argument_size_in_bytes + memory.temp_size_in_bytes + program
    return {
        "compile_seconds": seconds,
        "arguments": memory.argument_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "needed": needed,
        "fits": needed < 1e9 * TARGETS[case.target][2],
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
    options = [f"--case={json.dumps(dataclasses.asdict(case))}"]
    environment = {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "false"}
    try:
        return timing.alone("benchmarks.tpu_compile", options, limit, **environment)
    except subprocess.TimeoutExpired:
        return {"over_seconds": limit}


def main() -> None:
    """The command line."""
    choices = {
        "target": list(TARGETS),
        "model": list(NETWORKS),
        "image_size": ["28", "40"],
        "dtype": ["float32", "bfloat16"],
        "matmul_precision": ["highest"],
        "step": list(STEPS),
    }
    chosen = {
        name: flags.DEFINE_list(name, default, f"Values of {name} to compile for.") for name, default in choices.items()
    }
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
        for values in itertools.product(*(each.value for each in chosen.values())):
            fields = dict(zip(chosen, values))
            case = Case(**{**fields, "image_size": int(fields["image_size"])})
            if case.name not in cases:
                cases[case.name] = measure(case, limit.value)
                print(case.name, json.dumps(cases[case.name]), flush=True)
                timing.write(path, {"cases": cases})
        timing.show(cases)

    app.run(parsed)


if __name__ == "__main__":
    main()
