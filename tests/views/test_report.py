"""The page of runs: complete, self-contained, and true to its runs."""

from html.parser import HTMLParser
import json
import re
import shutil

from matplotlib.figure import Figure
import numpy as np
import pytest

from lcaps_jax import runs
from lcaps_jax.config import ConfigError
from lcaps_jax.errors import UserError
from lcaps_jax.training.checkpoints import CheckpointError
from lcaps_jax.views import plots, report, robustness
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
    assert len(page.images) == 1 + 1 + 2 * 5  # the network; curves under transformations; five pictures of each run
    assert all(image.startswith("data:image/png;base64,iVBOR") for image in page.images)
    marked = re.findall(r'<tr><td>(\w+)</td><td class="differs">', path.read_text())
    assert marked == ["seed"]
    header = re.findall(r"<th>(.*?)</th>", path.read_text())
    assert header[:3] == ["run", "error on sample", "network"]
    assert "These 8 images keep capsules of" in text and "Confusion" in text
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", path.read_text())
    assert len(captions) == len(page.images)
    assert all(caption.endswith(".") and ".png" not in caption and "_sample" not in caption for caption in captions)


def test_runs_with_a_frame_show_their_frames_and_have_a_curve_with_the_search_too(tmp_path, monkeypatch):
    framed, plain = workloads.untrained_run(frame="affine"), workloads.untrained_run()
    monkeypatch.setattr(runs, "load_run", lambda workdir, checkpoint: framed if workdir.name == "framed" else plain)
    monkeypatch.setattr(
        robustness, "errors", lambda run, split: {"shear": (np.arange(1), np.array([len(run.network.search_angles)]))}
    )
    searched = {}
    monkeypatch.setattr(plots, "errors_under", lambda errors, classes: searched.update(errors) or Figure())
    one, other, path = tmp_path / "framed", tmp_path / "plain", tmp_path / "report.html"
    report.write([one, other], path, search_angles=[-10, 10])
    assert {name: by["shear"][1].item() for name, by in searched.items()} == {
        str(one): 0, str(other): 0, f"{one}, search": 2
    }  # fmt: skip
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", path.read_text())
    assert [caption for caption in captions if "Blue lines bound the frame" in caption] == [
        f"{one}: the first test image, turned. {plots.FRAME_CAPTION}"
    ]
    assert any("turns each image by -10, 10 degrees" in caption for caption in captions)
    for workdirs, angles, message in (
        ([other], [5], "search_angles: none of the runs was trained with a frame"),
        ([one], [5, 200], "search_angles=200: must be numbers of degrees"),
    ):
        with pytest.raises(UserError, match=message):
            report.write(workdirs, path, search_angles=angles)


_CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.mark.skipif(_CHROMIUM is None, reason="there is no Chromium")
def test_a_phone_shows_the_whole_width_and_the_error_beside_the_name(tiny_run, tmp_path, monkeypatch):
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    monkeypatch.setattr(robustness, "errors", lambda run, split: {"shear": (np.arange(2), np.ones(2))})
    long = shutil.copytree(tiny_run[0], tmp_path / ("a_long_name_of_a_run_" * 4))
    path = tmp_path / "report.html"
    report.write([tiny_run[0], long], path)
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=_CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 390, "height": 800})
        page.goto(path.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        boxes = page.locator(".scroll")
        assert boxes.count() == 2  # errors and settings
        assert boxes.first.evaluate("box => box.scrollWidth > box.clientWidth")  # the table scrolls, not the page
        for cell in page.locator("table").first.locator("tr > :nth-child(2)").all():  # errors, seen without scrolling
            box = cell.bounding_box()
            assert box["x"] + box["width"] <= 390
        for cell in page.locator("td:first-child").all():
            assert cell.bounding_box()["width"] > 100  # names do not stand upright, a letter a line
        widths = [image.bounding_box()["width"] for image in page.locator("img").all()]
        assert len(widths) == 12 and 300 < min(widths) <= max(widths) <= 390
        page.set_viewport_size({"width": 1280, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") == 1280
        left, right = (figure.bounding_box() for figure in page.locator(".row").first.locator("figure").all())
        assert left["y"] == right["y"] and right["x"] > left["x"] + left["width"]  # the runs stand side by side
        browser.close()


def test_a_network_that_keeps_no_capsules_is_not_explained_by_the_ladder(tmp_path, monkeypatch):
    monkeypatch.setattr(robustness, "errors", lambda run, split: {"shear": (np.arange(2), np.ones(2))})
    path = tmp_path / "report.html"
    monkeypatch.setattr(report.runs, "load_run", lambda workdir, checkpoint: workloads.untrained_run(model="cnn"))
    report.write([tmp_path / "run"], path)
    assert plots.NETWORK_CAPTION not in path.read_text()
    monkeypatch.setattr(report.runs, "load_run", lambda workdir, checkpoint: workloads.untrained_run())
    report.write([tmp_path / "run"], path)
    assert plots.NETWORK_CAPTION in path.read_text()


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
