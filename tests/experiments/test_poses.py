"""One digit in many poses: the picture and the errors are of the networks that the package ships."""

import json

import numpy as np

from experiments import poses
from experiments.plan import Plan
from lcaps_jax import data, load_pretrained
from lcaps_jax.pretrained import MNIST_FRAMED


def test_the_table_has_the_errors_of_both_networks(tmp_path, monkeypatch, capsys):
    sample = data.load("sample")
    few = data.Source(sample.train, sample.test.take(np.arange(16)), sample.class_names, 28)
    monkeypatch.setattr(poses.data, "load", lambda name: few)
    poses.run(Plan(tmp_path, False, None, False))
    rows = {row.pop("pose"): row for row in json.loads((tmp_path / "poses.json").read_text())}
    images, labels = few.test.images / np.float32(255), few.test.labels
    networks = {
        "without a frame, %": load_pretrained(),
        "in its frame, %": load_pretrained(MNIST_FRAMED).searching([-20, -10, 0, 10, 20]),
    }
    for name, network in networks.items():
        error = 100 * np.mean(network(images).activity.argmax(axis=1) != labels)
        assert rows["as it is"][name] == f"{error:.2f}"
    assert len(rows) == 8 and len({row["without a frame, %"] for row in rows.values()}) > 2
    assert (tmp_path / "figures" / "poses.png").exists() and "poses.png" in capsys.readouterr().out
