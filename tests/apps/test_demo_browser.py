"""The page in a real browser and through Gradio's client.

Needs Gradio, and for the browser Playwright and Debian's ``chromium``; skipped where one of them is absent.
"""

import shutil
import socket
import subprocess
import sys

import numpy as np
from PIL import Image
import pytest
import requests

import workloads

pytest.importorskip("gradio", reason="Gradio is not installed")
_CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def address():
    """Of the running page."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "lcaps_jax.apps.demo", f"--port={port}"]
    process = subprocess.Popen(command, cwd=workloads.REPOSITORY, stdout=subprocess.PIPE)
    assert b"The page is at" in process.stdout.readline()
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.communicate(timeout=30)


@pytest.mark.skipif(_CHROMIUM is None, reason="there is no Chromium")
@pytest.mark.slow
def test_a_drawn_one_is_seen_as_a_one_and_no_longer_when_it_lies(address):
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=_CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        page.goto(address)
        pen = page.locator("canvas").last
        pen.wait_for(timeout=60_000)
        page.wait_for_timeout(3000)  # until the canvas listens, which nothing on the page shows
        answers = page.locator(".lcaps .label b")
        assert answers.count() == 0  # nothing drawn, nothing said
        seen, framed = answers.first, answers.last  # of the network without a frame, and of that with one
        box = pen.bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"]
        page.mouse.move(x, y + 0.25 * box["height"])
        page.mouse.down()
        page.mouse.move(x, y + 0.75 * box["height"], steps=20)
        page.mouse.up()
        playwright.expect(seen).to_have_text("1", timeout=60_000)
        playwright.expect(framed).to_have_text("1", timeout=60_000)
        picture = page.get_by_alt_text("The image, and what the network computes from it.").first
        playwright.expect(picture).to_be_visible()
        playwright.expect(page.get_by_alt_text("The ladder network.")).to_be_visible()
        drawing, answer = pen.bounding_box(), seen.bounding_box()
        assert answer["x"] > drawing["x"] + drawing["width"] and answer["y"] < drawing["y"] + drawing["height"]
        page.set_viewport_size({"width": 390, "height": 844})
        page.wait_for_timeout(500)
        drawing, answer = pen.bounding_box(), seen.bounding_box()
        assert answer["y"] > drawing["y"] + drawing["height"] and picture.bounding_box()["width"] > 280
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.set_viewport_size({"width": 1280, "height": 1000})
        rotation = page.get_by_label("number input for rotation")
        rotation.fill("90")
        rotation.press("Enter")
        playwright.expect(seen).not_to_have_text("1", timeout=60_000)
        page.get_by_label("Clear canvas").click()
        playwright.expect(answers).to_have_count(0, timeout=60_000)
        playwright.expect(rotation).to_have_value("0")
        browser.close()


def test_what_is_malformed_or_oversized_is_refused_and_the_page_lives_on(address, tmp_path):
    from gradio_client import Client, handle_file
    from gradio_client.exceptions import AppError

    assert requests.post(f"{address}/gradio_api/upload", files={"files": bytes(2_000_000)}).status_code == 413
    client = Client(address, verbose=False, download_files=str(tmp_path))
    Image.fromarray(np.zeros((50, 50, 4), np.uint8)).save(tmp_path / "small.png")
    (tmp_path / "no.png").write_bytes(b"no picture")

    def ask(picture, rotation=0):
        layers = [handle_file(tmp_path / picture)] if picture else []
        drawn = {"background": None, "layers": layers, "composite": None}
        return client.predict(drawn, rotation, 1, 0, 0, 0, api_name="/update")

    with pytest.raises(AppError, match=r"\(50, 50, 4\).*\[280, 280, 4\]"):
        ask("small.png")
    for picture, rotation in (("no.png", 0), (None, 1e9), (None, "x")):
        with pytest.raises(AppError):
            ask(picture, rotation)
    assert all("Draw something" in said for said in ask(None))
