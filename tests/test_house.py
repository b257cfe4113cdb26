"""The rules of the house: who knows what, and what importing costs."""

import ast
import re
import subprocess
import sys

import pytest

from scripts.draw_architecture import FLOORS, rooms, table
import workloads

_PACKAGE = workloads.REPOSITORY / "lcaps_jax"
_FILES = sorted(_PACKAGE.rglob("*.py"))


def test_imports_lead_downstairs():
    floor = {room: height for height, rooms in enumerate(FLOORS) for room in rooms}
    for room, others in rooms().items():
        for other in others:
            assert floor[other] < floor[room], f"{room} imports {other}"
    known = {path.stem if path.suffix else path.name for path in _PACKAGE.iterdir() if path.suffix in ("", ".py")}
    assert known - {"__init__", "__pycache__", "py"} <= set(floor), "a room that the picture leaves out"


def test_the_page_shows_the_house_as_it_is():
    assert table() in (workloads.REPOSITORY / "docs" / "architecture.md").read_text()


def test_no_code_but_the_networks_asks_for_a_network_s_name():
    for path in _FILES:
        text = path.read_text()
        assert "nonlocal" not in text, path
        if "networks" not in path.parts:
            assert not re.search(r"\bmodel ==|model !=|isinstance\(.*Net\)", text), path


@pytest.mark.parametrize(
    "module, homes",
    [
        ("orbax", {"training/checkpoints.py"}),
        ("tensorflow_datasets", {"data/tfds.py", "data/affnist_official.py"}),
        ("tensorboardX", {"training/metric_log.py"}),
        ("gradio", {"views/demo.py"}),
    ],
)
def test_each_library_has_one_home(module, homes):
    found = {
        path.relative_to(_PACKAGE).as_posix()
        for path in _FILES
        if re.search(rf"^\s*(import|from) {module}\b", path.read_text(), re.MULTILINE)
    }
    assert found == homes


def test_functions_of_training_are_short():
    for path in (_PACKAGE / "training").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 60, f"{path.name}: {node.name}"


def test_importing_the_layers_loads_nothing_that_only_training_needs():
    code = """
import sys
import jax, flax
before = set(sys.modules)
from lcaps_jax import LadderLayer, load_run
import lcaps_jax.capsules
after = {name.split(".")[0] for name in set(sys.modules) - before}
"""
    code = (
        code.replace(", load_run", "") + "print(sorted(after & {'orbax', 'tensorflow', 'matplotlib', 'scipy', 'absl'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=workloads.REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_public_names_can_be_had_and_no_others():
    import lcaps_jax

    assert all(
        getattr(lcaps_jax, name)
        for name in (*lcaps_jax.__all__, "load_run", "load_pretrained", "predict", "Predictions")
    )
    assert set(lcaps_jax.__all__) <= set(dir(lcaps_jax))
    with pytest.raises(AttributeError, match="no attribute 'squish'"):
        lcaps_jax.squish  # noqa: B018


_BARE = re.compile(r"^\s+(\w+(?:, \w+)*): (of|by|for|in|to|at|with|on|that|where|as|over|from)\b", re.MULTILINE)


def test_arguments_and_attributes_are_described_by_nouns():
    for path in [*_FILES, *(workloads.REPOSITORY / "experiments").rglob("*.py")]:
        for docstring in re.findall(r'"""(.*?)"""', path.read_text(), re.DOTALL):
            found = _BARE.search(docstring)
            assert not found, f"{path.name}: {found[0].strip()}"
