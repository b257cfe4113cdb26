"""Times a training step of CapsNet beside that of a plain PyTorch CapsNet.

    pip install -r benchmarks/requirements.txt && python -m benchmarks.peers

The PyTorch network is our own code, not that of another project. It is written as CapsNets in PyTorch usually are:
PyTorch's convolutions in its default order of axes, votes ``[B, n, J, D]`` that are written out, a loop of routing that
detaches them in all iterations but the last, the decoder, PyTorch's own Adam. Its votes are computed in two ways: by
``torch.matmul`` that broadcasts the transformations, as most write it, and by ``torch.einsum``, which is faster. Both
networks have the same number of parameters, the same batch and the same threads, and run in turns of five steps.

The allocator that keeps freed memory (``lcaps_jax.util.process``) serves all of a process, PyTorch too.
"""

from collections.abc import Callable
import os

from absl import app, flags
import numpy as np

from benchmarks import timing
from benchmarks.timing import STEPS_A_CALL
from lcaps_jax.util import process

_ROUNDS = flags.DEFINE_integer("rounds", 7, "Calls of five steps to measure of each.", lower_bound=2)
_OUTPUT = flags.DEFINE_string("output", "benchmarks/results/peers.json", "JSON file to write.")

_BATCH, _IMAGES, _CLASSES, _ITERATIONS = 100, 1000, 10, 3
_OURS = "ours"


def _votes_by_matmul(torch, kernel, u):
    return torch.matmul(kernel, u[:, :, None, :, None]).squeeze(-1)


def _votes_by_einsum(torch, kernel, u):
    return torch.einsum("njed,bnd->bnje", kernel[0], u)


_VOTES = {"matmul": _votes_by_matmul, "einsum": _votes_by_einsum}


def _capsnet(torch, votes_of: Callable):
    """The network of Sabour et al. (2017) on images of 28x28 pixels, with its decoder."""
    nn, functional = torch.nn, torch.nn.functional

    def squash(s):
        squared = (s**2).sum(-1, keepdim=True)
        return squared / (1 + squared) * s / (squared + 1e-8).sqrt()

    class CapsNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(1, 256, 9)
            self.primary = nn.Conv2d(256, 32 * 8, 9, stride=2)
            self.kernel = nn.Parameter(0.1 * torch.randn(1, 32 * 6 * 6, _CLASSES, 16, 8))  # [1, n, J, D, d]
            layers = [nn.Linear(16 * _CLASSES, 512), nn.ReLU(), nn.Linear(512, 1024), nn.ReLU()]
            self.decoder = nn.Sequential(*layers, nn.Linear(1024, 28 * 28), nn.Sigmoid())

        def forward(self, images, target):
            x = self.primary(functional.relu(self.conv1(images)))
            u = x.view(len(x), 32, 8, -1).permute(0, 1, 3, 2).reshape(len(x), -1, 8)
            votes = votes_of(torch, self.kernel, squash(u))
            poses = self.route(votes)
            return poses.norm(dim=-1), self.decoder((poses * target[:, :, None]).flatten(1))

        def route(self, votes):
            fixed = votes.detach()
            logits = torch.zeros(votes.shape[:3])
            for _ in range(_ITERATIONS - 1):
                coupling = logits.softmax(dim=2)
                poses = squash((coupling[..., None] * fixed).sum(dim=1))
                logits = logits + (fixed * poses[:, None]).sum(dim=-1)
            coupling = logits.softmax(dim=2)
            return squash((coupling[..., None] * votes).sum(dim=1))

    return CapsNet()


def _prepare(torch, votes_of: Callable) -> tuple[Callable[[], None], int]:
    """A function that runs five training steps on made-up images, and the number of parameters."""
    network = _capsnet(torch, votes_of)
    optimizer = torch.optim.Adam(network.parameters())
    rng = np.random.default_rng(0)
    images = torch.tensor(rng.integers(0, 256, (_IMAGES, 1, 28, 28)).astype(np.uint8))
    labels = torch.tensor(rng.integers(0, _CLASSES, _IMAGES))
    batches = torch.tensor(rng.integers(0, _IMAGES, (STEPS_A_CALL, _BATCH)))

    def run():
        for index in batches:
            shown = images[index].float() / 255
            target = torch.nn.functional.one_hot(labels[index], _CLASSES).float()
            lengths, drawn = network(shown, target)
            margin = target * (0.9 - lengths).clamp(min=0) ** 2 + 0.5 * (1 - target) * (lengths - 0.1).clamp(min=0) ** 2
            loss = (margin.sum(1) + 5e-4 * ((drawn - shown.flatten(1)) ** 2).sum(1)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return run, sum(parameter.numel() for parameter in network.parameters())


def main(argv):
    del argv
    process.prepare()
    import torch

    threads = len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    settings = {"model": "capsnet", "routing_iterations": _ITERATIONS, "batch_size": _BATCH}
    ours = timing.prepare(timing.configured(settings))
    functions, parameters = {"matmul": timing.matmul(), _OURS: ours.run}, {_OURS: ours.parameters}
    for form, votes_of in _VOTES.items():
        name = f"PyTorch, votes by {form}"
        functions[name], parameters[name] = _prepare(torch, votes_of)
    seconds = timing.alternate(functions, _ROUNDS.value)
    unit = float(seconds.pop("matmul").min())
    medians = {name: float(np.median(values)) / STEPS_A_CALL for name, values in seconds.items()}
    cases = {
        name: {
            "seconds": median,
            "in_matmuls": median / unit,
            "ratio": median / medians[_OURS],
            "parameters": parameters[name],
        }
        for name, median in medians.items()
    }
    print(f"M = {1e3 * unit:.0f} ms, {threads} threads, PyTorch {torch.__version__}")
    timing.show(cases)
    about = {"torch": torch.__version__, "threads": threads, "rounds": _ROUNDS.value, "matmul_seconds": unit}
    timing.write(_OUTPUT.value, {**about, "cases": cases})


if __name__ == "__main__":
    app.run(main)
