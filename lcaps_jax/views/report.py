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
# Plots of a run by the beginning of their file names, in the order of the page.
_PICTURES = {
    "training_curve": "Training",
    "confusion": "Confusion",
    "mistakes": "Worst mistakes",
    "capsules": "Where the kept capsules sit",
    "reconstructions": "Reconstructions",
    "perturbations": "What the dimensions of a pose stand for",
    "activity": "Activity of the primary capsules",
}
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 1500px; padding: 0 1em; color: #222; }
table { border-collapse: collapse; margin: .5em 0 1.5em; }
th, td { border-bottom: 1px solid #ddd; padding: .25em .9em .25em 0; text-align: left; vertical-align: top; }
td.differs { background: #fff3d6; }
.row { display: flex; gap: 1.5em; overflow-x: auto; }
.row figure { flex: 1 1 0; min-width: 340px; margin: 0 0 1em; }
figcaption { color: #555; font-size: 13px; }
img { max-width: 100%; }
footer { color: #777; font-size: 13px; border-top: 1px solid #ddd; padding-top: .5em; }
"""


def write(
    workdirs: Sequence[pathlib.Path], path: pathlib.Path, *, checkpoint: str = LAST, data_dir: str | None = None
) -> None:
    """Writes a page about runs, in the given order.

    Args:
      workdirs: Folders of the runs.
      path: Path of the HTML file.
      checkpoint: Checkpoint that the robustness curves are measured with, ``"last"`` or ``"best"``.
      data_dir: Folder of the data that those curves are measured on; None for each run's own.

    Raises:
      config.ConfigError: A folder holds no run, or is named twice.
      training.CheckpointError: The checkpoint of a run is damaged.
      data.DataError: The test set of a run cannot be loaded.
    """
    if len(set(map(pathlib.Path.resolve, workdirs))) < len(workdirs):
        raise ConfigError(f"{arg('workdir')}={','.join(map(str, workdirs))}: names a run twice.")
    loaded = {str(workdir): runs.load_run(workdir, checkpoint) for workdir in workdirs}
    logs = {name: read_metrics(pathlib.Path(name)) for name in loaded}
    under = {name: robustness.errors(run, _shown(run, data_dir)) for name, run in loaded.items()}
    curves = _img(_encode(plots.errors_under(under)), "error of each run under each transformation")
    body = [
        f"<h1>{_text(_title(loaded))}</h1>",
        "<h2>Errors</h2>",
        _errors(loaded, logs),
        f"<h2>Robustness</h2><p>Error on {_TRANSFORMED} test images of each run's own set (fewer where it has fewer), "
        f"transformed by one amount each.</p>{curves}",
        *_pictures(list(map(str, workdirs))),
        "<h2>Settings</h2>",
        _settings(loaded),
        f"<footer>lcaps_jax {lcaps_jax.__version__}, {datetime.date.today().isoformat()}. Intervals are Wilson's, "
        "95 %.</footer>",
    ]
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{_text(_title(loaded))}</title>'
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


def _errors(loaded: Mapping[str, runs.Run], logs: Mapping[str, Sequence[dict]]) -> str:
    """A line for each run: its size, its length, and its errors with their intervals."""
    sets = list(dict.fromkeys(name for run in loaded.values() for name in run.results))
    rows = [["run", "network", "parameters", "steps", "minutes", *sets]]
    for name, run in loaded.items():
        parameters = sum(leaf.size for leaf in jax.tree.leaves(run.params))
        step, minutes = run.step, ""
        if logs[name]:
            step, minutes = logs[name][-1]["step"], f"{logs[name][-1]['seconds'] / 60:.1f}"
        rows.append(
            [name, run.config.model, f"{parameters:,}", f"{step:,}", minutes]
            + [_error(run.results.get(test, {})) for test in sets]
        )
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
    """Each kind of picture that any run has, the runs' side by side."""
    parts = []
    for kind, title in _PICTURES.items():
        found = [sorted((pathlib.Path(name) / plots.FOLDER).glob(f"{kind}*.png")) for name in workdirs]
        if any(found):
            columns = [
                "<div>" + "".join(_figure(path, f"{workdir}: {path.stem}") for path in paths) + "</div>"
                for workdir, paths in zip(workdirs, found)
            ]
            parts.append(f'<h2>{_text(title)}</h2><div class="row">{"".join(columns)}</div>')
    return parts


def _figure(path: pathlib.Path, caption: str) -> str:
    return f"<figure>{_img(path.read_bytes(), caption)}<figcaption>{_text(caption)}</figcaption></figure>"


def _img(png: bytes, alt: str) -> str:
    return f'<img alt="{_text(alt)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


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
    return f"<table>{''.join(lines)}</table>"


def _text(value: str) -> str:
    return html.escape(value)
