"""Image files through a network: what is said of each."""

import re

import numpy as np
from PIL import Image

from lcaps_jax.views import classify
import workloads


def _file(folder):
    pixels = np.zeros((28, 28), np.uint8)
    pixels[5:15, 12:22] = 255
    Image.fromarray(pixels).save(folder / "a.png")
    return folder / "a.png"


def test_a_line_names_the_file_the_label_and_three_activities(tmp_path):
    run = workloads.untrained_run()
    (classified,) = classify.classify(run, [_file(tmp_path)])
    line = classified.line(run.class_names)
    best = np.argsort(-classified.output.activity[0])[:3]
    named = ", ".join(f"{j} {classified.output.activity[0, j]:.3f}" for j in best)
    assert line == f"{tmp_path / 'a.png'}: {best[0]}   ({named})"


def test_a_line_of_a_network_with_a_frame_says_where_it_is_and_the_angle(tmp_path):
    run = workloads.untrained_run(frame="affine")
    (classified,) = classify.classify(run, [_file(tmp_path)])
    assert classified.line(run.class_names).endswith(")   frame at row 9.5, column 16.5")
    (searched,) = classify.classify(run.searching([-30, 30]), [_file(tmp_path)])
    assert re.search(r"column 16\.5, turned by -?30 degrees$", searched.line(run.class_names))
    assert classify.draw(run, classified, tmp_path, 0).exists()
