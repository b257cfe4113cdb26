"""Times the primary capsules' convolution, forward with both gradients, against XLA's own and PyTorch's.

    python -m benchmarks.convolution

PyTorch is measured where it is installed (benchmarks/requirements.txt). XLA's own gradient takes tens of
seconds on a CPU, so it is measured once, at batch 10, with --xla.
"""

from absl import app, flags
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import timing
from lcaps_jax import runtime, strided_conv
from lcaps_jax.convolution import DIRECT, SPECTRAL

_BATCH = flags.DEFINE_integer("batch", 100, "Images of a batch.", lower_bound=1)
_ROUNDS = flags.DEFINE_integer("rounds", 7, "Measurements of each function.", lower_bound=1)
_XLA = flags.DEFINE_boolean("xla", False, "Measure XLA's own too, once, at batch 10 and 20x20.")
_OUTPUT = flags.DEFINE_string("output", "benchmarks/results/convolution.json", "JSON file to write.")

_CHANNELS = 256
# Input size and kernel of the primary capsules: MNIST 9x9 and 15x15, affNIST 9x9 and 15x15.
_GEOMETRIES = ((20, 9), (20, 15), (32, 9), (26, 15))


def _ours(x, kernel, dy, method):
    # The order of axes that the network has between its convolutions, because PyTorch, too, gets the one it prefers.
    layouts = ("CHWN" if method == SPECTRAL else "NHWC", "NHWC")
    x = x.transpose(["NHWC".index(axis) for axis in layouts[0]])

    @jax.jit
    def forward_and_gradients(x, kernel, dy):
        y, pull = jax.vjp(lambda x, w: strided_conv(x, w, stride=2, method=method, layouts=layouts), x, kernel)
        return y, pull(dy)

    x, kernel, dy = (jnp.asarray(array) for array in (x, kernel, dy))
    return lambda: jax.block_until_ready(forward_and_gradients(x, kernel, dy))


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


def _arrays(batch, size, kernel):
    rng = np.random.default_rng(0)
    grid = (size - kernel) // 2 + 1
    shapes = ((batch, size, size, _CHANNELS), (kernel, kernel, _CHANNELS, _CHANNELS), (batch, grid, grid, _CHANNELS))
    return [rng.standard_normal(shape, np.float32) for shape in shapes]


def main(argv):
    del argv
    runtime.prepare()
    try:
        import torch
    except ImportError:
        torch = None
    rows, metrics = [], {"batch": _BATCH.value, "milliseconds": {}}
    for size, kernel in _GEOMETRIES:
        arrays = _arrays(_BATCH.value, size, kernel)
        functions = {"ours": _ours(*arrays, SPECTRAL), "matmul": timing.matmul()}
        if torch is not None:
            functions["PyTorch"] = _torch(torch, *arrays)
        seconds = timing.alternate(functions, _ROUNDS.value)
        milliseconds = {name: float(1e3 * np.median(values)) for name, values in seconds.items()}
        flops = 6 * _BATCH.value * ((size - kernel) // 2 + 1) ** 2 * kernel**2 * _CHANNELS**2
        effective = flops / np.median(seconds["ours"]) / timing.matmul_flops(np.min(seconds["matmul"]))
        pytorch = milliseconds.get("PyTorch")
        ratio = f"{pytorch / milliseconds['ours']:.1f}" if pytorch else ""
        rows.append(
            (
                f"{size}x{size}, {kernel}x{kernel}",
                f"{milliseconds['ours']:.0f}",
                f"{pytorch:.0f}" if pytorch else "",
                ratio,
                f"{effective:.2f}",
            )
        )
        metrics["milliseconds"][f"{size}x{size}, {kernel}x{kernel}"] = {
            **milliseconds,
            "effective_throughput": effective,
        }
    header = ("input, kernel", "ours, ms", "PyTorch, ms", "PyTorch / ours", "direct arithmetic / matmul rate")
    print(timing.table(header, rows))
    if _XLA.value:
        arrays = _arrays(10, 20, 9)
        functions = {"ours": _ours(*arrays, SPECTRAL), "xla": _ours(*arrays, DIRECT)}
        seconds = {name: float(np.median(values)) for name, values in timing.alternate(functions, 1).items()}
        metrics["batch 10, 20x20, 9x9, seconds"] = seconds
        print(f"batch 10, 20x20, 9x9: ours {seconds['ours']:.3f} s, XLA's own {seconds['xla']:.2f} s")
    timing.write(_OUTPUT.value, metrics)


if __name__ == "__main__":
    app.run(main)
