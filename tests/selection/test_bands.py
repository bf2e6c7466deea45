"""Length bands: on by default, their budgets against a selection made row by row, and no length preferred."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, disable_progress_bars
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from ladm_hf import Selection, select
from ladm_hf.cli.app import app
from ladm_hf.selection.bands import half_octaves
from ladm_hf.stats import spearman

disable_progress_bars()

Row = tuple[float, int, str]  # score, tokens, domain


def pool_of(rows: list[Row]) -> Dataset:
    scores, tokens, domains = (list(column) for column in zip(*rows, strict=True))
    return Dataset.from_dict(
        {
            "id": range(len(rows)), "domain": domains, "ladm_score": scores, "ladm_num_tokens": tokens,
            "ladm_status": ["ok" if math.isfinite(score) else "too_short" for score in scores],
        }
    )  # fmt: skip


def sloped(slope: float, count: int = 3000, seed: int = 0, domains: str = "ab") -> list[Row]:
    """Documents whose score goes with the logarithm of their length, but for noise as large as that."""
    rng = np.random.default_rng(seed)
    tokens = np.exp(rng.uniform(np.log(2305), np.log(32768), count)).astype(int)
    scores = slope * np.log(tokens) + rng.normal(0, 0.8, count)
    return list(zip(scores.tolist(), tokens.tolist(), rng.choice(list(domains), count).tolist(), strict=True))


def band_of(tokens: int, edges: list[int]) -> int:
    return sum(tokens >= edge for edge in edges)


def percentile_by_hand(members: list[int], rows: list[Row]) -> dict[int, float]:
    """The percentile of each document of one domain among its neighbours in length."""
    size = min(max(math.ceil(len(members) / 4), 4), 1024)
    lengths = sorted(rows[i][1] for i in members)
    found: dict[int, float] = dict.fromkeys(members, 0.0)
    for shift in (0.0, 0.5):
        place = {}
        for i in members:
            # documents of one length lie at the middle of theirs
            first, count = lengths.index(rows[i][1]), lengths.count(rows[i][1])
            place[i] = (first + count / 2) / size + shift
        for i in members:
            scores = [rows[j][0] for j in members if math.floor(place[j]) == math.floor(place[i])]
            below, equal = sum(s < rows[i][0] for s in scores), scores.count(rows[i][0])
            weight = 1 - 2 * abs(place[i] % 1 - 0.5)
            found[i] += weight * 100 * (below + equal / 2) / len(scores)
    return {i: round(value, 9) for i, value in found.items()}


def by_percentile(rows: list[Row], budget: int) -> tuple[set[int], dict[int, float]]:
    """What `exact` keeps by default with proportional shares, document by document, and the percentiles."""
    members: dict[str, list[int]] = defaultdict(list)
    for i, (score, _, domain) in enumerate(rows):
        if math.isfinite(score):
            members[domain].append(i)
    pool = sum(rows[i][1] for group in members.values() for i in group)
    kept, percentiles = set(), {}
    for group in members.values():
        mine = percentile_by_hand(group, rows)
        percentiles |= mine
        whole = sum(rows[i][1] for i in group)
        left = min(whole, budget * whole // pool) if pool else 0
        for i in sorted(group, key=lambda i: (-mine[i], -rows[i][0], i)):
            if rows[i][1] > left:
                break
            kept.add(i)
            left -= rows[i][1]
    return kept, percentiles


def by_hand(rows: list[Row], budget: int, edges: list[int]) -> set[int]:
    """What `exact` keeps in bands given by hand with proportional shares, document by document."""
    groups: dict[str, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for i, (score, tokens, domain) in enumerate(rows):
        if math.isfinite(score):
            groups[domain][band_of(tokens, edges)].append(i)
    pool = sum(rows[i][1] for bands in groups.values() for group in bands.values() for i in group)
    kept = set()
    for bands in groups.values():
        whole = sum(rows[i][1] for group in bands.values() for i in group)
        final = min(whole, budget * whole // pool) if pool else 0
        # unite from the shortest band on, until a part of the budget holds the longest document
        united: list[list[int]] = []
        enough = True
        for band in sorted(bands):
            if enough or final == 0:
                united.append([])
            united[-1] += bands[band]
            tokens = [rows[i][1] for i in united[-1]]
            enough = final * sum(tokens) >= max(tokens) * whole
        if not enough and final and len(united) > 1:
            united[-2:] = [united[-2] + united[-1]]
        parts = [final * sum(rows[i][1] for i in group) // whole if whole else 0 for group in united]
        left = final - sum(parts)
        for group, part in reversed(list(zip(united, parts, strict=True))):
            left += part
            for i in sorted(group, key=lambda i: (-rows[i][0], i)):
                if rows[i][1] > left:
                    break
                kept.add(i)
                left -= rows[i][1]
    return kept


scores = st.one_of(st.sampled_from([0.1, 0.2, 0.3, math.nan]), st.floats(0, 1))
pools = st.lists(st.tuples(scores, st.integers(0, 300), st.sampled_from(["a", "b", "c"])), min_size=1, max_size=60)
edges = st.lists(st.integers(1, 310), min_size=1, max_size=5, unique=True).map(sorted)


@settings(max_examples=150, deadline=None)
@given(rows=pools, budget=st.integers(1, 9000), edges=edges)
def test_bands_keep_what_a_selection_by_hand_keeps(rows: list[Row], budget: int, edges: list[int]) -> None:
    selection = select(pool_of(rows), budget_tokens=budget, length_bands=edges)
    assert set(selection.selected["id"]) == by_hand(rows, budget, edges)
    assert selection.selected_tokens <= budget


@settings(max_examples=150, deadline=None)
@given(rows=pools, budget=st.integers(1, 9000))
def test_the_default_keeps_the_best_percentiles_of_like_length(rows: list[Row], budget: int) -> None:
    selection = select(pool_of(rows), budget_tokens=budget)
    kept, percentiles = by_percentile(rows, budget)
    found = {row["id"]: row["ladm_percentile"] for part in (selection.selected, selection.dropped) for row in part}
    for i, value in found.items():
        assert value == pytest.approx(percentiles.get(i, math.nan), nan_ok=True)
    assert set(selection.selected["id"]) == kept
    assert selection.selected_tokens <= budget


@pytest.mark.parametrize("count", [64, 400])
@pytest.mark.parametrize("trend", [-0.6, 0.0, 0.6])
def test_the_percentile_does_not_go_with_length_in_narrow_domains_either(count: int, trend: float) -> None:
    rng = np.random.default_rng(count)
    rows = []
    for domain in range(30):
        tokens = np.clip(np.exp(rng.normal(8.7, 0.9, count)), 1200, 32768).astype(int)
        ranks = tokens.argsort().argsort()
        score = trend * (ranks - ranks.mean()) / ranks.std() + math.sqrt(1 - trend**2) * rng.normal(size=count)
        rows += [(value, int(length), str(domain)) for value, length in zip(score.tolist(), tokens, strict=True)]
    selection = select(pool_of(rows), budget_tokens=sum(tokens for _, tokens, _ in rows) // 4)
    assert max(abs(row.percentile_length_correlation or 0) for row in selection.table) < 0.15
    assert max(abs(row.kept_length_correlation or 0) for row in selection.table) < 0.2


def test_documents_of_one_length_are_ranked_by_score_whatever_their_order() -> None:
    scores = np.random.default_rng(0).permutation(90).astype(float).tolist()
    rows = [(score, 32768, "a") for score in scores] + [(float(n), 2000 + n, "a") for n in range(10)]
    kept = select(pool_of(rows), budget_tokens=32768 * 30).selected
    assert {score for score, length in zip(kept["ladm_score"], kept["ladm_num_tokens"], strict=True)
            if length == 32768} == set(map(float, range(90 - kept["ladm_num_tokens"][:].count(32768), 90)))  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(rows=pools, budget=st.integers(1, 9000), bands=st.sampled_from(["auto", "off", 3, [50], "0:40,40:200,200:"]))
def test_a_domain_stays_under_its_part_by_less_than_one_document(rows: list[Row], budget: int, bands: Any) -> None:
    selection = select(pool_of(rows), budget_tokens=budget, length_bands=bands)
    kept = set(selection.selected["id"])
    for row in selection.table:
        assert row.budget_tokens is not None
        left = [tokens for i, (score, tokens, domain) in enumerate(rows)
                if domain == row.domain and math.isfinite(score) and i not in kept]  # fmt: skip
        assert row.selected_tokens <= row.budget_tokens < row.selected_tokens + max(left, default=1)
    for domain in {band.domain for band in selection.strata} if bands != "auto" else ():
        mine = [band for band in selection.strata if band.domain == domain]
        whole = next(row for row in selection.table if row.domain == domain)
        assert sum(band.scored_documents for band in mine) == whole.scored_documents
        assert sum(band.selected_tokens for band in mine) == whole.selected_tokens
        assert whole.budget_tokens is not None
        assert 0 <= whole.budget_tokens - sum(band.budget_tokens or 0 for band in mine) < len(mine)


@pytest.mark.parametrize("slope", [-1.0, 0.0, 1.0])
@pytest.mark.parametrize("options", [{}, {"strategy": "temperature", "temperature": 0.3}])
def test_no_length_is_preferred_by_default_whichever_way_the_score_goes(slope: float, options: dict[str, Any]) -> None:
    rows = sloped(slope)
    total = sum(tokens for _, tokens, _ in rows)
    selection = select(pool_of(rows), budget_tokens=total // 4, **options)
    plain = select(pool_of(rows), budget_tokens=total // 4, length_bands="off", **options)
    for row, without in zip(selection.table, plain.table, strict=True):
        assert abs(row.kept_length_correlation or 0) < 0.1
        if slope:
            assert row.score_length_correlation == pytest.approx(math.copysign(0.68, slope), abs=0.05)
            assert math.copysign(1, slope) * (without.kept_length_correlation or 0) > 0.25
    # every octave keeps its share of tokens
    for low in (2305, 4610, 9220):
        pool = [tokens for _, tokens, _ in rows if low <= tokens < 2 * low]
        chosen = [tokens for tokens in selection.selected["ladm_num_tokens"] if low <= tokens < 2 * low]
        assert sum(chosen) / sum(pool) == pytest.approx(0.25, abs=0.03)


def test_the_correlations_of_the_table_are_those_of_the_rows() -> None:
    rows = [*sloped(-1.0, 200), (math.nan, 5000, "a"), (1.0, 3000, "lonely")]
    pool = pool_of(rows)
    selection = select(pool, budget_tokens=400_000)
    kept = set(selection.selected["id"])
    table = {row.domain: row for row in selection.table}
    for domain in "ab":
        mine = [(score, tokens, i in kept) for i, (score, tokens, name) in enumerate(rows)
                if name == domain and math.isfinite(score)]  # fmt: skip
        score, tokens, chosen = (np.array(column) for column in zip(*mine, strict=True))
        assert table[domain].score_length_correlation == pytest.approx(spearman(score, tokens))
        assert table[domain].kept_length_correlation == pytest.approx(spearman(chosen, tokens))
        assert table[domain].selected_score_length_correlation == pytest.approx(spearman(score[chosen], tokens[chosen]))
    assert table["lonely"].score_length_correlation is None
    assert any("the score falls with length (rank correlation -0." in note for note in selection.notes)
    assert any("no length preferred in what was kept" in note for note in selection.notes)
    plain = select(pool, budget_tokens=400_000, length_bands="off")
    assert any("shorter documents preferred in what was kept (-0." in note for note in plain.notes)
    assert "rank within length bands (length_bands)" in plain.notes[-2]


def test_narrow_domains_under_bands_keep_their_budget_and_say_what_was_united(tmp_path: Any) -> None:
    wide = [(score, tokens, "wide") for score, tokens, _ in sloped(0.0, 1000)]
    narrow = [(n / 10, 2400 + 3000 * n, "narrow") for n in range(10)]
    pool = pool_of(wide + narrow)
    total = sum(tokens for _, tokens, _ in wide + narrow)
    for bands in (4, [4000, 8000, 16000]):
        selection = select(pool, budget_tokens=total // 5, length_bands=bands)
        table = {row.domain: row for row in selection.table}
        budget = table["narrow"].budget_tokens or 0
        assert budget - table["narrow"].selected_tokens < max(tokens for _, tokens, _ in narrow)
        assert table["narrow"].selected_documents >= 1
        mine = [band for band in selection.strata if band.domain == "narrow"]
        assert any(band.united_bands > 1 for band in mine)
        assert all(band.united_bands == 1 for band in selection.strata if band.domain == "wide")
        note = next(note for note in selection.notes if "united with a neighbour" in note)
        assert "of narrow " in note
        assert "wide" not in note
    again = Selection.load(selection.save(tmp_path / "selection"))
    assert again.strata == selection.strata
    assert again.table == selection.table


def test_a_domain_too_narrow_for_bands_whose_choice_goes_with_length_is_named() -> None:
    wide = [(score, tokens, "wide") for score, tokens, _ in sloped(-1.0, 2000)]
    narrow = [(-float(n), int(2400 * 1.16**n), "narrow") for n in range(18)]
    total = sum(tokens for _, tokens, _ in wide + narrow)
    selection = select(pool_of(wide + narrow), budget_tokens=total // 6)
    assert any(note.startswith("In narrow the choice still goes with length") for note in selection.notes)


def test_a_domain_whose_part_holds_no_document_is_named() -> None:
    rows = [(0.5, 100, "large")] * 100 + [(0.9, 90, "small")]
    selection = select(pool_of(rows), budget_tokens=1000)
    assert any(note.startswith("Nothing of small is kept") for note in selection.notes)
    # one document is not a band that was united with another
    assert not any("united" in note for note in selection.notes)


@pytest.mark.parametrize(
    ("shortest", "longest", "expected"),
    [
        (2305, 32768, [3260, 4610, 6520, 9220, 13040, 18440, 26079]),
        (100, 100, []),
        (0, 3, [2, 3]),
        (0, 0, []),
        (1, 2, [2]),
    ],
)
def test_half_octaves_begin_at_the_shortest_document(shortest: int, longest: int, expected: list[int]) -> None:
    assert half_octaves(shortest, longest) == expected


def test_strategies_without_a_budget_to_divide_do_what_their_name_says_and_tell_what_they_prefer() -> None:
    rows = sloped(1.0, 400)
    pool = pool_of(rows)
    for options in ({"strategy": "top-k", "k": 50}, {"strategy": "percent", "budget_tokens": "1M"},
                    {"strategy": "threshold", "min_score": 9.0}):  # fmt: skip
        selection = select(pool, **options)
        assert selection.strata == []
        assert selection.options["length_bands"] == "auto"
        assert selection.selected["id"] == select(pool, length_bands="off", **options).selected["id"]
        assert "longer documents preferred" in selection.notes[-3]
    assert len(select(pool, strategy="top-k", k=2, length_bands=3).selected) == 2 * 3 * 2


def test_the_options_of_a_selection_give_it_again() -> None:
    pool = pool_of(sloped(1.0, 400))
    for bands in ("auto", "off", None, False, 4, [8000], "0:8k,8k:16k", "8k,"):
        first = select(pool, budget_tokens="1M", length_bands=bands)
        assert first.budget_tokens == 1_000_000
        assert select(pool, **first.options).selected["id"][:] == first.selected["id"][:]


def test_the_command_takes_budgets_and_bands_as_people_write_them(tmp_path: Any) -> None:
    pool = pool_of(sloped(1.0, 400))
    pool.to_parquet(tmp_path / "pool.parquet")
    for words in ("auto", "off", "4", "0:8k,8k:16k,16k:"):
        output = tmp_path / f"out-{words.replace(':', '_')}"
        arguments = ["select", str(tmp_path / "pool.parquet"), str(output), "-b", "1M", "--length-bands", words]
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, done.output
        expected = select(pool, budget_tokens=1_000_000, length_bands=words)
        assert Selection.load(output).selected["id"][:] == expected.selected["id"][:]
        assert "of being kept" not in done.output
        assert "rank correlation" in done.output
