"""An HTML page about a trained network, or about several side by side, in one file."""

from collections.abc import Mapping, Sequence
import datetime
import pathlib

import jax
import numpy as np

import lcaps_jax
from lcaps_jax import apps
from lcaps_jax.data.splits import Split
from lcaps_jax.infer.model import Model
from lcaps_jax.infer.pretrained import load_model
from lcaps_jax.nn.ladder import LadderCapsNet
from lcaps_jax.train.log import read_metrics
from lcaps_jax.train.test_sets import load_test_set
from lcaps_jax.util import devices
from lcaps_jax.util.errors import ConfigError
from lcaps_jax.viz import robustness, style, training, transforms

_IMAGES = 300  # test images that robustness is measured on
_ROBUSTNESS = (
    f"The error on the first {_IMAGES} test images of each network's own data set (or all, where it has fewer), "
    "transformed by the same amount. Lower and flatter curves mean a more robust network. A grey line marks the error "
    "of guessing where the errors come near it."
)


def write(
    workdirs: Sequence[str | pathlib.Path],
    path: pathlib.Path,
    *,
    checkpoint: str | None = None,
    data_dir: str | None = None,
    search_angles: Sequence[float] = (),
) -> None:
    """Writes a page about trained networks, in the given order.

    Args:
      workdirs: Folders of the runs.
      path: HTML file to write.
      checkpoint: Checkpoint to load, see ``load_model``.
      data_dir: Folder of the data that robustness is measured on; by default the one that each network was trained on.
      search_angles: Angles in degrees; networks with a canonical frame get a second curve with a rotation search.

    Raises:
      ConfigError: A folder holds no run or is named twice; or angles are given and no network has a frame.
      CheckpointError: A checkpoint is damaged.
      DataError: A test set cannot be loaded.
    """
    names, folders = list(map(str, workdirs)), list(map(pathlib.Path, workdirs))
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ConfigError(f"workdir={','.join(names)}: must name each run once.")
    models = {name: load_model(name, checkpoint) for name in names}
    images = {name: _test_images(model, data_dir) for name, model in models.items()}
    framed = {name: model for name, model in models.items() if model.network.frame}
    if search_angles and not framed:
        raise ConfigError(f"search_angles={search_angles}: none of the networks was trained with a canonical frame.")
    searching = {name: model.with_rotation_search(search_angles) for name, model in framed.items() if search_angles}
    curves = {name: robustness.errors(model, images[name]) for name, model in models.items()}
    curves |= {f"{name}, search": robustness.errors(model, images[name]) for name, model in searching.items()}
    figure = robustness.error_curves(curves, {len(model.class_names) for model in models.values()})
    angles = ", ".join(f"{angle:g}" for angle in search_angles)
    caption = _ROBUSTNESS + f" The search rotates each image by {angles} degrees and combines the results." * bool(
        angles
    )
    has_ladder = any(isinstance(model.network.network, LadderCapsNet) for model in models.values())
    network = _picture(apps.NETWORK.read_bytes(), "The ladder network", apps.NETWORK_CAPTION) if has_ladder else None
    page = apps.template("report.html").render(
        title=" and ".join(folder.name for folder in folders),
        errors=_errors(models),
        network=network,
        robustness=[_frames(name, model, images[name]) for name, model in framed.items()]
        + [_picture(figure, "Errors under transformations", caption)],
        figures=_figures(folders),
        settings=_settings(models),
        version=lcaps_jax.__version__,
        date=datetime.date.today().isoformat(),
    )
    if devices.is_main():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page)


def _test_images(model: Model, data_dir: str | None) -> Split:
    """The first test images of the data set that a network was trained on."""
    dataset, skip = model.config.data.dataset, model.config.data.skip_unreadable
    about = {"data_dir": data_dir, "skip_unreadable": skip}
    test = load_test_set(dataset, model.config, model.class_names, model.channels, **about)
    return test.take(np.arange(min(_IMAGES, len(test))))


def _picture(picture, alt: str, caption: str) -> dict[str, str]:
    return {"src": apps.data_uri(picture), "alt": alt, "caption": caption}


def _frames(name: str, model: Model, shown: Split) -> dict[str, str]:
    """The first image of a set, rotated by the amounts of the curve, with its canonical frames."""
    amounts = robustness.AMOUNTS[transforms.ROTATION]
    images = np.repeat(shown.images[:1], len(amounts), axis=0).astype(np.float32) / 255
    rotated = np.asarray(transforms.transform(images, transforms.ROTATION, amounts))
    figure = transforms.in_frames(rotated, model(rotated), [f"{amount:g}°" for amount in amounts])
    return _picture(figure, f"Frames of {name}", f"{name}: the first test image, rotated. {style.FRAME_CAPTION}")


def _errors(models: Mapping[str, Model]) -> list[list[str]]:
    """A table with a row for each network: its errors with their intervals, its size, and how long it was trained."""
    sets = list(dict.fromkeys(name for model in models.values() for name in model.results))
    rows = [["run", *(f"error on {test}" for test in sets), "network", "parameters", "steps", "minutes"]]
    for name, model in models.items():
        parameters = sum(leaf.size for leaf in jax.tree.leaves(model.params))
        log = read_metrics(pathlib.Path(name))
        trained = [f"{model.step:,}", f"{log[-1]['seconds'] / 60:.1f}" if log else ""]
        errors = [_error(model.results.get(test)) for test in sets]
        rows.append([name, *errors, model.config.settings["model"], f"{parameters:,}", *trained])
    return rows


def _error(result: Mapping | None) -> str:
    if not result:
        return ""
    low, high = result["ci95"]
    text = f"{result['error']:.2f} % ({low:.2f} to {high:.2f}) of {result['count']:,}"
    if "images" in result:
        text += f", {result['images']}"
    if "stop_at_error" in result:
        text += f", with --stop_at_error={result['stop_at_error']:g}"
    return text


def _settings(models: Mapping[str, Model]) -> list[list[str]]:
    """A table with a row for each setting; networks of another kind may lack some."""
    settings = [model.config.settings for model in models.values()]
    names = dict.fromkeys(name for each in settings for name in each)
    return [["setting", *models], *([name, *(str(each.get(name, "")) for each in settings)] for name in names)]


def _figures(folders: Sequence[pathlib.Path]) -> dict[str, list[list[dict[str, str]]]]:
    """The figures in the folders by the title of their kind, a column for each folder."""

    def column(folder, kind, title):
        paths = sorted((folder / style.FOLDER).glob(f"{kind}*.png"))
        captions = [f"{folder}: {training.caption_of(path, kind)}" for path in paths]
        return [_picture(path.read_bytes(), f"{title} of {folder}", text) for path, text in zip(paths, captions)]

    found = {
        about.title: [column(folder, kind, about.title) for folder in folders] for kind, about in training.KINDS.items()
    }
    return {title: columns for title, columns in found.items() if any(columns)}
