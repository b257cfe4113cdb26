"""Times networks on 40x40 images in their frames, with and without a search over angles, and without a frame.

    python -m benchmarks.frames

The ladder is the framed network of the package. CapsNet and the CNN have the settings of its rivals in docs/frames.md,
and their initial weights. Images lie on the device; each measurement computes the activities of 1000 of them, 100 at a
time. M is the best time of a product of 2048x2048 matrices beside them.
"""

import pathlib

from absl import app, flags
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import timing
from lcaps_jax import networks, pretrained, runtime, training
from lcaps_jax.config import from_flagfile

_ROUNDS = flags.DEFINE_integer("rounds", 11, "Measurements of each case.", lower_bound=1)
_BATCHES = flags.DEFINE_integer("batches", 10, "Batches of 100 images in a measurement.", lower_bound=1)
_OUTPUT = flags.DEFINE_string("output", "benchmarks/results/frames.json", "JSON file to write.")

_BATCH, _SIZE, _INSIDE = 100, 40, 28
_CONFIGS = pathlib.Path(__file__).resolve().parents[1] / "configs"
# The flagfiles of the networks beside the one of the package.
_RIVALS = {"CapsNet, as many convolutions": "affnist_framed_capsnet", "CNN of 32 channels": "affnist_framed_cnn32"}
_SEARCHES = {"in the frame": (), "3 angles": (-10, 0, 10), "5 angles": (-20, -10, 0, 10, 20)}
_BARE = "without a frame, 28x28"
_MATMUL = "matmul"


def _networks():
    """Networks with a frame and their parameters, by name."""
    shipped = pretrained.load_pretrained("mnist_framed")
    return {
        "L-CapsNet, mnist_framed": (shipped.network, shipped.params),
        **{name: _initial(flagfile) for name, flagfile in _RIVALS.items()},
    }


def _initial(flagfile):
    """The network of a flagfile, with its initial weights."""
    config = from_flagfile(_CONFIGS / f"{flagfile}.flags").resolved(_INSIDE, 0)
    network = networks.from_config(config, 10)
    return network, training.compute_once(lambda: training.init_params(network, config, 1))


def _activities(network, params, images):
    apply = jax.jit(lambda params, images: jax.lax.map(lambda x: network.apply({"params": params}, x).activity, images))
    return lambda: apply(params, images).block_until_ready()


def main(argv):
    del argv
    runtime.prepare()
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.random((_BATCHES.value, _BATCH, _SIZE, _SIZE, 1)), jnp.float32)
    before = (_SIZE - _INSIDE) // 2
    cropped = images[..., before : before + _INSIDE, before : before + _INSIDE, :]
    cases = {}
    for name, (network, params) in _networks().items():
        cases[name, _BARE] = _activities(network.network, params, cropped)
        for search, angles in _SEARCHES.items():
            cases[name, search] = _activities(network.searching(angles), params, images)
    seconds = timing.alternate({_MATMUL: timing.matmul(), **cases}, _ROUNDS.value)
    unit = float(seconds.pop(_MATMUL).min())
    rates: dict[str, dict[str, float]] = {}
    for (name, case), values in seconds.items():
        rates.setdefault(name, {})[case] = _BATCH * _BATCHES.value / float(np.median(values))
    header = ("images/s", _BARE, *_SEARCHES)
    print(timing.table(header, [(name, *(f"{rate:.0f}" for rate in by.values())) for name, by in rates.items()]))
    print(f"M = {1e3 * unit:.1f} ms")
    timing.write(_OUTPUT.value, {"images_per_second": rates, "matmul_seconds": unit})


if __name__ == "__main__":
    app.run(main)
