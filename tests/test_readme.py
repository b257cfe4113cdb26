"""What the README shows must run, and what it names must exist."""

import dataclasses
import re
import subprocess
import sys

import pytest

import lcaps_jax
from lcaps_jax.config import Config
import workloads

_TEXT = (workloads.REPOSITORY / "README.md").read_text()


@pytest.mark.parametrize("page", ["README.md", "docs/tutorial.md"])
def test_the_snippets_run(page):
    """Each in what those before it leave, as a reader has it."""
    snippets = re.findall(r"```python\n(.*?)```", (workloads.REPOSITORY / page).read_text(), re.DOTALL)
    assert snippets
    names = {"__name__": "page"}
    for snippet in snippets:
        exec(compile(snippet, page, "exec"), names)


@pytest.mark.parametrize("path", sorted(set(re.findall(r"(?:configs|docs|tests|lcaps_jax)/[\w./]+\w", _TEXT))))
def test_what_is_named_exists(path):
    assert (workloads.REPOSITORY / path).exists()


@pytest.mark.parametrize("script", ["train.py", "eval.py"])
def test_help_lists_every_flag_with_its_default(script):
    command = [sys.executable, script, "--help"]
    text = subprocess.run(command, cwd=workloads.REPOSITORY, capture_output=True, text=True, timeout=100).stdout
    source = (workloads.REPOSITORY / script).read_text()
    names = [*re.findall(r'DEFINE_\w+\(\s*"(\w+)"', source), "distributed", "num_processes"]
    defaults = {}
    if script == "train.py":
        defaults = {field.name: field.default for field in dataclasses.fields(Config)}
    assert "adopt_module_key_flags" in source and len(names) > 2
    for name in [*names, *defaults]:
        assert re.search(rf"^  --(\[no\])?{name}:", text, re.MULTILINE), name
    for name, default in defaults.items():
        if isinstance(default, int | float | str) and not isinstance(default, bool):
            entry = re.search(rf"^  --{name}:.*?\(default: '?(.*?)'?\)", text, re.MULTILINE | re.DOTALL)
            assert entry and entry[1] == str(default), name


def test_flags_that_the_pages_name_exist():
    """Each --flag of a command in the README and the docs is one of an entry point's."""
    known = {field.name for field in dataclasses.fields(Config)} | {"flagfile", "help"}
    for path in [*workloads.REPOSITORY.glob("*.py"), *workloads.REPOSITORY.glob("*/*.py")]:
        known |= set(re.findall(r'DEFINE_\w+\(\s*"(\w+)"', path.read_text()))
    for page in [workloads.REPOSITORY / "README.md", *(workloads.REPOSITORY / "docs").glob("*.md")]:
        for line in page.read_text().splitlines():
            if re.search(r"(train|eval)\.py|-m (lcaps_jax|benchmarks)", line):
                for flag in re.findall(r"(?<![\w-])--(?:no)?([a-z]\w+)", line):
                    assert flag in known or f"no{flag}" in known, f"{page.name}: --{flag}"


def test_the_two_commands_are_the_ones_ci_runs():
    assert "python train.py --flagfile=configs/quickstart.flags" in _TEXT
    assert re.search(r"pip install -r requirements.txt && pytest$", _TEXT, re.MULTILINE)
    script = (workloads.REPOSITORY / ".ci/run").read_text()
    for command in ("-r requirements.txt", "\npytest\n", "python train.py --flagfile=configs/quickstart.flags"):
        assert command in script


def test_the_api_reference_can_be_made(tmp_path):
    command = [sys.executable, "-m", "pdoc", "-o", str(tmp_path), "lcaps_jax"]
    done = subprocess.run(command, cwd=workloads.REPOSITORY, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "lcaps_jax.html").read_text()
    assert all(f'id="{name}"' in page for name in lcaps_jax.__all__)
    assert "Weight construction, propagation and ladder layer" in page
