"""A page in the browser to draw a digit on, to turn, scale, shear and move it, and to see what a network makes of it.

    pip install -r requirements/demo.txt
    python -m lcaps_jax.views.demo                        # the two networks of the package, side by side
    python -m lcaps_jax.views.demo --workdir=runs/mine

It listens on this machine alone unless --host says otherwise.
"""

import base64
from collections.abc import Callable, Mapping, Sequence
import errno
import html
import io
import signal
import socket
import textwrap
from typing import Any, NamedTuple

# Ctrl-C during the imports below, which take seconds, would print a traceback.
_ON_INTERRUPT = signal.signal(signal.SIGINT, signal.SIG_DFL) if __name__ == "__main__" else None

from absl import flags
import jax
from matplotlib.figure import Figure
import numpy as np

from lcaps_jax import cli, pretrained
from lcaps_jax.config import ConfigError
from lcaps_jax.data import DataError, affnist, expanded_mnist, sample
from lcaps_jax.data.resize import centred, fit_size
from lcaps_jax.errors import arg
from lcaps_jax.networks import NetworkOutput
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
_MOST_PORTS = 65535
_SHOWN = 10  # classes in a table of activities
_WIDTH, _DPI = 4.2, 200  # inches and pixels an inch of a picture, which a phone shows at about its own width
_LETTERS = 44  # in a line of titles across that width
_STYLE = """
.lcaps table { width: 100%; border-collapse: collapse }
.lcaps table, .lcaps tr, .lcaps th, .lcaps td { border: none !important }
.lcaps .wide { overflow-x: auto }
.lcaps caption { text-align: left; padding-bottom: 4px }
.lcaps th, .lcaps td { padding: 1px 6px; text-align: left; font-weight: normal }
.lcaps td:last-child { text-align: right; font-variant-numeric: tabular-nums }
.lcaps td.bar { width: 75%; min-width: 90px }
.lcaps td.bar div { height: 10px; min-width: 1px; background: currentColor; opacity: 0.35 }
.lcaps tr.best > * { font-weight: bold }
.lcaps tr.best td.bar div { opacity: 1 }
.lcaps .taken { font-size: 1.4rem; margin: 0 0 8px }
.lcaps figure { margin: 12px 0 0 }
.lcaps figure img { width: 100%; height: auto; background: white }
.lcaps figcaption { padding-top: 6px }
.lcaps.drawing { max-width: 760px; margin-top: 16px }
.lcaps.drawing img { min-width: 620px }
"""
_WAITING = '<div class="lcaps">Draw something, and this network\'s answer appears here.</div>'
_warp = jax.jit(affnist.warp, static_argnums=2)
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


class Look(NamedTuple):
    """What the page shows of one network.

    Attributes:
      activities: Activity of each class, by its name.
      figure: Picture of the inside of the decision.
      output: Output of the network, of which that is drawn.
    """

    activities: dict[str, float]
    figure: Figure
    output: NetworkOutput


def explainer(run: Run) -> Callable[..., Look]:
    """The function that the page calls, which takes ``(picture, rotation, scale, shear, right, down)``.

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
            rotation=np.deg2rad(np.array([rotation], np.float32)),
            shear=np.array([shear], np.float32),
            scale=np.array([[scale, scale]], np.float32),
            shift=np.array([[round(down), round(right)]], np.int32),
        )
        image = prepared(picture, run).astype(np.float32) / 255
        moved = np.asarray(_warp(image[None], transformation, config.image_size))[..., None]
        moved = np.clip(moved, 0, 1)  # because rounding may carry interpolated values out of [0, 1]
        if _is_dark_on_light(run):  # at last, because what comes in from outside is then light too
            moved = 1 - moved
        output = run(moved)
        activities = {name: float(a) for name, a in zip(run.class_names, output.activity[0])}
        shown = np.rint(255 * moved[0]).astype(np.uint8)
        figure = plots.explained(shown, output, run.geometry, run.class_names)
        _stack(figure, output.regressed is not None)
        return Look(activities, figure, output)

    return explain


def _stack(figure: Figure, has_matrices: bool) -> None:
    """Puts the first panel of a row above the others, as a phone needs it, and adds the colour bar of the matrices."""
    first, *others = figure.axes
    figure.set_layout_engine("constrained")
    figure.set_size_inches(_WIDTH, _WIDTH * (1.6 if others else 0.9))
    grid = figure.add_gridspec(1 + bool(others), max(1, len(others)))
    first.set_subplotspec(grid[0, :])
    for column, axes in enumerate(others):
        axes.set_subplotspec(grid[1, column])
        axes.set_title(textwrap.fill(axes.get_title(), _LETTERS // len(others)), fontsize=9)
    if has_matrices:
        bar = figure.colorbar(
            others[0].images[0], ax=others[:2], orientation="horizontal", aspect=30, ticks=(-1, -0.5, 0, 0.5, 1)
        )
        bar.set_label("value in a capsule")
        others[1].set(ylabel="", yticklabels=[])


def caption(output: NetworkOutput, class_names: Sequence[str]) -> str:
    """Sentences that say what the picture of one decision shows."""
    best = class_names[int(np.argmax(output.activity[0]))]
    parts = []
    if output.index is not None:
        parts.append("Orange dots show where kept capsules sit, larger ones where more of them do.")
    if output.frame is not None:
        parts.append(plots.FRAME_CAPTION)
    if output.regressed is not None:
        parts.append(
            "In the matrices each row is one kept capsule, and the colour is a value in it: on the left as it goes up "
            f"the ladder, on the right as class {best} makes it on the way down. The more alike both are, the more "
            "active is the class."
        )
    if output.reconstruction is not None:
        parts.append(f"The second picture is what the decoder draws from the capsule of class {best} alone.")
    return " ".join(parts) or "This is the image as the network gets it."


def activity_table(activities: Mapping[str, float]) -> str:
    """The activities of the classes as a table in HTML, the ten highest where there are more classes."""
    best = max(activities, key=activities.__getitem__)
    shown = set(sorted(activities, key=activities.__getitem__, reverse=True)[:_SHOWN])
    rows = "".join(
        f'<tr{" class=best" if name == best else ""}><th scope="row">{html.escape(name)}</th>'
        f'<td class="bar"><div style="width: {100 * value:.0f}%"></div></td><td>{value:.2f}</td></tr>'
        for name, value in activities.items()
        if name in shown
    )
    return (
        f'<p class="taken">Taken for <b>{html.escape(best)}</b></p><div class="wide"><table>'
        f"<caption>Activity of each class, from 0 to 1. They need not add up to 1.</caption>{rows}</table></div>"
    )


def answer(look: Look) -> str:
    """What the page shows of one network, in HTML."""
    said = caption(look.output, list(look.activities))
    with io.BytesIO() as file:
        look.figure.savefig(file, dpi=_DPI)
        picture = _figure(file.getvalue(), "The image, and what the network computes of it.", said)
    return f'<div class="lcaps">{activity_table(look.activities)}{picture}</div>'


def _figure(png: bytes, alternative: str, said: str) -> str:
    """A picture and its caption in HTML."""
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return (
        f'<figure><img src="{source}" alt="{html.escape(alternative)}">'
        f"<figcaption>{html.escape(said)}</figcaption></figure>"
    )


def warm_up(explain: Callable[..., Look]) -> Look:
    """Does for a blank drawing what the page does for every other one, so that no first stroke waits for compilers."""
    look = explain(np.zeros((_FIELD, _FIELD), np.uint8), *_START.values())
    answer(look)
    return look


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

    explainers = {title: explainer(run) for title, run in networks.items()}
    looks = [warm_up(explain) for explain in explainers.values()]
    waiting = (_WAITING,) * len(explainers)
    blank = np.full((_FIELD, _FIELD, 4), 255, np.uint8)
    empty: Any = {"background": blank, "layers": [], "composite": None}

    def update(drawn, *amounts):
        try:
            ink = _ink(drawn)
            if not ink.any():
                return dict(zip(shown, waiting))
            return {place: answer(explain(ink, *amounts)) for place, explain in zip(shown, explainers.values())}
        except DataError as error:
            raise gr.Error(str(error)) from None

    said = dict.fromkeys(explanation(run) for run in networks.values())
    with gr.Blocks(title="lcaps_jax: a look inside") as blocks:
        gr.Markdown(
            "# A look inside a capsule network\n"
            "Draw something; then turn, scale, shear and move it, and see what each network makes of it."
            f"\n\n{' '.join(said)}"
        )
        with gr.Row():
            with gr.Column(min_width=300):
                brush = gr.Brush(default_size=12, colors=["#000000"], default_color="#000000", color_mode="fixed")
                pad = gr.Sketchpad(
                    value=empty, canvas_size=(_FIELD, _FIELD), fixed_canvas=True, brush=brush, label="Draw here",
                    sources=(), transforms=(), layers=False,
                )  # fmt: skip
                with gr.Row():  # two beside each other, so that on a phone the answers are not far below
                    sliders = [
                        gr.Slider(low, high, _START[name], step=0.05 if high < 3 else 1.0, label=name, min_width=140)
                        for name, (low, high) in LIMITS.items()
                    ]
            shown = []
            for title in networks:
                with gr.Column(min_width=300):
                    gr.Markdown(f"### {title}")
                    shown.append(gr.HTML(_WAITING, padding=False))
        if any(look.output.regressed is not None for look in looks):
            drawing = _figure(plots.NETWORK.read_bytes(), "The ladder network.", plots.NETWORK_CAPTION)
            gr.HTML(f'<div class="lcaps drawing"><div class="wide">{drawing}</div></div>', padding=False)
        # The pad reports strokes as input; its change event does not fire for them.
        pad.clear(lambda: (empty, *_START.values(), *waiting), None, [pad, *sliders, *shown], show_progress="hidden")
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


def check_address(host: str, port: int) -> None:
    """Raises ConfigError where nothing can listen on an address, and says why."""
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
            probe.bind((host, port))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            other = port + 1 if port < _MOST_PORTS else port - 1
            raise ConfigError(
                f"{arg('port')}={port}: another program listens there, perhaps this page, started before. Give "
                f"another {arg('port')}, such as {other}."
            ) from None
        if error.errno == errno.EACCES:
            raise ConfigError(
                f"{arg('port')}={port}: only the administrator may listen there. Give a {arg('port')} from 1024 on."
            ) from None
        raise ConfigError(
            f"{arg('host')}={host}: is no address of this machine ({error}). Give 127.0.0.1, or 0.0.0.0 for all."
        ) from None


def main() -> None:
    """Runs the command line."""
    workdir = flags.DEFINE_string("workdir", None, "Folder of a run. Default: the two networks of the package.")
    host = flags.DEFINE_string("host", "127.0.0.1", "Address to listen on; 0.0.0.0 lets other machines in.")
    port = flags.DEFINE_integer("port", 7860, "Port to listen on.", 1, _MOST_PORTS)

    def parsed(argv):
        del argv
        check_address(host.value, port.value)
        networks = {workdir.value: pretrained.load(workdir.value)} if workdir.value else packaged()
        try:
            blocks = page(networks)
        except ImportError:
            raise ConfigError("The demo needs Gradio: pip install -r requirements/demo.txt brings it.") from None
        _, address, _ = blocks.launch(
            server_name=host.value,
            server_port=port.value,
            share=False,
            max_file_size="1mb",
            quiet=True,
            prevent_thread_lock=True,
            css=_STYLE,
        )
        say(f"The page is at {address} (Ctrl+C ends it).")
        blocks.block_thread()

    cli.run(parsed)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, _ON_INTERRUPT)
    main()
