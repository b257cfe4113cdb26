"""A trained network as one program: StableHLO with the weights inside, which runs without this package."""

from importlib import metadata
import pathlib

import jax
from jax import export as jax_export
import jax.numpy as jnp
import numpy as np

from lcaps_jax.config import ConfigError
from lcaps_jax.data.augment import to_unit_range
from lcaps_jax.errors import arg
from lcaps_jax.files import write_json, write_whole
from lcaps_jax.runs import Run

PLATFORMS = ("cpu", "cuda", "tpu")
# What the program computes, by the names of the fields of the network's output.
_RESULTS = ("activity", "pose", "angle")
_OF_FRAME = ("centre", "matrix", "empty")  # by the names of the fields of its frame, with "frame_" before them


def export(run: Run, path: str | pathlib.Path) -> pathlib.Path:
    """Writes a network as a program of ``jax.export``, and beside it, as ``FILE.json``, its classes and its input.

    The program takes images ``[N, I, I, C]`` uint8 of the size that the network was trained on, of any number N of at
    least 1. It gives a dictionary: ``label``, the index of the most active class, ``[N]`` int32; ``activity``,
    ``[N, J]``; ``pose``, ``[N, J, D]``, where the network has poses; ``frame_centre``, ``[N, 2]``, ``frame_matrix``,
    ``[N, 2, 2]``, and ``frame_empty``, ``[N]`` bool, where the network sees images in their frames (``frames.Frame``);
    and ``angle``, ``[N]``, after a search.

    Args:
      run: Trained network.
      path: File to write.

    Returns:
      Path of the JSON file.

    Raises:
      config.ConfigError: The path is that of a folder or a device.
    """

    def program(images):
        output = run.network.apply({"params": run.params}, to_unit_range(images))
        label = jnp.argmax(output.activity, axis=-1).astype(jnp.int32)
        results = {"label": label, **{name: getattr(output, name) for name in _RESULTS}}
        for name in _OF_FRAME:
            results[f"frame_{name}"] = getattr(output.frame, name, None)
        return {name: value for name, value in results.items() if value is not None}

    path = pathlib.Path(path)
    if not path.name or (path.exists() and not path.is_file()):
        raise ConfigError(f"{arg('export')}={path}: is no name of a file.")
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (*jax_export.symbolic_shape("n"), run.config.image_size, run.config.image_size, run.channels)
    exported = jax_export.export(jax.jit(program), platforms=PLATFORMS)(jax.ShapeDtypeStruct(shape, np.uint8))
    write_whole(path, bytes(exported.serialize()))
    about = path.with_name(path.name + ".json")
    write_json(
        about,
        {
            "class_names": run.class_names,
            "image_size": run.config.image_size,
            "channels": run.channels,
            "step": run.step,
            "checkpoint": run.checkpoint,
            "platforms": PLATFORMS,
            "jax": metadata.version("jax"),
        },
    )
    return about
