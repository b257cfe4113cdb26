"""What the README and the tutorials show must run, what the pages name must exist, and the README stays short."""

import importlib.util
import re
import subprocess
import sys

import pytest

import workloads

_ROOT = workloads.REPOSITORY
_README = (_ROOT / "README.md").read_text()
_PAGES = [_ROOT / "README.md", _ROOT / "CONTRIBUTING.md", *sorted((_ROOT / "docs").rglob("*.md"))]
_NAMED = re.compile(r"(?<![\w/.-])(?:configs|docs|tests|lcaps_jax|experiments|benchmarks|scripts|notebooks)/[\w./]*\w")
_MODULE = re.compile(r"^(?:.*&& )?python -m ((?:lcaps_jax|benchmarks|experiments|scripts)[\w.]*\w)", re.MULTILINE)
_COMMAND = re.compile(r"python (?:(train|eval)\.py|-m ((?:lcaps_jax|benchmarks|experiments)[\w.]*))((?:.*\\\n)*.*)")


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        pytest.param("docs/tutorials/train.md", marks=pytest.mark.slow),
        pytest.param("docs/tutorials/your_images.md", marks=pytest.mark.slow),
        pytest.param("docs/tutorials/your_own_layer.md", marks=pytest.mark.slow),
        pytest.param("docs/how_to/look_inside.md", marks=pytest.mark.slow),
    ],
)
def test_the_snippets_run_one_after_the_other(page):
    names = {"__name__": "page"}
    for snippet in re.findall(r"```python\n(.*?)```", (_ROOT / page).read_text(), re.DOTALL):
        exec(compile(snippet, page, "exec"), names)
    assert "lcaps_jax" in names or "squash" in names


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: str(page.relative_to(_ROOT)))
def test_files_and_modules_that_a_page_names_exist(page):
    text = page.read_text()
    assert [path for path in set(_NAMED.findall(text)) if not (_ROOT / path).exists()] == []
    assert [module for module in set(_MODULE.findall(text)) if not importlib.util.find_spec(module)] == []


@pytest.mark.slow
def test_flags_that_the_pages_give_exist():
    known = {}
    for page in _PAGES:
        text = page.read_text()
        own = set(re.findall(r"(\w+): \w+ = setting\(", text))  # those of a network that the page defines
        for script, module, arguments in _COMMAND.findall(text):
            program = [f"{script}.py"] if script else ["-m", module]
            given = set(re.findall(r"(?<![\w-])--(\w+)", arguments)) - {"help"}
            if given and (name := program[-1]) not in known:
                helped = [sys.executable, *program, "--helpfull"]
                done = subprocess.run(helped, cwd=_ROOT, capture_output=True, text=True, timeout=100)
                known[name] = set(re.findall(r"^  --(?:\[no\])?(\w+):", done.stdout, re.MULTILINE))
            unknown = {flag for flag in given - own if not {flag, flag.removeprefix("no")} & known[program[-1]]}
            assert not unknown, f"{page.name}: {program[-1]}"


def test_the_readme_is_short_and_its_commands_are_those_of_ci():
    assert len(_README.split()) <= 800
    assert re.search(r"^pip install -r requirements.txt && pytest$", _README, re.MULTILINE)
    script = (_ROOT / ".ci/run").read_text()
    quickstart = "python train.py --flagfile=configs/quickstart.flags"
    assert re.search(rf"^{quickstart}$", _README, re.MULTILINE)
    assert all(command in script for command in (quickstart, "-r requirements.txt", "\npytest\n"))
    assert "bash .ci/run" in _README
