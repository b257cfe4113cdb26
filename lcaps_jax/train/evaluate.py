"""Evaluation of a network: every image of a set exactly once, summed on the devices.

Axes: ``S`` steps of one call, ``B`` global batch, ``N`` images, ``J`` classes, ``n`` primary capsules.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import math
import statistics
from typing import cast

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from lcaps_jax.data.augment import Array, to_unit_range
from lcaps_jax.data.splits import Split
from lcaps_jax.nn import Network, Output
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
    """Wilson's score interval of the rate ``errors / count`` in percent (Wilson, 1927); errors need not be whole."""
    z = statistics.NormalDist().inv_cdf((1 + level) / 2)
    rate = errors / count
    centre = (rate + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(rate * (1 - rate) / count + (z / (2 * count)) ** 2)
    return 100 * max(0.0, centre - half), 100 * min(1.0, centre + half)


def make_eval_steps(network: Network, devices: Sequence[jax.Device] | None = None) -> Callable:
    """Makes ``(params, (images, labels), Batches) -> (sums, predicted [S, B], margin [S, B])``, for one call.

    It is mapped over the devices (see ``util.devices.pmap``). ``sums`` are those of the means in ``Evaluation``, by
    name; the margin is the activity of the predicted class less that of the true one.
    """

    def eval_step(params, images, labels, batch: Batches):
        images = to_unit_range(images[batch.index])
        output = cast(Output, network.apply({"params": params}, images))
        labels, weight = labels[batch.index], batch.weight
        predicted = jnp.argmax(output.activity, axis=-1)
        classes = output.activity.shape[-1]
        sums = {
            "loss": jnp.sum(weight * network.loss(output, labels, images)),
            "confusion": jnp.zeros((classes, classes)).at[labels, predicted].add(weight),
            "primary_activity": weighted_sum(weight, getattr(output, "primary_activity", None)),
            "kept_rate": weighted_sum(weight, getattr(output, "code", None)),
        }
        true_activity = jnp.take_along_axis(output.activity, labels[:, None], axis=-1)[:, 0]
        return sums, predicted, jnp.max(output.activity, axis=-1) - true_activity

    def eval_steps(params, split, batches):
        sums, predicted, margin = lax.map(lambda batch: eval_step(params, *split, batch), batches)
        sums = total(jax.tree.map(lambda x: jnp.sum(x, axis=0), sums))
        return sums, gather(predicted, 1), gather(margin, 1)

    return pmap(eval_steps, devices=devices)


def weighted_sum(weight: Array, x: Array | None) -> jax.Array | None:
    """Weighted sum of ``x [B, ...]`` over the images, in float32 on accelerators too; None for None."""
    return None if x is None else jnp.tensordot(weight, x, axes=1, precision=lax.Precision.HIGHEST)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Metrics of a network on a data set."""

    count: int  # number of images, N
    loss: float  # mean loss
    confusion: np.ndarray  # number of images by true and predicted class, [J, J] int64
    primary_activity: np.ndarray | None  # mean activity of each primary capsule, [n]; None without capsules
    kept_rate: np.ndarray | None  # share of the images that keep each capsule, [n]; None without pruning
    predicted: np.ndarray  # predicted classes, [N]
    margin: np.ndarray  # activity of the predicted class less that of the true one, [N]
    variants: int = 1  # number of images of each digit. They are not independent, so intervals count digits, not images

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
        interval = wilson_interval(self.errors / self.variants, self.count / self.variants)
        ci95 = [round(bound, 4) for bound in interval]
        return {"error": round(self.error, 4), "count": self.count, "ci95": ci95, "step": step}

    def text(self) -> str:
        """The error and its interval in words."""
        low, high = self.result(0)["ci95"]
        return f"error {self.error:.2f} % of {self.count} images (95 % interval {low:.2f} to {high:.2f} %)"

    def table(self, class_names: Sequence[str]) -> str:
        """Errors by class as text, a line for each class and one for all."""
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


def evaluate(eval_steps: Callable, params, split, batch_size: int, variants: int = 1) -> Evaluation:
    """Evaluates a set, of ``variants`` images of each digit, as ``on_devices`` replicates it.

    ``eval_steps`` comes from ``make_eval_steps``, and ``batch_size`` counts images over all devices. The last batch is
    padded and masked.
    """
    count, summed = len(split[1]), None
    chunks: list[list[np.ndarray]] = []  # predicted and margin, call by call
    batch = min(batch_size, round_up(count))  # more would be padding, which takes memory too
    steps = min(_STEPS, -(-count // batch))
    for start in range(0, count, steps * batch):
        index = np.arange(start, start + steps * batch, dtype=np.int32)
        weight = (index < count).astype(np.float32).reshape(steps, batch)
        batches = make_batches(np.minimum(index, count - 1).reshape(steps, batch), weight)
        sums, *of_images = eval_steps(params, split, batches)
        sums = jax.tree.map(lambda x: np.asarray(x, np.float64), sums)
        summed = sums if summed is None else jax.tree.map(np.add, summed, sums)
        chunks.append([np.asarray(x).ravel()[: count - start] for x in of_images])
    predicted, margin = map(np.concatenate, zip(*chunks))
    confusion = np.rint(summed.pop("confusion")).astype(np.int64)
    means = {name: None if sums is None else sums / count for name, sums in summed.items()}
    means["loss"] = float(means["loss"])
    return Evaluation(count, confusion=confusion, predicted=predicted, margin=margin, variants=variants, **means)


def out_of_patience(errors: Mapping[int, float], steps: int) -> bool:
    """Whether the lowest error, by step, came at least ``steps`` steps before the last one."""
    best = min(errors, key=lambda step: (errors[step], step), default=None)
    return best is not None and max(errors) - best >= steps


def on_devices(split: Split) -> tuple[jax.Array, jax.Array]:
    """Images and labels of a set, replicated."""
    return replicate((split.images, split.labels))
