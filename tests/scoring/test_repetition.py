"""How much a document repeats itself: what is counted, what is not, and that every way to score gives it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from conftest import random_ids
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from launches import GEOMETRY

from ladm_hf import LadmScorer
from ladm_hf.scoring import repetition as module
from ladm_hf.scoring.repetition import LONGER, WINDOW_CHARS, WINDOW_TOKENS, repetition
from ladm_hf.training.degenerate import degenerate_text


def prose(num_chars: int, seed: int = 0) -> str:
    """Text in which no passage returns."""
    letters = np.random.default_rng(seed).choice(list("abcdefghijklmnopqrstuvwxyz      \n"), num_chars)
    return "".join(letters)


def passages_by_hand(text: str, length: int) -> list[str]:
    kept = "".join(text.casefold().split())
    return [kept[i : i + length] for i in range(len(kept) - length + 1)]


def by_hand(text: str) -> float:
    passages, longer = passages_by_hand(text, WINDOW_CHARS), passages_by_hand(text, LONGER * WINDOW_CHARS)
    if not passages:
        return 0.0
    distinct = set(passages)
    again = sum(passages.count(passage) > 1 for passage in distinct)
    return max(again / len(distinct), 1 - len(set(longer)) / len(longer) if longer else 0.0)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([prose(90, 1), prose(200, 2), prose(33, 3), "ß \n", "x" * 70]), max_size=8))
def test_the_statistic_is_its_definition(parts: list[str]) -> None:
    text = "".join(parts)
    if text.strip():
        assert repetition(text) == pytest.approx(by_hand(text))
    else:
        assert math.isnan(repetition(text))


def test_a_text_twice_a_half_twice_and_no_part_twice() -> None:
    text = prose(20_000)
    assert repetition(text) == 0
    assert repetition(f"{text}\n\n{text}") == pytest.approx(1, abs=0.01)
    assert repetition(text + text[:10_000]) == pytest.approx(0.5, abs=0.01)
    assert repetition(text + text[10_000:12_000]) == pytest.approx(0.1, abs=0.01)


def test_a_short_formula_that_comes_often_is_not_a_document_that_repeats_itself() -> None:
    formula = prose(300, 9)
    clauses = [prose(1500, seed) + formula for seed in range(40)]
    assert repetition("".join(clauses)) < 0.1
    # but one that fills the document is
    assert repetition(prose(3000) + formula * 100) > 0.5


@pytest.mark.parametrize("changed", [str.upper, lambda text: text.replace(" ", "\n\t "), lambda text: f"{text}\r\n"])
def test_white_space_and_case_do_not_hide_a_copy(changed: object) -> None:
    text = prose(8000)
    assert callable(changed)
    assert repetition(text + changed(text)) > 0.95


def test_a_copy_with_edits_is_still_found() -> None:
    text = prose(20_000)
    words = text.split(" ")
    rng = np.random.default_rng(0)
    edited = " ".join(f"x{word}" if rng.random() < 0.02 else word for word in words)
    assert repetition(f"{text} {edited}") > 0.5


def test_what_has_no_text_has_no_repetition() -> None:
    for nothing in ("", " \n\t", None, 7, [1, 2], np.zeros(0, dtype=np.int64)):
        assert math.isnan(repetition(nothing))
    assert repetition("short") == 0
    assert repetition(np.arange(WINDOW_TOKENS - 1)) == 0
    assert repetition("日本語" * 200) == 1
    assert repetition("\ud800" * 200) == 1


def test_token_ids_are_counted_as_tokens() -> None:
    ids = np.array(random_ids(3000, vocab=5000))
    assert repetition(ids) == 0
    assert repetition(np.tile(ids, 2)) > 0.98
    assert repetition(np.concatenate([ids, ids[:1500]])) == pytest.approx(0.5, abs=0.01)


def test_a_very_long_document_is_read_in_parts_and_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    text = prose(60_000)
    whole = repetition(text + text[:20_000])
    monkeypatch.setattr(module, "_PART", 1000)
    assert repetition(text + text[:20_000]) == whole
    monkeypatch.setattr(module, "_MOST_PASSAGES", 10_000)
    assert repetition(text + text[:20_000]) == pytest.approx(whole, abs=0.05)


def test_generated_templates_repeat_themselves_more_than_prose() -> None:
    text = degenerate_text("repeated", 20_000, np.random.default_rng(0))
    assert repetition(text) > 0.5


def test_every_way_to_score_gives_the_statistic(tmp_path: Path) -> None:
    text = prose(1500)
    rows = [text, f"{text}\n{text}", "too short", "  ", None]
    expected = [0.0, repetition(f"{text}\n{text}"), 0.0, math.nan, math.nan]
    scorer = LadmScorer(config=GEOMETRY)
    assert [score.repetition for score in scorer.score_texts(rows)] == pytest.approx(expected, nan_ok=True)
    found = Dataset.from_dict({"text": rows}).map(scorer, batched=True)
    assert found["ladm_repetition"] == pytest.approx(expected, nan_ok=True)
    for _ in range(2):
        kept = LadmScorer(config=GEOMETRY, journal=tmp_path / "journal")({"text": rows})
        assert kept["ladm_repetition"] == pytest.approx(expected, nan_ok=True)
    ids = [random_ids(400, vocab=900), random_ids(200, vocab=900) * 2, [5], [], None, "no ids"]
    scored = [score.repetition for score in scorer.score_input_ids(ids)]
    assert scored == pytest.approx([0, repetition(np.array(ids[1])), 0, math.nan, math.nan, math.nan], nan_ok=True)
    assert scorer({"input_ids": ids})["ladm_repetition"] == pytest.approx(scored, nan_ok=True)
    assert scorer.focus_map(text).score.repetition == 0
