"""A trained network as one program: StableHLO with the weights inside, which runs without this package."""

from importlib import metadata
import pathlib

import jax
from jax import export as jax_export
import jax.numpy as jnp
import numpy as np

from lcaps_jax.data.augment import to_unit_range
from lcaps_jax.infer.model import Model
from lcaps_jax.util.errors import ConfigError
from lcaps_jax.util.files import write_json, write_whole

PLATFORMS = ("cpu", "cuda", "tpu")
_OF_FRAME = ("centre", "matrix", "empty")  # fields of a frame, which are results with "frame_" before them


def export(model: Model, path: str | pathlib.Path) -> pathlib.Path:
    """Writes a network as a program of ``jax.export``, and beside it, as ``FILE.json``, its classes and its input.

    The program takes at least one image of the size that the network was trained on, ``[N, I, I, C]`` uint8. It returns
    a dictionary: ``label``, the index of the most active class, ``[N]`` int32; ``activity``, ``[N, J]``; ``pose``,
    ``[N, J, D]``, for a network with poses; ``frame_centre``, ``[N, 2]``, ``frame_matrix``, ``[N, 2, 2]``, and
    ``frame_empty``, ``[N]`` bool, for a network with a canonical frame; and ``angle``, ``[N]``, after a search.

    Returns the path of the JSON file; raises ConfigError where the path is a folder or a device.
    """

    def program(images):
        output = model.network.apply({"params": model.params}, to_unit_range(images))
        label = jnp.argmax(output.activity, axis=-1).astype(jnp.int32)
        view = output.view
        results = {"label": label, "activity": output.activity, "pose": output.pose, "angle": view and view.angle}
        for name in _OF_FRAME:
            results[f"frame_{name}"] = view and getattr(view.frame, name)
        return {name: value for name, value in results.items() if value is not None}

    path = pathlib.Path(path)
    if not path.name or (path.exists() and not path.is_file()):
        raise ConfigError(f"export={path}: must be the name of a file.")
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (*jax_export.symbolic_shape("n"), model.image_size, model.image_size, model.channels)
    exported = jax_export.export(jax.jit(program), platforms=PLATFORMS)(jax.ShapeDtypeStruct(shape, np.uint8))
    write_whole(path, bytes(exported.serialize()))
    about = path.with_name(path.name + ".json")
    write_json(
        about,
        {
            "class_names": model.class_names,
            "image_size": model.image_size,
            "channels": model.channels,
            "step": model.step,
            "checkpoint": model.checkpoint,
            "platforms": PLATFORMS,
            "jax": metadata.version("jax"),
        },
    )
    return about
