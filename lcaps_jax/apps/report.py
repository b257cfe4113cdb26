"""An HTML page about a trained network, or about several side by side, in one file."""

from collections.abc import Mapping, Sequence
import datetime
from itertools import chain
import pathlib

import jax
from matplotlib.figure import Figure
import numpy as np

import lcaps_jax
from lcaps_jax import apps
from lcaps_jax.data.splits import Split
from lcaps_jax.infer.model import Model
from lcaps_jax.infer.pretrained import load_model
from lcaps_jax.nn.ladder import LadderCapsNet
from lcaps_jax.train.log import read_metrics
from lcaps_jax.train.sets import load_test_set
from lcaps_jax.util import devices
from lcaps_jax.util.errors import ConfigError
from lcaps_jax.viz import capsules, robustness, style, training, transforms

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
    """Writes a page about the trained networks in the folders of some runs, in the given order.

    Robustness is measured on test images of ``data_dir``, by default those of each network's own data set. With angles,
    in degrees, networks with a canonical frame get a second curve, with a rotation search.
    """
    folders = list(map(pathlib.Path, workdirs))
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ConfigError(f"workdir={','.join(map(str, workdirs))}: must name each run once.")
    models = {str(folder): load_model(folder, checkpoint) for folder in folders}
    settings = [model.config.settings for model in models.values()]
    logs = {name: read_metrics(folder) for name, folder in zip(models, folders)}
    has_ladder = any(isinstance(model.network.network, LadderCapsNet) for model in models.values())
    page = apps.TEMPLATES.get_template("report.html").render(
        title=" and ".join(folder.name for folder in folders),
        models=models,
        tests=list(dict.fromkeys(name for model in models.values() for name in model.results)),
        parameters={name: sum(leaf.size for leaf in jax.tree.leaves(model.params)) for name, model in models.items()},
        seconds={name: log[-1]["seconds"] if log else None for name, log in logs.items()},
        network=_picture(apps.NETWORK.read_bytes(), "The ladder network", apps.NETWORK_CAPTION) if has_ladder else None,
        robustness=_robustness(models, data_dir, search_angles),
        figures=_figures(folders),
        # Networks of another kind may lack some of the settings.
        settings={name: [str(each.get(name, "")) for each in settings] for name in dict.fromkeys(chain(*settings))},
        version=lcaps_jax.__version__,
        date=datetime.date.today().isoformat(),
    )
    if devices.is_main():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page)


def _picture(picture, alt: str, caption: str) -> dict[str, str]:
    return {"src": apps.data_uri(picture), "alt": alt, "caption": caption}


def _robustness(models: Mapping[str, Model], data_dir: str | None, angles: Sequence[float]) -> list[dict[str, str]]:
    """Errors under transformations, after the canonical frames of a rotated image for each network that has them."""
    framed = {name: model for name, model in models.items() if model.network.frame}
    if angles and not framed:
        raise ConfigError(f"search_angles={angles}: none of the networks was trained with a canonical frame.")
    searching = {name: model.with_rotation_search(angles) for name, model in framed.items() if angles}
    images = {name: _test_images(model, data_dir) for name, model in models.items()}
    curves = {name: robustness.errors(model, images[name]) for name, model in models.items()}
    curves |= {f"{name}, search": robustness.errors(model, images[name]) for name, model in searching.items()}
    figure = robustness.error_curves(curves, {len(model.class_names) for model in models.values()})
    by = ", ".join(f"{angle:g}" for angle in angles)
    search = f" The search rotates each image by {by} degrees and combines the class activities." if angles else ""
    frames = [_frames(name, model, images[name]) for name, model in framed.items()]
    return [*frames, _picture(figure, "Errors under transformations", _ROBUSTNESS + search)]


def _test_images(model: Model, data_dir: str | None) -> Split:
    """The first test images of the data set that a network was trained on."""
    name, skip = model.config.data.dataset, model.config.data.skip_unreadable
    network = model.config, model.class_names, model.channels
    test = load_test_set(name, *network, data_dir=data_dir, skip_unreadable=skip)
    return test.take(np.arange(len(test))[:_IMAGES])


def _frames(name: str, model: Model, shown: Split) -> dict[str, str]:
    """The first image of a set, rotated by the amounts of the curve, with its canonical frames."""
    amounts = robustness.AMOUNTS[transforms.ROTATION]
    images = np.repeat(shown.images[:1], len(amounts), axis=0).astype(np.float32) / 255
    rotated = np.asarray(transforms.transform(images, transforms.ROTATION, amounts))
    output = model(rotated)
    figure = Figure(figsize=(0.6 * len(amounts), 0.85), layout="constrained")
    for i, axes in enumerate(figure.subplots(1, len(amounts))):
        style.show_image(axes, style.as_uint8(rotated[i]))
        capsules.show_view(axes, output, i)
        axes.set_title(f"{amounts[i]:g}°", fontsize=7)
    return _picture(figure, f"Frames of {name}", f"{name}: the first test image, rotated. {style.FRAME_CAPTION}")


def _figures(folders: Sequence[pathlib.Path]) -> dict[str, list[list[dict[str, str]]]]:
    """The figures in the folders by their kind in words, a column for each folder."""

    def column(folder, kind, title):
        paths = sorted((folder / style.FOLDER).glob(f"{kind}*.png"))
        return [_picture(path.read_bytes(), title, f"{folder}: {style.caption_of(path)}") for path in paths]

    titles = {kind: kind.replace("_", " ").capitalize() for kind in training.CAPTIONS}
    found = {title: [column(folder, kind, title) for folder in folders] for kind, title in titles.items()}
    return {title: columns for title, columns in found.items() if any(columns)}
