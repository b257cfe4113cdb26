"""Times dynamic routing, forward and gradients, with its votes written out and without them.

    python -m benchmarks.routing

It routes the primary capsules of MNIST (1152 of dimension 8) to 10 classes of dimension 16, at batch 100.
"""

from absl import app, flags
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import timing
from lcaps_jax import routing, runtime

_ROUNDS = flags.DEFINE_integer("rounds", 11, "Measurements of each form.", lower_bound=1)
_ITERATIONS = flags.DEFINE_integer("iterations", 3, "Iterations of the routing.", lower_bound=1)
_OUTPUT = flags.DEFINE_string("output", "benchmarks/results/routing.json", "JSON file to write.")

_BATCH, _CAPSULES, _DIM, _CLASSES, _POSE = 100, 1152, 8, 10, 16


def _written_out(u, kernel):
    transform = kernel.reshape(_CLASSES, _POSE, _DIM, _CAPSULES).transpose(3, 2, 0, 1).reshape(_CAPSULES, _DIM, -1)
    votes = jnp.einsum("bid,idf->bif", u, transform, precision="highest")
    return routing.route(votes.reshape(_BATCH, _CAPSULES, _CLASSES, _POSE), _ITERATIONS.value).pose


def _factored(u, kernel):
    return routing.route_factored(u, kernel, _ITERATIONS.value).pose


def main(argv):
    del argv
    runtime.prepare()
    rng = np.random.default_rng(0)
    u = jnp.asarray(0.3 * rng.random((_BATCH, _CAPSULES, _DIM)), jnp.float32)
    kernel = jnp.asarray(0.1 * rng.standard_normal((_CLASSES, _POSE, _DIM * _CAPSULES)), jnp.float32)
    dy = jnp.asarray(rng.standard_normal((_BATCH, _CLASSES, _POSE)), jnp.float32)

    def both_ways(form):
        @jax.jit
        def forward_and_gradients(u, kernel, dy):
            pose, pull = jax.vjp(form, u, kernel)
            return pose, pull(dy)

        return lambda: jax.block_until_ready(forward_and_gradients(u, kernel, dy))

    forms = {"votes written out": both_ways(_written_out), "route_factored": both_ways(_factored)}
    seconds = {name: float(np.median(v)) for name, v in timing.alternate(forms, _ROUNDS.value).items()}
    print(timing.table(tuple(f"{name}, ms" for name in seconds), [tuple(f"{1e3 * v:.0f}" for v in seconds.values())]))
    timing.write(_OUTPUT.value, {"iterations": _ITERATIONS.value, "seconds": seconds})


if __name__ == "__main__":
    app.run(main)
