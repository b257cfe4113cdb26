"""Evaluation of a network: every image of a set exactly once, summed on the devices.

Axes: ``S`` steps of one call, ``B`` global batch, ``N`` images, ``J`` classes, ``n`` primary capsules.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
import math
import statistics

from flax import struct
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from lcaps_jax.data.splits import Split, TestSet
from lcaps_jax.data.augment import Array, to_unit_range
from lcaps_jax.nn import Network
from lcaps_jax.train.steps import Batches, make_batches
from lcaps_jax.util.devices import gather, pmap, replicate, round_up, total
from lcaps_jax.util.settings import setting

_STEPS = 20  # batches of one call


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """What is evaluated during training, and when training ends early."""

    eval_datasets: tuple[str, ...] = setting(
        (), "Test sets to evaluate, 'affnist' and 'affnist_official' among them; by default that of the training set.",
        may_change=True,
    )  # fmt: skip
    affnist_variants: int = setting(
        1, "Variants of each test digit in the set 'affnist'; the official one has 32.", minimum=1, maximum=32,
        may_change=True,
    )  # fmt: skip
    stop_at_error: float = setting(
        0.0, "Error in percent on the training set's own test images at which training stops, as in Sabour's "
        "comparison on affNIST (0.77). This looks at the test set, and the results say so. 0: never.",
        minimum=0.0, below=100.0, may_change=True,
    )  # fmt: skip
    patience: int = setting(
        0, "Epochs without a lower validation error after which training stops; eval.py then evaluates the best "
        "checkpoint. Needs a validation_size, or images in DATA_DIR/val. 0: never.", minimum=0, may_change=True,
    )  # fmt: skip


def wilson_interval(errors: float, count: float, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of an error rate, in percent (Wilson, 1927).

    Args:
      errors: Number of wrong predictions; a mean over repetitions need not be whole.
      count: Number of predictions, at least 1.
      level: Probability that the interval covers the true rate.

    Returns:
      Lower and upper bound, percent.
    """
    z = statistics.NormalDist().inv_cdf((1 + level) / 2)
    rate = errors / count
    centre = (rate + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(rate * (1 - rate) / count + (z / (2 * count)) ** 2)
    return 100 * max(0.0, centre - half), 100 * min(1.0, centre + half)


@struct.dataclass
class EvalSums:
    """Sums over images.

    Attributes:
      loss: Sum of the losses.
      confusion: Number of images by true and predicted class, ``[J, J]``.
      primary_activity: Sums of the activities of the primary capsules, ``[n]``; None without capsules.
      kept: Number of images that keep each capsule, ``[n]``; None without pruning.
    """

    loss: jax.Array
    confusion: jax.Array
    primary_activity: jax.Array | None
    kept: jax.Array | None


def make_eval_steps(network: Network, devices: Sequence[jax.Device] | None = None) -> Callable:
    """Makes the function that evaluates the batches of one call.

    Args:
      network: Network to evaluate.
      devices: See ``util.devices.pmap``.

    Returns:
      ``(params, (images, labels), Batches) -> (EvalSums, predicted [S, B], margin [S, B])``, mapped over the devices.
      The margin is the activity of the predicted class less that of the true one, which is 0 where they agree.
    """

    def eval_step(params, images, labels, batch: Batches):
        images = to_unit_range(images[batch.index])
        output = network.apply({"params": params}, images)
        labels, weight = labels[batch.index], batch.weight
        predicted = jnp.argmax(output.activity, axis=-1)
        classes = output.activity.shape[-1]
        sums = EvalSums(
            loss=jnp.sum(weight * network.loss(output, labels, images)),
            confusion=jnp.zeros((classes, classes)).at[labels, predicted].add(weight),
            primary_activity=weighted_sum(weight, getattr(output, "primary_activity", None)),
            kept=weighted_sum(weight, getattr(output, "code", None)),
        )
        true_activity = jnp.take_along_axis(output.activity, labels[:, None], axis=-1)[:, 0]
        return sums, predicted, jnp.max(output.activity, axis=-1) - true_activity

    def eval_steps(params, split, batches):
        sums, predicted, margin = lax.map(lambda batch: eval_step(params, *split, batch), batches)
        sums = total(jax.tree.map(lambda x: jnp.sum(x, axis=0), sums))
        return sums, gather(predicted, 1), gather(margin, 1)

    return pmap(eval_steps, devices=devices)


def weighted_sum(weight: Array, x: Array | None) -> jax.Array | None:
    """Sum over the images of ``x [B, ...]`` by their weights ``[B]``, in float32 on accelerators too; None for None."""
    return None if x is None else jnp.tensordot(weight, x, axes=1, precision=lax.Precision.HIGHEST)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Metrics of a network on a data set.

    Attributes:
      count: Number of images, N.
      loss: Mean loss.
      confusion: Number of images by true and predicted class, ``[J, J]`` int64.
      primary_activity: Mean activity of each primary capsule, ``[n]``; None without capsules.
      kept_rate: Share of the images that keep each capsule, ``[n]``; None without pruning.
      predicted: Predicted classes, ``[N]``.
      margin: Activity of the predicted class less that of the true one, ``[N]``.
      variants: Number of images of the same digit. They are worth less than as many digits, so intervals count digits.
    """

    count: int
    loss: float
    confusion: np.ndarray
    primary_activity: np.ndarray | None
    kept_rate: np.ndarray | None
    predicted: np.ndarray
    margin: np.ndarray
    variants: int = 1

    @property
    def errors(self) -> int:
        """Number of wrong predictions."""
        return self.count - int(np.trace(self.confusion))

    @property
    def error(self) -> float:
        """Share of wrong predictions, percent."""
        return 100 * self.errors / self.count

    def result(self, step: int) -> dict:
        """The entry of ``results.json``."""
        counted = self.errors / self.variants, self.count / self.variants
        interval = [round(bound, 4) for bound in wilson_interval(*counted)]
        return {"error": round(self.error, 4), "count": self.count, "ci95": interval, "step": step}

    def text(self) -> str:
        """The error and its interval in words."""
        low, high = self.result(0)["ci95"]
        return f"error {self.error:.2f} % of {self.count} images (95 % interval {low:.2f} to {high:.2f} %)"

    def table(self, class_names: Sequence[str]) -> str:
        """Errors by class as text: one line for each class, and one for all."""
        width = max(len(name) for name in (*class_names, "class"))
        lines = [f"{'class':<{width}}  images  errors  error %  most often taken for"]
        for label, name in enumerate(class_names):
            row = self.confusion[label].copy()
            count, wrong = int(row.sum()), int(row.sum() - row[label])
            row[label] = 0
            taken = f"{class_names[int(row.argmax())]} ({row.max()})" if wrong else ""
            percent = f"{100 * wrong / count:7.2f}" if count else "      -"
            lines.append(f"{name:<{width}}  {count:6d}  {wrong:6d}  {percent}  {taken}".rstrip())
        lines.append(f"{'all':<{width}}  {self.count:6d}  {self.errors:6d}  {self.error:7.2f}")
        return "\n".join(lines)


def evaluate(
    eval_steps: Callable,
    params,
    parts: Iterable[tuple[jax.Array, jax.Array]],
    batch_size: int,
    variants: int = 1,
) -> Evaluation:
    """Evaluates every image of a set exactly once; the last batch of a part is padded and masked.

    Args:
      eval_steps: Result of ``make_eval_steps``.
      params: Parameters of the network.
      parts: Images and labels, replicated; see ``on_devices``.
      batch_size: Images of a step, over all devices.
      variants: Number of images of the same digit; see Evaluation.
    """
    count, summed, predicted, margin = 0, None, [], []
    for split in parts:
        size = len(split[1])
        count += size
        batch = min(batch_size, round_up(size))  # a larger one would be padding, which takes memory too
        steps = min(_STEPS, -(-size // batch))
        chunk = steps * batch
        for start in range(0, size, chunk):
            index = np.arange(start, start + chunk, dtype=np.int32)
            weight = (index < size).astype(np.float32).reshape(steps, batch)
            batches = make_batches(np.minimum(index, size - 1).reshape(steps, batch), weight)
            sums, chunk_predicted, chunk_margin = eval_steps(params, split, batches)
            sums = jax.tree.map(lambda x: np.asarray(x, np.float64), sums)
            summed = sums if summed is None else jax.tree.map(np.add, summed, sums)
            predicted.append(np.asarray(chunk_predicted).ravel()[: size - start])
            margin.append(np.asarray(chunk_margin).ravel()[: size - start])
    means = jax.tree.map(lambda x: x / count, summed)
    return Evaluation(
        count=count,
        loss=float(means.loss),
        confusion=np.rint(summed.confusion).astype(np.int64),
        primary_activity=means.primary_activity,
        kept_rate=means.kept,
        predicted=np.concatenate(predicted),
        margin=np.concatenate(margin),
        variants=variants,
    )


def out_of_patience(errors: Mapping[int, float], steps: int) -> bool:
    """Whether the lowest of some errors, by their step, stands for so many steps up to the last of them."""
    if not errors:
        return False
    best = min(errors, key=lambda step: (errors[step], step))
    return max(errors) - best >= steps


class _Streamed:
    """A set whose parts are copied to the devices one at a time, again in each pass."""

    def __init__(self, split: TestSet):
        self._split = split

    def __iter__(self):
        return (replicate((part.images, part.labels)) for part in self._split.parts())


def on_devices(split: TestSet) -> Iterable[tuple[jax.Array, jax.Array]]:
    """Images and labels of a set's parts, replicated; a set in memory stays there, a generated one is streamed."""
    streamed = _Streamed(split)
    return list(streamed) if isinstance(split, Split) else streamed
