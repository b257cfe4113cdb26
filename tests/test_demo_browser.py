"""The page in a real browser: a stroke is drawn, sliders are moved, and the answers are read.

Needs Gradio, Playwright and a Chromium (``pip install -r requirements/demo.txt playwright``, Debian's ``chromium``);
skipped where one of them is absent.
"""

import os
import shutil
import socket
import subprocess
import sys
import time

import pytest

import workloads

pytest.importorskip("gradio", reason="Gradio is not installed")
playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
_CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture
def address():
    """Of the running page."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "lcaps_jax.demo", f"--port={port}"]
    process = subprocess.Popen(command, cwd=workloads.REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, process.stdout.read()
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.2)
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.communicate(timeout=30)


@pytest.mark.skipif(_CHROMIUM is None, reason="there is no Chromium")
def test_a_drawn_one_is_seen_as_a_one_and_no_longer_when_it_lies(address, tmp_path):
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=_CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.goto(address)
        canvas = page.locator("canvas").last
        canvas.wait_for(timeout=60_000)
        page.wait_for_timeout(2000)
        box = canvas.bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"]
        page.mouse.move(x, y + 0.25 * box["height"])
        page.mouse.down()
        page.mouse.move(x, y + 0.75 * box["height"], steps=20)
        page.mouse.up()
        label = page.locator("[data-testid=label-output-value], .output-class").first
        playwright.expect(label).to_have_text("1", timeout=60_000)
        rotation = page.get_by_label("number input for rotation")
        rotation.fill("90")
        rotation.press("Enter")
        playwright.expect(label).not_to_have_text("1", timeout=60_000)
        page.wait_for_timeout(1000)
        page.screenshot(path=os.environ.get("LCAPS_SCREENSHOT", str(tmp_path / "demo.png")))
        browser.close()
