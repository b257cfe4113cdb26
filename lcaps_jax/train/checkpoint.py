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
_GO_ON = "What was saved before stays; once the cause is gone, the same command continues."
_PARAMS, _TRAINING = "params", "training"  # items of a checkpoint
_KEEP = {LAST: 2, BEST: 1}  # until the run is finished the last but one stays, in case the last is damaged


class CheckpointError(UserError):
    """A checkpoint cannot be read or written; the message names the folder and what was found."""


def check_path(workdir: str | pathlib.Path) -> None:
    """Raises CheckpointError for a path that Orbax takes for a pattern, because it could not read its checkpoints."""
    path = str(pathlib.Path(workdir).absolute())
    if set(path) & set("*?["):
        raise CheckpointError(f"workdir={workdir}: must have no *, ? or [ in its path, which is {path}.")


class Checkpoints:
    """The checkpoints of a run; unless ``read_only``, half-written ones are removed."""

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
        return sorted(self._manager(kind).all_steps()) if (self._folder / kind).is_dir() else []

    def save(self, step: int, state: TrainState, kind: str = LAST) -> None:
        """Saves a state, of the best one the parameters alone, in the background once the arrays are copied.

        What was saved before is on disk by then, so that checkpoints of both kinds appear in the order of the calls.
        Raises CheckpointError where one of that step or a later one exists, or the disk is full.
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
        """Restores the newest training state that can be read, placed as ``state`` is, and its step; None without any.

        Newer ones that cannot be read are set aside, because training writes them again, and so are newer ones of the
        best parameters. Raises CheckpointError where none can be read, or one is of another network.
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

        Raises CheckpointError where it cannot be read or does not hold ``state``; the ones before stay then.
        """
        self.wait()
        newest = self.steps()[-1]
        name = f"The checkpoint of step {newest} in {self._folder}"
        read, step = self.restore(state)
        if step != newest:
            raise CheckpointError(f"{name} cannot be read back. The same command goes on from step {step}.")
        same = jax.tree.all(jax.tree.map(functools.partial(np.array_equal, equal_nan=True), read, state))
        if devices.any_process(not same):
            kept = f"Steps {self.steps()} are kept."
            raise CheckpointError(f"{name} reads back as other numbers than were saved: check the disk. {kept}")
        for older in self.steps()[:-1]:
            self._manager(LAST).delete(older)

    def _check_same_network(self, step: int, kind: str, params) -> None:
        """Raises CheckpointError where a checkpoint holds parameters of other names or shapes."""
        stored, wanted = _shapes(self._manager(kind).item_metadata(step)[_PARAMS].tree), _shapes(params)
        for name in sorted(stored | wanted):
            there, here = (shapes.get(name, "of nothing") for shapes in (stored, wanted))
            if there != here:
                raise CheckpointError(
                    f"The checkpoint of step {step} in {self._folder / kind} is of another network: {name} has the "
                    f"shape {there} there and {here} here."
                )

    def _set_aside_newer(self, step: int, kinds: tuple[str, ...]) -> None:
        """Moves newer checkpoints to ``checkpoints/damaged``; what stopped their reading may pass, so they are kept."""
        for kind in kinds:
            if newer := [each for each in self.steps(kind) if each > step]:
                if devices.is_main():
                    folder = self._folder / _DAMAGED
                    folder.mkdir(exist_ok=True)
                    for each in newer:
                        (self._folder / kind / str(each)).rename(folder / f"{kind}_{each}_{time.time_ns()}")
                devices.wait_for_all("damaged checkpoints set aside")
                self._manager(kind).reload()

    def wait(self) -> None:
        """Returns when everything saved is on disk; CheckpointError where writing it failed in the background."""
        with self._writing():
            for manager in self._managers.values():
                manager.wait_until_finished()

    def _check_space(self, step: int, tree) -> None:
        """Raises CheckpointError, before anything is written, where a checkpoint would not fit on the disk."""
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
        self._folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self._folder).free
        if devices.any_process(devices.is_main() and free < needed):
            sizes = f"takes {needed / 2**20:.1f} MiB, and {free / 2**20:.1f} are free in {self._folder}"
            raise CheckpointError(f"The checkpoint of step {step} {sizes}. {_GO_ON}")

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # Orbax and its storage raise many kinds for a bad disk
            failed = f"A checkpoint could not be written in {self._folder} ({_first_line(error)})."
            raise CheckpointError(f"{failed} {_GO_ON}") from error

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
