"""The picture of the error on affNIST after each epoch."""

import json

from experiments import lengths
from experiments.__main__ import run
from experiments.plan import Plan
import workloads


def test_the_picture_shows_every_epoch_of_the_runs_that_were_tested_after_each(tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(lengths, "save_plot", lambda workdir, name, figure: drawn.update({name: figure}))
    results = workloads.REPOSITORY / "docs" / "results"
    run(["lengths"], Plan(results, quick=False, data_dir=None, train=False))
    near, far = ({tuple(line.get_ydata()) for line in axes.lines} for axes in drawn["lengths"].axes)

    def errors(name):
        lines = map(json.loads, (results / name / "metrics.jsonl").read_text().splitlines())
        return tuple(line["error"] for line in lines if line["split"] == "affnist")

    ladder = "affnist_15x15_k70"
    assert errors(ladder) == () != errors(f"{ladder}_seed2")  # the first seed was tested on affNIST at its end alone
    expected = {errors(f"ablation_{name}") for name in ("length", "released_full_size", "released_full_size_shuffled")}
    paper, ten_epochs = (12.2, 12.2), {errors(f"{ladder}_seed2"), errors("ablation_code_loss_full_size")}
    assert near == {*expected, *ten_epochs, paper} and {len(each) for each in expected} == {30}
    names = ("large_kernels_shift10", "large_kernels_shift10_seed1", "capsnet_full_size_shift10")
    assert far == {*(errors(f"ablation_{name}") for name in names), paper}
    legends = [[text.get_text() for text in axes.get_legend().get_texts()] for axes in drawn["lengths"].axes]
    assert len(legends[0]) == 6 and len(legends[1]) == 3  # seeds of a network share an entry


def test_without_runs_there_is_a_sentence_and_no_picture(tmp_path, capsys):
    run(["lengths"], Plan(tmp_path, quick=False, data_dir=None, train=False))
    assert "no run is finished" in capsys.readouterr().out and list(tmp_path.iterdir()) == []
