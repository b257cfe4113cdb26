"""The rules of the house: who knows what, and what importing costs."""

import ast
import pathlib
import re
import subprocess
import sys

import pytest

import workloads

_PACKAGE = workloads.REPOSITORY / "lcaps_jax"
_FILES = sorted(_PACKAGE.rglob("*.py"))


def _imports(path: pathlib.Path) -> set[str]:
    """The modules of this package that a file imports, wherever it does, but not for types alone."""
    found = set()
    tree = ast.parse(path.read_text())
    typing_only = [
        node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
    ]
    skipped = {id(node) for block in typing_only for node in ast.walk(block)}
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lcaps_jax"):
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


# The floors of the house: a package imports from those before it in this list, never from those behind it.
_FLOORS = ["capsules", "networks", "config", "data", "training", "runs", "pretrained", "views", "commands", "cli"]
# The lowest floor, beside the capsules.
_GROUND = {"errors": 0, "files": 0, "parallel": 0, "runtime": 0, "convolution": 0, "routing": 0}


def test_imports_lead_downstairs():
    for path in _FILES:
        parts = path.relative_to(_PACKAGE).with_suffix("").parts
        floor = {**_GROUND, **{name: i for i, name in enumerate(_FLOORS)}}
        if parts[0] == "__init__" or parts[-1] == "demo":
            continue  # the public names, and an entry point
        for module in _imports(path):
            names = module.split(".")
            if names[0] == "lcaps_jax" and len(names) > 1 and names[1] in floor:
                report_alone = parts == ("views", "report") and names[1] == "commands"
                assert floor[names[1]] <= floor[parts[0]] or report_alone, f"{path.name} imports {module}"


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

    assert all(getattr(lcaps_jax, name) for name in lcaps_jax.__all__)
    assert set(lcaps_jax.__all__) <= set(dir(lcaps_jax))
    with pytest.raises(AttributeError, match="no attribute 'squish'"):
        lcaps_jax.squish  # noqa: B018


_BARE = re.compile(r"^\s+(\w+(?:, \w+)*): (of|by|for|in|to|at|with|on|that|where|as|over|from)\b", re.MULTILINE)


def test_arguments_and_attributes_are_described_by_nouns():
    for path in [*_FILES, *(workloads.REPOSITORY / "experiments").rglob("*.py")]:
        for docstring in re.findall(r'"""(.*?)"""', path.read_text(), re.DOTALL):
            found = _BARE.search(docstring)
            assert not found, f"{path.name}: {found[0].strip()}"
