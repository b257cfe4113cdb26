"""A page in the browser: draw a digit, transform it, and see what a capsule network makes of it.

    pip install -r requirements/demo.txt
    python -m lcaps_jax.apps.demo                        # the two networks of the package, side by side
    python -m lcaps_jax.apps.demo --workdir=runs/mine

Only this machine can open the page, unless --host says otherwise.
"""

from collections.abc import Mapping, Sequence
import functools
import socket
import sys
from typing import Any

from absl import app, flags
import jax
from matplotlib.figure import Figure
import numpy as np

from lcaps_jax import apps
from lcaps_jax.data import affnist, mnist
from lcaps_jax.data.image_io import centred, fit_size
from lcaps_jax.data.splits import DataError
from lcaps_jax.infer.model import Model
from lcaps_jax.infer.pretrained import load_model
from lcaps_jax.nn.ladder import LadderCapsNet
from lcaps_jax.nn.outputs import Output
from lcaps_jax.util.errors import ConfigError, UserError
from lcaps_jax.util.process import prepare, say
from lcaps_jax.viz import style, transforms

_ANGLES = (-20, -10, 0, 10, 20)  # of the rotation search of the network with a canonical frame
_FIELD = 280  # pixels along a side of the field to draw in
# The sliders: least value, greatest value, and the value that leaves the drawing unchanged.
LIMITS = {
    "rotation": (-180.0, 180.0, 0.0),  # degrees
    "scale": (0.3, 2.0, 1.0),
    "shear": (-1.0, 1.0, 0.0),
    "right": (-20.0, 20.0, 0.0),  # pixels
    "down": (-20.0, 20.0, 0.0),
}
_UNCHANGED = tuple(start for *_, start in LIMITS.values())
_ROWS = 10  # classes in a table of activities
_DPI = 200  # so that figures are sharp on phones
_HTML = apps.template("demo.html").module
_warp = jax.jit(affnist.warp, static_argnums=2)


def prepared(drawing: np.ndarray, model: Model) -> np.ndarray:
    """A drawing prepared as the training images of a network are.

    Args:
      drawing: Drawing, ``[H, W]`` uint8, white on black.
      model: Trained network.

    Returns:
      ``[I, I]`` uint8. For networks trained on MNIST's digits the drawing is centred as they are; for others it is only
      scaled, as files in a folder are.

    Raises:
      DataError: The drawing is too large or has another shape or type; see ``image_io.centred``.
    """
    size, dataset = model.image_size, model.config.data.dataset
    if dataset in mnist.MNIST_FORM:
        drawing = centred(drawing, max(size, mnist.SIZE if dataset == mnist.EXPANDED else 28))
    return fit_size(drawing[None, ..., None], size)[0, ..., 0]


def _is_dark_on_light(model: Model) -> bool:
    return model.brightness is not None and model.brightness.is_light


def preparation(model: Model) -> str:
    """A sentence or two on how the page prepares a drawing for a network."""
    dataset = model.config.data.dataset
    if dataset in mnist.MNIST_FORM:
        return "The drawing is scaled and centred as MNIST's digits are, on which this network was trained."
    strokes = "dark strokes on white" if _is_dark_on_light(model) else "white strokes on black"
    return (
        f"This network was trained on {dataset}, so the drawing is not centred: the whole field becomes the image, "
        f"with {strokes}. Draw objects with the size and position that they have in those images."
    )


def explain(
    model: Model, drawing: np.ndarray, rotation=0.0, scale=1.0, shear=0.0, right=0.0, down=0.0
) -> tuple[Output, Figure]:
    """The output for a drawing that is transformed as the sliders say, and a figure of the inside of the decision.

    Raises:
      DataError: The drawing or a slider's value cannot be used.
    """
    for (name, (low, high, _)), value in zip(LIMITS.items(), (rotation, scale, shear, right, down)):
        if not isinstance(value, int | float) or not low <= value <= high:
            raise DataError(f"{name}={value!r}: must be a number from {low:g} to {high:g}.")
    transformation = affnist.Transformation(
        rotation=np.deg2rad(np.array([rotation], np.float32)),
        shear=np.array([shear], np.float32),
        scale=np.array([[scale, scale]], np.float32),
        shift=np.array([[round(down), round(right)]], np.int32),
    )
    image = prepared(drawing, model).astype(np.float32) / 255
    image = np.asarray(_warp(image[None], transformation, model.image_size))[..., None].clip(0, 1)
    if _is_dark_on_light(model):  # only now, so that what comes in from outside is light too
        image = 1 - image
    output = model(image)
    return output, transforms.explained(style.as_uint8(image[0]), output, model.geometry, model.class_names)


def caption(output: Output, class_names: Sequence[str]) -> str:
    """Sentences that say what the figure of one decision shows."""
    best = class_names[int(np.argmax(output.activity[0]))]
    sentences = transforms.seen_caption(output)
    if getattr(output, "regressed", None) is not None:
        sentences.append(
            "Each row of the matrices is one kept capsule: on the left as it goes up the ladder, on the right as class "
            f"{best} regresses it on the way down. The more similar the two are, the more active is the class."
        )
    if getattr(output, "reconstruction", None) is not None:
        sentences.append(f"The second picture is what the decoder draws from the capsule of class {best} alone.")
    return " ".join(sentences) or "This is the image that the network receives."


def answer(model: Model, drawing: np.ndarray, *amounts: float) -> str:
    """What the page shows of one network for a drawing, in HTML; ``amounts`` are the sliders' values."""
    output, figure = explain(model, drawing, *amounts)
    return rendered(output, figure, model.class_names)


def rendered(output: Output, figure: Figure, class_names: Sequence[str]) -> str:
    """The output for one image in HTML; of more than ten classes it shows the ten most active."""
    activity = output.activity[0]
    best = np.argsort(-activity, kind="stable")[:_ROWS]
    rows = [(class_names[j], float(activity[j])) for j in sorted(best)]
    return str(_HTML.answer(class_names[best[0]], rows, apps.data_uri(figure, _DPI), caption(output, class_names)))


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
    """The page, a Gradio Blocks.

    Args:
      models: Trained networks to show side by side, by their titles.
    """
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
                        for name, (low, high, start) in LIMITS.items()
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
        pad.clear(lambda: (empty, *_UNCHANGED, *waiting), None, [pad, *sliders, *shown], show_progress="hidden")
        changes = [pad.input, *(slider.change for slider in sliders)]
        gr.on(changes, update, [pad, *sliders], shown, show_progress="hidden", trigger_mode="always_last")
    return blocks


def _ink(drawn) -> np.ndarray:
    """The drawing of Gradio's editor, ``[H, W]`` uint8: the opacity of its layers without the background."""
    layers = [np.zeros((_FIELD, _FIELD, 4), np.uint8), *(drawn["layers"] if isinstance(drawn, dict) else ())]
    for layer in layers:
        if np.shape(layer) != layers[0].shape:
            raise DataError(f"The drawing has the shape {np.shape(layer)}: must be [{_FIELD}, {_FIELD}, 4].")
    return np.max(layers, axis=0)[..., 3]


def check_address(host: str, port: int) -> None:
    """Raises ConfigError where this process cannot listen on an address."""
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
            probe.bind((host, port))
    except OSError as error:
        raise ConfigError(
            f"host={host}, port={port}: cannot listen there ({error.strerror}). The page may be running already; "
            "another port is free, or host 127.0.0.1 (this machine) or 0.0.0.0 (all)."
        ) from None


def main(argv: Sequence[str], workdir, host, port) -> None:
    """Loads the networks and serves the page until Ctrl+C."""
    del argv
    prepare()
    try:
        check_address(host.value, port.value)
        blocks = page({workdir.value: load_model(workdir.value)} if workdir.value else packaged())
    except UserError as error:
        sys.exit(f"Error: {error}")
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        sys.exit("Error: The demo needs Gradio: pip install -r requirements/demo.txt")
    place = {"server_name": host.value, "server_port": port.value, "share": False}
    _, address, _ = blocks.launch(
        **place, max_file_size="1mb", quiet=True, prevent_thread_lock=True, css=str(_HTML.style())
    )
    say(f"The page is at {address} (Ctrl+C ends it).")
    blocks.block_thread()


if __name__ == "__main__":
    _FLAGS = {
        "workdir": flags.DEFINE_string("workdir", None, "Folder of a run. Default: the two networks of the package."),
        "host": flags.DEFINE_string("host", "127.0.0.1", "Address to listen on; 0.0.0.0 lets other machines in."),
        "port": flags.DEFINE_integer("port", 7860, "Port to listen on.", 1, 65535),
    }
    app.run(functools.partial(main, **_FLAGS))
