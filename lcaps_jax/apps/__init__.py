"""Pages for the browser: an HTML report about trained networks, and a demo to draw on."""

import base64
import io
import pathlib

import jinja2
from matplotlib.figure import Figure

_HERE = pathlib.Path(__file__).parent
# The HTML files of this folder; what is inserted into them is escaped.
TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(_HERE), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
)
# The ladder network in one drawing, made by scripts/draw_network.py.
NETWORK = _HERE / "network.png"
NETWORK_CAPTION = (
    "The idea of the ladder network. Convolutions turn the image into primary capsules. The K most active ones are "
    "kept, and the code vector says which. On the way up, each class makes one capsule of the kept ones; on the way "
    "down, it regresses the kept ones from that capsule. A class is active if the two agree."
)


def data_uri(picture: bytes | Figure, dpi: int = 110) -> str:
    """A PNG or a figure as a ``data:`` address, so that a page needs no other files."""
    if isinstance(picture, Figure):
        with io.BytesIO() as file:
            picture.savefig(file, format="png", dpi=dpi, bbox_inches="tight")
            picture = file.getvalue()
    return f"data:image/png;base64,{base64.b64encode(picture).decode()}"
