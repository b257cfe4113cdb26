"""A page in the browser: draw a digit, transform it, and see what a capsule network makes of it.

    pip install -r requirements/demo.txt
    python -m lcaps_jax.apps.demo                        # the two networks of the package, side by side
    python -m lcaps_jax.apps.demo --workdir=runs/mine

Only this machine can open the page, unless --host says otherwise.
"""

from collections.abc import Mapping, Sequence
import sys
from typing import Any

from absl import app, flags, logging
import jax.numpy as jnp
from matplotlib.figure import Figure
import numpy as np

from lcaps_jax import apps
from lcaps_jax.data import affnist, mnist
from lcaps_jax.data.image_io import centred, fit_size
from lcaps_jax.data.splits import DataError
from lcaps_jax.infer.model import Model
from lcaps_jax.infer.pretrained import load_model
from lcaps_jax.nn import Output
from lcaps_jax.nn.ladder import LadderCapsNet
from lcaps_jax.util.errors import ConfigError, UserError
from lcaps_jax.util.process import prepare, say
from lcaps_jax.viz import style, transforms

_ANGLES = (-20, -10, 0, 10, 20)  # of the rotation search of the network with a canonical frame
_FIELD = 280  # pixels along a side of the field to draw in
# The sliders: least value, greatest value, and the value that leaves the drawing unchanged.
_SLIDERS = {
    "rotation": (-180.0, 180.0, 0.0),  # degrees
    "scale": (0.3, 2.0, 1.0),
    "shear": (-1.0, 1.0, 0.0),
    "right": (-20.0, 20.0, 0.0),  # pixels
    "down": (-20.0, 20.0, 0.0),
}
_ROWS = 10  # classes in a table of activities
_DPI = 200  # so that figures are sharp on phones
_HTML: Any = apps.TEMPLATES.get_template("demo.html").module


def prepared(drawing: np.ndarray, model: Model) -> np.ndarray:
    """A drawing ``[H, W]`` uint8, white on black, as the training images of a network are, ``[I, I]`` uint8.

    For networks trained on MNIST's digits it is centred as they are; for others it is only scaled, as files are.
    """
    size, dataset = model.image_size, model.config.data.dataset
    if dataset in mnist.MNIST_FORM:
        drawing = centred(drawing, max(size, mnist.SIZE if dataset == mnist.EXPANDED else 28))
    return fit_size(drawing[None, ..., None], size)[0, ..., 0]


def preparation(model: Model) -> str:
    """A sentence or two on how the page prepares a drawing for a network."""
    dataset, is_light = model.config.data.dataset, model.brightness and model.brightness.is_light
    strokes = "dark strokes on white" if is_light else "white strokes on black"
    return str(_HTML.preparation(dataset, dataset in mnist.MNIST_FORM, strokes))


def explain(
    model: Model, drawing: np.ndarray, rotation=0.0, scale=1.0, shear=0.0, right=0.0, down=0.0
) -> tuple[Output, Figure]:
    """The output for a drawing that is transformed as the sliders say, and a figure of the inside of the decision."""
    transformation = affnist.Transformation(
        rotation=jnp.array([np.deg2rad(rotation)], jnp.float32),
        shear=jnp.array([shear], jnp.float32),
        scale=jnp.array([[scale, scale]], jnp.float32),
        shift=jnp.array([[round(down), round(right)]], jnp.int32),
    )
    image = prepared(drawing, model)[None, ..., None].astype(np.float32) / 255
    image = np.asarray(transforms.warp(image, transformation))
    if model.brightness and model.brightness.is_light:  # only now, so that what comes in from outside is light too
        image = 1 - image
    output = model(image)
    return output, transforms.explained(style.as_uint8(image[0]), output, model.geometry, model.class_names)


def answer(model: Model, drawing: np.ndarray, *amounts: float) -> str:
    """What the page shows of one network for a drawing and the sliders' values, in HTML."""
    output, figure = explain(model, drawing, *amounts)
    activity, names = output.activity[0], model.class_names
    best = np.argsort(-activity, kind="stable")[:_ROWS]
    rows = [(names[j], float(activity[j])) for j in sorted(best)]
    seen = transforms.seen_caption(output)
    return str(_HTML.answer(names[best[0]], rows, apps.data_uri(figure, _DPI), seen, output))


def warm_up(model: Model) -> None:
    """Compiles everything that a drawing needs, so that the first stroke does not wait."""
    if model.channels != 1:
        raise ConfigError("The demo draws grey images, and this network was trained on coloured ones.")
    answer(model, np.zeros((_FIELD, _FIELD), np.uint8))


def packaged() -> dict[str, Model]:
    """The two networks of the package, trained on MNIST's upright digits, by their titles on the page."""
    framed = load_model("mnist_framed").with_rotation_search(_ANGLES)
    return {"Without a canonical frame": load_model("mnist_small"), "With a canonical frame": framed}


def page(models: Mapping[str, Model]):
    """The page, a Gradio Blocks, with these networks side by side, by their titles."""
    import gradio as gr

    for model in models.values():
        warm_up(model)
    waiting = [str(_HTML.waiting())] * len(models)
    blank = np.full((_FIELD, _FIELD, 4), 255, np.uint8)
    empty: Any = {"background": blank, "layers": [], "composite": None}

    def update(drawn, *amounts):
        try:
            ink = _ink(drawn)
            answers = [answer(model, ink, *amounts) for model in models.values()] if ink.any() else waiting
        except DataError as error:
            raise gr.Error(str(error)) from None
        return dict(zip(shown, answers))

    with gr.Blocks(title="lcaps_jax: a look inside") as blocks:
        notes = " ".join(dict.fromkeys(map(preparation, models.values())))
        gr.Markdown(
            "# A look inside a capsule network\n"
            f"Draw something; then rotate, scale, shear and move it, and see what each network makes of it.\n\n{notes}"
        )
        with gr.Row():
            with gr.Column(min_width=300):
                brush = gr.Brush(default_size=12, colors=["#000000"], default_color="#000000", color_mode="fixed")
                pad = gr.Sketchpad(
                    value=empty, canvas_size=(_FIELD, _FIELD), fixed_canvas=True, brush=brush, label="Draw here",
                    sources=(), transforms=(), layers=False,
                )  # fmt: skip
                with gr.Row():  # two sliders side by side, so that on a phone the answers are not far below
                    sliders = [
                        gr.Slider(low, high, start, step=0.05 if high < 3 else 1.0, label=name, min_width=140)
                        for name, (low, high, start) in _SLIDERS.items()
                    ]
            shown = []
            for title in models:
                with gr.Column(min_width=300):
                    gr.Markdown(f"### {title}")
                    shown.append(gr.HTML(waiting[0], padding=False))
        if any(isinstance(model.network.network, LadderCapsNet) for model in models.values()):
            network = _HTML.network(apps.data_uri(apps.NETWORK.read_bytes()), apps.NETWORK_CAPTION)
            gr.HTML(str(network), padding=False)
        # The pad reports strokes as input; its change event does not fire for them.
        unchanged = [start for *_, start in _SLIDERS.values()]
        pad.clear(lambda: (empty, *unchanged, *waiting), None, [pad, *sliders, *shown], show_progress="hidden")
        changes = [pad.input, *(slider.change for slider in sliders)]
        gr.on(changes, update, [pad, *sliders], shown, show_progress="hidden", trigger_mode="always_last")
    return blocks


def _ink(drawn) -> np.ndarray:
    """The drawing of Gradio's editor, ``[H, W]`` uint8: the opacity of its layers without the background."""
    layers = drawn["layers"] if drawn else []
    for layer in layers:
        if layer.shape != (_FIELD, _FIELD, 4):
            raise DataError(f"The drawing has the shape {layer.shape}: must be [{_FIELD}, {_FIELD}, 4].")
    return np.max([layer[..., 3] for layer in layers], axis=0, initial=0)


def main(argv: Sequence[str]) -> None:
    """Loads the networks and serves the page until Ctrl+C."""
    del argv
    workdir, host, port = (flags.FLAGS[name].value for name in ("workdir", "host", "port"))
    logging.set_verbosity(logging.ERROR)  # Orbax and Gradio log each of their steps
    prepare()
    try:
        blocks = page({workdir: load_model(workdir)} if workdir else packaged())
        place = {"server_name": host, "server_port": port, "share": False}
        _, address, _ = blocks.launch(
            **place, max_file_size="1mb", quiet=True, prevent_thread_lock=True, css=str(_HTML.style())
        )
    except UserError as error:
        sys.exit(f"Error: {error}")
    except OSError:
        sys.exit(f"Error: host={host}, port={port}: cannot listen there. Choose another port or host.")
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        sys.exit("Error: The demo needs Gradio: pip install -r requirements/demo.txt")
    say(f"The page is at {address} (Ctrl+C ends it).")
    blocks.block_thread()


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "Folder of a run. Default: the two networks of the package.")
    flags.DEFINE_string("host", "127.0.0.1", "Address to listen on; 0.0.0.0 lets other machines in.")
    flags.DEFINE_integer("port", 7860, "Port to listen on.", 1, 65535)
    app.run(main)
