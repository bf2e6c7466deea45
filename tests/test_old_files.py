"""What version 0.1.0 wrote: runs, a journal, a selection and a published repository. See tests/fixtures/v0.1.0."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import transformers
from conftest import ROOT
from datasets import Dataset, load_dataset
from huggingface_hub import DatasetCard, HfApi

from fake_hub import FakeHub
from fake_hub.fixtures import fake_hub, hub_process  # noqa: F401
from ladm_hf import LadmConfig, LadmError, LadmScorer, Selection, publish, run_status, score_dataset, select
from ladm_hf.scoring.repetition import repetition

FILES = ROOT / "tests" / "fixtures" / "v0.1.0"
EXPECTED = json.loads((FILES / "expected.json").read_text(encoding="utf-8"))
REPO = "tester/harbours"
Row = tuple[str, float | None, int, str]


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A copy of the files, in which the killed launch gave no sign of life for long."""
    shutil.copytree(FILES, tmp_path / "old")
    os.utime(tmp_path / "old" / "unfinished" / ".ladm" / "lock", (0, 0))
    return tmp_path / "old"


def scorer(old: Path, **options: Any) -> LadmScorer:
    return LadmScorer(old / "calculator", **options)


def rows(scored: Dataset) -> list[Row]:
    scores = [None if math.isnan(score) else score for score in scored["ladm_score"]]
    return list(zip(scored["id"], scores, scored["ladm_num_tokens"], scored["ladm_status"], strict=True))


def expected() -> list[Row]:
    return [(name, *values) for name, values in EXPECTED["scores"].items()]


def scores(found: list[Row]) -> list[float]:
    return [math.nan if score is None else score for _, score, _, _ in found]


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Time and bytes of the data of a run."""
    return {file.name: (file.stat().st_mtime_ns, file.read_bytes()) for file in sorted(folder.glob("*.parquet"))}


def ladm(*arguments: Any, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "ladm_hf", *map(str, arguments)], cwd=ROOT, env={**os.environ, **environment},
        capture_output=True, text=True, encoding="utf-8",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def put_on_the_hub(old: Path, readme: str) -> None:
    """The published repository, with another README."""
    api = HfApi()
    api.create_repo(REPO, repo_type="dataset", private=True)
    (old / "published" / "README.md").write_text(readme, encoding="utf-8")
    api.upload_folder(repo_id=REPO, repo_type="dataset", folder_path=old / "published")


def published_card() -> DatasetCard:
    return DatasetCard(Path(HfApi().hf_hub_download(REPO, "README.md", repo_type="dataset")).read_text("utf-8"))


def test_a_finished_run_is_opened_and_not_scored_again(old: Path) -> None:
    before = contents(old / "finished" / "data")
    scored = score_dataset(old / "documents.parquet", old / "finished", scorer(old), progress=False)
    assert rows(scored) == expected()
    assert contents(old / "finished" / "data") == before
    assert len(before) == 4


def test_the_status_of_old_runs_is_told(old: Path) -> None:
    finished, unfinished = run_status(old / "finished"), run_status(old / "unfinished")
    assert (finished.state, finished.chunks_done, finished.chunks, finished.fraction) == ("finished", 4, 4, 1.0)
    assert (finished.rows, finished.tokens) == (12, 2126)
    assert finished.statuses == {"ok": 9, "too_short": 1, "empty": 1, "null": 1}
    assert (unfinished.state, unfinished.chunks_done, unfinished.chunks, unfinished.rows) == ("stopped", 2, 5, 4)
    assert unfinished.tokens == sum(tokens for _, _, tokens, _ in expected()[:4])
    assert unfinished.fraction == pytest.approx((491.25 + 514) / 2390.5)
    shown = ladm("score", "--status", old / "unfinished")
    assert "stopped" in shown
    assert "2 of 5 chunks" in shown


def test_an_unfinished_run_goes_on_and_keeps_its_finished_chunks(old: Path) -> None:
    before = contents(old / "unfinished" / ".ladm" / "data")
    scored = score_dataset(old / "documents.jsonl", old / "unfinished", scorer(old), progress=False)
    after = contents(old / "unfinished" / "data")
    assert len(before) == 2
    assert len(after) == 5
    assert {name: after[name] for name in before} == before
    # its finished chunks lack the column, so the others do
    assert "ladm_repetition" not in scored.column_names
    *found, broken = rows(scored)
    assert [row[:1] + row[2:] for row in found] == [row[:1] + row[2:] for row in expected()]
    assert scores(found) == pytest.approx(scores(expected()), rel=1e-3, nan_ok=True)
    assert broken[:3] == (None, None, 0)
    assert broken[3].startswith("error: the line is not valid JSON")
    assert run_status(old / "unfinished").state == "finished"


def test_other_settings_than_the_old_run_had_are_named_and_lose_nothing(old: Path) -> None:
    before = contents(old / "unfinished" / ".ladm" / "data")
    other = scorer(old, config=LadmConfig(span_length=4, max_length=256))
    with pytest.raises(LadmError, match=r"config\.span_length: 8 there, 4 now"):
        score_dataset(old / "documents.jsonl", old / "unfinished", other, progress=False)
    assert contents(old / "unfinished" / ".ladm" / "data") == before


def test_the_journal_is_read_without_loading_the_model(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = Dataset.from_parquet(str(old / "documents.parquet"), cache_dir=str(old / "cache"))["text"]

    def load(*arguments: Any, **options: Any) -> Any:
        raise AssertionError("the model is loaded though every document is in the journal")

    with monkeypatch.context() as patched:
        patched.setattr(transformers.AutoModel, "from_pretrained", load)
        found = scorer(old, journal=old / "journal")({"text": texts[:4]})
    assert found["ladm_score"].tolist() == [score for _, score, _, _ in expected()[:4]]
    assert found["ladm_num_tokens"].tolist() == [tokens for _, _, tokens, _ in expected()[:4]]
    assert found["ladm_repetition"].tolist() == [repetition(text) for text in texts[:4]]
    assert found["ladm_status"] == ["ok"] * 4
    more = scorer(old, journal=old / "journal")({"text": texts[:6]})
    assert more["ladm_score"].tolist()[:4] == found["ladm_score"].tolist()
    assert more["ladm_score"][5] == pytest.approx(expected()[5][1], rel=1e-3)
    assert more["ladm_status"] == ["ok"] * 4 + ["too_short", "ok"]


def test_a_run_is_selected_from_as_before(old: Path) -> None:
    selection = select(old / "finished", budget_tokens=1300, by="meta.place", length_bands="off")
    assert list(selection.selected["id"]) == EXPECTED["selected"]
    assert selection.reasons() == EXPECTED["reasons"]
    assert selection.threshold == EXPECTED["threshold"]
    assert selection.selected_tokens == EXPECTED["selected_tokens"] == 1102
    assert selection.run is not None


def test_an_old_selection_is_loaded_and_saved(old: Path, tmp_path: Path) -> None:
    selection = Selection.load(old / "selection")
    for found in (selection, Selection.load(selection.save(tmp_path / "again"))):
        assert list(found.selected["id"]) == EXPECTED["selected"]
        assert found.reasons() == EXPECTED["reasons"]
        assert found.threshold == EXPECTED["threshold"]
        assert (found.strategy, found.budget_tokens, found.by, found.shortfall) == ("exact", 1300, "meta.place", 198)
        assert found.frame().num_rows == 12
    assert "1,300" in selection.summary()


def test_an_old_selection_is_reported(old: Path) -> None:
    pytest.importorskip("matplotlib")
    ladm("report", old / "selection", old / "report", "--no-heat-maps")
    page = (old / "report" / "index.html").read_text(encoding="utf-8")
    for place in ("harbour", "garden"):
        assert place in page
    assert "1,102" in page
    assert "The pilot counted the lamps" in page
    assert (old / "report" / "figures" / "domain_mix.png").read_bytes().startswith(b"\x89PNG")


def test_an_old_run_is_published(old: Path, fake_hub: FakeHub) -> None:
    publish(old / "finished", "tester/scored", license="cc0-1.0")
    assert rows(load_dataset("tester/scored", split="train")) == expected()
    card = DatasetCard.load("tester/scored")
    assert card.data["ladm"]["config"]["span_length"] == 8
    assert card.data["ladm"]["dataset"]["name"] == "documents.parquet"
    assert "12 documents" in card.text


def test_an_old_repository_is_read(old: Path, fake_hub: FakeHub) -> None:
    put_on_the_hub(old, (old / "published" / "README.md").read_text(encoding="utf-8"))
    assert list(load_dataset(REPO, split="train")["id"]) == EXPECTED["selected"]
    best = select(REPO, strategy="top-k", k=1, by="meta.place")
    assert list(best.selected["id"]) == ["document-1", "document-2"]
    options = {"HF_ENDPOINT": fake_hub.url, "HF_TOKEN": fake_hub.token, "HF_HUB_OFFLINE": "0"}
    preview = ladm("publish", old / "selection", REPO, "--dry-run", "--no-figures", **options)
    assert "same" in next(line for line in preview.splitlines() if "data/train-00000-of-00001.parquet" in line)
    assert len(fake_hub.repo(f"datasets/{REPO}")["commits"]) == 2  # type: ignore[index]


def test_an_old_repository_is_updated_and_keeps_what_people_wrote(old: Path, fake_hub: FakeHub) -> None:
    pytest.importorskip("matplotlib")
    text = (old / "published" / "README.md").read_text(encoding="utf-8")
    put_on_the_hub(old, text.replace("# harbours", "# Of the sea\n\nOur words.", 1) + "\nOur last words.\n")
    publish(select(old / "finished", budget_tokens=500, by="meta.place"), REPO)
    assert list(load_dataset(REPO, split="train")["id"]) == ["document-1", "document-2"]
    card = published_card()
    assert "# Of the sea\n\nOur words.\n" in card.text
    assert card.text.rstrip().endswith("Our last words.")
    assert card.text.count("<!-- ladm:begin") == card.text.count("<!-- ladm:end") == 1
    assert "1,300" not in card.text
    assert "500 tokens asked for" in card.text
    assert (card.data.license, card.data.language, card.data.pretty_name) == ("cc0-1.0", ["en"], "harbours")
    assert card.data["ladm"]["selection"]["budget_tokens"] == 500
    files = set(fake_hub.repo(f"datasets/{REPO}")["commits"][-1]["files"])  # type: ignore[index]
    assert {name for name in files if name.startswith("data/")} == {"data/train-00000-of-00001.parquet"}
