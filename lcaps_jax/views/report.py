"""One self-contained HTML page of a run, or of several side by side."""

import base64
from collections.abc import Callable, Mapping, Sequence
import dataclasses
import datetime
import html
import io
import pathlib

import jax
from matplotlib.figure import Figure
import numpy as np

import lcaps_jax
from lcaps_jax import data, parallel, runs
from lcaps_jax.config import ConfigError
from lcaps_jax.errors import arg
from lcaps_jax.training import LAST, read_metrics
from lcaps_jax.views import plots, robustness

_TRANSFORMED = 300  # test images that the robustness curves are measured on
# On a narrow screen pictures and runs stand below each other, and tables scroll in their own boxes under a name that
# stays.
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 1200px; padding: .5em 1em 2em; color: #222;
  overflow-wrap: break-word; }
h1, h2 { line-height: 1.2; }
.scroll { overflow-x: auto; margin: .5em 0 1.5em; }
table { border-collapse: collapse; }
th, td { border-bottom: 1px solid #ddd; padding: .3em .9em .3em 0; text-align: left; vertical-align: top; }
th:first-child, td:first-child { position: sticky; left: 0; background: #fff; min-width: 9.5em;
  max-width: 10em; overflow-wrap: anywhere; }
td:nth-child(2) { min-width: 8em; }
td.differs { background: #fff3d6; }
.row { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 360px), 1fr)); gap: 0 1.5em; }
figure { margin: 0 0 1.5em; max-width: 780px; }
figcaption, footer { color: #555; font-size: 14px; }
img { max-width: 100%; height: auto; }
footer { border-top: 1px solid #ddd; padding-top: .5em; }
"""


def write(
    workdirs: Sequence[pathlib.Path],
    path: pathlib.Path,
    *,
    checkpoint: str = LAST,
    data_dir: str | None = None,
    search_angles: Sequence[float] = (),
) -> None:
    """Writes a page about runs, in the given order.

    Args:
      workdirs: Folders of the runs.
      path: Path of the HTML file.
      checkpoint: Checkpoint that the robustness curves are measured with, ``"last"`` or ``"best"``.
      data_dir: Folder of the data that those curves are measured on; None for each run's own.
      search_angles: Angles in degrees; runs with a frame get a second curve, with a search over them.

    Raises:
      config.ConfigError: A folder holds no run, or is named twice; or angles are given and no run has a frame.
      ArgumentError: An angle is no number from -180 to 180.
      training.CheckpointError: The checkpoint of a run is damaged.
      data.DataError: The test set of a run cannot be loaded.
    """
    if len(set(map(pathlib.Path.resolve, workdirs))) < len(workdirs):
        raise ConfigError(f"{arg('workdir')}={','.join(map(str, workdirs))}: names a run twice.")
    loaded = {str(workdir): runs.load_run(workdir, checkpoint) for workdir in workdirs}
    logs = {name: read_metrics(pathlib.Path(name)) for name in loaded}
    shown = {name: _shown(run, data_dir) for name, run in loaded.items()}
    framed = {name: run for name, run in loaded.items() if run.config.framed}
    if search_angles and not framed:
        raise ConfigError(f"{arg('search_angles')}: none of the runs was trained with a frame to turn the images in.")
    searching = {name: run.searching(search_angles) for name, run in framed.items()} if search_angles else {}
    under = {name: robustness.errors(run, shown[name]) for name, run in loaded.items()}
    under |= {f"{name}, search": robustness.errors(run, shown[name]) for name, run in searching.items()}
    curves = _encode(plots.errors_under(under, {len(run.class_names) for run in loaded.values()}))
    keeps = any(run(shown[name].images[:1]).index is not None for name, run in loaded.items())
    body = [
        f"<h1>{_text(_title(loaded))}</h1>",
        "<h2>Errors</h2>",
        _errors(loaded, logs),
        *(["<h2>The network</h2>", _network()] if keeps else []),
        "<h2>Robustness</h2>",
        *(_frames(run, name, shown[name]) for name, run in framed.items()),
        _figure(
            curves,
            "Errors under transformations",
            f"The error on {_TRANSFORMED} test images of each run's own set (fewer where it has fewer), all of them "
            "transformed by one amount. The lower and the flatter a curve, the less the network minds the "
            "transformation. Where the errors come near it, a grey line is the error of guessing."
            + _of_search(search_angles),
        ),
        *_pictures(list(map(str, workdirs))),
        "<h2>Settings</h2>",
        _settings(loaded),
        f"<footer>lcaps_jax {lcaps_jax.__version__}, {datetime.date.today().isoformat()}. Intervals are Wilson's, "
        "95 %.</footer>",
    ]
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{_text(_title(loaded))}</title>'
        f"<style>{_STYLE}</style></head><body>{''.join(body)}</body></html>\n"
    )
    if parallel.is_main():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page)


def _title(loaded: Mapping[str, runs.Run]) -> str:
    names = [pathlib.Path(name).name for name in loaded]
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]


def _shown(run: runs.Run, data_dir: str | None) -> data.Split:
    """The first test images of a run's own set."""
    config = dataclasses.replace(run.config, data_dir=data_dir or run.config.data_dir)
    test = runs.load_test(config.dataset, config, run.class_names, run.channels)
    return test.take(np.arange(min(_TRANSFORMED, len(test))))


def _frames(run: runs.Run, name: str, shown: data.Split) -> str:
    """The first image of a set, turned by the amounts of the curve, with the frames that a run reads off it."""
    amounts = robustness.AMOUNTS[robustness.ROTATION]
    images = np.repeat(shown.images[:1], len(amounts), axis=0).astype(np.float32) / 255
    turned = np.asarray(robustness.transform(images, robustness.ROTATION, amounts))
    titles = [f"{amount:g}°" for amount in amounts]
    said = f"{name}: the first test image, turned. {plots.FRAME_CAPTION}"
    return _figure(_encode(plots.in_frames(turned, run(turned), titles)), f"Frames of {name}", said)


def _of_search(angles: Sequence[float]) -> str:
    """A sentence that says what the curves with a search are, if there are any."""
    if not angles:
        return ""
    by = ", ".join(f"{angle:g}" for angle in angles)
    return f" With the search a network turns each image by {by} degrees and weighs its classes over all of them."


def _errors(loaded: Mapping[str, runs.Run], logs: Mapping[str, Sequence[dict]]) -> str:
    """A line for each run: its errors with their intervals, its size and its length."""
    sets = list(dict.fromkeys(name for run in loaded.values() for name in run.results))
    rows = [["run", *(f"error on {test}" for test in sets), "network", "parameters", "steps", "minutes"]]
    for name, run in loaded.items():
        parameters = sum(leaf.size for leaf in jax.tree.leaves(run.params))
        step, minutes = run.step, ""
        if logs[name]:
            step, minutes = logs[name][-1]["step"], f"{logs[name][-1]['seconds'] / 60:.1f}"
        errors = [_error(run.results.get(test, {})) for test in sets]
        rows.append([name, *errors, run.config.model, f"{parameters:,}", f"{step:,}", minutes])
    return _table(rows)


def _error(result: Mapping) -> str:
    if not {"error", "ci95", "count"} <= set(result):
        return ""
    low, high = result["ci95"]
    text = f"{result['error']:.2f} % ({low:.2f} to {high:.2f}) of {result['count']:,}"
    if "images" in result:
        text += f", {result['images']}"
    if "stop_at_error" in result:
        text += f", with --stop_at_error={result['stop_at_error']:g}"
    return text


def _settings(loaded: Mapping[str, runs.Run]) -> str:
    """Every setting of the runs; the ones that differ are marked."""
    settings = [run.config.to_json() for run in loaded.values()]
    rows = [["setting", *loaded]] + [[name, *(str(each[name]) for each in settings)] for name in settings[0]]
    return _table(rows, marked=lambda row: len(set(row[1:])) > 1)


def _pictures(workdirs: Sequence[str]) -> list[str]:
    """Each kind of picture that any run has, the runs' side by side where there is room."""
    parts = []
    for kind, about in plots.KINDS.items():
        found = [sorted((pathlib.Path(name) / plots.FOLDER).glob(f"{kind}*.png")) for name in workdirs]
        if any(found):
            columns = [
                "<div>" + "".join(_picture(path, kind, workdir) for path in paths) + "</div>"
                for workdir, paths in zip(workdirs, found)
            ]
            parts.append(f'<h2>{_text(about.title)}</h2><div class="row">{"".join(columns)}</div>')
    return parts


def _picture(path: pathlib.Path, kind: str, workdir: str) -> str:
    caption = f"{workdir}: {plots.caption_of(path, kind)}"
    return _figure(path.read_bytes(), f"{plots.KINDS[kind].title} of {workdir}", caption)


def _network() -> str:
    return _figure(plots.NETWORK.read_bytes(), "The ladder network", plots.NETWORK_CAPTION)


def _figure(png: bytes, alt: str, caption: str) -> str:
    image = f'<img alt="{_text(alt)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
    return f"<figure>{image}<figcaption>{_text(caption)}</figcaption></figure>"


def _encode(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
    return buffer.getvalue()


def _table(rows: Sequence[Sequence[str]], marked: Callable[[Sequence[str]], bool] = lambda row: False) -> str:
    lines = ["<tr>" + "".join(f"<th>{_text(cell)}</th>" for cell in rows[0]) + "</tr>"]
    for row in rows[1:]:
        mark = ' class="differs"' if marked(row) else ""
        first = f"<td>{_text(row[0])}</td>"
        lines.append("<tr>" + first + "".join(f"<td{mark}>{_text(cell)}</td>" for cell in row[1:]) + "</tr>")
    return f'<div class="scroll"><table>{"".join(lines)}</table></div>'


def _text(value: str) -> str:
    return html.escape(value)
