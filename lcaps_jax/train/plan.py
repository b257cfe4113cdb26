"""The steps of a run, divided into calls by a pure function of the settings."""

from collections.abc import Iterator
import dataclasses

import numpy as np

from lcaps_jax.util.errors import ConfigError
from lcaps_jax.util.settings import setting


@dataclasses.dataclass(frozen=True)
class Call:
    """Some steps that run on the devices without the host."""

    first_step: int  # number of steps done before the call
    steps: int  # number of steps
    epoch: int  # epoch that the steps belong to, from 0
    evaluates: bool  # whether an evaluation is due after the last step
    saves: bool  # whether a checkpoint is due after the last step, as before every evaluation

    @property
    def last_step(self) -> int:
        """Steps done after the call."""
        return self.first_step + self.steps


@dataclasses.dataclass(frozen=True)
class ScheduleConfig:
    """Batch and epochs of a run, and what happens how often."""

    batch_size: int = setting(100, "Images of a step, over all devices.", minimum=1)
    epochs: int = setting(
        10, "Passes over the training set; a larger number continues a finished run.", minimum=1, may_change=True
    )
    seed: int = setting(
        0, "Seed of the initial weights, the order and augmentation of the images, the parts held out, and dropout.",
        minimum=0,
    )  # fmt: skip
    log_every: int = setting(20, "Steps between lines of the log, run in one call.", minimum=1, may_change=True)
    eval_every: int = setting(
        1, "Epochs between evaluations; a checkpoint is saved before each.", minimum=1, may_change=True
    )
    checkpoint_every: int = setting(
        0, "Steps between checkpoints, rounded up to log_every; 0: only before evaluations.", minimum=0,
        may_change=True,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class StepPlan:
    """The steps of a run, whose last epoch is always evaluated. Raises ConfigError for a batch larger than the set."""

    images: int  # training images
    schedule: ScheduleConfig  # batch, epochs, and what happens how often

    def __post_init__(self):
        if self.batch_size > self.images:
            raise ConfigError(f"batch_size={self.batch_size}: must be at most {self.images}, the training images.")

    @property
    def batch_size(self) -> int:
        """Images of a step, over all devices."""
        return self.schedule.batch_size

    @property
    def steps_per_epoch(self) -> int:
        """Steps of an epoch. Images that do not fill a last batch are left out."""
        return self.images // self.batch_size

    @property
    def left_out(self) -> int:
        """Number of images that an epoch leaves out, different ones each time."""
        return self.images % self.batch_size

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self.schedule.epochs * self.steps_per_epoch

    def evaluates(self, step: int) -> bool:
        """Whether an evaluation is due after ``step`` steps: after every ``eval_every`` epochs, and at the end."""
        epoch, rest = divmod(step, self.steps_per_epoch)
        return step > 0 and rest == 0 and (epoch % self.schedule.eval_every == 0 or step == self.total_steps)

    def calls(self, start: int) -> Iterator[Call]:
        """Calls from step ``start`` to the end, which end at the same steps whatever ``start`` is.

        So a continued run compiles and logs what an uninterrupted one does.
        """
        saves_every = self.schedule.checkpoint_every or self.total_steps
        step = start
        while step < self.total_steps:
            epoch, done = divmod(step, self.steps_per_epoch)
            steps = min(self.schedule.log_every - done % self.schedule.log_every, self.steps_per_epoch - done)
            evaluates = self.evaluates(step + steps)
            saves = evaluates or (step + steps) // saves_every > step // saves_every
            yield Call(step, steps, epoch, evaluates, saves)
            step += steps

    def of_epoch(self, call: Call) -> slice:
        """Positions of the call's images in the order of its epoch."""
        first = call.first_step % self.steps_per_epoch * self.batch_size
        return slice(first, first + call.steps * self.batch_size)

    def unshuffled(self, epoch: int) -> np.ndarray:
        """Order of an epoch that is not shuffled, ``[images]`` int32; it begins where the previous epoch ended."""
        first = epoch * self.steps_per_epoch * self.batch_size
        return ((first + np.arange(self.images)) % self.images).astype(np.int32)
