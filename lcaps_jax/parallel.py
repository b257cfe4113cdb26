"""Devices and processes: the one file that counts them, and the one that tunes the host's allocator for them.

State and data are replicated; only a call's batch indices are divided. Since JAX 0.10 ``pmap`` is jit of shard_map,
so with ``in_axes=None`` and ``out_axes=None`` arrays carry no device axis, on one process and on many.
"""

from collections.abc import Callable, Sequence
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


def _replicated(devices: Sequence[jax.Device]) -> jax.sharding.NamedSharding:
    return jax.sharding.NamedSharding(jax.sharding.Mesh(np.array(devices), (AXIS,)), jax.sharding.PartitionSpec())


def replicate(tree):
    """Puts a copy of every array on every device, as ``pmap`` returns them, so that nothing compiles twice.

    Of several processes each has the arrays on its own devices.
    """
    return jax.device_put(tree, _replicated(jax.local_devices()))


def like_replicated(shapes):
    """Abstract arrays of ``jax.eval_shape``, to be restored as ``replicate`` would place them."""
    sharding = _replicated(jax.local_devices())
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes)


def to_global(tree):
    """Replicated arrays as those of all processes together, which is how checkpoints are written and read."""
    if jax.process_count() == 1:
        return tree
    sharding = _replicated(jax.devices())

    def one(x):
        if isinstance(x, jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
        shards = [shard.data for shard in x.addressable_shards]
        return jax.make_array_from_single_device_arrays(x.shape, sharding, shards)

    return jax.tree.map(one, tree)


def to_local(tree):
    """The way back from ``to_global``."""
    if jax.process_count() == 1:
        return tree
    sharding = _replicated(jax.local_devices())

    def one(x):
        shards = [shard.data for shard in x.addressable_shards]
        return jax.make_array_from_single_device_arrays(x.shape, sharding, shards)

    return jax.tree.map(one, tree)


def any_process(flag: bool) -> bool:
    """Whether ``flag`` is set on any process, so that all take the same branch."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.process_allgather(np.array(flag)).any())


def wait_for_all(name: str) -> None:
    """Returns when every process has come to the same call; ``name`` is for the message where one does not."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def say(text: str) -> None:
    """Prints a line, once for all processes."""
    if is_main():
        print(text, flush=True)


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


def connect(address: str | None = None, processes: int | None = None, process: int | None = None) -> None:
    """Makes this process one of several that train together; after ``prepare``, before anything else.

    Args:
      address: ``HOST:PORT`` of process 0, to which all connect.
      processes: how many.
      process: which of them this is, from 0.

    All three or none: on TPU pods, under Slurm and under Open MPI, JAX finds them out.

    Raises:
      DeviceError: for values that cannot be, and where the others do not come.
    """
    given = [value is not None for value in (address, processes, process)]
    if any(given) and not all(given):
        raise DeviceError("--coordinator_address, --num_processes and --process_id: give all three, or none of them.")
    if processes is not None and not 0 <= process < processes:
        raise DeviceError(f"--process_id={process}: must be 0 to {processes - 1}, one less than --num_processes.")
    try:
        jax.distributed.initialize(
            address,
            processes,
            process,
            initialization_timeout=_CONNECT_SECONDS,
            heartbeat_timeout_seconds=_SILENCE_SECONDS,
            shutdown_timeout_seconds=_SILENCE_SECONDS,
        )
    except (RuntimeError, ValueError) as error:
        raise DeviceError(
            f"--distributed: the processes could not be brought together ({str(error).splitlines()[0]}). Outside TPU "
            f"pods, Slurm and Open MPI give --coordinator_address=HOST:PORT, --num_processes and --process_id."
        ) from None


# For which all processes wait for each other at the start, and after which one that is silent is taken for dead.
_CONNECT_SECONDS, _SILENCE_SECONDS = 120, 30


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
