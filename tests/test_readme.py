"""What the README shows must run, and what it names must exist."""

import re

import pytest

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


def test_the_two_commands_are_the_ones_ci_runs():
    assert "python train.py --flagfile=configs/quickstart.flags" in _TEXT
    assert re.search(r"pip install -r requirements.txt && pytest$", _TEXT, re.MULTILINE)
    script = (workloads.REPOSITORY / ".ci/run").read_text()
    for command in ("-r requirements.txt", "\npytest\n", "python train.py --flagfile=configs/quickstart.flags"):
        assert command in script
