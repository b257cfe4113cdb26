"""Devices and processes: the one file that counts them.

State and data are replicated; only the batch indices of a call are divided. Since JAX 0.10 ``pmap`` is jit of
shard_map, so with ``in_axes=None`` and ``out_axes=None`` arrays carry no device axis, on one process and on many.
"""

from collections.abc import Callable, Sequence
import os

import jax
from jax import lax
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np

from lcaps_jax.util.errors import UserError

AXIS = "data"
_CONNECT_SECONDS = 120  # that all processes wait for each other at the start
_SILENCE_SECONDS = 30  # after which a silent process is taken for dead
_DATA_SHARE = 0.8  # of a device's memory that data may take; the network and its step need the rest


class DeviceError(UserError):
    """Something does not fit the devices at hand; the message names both."""


def is_main() -> bool:
    """Whether this process is the one that writes logs, plots and JSON."""
    return jax.process_index() == 0


def describe() -> str:
    """The devices, in words."""
    kinds = sorted({device.device_kind for device in jax.devices()})
    return f"{jax.device_count()} x {', '.join(kinds)} ({jax.default_backend()}), {jax.process_count()} process(es)"


def pmap(function: Callable, *, donate_first: bool = False, devices: Sequence[jax.Device] | None = None) -> Callable:
    """Maps ``function(state, data, batch)`` over all devices, or over ``devices``, which may be absent while compiling.

    State and data are replicated, and ``donate_first`` lets the state be overwritten; batches are as ``shard`` makes
    them. The function must return the same on all devices, by ``mean``, ``total`` or ``gather``; only a test checks it.
    """
    donate = (0,) if donate_first else ()
    return jax.pmap(
        function, axis_name=AXIS, in_axes=(None, None, 0), out_axes=None, donate_argnums=donate, devices=devices
    )


def mean(tree):
    """Mean over the devices; inside ``pmap``. A single device skips it, because XLA would copy its arrays."""
    return tree if lax.axis_size(AXIS) == 1 else lax.pmean(tree, AXIS)


def total(tree):
    """Sum over the devices; inside ``pmap``."""
    return lax.psum(tree, AXIS)


def gather(x: jax.Array, axis: int) -> jax.Array:
    """The devices' shares of a global batch put together along ``axis``; inside ``pmap``."""
    return lax.all_gather(x, AXIS, axis=axis, tiled=True)


def check_batch_size(batch_size: int) -> None:
    """Raises DeviceError for a batch that does not divide among the devices, and names the nearest sizes that do."""
    devices, upper = jax.device_count(), round_up(batch_size)
    if batch_size % devices:
        near = f"{upper - devices} or {upper}" if upper > devices else f"{upper}"
        raise DeviceError(f"batch_size={batch_size}: must divide among {devices} devices, such as {near}.")


def round_up(batch_size: int) -> int:
    """The smallest batch of at least that size that divides among the devices."""
    return -(-batch_size // jax.device_count()) * jax.device_count()


def shard(batches: np.ndarray) -> np.ndarray:
    """This process's share of global batches: ``[steps, B]`` to ``[local devices, steps, B/devices]``."""
    steps, batch = batches.shape
    by_device = batches.reshape(steps, jax.device_count(), batch // jax.device_count()).swapaxes(0, 1)
    places = {device: place for place, device in enumerate(jax.devices())}
    return by_device[[places[device] for device in jax.local_devices()]]


def _replicated(devices: Sequence[jax.Device]) -> NamedSharding:
    return NamedSharding(Mesh(np.array(devices), (AXIS,)), PartitionSpec())


def replicate(tree):
    """Puts a copy of every array on every device of this process, where ``pmap`` puts its results too."""
    return jax.device_put(tree, _replicated(jax.local_devices()))


def like_replicated(shapes):
    """Abstract arrays of ``jax.eval_shape``, to be restored as ``replicate`` would place them."""
    sharding = _replicated(jax.local_devices())
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes)


def to_global(tree):
    """Replicated arrays as arrays of all processes together, the form in which checkpoints are written and read."""
    return _moved(tree, jax.devices())


def to_local(tree):
    """Global arrays as this process's replicated arrays: the inverse of ``to_global``."""
    return _moved(tree, jax.local_devices())


def _moved(tree, devices: Sequence[jax.Device]):
    if jax.process_count() == 1:
        return tree
    sharding = _replicated(devices)

    def one(x):
        if isinstance(x, jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
        shards = [shard.data for shard in x.addressable_shards]
        return jax.make_array_from_single_device_arrays(x.shape, sharding, shards)

    return jax.tree.map(one, tree)


def any_process(flag: bool) -> bool:
    """Whether ``flag`` is set on any process, so that all take the same branch."""
    return flag if jax.process_count() == 1 else bool(multihost_utils.process_allgather(np.array(flag)).any())


def wait_for_all(name: str) -> None:
    """Returns when every process has reached this call; if one does not, the error shows ``name``."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def check_fits(nbytes: int, what: str) -> None:
    """Raises DeviceError for data, named ``what``, that do not fit beside a network in the memory of each device."""
    for device in jax.local_devices():
        limit = (device.memory_stats() or {}).get("bytes_limit")
        if limit is None:  # a CPU: its devices share the machine's memory
            limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // jax.local_device_count()
        if nbytes > _DATA_SHARE * limit:
            needed, there = f"{nbytes / 2**30:.1f} GiB", f"{limit / 2**30:.1f} GiB of {device.device_kind}"
            raise DeviceError(f"{what} takes {needed}, and must fit beside the network into {there}; use less data.")


def connect(
    coordinator_address: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> None:
    """Makes this process, number ``process_id`` from 0, one of several that train together, or raises DeviceError.

    Call it after ``process.prepare`` and before anything else. Give all three arguments or none: on TPU pods, under
    Slurm and under Open MPI, JAX finds them itself.
    """
    given = [value is not None for value in (coordinator_address, num_processes, process_id)]
    if any(given) != all(given):
        raise DeviceError("coordinator_address, num_processes, process_id: give all three, or none of them.")
    if num_processes is not None and not 0 <= process_id < num_processes:
        raise DeviceError(f"process_id={process_id}: must be 0 to {num_processes - 1}, one less than num_processes.")
    try:
        jax.distributed.initialize(
            coordinator_address, num_processes, process_id, initialization_timeout=_CONNECT_SECONDS,
            heartbeat_timeout_seconds=_SILENCE_SECONDS, shutdown_timeout_seconds=_SILENCE_SECONDS,
        )  # fmt: skip
    except (RuntimeError, ValueError) as error:
        needed = "Outside TPU pods, Slurm and Open MPI, give coordinator_address, num_processes and process_id."
        raise DeviceError(f"The processes could not be connected ({str(error).splitlines()[0]}). {needed}") from None
