"""A network as one program: for any number of images, for accelerators, and where this package is not."""

import subprocess
import sys

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from lcaps_jax.infer.export import PLATFORMS, export
from lcaps_jax.nn import NETWORKS
import workloads

# Runs a program in a process that cannot import the package.
_ALONE = """
import json, sys
sys.modules["lcaps_jax"] = sys.modules["flax"] = None
import jax.export, numpy as np

program = jax.export.deserialize(bytearray(open("digits.program", "rb").read()))
output = program.call(np.zeros((3, 28, 28, 1), np.uint8))
print(*[json.load(open("digits.program.json"))["class_names"][label] for label in output["label"]])
"""


def test_a_program_runs_where_the_package_is_not(tmp_path):
    model = workloads.untrained_model(class_names=[f"class-{i}" for i in range(10)])
    export(model, tmp_path / "digits.program")
    done = subprocess.run([sys.executable, "-c", _ALONE], cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    black = model(np.zeros((1, 28, 28, 1), np.uint8)).activity[0]
    assert done.stdout.split() == 3 * [f"class-{black.argmax()}"]


@pytest.mark.parametrize(
    "settings, angles",
    [
        ({}, ()),
        ({"model": "capsnet"}, ()),
        ({"model": "cnn"}, ()),
        ({"ladder": "per_capsule", "pruning": "top_k_per_type", "k": 6, "background": "distance"}, ()),
        ({"frame": "affine"}, (-20, 0, 20)),
    ],
)
def test_every_network_is_exported_for_any_number_of_images(settings, angles, tmp_path):
    model = workloads.untrained_model(**settings)
    model = model.with_rotation_search(angles) if angles else model
    export(model, tmp_path / "program")
    program = jax.export.deserialize(bytearray((tmp_path / "program").read_bytes()))
    assert program.platforms == PLATFORMS
    images = workloads.random_split(5).images
    output, expected = program.call(images), model(images)
    np.testing.assert_allclose(output.pop("activity"), expected.activity, atol=1e-5)
    np.testing.assert_array_equal(output.pop("label"), expected.activity.argmax(axis=1))
    assert (output.pop("pose", None) is None) == (expected.pose is None)
    names = {f"frame_{name}": name for name in ("centre", "matrix", "empty")} if model.network.frame else {}
    assert set(output) == {*names, *(["angle"] if angles else [])}
    for name, field in names.items():
        np.testing.assert_allclose(output[name], getattr(expected.view.frame, field), atol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_program_has_the_code_of_its_platform(name):
    model = workloads.untrained_model(convolution="auto", model=name)
    images = jnp.asarray(workloads.random_split(2).images, jnp.float32) / 255

    @jax.jit
    def activity(params, images):
        return model.network.apply({"params": params}, images).activity

    def exported(*platforms):
        anywhere = [jax.export.DisabledSafetyCheck.platform()]
        return jax.export.export(activity, platforms=platforms, disabled_checks=anywhere)(model.params, images)

    programs = {platform: exported(platform) for platform in ("cpu", "cuda", "tpu")}
    layers = 2 if name == "cnn" else 1  # after the first, which is a product over patches
    convolutions = {name: program.mlir_module().count("stablehlo.convolution") for name, program in programs.items()}
    assert convolutions == {"cpu": 0, "cuda": layers, "tpu": layers}
    # The program for a TPU holds nothing of a TPU's own, so a CPU can run it.
    np.testing.assert_allclose(programs["tpu"].call(model.params, images), activity(model.params, images), atol=1e-5)
