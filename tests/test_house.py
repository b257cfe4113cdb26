"""The rules of the house: who imports whom, which file knows which library, and what importing costs."""

import ast
import re
import subprocess
import sys

import pytest

import workloads

_PACKAGE = workloads.REPOSITORY / "lcaps_jax"
_FILES = sorted(_PACKAGE.rglob("*.py"))
# The floors, from the ground: a folder imports from the floors below it alone.
FLOORS = (("util",), ("ops",), ("nn", "data"), ("train",), ("infer",), ("viz",), ("apps",), ("cli",))


def _imported(path):
    """The modules that a Python file imports, wherever it does, by their whole names."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def test_no_folder_imports_from_a_floor_above_or_beside_it():
    floor = {folder: height for height, folders in enumerate(FLOORS) for folder in folders}
    assert set(floor) == {path.name for path in _PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert {path.name for path in _PACKAGE.glob("*.py")} == {"__init__.py"}
    for path in _FILES:
        own = path.relative_to(_PACKAGE).parts[0]
        for module in _imported(path) if own in floor else ():
            first, _, rest = module.partition(".")
            other = rest.split(".")[0]
            if first == "lcaps_jax" and other in floor and other != own:
                assert floor[other] < floor[own], f"{path} imports {module}"
            assert first not in ("experiments", "benchmarks", "tests"), f"{path} imports {module}"
    for path in (workloads.REPOSITORY / "experiments").rglob("*.py"):
        assert not any(module.startswith("benchmarks") for module in _imported(path)), path


@pytest.mark.parametrize(
    "module, homes",
    [
        ("orbax", {"train/checkpoint.py"}),
        ("tensorflow_datasets", {"data/tfds.py"}),
        ("tensorboardX", {"train/log.py"}),
        ("gradio", {"apps/demo.py"}),
        ("filelock", {"util/files.py", "train/workdir.py", "cli/main.py"}),
    ],
)
def test_each_library_has_one_home(module, homes):
    found = {
        path.relative_to(_PACKAGE).as_posix()
        for path in _FILES
        if re.search(rf"^\s*(import|from) {module}\b", path.read_text(), re.MULTILINE)
    }
    assert found <= homes


def test_functions_are_short_and_the_package_can_be_read_in_an_evening():
    for path in _FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 60, f"{path.name}: {node.name}"
    assert sum(len(path.read_text().splitlines()) for path in _FILES) <= 7000


def test_importing_the_layers_loads_nothing_that_only_training_needs():
    code = """
import sys
import jax, flax
before = set(sys.modules)
from lcaps_jax import LadderLayer
import lcaps_jax.ops.capsules
after = {name.split(".")[0] for name in set(sys.modules) - before}
print(sorted(after & {"orbax", "tensorflow", "matplotlib", "scipy", "tensorboardX"}))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=workloads.REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_public_names_can_be_had_and_no_others():
    import lcaps_jax

    assert all(getattr(lcaps_jax, name) for name in lcaps_jax.__all__)
    with pytest.raises(AttributeError):
        lcaps_jax.squish  # noqa: B018
