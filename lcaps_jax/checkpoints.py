"""Checkpoints by Orbax: atomic, asynchronous; the one file that knows it.

``checkpoints/last/STEP`` hold the whole training state, ``checkpoints/best/STEP`` the parameters that were best on
held-out training images. Every process calls save and restore.
"""

import pathlib
import time

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

LAST = "last"
BEST = "best"
_FOLDER = "checkpoints"
_DAMAGED = "damaged"
# The one before the last stays, for when the last turns out to be damaged.
_KEEP = {LAST: 2, BEST: 1}


class CheckpointError(RuntimeError):
    """No checkpoint that could be read; the message names the folder and what was found."""


class Checkpoints:
    """The checkpoints of a run.

    Args:
      workdir: the run's folder.
      read_only: leave everything on disk as it is; otherwise half-written checkpoints are removed.
    """

    def __init__(self, workdir: pathlib.Path, *, read_only: bool = False):
        self._folder = (pathlib.Path(workdir) / _FOLDER).absolute()
        self._read_only = read_only
        self._managers: dict[str, ocp.CheckpointManager] = {}

    def _manager(self, kind: str) -> ocp.CheckpointManager:
        if kind not in self._managers:
            options = ocp.CheckpointManagerOptions(
                max_to_keep=_KEEP[kind],
                read_only=self._read_only,
                create=not self._read_only,
                cleanup_tmp_directories=not self._read_only,
                enable_async_checkpointing=not self._read_only,
            )
            self._managers[kind] = ocp.CheckpointManager(self._folder / kind, options=options)
        return self._managers[kind]

    def steps(self, kind: str = LAST) -> list[int]:
        """Steps of the finished checkpoints, ascending."""
        if not (self._folder / kind).is_dir():
            return []
        return sorted(self._manager(kind).all_steps())

    def save(self, step: int, tree, kind: str = LAST) -> None:
        """Saves a pytree of arrays in the background; returns once it is copied, so that it may be donated.

        What was saved before is on disk by then: checkpoints of either kind appear in the order of their saving.

        Raises:
          CheckpointError: where a checkpoint of that step or a later one stands already.
        """
        self.wait()
        # Orbax reads a CPU's arrays in place while it writes, and a donated array is overwritten by the next step.
        snapshot = jax.tree.map(jnp.copy, tree)
        if not self._manager(kind).save(step, args=ocp.args.StandardSave(snapshot)):
            raise CheckpointError(
                f"Step {step} was not saved in {self._folder / kind}, which holds {self.steps(kind)}."
            )

    def restore(self, target, kind: str = LAST):
        """Restores the newest readable checkpoint; unless read-only, newer ones are set aside, to be written anew.

        Args:
          target: pytree of arrays whose shapes, types and placement on devices the result is to have.
          kind: ``LAST`` or ``BEST``.

        Returns:
          The pytree and its step, or None where there is no checkpoint.

        Raises:
          CheckpointError: where there are some, and none can be read.
        """
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, target)
        failures = []
        for step in reversed(self.steps(kind)):
            try:
                tree = self._manager(kind).restore(step, args=ocp.args.StandardRestore(abstract))
            except Exception as error:  # Orbax raises whatever the damaged part does
                failures.append(f"step {step}: {str(error).splitlines()[0] if str(error) else type(error).__name__}")
                continue
            if failures:
                print(
                    f"Could not read the newest checkpoint ({'; '.join(failures)}); using that of step {step}.",
                    flush=True,
                )
                if not self._read_only:
                    self._set_aside([newer for newer in self.steps(kind) if newer > step], kind)
            return tree, step
        if failures:
            raise CheckpointError(f"No checkpoint in {self._folder / kind} can be read: {'; '.join(failures)}.")
        return None

    def _set_aside(self, steps: list[int], kind: str) -> None:
        """Moves checkpoints to ``checkpoints/damaged``: kept, as what stopped their reading may pass."""
        folder = self._folder / _DAMAGED
        folder.mkdir(exist_ok=True)
        for step in steps:
            (self._folder / kind / str(step)).rename(folder / f"{kind}_{step}_{time.time_ns()}")
        self._manager(kind).reload()

    def wait(self) -> None:
        """Returns when everything saved is on disk; raises what failed in the background."""
        for manager in self._managers.values():
            manager.wait_until_finished()

    def close(self) -> None:
        """Waits, and frees the threads."""
        for manager in self._managers.values():
            manager.close()
        self._managers.clear()
