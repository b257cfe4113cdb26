"""The steps of a run, cut into calls of the devices by a pure function of the settings."""

from collections.abc import Iterator
import dataclasses

from lcaps_jax.data.splits import DataError
from lcaps_jax.errors import arg


@dataclasses.dataclass(frozen=True)
class Call:
    """Some steps that run on the devices without the host.

    Attributes:
      first_step: Steps done before the call.
      steps: Number of steps.
      epoch: Epoch that the steps belong to, from 0.
      ends_epoch: Whether the last step is the last of its epoch.
      saves: Whether a checkpoint is due after the last step.
    """

    first_step: int
    steps: int
    epoch: int
    ends_epoch: bool
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
      checkpoint_every: Steps between checkpoints; None for one an epoch.

    Raises:
      DataError: The batch is larger than the training set.
    """

    images: int
    batch_size: int
    epochs: int
    log_every: int
    checkpoint_every: int | None = None

    def __post_init__(self):
        if self.batch_size > self.images:
            raise DataError(
                f"{arg('batch_size')}={self.batch_size}: there are {self.images} training images, so at most "
                f"{self.images}."
            )

    @property
    def steps_per_epoch(self) -> int:
        """Steps of an epoch. Images that do not fill a last batch are left out; shuffling changes which ones."""
        return self.images // self.batch_size

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self.epochs * self.steps_per_epoch

    def ends_epoch(self, step: int) -> bool:
        """Whether an epoch has just ended after so many steps."""
        return step > 0 and step % self.steps_per_epoch == 0

    def calls(self, start: int) -> Iterator[Call]:
        """Calls from step ``start`` to the end.

        Their borders do not depend on ``start``, so that a continued run compiles and logs what an uninterrupted one
        does.
        """
        saves_every = self.checkpoint_every or self.steps_per_epoch
        step = start
        while step < self.total_steps:
            epoch, done = divmod(step, self.steps_per_epoch)
            steps = min(self.log_every - done % self.log_every, self.steps_per_epoch - done)
            ends_epoch = done + steps == self.steps_per_epoch
            saves = ends_epoch or (step + steps) // saves_every > step // saves_every
            yield Call(step, steps, epoch, ends_epoch, saves)
            step += steps

    def of_epoch(self, call: Call) -> slice:
        """Places of the call's images in the order of its epoch."""
        first = call.first_step % self.steps_per_epoch * self.batch_size
        return slice(first, first + call.steps * self.batch_size)
