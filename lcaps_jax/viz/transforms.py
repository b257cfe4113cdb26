"""Transformed images, and figures of single images as a network sees them: frame, kept capsules and activities.

Axes: ``B`` images of ``I x I`` pixels with ``C`` channels.
"""

from collections.abc import Sequence
import pathlib
import textwrap

import jax
import jax.numpy as jnp
from matplotlib.figure import Figure
import numpy as np

from lcaps_jax.data import affnist
from lcaps_jax.data.augment import Array
from lcaps_jax.infer.image_files import Classified
from lcaps_jax.nn import Geometry, Output
from lcaps_jax.nn.outputs import LadderCapsNetOutput
from lcaps_jax.viz import capsules, style

ROTATION, SHEAR, SCALE, SHIFT = KINDS = ("rotation (degrees)", "shear", "scale", "shift right (pixels)")
_BARS = 10  # classes whose activities are shown
_LONGEST_NAME = 50  # characters of a file's name in its figure's name, because file systems limit names


def transform(images: Array, kind: str, amounts: np.ndarray) -> jax.Array:
    """Images ``[B, I, I, C]`` in [0, 1], each transformed by its amount ``[B]``; black comes in from outside."""
    by = jnp.asarray(amounts, jnp.float32)
    zeros, both = jnp.zeros_like(by), jnp.stack([by, by], axis=1)
    transformation = affnist.Transformation(
        rotation=jnp.deg2rad(by) if kind == ROTATION else zeros,
        shear=by if kind == SHEAR else zeros,
        scale=both if kind == SCALE else jnp.ones_like(both),
        shift=jnp.stack([zeros, by if kind == SHIFT else zeros], axis=1).astype(jnp.int32),
    )
    return warp(images, transformation)


@jax.jit
def warp(images: Array, transformation: affnist.Transformation) -> jax.Array:
    """Images ``[B, I, I, C]`` in [0, 1], each under its transformation; black comes in from outside."""
    warp_channel = jax.vmap(affnist.warp, in_axes=(-1, None, None), out_axes=-1)
    # Clipped, because rounding may carry interpolated values out of [0, 1].
    return jnp.clip(warp_channel(images, transformation, images.shape[1]), 0, 1)


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
    """An image ``[I, I, C]`` uint8 with its frame and kept capsules, and beside it the highest class activities."""
    figure = Figure(figsize=(6.2, 3.2), layout="tight")
    left, right = figure.subplots(1, 2)
    _show_seen(left, image, output, geometry)
    activity = np.asarray(output.activity[0])
    best = np.sort(np.argsort(-activity, kind="stable")[:_BARS])
    predicted = int(np.argmax(activity))
    colours = [style.PREDICTED if j == predicted else style.OTHER for j in best]
    right.barh([style.plain(class_names[j]) for j in best], activity[best], color=colours)
    right.set(xlim=(0, 1), xlabel="class activity")
    right.invert_yaxis()
    figure.suptitle(f"{style.plain(name)}: {style.plain(class_names[predicted])}")
    return figure


def draw_classified(found: Classified, geometry: Geometry | None, folder: pathlib.Path, number: int) -> pathlib.Path:
    """Draws a classified image file into a folder, as the ``number``-th of several, and returns the figure's path."""
    bars = "The bars are the activities of the classes, which need not add up to 1."
    caption = [f"{found.file.name} is classified as {found.label}, the dark bar.", bars, *seen_caption(found.output)]
    figure = classified(found.image, found.output, geometry, found.class_names, found.file.name)
    return style.save(figure, folder, f"{number:03d}_{found.file.stem[:_LONGEST_NAME]}", " ".join(caption))


def explained(image: np.ndarray, output: Output, geometry: Geometry | None, class_names: Sequence[str]) -> Figure:
    """The inside of one decision: the image ``[I, I, C]`` uint8 with its frame and kept capsules, and more below it.

    Below are the kept capsules and what the predicted class regresses them to, or the reconstruction, where the network
    has these.
    """
    best = int(np.argmax(output.activity[0]))
    label = style.plain(class_names[best])
    regressed, decoded = (getattr(output, name, None) for name in ("regressed", "reconstruction"))
    layout = "SS;KR" if regressed is not None else "S;D" if decoded is not None else "S"
    figure = Figure(figsize=(4.2, 3.8 if layout == "S" else 6.7), layout="constrained")
    parts = figure.subplot_mosaic(layout)
    _show_seen(parts["S"], image, output, geometry)
    if isinstance(output, LadderCapsNetOutput) and regressed is not None:
        row = [parts["K"], parts["R"]]
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
        seen = image if output.view is None else output.view.picture[0]
        style.show_image(parts["D"], style.as_uint8(np.asarray(decoded[0])).reshape(seen.shape))
        parts["D"].set_title(f"reconstruction from class {label}", fontsize=9)
    return figure
