"""Times the primary capsules' convolution, forward with both gradients, beside PyTorch's.

    python -m benchmarks.convolution

PyTorch is measured where it is installed (requirements.txt). ``--methods=spectral,polyphase,direct`` compares
XLA's own convolution too, which takes tens of seconds for a gradient on a CPU.
"""

import functools

from absl import app, flags
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import timing
from lcaps_jax.ops.conv import METHODS, strided_conv
from lcaps_jax.util import process

_BATCH = flags.DEFINE_integer("batch", 100, "Images of a batch.", lower_bound=1)
_ROUNDS = flags.DEFINE_integer("rounds", 7, "Measurements of each function.", lower_bound=1)
_COMPARED = flags.DEFINE_list("methods", ["auto"], f"Methods of the convolution, of {', '.join(METHODS)}.")
_OUTPUT = flags.DEFINE_string("output", "benchmarks/results/convolution.json", "JSON file to write.")

_CHANNELS = 256
# Input size and kernel of the primary capsules: MNIST 9x9 and 15x15, affNIST 9x9 and 15x15.
_GEOMETRIES = ((20, 9), (20, 15), (32, 9), (26, 15))


def _ours(x, kernel, dy, method):
    # The order of axes that the network has between its convolutions, because PyTorch, too, gets the one it prefers.
    order = "CHWN" if method in ("auto", "spectral") and jax.default_backend() == "cpu" else "NHWC"

    @jax.jit
    def forward_and_gradients(x, kernel, dy):
        convolve = functools.partial(strided_conv, stride=2, method=method, layouts=(order, "NHWC"))
        y, pull = jax.vjp(convolve, x, kernel)
        return y, pull(dy)

    arrays = (jnp.asarray(x.transpose(["NHWC".index(axis) for axis in order])), jnp.asarray(kernel), jnp.asarray(dy))
    return lambda: jax.block_until_ready(forward_and_gradients(*arrays))


def _torch(torch, x, kernel, dy):
    # PyTorch's own order of axes, in the memory format that is fastest for its convolution on a CPU.
    x, dy = (torch.tensor(a.transpose(0, 3, 1, 2)).contiguous(memory_format=torch.channels_last) for a in (x, dy))
    kernel = torch.tensor(kernel.transpose(3, 2, 0, 1)).contiguous(memory_format=torch.channels_last)
    x.requires_grad_()
    kernel.requires_grad_()

    def run():
        y = torch.nn.functional.conv2d(x, kernel, stride=2)
        return torch.autograd.grad(y, (x, kernel), dy)

    return run


def _arrays(batch, size, kernel, channels=_CHANNELS):
    rng = np.random.default_rng(0)
    grid = (size - kernel) // 2 + 1
    shapes = ((batch, size, size, channels), (kernel, kernel, channels, channels), (batch, grid, grid, channels))
    return [rng.standard_normal(shape, np.float32) for shape in shapes]


def main(argv):
    del argv
    process.prepare()
    try:
        import torch
    except ImportError:
        torch = None
    measured = {}
    for size, kernel in _GEOMETRIES:
        made = _arrays(_BATCH.value, size, kernel)
        functions = {"matmul": timing.matmul(), **{each: _ours(*made, each) for each in _COMPARED.value}}
        if torch is not None:
            functions["PyTorch"] = _torch(torch, *made)
        seconds = timing.alternate(functions, _ROUNDS.value)
        unit = timing.matmul_flops(seconds.pop("matmul").min())
        flops = 6 * _BATCH.value * ((size - kernel) // 2 + 1) ** 2 * kernel**2 * _CHANNELS**2
        for name, values in seconds.items():
            median = float(np.median(values))
            case = {"seconds": median, "effective_throughput": flops / median / unit}
            measured[f"{size}x{size}, {kernel}x{kernel}, {name}"] = case
    timing.show(measured)
    timing.write(_OUTPUT.value, {"batch": _BATCH.value, "cases": measured})


if __name__ == "__main__":
    app.run(main)
