"""The Space's app: its functions, and the page as a reader uses it in a browser."""

from __future__ import annotations

import functools
import heapq
import importlib.util
import inspect
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_hex

from ladm_hf.report.focus_plot import focus_heatmap

# The app starts within one of the tests.
pytestmark = pytest.mark.timeout(600)

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "metrics" / "ladm"
# What a template or a browser might take for its own.
TRAP = "# <b>${1+1}</b> {{value}} &amp;"
CELL = (
    r"data-row='(\d+)' data-column='(\d+)' x='([\d.]+)' y='([\d.-]+)' width='([\d.]+)' height='([\d.]+)' fill='(#\w+)'"
)
LINES = inspect.getsource(heapq).split("\n")
DOCUMENT = "\n".join(f"{line}\n{TRAP}" if i % 6 == 0 else line for i, line in enumerate(LINES))[:19_000]
SHORT = DOCUMENT[:9_000]


@pytest.fixture(scope="module")
def views() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ladm_views", FOLDER / "views.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def shown(views: ModuleType) -> tuple[Any, ...]:
    """Status, panel, map, spans and state of a short document."""
    *_, last = views.score(SHORT, "ladm-nano")
    return last


def test_a_document_gets_a_score_a_map_and_two_spans(views: ModuleType, shown: tuple[Any, ...]) -> None:
    status, panel, cells, spans, state = shown
    focus, text = state
    assert text == SHORT
    assert f"Read {focus.score.num_tokens:,} tokens" in status
    assert f"{focus.score.score:.4g}" in panel
    assert cells.count("<rect class='cell") == (focus.key_starts >= 0).sum()
    assert cells.count("chosen") == 1
    assert spans.count("class='span'") == 2
    assert "<b>${1+1}" not in spans
    row, column = views.brightest_cell(focus)
    assert views.choose_cell(state, row, column) == spans
    start = focus.offsets[focus.key_starts[row, column], 0]
    assert views.html.escape(SHORT[start : start + 3]) in spans


def test_the_map_lies_as_the_reports_and_shows_times_an_even_share(views: ModuleType, shown: tuple[Any, ...]) -> None:
    focus = shown[-1][0]
    drawn = {tuple(map(int, found[:2])): found[2:] for found in re.findall(CELL, shown[2])}
    assert len(drawn) == (focus.key_starts >= 0).sum()
    axes = focus_heatmap(focus).axes[0]
    image = axes.images[0]
    left, right, low, high = image.get_extent()
    pixels = image.get_array()
    highest = max(high, focus.score.num_tokens)
    even = {
        (row, column): float(focus.pfs[row, column]) / 128 * int(focus.query_starts[row]) / 128 for row, column in drawn
    }
    ceiling = float(np.quantile(list(even.values()), 0.99))
    assert f"{ceiling:.3g} or more" in shown[2]
    for (row, column), (x, y, width, height, fill) in drawn.items():
        # the middle of a cell, as the figure places it: both axes grow with the place in the document
        across = (float(x) + float(width) / 2 - 96) / 500 * focus.score.num_tokens
        up = (562 - float(y) - float(height) / 2) / 500 * highest
        at = int((across - left) / (right - left) * pixels.shape[1])
        assert int((high - up) / (high - low) * pixels.shape[0]) == row
        assert pixels[row, at] == pytest.approx(float(focus.pfs[row, column]))
        assert fill == to_hex(image.cmap(min(even[row, column] / ceiling, 1.0)))
    for label in (axes.get_xlabel(), axes.get_ylabel()):
        assert label in shown[2]


def test_one_cell_at_a_time_is_in_the_tab_order(shown: tuple[Any, ...]) -> None:
    assert shown[2].count("tabindex='0'") == 1
    assert (
        shown[2].count("role='button'") == shown[2].count("<rect class='cell") == shown[2].count("aria-label='tokens")
    )
    assert shown[3].count("<pre tabindex='0'") == 2


def test_the_words_of_two_spans_are_no_stop_words(views: ModuleType) -> None:
    span = "The harbour and those whales: Ishmael said that there they were theirs, though which would never. "
    text = span + "whales " * 40 + "x " * 3000 + span + "y " * 3000
    assert views.telling_words(text, span, span) == ["Ishmael", "harbour", "whales"]
    # a word of every part tells nothing, in any language
    german = "Das Schiff nicht wieder. "
    assert views.telling_words(german * 400, german * 4 + "Walfisch", german * 4 + "Walfisch") == ["Walfisch"]


def test_a_cell_that_is_not_there_shows_nothing(views: ModuleType, shown: tuple[Any, ...]) -> None:
    state = shown[-1]
    focus, _ = state
    last_row, last_column = focus.key_starts.shape[0] - 1, focus.key_starts.shape[1] - 1
    for row, column in ((last_row, last_column), (-1, 0), (0, 9999)):
        assert views.choose_cell(state, row, column) == views.FIRST_SPANS
    assert views.choose_cell(None, 0, 0) == views.FIRST_SPANS


@pytest.mark.parametrize(
    ("text", "model", "message"),
    [
        (None, "ladm-nano", "There is no text yet"),
        (" \n", None, "There is no text yet"),
        ("word " * 300, "ladm-nano", "too short: it has 301 tokens, and a score needs at least 2,305"),
        ("\ud800", "ladm-nano", "too short"),
        (DOCUMENT, "no/such-model", "no calculator &#x27;no/such-model&#x27; here: choose ladm-nano or"),
        (DOCUMENT, "<i>", "&lt;i&gt;"),
        (DOCUMENT, "UltraRonin/Long-Attn-Calculator", "UltraRonin/Long-Attn-Calculator"),
    ],
)
def test_bad_input_gets_a_message(views: ModuleType, text: Any, model: Any, message: str) -> None:
    *_, (status, _, cells, spans, state) = views.score(text, model)
    assert message in status
    assert "role='alert'" in status
    assert (cells, spans, state) == (views.FIRST_MAP, views.FIRST_SPANS, None)


def test_a_huge_text_is_cut_and_said_to_be(views: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "MAX_CHARS", 8_900)
    *_, (status, *_, (_, text)) = views.score(DOCUMENT, "ladm-nano")
    assert "Only its first 8,900 characters were read" in status
    assert text == DOCUMENT[:8_900]


def test_another_calculator_is_not_compared_with_the_reference(views: ModuleType, shown: tuple[Any, ...]) -> None:
    focus, _ = shown[-1]
    assert "cannot be compared" in views.score_panel(focus, "another")


def test_a_reference_that_tells_little_says_so(
    views: ModuleType, shown: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    focus, _ = shown[-1]
    for natural, apart in (([3.0, 4.0], True), ([1.0, 2.5], False)):
        group = {"num_tokens": 2900, "natural": natural, "spliced": [2.0, 2.9]}
        monkeypatch.setitem(views.REFERENCE, "groups", [group])
        assert ("hardly tells them apart" in views.score_panel(focus, "ladm-nano")) is not apart


def test_a_tokenizer_without_offsets_is_said_to_have_none(views: ModuleType, shown: tuple[Any, ...]) -> None:
    focus, text = shown[-1]
    focus = views.FocusMap(focus.pfs, focus.query_starts, focus.key_starts, focus.span_length, None, focus.score)
    assert "does not say where" in views.show_spans(focus, text, 0, 0)


def test_uploads_are_read_or_refused(views: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a <b>.txt"
    file.write_bytes("\ufeffGrüße".encode())
    status, text = views.read_file(str(file))
    assert text == "Grüße"
    assert "a &lt;b&gt;.txt: 5 characters" in status
    file.write_bytes(b"\xff\xfe\x00")
    assert "is not UTF-8 text" in views.read_file(str(file))[0]
    monkeypatch.setattr(views, "MAX_FILE_BYTES", 2)
    assert "is larger than" in views.read_file(str(file))[0]
    assert views.read_file(None) == ("", "")


def test_examples_are_long_enough_for_a_score(views: ModuleType) -> None:
    for text in (views.natural_example(), views.spliced_example()):
        assert 20_000 < len(text) < 60_000


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The app in its own process, as the Space starts it: gradio leaves sockets and event loops to the end."""
    if importlib.util.find_spec("gradio") is None:
        pytest.skip("the app needs gradio, of ladm-hf[space]")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "PYTHONPATH": str(ROOT), "GRADIO_SERVER_NAME": "127.0.0.1", "GRADIO_SERVER_PORT": str(port),
        "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1",
    }  # fmt: skip
    process = subprocess.Popen([sys.executable, str(FOLDER / "app.py")], env=environment, stdout=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    end = time.monotonic() + 240
    while process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            break
        except OSError:
            assert time.monotonic() < end, "the app does not start"
            time.sleep(0.5)
    assert process.poll() is None, "the app ended"
    yield url
    process.terminate()
    process.wait(30)


def ask(server: str, text: str) -> tuple[Any, ...]:
    """The status, panel, map and spans that a user of the app gets."""
    client = pytest.importorskip("gradio_client").Client(server, verbose=False)
    try:
        return tuple(client.predict(text, "ladm-nano", api_name="/score"))
    finally:
        client.close()


def test_ten_users_at_once_get_their_own_answers(server: str, views: ModuleType) -> None:
    texts = [f"# the document of user {user}\n" + DOCUMENT[user * 300 :][:9_000] for user in range(10)]
    with ThreadPoolExecutor(10) as users:
        answers = list(users.map(functools.partial(ask, server), texts))
    for text, (status, panel, cells, spans) in zip(texts, answers, strict=True):
        *_, (_, expected_panel, expected_cells, expected_spans, (focus, _)) = views.score(text, "ladm-nano")
        assert f"Read {focus.score.num_tokens:,} tokens" in status
        assert (panel, cells, spans) == (expected_panel, expected_cells, expected_spans)
    assert len({panel for _, panel, *_ in answers}) == 10


@pytest.fixture(scope="module")
def page(server: str) -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="driving the page needs playwright, of ladm-hf[test]")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("there is no chromium on the PATH to drive the page with")
    arguments = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
                 "--disable-component-update", "--disable-sync"]  # fmt: skip
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        page.set_default_timeout(120_000)
        page.hosts = set()
        page.on("request", lambda request: page.hosts.add(request.url.split("/")[2]))
        page.goto(server)
        yield page
        browser.close()


def press_score(page: Any) -> None:
    page.get_by_role("button", name="Score", exact=True).click()


def test_a_reader_scores_a_document_and_reads_two_spans(page: Any, server: str, tmp_path: Path) -> None:
    # an example is there from the start
    assert len(page.input_value("#document textarea")) > 20_000
    page.fill("#document textarea", DOCUMENT)
    press_score(page)
    page.wait_for_selector("#status .busy")
    page.wait_for_selector("#status .busy", state="detached")
    page.wait_for_selector("#map rect.cell")
    assert "LADM score" in page.inner_text("#panel")
    assert float(page.inner_text("#panel .number")) > 0
    assert page.is_visible("#map svg")
    first = page.inner_text("#spans")
    page.locator("#map rect.cell:not(.chosen)").first.click()
    page.wait_for_function("text => document.querySelector('#spans').innerText !== text", arg=first)
    assert page.locator("#map rect.chosen").count() == 1
    headings = page.locator("#spans h3").all_inner_texts()
    assert [heading.split(":")[0] for heading in headings] == ["Earlier passage", "Later passage"]
    for text in page.locator("#spans pre").all_inner_texts():
        assert text.strip()
        assert TRAP in text
    page.screenshot(path=tmp_path / "app.png", full_page=True)
    # no font, script or count comes from elsewhere
    assert page.hosts == {server.removeprefix("http://")}


def test_the_keyboard_is_enough(page: Any, tmp_path: Path) -> None:
    page.fill("#document textarea", SHORT)
    press_score(page)
    page.wait_for_selector("#status .busy")
    # the map of an earlier document stands until the new one takes its place, and the focus with it
    page.wait_for_selector("#status .busy", state="detached")
    page.wait_for_selector("#map rect.cell")
    first = page.inner_text("#spans")
    # the Tab key leads from the list of calculators to the button, to the map's one cell and out again
    page.locator("#map rect.chosen").focus()
    here = "document.activeElement.dataset.row + ',' + document.activeElement.dataset.column"
    # whichever cell is chosen at first: to the lowest row
    for _ in range(4):
        page.keyboard.press("ArrowDown")
    before = page.evaluate(here)
    places = [before]
    for key in ("Home", "End", "ArrowLeft", "ArrowUp", "ArrowDown", "ArrowRight"):
        page.keyboard.press(key)
        places.append(page.evaluate(here))
    assert places[2] == places[6]
    row = {place: int(place.split(",")[0]) for place in places}
    assert row[places[4]] < row[places[3]] == row[places[5]] == row[before]
    assert page.locator("#map rect[tabindex='0']").count() == 1
    page.keyboard.press("Home")
    page.screenshot(path=tmp_path / "keyboard.png", full_page=True)
    page.keyboard.press(" ")
    page.wait_for_function("text => document.querySelector('#spans').innerText !== text", arg=first)
    assert page.evaluate(here) == places[1]
    page.keyboard.press("Tab")
    reached = set()
    for _ in range(8):
        reached.add(
            page.evaluate("document.activeElement.tagName + (document.activeElement.getAttribute('aria-label') || '')")
        )
        page.keyboard.press("Tab")
    assert sum(name.startswith("PRE") for name in reached) == 2


def test_headings_go_down_one_level_at_a_time(page: Any) -> None:
    # what an earlier test scored is there still, and while it is scored again the page has no spans
    if not page.locator("#spans h3").count():
        press_score(page)
    page.wait_for_selector("#spans h3")
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3, h4')].map((each) => Number(each.tagName[1]))")
    assert levels == [1, 2, 2, 3, 3]
    assert page.evaluate("document.documentElement.lang") == "en"
    assert page.get_by_label("Document", exact=True).count() == 1
    assert page.get_by_role("radio", name="ladm-nano").is_checked()


def test_a_reader_is_told_what_is_wrong(page: Any) -> None:
    page.fill("#document textarea", "")
    press_score(page)
    page.wait_for_selector("#status .note:has-text('There is no text yet')")
    page.fill("#document textarea", "Once upon a time. " * 50)
    press_score(page)
    page.wait_for_selector("#status .note:has-text('too short')")
    assert page.locator("#map rect").count() == 0


def test_a_reader_uploads_a_file(page: Any, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text(DOCUMENT)
    page.set_input_files("input[type=file]", str(tmp_path / "mine.txt"))
    page.wait_for_selector("#status :has-text('mine.txt')")
    assert page.input_value("#document textarea") == DOCUMENT
