"""What all figures share: what colours mean, how images, frames and legends are drawn, and how figures are saved."""

from collections.abc import Collection
import pathlib
import re

from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Polygon
from matplotlib.rcsetup import cycler
import numpy as np
from PIL import Image

from lcaps_jax.ops import frames

FOLDER = "figures"  # of a run's figures in its folder
_DPI = 130

# Colours by meaning, in every figure: Okabe and Ito's, which colour-blind people can tell apart.
TRUE = "#009E73"  # the true class, and whatever is correct
WRONG = "#D55E00"  # a predicted class that is not the true one, and whatever is wrong
PREDICTED = "#333333"  # the predicted class where the true one is unknown
OTHER = "#BBBBBB"  # all other classes, and the rest of a whole
KEPT = "#E69F00"  # kept capsules
FRAME = "#56B4E9"  # the canonical frame of an image
AMOUNT, SECOND = "#0072B2", "#CC79A7"  # quantities
CHANCE = "#777777"  # the error of guessing
LINE = "#555555"  # small print, and the lines of drawings
BOX = "#E9EEF3"  # parts of drawings
# Networks or data sets, told apart by their dashes and markers where they outnumber the free colours.
SERIES = cycler(linestyle=["-", "--", ":"], marker=["o", "s", "^"]) * cycler(color=[AMOUNT, SECOND, "#000000"])
MISTAKES = LinearSegmentedColormap.from_list("mistakes", ["white", WRONG])

FRAME_CAPTION = "Blue lines outline the canonical frame, which is read off the image: the network sees what is inside."


def save(figure: Figure, folder: pathlib.Path, name: str, caption: str = "") -> pathlib.Path:
    """Writes a figure as a PNG with its caption in the metadata into a folder, which may be new: the file's path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / (re.sub(r"[^\w.-]+", "_", name) + ".png")  # TFDS has names such as emnist/balanced
    metadata = {"Description": _printable(caption)} if caption else {}
    figure.savefig(path, dpi=_DPI, bbox_inches="tight", metadata=metadata)
    return path


def caption_of(path: pathlib.Path) -> str:
    """The caption of a figure that ``save`` wrote; none where another program has removed it."""
    with Image.open(path) as image:
        return image.info.get("Description", "")


def _printable(text: str) -> str:
    """Replaces surrogates, which stand for bytes of a file's name that are not UTF-8, by escape sequences."""
    return text.encode("utf-8", "backslashreplace").decode()


def plain(text: str) -> str:
    """Text that Matplotlib shows as it is: text between dollar signs would be typeset as a formula."""
    return _printable(text).replace("$", r"\$")


def as_uint8(images: np.ndarray) -> np.ndarray:
    """Images in [0, 1] as bytes."""
    return np.rint(255 * np.clip(images, 0, 1)).astype(np.uint8)


def show_image(axes, image: np.ndarray) -> None:
    """Draws an image ``[I, I, C]``, uint8, with 1 or 3 channels."""
    axes.imshow(image if image.shape[-1] == 3 else image[..., 0], cmap="gray", vmin=0, vmax=255)
    axes.axis("off")


def show_frame(axes, frame: frames.Frame, size: int) -> None:
    """Draws the frame of one image, a parallelogram with a thick upper side, for a picture of ``size`` pixels."""
    corners = np.asarray(frames.outline(frame, size))[:, ::-1]
    axes.add_patch(Polygon(corners, fill=False, edgecolor=FRAME, linewidth=1))
    axes.add_line(Line2D(*corners[:2].T, color=FRAME, linewidth=2.5))


def show_chance(axes, classes: Collection[int], highest: float, labelled: bool = True) -> None:
    """Draws a line at the error of guessing, in percent, for each number of classes, unless far above the curves."""
    for chance in sorted({100 * (1 - 1 / number) for number in classes}):
        if highest < chance / 2:
            continue
        axes.axhline(chance, color=CHANCE, linewidth=0.8, zorder=1)
        if labelled:  # on white, because curves may cross it
            axes.annotate(
                f"chance, {chance:.3g} %", (0.99, chance), xycoords=axes.get_yaxis_transform(), xytext=(0, -4),
                textcoords="offset points", ha="right", va="top", fontsize=8, color=CHANCE,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
            )  # fmt: skip


def write_above(axes, *lines: tuple[str, str]) -> None:
    """Writes lines of text above an image, each in its own colour, the lowest first."""
    for i, (text, colour) in enumerate(lines):
        axes.annotate(
            text, (0.5, 1), xycoords="axes fraction", xytext=(0, 2 + 11 * i), textcoords="offset points", ha="center",
            va="bottom", fontsize=9, color=colour,
        )  # fmt: skip


def legend_above(figure: Figure) -> None:
    """Draws the legend of the first axes above all axes, where it covers no curve."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    columns = max(1, min(len(labels), round(figure.get_figwidth() / 3)))
    figure.legend(handles, labels, loc="outside upper center", ncols=columns, frameon=False, fontsize=9)
