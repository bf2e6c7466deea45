"""Screenshots of every page of the built site, wide and narrow, light and dark, and what is wrong with their layout.

make docs && python website/screenshots.py build/screenshots [page ...]
"""

from __future__ import annotations

import argparse
import http.server
import shutil
import sys
import threading
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

SITE = Path(__file__).parents[1] / "build" / "site"
WIDTHS = {"wide": 1440, "narrow": 390}
HEIGHT = 900
# What sticks out of the window to the right, and nothing around it scrolls.
STICKS_OUT = """() => {
  const scrolls = e => e && (["auto", "scroll"].includes(getComputedStyle(e).overflowX) || scrolls(e.parentElement));
  return [...document.querySelectorAll(".md-content *")]
    .filter(e => e.getBoundingClientRect().right > innerWidth + 1 && !scrolls(e.parentElement))
    .map(e => e.tagName + ": " + e.textContent.trim().slice(0, 60));
}"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    """The built site, without a line for each request."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, directory=str(SITE), **options)

    def log_message(self, *args: Any) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("pages", nargs="*", help="such as reference/scoring; default: all")
    options = parser.parse_args()
    pages = [SITE / f"{page}.html" for page in options.pages] or sorted(SITE.rglob("*.html"))
    options.output.mkdir(parents=True, exist_ok=True)
    wrong = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server, sync_playwright() as playwright:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        origin = f"http://127.0.0.1:{server.server_port}/"
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            for width, pixels in WIDTHS.items():
                context = browser.new_context(viewport={"width": pixels, "height": HEIGHT}, color_scheme=scheme)
                for page in pages:
                    path = page.relative_to(SITE).as_posix()
                    name = path.removesuffix(".html").replace("/", "-")
                    found = _shoot(context, origin, path, options.output / f"{name}-{width}-{scheme}.png")
                    wrong += [f"{name}, {width}: {what}" for what in found]
                context.close()
        browser.close()
        server.shutdown()
    if wrong:
        sys.exit("\n".join(sorted(set(wrong))))


def _shoot(context: Any, origin: str, path: str, picture: Path) -> list[str]:
    """Writes one picture of the first screens; says what failed to load or sticks out."""
    tab = context.new_page()
    wrong: list[str] = []
    tab.on("requestfailed", lambda request: wrong.append(f"could not load {request.url}"))
    tab.on(
        "request", lambda request: None if request.url.startswith(origin) else wrong.append(f"asks for {request.url}")
    )
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.goto(origin + path, wait_until="networkidle")
    wrong += tab.evaluate(STICKS_OUT)
    tab.set_viewport_size({"width": tab.viewport_size["width"], "height": min(_height(tab), 3 * HEIGHT)})
    tab.screenshot(path=picture)
    tab.close()
    return wrong


def _height(tab: Any) -> int:
    return int(tab.evaluate("document.documentElement.scrollHeight"))


if __name__ == "__main__":
    main()
