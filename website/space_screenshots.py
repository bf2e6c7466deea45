"""Screenshots of the Space, wide and narrow, light and dark, before and after a score that needs the keyboard alone.

    npm pack axe-core && tar xzf axe-core-*.tgz
    python website/space_screenshots.py build/space --axe package/axe.min.js

With axe-core every state is also checked for accessibility: contrast, names, roles, order. Fails where that finds
anything, where something sticks out to the right, or where a request leaves this machine.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

APP = Path(__file__).parents[1] / "metrics" / "ladm" / "app.py"
WIDTHS = {"wide": 1280, "narrow": 390}
# Seconds for the app to start, or for a document to be read, on a busy machine.
TIMEOUT = 300
STICKS_OUT = "document.documentElement.scrollWidth - innerWidth"
FOCUSED = "(e => (e.innerText || e.getAttribute('aria-label') || '').trim())(document.activeElement)"
VIOLATIONS = """async () => (await axe.run()).violations.map(
  v => `${v.id} (${v.impact}): ${v.help}: ${v.nodes.map(n => n.html.slice(0, 120)).slice(0, 3).join(' | ')}`)"""


@contextmanager
def space() -> Iterator[str]:
    """The app in a process of its own, and its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = os.environ | {"GRADIO_SERVER_NAME": "127.0.0.1", "GRADIO_SERVER_PORT": port, "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen([sys.executable, APP.name], cwd=APP.parent, env=environment, stdout=subprocess.DEVNULL)
    url, begun = f"http://127.0.0.1:{port}", time.monotonic()
    try:
        while True:
            try:
                urllib.request.urlopen(url, timeout=5).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() - begun > TIMEOUT:
                    sys.exit("the app did not start")
                time.sleep(0.5)
        yield url
    finally:
        process.terminate()
        process.wait(30)


def tab_to(page: Any, name: str) -> None:
    """Presses the Tab key until what carries the name has the focus."""
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate(FOCUSED).startswith(name):
            return
    sys.exit(f"the Tab key does not lead to {name!r}")


def problems(page: Any, axe: Path | None) -> list[str]:
    wide = page.evaluate(STICKS_OUT)
    found = [f"sticks out by {wide} pixels"] if wide > 0 else []
    if axe is not None:
        page.add_script_tag(path=axe)
        found += page.evaluate(VIOLATIONS)
    return found


def visit(page: Any, url: str, picture: Path, axe: Path | None) -> list[str]:
    """Scores the example and chooses a square by the keyboard alone; says what is wrong in each state."""
    wrong: list[str] = []
    page.on("request", lambda request: request.url.startswith((url, "data:", "blob:")) or wrong.append(request.url))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(url)
    page.wait_for_selector("#document textarea")
    page.wait_for_selector("text=appears here")
    page.screenshot(path=picture.with_stem(picture.stem + "-start"), full_page=True)
    wrong += [f"start: {found}" for found in problems(page, axe)]
    tab_to(page, "Score")
    page.keyboard.press("Enter")
    page.wait_for_selector("#map rect.cell")
    first = page.inner_text("#spans")
    tab_to(page, "tokens")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    page.wait_for_function("text => document.querySelector('#spans').innerText !== text", arg=first)
    page.screenshot(path=picture.with_stem(picture.stem + "-scored"), full_page=True)
    return wrong + [f"scored: {found}" for found in problems(page, axe)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--axe", type=Path, help="axe.min.js of axe-core")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    wrong = []
    with space() as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            for width, pixels in WIDTHS.items():
                context = browser.new_context(viewport={"width": pixels, "height": 900}, color_scheme=scheme)
                page = context.new_page()
                page.set_default_timeout(TIMEOUT * 1000)
                name = f"{width}-{scheme}"
                wrong += [f"{name}, {found}" for found in visit(page, url, options.output / f"{name}.png", options.axe)]
                context.close()
        browser.close()
    if wrong:
        sys.exit("\n".join(wrong))
    print(f"nothing found {'by axe-core' if options.axe else '(without axe-core)'}: pictures in {options.output}")


if __name__ == "__main__":
    main()
