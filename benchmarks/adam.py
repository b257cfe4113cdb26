"""Times Adam's update against the memory traffic that it cannot do without.

    python -m benchmarks.adam

An update reads parameters, two moments and gradients, and writes all but the gradients: seven streams of the size of
the parameters. The rate of a stream is measured beside the update: adding one array of that size to another is three
streams.
"""

from absl import app, flags
import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import timing
from lcaps_jax import networks, runtime, training
from lcaps_jax.config import Config

_ROUNDS = flags.DEFINE_integer("rounds", 31, "Measurements of each function.", lower_bound=1)
_OUTPUT = flags.DEFINE_string("output", "benchmarks/results/adam.json", "JSON file to write.")


def main(argv):
    del argv
    runtime.prepare()
    config = Config().resolved(28, 0)
    optimizer = training.make_optimizer(config)
    network = networks.from_config(config, 10)
    state = training.compute_once(lambda: training.init_state(network, optimizer, config, 1))
    gradients = jax.tree.map(jnp.ones_like, state.params)
    size = sum(leaf.size for leaf in jax.tree.leaves(state.params))

    @jax.jit(donate_argnums=0)
    def update(held, gradients):
        updates, opt_state = optimizer.update(gradients, held[1], held[0])
        return optax.apply_updates(held[0], updates), opt_state

    add = jax.jit(jnp.add, donate_argnums=0)
    held, total, other = (state.params, state.opt_state), jnp.zeros(size), jnp.ones(size)

    def run_update():
        nonlocal held
        held = jax.block_until_ready(update(held, gradients))

    def run_add():
        nonlocal total
        total = jax.block_until_ready(add(total, other))

    seconds = timing.alternate({"update": run_update, "three streams": run_add}, _ROUNDS.value)
    update_seconds, add_seconds = (float(np.median(values)) for values in seconds.values())
    seven_streams = 7 / 3 * add_seconds
    metrics = {
        "parameters": size,
        "update_seconds": update_seconds,
        "seven_streams_seconds": seven_streams,
        "bytes_per_second": 12 * size / add_seconds,
        "ratio": update_seconds / seven_streams,
    }
    row = (
        f"{size / 1e6:.1f} M",
        f"{1e3 * update_seconds:.1f}",
        f"{1e3 * seven_streams:.1f}",
        f"{metrics['bytes_per_second'] / 1e9:.0f}",
        f"{metrics['ratio']:.2f}",
    )
    print(timing.table(("parameters", "Adam's update, ms", "seven streams, ms", "GB/s", "ratio"), [row]))
    timing.write(_OUTPUT.value, metrics)


if __name__ == "__main__":
    app.run(main)
