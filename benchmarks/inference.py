"""Times inference: affNIST's 320,000 images, generated and streamed, and networks with a frame and a rotation search.

    python -m benchmarks.inference

affNIST's images are the 10,000 bundled digits in 32 variants each, for L-CapsNet with 15x15 kernels, K=70 and its
initial weights. Generation and network are timed together, as an evaluation runs them, and generation once alone. The
networks with a frame are the one of the package and those of two flagfiles, on 40x40 images, 100 at a time.
"""

import pathlib
import time

from absl import app, flags
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import timing
from lcaps_jax.cli.flags import read_flagfile
from lcaps_jax.data import affnist, api
from lcaps_jax.data.splits import Split
from lcaps_jax.infer.pretrained import load_model
from lcaps_jax.train.evaluate import evaluate, make_eval_steps, on_devices
from lcaps_jax.train.steps import compute_once, init_params
from lcaps_jax.util import devices, process

_VARIANTS = flags.DEFINE_integer("variants", affnist.VARIANTS, "Variants of each digit.", 1, affnist.VARIANTS)
_ROUNDS = flags.DEFINE_integer("rounds", 11, "Measurements of each network with a frame.", lower_bound=1)
_OUTPUT = flags.DEFINE_string("output", "benchmarks/results/inference.json", "JSON file to write.")

_BATCH, _BATCHES, _INSIDE = 100, 10, 28
_CONFIGS = pathlib.Path(__file__).resolve().parents[1] / "configs"
_FLAGFILES = {"CapsNet, as many convolutions": "affnist_framed_capsnet", "CNN of 32 filters": "affnist_framed_cnn32"}
_SEARCHES = {"in the frame": (), "3 angles": (-10, 0, 10), "5 angles": (-20, -10, 0, 10, 20)}
_BARE = "without a frame, 28x28"


def _initial(settings, image_size):
    """A network with its initial parameters."""
    config = timing.configured(settings, image_size)
    shape = (image_size, image_size, 1)
    return config.network, compute_once(lambda: init_params(config.network, shape))


def _stream(variants):
    """Times affNIST, and the memory that it takes."""
    source = api.load("sample")
    images, labels = (
        np.concatenate([getattr(part, name) for part in (source.train, source.test)]) for name in ("images", "labels")
    )
    digits = Split(images, labels)
    network, params = _initial({"conv1_kernel": 15, "primary_kernel": 15}, affnist.CANVAS)
    params, eval_steps = devices.replicate(params), make_eval_steps(network)
    evaluate(eval_steps, params, on_devices(affnist.Affnist(digits)), _BATCH)  # compiles
    began = time.perf_counter()
    evaluation = evaluate(eval_steps, params, on_devices(affnist.Affnist(digits, variants)), _BATCH)
    seconds, peak = time.perf_counter() - began, timing.peak_memory_gib()
    began = time.perf_counter()
    affnist.Affnist(digits)
    return {
        "images": evaluation.count,
        "seconds": seconds,
        "images_per_second": evaluation.count / seconds,
        "generated_per_second": len(digits) / (time.perf_counter() - began),
        "peak_memory_gib": peak,
    }


def _activities(network, params, images):
    apply = jax.jit(lambda params, images: jax.lax.map(lambda x: network.apply({"params": params}, x).activity, images))
    return lambda: apply(params, images).block_until_ready()


def _framed(rounds):
    """Images a second of networks with a frame, by network and search."""
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.random((_BATCHES, _BATCH, affnist.CANVAS, affnist.CANVAS, 1)), jnp.float32)
    border = (affnist.CANVAS - _INSIDE) // 2
    cropped = images[..., border : border + _INSIDE, border : border + _INSIDE, :]
    shipped = load_model("mnist_framed")
    networks = {"L-CapsNet, mnist_framed": (shipped.network, shipped.params)}
    networks |= {
        name: _initial(read_flagfile(_CONFIGS / f"{flagfile}.flags")[0], _INSIDE)
        for name, flagfile in _FLAGFILES.items()
    }
    cases = {}
    for name, (network, params) in networks.items():
        cases[name, _BARE] = _activities(network.network, params, cropped)
        for search, angles in _SEARCHES.items():
            cases[name, search] = _activities(network.with_rotation_search(angles), params, images)
    rates: dict[str, dict[str, float]] = {}
    for (name, case), values in timing.alternate(cases, rounds).items():
        rates.setdefault(name, {})[case] = _BATCH * _BATCHES / float(np.median(values))
    return rates


def main(argv):
    del argv
    process.prepare()
    streamed, framed = _stream(_VARIANTS.value), _framed(_ROUNDS.value)
    timing.show({"affnist": streamed})
    timing.show(framed)
    timing.write(_OUTPUT.value, {"affnist": streamed, "framed_images_per_second": framed})


if __name__ == "__main__":
    app.run(main)
