"""The errors on affNIST by what was done to the digits, and what activity and poses do as digits are transformed."""

import json
import re
import shutil

import jax
import numpy as np

from experiments.__main__ import run
from experiments.plan import Plan
from lcaps_jax import data, networks, runs, training
from lcaps_jax.config import Config
from lcaps_jax.data.augment import to_unit_range
from lcaps_jax.views import plots, robustness
import reference
import workloads


def test_where_the_errors_lie_and_what_poses_do_is_what_the_documents_say(tmp_path):
    docs = workloads.REPOSITORY / "docs"
    workdir = shutil.copytree(docs / "results", tmp_path / "results")
    run(["robustness", "kept"], Plan(workdir, quick=False, data_dir=reference.mnist(), train=False))
    written = (docs / "results_details.md").read_text()
    poses = [line for line in (workdir / "poses.md").read_text().splitlines() if "CapsNet" in line]
    kept = (workdir / "kept.md").read_text().splitlines()
    assert len(kept) == 16 and [line for line in kept if line not in written.splitlines()] == []
    assert len(poses) == 28 and [line for line in poses if line not in written.splitlines()] == []
    rows = json.loads((workdir / "robustness.json").read_text())
    shifts = [row for row in rows if row["quantity"].startswith("shift")]
    assert len(shifts) == 5
    for row in shifts:
        (line,) = [line for line in written.splitlines() if re.match(rf"\| [^|]* \| {row['images']:,} \| ", line)]
        errors = [f"{error:.2f}" for error in list(row.values())[4:]]
        assert [error for error in re.findall(r"\d+\.\d+", line) if error in errors] == errors, line


def _untrained(step: int, **settings) -> runs.Run:
    """The tiny network on affNIST's canvas, before its first step."""
    config = Config(**{**workloads.TINY, **settings}).resolved(40, 0)
    network = networks.from_config(config, 10)
    params = training.compute_once(lambda: training.init_params(network, config, 1))
    return runs.Run(network, params, config, tuple("0123456789"), 1, step)


def _with_checkpoint(workdir, step: int) -> None:
    (workdir / "checkpoints").mkdir(parents=True)
    (workdir / "results.json").write_text(json.dumps({"affnist": {"step": step}}))


def test_errors_on_affnist_are_counted_by_what_was_done_to_the_digit(tmp_path, monkeypatch):
    tiny, cnn = _untrained(step=7), _untrained(step=8, model="cnn", k=70, capsule_types=32, capsule_dim=8, pose_dim=16)
    folders = {"ablation_longer": tiny, "affnist_cnn32": cnn}
    for name, each in folders.items():
        _with_checkpoint(tmp_path / name, each.step)
    split = data.Affnist(workloads.random_split(250))
    monkeypatch.setattr(runs, "is_finished", lambda config, folder, archived: folder.name in folders)
    monkeypatch.setattr(data, "load_test", lambda *arguments: split)
    monkeypatch.setattr(runs, "load_run", lambda folder: folders[folder.name])
    plan = Plan(tmp_path, quick=False, data_dir=None, train=False)
    run(["robustness"], plan)
    (images,) = split.parts()
    output = jax.jit(tiny.network.apply)({"params": tiny.params}, to_unit_range(images.images))
    predicted = np.asarray(output.activity).argmax(axis=1)
    kept = json.loads((tmp_path / "ablation_longer" / "experiments" / "affnist.json").read_text())
    assert kept == {"step": 7, "of": {"images": 250}, "predicted": "".join(map(str, predicted))}
    table = (tmp_path / "robustness.json").read_text()
    for quantity in {row["quantity"] for row in json.loads(table)}:
        rows = [row for row in json.loads(table) if row["quantity"] == quantity]
        assert sum(row["images"] for row in rows) == 250
        wrong = sum(row["images"] * row["narrow L-CapsNet"] / 100 for row in rows)
        np.testing.assert_allclose(wrong, (predicted != split.labels).sum(), atol=0.1)
    poses = json.loads((tmp_path / "poses.json").read_text())  # a CNN has none
    assert {row["network"] for row in poses} == {"narrow L-CapsNet"}
    assert [row["transformation"] for row in poses] == list(robustness.KINDS)
    measured = json.loads((tmp_path / "ablation_longer" / "experiments" / "transformed_digit.json").read_text())
    for kind in robustness.KINDS:  # the middle amount leaves the digit as it is
        alone = tiny(np.pad(split.digits.images[:1], ((0, 0), (6, 6), (6, 6), (0, 0))))
        label = split.digits.labels[0]
        np.testing.assert_allclose(measured[kind]["activity"][20], alone.activity[0, label], atol=1e-3)
        np.testing.assert_allclose(measured[kind]["pose"][20], alone.pose[0, label], atol=1e-3)
    measured = json.loads((tmp_path / "affnist_cnn32" / "experiments" / "transformed_digit.json").read_text())
    assert all(measured[kind]["pose"] is None for kind in robustness.KINDS)
    for name in ("robustness", "transformed"):
        assert (tmp_path / "figures" / f"{name}.png").stat().st_size > 5000
    for name in folders:
        shutil.rmtree(tmp_path / name / "checkpoints")
    (tmp_path / "robustness.json").unlink()
    run(["robustness"], plan)
    assert (tmp_path / "robustness.json").read_text() == table


def test_binned_errors_by_hand():
    values = np.linspace(0, 8, 1600, endpoint=False)
    wrong = {"a": values < 1, "b": np.zeros(1600, bool)}
    edges = plots.equal_ranges(values)
    lines = plots.binned_errors(values, edges, wrong)
    assert [line[2] for line in lines] == [200] * 8
    assert [line[3]["a"] for line in lines] == [100, *[0] * 7] and all(line[3]["b"] == 0 for line in lines)
    # The second quantity has the greater error, and the picture room for it.
    drawn = plots.errors_by({"halves": (values, np.array([0, 2, 8])), "eighths": (values, edges)}, wrong, [10])
    halves, eighths = (axes.lines[0].get_xydata() for axes in drawn.axes)
    np.testing.assert_allclose(halves, [(0.9975, 50), (4.9975, 0)])
    np.testing.assert_allclose(eighths, [(i + 0.4975, 100 * (i == 0)) for i in range(8)])
    assert all(axes.get_ylim()[0] == 0 and axes.get_ylim()[1] >= 100 for axes in drawn.axes)
    unequal = plots.binned_errors(np.array([0, 6, 7, 8, 9]), np.array([0, 7, 9, 10]), {"a": np.array([0, 1, 1, 1, 0])})
    assert [(*line[:3], line[3]["a"]) for line in unequal] == [(0, 7, 2, 50), (7, 9, 2, 100), (9, 10, 1, 0)]
