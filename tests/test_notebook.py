"""The Colab notebook runs from top to bottom, and its committed outputs can be read without running it."""

import os

from nbclient import NotebookClient
import nbformat
import pytest

import workloads

_PATH = workloads.REPOSITORY / "notebooks" / "lcaps_jax_colab.ipynb"


@pytest.mark.slow
def test_the_quick_setting_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("LCAPS_QUICK", "1")
    monkeypatch.setenv("PYTHONPATH", str(workloads.REPOSITORY))
    monkeypatch.setenv("XLA_FLAGS", os.environ["XLA_FLAGS"])  # two devices
    notebook = nbformat.read(_PATH, 4)
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [output.text for output in outputs if output.get("name") == "stderr"]  # no warning, no alarm
    printed = "".join(output.get("text", "") for output in outputs)
    assert "2 x cpu" in printed and "counted together: 48" in printed and "Everything is in runs/quick" in printed


def test_its_committed_outputs_are_whole():
    notebook = nbformat.read(_PATH, 4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    outputs = [output for cell in code for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 9
    assert any(cell.source == "display(Image(NETWORK, width=800))" and cell.outputs for cell in code)
    assert _PATH.stat().st_size < 3_000_000
