"""Transformed images, and figures of single images as a network sees them: frame, kept capsules and activities.

Axes: ``B`` images of ``I x I`` pixels with ``C`` channels, ``J`` classes.
"""

from collections.abc import Mapping, Sequence
import pathlib
import textwrap

import jax
import jax.numpy as jnp
from matplotlib.figure import Figure
import numpy as np

from lcaps_jax.data import affnist
from lcaps_jax.data.augment import Array
from lcaps_jax.infer.image_files import Classified
from lcaps_jax.nn import Geometry
from lcaps_jax.nn.outputs import LadderCapsNetOutput, Output
from lcaps_jax.viz import capsules, style
from lcaps_jax.viz.style import plain

ROTATION, SHEAR, SCALE, SHIFT = KINDS = ("rotation (degrees)", "shear", "scale", "shift right (pixels)")
_BARS = 10  # classes whose activities are shown
_LONGEST_NAME = 50  # characters of a file's name in its figure's name, because file systems limit names
_FILLED = 20 / 28  # of a picture's side that an object fills in its frame, as MNIST's digits do
_RIGHT, _WRONG = "\N{CHECK MARK}", "\N{BALLOT X}"


def transformation(kind: str, amounts: np.ndarray) -> affnist.Transformation:
    """One transformation of a kind for each of the amounts ``[B]``."""
    by = jnp.asarray(amounts, jnp.float32)
    zeros, both = jnp.zeros_like(by), jnp.stack([by, by], axis=1)
    return affnist.Transformation(
        rotation=jnp.deg2rad(by) if kind == ROTATION else zeros,
        shear=by if kind == SHEAR else zeros,
        scale=both if kind == SCALE else jnp.ones_like(both),
        shift=jnp.stack([zeros, by if kind == SHIFT else zeros], axis=1).astype(jnp.int32),
    )


def transform(images: Array, kind: str, amounts: np.ndarray) -> jax.Array:
    """Images ``[B, I, I, C]`` in [0, 1], each transformed by its amount ``[B]``; black comes in from outside."""
    return warp(images, transformation(kind, amounts))


@jax.jit
def warp(images: Array, done: affnist.Transformation) -> jax.Array:
    """Images ``[B, I, I, C]`` in [0, 1], each under its transformation; black comes in from outside."""
    warped = jax.vmap(lambda channel: affnist.warp(channel, done, images.shape[1]), in_axes=-1, out_axes=-1)(images)
    return jnp.clip(warped, 0, 1)  # because rounding may carry interpolated values out of [0, 1]


def in_frames(images: np.ndarray, output: Output, titles: Sequence[str]) -> Figure:
    """Images ``[B, I, I, C]`` in [0, 1] in a row, each with its canonical frame and its title."""
    figure = Figure(figsize=(0.6 * len(images), 0.85), layout="constrained")
    for i, axes in enumerate(figure.subplots(1, len(images), squeeze=False)[0]):
        style.show_image(axes, style.as_uint8(images[i]))
        capsules.show_view(axes, output, i)
        axes.set_title(titles[i], fontsize=7)
    return figure


def poses(
    images: np.ndarray,
    output: Output,
    activities: Mapping[str, Array],
    errors: Mapping[str, Sequence[float]],
    titles: Sequence[str],
    label: int,
) -> Figure:
    """One object in several poses: each image with its frame above its picture in the frame, and the predictions.

    The middle of the frame is drawn, which the object fills.

    Args:
      images: Images, ``[B, I, I, C]`` uint8.
      output: Output for them of a network with a canonical frame.
      activities: Class activities ``[B, J]`` by name of the network, at most two; a class is named by its number.
      errors: Error in percent in each pose by name of the network.
      titles: Title of each pose.
      label: Class of the object.
    """
    count, size = len(images), output.view.picture.shape[1]
    figure = Figure(figsize=(1.25 * count, 3.5), layout="constrained")
    for i, (above, below) in enumerate(figure.subplots(2, count, squeeze=False).T):
        style.show_image(above, images[i])
        style.show_frame(above, jax.tree.map(lambda x, i=i: x[i], output.view.frame), round(_FILLED * size))
        low, high = -0.5, images.shape[1] - 0.5
        above.set(xlim=(low, high), ylim=(high, low))
        above.set_title(titles[i], fontsize=10)
        style.show_image(below, style.as_uint8(np.asarray(output.view.picture[i])))
        for axes, (name, activity) in zip((above, below), activities.items()):
            predicted = int(np.argmax(activity[i]))
            mark, colour = (_RIGHT, style.TRUE) if predicted == label else (_WRONG, style.WRONG)
            place = {"transform": axes.transAxes, "ha": "center"}
            axes.text(
                0.5, -0.05, f"{predicted} {mark}", va="top", fontsize=12, fontweight="bold", color=colour, **place
            )
            axes.text(0.5, -0.24, f"{errors[name][i]:.1f} % error", va="top", fontsize=8, color=style.LINE, **place)
            if i == 0:
                axes.text(-0.1, 0.5, name, rotation=90, va="center", fontsize=10, **place)
    return figure


def _show_seen(axes, image: np.ndarray, output: Output, geometry: Geometry | None) -> None:
    """Draws the one image of an output with its canonical frame and kept capsules."""
    style.show_image(axes, image)
    capsules.show_view(axes, output, 0)
    if isinstance(output, LadderCapsNetOutput):
        capsules.show_kept(axes, output, 0, geometry)
        axes.set_title("kept capsules", fontsize=9)
    elif output.view is not None:
        axes.set_title("canonical frame", fontsize=9)


def seen_caption(output: Output) -> list[str]:
    """Sentences on what is drawn over an image."""
    dots = ["Orange dots show where capsules are kept: the larger the dot, the more of them."]
    frame = [style.FRAME_CAPTION] if output.view is not None else []
    return (dots if isinstance(output, LadderCapsNetOutput) else []) + frame


def classified(
    image: np.ndarray, output: Output, geometry: Geometry | None, class_names: Sequence[str], name: str
) -> Figure:
    """An image ``[I, I, C]`` uint8 with its frame and kept capsules, and beside it the highest class activities.

    The predicted class is dark and not green, because the true class is unknown.
    """
    class_names = list(map(plain, class_names))
    figure = Figure(figsize=(6.2, 3.2), layout="tight")
    left, right = figure.subplots(1, 2)
    _show_seen(left, image, output, geometry)
    activity = np.asarray(output.activity[0])
    best = np.sort(np.argsort(-activity, kind="stable")[:_BARS])
    predicted = int(np.argmax(activity))
    colours = [style.PREDICTED if j == predicted else style.OTHER for j in best]
    right.barh([class_names[j] for j in best], activity[best], color=colours)
    right.set(xlim=(0, 1), xlabel="class activity")
    right.invert_yaxis()
    figure.suptitle(f"{plain(name)}: {class_names[predicted]}")
    return figure


def draw_classified(found: Classified, geometry: Geometry | None, folder: pathlib.Path, number: int) -> pathlib.Path:
    """Draws a classified image file into a folder, as the ``number``-th of several, and returns the figure's path."""
    bars = "The bars are the activities of the classes, which need not add up to 1."
    caption = [f"{found.file.name} is classified as {found.label}, the dark bar.", bars, *seen_caption(found.output)]
    figure = classified(found.image, found.output, geometry, found.class_names, found.file.name)
    return style.save(figure, folder, f"{number:03d}_{found.file.stem[:_LONGEST_NAME]}", " ".join(caption))


def explained(image: np.ndarray, output: Output, geometry: Geometry | None, class_names: Sequence[str]) -> Figure:
    """The inside of one decision, for an image ``[I, I, C]`` uint8 and the output for it (``B`` = 1).

    Above is the image with its frame and kept capsules; below are the kept capsules and what the predicted class
    regresses them to, or the reconstruction, where the network has these.
    """
    best = int(np.argmax(output.activity[0]))
    regressed, decoded = (getattr(output, name, None) for name in ("regressed", "reconstruction"))
    columns = 2 if regressed is not None else 1
    has_more = regressed is not None or decoded is not None
    figure = Figure(figsize=(4.2, 6.7 if has_more else 3.8), layout="constrained")
    grid = figure.add_gridspec(2 if has_more else 1, columns)
    _show_seen(figure.add_subplot(grid[0, :]), image, output, geometry)
    label = plain(class_names[best])
    if regressed is not None:
        row = [figure.add_subplot(grid[1, i]) for i in range(columns)]
        values = (output.kept_capsules[0], regressed[0, best])
        for axes, matrix, title in zip(row, values, ("kept capsules", f"as class {label} regresses them")):
            drawn = axes.imshow(matrix, cmap="RdBu", vmin=-1, vmax=1, aspect="auto")
            axes.set_title(textwrap.fill(title, 22), fontsize=9)
            axes.set_xlabel("dimension")
        row[0].set_ylabel("kept capsule")
        row[1].set_yticklabels([])
        bar = figure.colorbar(drawn, ax=row, orientation="horizontal", aspect=30, ticks=(-1, -0.5, 0, 0.5, 1))
        bar.set_label("value")
    elif decoded is not None:
        axes = figure.add_subplot(grid[1, 0])
        seen = image if output.view is None else output.view.picture[0]
        style.show_image(axes, style.as_uint8(np.asarray(decoded[0])).reshape(seen.shape))
        axes.set_title(f"reconstruction from class {label}", fontsize=9)
    return figure
