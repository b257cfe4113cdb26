"""A page in the browser to draw a digit on, to turn, scale, shear and move it, and to see what a network makes of it.

    pip install -r requirements/demo.txt
    python -m lcaps_jax.views.demo                        # the two networks of the package, side by side
    python -m lcaps_jax.views.demo --workdir=runs/mine

It listens on this machine alone unless --host says otherwise.
"""

from collections.abc import Callable, Mapping
from typing import Any

from absl import flags
import jax.numpy as jnp
from matplotlib.figure import Figure
import numpy as np

from lcaps_jax import cli, pretrained
from lcaps_jax.config import ConfigError
from lcaps_jax.data import DataError, affnist, expanded_mnist, sample
from lcaps_jax.data.resize import centred, fit_size
from lcaps_jax.errors import arg
from lcaps_jax.runs import Run
from lcaps_jax.runtime import say
from lcaps_jax.views import plots

# Degrees over which a network with a frame searches.
_SEARCH = (-20, -10, 0, 10, 20)
_FIELD = 280  # pixels along a side of the field to draw in
# The least and the largest rotation in degrees, scale, shear, and shift in pixels.
LIMITS = {
    "rotation": (-180.0, 180.0),
    "scale": (0.3, 2.0),
    "shear": (-1.0, 1.0),
    "right": (-20.0, 20.0),
    "down": (-20.0, 20.0),
}
# Where the sliders begin: the drawing as it is.
_START = {name: 1.0 if name == "scale" else 0.0 for name in LIMITS}
# Pixels along a side of the sets of MNIST's digits, each of which is fitted into 20 pixels, its centre of mass in the
# middle.
_CENTRED = {sample.NAME: 28, expanded_mnist.NAME: 40, "mnist": 28}


def prepared(drawing: np.ndarray, run: Run) -> np.ndarray:
    """A drawing as the images are that the run was trained on.

    Args:
      drawing: Drawing, ``[H, W]`` uint8, white on black.
      run: Trained network.

    Returns:
      ``[I, I]`` uint8. For MNIST's digits the drawing is centred as they are; for all else it is scaled as it stands,
      as the files of a folder are.

    Raises:
      data.DataError: The drawing is to be centred and cannot be; see ``resize.centred``.
    """
    size, own = run.config.image_size, _CENTRED.get(run.config.dataset)
    image = centred(drawing, max(size, own)) if own else drawing
    return fit_size(image[None, ..., None], size)[0, ..., 0]


def _is_dark_on_light(run: Run) -> bool:
    """Whether a run was trained on images with a light ground, so that its drawings are dark strokes on light."""
    return run.ground is not None and run.ground.is_light


def explanation(run: Run) -> str:
    """What the page says of how it prepares a drawing."""
    if run.config.dataset in _CENTRED:
        return "A drawing is scaled and centred as MNIST's digits are, on which this network was trained."
    strokes = "dark strokes on white" if _is_dark_on_light(run) else "white strokes on black"
    return (
        f"This network was trained on the set {run.config.dataset}, so a drawing is not centred: the whole field, "
        f"{strokes}, becomes the image. Draw things as large, and where, those images show them."
    )


def explainer(run: Run) -> Callable[..., tuple[dict[str, float], Figure]]:
    """The function that the page calls: ``(picture, rotation, scale, shear, right, down)`` to activities and a figure.

    Raises:
      config.ConfigError: The network was trained on colour images, which cannot be drawn here.
    """
    config = run.config
    if run.channels != 1:
        raise ConfigError("The demo draws grey images, and this network was trained on coloured ones.")

    def explain(picture, rotation, scale, shear, right, down):
        for name, value in zip(LIMITS, (rotation, scale, shear, right, down)):
            low, high = LIMITS[name]
            if not isinstance(value, int | float) or not low <= value <= high:
                raise DataError(f"{name} must be a number from {low:g} to {high:g}, got {value!r}.")
        transformation = affnist.Transformation(
            rotation=jnp.deg2rad(jnp.array([rotation], jnp.float32)),
            shear=jnp.array([shear], jnp.float32),
            scale=jnp.array([[scale, scale]], jnp.float32),
            shift=jnp.array([[round(down), round(right)]], jnp.int32),
        )
        image = jnp.asarray(prepared(picture, run), jnp.float32) / 255
        moved = affnist.warp(image[None], transformation, config.image_size)[..., None]
        moved = np.clip(moved, 0, 1)  # because rounding may carry interpolated values out of [0, 1]
        if _is_dark_on_light(run):  # at last, because what comes in from outside is then light too
            moved = 1 - moved
        output = run(moved)
        activities = {name: float(a) for name, a in zip(run.class_names, output.activity[0])}
        shown = np.rint(255 * moved[0]).astype(np.uint8)
        return activities, plots.explained(shown, output, run.geometry, run.class_names)

    return explain


def packaged() -> dict[str, Run]:
    """The two networks of the package by their titles; both were trained on MNIST's upright digits alone."""
    framed = pretrained.load_pretrained(pretrained.MNIST_FRAMED)
    return {
        "Without a frame": pretrained.load_pretrained(),
        "In the image's own frame": framed.searching(_SEARCH),
    }


def page(networks: Mapping[str, Run]):
    """The page, a Gradio Blocks.

    Args:
      networks: Networks to look into, side by side, by their titles.
    """
    import gradio as gr

    explainers = [explainer(run) for run in networks.values()]
    blank = np.full((_FIELD, _FIELD, 4), 255, np.uint8)
    empty: Any = {"background": blank, "layers": [], "composite": None}

    def update(drawn, *amounts):
        try:
            ink = _ink(drawn)
            if not ink.any():
                return (None, None) * len(explainers)
            return tuple(each for explain in explainers for each in explain(ink, *amounts))
        except DataError as error:
            raise gr.Error(str(error)) from None

    said = dict.fromkeys(explanation(run) for run in networks.values())
    with gr.Blocks(title="lcaps_jax: a look inside") as blocks:
        gr.Markdown(
            "# A look inside a capsule network\n"
            "Draw something; then turn, scale, shear and move it. The dots show where the kept capsules sit. Beside "
            "them stands what the most active class makes of these capsules on the way down the ladder. Activities "
            "lie between 0 and 1 and need not add up to 1. A blue frame is what the network sees, read off the image."
            f"\n\n{' '.join(said)}"
        )
        with gr.Row():
            with gr.Column():
                brush = gr.Brush(default_size=12, colors=["#000000"], default_color="#000000", color_mode="fixed")
                pad = gr.Sketchpad(
                    value=empty, canvas_size=(_FIELD, _FIELD), fixed_canvas=True, brush=brush, label="Draw here",
                    sources=(), transforms=(), layers=False,
                )  # fmt: skip
                sliders = [
                    gr.Slider(low, high, _START[name], step=0.05 if high < 3 else 1.0, label=name)
                    for name, (low, high) in LIMITS.items()
                ]
            shown: list[Any] = []
            for title, run in networks.items():
                with gr.Column():
                    gr.Markdown(f"### {title}")
                    shown.append(gr.Label(num_top_classes=min(10, len(run.class_names)), label="class activities"))
                    shown.append(gr.Plot(show_label=False))
        # The pad reports strokes as input; its change event does not fire for them.
        pad.clear(lambda: (empty, *_START.values()), None, [pad, *sliders], show_progress="hidden")
        changes = [pad.input, *(slider.change for slider in sliders)]
        gr.on(changes, update, [pad, *sliders], shown, show_progress="hidden", trigger_mode="always_last")
    return blocks


def _ink(drawn) -> np.ndarray:
    """The drawing of Gradio's editor, ``[H, W]`` uint8: the opacity of its layers without the ground below."""
    layers = [np.zeros((_FIELD, _FIELD, 4), np.uint8), *(drawn["layers"] if isinstance(drawn, dict) else ())]
    for layer in layers:
        if np.shape(layer) != layers[0].shape:
            raise DataError(f"A drawing must be [{_FIELD}, {_FIELD}, 4], got {np.shape(layer)}.")
    return np.max(layers, axis=0)[..., 3]


def main() -> None:
    """Runs the command line."""
    workdir = flags.DEFINE_string("workdir", None, "Folder of a run. Default: the two networks of the package.")
    host = flags.DEFINE_string("host", "127.0.0.1", "Address to listen on; 0.0.0.0 lets other machines in.")
    port = flags.DEFINE_integer("port", 7860, "Port to listen on.", 1, 65535)

    def parsed(argv):
        del argv
        networks = {workdir.value: pretrained.load(workdir.value)} if workdir.value else packaged()
        try:
            blocks = page(networks)
        except ImportError:
            raise ConfigError("The demo needs Gradio: pip install -r requirements/demo.txt brings it.") from None
        try:
            _, address, _ = blocks.launch(
                server_name=host.value,
                server_port=port.value,
                share=False,
                max_file_size="1mb",
                quiet=True,
                prevent_thread_lock=True,
            )
        except OSError as error:
            raise ConfigError(f"{error} Give another {arg('port')}.") from None
        say(f"The page is at {address} (Ctrl+C ends it).")
        blocks.block_thread()

    cli.run(parsed)


if __name__ == "__main__":
    main()
