"""What documents are ranked by and kept within: any column, blends, ranges; and the percentile itself."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, disable_progress_bars
from hypothesis import given, settings
from hypothesis import strategies as st
from selection.test_bands import band_of, percentile_by_hand
from typer.testing import CliRunner

from ladm_hf import Selection, add_percentile, build_card, compare, parse_keep, parse_score, select
from ladm_hf.cli.app import app
from ladm_hf.errors import ColumnError, ConfigError
from ladm_hf.report.page import report
from ladm_hf.selection.compare import compare_selection
from ladm_hf.selection.reasons import DROP_REASON

disable_progress_bars()

Row = dict[str, Any]
EDGES = [40, 200]


def pool_of(rows: list[Row]) -> Dataset:
    columns = {name: [row[name] for row in rows] for name in ("domain", "ladm_num_tokens", "a", "b", "c")}
    return Dataset.from_dict({"id": range(len(rows)), **columns, "ladm_status": [row["status"] for row in rows]})


number = st.one_of(st.sampled_from([0.0, 1.0, 2.0]), st.floats(-5, 5), st.just(math.nan))
pools = st.lists(
    st.fixed_dictionaries(
        {
            "domain": st.sampled_from("xyz"), "ladm_num_tokens": st.integers(1, 300), "a": number, "b": number,
            "c": number, "status": st.sampled_from(["ok", "ok", "ok", "ok", "too_short"]),
        }
    ),
    min_size=1,
    max_size=50,
)  # fmt: skip
weights = st.dictionaries(st.sampled_from("ab"), st.sampled_from([1.0, 0.5, 3.0, -1.0, -2.5]), min_size=1)
bounds = st.sampled_from([("20%", "80%"), (None, "50%"), ("10%", None), (0.5, None), (-1, 2.5), ("25%", 1.0)])
ranges = st.dictionaries(st.sampled_from("bc"), bounds, max_size=2)


def limits(bound: Any, values: list[float]) -> float | None:
    if isinstance(bound, str):
        return float(np.quantile(values, float(bound[:-1]) / 100)) if values else None
    return bound


def by_hand(rows: list[Row], score: dict[str, float], keep: dict[str, Any], edges: Any) -> tuple[list[Any], list[str]]:
    """The blend of each document, and why those without one have none, document by document."""
    value: list[Any] = [None] * len(rows)
    reason = [""] * len(rows)
    scored = []
    for i, row in enumerate(rows):
        lacking = [name for name in score if not math.isfinite(row[name])]
        reason[i] = row["status"] if row["status"] != "ok" else f"no_score: {lacking[0]}" if lacking else ""
        if not reason[i]:
            scored.append(i)
    for i in scored:
        for name, (low, high) in keep.items():
            mine = [rows[j][name] for j in scored if rows[j]["domain"] == rows[i]["domain"]]
            mine = [number for number in mine if math.isfinite(number)]
            lowest, highest = limits(low, mine), limits(high, mine)
            here = rows[i][name]
            failed = (
                "no_value" if not math.isfinite(here)
                else "below_range" if lowest is not None and here < lowest
                else "above_range" if highest is not None and here > highest
                else ""
            )  # fmt: skip
            reason[i] = reason[i] or (failed and f"{failed}: {name}")
    ranked = [i for i in scored if not reason[i]]
    percentiles = {name: percentiles_of(ranked, rows, name, edges) for name in score}
    for i in ranked:
        total = sum(
            abs(w) * (percentiles[name][i] if w > 0 else 100 - percentiles[name][i]) for name, w in score.items()
        )
        value[i] = round(total / sum(map(abs, score.values())), 9)
    return value, reason


def percentiles_of(ranked: list[int], rows: list[Row], name: str, edges: Any) -> dict[int, float]:
    groups: dict[Any, list[int]] = defaultdict(list)
    for i in ranked:
        band = 0 if edges == "auto" else band_of(rows[i]["ladm_num_tokens"], edges)
        groups[rows[i]["domain"], band].append(i)
    found = {}
    for group in groups.values():
        if edges == "auto":
            plain = [(row[name], row["ladm_num_tokens"], row["domain"]) for row in rows]
            found |= percentile_by_hand(group, plain)
            continue
        for i in group:
            below = sum(rows[j][name] < rows[i][name] for j in group)
            equal = sum(rows[j][name] == rows[i][name] for j in group)
            found[i] = 100 * (below + equal / 2) / len(group)
    return found


@settings(max_examples=150, deadline=None)
@given(rows=pools, score=weights, keep=ranges, edges=st.sampled_from(["auto", EDGES, []]), k=st.integers(1, 8))
def test_blends_and_ranges_keep_what_a_selection_by_hand_keeps(
    rows: list[Row], score: dict[str, float], keep: dict[str, Any], edges: Any, k: int
) -> None:
    bands = "off" if edges == [] else edges
    selection = select(pool_of(rows), score=score, keep=keep, length_bands=bands, strategy="top-k", k=k)
    value, reason = by_hand(rows, score, keep, edges)
    groups: dict[Any, list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        if value[i] is not None:
            # top-k ranks by score alone unless bands are given by hand
            groups[row["domain"], 0 if edges == "auto" else band_of(row["ladm_num_tokens"], edges)].append(i)
    expected = {i for group in groups.values() for i in sorted(group, key=lambda i: (-value[i], i))[:k]}
    assert set(selection.selected["id"]) == expected
    for row in selection.dropped:
        assert row["ladm_drop_reason"] == (reason[row["id"]] or "below_cut")
    for part in (selection.selected, selection.dropped):
        for row in part:
            mine = value[row["id"]]
            assert row["ladm_blend"] == pytest.approx(math.nan if mine is None else mine, nan_ok=True)
    for row in selection.table:
        mine = [r for r, d in zip(reason, rows, strict=True) if d["domain"] == row.domain]
        outside = sum(r.startswith(("below_range", "above_range", "no_value")) for r in mine)
        assert row.scored_documents == mine.count("")
        assert (row.outside_documents or 0) == outside


@settings(max_examples=60, deadline=None)
@given(rows=pools, minimum=st.integers(0, 100), edges=st.sampled_from(["auto", EDGES, []]))
def test_a_threshold_on_the_percentile_keeps_the_best_of_every_domain_and_length(
    rows: list[Row], minimum: int, edges: Any
) -> None:
    bands = "off" if edges == [] else edges
    options: dict[str, Any] = {"score": "a", "length_bands": bands}
    value, _ = by_hand(rows, {"a": 1.0}, {}, edges)
    ranked = add_percentile(pool_of(rows), **options)
    assert ranked["id"][:] == list(range(len(rows)))
    expected = [math.nan if mine is None else mine for mine in value]
    assert ranked["ladm_percentile"][:] == pytest.approx(expected, nan_ok=True)
    chosen = select(pool_of(rows), strategy="threshold", min_percentile=minimum, **options)
    assert chosen.selected["id"][:] == [i for i, mine in enumerate(value) if mine is not None and mine >= minimum]
    assert [row["ladm_percentile"] for row in chosen.selected] == [
        row["ladm_percentile"] for row in ranked if row["ladm_percentile"] >= minimum
    ]
    # the column says the same when it is read again
    again = select(ranked, score="ladm_percentile", strategy="threshold", min_score=minimum, length_bands=bands)
    assert again.selected["id"][:] == chosen.selected["id"][:]


REAL = Dataset.from_dict(
    {
        "id": range(60),
        "text": [f"Document {i}. " * 20 for i in range(60)],
        "domain": ["law", "web", "code"] * 20,
        "ladm_score": np.random.default_rng(0).random(60).tolist(),
        "ladm_num_tokens": np.random.default_rng(1).integers(2305, 9000, 60).tolist(),
        "ladm_status": ["ok"] * 60,
        "ladm_repetition": [0.0] * 60,
        "ladm_token_loss": [*np.random.default_rng(2).normal(3, 0.5, 59).tolist(), math.nan],
        "ladm_compression": np.random.default_rng(3).normal(2.5, 0.3, 60).tolist(),
        "quality=x": list(range(60)),
    }
)
BLEND = {"ladm_score": 1, "ladm_token_loss": -0.5}
KEEP = {"ladm_compression": ("20%", "80%"), "ladm_token_loss": (None, 3.5)}


def test_any_numeric_column_ranks() -> None:
    best = select(REAL, score="quality=x", strategy="top-k", k=2)
    assert best.selected["id"][:] == [54, 55, 56, 57, 58, 59]
    worst = select(REAL, score={"quality=x": -1}, strategy="top-k", k=2, length_bands="off")
    assert worst.selected["id"][:] == [0, 1, 2, 3, 4, 5]
    assert "Ranked by the column quality=x, higher first." in best.notes
    # without scores of LADM too
    plain = REAL.select_columns(["id", "domain", "ladm_num_tokens", "quality=x"])
    assert select(plain, score="quality=x", strategy="top-k", k=2).selected["id"][:] == best.selected["id"][:]


def test_options_are_read_as_people_write_them() -> None:
    assert parse_score(["ladm_score=1", "ladm_token_loss=-0.5"]) == BLEND
    assert parse_score(["ladm_score"]) == parse_score("ladm_score") == "ladm_score"
    assert parse_score(["quality=x=2"]) == {"quality=x": 2.0}
    expected = {"ladm_compression": ["20%", "80%"], "ladm_token_loss": [None, 3.5]}
    assert parse_keep(["ladm_compression=20%:80%", "ladm_token_loss=:3.5"]) == parse_keep(KEEP) == expected
    assert parse_keep({"a": "12.5 % : 3e2"}) == {"a": ["12.5%", 300.0]}
    assert parse_keep(None) is parse_keep([]) is parse_keep({}) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"score": {}}, "score must be a column or"),
        ({"score": 3}, "score must be a column or"),
        ({"score": {"ladm_score": 0}}, "finite numbers other than 0"),
        ({"score": {"ladm_score": "much"}}, "finite numbers other than 0"),
        ({"score": ["ladm_score=1", "ladm_score=2"]}, "score names a column twice"),
        ({"score": ["ladm_score", "ladm_token_loss=1"]}, "COLUMN=WEIGHT, got 'ladm_score'"),
        ({"keep": {"ladm_compression": ("80%", "20%")}}, "the low one first"),
        ({"keep": {"ladm_compression": (None, None)}}, "must have a bound"),
        ({"keep": {"ladm_compression": ("20%", "120%")}}, "0% to 100%; got '120%' for 'ladm_compression'"),
        ({"keep": {"ladm_compression": ("low", None)}}, "got 'low'"),
        ({"keep": {"ladm_compression": 2}}, "a low and a high bound"),
        ({"keep": ["ladm_compression"]}, "COLUMN=LOW:HIGH, got 'ladm_compression'"),
        ({"keep": ["a=1:2", "a=2:3"]}, "keep names a column twice"),
        ({"keep": "ladm_compression"}, "keep must be"),
        ({"strategy": "threshold"}, "needs min_score or min_percentile"),
        ({"strategy": "threshold", "min_score": 1, "min_percentile": 1}, "takes min_percentile, not min_score"),
        ({"strategy": "threshold", "min_percentile": 101}, "from 0 to 100"),
        ({"min_percentile": 50}, "not min_percentile"),
    ],
)
def test_options_that_cannot_work_are_refused(options: dict[str, Any], message: str) -> None:
    budget = {} if "strategy" in options else {"budget_tokens": 9000}
    with pytest.raises(ConfigError, match=message):
        select(REAL, **budget, **options)


def test_columns_that_are_missing_or_no_numbers_are_named() -> None:
    for options in ({"score": {"ladm_score": 1, "nothing": 1}}, {"keep": {"nothing": (1, 2)}}):
        with pytest.raises(ColumnError, match="no column 'nothing'"):
            select(REAL, budget_tokens=9000, **options)
    with pytest.raises(ColumnError, match="'text' holds string, expected numbers"):
        select(REAL, budget_tokens=9000, keep={"text": (1, 2)})


def test_a_column_without_any_value_keeps_nothing_and_says_why() -> None:
    pool = REAL.remove_columns("ladm_token_loss").add_column("ladm_token_loss", [None] * 60)
    selection = select(pool, budget_tokens=9000, score=BLEND)
    assert len(selection.selected) == 0
    assert selection.reasons() == {"no_score: ladm_token_loss": 60}
    assert "No document of the pool has a score: nothing could be kept." in selection.notes
    selection = select(pool, budget_tokens=9000, keep={"ladm_token_loss": ("0%", "100%")})
    assert selection.reasons() == {"no_value: ladm_token_loss": 60}
    assert any("lies outside a range of keep: nothing could be kept." in note for note in selection.notes)


def test_the_widest_range_keeps_all_and_repeats_have_no_part_in_quantiles() -> None:
    every = select(REAL, budget_tokens=9000, keep={"ladm_compression": ("0%", "100%")})
    assert every.selected["id"][:] == select(REAL, budget_tokens=9000).selected["id"][:]
    values = np.array(REAL["ladm_compression"][:])
    pool = REAL.remove_columns("ladm_repetition").add_column("ladm_repetition", (values > 2.5).astype(float).tolist())
    selection = select(pool, strategy="threshold", min_score=0, by=None, keep={"ladm_compression": ("50%", None)})
    usable = values[values <= 2.5]
    assert set(selection.selected["id"]) == set(
        np.flatnonzero((values <= 2.5) & (values >= np.median(usable))).tolist()
    )
    assert selection.reasons()["repeated"] == int((values > 2.5).sum())


def test_a_saved_selection_gives_blend_ranges_and_reasons_again(tmp_path: Path) -> None:
    selection = select(REAL, budget_tokens=60_000, score=BLEND, keep=KEEP)
    read = Selection.load(selection.save(tmp_path / "selection", dropped="scores"))
    assert (read.table, read.strata, read.options, read.notes) == (
        selection.table, selection.strata, selection.options, selection.notes,
    )  # fmt: skip
    assert read.reasons() == selection.reasons()
    assert read.selected["ladm_blend"][:] == selection.selected["ladm_blend"][:]
    assert repr(read.frame().to_pylist()) == repr(selection.frame().to_pylist())
    assert select(REAL, **read.options).selected["id"][:] == selection.selected["id"][:]
    saved = json.loads((tmp_path / "selection" / "selection.json").read_text(encoding="utf-8"))
    assert saved["options"]["score"] == BLEND
    assert saved["options"]["keep"] == {"ladm_compression": ["20%", "80%"], "ladm_token_loss": [None, 3.5]}
    # selecting again from a part replaces the columns of the first selection
    second = select(read.dropped, strategy="top-k", k=1)
    assert len(second.selected) == 3
    assert "ladm_blend" in second.selected.column_names


def test_columns_inside_the_metadata_of_datatrove_are_ranked_kept_and_saved(tmp_path: Path) -> None:
    small = [name for name in REAL.column_names if name not in ("id", "text")]
    metadata = [{name: row[name] for name in small} for row in REAL]
    pool = Dataset.from_dict({"id": REAL["id"][:], "text": REAL["text"][:], "metadata": metadata})
    options: dict[str, Any] = {"budget_tokens": 60_000, "score": BLEND, "keep": KEEP}
    selection = select(pool, **options)
    assert selection.selected["id"][:] == select(REAL, **options).selected["id"][:]
    # the other columns of the metadata are long, and needed
    read = Selection.load(selection.save(tmp_path / "selection", dropped="scores"))
    assert repr(read.frame().to_pylist()) == repr(selection.frame().to_pylist())
    assert read.reasons() == selection.reasons()
    assert "Signals compared" in report(read, tmp_path / "report").read_text(encoding="utf-8")


def test_files_and_rows_in_memory_give_the_same_columns(tmp_path: Path) -> None:
    REAL.to_parquet(tmp_path / "pool.parquet")
    options: dict[str, Any] = {"budget_tokens": 60_000, "score": BLEND, "keep": KEEP}
    here, there = select(REAL, **options), select(tmp_path / "pool.parquet", **options)
    assert repr(here.selected.to_list()) == repr(there.selected.to_list())
    assert repr(here.dropped.to_list()) == repr(there.dropped.to_list())
    ranked = [add_percentile(data, score=BLEND) for data in (REAL, tmp_path / "pool.parquet")]
    assert repr(ranked[0].to_list()) == repr(ranked[1].to_list())


def test_the_percentile_of_part_of_a_view_lies_beside_its_rows() -> None:
    view = REAL.shuffle(seed=0).select([7, 3, 3, 59, 20])
    ranked = add_percentile(view, by=None, length_bands="off")
    score = np.array(view["ladm_score"][:])
    assert ranked["ladm_percentile"][:] == [
        100 * ((score < s).sum() + (score == s).sum() / 2) / len(score) for s in score
    ]
    assert ranked["id"][:] == view["id"][:]


def test_the_command_and_an_options_file_say_the_same_as_python(tmp_path: Path) -> None:
    REAL.to_parquet(tmp_path / "pool.parquet")
    expected = select(REAL, budget_tokens=60_000, score=BLEND, keep=KEEP).selected["id"][:]
    (tmp_path / "options.yaml").write_text(
        "budget: 60k\nscore: {ladm_score: 1, ladm_token_loss: -0.5}\n"
        'keep: {ladm_compression: "20%:80%", ladm_token_loss: [null, 3.5]}\n',
        encoding="utf-8",
    )
    arguments = {
        "words": ["--budget", "60k", "--score", "ladm_score=1", "--score", "ladm_token_loss=-0.5",
                  "--keep", "ladm_compression=20%:80%", "--keep", "ladm_token_loss=:3.5"],
        "file": ["--options", str(tmp_path / "options.yaml")],
        "again": ["--options", str(tmp_path / "words" / "options.yaml")],
    }  # fmt: skip
    for name, words in arguments.items():
        done = CliRunner().invoke(app, ["select", str(tmp_path / "pool.parquet"), str(tmp_path / name), *words])
        assert done.exit_code == 0, done.output
        assert Selection.load(tmp_path / name).selected["id"][:] == expected
    assert "Ranked by a blend, 1 ladm_score - 0.5 ladm_token_loss" in done.output
    assert "outside the ranges kept (ladm_compression from 20% to 80%, ladm_token_loss to 3.5)" in done.output


def test_report_and_card_show_blend_and_ranges(tmp_path: Path) -> None:
    # of rows in memory the card would show a call instead of the command
    pool = str(tmp_path / "pool.parquet")
    REAL.to_parquet(pool)
    selection = select(pool, budget_tokens=60_000, score=BLEND, keep=KEEP)
    outside = sum(row.outside_documents or 0 for row in selection.table)
    assert outside > 20
    page = report(selection, tmp_path / "report").read_text(encoding="utf-8")
    for part in (
        "1 ladm_score - 0.5 ladm_token_loss", ">outside</th>", "below_range: ladm_compression",
        "has a lower value in that column than its domain&#39;s range allows", "ladm_token_loss to 3.5",
    ):  # fmt: skip
        assert part in page
    built = build_card(selection=selection, repo_id="user/pool")
    assert built.data["ladm"]["selection"]["score"] == BLEND
    assert built.data["ladm"]["selection"]["keep"]["ladm_token_loss"] == [None, 3.5]
    card = str(built)
    for part in (
        "--score ladm_score=1.0 --score ladm_token_loss=-0.5 --keep ladm_compression=20%:80%",
        "| outside a range |", "| ladm\\_blend |", "| ladm\\_percentile |", f"{outside} documents lie outside",
    ):  # fmt: skip
        assert part in card
    plain = str(build_card(selection=select(pool, budget_tokens=60_000)))
    assert "outside a range" not in plain
    assert "--score" not in plain


def test_a_signal_is_named_as_the_scorer_names_it_or_by_its_column(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    columns = {name: rng.random(40) for name in ("ladm_score", "ladm_context_gain", "ladm_compression")}
    data = Dataset.from_dict({**columns, "ladm_num_tokens": [100] * 40, "ladm_status": ["ok"] * 40})
    found = []
    for prefix in ("", "ladm_"):
        score, keep = {"ladm_score": 1.0, f"{prefix}context_gain": 1.0}, {f"{prefix}compression": ("10%", "90%")}
        selection = select(data, by=None, score=score, keep=keep, budget_tokens=1000)
        saved = Selection.load(selection.save(tmp_path / f"saved{prefix}"))
        assert saved.selected["ladm_score"] == selection.selected["ladm_score"]
        assert saved.frame().num_rows == 40
        found.append(list(selection.selected["ladm_score"]))
    assert found[0] == found[1]
    # a column of that very name comes first
    own = data.add_column("compression", [1.0] * 40)
    assert len(select(own, by=None, keep={"compression": (1, 1)}, budget_tokens=10_000).selected) == 40


def test_a_short_name_is_the_signal_everywhere_and_no_second_one(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    columns = {name: rng.random(40) for name in ("ladm_score", "ladm_context_gain", "ladm_compression")}
    data = Dataset.from_dict({**columns, "ladm_num_tokens": [100] * 40, "ladm_status": ["ok"] * 40})
    selection = select(
        data,
        by=None,
        score={"ladm_score": 1, "context_gain": 1},
        keep={"compression": ("10%", "90%")},
        budget_tokens=900,
    )
    assert selection.options["score"] == {"ladm_score": 1, "ladm_context_gain": 1}
    assert selection.options["keep"] == {"ladm_compression": ["10%", "90%"]}
    comparison = compare_selection(selection)
    assert comparison is not None
    assert comparison.signals == {"ladm_score": 1, "ladm_context_gain": 1, "ladm_compression": -1}
    assert select(data, by=None, score="compression", budget_tokens=900).options["score"] == "ladm_compression"
    assert {"above_range: ladm_compression", "below_range: ladm_compression"} < set(selection.dropped[DROP_REASON])
    for signals in (["context_gain", "compression"], ["context_gain=1", "compression=-1"]):
        assert compare(data, signals, by=None).signals == {"ladm_context_gain": 1, "ladm_compression": -1}
    assert compare(data, ["context_gain", "compression=1"], by=None).signals["ladm_compression"] == 1
    for options in ({"score": {"context_gain": 1, "ladm_context_gain": 1}},
                    {"keep": {"compression": (0, 1), "ladm_compression": (0, 1)}}):  # fmt: skip
        with pytest.raises(ConfigError, match="names a column twice"):
            select(data, by=None, budget_tokens=900, **options)
    with pytest.raises(ConfigError, match="signals names a column twice: compression, ladm_compression"):
        compare(data, ["compression", "ladm_compression"], by=None)
    # a column of that very name is another one
    own = data.add_column("compression", rng.random(40).tolist())
    assert compare(own, ["compression", "ladm_compression"], by=None).signals == {
        "compression": 1, "ladm_compression": -1,
    }  # fmt: skip
