"""Table 3 and the raw times that it is made of."""

import json

import pytest

from benchmarks import step_time
from experiments import table3
from experiments.plan import Plan
import workloads


def test_table_3_is_of_the_times_that_are_written_beside_it(tmp_path, monkeypatch):
    monkeypatch.setattr(step_time, "CASES", {"MNIST 9x9, K=50": workloads.TINY})
    monkeypatch.setattr(step_time, "TABLE3", {name: step_time.TABLE3[name] for name in step_time.CASES})
    table3.run(Plan(tmp_path / "new", quick=True, data_dir=None))
    measured = json.loads((tmp_path / "new" / "step_time.json").read_text())["cases"]
    rows = json.loads((tmp_path / "new" / "table3.json").read_text())
    (row,), ((name, case),) = rows, measured.items()
    assert row["network"] == name == "MNIST 9x9, K=50" and row["paper, ms"] == "203"
    assert row["ms an iteration (s.e.)"].split()[0] == f"{1e3 * case['mean']:.0f}"
    assert case["iterations"] == 10 and 0 < case["seconds"] < 10 and case["compile_seconds"] > 0
    assert case["images_per_second"] == pytest.approx(100 / case["seconds"])
