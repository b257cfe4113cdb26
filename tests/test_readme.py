"""What the pages show must run, what they name must exist, and the README stays short."""

import dataclasses
import importlib.util
import re
import subprocess
import sys

import pytest

from lcaps_jax.config import Config
from lcaps_jax.views import plots
import workloads

_TEXT = (workloads.REPOSITORY / "README.md").read_text()


@pytest.mark.parametrize("page", ["README.md", pytest.param("docs/tutorial.md", marks=pytest.mark.slow)])
def test_the_snippets_run(page):
    """Each in what those before it leave, as a reader has it."""
    snippets = re.findall(r"```python\n(.*?)```", (workloads.REPOSITORY / page).read_text(), re.DOTALL)
    assert snippets
    names = {"__name__": "page"}
    for snippet in snippets:
        exec(compile(snippet, page, "exec"), names)


_PAGES = [workloads.REPOSITORY / "README.md", *sorted((workloads.REPOSITORY / "docs").glob("*.md"))]
_NAMED = re.compile(r"(?<![\w/.])(?:configs|docs|tests|lcaps_jax|experiments|benchmarks|scripts|notebooks)/[\w./]*\w")


@pytest.mark.parametrize("page", _PAGES, ids=lambda path: path.name)
def test_what_is_named_exists(page):
    for path in set(_NAMED.findall(page.read_text())):
        assert (workloads.REPOSITORY / path).exists(), path


def test_modules_that_the_pages_run_exist():
    for page in _PAGES:
        for module in re.findall(r"python -m ((?:lcaps_jax|benchmarks|experiments|scripts)[\w.]*\w)", page.read_text()):
            assert importlib.util.find_spec(module), f"{page.name}: {module}"


def test_the_readme_can_be_read_in_minutes():
    lines = _TEXT.splitlines()
    assert len(lines) <= 120 and len(_TEXT.split()) <= 1200
    prose = re.sub(r"```.*?```", "", _TEXT, flags=re.DOTALL).splitlines()
    assert [line for line in prose if len(line) > 120 and not line.startswith(("|", "!"))] == []


@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_three_ways_in_come_before_the_installation(page):
    top, _ = (workloads.REPOSITORY / page).read_text().split("## Install", 1)
    ways = re.findall(r"\*\*(Reproduce the paper|My own images|Train on my own images|Teach with it)[.:]", top)
    assert len(ways) == 3


def test_the_recipe_for_own_images_is_the_same_on_every_page():
    pages = [page.read_text() for page in _PAGES]
    recipes = [line for text in pages for line in text.splitlines() if re.match(r"python train\.py .*_dir=DIR", line)]
    assert len(recipes) == 4  # README, first page, own images and data
    assert set(recipes) == {"python train.py --workdir=runs/mine --data_dir=DIR --image_size=32"}


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
            if re.search(r"(train|eval)\.py|-m (lcaps_jax|benchmarks|experiments)", line):
                for flag in re.findall(r"(?<![\w-])--(?:no)?([a-z]\w+)", line):
                    assert flag in known or f"no{flag}" in known, f"{page.name}: --{flag}"


def test_pictures_of_the_pages_are_small():
    pictures = list((workloads.REPOSITORY / "docs" / "images").iterdir())
    assert pictures
    assert [path.name for path in pictures if path.stat().st_size > 300_000] == [], "reduce its colours or its size"


@pytest.mark.parametrize("page", _PAGES, ids=lambda path: path.name)
def test_pictures_have_captions_of_sentences(page):
    text = page.read_text()
    found = re.findall(r"^!\[(.*?)\]\((.*?)\)\n\n(.*?)\n\n", text, re.MULTILINE | re.DOTALL)
    assert len(found) == len(re.findall(r"^!\[", text, re.MULTILINE))
    for alt, path, caption in found:
        assert len(alt.split()) > 3, path
        assert re.fullmatch(r"\*[A-Z`].*\.\*", caption, re.DOTALL) and len(caption.split()) > 8, path


def test_the_network_of_the_pages_is_the_one_of_the_package():
    copy = workloads.REPOSITORY / "docs" / "images" / plots.NETWORK.name
    assert copy.read_bytes() == plots.NETWORK.read_bytes(), "python -m scripts.draw_network writes both"


def test_the_pages_say_which_settings_follow_from_the_number_of_images():
    text = (workloads.REPOSITORY / "docs" / "own_images.md").read_text()
    assert "| 5,000 or more | 100 | 10 | times 0.9 every 1000 steps |" in text
    assert (
        "| a twentieth of them in tens, from 20 to 100 | 800 steps' worth | falls to an eighth over the run |" in text
    )
    large, small = Config().resolved(28, 0, 5_000), Config().resolved(28, 0, 4_999)
    assert (large.batch_size, large.epochs, large.decay_rate, large.decay_steps) == (100, 10, 0.9, 1000)
    steps = small.epochs * (4_999 // small.batch_size)
    assert 800 <= steps < 850 and 1 / 9 < small.decay_rate ** (steps / small.decay_steps) < 1 / 7
    assert [Config().resolved(28, 0, images).batch_size for images in (100, 1_000, 2_000)] == [20, 50, 100]


def test_the_two_commands_are_the_ones_ci_runs():
    assert "python train.py --flagfile=configs/quickstart.flags" in _TEXT
    assert re.search(r"pip install -r requirements.txt && pytest$", _TEXT, re.MULTILINE)
    script = (workloads.REPOSITORY / ".ci/run").read_text()
    for command in ("-r requirements.txt", "\npytest\n", "python train.py --flagfile=configs/quickstart.flags"):
        assert command in script
