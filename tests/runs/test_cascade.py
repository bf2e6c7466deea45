"""Scoring in two passes: every row in its place, one identity, resumed where it stopped, and understood by `select`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import random_ids, tiny_model
from datasets import Dataset
from launches import document, scorer

from ladm_hf import Cascade, LadmConfig, LadmScorer, run_status, score_dataset, select
from ladm_hf.errors import ColumnError, ConfigError, InputError, LadmError, ResumeError

SECOND = LadmConfig(span_length=8, max_length=256, ablation="no_std", heads=((1, 0), (2, 1)))
ROWS = [
    {"id": n, "text": document(40 if n % 9 == 8 else 160 + 7 * (n % 11), n), "domain": "ab"[n % 2], "meta": {"n": n}}
    for n in range(27)
]


def first(keep: str | int = "40%", **options: Any) -> Cascade:
    return Cascade(scorer(), keep, **options)


def run(data: Any, output: Path | str, cascade: Cascade | None = None, **options: Any) -> Dataset:
    options = {"scorer": LadmScorer(config=SECOND), "num_chunks": 5, "progress": False, **options}
    return score_dataset(data, output, cascade=cascade or first(), **options)


def lines(path: Path) -> Path:
    texts = [json.dumps(row) for row in ROWS]
    texts[4] = "{no json"
    path.write_text("\n".join(texts))
    return path


@pytest.mark.parametrize("kind", ["dataset", "parquet", "lines"])
def test_every_row_keeps_its_place_and_has_the_scores_of_both_passes(tmp_path: Path, kind: str) -> None:
    data: Any = Dataset.from_list(ROWS)
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "rows.parquet", row_group_size=7)
        data = tmp_path / "rows.parquet"
    elif kind == "lines":
        data = lines(tmp_path / "rows.jsonl")
    scored = run(data, tmp_path / "run")
    assert len(scored) == 27
    bad = {4} if kind == "lines" else set()
    assert [i for n, i in enumerate(scored["id"]) if n not in bad] == [r["id"] for r in ROWS if r["id"] not in bad]
    status = np.array(scored["ladm_status"])
    assert {s.split(":")[0] for s in status} == {"ok", "first_pass_only", "too_short"} | ({"error"} if bad else set())
    texts = [row["text"] for row in ROWS]
    both = {"first": scorer()({"text": texts}), "second": LadmScorer(config=SECOND)({"text": texts})}
    readable = [n for n in range(27) if n not in bad]
    np.testing.assert_array_equal(np.array(scored["ladm_first_score"])[readable], both["first"]["ladm_score"][readable])
    final, kept = np.array(scored["ladm_score"]), status == "ok"
    np.testing.assert_array_equal(final[kept], both["second"]["ladm_score"][kept])
    assert np.isnan(final[~kept]).all()
    assert np.isfinite(np.array(scored["ladm_first_score"])[status == "first_pass_only"]).all()
    assert np.isfinite(np.array(scored["ladm_repetition"])[readable]).all()
    # those that survive are what select keeps by the first score
    selected = select(tmp_path / "run" / "first_pass", budget_tokens=int(0.4 * both_tokens(both, bad)))
    assert sorted(selected.selected["index"]) == np.flatnonzero(kept).tolist()


def both_tokens(both: dict[str, Any], bad: set[int]) -> int:
    found = both["first"]
    return sum(
        int(tokens)
        for n, (tokens, status) in enumerate(zip(found["ladm_num_tokens"], found["ladm_status"], strict=True))
        if status == "ok" and n not in bad
    )


def test_select_ranks_the_final_scores_alone_and_says_so(tmp_path: Path) -> None:
    scored = run(Dataset.from_list(ROWS), tmp_path / "run")
    selection = select(tmp_path / "run", budget_tokens=10**9)
    kept = [n for n, status in zip(scored["id"], scored["ladm_status"], strict=True) if status == "ok"]
    assert sorted(selection.selected["id"]) == kept
    assert selection.reasons()["first_pass_only"] == 24 - len(kept)
    assert any("did not survive the first pass of a cascade" in note for note in selection.notes)
    by_first = select(tmp_path / "run", score="ladm_first_score", budget_tokens=10**9)
    assert sorted(by_first.selected["id"]) == kept


def test_a_cascade_that_was_stopped_in_either_pass_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = Dataset.from_list(ROWS)
    expected = run(data, tmp_path / "whole").to_list()
    begin, calls, fail_at = LadmScorer.begin, [], [3, 5]

    def failing(self: LadmScorer, batch: Any, rank: int | None = None) -> Any:
        calls.append(1)
        if fail_at and len(calls) == fail_at[0]:
            fail_at.pop(0)
            raise KeyboardInterrupt
        return begin(self, batch, rank)

    monkeypatch.setattr(LadmScorer, "begin", failing)
    with pytest.raises(KeyboardInterrupt):
        run(data, tmp_path / "run")
    status = run_status(tmp_path / "run")
    assert status.first_pass
    assert status.state == "stopped"
    assert "first of two passes, stopped" in str(status)
    assert status.chunks_done == 2
    calls.clear()
    with pytest.raises(KeyboardInterrupt):
        run(data, tmp_path / "run")
    assert not run_status(tmp_path / "run").first_pass
    assert repr(run(data, tmp_path / "run").to_list()) == repr(expected)
    calls.clear()
    run(data, tmp_path / "run")
    assert not calls


def test_other_settings_are_refused_before_the_first_pass(tmp_path: Path) -> None:
    data = Dataset.from_list(ROWS)
    run(data, tmp_path / "run")
    for other, name in ((first("30%"), "cascade.keep"), (first(by=None), "cascade.by")):
        with pytest.raises(ResumeError, match=name):
            run(data, tmp_path / "run", other)
    with pytest.raises(ResumeError, match=r"config\.heads"):
        run(data, tmp_path / "run", scorer=scorer())
    with pytest.raises(ResumeError, match=r"cascade\.keep.*\n.*"):
        score_dataset(data, tmp_path / "run", LadmScorer(config=SECOND), num_chunks=5, progress=False)
    other_first = Cascade(LadmScorer(config=LadmConfig(span_length=8, max_length=200)), "40%")
    with pytest.raises(ResumeError, match=r"config\.max_length"):
        run(data, tmp_path / "run", other_first)
    again = run(data, tmp_path / "run", first("30%"), restart=True)
    assert again["ladm_status"].count("ok") < 12


def test_scores_alone_and_text_signals_of_all_rows(tmp_path: Path) -> None:
    options: dict[str, Any] = {"scorer": LadmScorer(config=SECOND, signals=("compression", "distant_attention"))}
    scored = run(Dataset.from_list(ROWS), tmp_path / "run", first(by="domain"), scores_only=True, **options)
    assert scored["index"] == list(range(27))
    assert scored.column_names[-1] == "ladm_first_score"
    assert np.isfinite(scored["ladm_compression"]).all()
    finite = np.isfinite(scored["ladm_distant_attention"])
    np.testing.assert_array_equal(finite, np.array(scored["ladm_status"]) == "ok")


@pytest.mark.parametrize("keep", ["0%", "120%", "some", "%", -5, "1.5"])
def test_what_is_no_share_and_no_number_of_tokens_is_refused(keep: Any) -> None:
    with pytest.raises(ConfigError):
        Cascade(LadmScorer(), keep)


def test_what_cannot_work_is_refused_before_anything_is_scored(tmp_path: Path, monkeypatch) -> None:
    data = Dataset.from_list(ROWS)
    with pytest.raises(LadmError, match="no column 'topic' in this data.*--cascade-by"):
        run(data, tmp_path / "a", first(by="topic"))
    with pytest.raises(ConfigError, match="text_column is 'body'"):
        run(data, tmp_path / "b", Cascade(LadmScorer(text_column="body"), "20%"))
    ids = Dataset.from_dict({"input_ids": [random_ids(300)], "domain": ["a"]})
    no_tokenizer = Cascade(LadmScorer(tiny_model(), config=LadmConfig(span_length=8)), "20%", None)
    assert run(ids, tmp_path / "c", no_tokenizer, num_chunks=1)["ladm_status"] == ["first_pass_only"]
    prints = iter(["of one", "of another"])
    monkeypatch.setattr("ladm_hf.runs.cascade.tokenizer_fingerprint", lambda tokenizer: next(prints))
    with pytest.raises(InputError, match="give different ones"):
        run(ids, tmp_path / "e", num_chunks=1)
    with pytest.raises(ColumnError, match="no column 'text'"):
        run(Dataset.from_dict({"words": ["a"]}), tmp_path / "d")


def test_a_pool_without_a_score_has_no_survivor(tmp_path: Path) -> None:
    scored = run(Dataset.from_dict({"text": ["short", None], "domain": ["a", "a"]}), tmp_path / "run", num_chunks=1)
    assert scored["ladm_status"] == ["too_short", "null"]


def test_both_passes_write_into_an_object_store(tmp_path: Path) -> None:
    url = f"memory://cascade-{tmp_path.name}/run"
    data = Dataset.from_list(ROWS)
    stored = run(data, url)
    assert repr(stored.to_list()) == repr(run(data, tmp_path / "run").to_list())
    assert run_status(url).statuses["first_pass_only"] == stored["ladm_status"].count("first_pass_only")
