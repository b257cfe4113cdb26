"""Times the primary capsules' convolution and dynamic routing, forward with all gradients, against plain forms of both.

    python -m benchmarks.convolution

The convolution is compared with PyTorch's where it is installed (benchmarks/requirements.txt), and the routing with one
that writes out its votes. ``--methods=spectral,polyphase,direct`` compares XLA's own convolution too, which takes tens
of seconds for a gradient on a CPU.
"""

from absl import app, flags
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import timing
from lcaps_jax.ops import routing
from lcaps_jax.ops.conv import METHODS, strided_conv
from lcaps_jax.util import process

_BATCH = flags.DEFINE_integer("batch", 100, "Images of a batch.", lower_bound=1)
_ROUNDS = flags.DEFINE_integer("rounds", 7, "Measurements of each function.", lower_bound=1)
_COMPARED = flags.DEFINE_list("methods", ["auto"], f"Methods of the convolution, of {', '.join(METHODS)}.")
_OUTPUT = flags.DEFINE_string("output", "benchmarks/results/convolution.json", "JSON file to write.")

_CHANNELS, _ITERATIONS = 256, 3
# Input size and kernel of the primary capsules: MNIST 9x9 and 15x15, affNIST 9x9 and 15x15.
GEOMETRIES = ((20, 9), (20, 15), (32, 9), (26, 15))


def _both_ways(function, *arrays):
    """Runs a function of two arrays and its gradients for the cotangent, which is the third."""

    @jax.jit
    def forward_and_gradients(x, w, dy):
        y, pull = jax.vjp(function, x, w)
        return y, pull(dy)

    arrays = tuple(map(jnp.asarray, arrays))
    return lambda: jax.block_until_ready(forward_and_gradients(*arrays))


def ours(x, kernel, dy, method):
    """The convolution with both gradients by one of our methods."""
    # The order of axes that the network has between its convolutions, because PyTorch, too, gets the one it prefers.
    order = "CHWN" if method in ("auto", "spectral") and jax.default_backend() == "cpu" else "NHWC"
    x = x.transpose(["NHWC".index(axis) for axis in order])
    return _both_ways(lambda x, w: strided_conv(x, w, stride=2, method=method, layouts=(order, "NHWC")), x, kernel, dy)


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


def arrays(batch, size, kernel, channels=_CHANNELS):
    """Images, kernel and cotangent."""
    rng = np.random.default_rng(0)
    grid = (size - kernel) // 2 + 1
    shapes = ((batch, size, size, channels), (kernel, kernel, channels, channels), (batch, grid, grid, channels))
    return [rng.standard_normal(shape, np.float32) for shape in shapes]


def _routings(batch):
    """Routing of the 1152 primary capsules of MNIST to 10 classes, by form."""
    rng = np.random.default_rng(0)
    u, dy = 0.3 * rng.random((batch, 1152, 8), np.float32), rng.standard_normal((batch, 10, 16), np.float32)
    kernel = 0.1 * rng.standard_normal((10, 16, 8 * 1152), np.float32)

    def written_out(u, kernel):
        transform = kernel.reshape(10, 16, 8, 1152).transpose(3, 2, 0, 1).reshape(1152, 8, -1)
        votes = jnp.einsum("bid,idf->bif", u, transform, precision="highest")
        return routing.route(votes.reshape(batch, 1152, 10, 16), _ITERATIONS).pose

    def factored(u, kernel):
        return routing.route_factored(u, kernel, _ITERATIONS).pose

    forms = {"routing, votes written out": written_out, "routing, ours": factored}
    return {name: _both_ways(form, u, kernel, dy) for name, form in forms.items()}


def main(argv):
    del argv
    process.prepare()
    try:
        import torch
    except ImportError:
        torch = None
    rows, measured = [], {}
    for size, kernel in GEOMETRIES:
        made = arrays(_BATCH.value, size, kernel)
        functions = {"matmul": timing.matmul(), **{each: ours(*made, each) for each in _COMPARED.value}}
        if torch is not None:
            functions["PyTorch"] = _torch(torch, *made)
        seconds = timing.alternate(functions, _ROUNDS.value)
        unit = timing.matmul_flops(seconds.pop("matmul").min())
        flops = 6 * _BATCH.value * ((size - kernel) // 2 + 1) ** 2 * kernel**2 * _CHANNELS**2
        for name, values in seconds.items():
            median = float(np.median(values))
            case = measured.setdefault(f"{size}x{size}, {kernel}x{kernel}", {})
            case[name] = {"seconds": median, "effective_throughput": flops / median / unit}
            rows.append((f"{size}x{size}, {kernel}x{kernel}, {name}", f"{1e3 * median:.0f}", f"{flops / median / unit:.2f}"))
    for name, values in timing.alternate(_routings(_BATCH.value), _ROUNDS.value).items():
        measured[name] = {"seconds": float(np.median(values))}
        rows.append((name, f"{1e3 * np.median(values):.0f}", ""))
    print(timing.table(("input, kernel, method", "ms", "direct arithmetic / matmul rate"), rows))
    timing.write(_OUTPUT.value, {"batch": _BATCH.value, "cases": measured})


if __name__ == "__main__":
    app.run(main)
