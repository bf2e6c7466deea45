"""The rule that drops documents that repeat themselves, before the ranking."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from ladm_hf import Selection, build_card, select
from ladm_hf.errors import ColumnError, ConfigError
from ladm_hf.report.page import report
from ladm_hf.selection.options import MAX_REPETITION

# The best of each domain repeats itself; one document has a score and no repetition, one is too short for a score.
ROWS = {
    "id": ["a1", "a2", "a3", "b1", "b2", "b3", "b4"],
    "domain": ["a", "a", "a", "b", "b", "b", "b"],
    "text": ["x"] * 7,
    "ladm_score": [9.0, 2.0, 1.0, 8.0, 7.0, 3.0, math.nan],
    "ladm_num_tokens": [100] * 7,
    "ladm_status": ["ok"] * 6 + ["too_short"],
    "ladm_repetition": [0.9, MAX_REPETITION, 0.0, 0.5, 0.41, math.nan, 0.99],
}


def chosen(**options: Any) -> Selection:
    return select(Dataset.from_dict(ROWS), **{"budget_tokens": 200, "shares": "equal", **options})


def dropped(selection: Selection) -> dict[str, str]:
    return dict(zip(selection.dropped["id"], selection.dropped["ladm_drop_reason"], strict=True))


def test_documents_above_the_limit_leave_the_pool_before_it_is_ranked() -> None:
    selection = chosen()
    # the one at the limit and the one without text stay
    assert selection.selected["id"] == ["a2", "b3"]
    assert dropped(selection) == {
        "a1": "repeated", "a3": "below_cut", "b1": "repeated", "b2": "repeated", "b4": "too_short",
    }  # fmt: skip
    counts = [(row.repeated_documents, row.scored_documents) for row in selection.table]
    assert counts == [(1, 2), (2, 1)]
    # they have no part in the budget either
    assert [row.budget_tokens for row in chosen(budget_tokens=400).table] == [200, 100]
    notes = " ".join(selection.notes)
    assert "3 documents repeat themselves (ladm_repetition above 0.4)" in notes
    assert "1 document has no score and was not a candidate: 1 too_short." in notes


@pytest.mark.parametrize("strategy", ["exact", "percent", "top-k", "bottom-k", "threshold", "temperature"])
def test_every_strategy_obeys_the_rule(strategy: str) -> None:
    needs = {"top-k": {"k": 9}, "bottom-k": {"k": 9}, "threshold": {"min_score": 0}}
    selection = select(Dataset.from_dict(ROWS), strategy=strategy, **needs.get(strategy, {"budget_tokens": 900}))
    assert {"a1", "b1", "b2"}.isdisjoint(selection.selected["id"])


def test_another_limit_and_none() -> None:
    assert chosen(max_repetition=0.6).selected["id"] == ["a2", "b1"]
    free = chosen(max_repetition=None)
    assert free.selected["id"] == ["a1", "b1"]
    assert [row.repeated_documents for row in free.table] == [None, None]
    assert not any("repeat" in note for note in free.notes)
    for limit in (1, "1", "off", None):
        assert chosen(max_repetition=limit).selected["id"] == ["a1", "b1"]


@pytest.mark.parametrize("limit", [-0.1, 1.5, math.nan, "never", True])
def test_a_limit_outside_its_range_is_refused(limit: object) -> None:
    with pytest.raises(ConfigError, match="max_repetition must be"):
        chosen(max_repetition=limit)


def test_data_without_the_column_are_selected_and_say_so() -> None:
    data = Dataset.from_dict(ROWS).remove_columns("ladm_repetition")
    selection = select(data, budget_tokens=200, shares="equal")
    assert selection.selected["id"] == ["a1", "b1"]
    assert "no column ladm_repetition" in " ".join(selection.notes)
    assert "could not be dropped" in " ".join(selection.notes)
    assert "ladm_repetition" not in " ".join(select(data, budget_tokens=200, max_repetition=None).notes)


def test_a_pool_of_repeats_alone_keeps_nothing_and_says_why() -> None:
    data = Dataset.from_dict({**ROWS, "ladm_repetition": [1.0] * 7})
    selection = select(data, budget_tokens=200)
    assert len(selection.selected) == 0
    assert "Every document of the pool that has a score repeats itself" in " ".join(selection.notes)


def test_the_column_is_found_in_the_metadata_of_datatrove() -> None:
    meta = [{name: ROWS[name][i] for name in ROWS if name.startswith("ladm") or name == "domain"} for i in range(7)]
    data = Dataset.from_dict({"text": ROWS["text"], "id": ROWS["id"], "metadata": meta})
    assert select(data, budget_tokens=200, shares="equal").selected["id"] == ["a2", "b3"]


def test_a_column_of_another_type_is_refused() -> None:
    data = Dataset.from_dict({**ROWS, "ladm_repetition": ["low"] * 7})
    with pytest.raises(ColumnError, match="ladm_repetition"):
        select(data, budget_tokens=200)


def test_a_saved_selection_keeps_reasons_counts_and_the_rule(tmp_path: Path) -> None:
    for name, options in {"on": {}, "off": {"max_repetition": None}}.items():
        selection = chosen(**options)
        read = Selection.load(selection.save(tmp_path / name, dropped="scores"))
        assert (read.table, read.options, read.notes) == (selection.table, selection.options, selection.notes)
        assert read.reasons() == selection.reasons()
        assert select(Dataset.from_dict(ROWS), **read.options).selected["id"] == selection.selected["id"]


def test_summary_report_and_card_count_what_was_dropped_by_domain(tmp_path: Path) -> None:
    selection = chosen()
    head, first, second, total = selection.summary().splitlines()[:4]
    place = head.index("repeated") + len("repeated")
    assert [line[:place].split()[-1] for line in (first, second, total)] == ["1", "2", "3"]
    page = report(selection, tmp_path / "report").read_text(encoding="utf-8")
    assert ">repeated</th>" in page
    assert "repeats itself: its ladm_repetition is above max_repetition" in page
    card = str(build_card(selection=selection, repo_id="user/pool"))
    assert "dropped as repeated" in card
    assert "| a | 3 | 300 | 1 |" in card
    assert "| b | 4 | 400 | 2 |" in card
    assert "3 documents repeat themselves" in card.replace("\\", "")
    assert "| ladm\\_repetition |" in card
    off = str(build_card(selection=chosen(max_repetition=None)))
    # rows in memory are selected by a call
    assert "max_repetition='off'" in off
    assert "max_repetition=" not in card
