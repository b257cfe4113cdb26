"""How the benchmarks measure: medians of alternating runs in one process, and the machine's own speed beside them."""

from collections.abc import Callable, Mapping
import json
import os
import pathlib
import platform
import time

import jax
import jax.numpy as jnp
import numpy as np

_MATMUL = 2048


def matmul() -> Callable[[], None]:
    """One float32 product of 2048x2048 matrices; its best time is the unit M of ``docs/performance.md``."""
    a = jnp.ones((_MATMUL, _MATMUL))
    product = jax.jit(lambda a: jnp.dot(a, a, precision="highest"))
    return lambda: product(a).block_until_ready()


def matmul_flops(seconds: float) -> float:
    """The arithmetic rate of that product, FLOP/s."""
    return 2 * _MATMUL**3 / seconds


def alternate(functions: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, np.ndarray]:
    """Runs each function once unmeasured, then all in turn, ``rounds`` times.

    Args:
      functions: Functions by name; each returns when its work is done.
      rounds: Number of measurements of each.

    Returns:
      Seconds of each function by name, ``[rounds]``.
    """
    for function in functions.values():
        function()
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            began = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - began)
    return {name: np.array(values) for name, values in seconds.items()}


def table(header: tuple[str, ...], rows: list[tuple]) -> str:
    """A Markdown table."""
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def write(path: str | pathlib.Path, metrics: dict, part: str | None = None) -> None:
    """Writes metrics as JSON, with the machine and the version of JAX that they were measured on.

    Args:
      path: Path of the file.
      metrics: Metrics by name.
      part: Key of the part of the file that they replace, beside others that were measured at another time; None for
        the whole file.
    """
    about = {
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores",
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
    }
    path, measured = pathlib.Path(path), {**about, **metrics}
    if part is not None:
        measured = {**(json.loads(path.read_text()) if path.exists() else {}), part: measured}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(measured, indent=2) + "\n")
