"""Checkpoints, atomic and asynchronous, by Orbax, which this file alone knows.

``checkpoints/last/STEP`` holds the parameters and, apart from them, the rest of the training state;
``checkpoints/best/STEP`` holds the parameters with the lowest error on held-out training images. Every process calls
save and restore.
"""

from collections.abc import Iterator, Mapping
import contextlib
import functools
import pathlib
import shutil
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from lcaps_jax.train.steps import TrainState
from lcaps_jax.util import devices
from lcaps_jax.util.errors import UserError
from lcaps_jax.util.process import say

LAST = "last"
BEST = "best"
FOLDER = "checkpoints"
_DAMAGED = "damaged"
_PARAMS, _TRAINING = "params", "training"  # items of a checkpoint
# Until the run is finished the last but one stays, in case the last turns out to be damaged.
_KEEP = {LAST: 2, BEST: 1}


class CheckpointError(UserError):
    """A checkpoint cannot be read or written; the message names the folder and what was found."""


def check_path(workdir: str | pathlib.Path) -> None:
    """Raises CheckpointError for a path that Orbax takes for a pattern, because it could not read its checkpoints."""
    path = str(pathlib.Path(workdir).absolute())
    if found := sorted(set(path) & set("*?[")):
        raise CheckpointError(
            f"workdir={workdir}: the path {path} contains {' and '.join(found)}, and checkpoints could not be read "
            "there. Give a path without *, ? and [."
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
            handlers = {name: ocp.StandardCheckpointHandler() for name in (_PARAMS, _TRAINING)}
            self._managers[kind] = ocp.CheckpointManager(self._folder / kind, options=options, item_handlers=handlers)
        return self._managers[kind]

    def steps(self, kind: str = LAST) -> list[int]:
        """Steps of the finished checkpoints, ascending."""
        if not (self._folder / kind).is_dir():
            return []
        return sorted(self._manager(kind).all_steps())

    def save(self, step: int, state: TrainState, kind: str = LAST) -> None:
        """Saves a state, of the best one the parameters alone, in the background once the arrays are copied.

        What was saved before is on disk by then, so that checkpoints of both kinds appear in the order of the calls.

        Raises:
          CheckpointError: A checkpoint of that step or a later one exists already, or the disk is full.
        """
        self.wait()
        items = _items(state) if kind == LAST else {_PARAMS: state.params}
        self._check_space(step, items)
        # Orbax reads a CPU's arrays in place while it writes, and a donated array is overwritten by the next step.
        snapshot = devices.to_global(jax.tree.map(jnp.copy, items))
        args = {name: ocp.args.StandardSave(tree) for name, tree in snapshot.items()}
        with self._writing():
            saved = self._manager(kind).save(step, args=ocp.args.Composite(**args))
        if not saved:
            raise CheckpointError(f"Step {step} was not saved in {self._folder / kind}: it holds {self.steps(kind)}.")

    def restore(self, state: TrainState) -> tuple[TrainState, int] | None:
        """Restores the newest training state that can be read, placed as ``state`` is, and its step.

        None where there is no checkpoint. Newer ones that cannot be read are set aside, because training writes them
        again, and so are newer ones of the best parameters.

        Raises:
          CheckpointError: There are checkpoints and none can be read, or one is of another network.
        """
        found = self._restore(_items(state), LAST)
        return found and (TrainState(params=found[0][_PARAMS], **found[0][_TRAINING]), found[1])

    def restore_params(self, params: Any, kind: str) -> tuple[dict, int] | None:
        """Restores the newest parameters alone, and their step; see ``restore``."""
        found = self._restore({_PARAMS: params}, kind)
        return found and (found[0][_PARAMS], found[1])

    def _restore(self, target: Mapping[str, Any], kind: str) -> tuple[dict, int] | None:
        abstract = devices.to_global(jax.tree.map(ocp.utils.to_shape_dtype_struct, dict(target)))
        args = ocp.args.Composite(**{name: ocp.args.StandardRestore(tree) for name, tree in abstract.items()})
        failures = []
        for step in reversed(self.steps(kind)):
            try:
                self._check_same_network(step, kind, abstract[_PARAMS])
                restored = self._manager(kind).restore(step, args=args)
            except CheckpointError:
                raise
            except Exception as error:  # Orbax passes on whatever the damaged part raises
                failures.append(f"step {step}: {_first_line(error)}")
                self._managers.pop(kind).close()  # because it may remember what it read of the damaged one
                continue
            if failures:
                say(f"Could not read the newest checkpoint ({'; '.join(failures)}); using that of step {step}.")
                if not self._read_only:
                    self._set_aside_newer(step, (LAST, BEST) if kind == LAST else (kind,))
            return devices.to_local({name: restored[name] for name in target}), step
        if failures:
            raise CheckpointError(f"No checkpoint in {self._folder / kind} can be read: {'; '.join(failures)}.")
        return None

    def finish(self, state: TrainState) -> None:
        """Reads the newest checkpoint back, and then deletes the ones before, which a finished run does not need.

        Raises:
          CheckpointError: It cannot be read, or does not hold ``state``; the ones before stay.
        """
        self.wait()
        newest = self.steps()[-1]
        read, step = self.restore(state)
        if step != newest:
            raise CheckpointError(
                f"The checkpoint of step {newest} in {self._folder} cannot be read back. The run is at step {step}; "
                "the same command goes on from there."
            )
        same = jax.tree.all(jax.tree.map(functools.partial(np.array_equal, equal_nan=True), read, state))
        if devices.any_process(not same):
            raise CheckpointError(
                f"The checkpoint of step {newest} in {self._folder} reads back as other numbers than were saved: check "
                f"the disk. The states of steps {self.steps()} are kept."
            )
        for older in self.steps()[:-1]:
            self._manager(LAST).delete(older)

    def _check_same_network(self, step: int, kind: str, params) -> None:
        """Raises CheckpointError where a checkpoint holds parameters of other names or shapes."""
        stored = _shapes(self._manager(kind).item_metadata(step)[_PARAMS].tree)
        wanted = _shapes(params)
        for name in sorted(stored | wanted):
            if stored.get(name) != wanted.get(name):
                raise CheckpointError(
                    f"The checkpoint of step {step} in {self._folder / kind} is of another network: {name} has the "
                    f"shape {stored.get(name, 'of nothing')} there and {wanted.get(name, 'of nothing')} here."
                )

    def _set_aside_newer(self, step: int, kinds: tuple[str, ...]) -> None:
        """Moves newer checkpoints to ``checkpoints/damaged``; what stopped their reading may pass, so they are kept."""
        for kind in kinds:
            newer = [each for each in self.steps(kind) if each > step]
            if not newer:
                continue
            if devices.is_main():
                folder = self._folder / _DAMAGED
                folder.mkdir(exist_ok=True)
                for each in newer:
                    (self._folder / kind / str(each)).rename(folder / f"{kind}_{each}_{time.time_ns()}")
            devices.wait_for_all("damaged checkpoints set aside")
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
        if devices.any_process(devices.is_main() and free < needed):
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


def _items(state: TrainState) -> dict[str, Any]:
    """A state by the items of its checkpoint."""
    return {_PARAMS: state.params, _TRAINING: {"step": state.step, "opt_state": state.opt_state}}


def _shapes(tree) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape) for path, leaf in leaves}


def _first_line(error: BaseException) -> str:
    while error.__cause__ is not None and str(error.__cause__):  # because Orbax wraps its storage's error
        error = error.__cause__
    return str(error).splitlines()[0] if str(error) else type(error).__name__
