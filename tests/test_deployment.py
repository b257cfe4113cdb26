"""A network as one program: it runs where this package is not, for any number of images."""

import json
import re
import subprocess
import sys

import jax.export
import numpy as np
import pytest

from lcaps_jax import deployment
import workloads

_PAGE = (workloads.REPOSITORY / "docs" / "deployment.md").read_text()
# Stands in front of the page's lines, in a process that cannot import the package.
_ALONE = """
import sys
sys.modules["lcaps_jax"] = sys.modules["flax"] = None
"""


def test_the_page_s_lines_run_a_network_where_the_package_is_not(tmp_path):
    run = workloads.untrained_run(class_names=[f"class {i}" for i in range(10)])
    about = deployment.export(run, tmp_path / "digits.program")
    assert json.loads(about.read_text())["class_names"] == list(run.class_names)
    (lines,) = re.findall(r"```python\n(.*?)```", _PAGE, re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", _ALONE + lines], cwd=tmp_path, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    black = run(np.zeros((1, 28, 28, 1), np.uint8)).activity[0]
    assert done.stdout.strip() == str(3 * [f"class {black.argmax()}"])


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"model": "capsnet"},
        {"model": "cnn"},
        {"selection": "random"},
        {"selection": "biased"},
        {"operators": "capsule", "selection": "balanced", "k": 6},
        {"frame": "affine", "search": (-20, 0, 20)},
    ],
)
def test_every_network_is_exported_for_any_number_of_images(settings, tmp_path):
    settings = dict(settings)
    angles = settings.pop("search", ())
    run = workloads.untrained_run(**settings)
    run = run.searching(angles) if angles else run
    deployment.export(run, tmp_path / "program")
    program = jax.export.deserialize(bytearray((tmp_path / "program").read_bytes()))
    assert program.platforms == ("cpu", "cuda", "tpu")
    images = workloads.random_split(5).images
    output, expected = program.call(images), run(images)
    np.testing.assert_allclose(output["activity"], expected.activity, atol=1e-5)
    np.testing.assert_array_equal(output["label"], expected.activity.argmax(axis=1))
    assert ("pose" in output) == (expected.pose is not None) and ("angle" in output) == bool(angles)
    of_frame = {name: output[name] for name in output if name.startswith("frame_")}
    assert len(of_frame) == (3 if run.config.framed else 0)
    for name, value in of_frame.items():
        np.testing.assert_allclose(value, getattr(expected.frame, name.removeprefix("frame_")), atol=1e-4)
