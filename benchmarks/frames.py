"""Times a small ladder network on 40x40 images: without a frame, in their frames, and with a search over angles.

    python -m benchmarks.frames

Images lie on the device; each measurement computes the activities of 1000 of them, 100 at a time.
"""

from absl import app, flags
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import timing
from lcaps_jax import networks, runtime, training
from lcaps_jax.config import Config

_ROUNDS = flags.DEFINE_integer("rounds", 11, "Measurements of each case.", lower_bound=1)
_OUTPUT = flags.DEFINE_string("output", "benchmarks/results/frames.json", "JSON file to write.")

_BATCH, _BATCHES, _SIZE = 100, 10, 40
_SMALL = {"channels": 64, "capsule_types": 16, "capsule_dim": 4, "pose_dim": 8, "k": 32}
_SEARCHES = {"in the frame": (), "3 angles": (-10, 0, 10), "5 angles": (-20, -10, 0, 10, 20)}


def _activities(network, images):
    config = Config(image_size=images.shape[2])
    params = training.compute_once(lambda: training.init_params(network, config, 1))
    apply = jax.jit(lambda params, images: jax.lax.map(lambda x: network.apply({"params": params}, x).activity, images))
    return lambda: apply(params, images).block_until_ready()


def main(argv):
    del argv
    runtime.prepare()
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.random((_BATCHES, _BATCH, _SIZE, _SIZE, 1)), jnp.float32)
    bare = networks.from_config(Config(**_SMALL, image_size=28), 10)
    framed = networks.from_config(Config(**_SMALL, image_size=28, frame="affine"), 10)
    cases = {
        "without a frame, 28x28": _activities(bare, images[..., 6:34, 6:34, :]),
        "without a frame, 40x40": _activities(bare, images),
        **{name: _activities(framed.searching(angles), images) for name, angles in _SEARCHES.items()},
    }
    seconds = timing.alternate(cases, _ROUNDS.value)
    rates = {name: _BATCH * _BATCHES / float(np.median(values)) for name, values in seconds.items()}
    print(timing.table(("case", "images/s"), [(name, f"{rate:.0f}") for name, rate in rates.items()]))
    matmul = timing.alternate({"matmul": timing.matmul()}, 20)["matmul"].min()
    timing.write(_OUTPUT.value, {"images_per_second": rates, "matmul_seconds": float(matmul)})


if __name__ == "__main__":
    app.run(main)
