"""Counts the arithmetic that XLA hands cuDNN for a convolution and both its gradients, without a GPU.

    pip install "jax[cuda13]" && python -m benchmarks.gpu_compile

XLA compiles for an H200 on any machine on which JAX for CUDA is installed. Where no GPU is at hand it chooses no
algorithms, but which convolutions cuDNN is to compute is settled. Each counts for the products in its window, with the
zeros that XLA has written between the numbers. The convolutions are those of the primary capsules, by two methods:
XLA's own convolution with stride 2, and the one that this package takes on an NVIDIA GPU.
"""

from collections.abc import Sequence
import math
import pathlib
import re

from absl import app, flags
import jax
import jax.numpy as jnp

from benchmarks import timing
from lcaps_jax.convolution import DIRECT, POLYPHASE, output_size, strided_conv

# Sizes of the features and of the kernel of the primary capsules.
GEOMETRIES = {"MNIST 9x9": (20, 9), "MNIST 15x15": (20, 15), "affNIST 9x9": (32, 9), "affNIST 15x15": (26, 15)}
CHANNELS = 256
_H200 = pathlib.Path(__file__).with_name("h200.txtpb")
_BATCH = 100


def device() -> jax.Device:
    """An H200 that is to be compiled for and nothing else."""
    from jax.experimental import topologies

    text = _H200.read_text()
    return topologies.get_topology_desc(platform="cuda", target_config=text, topology="1x1x1").devices[0]


def compiled(size: int, kernel: int, method: str, channels: int = CHANNELS, batch: int = _BATCH) -> str:
    """The compiled program of a convolution with stride 2 and both its gradients, as text."""
    sharding = jax.sharding.SingleDeviceSharding(device())
    shapes = (batch, size, size, channels), (kernel, kernel, channels, channels)

    def forward_and_gradients(x, w):
        y, pull = jax.vjp(lambda x, w: strided_conv(x, w, stride=2, method=method), x, w)
        return y, pull(y)

    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding) for shape in shapes]
    return jax.jit(forward_and_gradients).lower(*arrays).compile().as_text()


def multiplications(program: str) -> list[int]:
    """Products of numbers in each convolution that a compiled program hands cuDNN."""
    shapes = dict(re.findall(r"%([\w.-]+) = \(?f32\[([\d,]*)\]", program))
    found = []
    for line in program.splitlines():
        if "__cudnn$conv" not in line:
            continue
        call = re.search(r"= \(?f32\[([\d,]*)\].*custom-call\(%([\w.-]+), %([\w.-]+)", line)
        result, first, second = (_sizes(text) for text in (call[1], shapes[call[2]], shapes[call[3]]))
        window = math.prod(int(size) for size in re.search(r"window={size=([\dx]+)", line)[1].split("x"))
        # Of what has the features as its last axis: images, outputs, kernel.
        if "BackwardInput" in line:
            images, outputs = result, first
        elif "BackwardFilter" in line:
            images, outputs = first, second
        else:
            images, outputs = first, result
        found.append(math.prod(outputs) * window * images[-1])
    return found


def _sizes(text: str) -> Sequence[int]:
    return [int(size) for size in text.split(",")]


def measure(names: Sequence[str] = tuple(GEOMETRIES)) -> dict[str, dict]:
    """Products of each geometry by method, as multiples of those that a convolution and both its gradients need."""
    found = {}
    for name in names:
        size, kernel = GEOMETRIES[name]
        needed = 3 * _BATCH * output_size(size, kernel, 2) ** 2 * kernel**2 * CHANNELS**2
        found[name] = {
            method: sum(multiplications(compiled(size, kernel, method))) / needed for method in (DIRECT, POLYPHASE)
        }
    return found


def main() -> None:
    """The command line."""
    output = flags.DEFINE_string("output", "benchmarks/results/gpu_compile.json", "JSON file to write.")

    def parsed(argv):
        del argv
        jax.config.update("jax_platforms", "cpu")  # because no GPU runs anything
        found = measure()
        timing.write(output.value, {"products, multiples of what is needed": found})
        rows = [(name, *(f"{each[method]:.1f}" for method in (DIRECT, POLYPHASE))) for name, each in found.items()]
        print(timing.table(("primary capsules", DIRECT, POLYPHASE), rows))

    app.run(parsed)


if __name__ == "__main__":
    main()
