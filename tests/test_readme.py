"""What the README shows must run, and what it names must exist."""

import re

import pytest

import workloads

_TEXT = (workloads.REPOSITORY / "README.md").read_text()


def test_the_snippet_runs():
    snippets = re.findall(r"```python\n(.*?)```", _TEXT, re.DOTALL)
    assert snippets
    for snippet in snippets:
        exec(compile(snippet, "README.md", "exec"), {"__name__": "readme"})


@pytest.mark.parametrize("path", sorted(set(re.findall(r"(?:configs|docs|tests|lcaps_jax)/[\w./]+\w", _TEXT))))
def test_what_is_named_exists(path):
    assert (workloads.REPOSITORY / path).exists()


def test_the_two_commands_are_the_ones_ci_runs():
    assert "python train.py --flagfile=configs/quickstart.flags" in _TEXT
    assert re.search(r"pip install -r requirements.txt && pytest$", _TEXT, re.MULTILINE)
    script = (workloads.REPOSITORY / ".ci/run").read_text()
    for command in ("-r requirements.txt", "\npytest\n", "python train.py --flagfile=configs/quickstart.flags"):
        assert command in script
