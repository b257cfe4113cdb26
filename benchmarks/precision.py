"""Computes on a CPU what a TPU's passes do to a network's outputs.

    python -m benchmarks.precision

A TPU multiplies bfloat16 numbers. It splits each float32 operand of a product into bfloat16 parts, multiplies the pairs
of parts that matter most, and adds in float32: one pair, three or six, as ``--matmul_precision`` says. Here every
product and convolution of the network that comes with the package is computed in that way, on bundled test digits. The
order of a TPU's additions is not emulated.
"""

from collections.abc import Callable, Sequence
import functools
from typing import Any

from absl import app, flags
import jax
from jax.extend import core
import numpy as np

from benchmarks import timing
from lcaps_jax.data import api
from lcaps_jax.data.augment import to_unit_range
from lcaps_jax.infer.pretrained import load_model
from lcaps_jax.train.config import Config
from lcaps_jax.util import process

PASSES = (1, 3, 6)
_BATCH = 100
_PRODUCTS = (core.primitives.dot_general_p, core.primitives.conv_general_dilated_p)
_CALLS = {core.primitives.jit_p: "jaxpr", core.primitives.custom_jvp_call_p: "call_jaxpr"}


def in_passes(function: Callable[..., Any], passes: int) -> Callable[..., Any]:
    """The same function of arrays, with each of its products in so many passes over bfloat16 numbers.

    It raises NotImplementedError for loops and the like. Call it without ``jax.jit``: compiled as a whole by JAX 0.10.2
    for a CPU, six passes gave NaN where the operations by themselves do not.
    """

    def computed(*arguments):
        program, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
        found = _evaluate(program, jax.tree.leaves(arguments), passes)
        return jax.tree.unflatten(jax.tree.structure(shape), found)

    return computed


def _evaluate(program: core.ClosedJaxpr, arguments: Sequence[jax.Array], passes: int) -> list[jax.Array]:
    """Computes a traced program, one operation after another."""
    jaxpr = program.jaxpr
    values: dict = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*program.consts, *arguments], strict=True))

    def value(variable):
        return variable.val if isinstance(variable, core.Literal) else values[variable]

    for operation in jaxpr.eqns:
        primitive, taken = operation.primitive, [value(variable) for variable in operation.invars]
        multiply = functools.partial(primitive.bind, **operation.params)
        if primitive in _PRODUCTS:
            made = [_product(multiply, *taken, passes)]
        elif primitive in _CALLS:
            made = _evaluate(operation.params[_CALLS[primitive]], taken, passes)
        elif list(core.jaxprs_in_params(operation.params)):
            raise NotImplementedError(f"Products within {primitive} would not be split.")
        else:
            made = multiply(*taken)
            made = made if primitive.multiple_results else [made]
        values.update(zip(operation.outvars, made, strict=True))
    return [value(variable) for variable in jaxpr.outvars]


def _product(multiply: Callable[..., jax.Array], a: jax.Array, b: jax.Array, passes: int) -> jax.Array:
    """A product by the pairs of bfloat16 parts that are largest, the smallest pairs first."""
    most = PASSES.index(passes)
    pairs = [(i, j) for i in range(most + 1) for j in range(most + 1 - i)]
    a_parts, b_parts = _parts(a, most + 1), _parts(b, most + 1)
    return sum(multiply(a_parts[i], b_parts[j]) for i, j in sorted(pairs, key=sum, reverse=True))


def _parts(x: jax.Array, count: int) -> list[jax.Array]:
    """Numbers of bfloat16, held as float32, that add up to an array, the largest first."""
    parts = []
    for _ in range(count):
        # Not a conversion there and back, which XLA may leave out.
        parts.append(jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7))
        x = x - parts[-1]
    return parts


def main() -> None:
    """The command line."""
    count = flags.DEFINE_integer("images", 1000, "Test digits.", lower_bound=_BATCH, upper_bound=2000)
    output = flags.DEFINE_string("output", "benchmarks/results/precision.json", "JSON file to write.")

    def parsed(argv):
        del argv
        process.prepare()
        model = load_model("mnist_small")
        # As off the CPU, where convolutions are left to XLA.
        network = Config.from_settings({**model.config.settings, "convolution": "direct"}).network
        test = api.load("sample").test.take(np.arange(count.value))

        def apply(images):
            output = network.apply({"params": model.params}, to_unit_range(images))
            return output.activity, output.kept_index

        def of_all(function):
            parts = [function(test.images[start : start + _BATCH]) for start in range(0, count.value, _BATCH)]
            activity, index = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
            return activity, np.sort(index, axis=1)

        exact, kept = of_all(jax.jit(apply))
        rows = {"float32": {"error": _error(exact, test.labels)}}
        for passes in reversed(PASSES):
            activity, index = of_all(in_passes(apply, passes))
            rows[str(passes)] = {
                "error": _error(activity, test.labels),
                "largest_change": float(np.max(np.abs(activity - exact))),
                "other_capsules": 100 * float(np.mean(np.any(index != kept, axis=1))),
            }
        timing.show(rows)
        timing.write(output.value, {"images": count.value, "passes": rows})

    app.run(parsed)


def _error(activity: np.ndarray, labels: np.ndarray) -> float:
    return 100 * float(np.mean(activity.argmax(axis=1) != labels))


if __name__ == "__main__":
    main()
