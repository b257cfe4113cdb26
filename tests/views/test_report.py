"""The page of runs: complete, self-contained, and true to its runs."""

from html.parser import HTMLParser
import json
import re
import shutil

import pytest

from lcaps_jax.config import ConfigError
from lcaps_jax.training.checkpoints import CheckpointError
from lcaps_jax.views import report
import workloads


class _Page(HTMLParser):
    """Collects text, images, and references to anything outside; refuses unbalanced tags."""

    def __init__(self):
        super().__init__()
        self.open, self.images, self.text, self.outside = [], [], [], []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag == "img":
            self.images.append(attrs["src"])
        elif tag not in ("meta", "br"):
            self.open.append(tag)
        self.outside += [value for name, value in attrs.items() if name in ("href", "src") and value[:5] != "data:"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_two_runs_side_by_side(tiny_run, tmp_path):
    one = tiny_run[0]
    other = shutil.copytree(one, tmp_path / "<other>")  # a name that HTML would take for a tag
    config = json.loads((other / "config.json").read_text())
    config["settings"]["seed"] = 7
    (other / "config.json").write_text(json.dumps(config))
    path = tmp_path / "pages" / "report.html"
    done = workloads.evaluate(f"{one},{other}", report=path)
    assert f"{path} is written" in done.stdout
    page = _Page()
    page.feed(path.read_text())
    text = " ".join(page.text)
    assert not page.open and not page.outside
    result = json.loads((one / "results.json").read_text())["sample"]
    assert text.count(f"{result['error']:.2f} % ({result['ci95'][0]:.2f} to") == 2
    assert text.count("<other>") > 3
    assert len(page.images) == 1 + 2 * 5  # curves under transformations; five pictures of each run
    assert all(image.startswith("data:image/png;base64,iVBOR") for image in page.images)
    marked = re.findall(r'<tr><td>(\w+)</td><td class="differs">', path.read_text())
    assert marked == ["seed"]


def test_what_cannot_be_reported_is_named(tiny_run, tmp_path):
    path, run = tmp_path / "report.html", tiny_run[0]
    for workdirs, message in (([run, run], "names a run twice"), ([tmp_path], "is not a run")):
        with pytest.raises((ConfigError, CheckpointError), match=message):
            report.write(workdirs, path)
    with pytest.raises(ConfigError, match="has no best checkpoint yet"):
        report.write([run], path, checkpoint="best")
    done = workloads.evaluate(run, check=False, report=path, images="*.png")
    assert done.returncode == 1 and "--images and --report: one at a time" in done.stderr
    done = workloads.evaluate(f"{tiny_run[0]},{tmp_path}", check=False)
    assert done.returncode == 1 and "one run at a time, except for --report" in done.stderr
    assert not path.exists()
