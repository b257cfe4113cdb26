"""Devices and processes: the one file that counts them, and the one that tunes the host's allocator for them.

State and data are replicated; only a call's batch indices are divided. Since JAX 0.10 ``pmap`` is jit of shard_map,
so with ``in_axes=None`` and ``out_axes=None`` arrays carry no device axis, on one process and on many.
"""

from collections.abc import Callable
import ctypes
import os
import pathlib

import jax
from jax import lax
from jax.experimental import multihost_utils
import numpy as np

AXIS = "data"


class DeviceError(ValueError):
    """What does not fit the devices at hand; the message names both."""


def is_main() -> bool:
    """Whether this process is the one that writes logs, figures and JSON."""
    return jax.process_index() == 0


def describe() -> str:
    """The devices, in words."""
    kinds = sorted({device.device_kind for device in jax.devices()})
    return f"{jax.device_count()} x {', '.join(kinds)} ({jax.default_backend()}), {jax.process_count()} process(es)"


def pmap(function: Callable, *, donate_first: bool = False) -> Callable:
    """Maps ``function(state, data, batch)`` over all devices.

    Args:
      function: takes replicated ``state`` and ``data`` and a device's share of ``batch``. What it returns must be
        the same on all devices, which is not checked here (a test does it): reduce it with ``mean``, ``total`` or
        ``gather``.
      donate_first: whether ``state`` may be overwritten.

    Returns:
      A function of state, data, and the local devices' batches with a leading device axis, as ``shard`` makes them.
    """
    donate = (0,) if donate_first else ()
    return jax.pmap(function, axis_name=AXIS, in_axes=(None, None, 0), out_axes=None, donate_argnums=donate)


def mean(tree):
    """Mean over the devices; inside ``pmap``. Of one device there is nothing to do, which XLA would do by copying."""
    return tree if lax.axis_size(AXIS) == 1 else lax.pmean(tree, AXIS)


def total(tree):
    """Sum over the devices; inside ``pmap``."""
    return lax.psum(tree, AXIS)


def gather(x: jax.Array, axis: int) -> jax.Array:
    """The devices' shares of a global batch put together along ``axis``; inside ``pmap``."""
    return lax.all_gather(x, AXIS, axis=axis, tiled=True)


def check_batch_size(batch_size: int) -> None:
    """Raises DeviceError, naming the nearest that do, for a batch that does not divide among the devices."""
    devices = jax.device_count()
    if batch_size % devices:
        lower, upper = batch_size // devices * devices, round_up(batch_size)
        near = f"{upper}" if not lower else f"{lower} or {upper}"
        raise DeviceError(
            f"--batch_size={batch_size} does not divide among {devices} devices; the nearest that does: {near}."
        )


def round_up(batch_size: int) -> int:
    """The smallest batch of at least that size that divides among the devices."""
    return -(-batch_size // jax.device_count()) * jax.device_count()


def shard(batches: np.ndarray) -> np.ndarray:
    """This process's share of global batches: ``[steps, B]`` to ``[local devices, steps, B/devices]``."""
    steps, batch = batches.shape
    by_device = batches.reshape(steps, jax.device_count(), batch // jax.device_count()).swapaxes(0, 1)
    places = {device: place for place, device in enumerate(jax.devices())}
    return by_device[[places[device] for device in jax.local_devices()]]


def _replicated() -> jax.sharding.NamedSharding:
    """The placement that ``pmap`` gives what it returns, so that nothing compiles twice."""
    return jax.sharding.NamedSharding(jax.sharding.Mesh(np.array(jax.devices()), (AXIS,)), jax.sharding.PartitionSpec())


def replicate(tree):
    """Puts a copy of every array on every device."""
    return jax.device_put(tree, _replicated())


def like_replicated(shapes):
    """Abstract arrays of ``jax.eval_shape``, to be restored as ``replicate`` would place them."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=_replicated()), shapes)


def any_process(flag: bool) -> bool:
    """Whether ``flag`` is set on any process, so that all take the same branch."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.process_allgather(np.array(flag)).any())


def check_fits(nbytes: int, what: str) -> None:
    """Raises DeviceError where so many bytes do not fit beside a network in each device's memory."""
    for device in jax.local_devices():
        limit = (device.memory_stats() or {}).get("bytes_limit")
        if limit is None:  # a CPU: its devices share the machine's memory
            limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // jax.local_device_count()
        if nbytes > 0.8 * limit:
            raise DeviceError(
                f"{what} takes {nbytes / 2**30:.1f} GiB, which does not fit beside the network in the "
                f"{limit / 2**30:.1f} GiB of {device.device_kind}: use a smaller --image_size or a smaller set."
            )


def prepare() -> None:
    """What an entry point does first of all."""
    reuse_freed_memory()
    _keep_compiled_programs()


def _keep_compiled_programs() -> None:
    """Keeps compiled programs on disk between runs (in JAX_COMPILATION_CACHE_DIR where that is set)."""
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(cache / "lcaps_jax" / "programs"))


# Parameters of glibc's mallopt (malloc.h).
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8


def reuse_freed_memory() -> None:
    """Makes glibc keep freed memory, which makes work on large arrays faster; without glibc does nothing.

    By default each large temporary array is mapped afresh from the kernel and unmapped after use, and the page faults
    of touching it can take longer than the arithmetic on it. ``docs/performance.md`` has what it gives. To be called
    before JAX looks for devices: the threads that it starts then keep the arenas that they have.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return  # not glibc
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, -1)
    mallopt(_M_TOP_PAD, 2**28)
    mallopt(_M_ARENA_MAX, 1)
