"""A page in the browser to draw a digit on, to turn, scale, shear and move it, and to see what a network makes of it.

    pip install 'lcaps-jax[demo]'
    python -m lcaps_jax.demo                        # the small network of the package
    python -m lcaps_jax.demo --workdir=runs/mine

It listens on this machine alone unless --host says otherwise.
"""

from collections.abc import Callable
import pathlib
import sys

from absl import flags
import jax
import jax.numpy as jnp
from matplotlib.figure import Figure
import numpy as np
from PIL import Image

from lcaps_jax import affnist, cli, figures
from lcaps_jax.config import ConfigError
from lcaps_jax.models import LadderCapsNet
from lcaps_jax.pretrained import load_pretrained
from lcaps_jax.runs import Run, geometry_of, load_run

_FIELD = 280  # pixels along a side of the field to draw in
_LARGEST = 2000  # of a picture that is taken at all
_DIGIT = 20  # of a 28x28 image, as MNIST's digits are fitted
# Least and largest rotation in degrees, scale, shear, and shift in pixels.
LIMITS = {
    "rotation": (-180.0, 180.0),
    "scale": (0.3, 2.0),
    "shear": (-1.0, 1.0),
    "right": (-20.0, 20.0),
    "down": (-20.0, 20.0),
}


class InputError(ValueError):
    """A picture or a number that cannot be used; the message says what would do."""


def centred(picture: np.ndarray, size: int) -> np.ndarray:
    """A drawn digit as MNIST has them: fitted into 20 of 28 pixels, its centre of mass in the middle.

    Args:
      picture: ``[H, W]`` uint8, white on black.
      size: I of the network.

    Returns:
      ``[I, I]`` uint8; black where nothing was drawn.

    Raises:
      InputError: for another shape or type, or more than 2000 pixels along a side.
    """
    if not isinstance(picture, np.ndarray) or picture.ndim != 2 or picture.dtype != np.uint8:
        raise InputError("A picture must be an array [H, W] of bytes.")
    if not 0 < max(picture.shape) <= _LARGEST or min(picture.shape) == 0:
        raise InputError(f"A picture must have 1 to {_LARGEST} pixels along a side, got {picture.shape}.")
    canvas = np.zeros((size, size), np.uint8)
    rows, columns = np.flatnonzero(picture.any(axis=1)), np.flatnonzero(picture.any(axis=0))
    if not rows.size:
        return canvas
    ink = Image.fromarray(picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    ratio = min(_DIGIT, size) / max(ink.size)
    ink = ink.resize([max(1, round(ratio * side)) for side in ink.size], Image.Resampling.LANCZOS)
    pixels = np.asarray(ink, np.float64)
    weights = [pixels.sum(axis=1), pixels.sum(axis=0)]
    corner = [round(size / 2 - (np.arange(len(w)) + 0.5) @ w / w.sum()) for w in weights]
    corner = [min(max(0, c), size - n) for c, n in zip(corner, pixels.shape)]
    canvas[corner[0] : corner[0] + len(pixels), corner[1] : corner[1] + pixels.shape[1]] = np.asarray(ink)
    return canvas


def explainer(run: Run) -> Callable[..., tuple[dict[str, float], Figure]]:
    """What the page asks for: ``(picture, rotation, scale, shear, right, down)`` to activities and a figure.

    Raises:
      config.ConfigError: for a network of colour images, which cannot be drawn here.
    """
    config = run.config
    if run.channels != 1:
        raise ConfigError("The demo draws grey images, and this network was trained on coloured ones.")
    ladder = isinstance(run.model, LadderCapsNet)
    sizes = geometry_of(config) if ladder else None
    options = {"with_regressed": True} if ladder and run.model.activity == "agreement" else {}

    @jax.jit
    def compute(image, transformation):
        moved = affnist.warp(image[None] / 255, transformation, config.image_size)[..., None]
        return moved, run.model.apply({"params": run.params}, moved, **options)

    def explain(picture, rotation, scale, shear, right, down):
        for name, value in zip(LIMITS, (rotation, scale, shear, right, down)):
            low, high = LIMITS[name]
            if not isinstance(value, int | float) or not low <= value <= high:
                raise InputError(f"{name} must be a number from {low:g} to {high:g}, got {value!r}.")
        transformation = affnist.Transformation(
            rotation=jnp.deg2rad(jnp.array([rotation], jnp.float32)),
            shear=jnp.array([shear], jnp.float32),
            scale=jnp.array([[scale, scale]], jnp.float32),
            shift=jnp.array([[round(down), round(right)]], jnp.int32),
        )
        image = jnp.asarray(centred(picture, config.image_size), jnp.float32)
        moved, output = jax.device_get(compute(image, transformation))
        activities = {name: float(a) for name, a in zip(run.class_names, output.activity[0])}
        shown = np.rint(255 * moved[0]).astype(np.uint8)
        return activities, figures.explained(shown, output, sizes, run.class_names)

    return explain


def page(run: Run):
    """The page, a Gradio Blocks."""
    import gradio as gr

    explain = explainer(run)

    def update(drawn, *amounts):
        try:
            return explain(_ink(drawn), *amounts)
        except InputError as error:
            raise gr.Error(str(error)) from None

    with gr.Blocks(title="lcaps_jax: a look inside") as blocks:
        gr.Markdown(
            "# A look inside a capsule network\n"
            "Draw a digit; then turn, scale, shear and move it. The dots are where the kept capsules sit; beside them, "
            "what the most active class makes of them on the way down the ladder."
        )
        with gr.Row():
            with gr.Column():
                brush = gr.Brush(default_size=20, colors=["#ffffff"], default_color="#ffffff", color_mode="fixed")
                pad = gr.Sketchpad(
                    value={"background": np.zeros((_FIELD, _FIELD), np.uint8), "layers": [], "composite": None},
                    image_mode="L", canvas_size=(_FIELD, _FIELD), fixed_canvas=True, brush=brush, label="Draw here",
                )  # fmt: skip
                sliders = [
                    gr.Slider(low, high, 1.0 if name == "scale" else 0.0, step=0.05 if high < 3 else 1.0, label=name)
                    for name, (low, high) in LIMITS.items()
                ]
            with gr.Column():
                label = gr.Label(num_top_classes=min(10, len(run.class_names)), label="class activities")
                plot = gr.Plot(label="inside")
        for control in (pad, *sliders):
            control.change(update, [pad, *sliders], [label, plot], show_progress="hidden", trigger_mode="always_last")
    return blocks


def _ink(drawn) -> np.ndarray:
    """The picture of Gradio's editor, ``[H, W]`` uint8."""
    composite = drawn.get("composite") if isinstance(drawn, dict) else None
    if composite is None:
        return np.zeros((_FIELD, _FIELD), np.uint8)
    composite = np.asarray(composite)
    return composite[..., 0] if composite.ndim == 3 else composite


def main() -> None:
    """The command line."""
    workdir = flags.DEFINE_string("workdir", None, "Folder of a run; default: the small network of the package.")
    host = flags.DEFINE_string("host", "127.0.0.1", "Address to listen on; 0.0.0.0 lets other machines in.")
    port = flags.DEFINE_integer("port", 7860, "Port to listen on.", 1, 65535)

    def parsed(argv):
        del argv
        run = load_run(pathlib.Path(workdir.value)) if workdir.value else load_pretrained()
        try:
            blocks = page(run)
        except ImportError:
            sys.exit("Error: the demo needs Gradio: pip install 'lcaps-jax[demo]', or pip install gradio.")
        blocks.launch(server_name=host.value, server_port=port.value, share=False, max_file_size="1mb", quiet=True)

    cli.run(parsed)


if __name__ == "__main__":
    main()
