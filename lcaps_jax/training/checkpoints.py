"""Checkpoints, atomic and asynchronous, by Orbax, which this file alone knows.

``checkpoints/last/STEP`` holds the whole training state, ``checkpoints/best/STEP`` the parameters with the lowest error
on held-out training images. Every process calls save and restore.
"""

from collections.abc import Iterator
import contextlib
import functools
import logging
import pathlib
import shutil
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from lcaps_jax import parallel
from lcaps_jax.errors import UserError, arg
from lcaps_jax.runtime import say

LAST = "last"
BEST = "best"
FOLDER = "checkpoints"
_DAMAGED = "damaged"
# Until the run is finished the last but one stays, in case the last turns out to be damaged.
_KEEP = {LAST: 2, BEST: 1}


class CheckpointError(UserError, RuntimeError):
    """A checkpoint cannot be read or written; the message names the folder and what was found."""


def _first_line(error: BaseException) -> str:
    while error.__cause__ is not None and str(error.__cause__):  # because Orbax wraps its storage's error
        error = error.__cause__
    return str(error).splitlines()[0] if str(error) else type(error).__name__


@functools.cache
def _silence_abandoned_reads() -> None:
    """Keeps Orbax from printing a traceback for each read that it abandons when another one fails.

    The abandoned reads end later, in the storage's threads or when they are collected as garbage, where no caller can
    catch anything. The failure itself is raised to the caller. The threads report only that the event loop is closed.
    """
    print_unraisable = sys.unraisablehook

    def hook(unraisable) -> None:
        coroutine = getattr(unraisable.object, "cr_code", None)
        if coroutine is not None and "orbax" in pathlib.Path(coroutine.co_filename).parts:
            return
        if str(unraisable.exc_value) != "Event loop is closed":
            print_unraisable(unraisable)

    def is_of_others(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        of_orbax = any(name in message for name in ("orbax", "TensorStore", "OCDBT"))
        return not ("never retrieved" in message and of_orbax)

    sys.unraisablehook = hook
    logging.getLogger("asyncio").addFilter(is_of_others)


def check_path(workdir: str | pathlib.Path) -> None:
    """Raises CheckpointError for a path that Orbax takes for a pattern, because it could not read its checkpoints."""
    path = str(pathlib.Path(workdir).absolute())
    if found := sorted(set(path) & set("*?[")):
        raise CheckpointError(
            f"{arg('workdir')}={workdir}: the path {path} has {' and '.join(found)} in it, and checkpoints could not "
            "be read there. Give a path without *, ? and [."
        )


class Checkpoints:
    """The checkpoints of a run.

    Args:
      workdir: Folder of the run.
      read_only: Whether everything on disk stays as it is; otherwise half-written checkpoints are removed.
    """

    def __init__(self, workdir: pathlib.Path, *, read_only: bool = False):
        check_path(workdir)
        self._folder = (pathlib.Path(workdir) / FOLDER).absolute()
        self._read_only = read_only
        self._managers: dict[str, ocp.CheckpointManager] = {}

    def _manager(self, kind: str) -> ocp.CheckpointManager:
        if kind not in self._managers:
            options = ocp.CheckpointManagerOptions(
                max_to_keep=_KEEP[kind],
                create=not self._read_only,
                cleanup_tmp_directories=not self._read_only,
                enable_async_checkpointing=not self._read_only,
            )
            self._managers[kind] = ocp.CheckpointManager(
                self._folder / kind, options=options, item_handlers=ocp.StandardCheckpointHandler()
            )
        return self._managers[kind]

    def steps(self, kind: str = LAST) -> list[int]:
        """Steps of the finished checkpoints, ascending."""
        if not (self._folder / kind).is_dir():
            return []
        return sorted(self._manager(kind).all_steps())

    def save(self, step: int, tree, kind: str = LAST) -> None:
        """Saves a pytree of arrays in the background; returns once it is copied, so that it may be donated.

        What was saved before is on disk by then, so that checkpoints of both kinds appear in the order of the calls.

        Raises:
          CheckpointError: A checkpoint of that step or a later one stands already, or the disk is full.
        """
        self.wait()
        self._check_space(step, tree)
        # Orbax reads a CPU's arrays in place while it writes, and a donated array is overwritten by the next step.
        snapshot = parallel.to_global(jax.tree.map(jnp.copy, tree))
        with self._writing():
            saved = self._manager(kind).save(step, args=ocp.args.StandardSave(snapshot))
        if not saved:
            raise CheckpointError(
                f"Step {step} was not saved in {self._folder / kind}, which holds {self.steps(kind)}."
            )

    def restore(self, target, kind: str = LAST):
        """Restores the newest checkpoint that can be read.

        Unless read-only, newer ones are set aside, because training writes them anew. With newer checkpoints of the
        state, newer ones of the best parameters are set aside too.

        Args:
          target: Pytree of arrays whose shapes, types and placement on devices the result is to have.
          kind: ``LAST`` or ``BEST``.

        Returns:
          The pytree and its step, or None where there is no checkpoint.

        Raises:
          CheckpointError: There are checkpoints and none can be read, or one is of another network.
        """
        abstract = parallel.to_global(jax.tree.map(ocp.utils.to_shape_dtype_struct, target))
        failures = []
        _silence_abandoned_reads()
        for step in reversed(self.steps(kind)):
            try:
                self._check_same_network(step, kind, abstract)
                tree = self._manager(kind).restore(step, args=ocp.args.StandardRestore(abstract))
            except CheckpointError:
                raise
            except Exception as error:  # Orbax passes on whatever the damaged part raises
                failures.append(f"step {step}: {_first_line(error)}")
                self._managers.pop(kind).close()  # because it may remember what it read of the damaged one
                continue
            if failures:
                say(f"Could not read the newest checkpoint ({'; '.join(failures)}); using that of step {step}.")
                if not self._read_only:
                    for each in (LAST, BEST) if kind == LAST else (kind,):
                        self._set_aside([newer for newer in self.steps(each) if newer > step], each)
            return parallel.to_local(tree), step
        if failures:
            raise CheckpointError(f"No checkpoint in {self._folder / kind} can be read: {'; '.join(failures)}.")
        return None

    def finish(self, state) -> None:
        """Reads the newest state back, and then deletes the ones before, which a finished run does not need.

        So no run is called saved that cannot be read, and nothing is deleted before that is known.

        Args:
          state: What the newest checkpoint of the state has to hold.

        Raises:
          CheckpointError: It cannot be read, or holds something else; the ones before stay.
        """
        self.wait()
        newest = self.steps()[-1]
        read, step = self.restore(state)
        if step != newest:
            raise CheckpointError(
                f"The checkpoint of step {newest} in {self._folder} cannot be read back. The run stands at step "
                f"{step}; the same command goes on from there."
            )
        same = jax.tree.all(jax.tree.map(functools.partial(np.array_equal, equal_nan=True), read, state))
        if parallel.any_process(not same):
            raise CheckpointError(
                f"The checkpoint of step {newest} in {self._folder} reads back as other numbers than were saved: check "
                f"the disk. The states of the steps {self.steps()} are kept."
            )
        for older in self.steps()[:-1]:
            self._manager(LAST).delete(older)

    def _check_same_network(self, step: int, kind: str, target) -> None:
        """Raises CheckpointError where a checkpoint holds arrays of other names or shapes."""
        stored = {
            leaf.name: tuple(leaf.shape) for leaf in jax.tree.leaves(self._manager(kind).item_metadata(step).tree)
        }
        wanted = {
            ".".join(
                str(getattr(key, "name", getattr(key, "key", getattr(key, "idx", None)))) for key in path
            ): leaf.shape
            for path, leaf in jax.tree_util.tree_leaves_with_path(target)
        }
        for name in sorted(stored | wanted):
            if stored.get(name) != wanted.get(name):
                raise CheckpointError(
                    f"The checkpoint of step {step} in {self._folder / kind} is of another network: {name} has the "
                    f"shape {stored.get(name, 'of nothing')} there and {wanted.get(name, 'of nothing')} here."
                )

    def _set_aside(self, steps: list[int], kind: str) -> None:
        """Moves checkpoints to ``checkpoints/damaged``. They are kept, because what stopped their reading may pass."""
        if not steps:
            return
        if parallel.is_main():
            folder = self._folder / _DAMAGED
            folder.mkdir(exist_ok=True)
            for step in steps:
                (self._folder / kind / str(step)).rename(folder / f"{kind}_{step}_{time.time_ns()}")
        parallel.wait_for_all("damaged checkpoints set aside")
        self._manager(kind).reload()

    def wait(self) -> None:
        """Returns when everything saved is on disk.

        Raises:
          CheckpointError: Writing it failed in the background.
        """
        with self._writing():
            for manager in self._managers.values():
                manager.wait_until_finished()

    def _check_space(self, step: int, tree) -> None:
        """Raises CheckpointError, before anything is written, where a checkpoint would not fit on the disk."""
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
        self._folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self._folder).free
        if parallel.any_process(parallel.is_main() and free < needed):
            raise CheckpointError(
                f"The checkpoint of step {step} takes {needed / 2**20:.1f} MiB, and {free / 2**20:.1f} are free in "
                f"{self._folder}. What was saved before stays; once there is room, the same command continues."
            )

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # Orbax and its storage raise many kinds for a bad disk
            raise CheckpointError(
                f"A checkpoint could not be written in {self._folder} ({_first_line(error)}). What was saved before "
                f"stays; once the cause is gone, the same command continues."
            ) from error

    def close(self) -> None:
        """Waits until everything is on disk, and frees the threads."""
        for manager in self._managers.values():
            manager.close()
        self._managers.clear()
