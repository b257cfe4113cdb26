"""The page about runs: complete, in one file, and true to its runs."""

import json
import re
import shutil

from matplotlib.figure import Figure
import pytest

from lcaps_jax import apps
from lcaps_jax.apps import report
from lcaps_jax.util.errors import UserError
from lcaps_jax.viz import robustness, style
import workloads


@pytest.fixture
def no_curves(monkeypatch):
    """Robustness without its hundreds of evaluations; the error is the number of angles searched over."""
    found = []
    monkeypatch.setattr(robustness, "error_curves", lambda curves, classes: found.append(curves) or Figure())
    monkeypatch.setattr(robustness, "errors", lambda model, split: len(model.network.angles))
    return found


def test_two_runs_side_by_side(tiny_run, tmp_path):
    one = tiny_run[0]
    other = shutil.copytree(one, tmp_path / "<other>")  # a name that HTML would take for a tag
    config = json.loads((other / "config.json").read_text())
    config["settings"]["seed"] = 7
    (other / "config.json").write_text(json.dumps(config))
    path = tmp_path / "pages" / "report.html"
    report.write([one, str(other)], path)
    page = path.read_text()
    for tag in ("table", "tr", "td", "th", "div", "figure", "h2"):
        assert len(re.findall(f"<{tag}[ >]", page)) == page.count(f"</{tag}>") > 0
    images = re.findall(r'<img[^>]* src="([^"]*)"', page)
    assert len(images) == 1 + 1 + 2 * 5  # the network; curves under transformations; five figures of each run
    assert all(image.startswith("data:image/png;base64,iVBOR") for image in images) and "href" not in page
    result = json.loads((one / "results.json").read_text())["sample"]
    assert page.count(f"{result['error']:.2f} % ({result['ci95'][0]:.2f} to") == 2
    assert page.count("&lt;other&gt;") > 3 and "<other>" not in page
    assert re.findall(r'<tr><td>(\w+)</td>\s*<td class="differs">', page) == ["seed"]
    assert re.findall(r"<th>(.*?)</th>", page)[:3] == ["run", "error on sample", "network"]
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", page)
    assert len(captions) == len(images)
    assert all(caption.endswith(".") and ".png" not in caption and "_sample" not in caption for caption in captions)


def test_networks_with_a_frame_show_it_and_have_a_curve_with_the_search(tmp_path, monkeypatch, no_curves):
    framed, plain = workloads.untrained_model(frame="affine"), workloads.untrained_model(model="cnn")
    monkeypatch.setattr(report, "load_model", lambda name, checkpoint: framed if "framed" in str(name) else plain)
    path = tmp_path / "report.html"
    report.write(["framed", "plain"], path, search_angles=[-10, 10])
    assert no_curves == [{"framed": 0, "plain": 0, "framed, search": 2}]
    page = path.read_text()
    assert page.count(style.FRAME_CAPTION) == 1 and apps.NETWORK_CAPTION in page and "-10, 10 degrees" in page
    settings = dict(re.findall(r"<tr><td>(\w+)</td>\s*<td[^>]*>([^<]*)", page.split("Settings")[1]))
    assert settings["frame"] == "affine" and settings["frame_size"] == "28"
    report.write(["plain"], path)
    assert style.FRAME_CAPTION not in path.read_text() and apps.NETWORK_CAPTION not in path.read_text()
    with pytest.raises(UserError, match="search_angles"):
        report.write(["plain"], path, search_angles=[-10, 10])
    with pytest.raises(UserError, match="search_angles"):
        report.write(["framed"], path, search_angles=[200])


def test_what_cannot_be_reported_is_refused(tiny_run, tmp_path):
    path, run = tmp_path / "report.html", tiny_run[0]
    for workdirs, checkpoint in (([run, f"{run}/."], None), ([tmp_path], None), ([run], "best")):
        with pytest.raises(UserError):
            report.write(workdirs, path, checkpoint=checkpoint)
    assert not path.exists()


_CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.mark.skipif(_CHROMIUM is None, reason="there is no Chromium")
def test_a_phone_shows_the_whole_width_and_the_error_beside_the_name(tiny_run, tmp_path, no_curves):
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
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
        cells = page.locator("table").first.locator("tr > :nth-child(2)").all()  # errors, seen without scrolling
        assert all(box["x"] + box["width"] <= 390 for box in (cell.bounding_box() for cell in cells))
        for cell in page.locator("td:first-child").all():
            assert cell.bounding_box()["width"] > 100  # names do not stand upright, a letter a line
        widths = [image.bounding_box()["width"] for image in page.locator("img").all()]
        assert len(widths) == 12 and 300 < min(widths) <= max(widths) <= 390
        page.set_viewport_size({"width": 1280, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") == 1280
        left, right = (figure.bounding_box() for figure in page.locator(".row").first.locator("figure").all())
        assert left["y"] == right["y"] and right["x"] > left["x"] + left["width"]  # the runs stand side by side
        browser.close()
