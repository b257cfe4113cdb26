"""The steps of a run, cut into calls of the devices by a pure function of the settings."""

from collections.abc import Iterator
import dataclasses

import numpy as np

from lcaps_jax.data.splits import DataError
from lcaps_jax.errors import arg


@dataclasses.dataclass(frozen=True)
class Call:
    """Some steps that run on the devices without the host.

    Attributes:
      first_step: Steps done before the call.
      steps: Number of steps.
      epoch: Epoch that the steps belong to, from 0.
      evaluates: Whether an evaluation is due after the last step.
      saves: Whether a checkpoint is due after the last step, as before every evaluation.
    """

    first_step: int
    steps: int
    epoch: int
    evaluates: bool
    saves: bool

    @property
    def last_step(self) -> int:
        """Steps done after the call."""
        return self.first_step + self.steps


@dataclasses.dataclass(frozen=True)
class StepPlan:
    """The steps of a run.

    Attributes:
      images: Training images.
      batch_size: Images of a step, over all devices.
      epochs: Passes over the training images.
      log_every: Most steps of one call.
      checkpoint_every: Steps between checkpoints; None for one before each evaluation.
      eval_every: Epochs between evaluations; the last epoch is always evaluated.

    Raises:
      DataError: The batch is larger than the training set.
    """

    images: int
    batch_size: int
    epochs: int
    log_every: int
    checkpoint_every: int | None = None
    eval_every: int = 1

    def __post_init__(self):
        if self.batch_size > self.images:
            raise DataError(
                f"{arg('batch_size')}={self.batch_size}: there are {self.images} training images, so at most "
                f"{self.images}."
            )

    @property
    def steps_per_epoch(self) -> int:
        """Steps of an epoch. Images that do not fill a last batch sit it out."""
        return self.images // self.batch_size

    @property
    def left_out(self) -> int:
        """Images that sit an epoch out, other ones each time."""
        return self.images % self.batch_size

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self.epochs * self.steps_per_epoch

    def evaluates(self, step: int) -> bool:
        """Whether an evaluation is due after so many steps: at the end of some epochs and of the last."""
        epoch, rest = divmod(step, self.steps_per_epoch)
        return step > 0 and rest == 0 and (epoch % self.eval_every == 0 or step == self.total_steps)

    def calls(self, start: int) -> Iterator[Call]:
        """Calls from step ``start`` to the end.

        Their borders do not depend on ``start``, so that a continued run compiles and logs what an uninterrupted one
        does.
        """
        saves_every = self.checkpoint_every or self.total_steps
        step = start
        while step < self.total_steps:
            epoch, done = divmod(step, self.steps_per_epoch)
            steps = min(self.log_every - done % self.log_every, self.steps_per_epoch - done)
            evaluates = self.evaluates(step + steps)
            saves = evaluates or (step + steps) // saves_every > step // saves_every
            yield Call(step, steps, epoch, evaluates, saves)
            step += steps

    def of_epoch(self, call: Call) -> slice:
        """Places of the call's images in the order of its epoch."""
        first = call.first_step % self.steps_per_epoch * self.batch_size
        return slice(first, first + call.steps * self.batch_size)

    def unshuffled(self, epoch: int) -> np.ndarray:
        """Order of the images in an epoch that is not shuffled, ``[images]`` int32.

        It begins where the epoch before has ended, so that no image is left out for ever.
        """
        first = epoch * self.steps_per_epoch * self.batch_size
        return ((first + np.arange(self.images)) % self.images).astype(np.int32)
