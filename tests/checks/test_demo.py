from __future__ import annotations

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from ladm_hf import LadmConfig, LadmScorer
from ladm_hf.checks import demo
from ladm_hf.cli.app import app

CONFIG = LadmConfig(span_length=16, max_length=600)


def test_documents_are_of_this_python_and_alike_in_length() -> None:
    rows = demo.demo_documents(6, seed=3)
    assert [row["kind"] for row in rows] == ["natural"] * 6 + ["spliced"] * 6
    assert {len(row["text"]) for row in rows} == {demo.WINDOW_CHARS}
    assert all(row["name"].count(" + ") == demo.PIECES - 1 for row in rows if row["kind"] == "spliced")
    assert demo.demo_documents(6, seed=3)["text"] == rows["text"]
    assert demo.demo_documents(6, seed=4)["text"] != rows["text"]
    assert {len(row["text"]) for row in demo.demo_documents(2, window_chars=9000)} == {9000}


def test_the_library_holds_packages_and_modules_but_no_tests() -> None:
    documents = dict(demo.library_modules())
    assert "argparse.py" in documents
    assert "# File: asyncio/base_events.py" in documents["asyncio"]
    assert not {"test", "site-packages", "__pycache__"} & documents.keys()


def test_demo_scores_writes_and_says_how_well_it_separates(tmp_path) -> None:
    result = demo.run(tmp_path / "out", LadmScorer(config=CONFIG), count=4)
    assert 0 <= result.separation <= 1
    table = pq.read_table(result.files["scored.parquet"])
    assert table.num_rows == 8
    assert set(table["ladm_status"].to_pylist()) == {"ok"}
    for name in ("score_by_kind.png", "focus_map.png"):
        assert result.files[name].read_bytes().startswith(b"\x89PNG")


def test_demo_command(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = demo.run
    monkeypatch.setattr(demo, "run", lambda output, scorer, count: run(output, scorer.with_config(CONFIG), count))
    done = CliRunner().invoke(app, ["demo", "--output", str(tmp_path), "--documents", "4"])
    assert done.exit_code == 0, done.output
    assert "4 natural documents and 4 splices" in done.output
    assert "above a splice" in done.output
    assert str(tmp_path / "focus_map.png") in done.output.replace("\n", "")
