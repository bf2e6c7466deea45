"""`select()`: budgets that hold, the paper's rule, and nothing lost between kept and dropped."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import run_record
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value, disable_progress_bars
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from ladm_hf import Selection, select
from ladm_hf.cli.app import app
from ladm_hf.data.columns import column
from ladm_hf.errors import ColumnError, ConfigError, InputError
from ladm_hf.selection.options import parse_bands, parse_budget, parse_shares, parse_tokens
from ladm_hf.selection.read import _domains, _token_counts
from ladm_hf.selection.reasons import DROP_REASON
from ladm_hf.selection.split import with_column
from ladm_hf.text import one_line

disable_progress_bars()

Row = dict[str, Any]


def dataset_of(rows: list[Row]) -> Dataset:
    features = Features(
        {
            "id": Value("int64"),
            "domain": Value("string"),
            "ladm_score": Value("float64"),
            "ladm_num_tokens": Value("int32"),
            "ladm_status": Value("string"),
        }
    )
    return Dataset.from_dict({name: [row[name] for row in rows] for name in features}, features=features)


def rows_of(scores: list[float], tokens: list[int], domains: list[str]) -> list[Row]:
    return [
        {
            "id": i,
            "domain": domain,
            "ladm_score": score,
            "ladm_num_tokens": count,
            "ladm_status": "ok" if math.isfinite(score) else "too_short",
        }
        for i, (score, count, domain) in enumerate(zip(scores, tokens, domains, strict=True))
    ]


def random_rows(count: int, seed: int = 0, domains: str = "ABC") -> list[Row]:
    rng = np.random.default_rng(seed)
    scores = rng.random(count)
    scores[::17] = np.nan
    return rows_of(scores.tolist(), rng.integers(100, 2000, count).tolist(), rng.choice(list(domains), count).tolist())


@st.composite
def pools(draw: st.DrawFn) -> list[Row]:
    # few distinct scores, so that ties are frequent
    score = st.one_of(st.sampled_from([0.1, 0.2, 0.3, math.nan]), st.floats(0, 1))
    rows = draw(
        st.lists(
            st.tuples(score, st.integers(0, 60), st.sampled_from(["a", "b", "c", "é|`{{"])), min_size=1, max_size=60
        )
    )
    return rows_of([row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows])


def scored(rows: list[Row]) -> dict[str, list[Row]]:
    """Scored rows by domain, from the best to the worst, ties by row."""
    found = defaultdict(list)
    for row in rows:
        if math.isfinite(row["ladm_score"]):
            found[row["domain"]].append(row)
    return {domain: sorted(found[domain], key=lambda row: -row["ladm_score"]) for domain in sorted(found)}


def tokens_of(rows: list[Row]) -> int:
    return sum(row["ladm_num_tokens"] for row in rows)


shares = st.sampled_from(["proportional", "equal", {"a": 1.0, "b": 0.5, "c": 2.0, "é|`{{": 0.1}])
some = settings(max_examples=60, deadline=None)


@some
@given(rows=pools(), budget=st.integers(1, 2500), share=shares)
def test_exact_never_passes_the_budget_and_stays_under_it_by_less_than_one_document_a_domain(rows, budget, share):
    if isinstance(share, dict):
        share = {name: weight for name, weight in share.items() if any(row["domain"] == name for row in rows)}
    selection = select(dataset_of(rows), budget_tokens=budget, shares=share, length_bands=None)
    groups = scored(rows)
    pool = sum(map(tokens_of, groups.values()))
    kept = set(selection.selected["id"])
    assert selection.selected_tokens == tokens_of([row for row in rows if row["id"] in kept]) <= budget
    assert selection.shortfall == budget - selection.selected_tokens
    if budget >= pool:
        assert kept == {row["id"] for group in groups.values() for row in group}
    gap = min(budget, pool) - selection.selected_tokens
    following = 0
    for record in selection.table:
        group = groups.get(record.domain, [])
        count = record.selected_documents
        # the rows kept are the beginning of the ranking
        assert {row["id"] for row in group[:count]} == kept & {row["id"] for row in group}
        assert record.selected_tokens <= record.budget_tokens
        if count < len(group):
            following += group[count]["ladm_num_tokens"]
            assert record.budget_tokens < record.selected_tokens + group[count]["ladm_num_tokens"]
    # dividing a budget into whole tokens loses less than one token a domain
    assert gap < following + len(groups) + 1
    assert sum(record.budget_tokens for record in selection.table) <= budget


def percent_as_published(rows: list[Row], budget: int) -> tuple[set[int], int]:
    """The rule of the published script, row by row."""
    groups = scored(rows)
    for percent in range(1, 101):
        total, top = 0, []
        for group in groups.values():
            best = group[: int(len(group) * percent * 0.01)]
            top += best
            total += tokens_of(best)
        if total > budget:
            break
    return {row["id"] for row in top}, percent


@some
@given(rows=pools(), budget=st.integers(1, 2500))
def test_percent_is_the_published_rule(rows, budget):
    selection = select(dataset_of(rows), budget_tokens=budget, strategy="percent")
    assert (set(selection.selected["id"]), selection.percent) == percent_as_published(rows, budget)


def test_percent_is_the_published_rule_on_domains_of_hundreds():
    rows = random_rows(3000, seed=3)
    for budget in (1, 40_000, 333_333, 2_000_000, 10**9):
        selection = select(dataset_of(rows), budget_tokens=budget, strategy="percent")
        assert (set(selection.selected["id"]), selection.percent) == percent_as_published(rows, budget)
    assert "over the budget" in select(dataset_of(rows), budget_tokens=40_000, strategy="percent").notes[2]


every_strategy = st.sampled_from(
    [
        {"budget_tokens": 300},
        {"budget_tokens": 300, "shares": "equal"},
        {"budget_tokens": 300, "length_bands": 3},
        {"budget_tokens": 300, "length_bands": [20, 40]},
        {"budget_tokens": 300, "strategy": "percent"},
        {"strategy": "top-k", "k": 2},
        {"strategy": "bottom-k", "k": 2},
        {"strategy": "threshold", "min_score": 0.2},
        {"strategy": "temperature", "budget_tokens": 300, "seed": 7},
    ]
)


@some
@given(rows=pools(), options=every_strategy)
def test_selected_and_dropped_are_the_pool_and_every_dropped_row_has_a_reason(rows, options):
    selection = select(dataset_of(rows), **options)
    selected, dropped = selection.selected["id"], selection.dropped["id"]
    assert sorted([*selected, *dropped]) == list(range(len(rows)))
    assert selected == sorted(selected)
    assert dropped == sorted(dropped)
    assert all(math.isfinite(row["ladm_score"]) for row in selection.selected)
    assert DROP_REASON not in selection.selected.column_names
    for row in selection.dropped:
        reason = row.pop(DROP_REASON)
        assert math.isnan(row.pop("ladm_percentile")) == (reason == "too_short")
        assert (
            reason == "too_short"
            if math.isnan(row["ladm_score"])
            else reason in ("below_cut", "above_cut", "not_drawn")
        )
        original = rows[row["id"]]
        assert all(row[name] == original[name] or math.isnan(original[name]) for name in row)
    assert sum(selection.reasons().values()) == len(dropped)
    for record in selection.table:
        scores = [row["ladm_score"] for row in selection.selected if row["domain"] == record.domain]
        assert record.threshold == min(scores, default=None) == selection.threshold.get(record.domain)


@some
@given(rows=pools(), options=every_strategy, seed=st.integers(0, 99))
def test_the_order_of_the_rows_changes_nothing_once_ties_have_an_order(rows, options, seed):
    pool = dataset_of(rows)
    shuffled = pool.select(np.random.default_rng(seed).permutation(len(rows)))
    first, second = select(pool, ties="id", **options), select(shuffled, ties="id", **options)
    assert sorted(first.selected["id"]) == sorted(second.selected["id"])
    assert first.table == second.table
    assert first.strata == second.strata


def test_of_equal_scores_the_first_row_is_kept():
    rows = rows_of([0.5] * 6, [10] * 6, ["a"] * 6)
    assert select(dataset_of(rows), budget_tokens=30).selected["id"][:] == [0, 1, 2]
    assert select(dataset_of(rows), strategy="bottom-k", k=2).selected["id"][:] == [0, 1]
    backwards = dataset_of(rows).add_column("order", [5, 4, 3, 2, 1, 0])
    assert select(backwards, budget_tokens=30, ties="order").selected["id"][:] == [3, 4, 5]
    names = dataset_of(rows).add_column("name", ["b", None, "a", "a", "c", "d"])
    assert select(names, strategy="top-k", k=3, ties="name").selected["id"][:] == [0, 2, 3]
    numbers = dataset_of(rows).add_column("number", [None, 2**60 + 2, 2**60 + 1, 2**60, None, 2**60])
    assert select(numbers, strategy="top-k", k=4, ties="number").selected["id"][:] == [1, 2, 3, 5]
    assert select(numbers, strategy="top-k", k=3, ties="number").selected["id"][:] == [2, 3, 5]


def test_a_small_domain_gives_what_it_cannot_fill_to_the_others():
    rows = rows_of([0.9] * 2 + [0.5] * 100 + [0.4] * 100, [10] * 202, ["small"] * 2 + ["x"] * 100 + ["y"] * 100)
    selection = select(dataset_of(rows), budget_tokens=600, shares="equal")
    table = {record.domain: record for record in selection.table}
    assert (table["small"].budget_tokens, table["small"].shortfall_tokens) == (20, 180)
    assert (table["x"].budget_tokens, table["y"].budget_tokens) == (290, 290)
    assert selection.selected_tokens == 600
    assert selection.shortfall == 0
    assert "180 tokens that small could not fill went to the other domains." in selection.notes
    assert sum(record.share for record in selection.table) == pytest.approx(1)


def test_given_shares_leave_out_the_domains_they_do_not_name():
    rows = random_rows(300)
    selection = select(dataset_of(rows), budget_tokens=20_000, shares={"A": 3, "B": 1})
    table = {record.domain: record for record in selection.table}
    assert table["A"].budget_tokens == 15_000
    assert table["C"].selected_documents == 0
    assert set(selection.selected["domain"]) == {"A", "B"}
    assert set(selection.dropped.filter(lambda row: row["domain"] == "C")[DROP_REASON]) == {"no_share", "too_short"}
    everything = select(dataset_of(rows), budget_tokens=10**9, shares={"A": 3, "B": 1})
    assert everything.notes[2].startswith("Every scored document of the domains that have a share is kept")
    assert "would not fit" not in everything.summary()
    with pytest.raises(ConfigError, match="'Z', but the pool's are 'A', 'B', 'C'"):
        select(dataset_of(rows), budget_tokens=20_000, shares={"Z": 1})


def test_a_budget_larger_than_the_pool_keeps_all_and_says_so():
    rows = random_rows(100)
    for strategy in ("exact", "percent", "temperature"):
        selection = select(dataset_of(rows), budget_tokens=10**9, strategy=strategy)
        assert len(selection.selected) == sum(math.isfinite(row["ladm_score"]) for row in rows)
        assert any("every scored document is kept" in note for note in selection.notes)
        assert selection.shortfall == 10**9 - selection.selected_tokens
    # redistribution reaches every domain
    assert select(dataset_of(rows), budget_tokens=10**9, shares="equal").reasons() == {"too_short": 6}


def test_top_k_bottom_k_and_threshold():
    rows = random_rows(200)
    pool, groups = dataset_of(rows), scored(rows)
    top = {row["id"] for group in groups.values() for row in group[:5]}
    bottom = {row["id"] for group in groups.values() for row in group[-5:]}
    assert set(select(pool, strategy="top-k", k=5).selected["id"]) == top
    assert set(select(pool, strategy="top_k", k=5).selected["id"]) == top
    assert set(select(pool, strategy="bottom-k", k=5).selected["id"]) == bottom
    above = {row["id"] for row in rows if row["ladm_score"] >= 0.75}
    selection = select(pool, strategy="threshold", min_score=0.75)
    assert set(selection.selected["id"]) == above
    assert selection.budget_tokens is None
    assert selection.shortfall == 0


def test_temperature_goes_from_the_best_to_chance():
    rows = random_rows(2000, domains="A")
    pool = dataset_of(rows)

    def mean_rank(temperature: float, seed: int = 0) -> float:
        selection = select(pool, strategy="temperature", budget_tokens=100_000, temperature=temperature, seed=seed)
        assert 98_000 < selection.selected_tokens <= 100_000
        return float(np.mean(selection.selected["ladm_score"]))

    best = float(np.mean(select(pool, budget_tokens=100_000).selected["ladm_score"]))
    assert mean_rank(1e-300) == best
    assert best > mean_rank(0.2) > mean_rank(1) > mean_rank(1000)
    assert mean_rank(1000) == pytest.approx(0.5, abs=0.1)
    draw = [select(pool, strategy="temperature", budget_tokens=9000, seed=seed).selected["id"][:] for seed in (1, 1, 2)]
    assert draw[0] == draw[1] != draw[2]


def test_the_chance_of_being_drawn_first_is_the_exponential_of_the_score_in_deviations():
    scores = [0.0, 1.0, 2.0]
    pool = dataset_of(rows_of(scores, [1, 1, 1], ["a"] * 3))
    draws = [
        select(pool, strategy="temperature", budget_tokens=1, temperature=1.5, seed=seed).selected["id"][0]
        for seed in range(300)
    ]
    z = (np.array(scores) - 1) / np.std(scores)
    expected = np.exp(z / 1.5) / np.exp(z / 1.5).sum()
    assert np.bincount(draws, minlength=3) / 300 == pytest.approx(expected, abs=0.09)


def test_length_bands_rank_among_documents_of_like_length():
    rng = np.random.default_rng(0)
    tokens = rng.integers(100, 4000, 400)
    # the score is the length: without bands only long documents are kept
    rows = rows_of((tokens + rng.random(400)).tolist(), tokens.tolist(), ["a"] * 200 + ["b"] * 200)
    plain = select(dataset_of(rows), budget_tokens=100_000, length_bands="off")
    banded = select(dataset_of(rows), budget_tokens=100_000, length_bands=4)
    assert min(plain.selected["ladm_num_tokens"]) > 3000
    assert min(banded.selected["ladm_num_tokens"]) < 1100
    assert banded.selected_tokens <= 100_000
    assert [record.scored_documents for record in banded.strata] == [50] * 8
    assert sum(record.selected_tokens for record in banded.strata) == banded.selected_tokens
    edges = select(dataset_of(rows), budget_tokens=100_000, length_bands=[1000, 2000])
    limits = [(record.min_tokens, record.max_tokens) for record in edges.strata if record.domain == "a"]
    assert limits[0][1] < 1000 <= limits[1][0] <= limits[1][1] < 2000 <= limits[2][0]
    assert edges.notes[2].startswith("Ranked within 6 groups of domain and length, each with a part of the budget")


def test_the_domain_may_be_nested_a_class_label_a_number_null_or_absent():
    rows = random_rows(60)
    pool = dataset_of(rows)
    nested = pool.map(lambda row: {"meta": {"pile_set_name": row["domain"], "n": 1}}, remove_columns="domain")
    assert nested.features["meta"] is not None
    expected = select(pool, budget_tokens=9000)
    assert select(nested, budget_tokens=9000, by="meta.pile_set_name").selected["id"][:] == expected.selected["id"][:]
    labelled = pool.cast_column("domain", ClassLabel(names=["A", "B", "C"]))
    assert select(labelled, budget_tokens=9000).table == expected.table
    flat = nested.flatten()
    assert select(flat, budget_tokens=9000, by="meta.pile_set_name").table == expected.table
    assert [record.domain for record in select(nested, strategy="top-k", k=1, by="meta.n").table] == ["1"]
    missing = Dataset.from_dict({**pool.to_dict(), "domain": [None] * 60}, features=pool.features)
    assert select(missing, strategy="top-k", k=1).table[0].domain == "(none)"
    whole = select(pool, strategy="top-k", k=3, by=None)
    assert len(whole.selected) == 3
    assert whole.table[0].domain == "all"
    assert whole.frame()["domain"].to_pylist() == ["all"] * 60
    with pytest.raises(
        ColumnError, match=r"no column 'meta\.source' in this data; its columns are .*'meta\.pile_set_name'"
    ):
        select(nested, budget_tokens=9000, by="meta.source")
    with pytest.raises(ColumnError, match="cannot name a domain"):
        select(nested, budget_tokens=9000, by="meta")


def test_tokens_may_be_those_of_the_whole_document_or_a_column():
    rows = rows_of([0.9, 0.8, 0.7], [10, 10, 10], ["a"] * 3)
    pool = dataset_of(rows).add_column("input_ids", [[1] * 50, [1] * 10, [1] * 10]).add_column("words", [1, None, 3])
    assert select(pool, budget_tokens=30).selected_tokens == 30
    whole = select(pool, budget_tokens=30, tokens="document")
    assert len(whole.selected) == 0
    assert "whole document" in whole.notes[0]
    assert select(pool, budget_tokens=60, tokens="document").selected["id"][:] == [0, 1]
    words = select(pool, budget_tokens=3, tokens="words")
    assert words.selected["id"][:] == [0]
    assert words.reasons() == {"below_cut": 1, "no_token_count": 1}
    assert words.frame()["tokens"].to_pylist() == [1, -1, 3]
    with pytest.raises(ColumnError, match="name a column that holds the tokens"):
        select(dataset_of(rows), budget_tokens=30, tokens="document")
    with pytest.raises(ColumnError, match="expected a list of token ids"):
        select(dataset_of(rows).add_column("input_ids", [1, 2, 3]), budget_tokens=30, tokens="document")
    with pytest.raises(ColumnError, match="must not be negative, found -1"):
        select(dataset_of(rows).add_column("n", [1, -1, 3]), budget_tokens=30, tokens="n")


def test_views_of_a_pool_are_selected_from_without_copying_the_texts():
    rows = random_rows(50)
    pool = dataset_of(rows).add_column("text", [f"text {i}" * 100 for i in range(50)])
    for view in (pool.select(range(10, 40)), pool.shuffle(seed=0), pool.select([3, 1, 4, 1, 5, 9, 2, 6, 5])):
        selection = select(view, budget_tokens=5000)
        assert sorted([*selection.selected["id"], *selection.dropped["id"]]) == sorted(view["id"])
        assert all(row["text"].startswith(f"text {row['id']}t") for row in selection.dropped)
        selected = selection.selected.remove_columns("ladm_percentile")
        assert selected.data.nbytes in (view.data.nbytes, view.flatten_indices().data.nbytes)
    shuffled = pool.shuffle(seed=0)
    dropped = select(shuffled, budget_tokens=5000).dropped
    assert dropped.data.num_rows == 50
    assert dropped._indices is not None


def test_views_are_read_without_the_private_name_of_their_rows():
    class Nameless:
        """A data set of a `datasets` that keeps the rows of a view under another name."""

        def __init__(self, dataset):
            self.dataset = dataset

        def __getattr__(self, name):
            if name in ("_indices", "_fingerprint"):
                raise AttributeError(name)
            return getattr(self.dataset, name)

        def __len__(self):
            return len(self.dataset)

    pool = Dataset.from_dict({"n": [3, 1, 2], "meta": [{"d": d} for d in "abc"], "input_ids": [[1], [2, 3], []]})
    view = Nameless(pool.select([2, 0]))
    assert column(view, "n").to_pylist() == [2, 3]
    assert column(view, "meta.d").to_pylist() == ["c", "a"]
    codes, names = _domains(view, "meta.d")
    assert [names[code] for code in codes] == ["c", "a"]
    assert _token_counts(view, "document").to_pylist() == [0, 1]
    assert with_column(view, "m", pa.array([7, 8]))["m"] == [7, 8]
    assert with_column(view, "m", pa.array([7, 8]))["n"] == [2, 3]


def test_selecting_again_replaces_the_reasons():
    first = select(dataset_of(random_rows(100)), budget_tokens=5000)
    second = select(first.dropped, budget_tokens=5000)
    assert DROP_REASON not in second.selected.column_names
    assert len(second.selected) + len(second.dropped) == len(first.dropped)
    assert set(second.reasons()) == {"below_cut", "too_short"}


def test_rows_without_a_finite_score_are_never_selected_whatever_their_status():
    scores, statuses = [0.5, math.nan, math.inf, 0.4, 0.3, None], ["ok", "ok", "ok", "error: bad <b>", None, "ok"]
    pool = Dataset.from_dict(
        {
            "domain": ["a"] * 6,
            "ladm_score": scores,
            "ladm_num_tokens": [1] * 6,
            "ladm_status": statuses,
        }
    )
    selection = select(pool, budget_tokens=100)
    assert selection.selected["ladm_score"][:] == [0.5]
    reasons = ["no_score", "no_score", "error: bad <b>", "no_status", "no_score"]
    assert selection.dropped[DROP_REASON][:] == reasons
    assert select(pool.remove_columns("ladm_status"), budget_tokens=100).selected["ladm_score"][:] == [0.5, 0.4, 0.3]


def test_empty_pools_and_pools_without_scores_give_empty_selections():
    nothing = select(dataset_of([]), budget_tokens=10)
    assert len(nothing.selected) == len(nothing.dropped) == 0
    assert nothing.table == []
    assert "nothing could be kept" in nothing.summary()
    assert nothing.frame().num_rows == 0
    unscored = select(dataset_of(rows_of([math.nan] * 3, [5] * 3, ["a"] * 3)), budget_tokens=10, length_bands=2)
    assert len(unscored.dropped) == 3
    assert unscored.table[0].threshold is None
    assert unscored.strata == []
    for strategy, options in {"percent": {"budget_tokens": 1}, "temperature": {"budget_tokens": 1}}.items():
        assert len(select(dataset_of([]), strategy=strategy, **options).selected) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategy": "best"}, "strategy must be one of 'exact'"),
        ({}, "strategy 'exact' needs budget_tokens"),
        ({"budget_tokens": 5, "k": 3}, "takes budget_tokens, not k"),
        ({"strategy": "top-k", "k": 3, "budget_tokens": 3}, "takes k, not budget_tokens"),
        ({"strategy": "top-k", "k": 0}, "k must be a whole number, at least 1, got 0"),
        ({"strategy": "top-k", "k": True}, "k must be a whole number"),
        ({"budget_tokens": 0}, "budget_tokens must be"),
        ({"budget_tokens": 1.5}, "budget_tokens must be"),
        ({"budget_tokens": math.nan}, "budget_tokens must be"),
        ({"budget_tokens": "many"}, "a token budget is a number such as"),
        ({"strategy": "threshold", "min_score": math.nan}, "min_score must be a finite number"),
        ({"strategy": "threshold", "min_score": "high"}, "min_score must be a finite number"),
        ({"strategy": "threshold", "min_score": []}, "min_score must be a finite number"),
        ({"strategy": "temperature", "budget_tokens": 5, "temperature": 0}, "temperature must be a positive"),
        ({"strategy": "temperature", "budget_tokens": 5, "seed": -1}, "seed must be"),
        ({"strategy": "percent", "budget_tokens": 5, "shares": "equal"}, "takes no shares"),
        ({"budget_tokens": 5, "shares": "fair"}, "shares must be 'proportional', 'equal' or"),
        ({"budget_tokens": 5, "shares": {"A": -1, "B": 2}}, "weights of at least 0"),
        ({"budget_tokens": 5, "shares": {}}, "one of them above 0"),
        ({"budget_tokens": 5, "length_bands": 0}, "length_bands must be"),
        ({"budget_tokens": 5, "length_bands": [5, 3]}, "token counts that increase"),
        ({"budget_tokens": 5, "length_bands": []}, "token counts that increase"),
    ],
)
def test_options_that_cannot_work_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        select(dataset_of(random_rows(10)), **options)


def test_a_budget_may_be_a_float_that_is_whole():
    assert select(dataset_of(random_rows(10)), budget_tokens=1e3).budget_tokens == 1000


def test_columns_that_are_missing_or_of_the_wrong_type_are_named():
    pool = dataset_of(random_rows(10))
    with pytest.raises(ColumnError, match=r"no column 'ladm_score' .* run `ladm score`"):
        select(pool.remove_columns("ladm_score"), budget_tokens=5)
    with pytest.raises(ColumnError, match="'ladm_num_tokens'"):
        select(pool.remove_columns("ladm_num_tokens"), budget_tokens=5)
    with pytest.raises(ColumnError, match="holds string, expected numbers"):
        select(pool, budget_tokens=5, score="domain")
    with pytest.raises(ColumnError, match="cannot be read as int64"):
        select(pool, budget_tokens=5, tokens="ladm_score")
    with pytest.raises(ColumnError, match="cannot order ties"):
        select(pool.add_column("list", [[1]] * 10), budget_tokens=5, ties="list")
    with pytest.raises(ColumnError, match="no column 'source'"):
        select(pool, budget_tokens=5, ties="source")


def test_the_pool_may_be_a_table_a_saved_folder_parquet_or_one_split(tmp_path):
    pool = dataset_of(random_rows(80))
    expected = select(pool, budget_tokens=9000)
    pool.save_to_disk(tmp_path / "saved")
    DatasetDict(train=pool).save_to_disk(tmp_path / "splits")
    data = tmp_path / "run" / "data"
    (data / ".tmp").mkdir(parents=True)
    pool.select(range(50)).to_parquet(data / "part-0.parquet")
    pool.select(range(50, 80)).to_parquet(data / "part-1.parquet")
    (data / ".tmp" / "half.parquet").write_bytes(b"PAR1")
    run_record().save(tmp_path / "run")
    forms = [
        pool.data.table, DatasetDict(train=pool), DatasetDict(train=pool, test=pool), tmp_path / "saved",
        str(tmp_path / "splits"), tmp_path / "run", data, str(data / "*.parquet"),
    ]  # fmt: skip
    for scored_rows in forms:
        selection = select(scored_rows, budget_tokens=9000, split="train")
        assert selection.selected["id"][:] == expected.selected["id"][:]
        assert selection.table == expected.table
    assert select(tmp_path / "run", budget_tokens=9000).run == run_record()
    assert len(select(data / "part-1.parquet", budget_tokens=9000).frame()) == 30
    with pytest.raises(InputError, match="name one of train, test with --split"):
        select(DatasetDict(train=pool, test=pool), budget_tokens=9000)
    with pytest.raises(InputError, match="no split 'dev'"):
        select(DatasetDict(train=pool), budget_tokens=9000, split="dev")
    with pytest.raises(InputError, match="no file, folder or glob"):
        select(tmp_path / "nowhere", budget_tokens=9000)
    (tmp_path / "unfinished" / ".ladm").mkdir(parents=True)
    run_record().save(tmp_path / "unfinished")
    with pytest.raises(InputError, match="has not finished"):
        select(tmp_path / "unfinished", budget_tokens=9000)
    with pytest.raises(InputError, match="found IterableDataset"):
        select(pool.to_iterable_dataset(), budget_tokens=9000)
    (tmp_path / "bad.parquet").write_text("no parquet")
    with pytest.raises(InputError, match=r"cannot read .*bad\.parquet as parquet"):
        select(tmp_path / "bad.parquet", budget_tokens=9000)
    (tmp_path / "run" / "run.json").write_text("{")
    with pytest.raises(InputError, match=r"run\.json cannot be read"):
        select(tmp_path / "run", budget_tokens=9000)


def test_a_saved_selection_comes_back_the_same(tmp_path):
    pool = dataset_of(random_rows(80)).add_column("text", ["é\n" * 2000] * 80)
    selection = select(pool, budget_tokens=9000, length_bands=2, shares={"A": 1, "B": 2})
    folder = selection.save(tmp_path / "selection")
    again = Selection.load(folder)
    for name in ("table", "strata", "threshold", "shortfall", "strategy", "budget_tokens", "by", "options", "notes"):
        assert getattr(again, name) == getattr(selection, name)
    assert again.selected.to_list() == selection.selected.to_list()
    assert again.dropped["text"][:] == selection.dropped["text"][:]
    assert again.frame().to_pydict()["kept"] == selection.frame().to_pydict()["kept"]
    repeated = select(pool, **again.options)
    assert repeated.selected["id"][:] == again.selected["id"][:]

    (folder / "notes.txt").write_text("mine")
    shorter = select(pool, budget_tokens=3000)
    with pytest.raises(
        InputError, match=r"holds a selection by exact to a budget of 9,000 tokens that keeps .*overwrite"
    ):
        shorter.save(folder, dropped="scores")
    assert Selection.load(folder).budget_tokens == 9000
    shorter.save(folder, dropped="scores", overwrite=True)
    again = Selection.load(folder)
    assert again.budget_tokens == 3000
    assert "text" not in again.dropped.column_names
    assert again.reasons() == shorter.reasons()
    assert (folder / "notes.txt").read_text() == "mine"
    assert sorted(path.name for path in folder.iterdir()) == ["data", "dropped", "notes.txt", "selection.json"]


@pytest.mark.parametrize("budget", [1, 10**9])
def test_a_selection_that_keeps_nothing_or_everything_is_saved_with_its_columns(tmp_path, budget):
    pool = dataset_of(rows_of([0.5, 0.4], [10, 10], ["a", "b"]))
    selection = select(pool, budget_tokens=budget)
    again = Selection.load(selection.save(tmp_path))
    assert (len(again.selected), len(again.dropped)) == ((0, 2) if budget == 1 else (2, 0))
    assert again.selected.features == {**pool.features, "ladm_percentile": Value("float64")}
    assert again.frame().num_rows == 2
    assert again.reasons() == selection.reasons()


def test_a_selection_inside_the_folder_of_its_run_is_not_read_as_pool(tmp_path):
    (tmp_path / "data").mkdir()
    dataset_of(random_rows(80)).to_parquet(tmp_path / "data" / "part-0.parquet")
    run_record().save(tmp_path)
    first = select(tmp_path, budget_tokens=9000)
    first.save(tmp_path / "top")
    assert select(tmp_path, budget_tokens=9000).table == first.table


def test_paths_may_hold_the_characters_of_a_glob(tmp_path):
    folder = tmp_path / "run [v1]*"
    (folder / "data").mkdir(parents=True)
    dataset_of(random_rows(80)).to_parquet(folder / "data" / "part-[0].parquet")
    for path in (folder, folder / "data" / "part-[0].parquet"):
        selection = select(path, budget_tokens=9000)
        selection.save(folder / "top", overwrite=True)
        assert Selection.load(folder / "top").selected["id"][:] == selection.selected["id"][:]


def test_parquet_files_whose_columns_have_no_common_type_are_refused(tmp_path):
    pool = dataset_of(random_rows(30))
    pool.to_parquet(tmp_path / "a.parquet")
    pool.remove_columns("ladm_score").add_column("ladm_score", ["?"] * 30).to_parquet(tmp_path / "b.parquet")
    with pytest.raises(InputError, match="ladm_score") as caught:
        select(tmp_path, budget_tokens=5)
    assert "a.parquet" in str(caught.value)
    assert "b.parquet" in str(caught.value)


def test_dropped_rows_without_their_long_columns_can_still_be_counted(tmp_path):
    rows = rows_of([0.9, 0.8, 0.7], [10, 10, 10], ["a"] * 3)
    pool = dataset_of(rows).add_column("input_ids", [[1] * 50, [1] * 10, [1] * 10]).add_column("text", ["x" * 5000] * 3)
    selection = select(pool, budget_tokens=60, tokens="document")
    again = Selection.load(selection.save(tmp_path, dropped="scores"))
    assert "text" not in again.dropped.column_names
    assert again.frame()["tokens"].to_pylist() == [50, 10, 10]


def test_large_selections_are_written_in_several_files(tmp_path, monkeypatch):
    monkeypatch.setattr("ladm_hf.data.shards.SHARD_BYTES", 600)
    selection = select(dataset_of(random_rows(80)), budget_tokens=30_000)
    folder = selection.save(tmp_path / "selection")
    assert len(list((folder / "data").glob("train-*.parquet"))) > 1
    assert Selection.load(folder).selected["id"][:] == selection.selected["id"][:]


def test_other_peoples_folders_and_broken_selections_are_refused(tmp_path):
    selection = select(dataset_of(random_rows(20)), budget_tokens=3000)
    (tmp_path / "scores" / "data").mkdir(parents=True)
    with pytest.raises(InputError, match="not written by a selection"):
        selection.save(tmp_path / "scores")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file is there already and was not written by a selection"):
        selection.save(tmp_path / "file")
    with pytest.raises(ConfigError, match="dropped must be"):
        selection.save(tmp_path / "new", dropped="some")
    with pytest.raises(InputError, match=r"holds no selection\.json"):
        Selection.load(tmp_path / "scores")
    folder = selection.save(tmp_path / "selection")
    with pytest.raises(InputError, match="is a selection, not a scored pool"):
        select(folder, budget_tokens=5)
    assert len(select(folder / "data", budget_tokens=10**9).selected) == len(selection.selected)
    for file in (folder / "dropped").iterdir():
        file.unlink()
    with pytest.raises(InputError, match="holds no parquet file"):
        Selection.load(folder)
    (folder / "selection.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(InputError, match="not in format 1"):
        Selection.load(folder)
    (folder / "selection.json").write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        Selection.load(folder)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("1073741824", 1 << 30), ("1e9", 10**9), ("500M", 500_000_000), ("1.5b", 1_500_000_000), ("2k", 2000),
        ("32768*32*1024", 1 << 30), ("1_000", 1000), ("1,000", 1000), ("2 G", None), ("1T", 10**12), ("2.5e3", 2500),
    ],
)  # fmt: skip
def test_budgets_are_read_as_people_write_them(text, tokens):
    if tokens is None:
        with pytest.raises(ConfigError, match="a token budget is a number such as"):
            parse_tokens(text)
    else:
        assert parse_tokens(text) == tokens


@some
@given(rows=pools(), percent=st.sampled_from(["25%", "0.5 %", "100%", "33.3%"]))
def test_a_budget_in_percent_is_that_share_of_the_scored_tokens(rows: list[Row], percent: str) -> None:
    whole = tokens_of([row for group in scored(rows).values() for row in group])
    tokens = max(1, int(Fraction(percent.rstrip("% ")) / 100 * whole))
    shared, counted = (select(dataset_of(rows), budget_tokens=budget) for budget in (percent, tokens))
    assert shared.budget_tokens == shared.options["budget_tokens"] == tokens
    assert shared.selected[:] == counted.selected[:]


@pytest.mark.parametrize("text", ["0%", "100.1%", "-5%", "%", "five%", "25%%"])
def test_a_share_that_no_pool_has_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="budget"):
        parse_budget(text)


@pytest.mark.parametrize("text", ["", "many", "-5", "0", "1.5", "1e-3", "5*", "1e999", "0x10"])
def test_budgets_that_are_no_whole_numbers_are_refused(text):
    with pytest.raises(ConfigError, match="a token budget"):
        parse_tokens(text)


def test_shares_and_bands_are_read_from_the_command_line():
    assert parse_shares(None) is None
    assert parse_shares(["equal"]) == "equal"
    assert parse_shares(["A=B=2", "C=0.5"]) == {"A=B": 2.0, "C": 0.5}
    assert parse_bands("4") == 4
    assert parse_bands("8192,16384") == [8192, 16384]
    assert parse_bands("8192,") == parse_bands("8.192k,") == [8192]
    assert parse_bands("0:8k,8k:16k") == parse_bands("8k,16k") == [8000, 16000]
    assert parse_bands("0:8k,8k:16k,16k:") == parse_bands(":8k, 8000:16000, 16k:,") == [8000, 16000]
    assert parse_bands("2k:8k") == [2000, 8000]
    assert [parse_bands(word) for word in ("auto", "OFF", "none")] == ["auto", "off", "off"]
    for wrong in ["A", "=", "A=much"]:
        with pytest.raises(ConfigError, match="DOMAIN=WEIGHT"):
            parse_shares([wrong])
    for wrong in ["", *"short,long 0 8k , : 0:8k,16k:32k 0:8k,4k: 8k:4k 0:,8k: 8k,4k 1.5,".split(" ")]:
        with pytest.raises(ConfigError, match="length bands are"):
            parse_bands(wrong)


def test_names_from_the_data_are_shown_on_one_line():
    assert one_line("a\nb\tc\x00\x1b[31m", 40) == "a b c [31m"
    assert one_line("abcdefgh", 4) == "abc…"


def test_the_command_selects_and_says_what_it_did(tmp_path):
    dataset_of(random_rows(80)).save_to_disk(tmp_path / "scored")
    output = tmp_path / "selection"
    arguments = [
        "select", str(tmp_path / "scored"), str(output), "--budget", "9k", "--share", "A=1", "--share", "B=2",
        "--length-bands", "2",
    ]  # fmt: skip
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "total" in result.output
    assert "9,000" in result.output
    selection = Selection.load(output)
    assert selection.budget_tokens == 9000
    assert selection.options["shares"] == {"A": 1.0, "B": 2.0}
    assert pq.read_table(output / "data").num_rows == len(selection.selected)
    result = CliRunner().invoke(app, ["select", str(tmp_path / "scored"), str(tmp_path / "other"), "--budget", "lots"])
    assert result.exit_code == 1
    assert "error: a token budget is a number such as" in result.output
    again = ["select", str(tmp_path / "scored"), str(output), "-s", "top-k", "-k", "1", "--by", ""]
    result = CliRunner().invoke(app, again)
    assert result.exit_code == 1
    assert "replace it with --overwrite" in result.output
    assert Selection.load(output).budget_tokens == 9000
    result = CliRunner().invoke(app, [*again, "--overwrite"])
    assert result.exit_code == 0, result.output
    assert "Replaced a selection by exact to a budget of 9,000 tokens that keeps" in result.output
    assert len(Selection.load(output).selected) == 1


def test_a_table_of_many_chunks_is_read_in_order():
    parts = [pa.Table.from_pylist(random_rows(30, seed=i)) for i in range(4)]
    table = pa.concat_tables(parts)
    whole = Dataset.from_list(table.to_pylist())
    assert select(table, budget_tokens=9000).table == select(whole, budget_tokens=9000).table
