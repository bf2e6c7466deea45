"""Every Python block of README and docs runs, offline, in order, in a folder of its own."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

from ladm_hf import DocumentScore, FocusMap, LadmConfig, SpanGrid

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
CARD = ROOT / "ladm_hf" / "calculators" / "ladm_nano" / "README.md"
BLOCKS = [
    pytest.param(code, id=f"{page.name}-{number}")
    for page in [*PAGES, CARD]
    for number, code in enumerate(re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S))
]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("code", BLOCKS)
def test_block(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if "from trl import" in code:
        pytest.importorskip("trl")
    exec(compile(code, "<block>", "exec"), {"__name__": "__main__"})


def test_there_are_blocks() -> None:
    assert BLOCKS


def test_links_to_files_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_picture_is_drawn_by_a_script_or_a_command_of_its_page() -> None:
    scripts = "".join(script.read_text(encoding="utf-8") for script in (ROOT / "benchmarks").rglob("*.py"))
    commands = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    pictures = {
        name for page in [*PAGES, CARD] for name in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", page.read_text("utf-8"))
    }
    assert pictures
    unknown = [name for name in pictures if f'"{Path(name).name}"' not in scripts]
    assert not [name for name in unknown if f"--figure {Path(name).name}" not in commands]


def test_a_span_that_attends_evenly_is_drawn_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    grid = SpanGrid(100, LadmConfig(span_length=4, d_afs=1, d_cds=1))
    starts = grid.query_starts[0]
    keys = np.full(grid.shape, -1)
    for row, _, count in grid.query_spans(0):
        keys[row, :count] = grid.key_starts(0, row)
    pfs = np.where(keys >= 0, 4 * 4 / starts[:, None], np.nan)
    focus = FocusMap(pfs, starts, keys, 4, None, DocumentScore(0.5, 100, "ok"))
    image = importlib.import_module("focus_map").times_even(focus)
    drawn = image[np.isfinite(image)]
    assert len(drawn) == (keys >= 0).sum()
    np.testing.assert_allclose(drawn, 1)


def test_files_that_a_page_shows_are_those_of_the_repository() -> None:
    shown = [
        (page.name, *found)
        for page in PAGES
        for found in re.findall(
            r"<!-- file: (\S+) -->\n```\w+\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S
        )
    ]
    assert shown
    for page, file, text in shown:
        assert text == (ROOT / file).read_text(encoding="utf-8"), f"{page} shows another {file}"


def test_every_page_can_be_found_from_the_readme() -> None:
    readme = PAGES[0].read_text(encoding="utf-8")
    assert not [page.name for page in PAGES[1:] if f"](docs/{page.name})" not in readme]


def test_tables_are_those_of_the_results() -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, ROOT / "benchmarks" / "readme.py", "--check"], env=environment, check=True)
