"""`compare()`: its table against pandas, SciPy and selections, and what people see of it."""

from __future__ import annotations

import csv
import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from datasets import Dataset, disable_progress_bars
from typer.testing import CliRunner

from ladm_hf import compare, select
from ladm_hf.cli.app import app
from ladm_hf.errors import ColumnError, ConfigError, InputError
from ladm_hf.report.comparison import write_comparison
from ladm_hf.report.matrix import signal_matrix
from ladm_hf.report.page import report
from ladm_hf.selection.bands import half_octaves
from ladm_hf.selection.compare import compare_selection, directions
from ladm_hf.text import aligned

disable_progress_bars()

CORPUS = ROOT.parent / "shared" / "data" / "corpus" / "dev.parquet"


def signals_of(count: int, seed: int = 0) -> dict[str, list[float]]:
    """Random signals that agree in part, one with ties, one with missing values."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=count)
    loss = 3 - 0.5 * common + rng.normal(0, 1, count)
    loss[::50] = np.nan
    return {
        "ladm_score": (common + rng.normal(0, 0.5, count)).tolist(),
        "ladm_repetition": np.round(rng.random(count) * 0.29, 1).tolist(),
        "ladm_token_loss": loss.tolist(),
        "quality": rng.random(count).tolist(),
    }


def pool_of(count: int = 240) -> Dataset:
    rng = np.random.default_rng(1)
    return Dataset.from_dict(
        {
            "id": range(count), "text": [f"Document {i} <b>of</b> {{{{ x }}}}. " * 30 for i in range(count)],
            "domain": rng.choice(["law", "web", "co|de"], count).tolist(),
            "ladm_num_tokens": np.exp(rng.uniform(7.8, 10, count)).astype(int).tolist(),
            "ladm_status": ["ok"] * (count - 5) + ["too_short"] * 5, **signals_of(count),
        }
    )  # fmt: skip


def real_pool() -> Dataset:
    """300 real documents, their lengths and domains, with random signals."""
    if not CORPUS.is_file():
        pytest.skip(f"the corpus is not at {CORPUS}")
    rows = Dataset.from_parquet(str(CORPUS)).shuffle(seed=0).select(range(300)).select_columns(["domain", "text"])
    tokens = [min(32768, max(1, len(text) // 4)) for text in rows["text"]]
    frame = rows.to_pandas().assign(ladm_num_tokens=tokens, ladm_status="ok", id=range(300), **signals_of(300))
    return Dataset.from_pandas(frame, preserve_index=False)


@pytest.mark.parametrize("make", [pool_of, real_pool])
def test_the_table_is_that_of_pandas_and_scipy_and_of_selections(make: Any) -> None:
    stats = pytest.importorskip("scipy.stats")
    pool = make()
    names = ["ladm_score", "ladm_repetition", "ladm_token_loss", "quality"]
    comparison = compare(pool, names)
    frame = pool.to_pandas()
    frame = frame[frame.ladm_status.eq("ok")]
    usable = frame.dropna(subset=names)
    assert (comparison.documents, comparison.left_out) == (len(usable), len(frame) - len(usable))
    assert comparison.signals == {"ladm_score": 1, "ladm_repetition": -1, "ladm_token_loss": -1, "quality": 1}
    assert comparison.pool_tokens == usable.ladm_num_tokens.sum()
    kept = {}
    for name, way in comparison.signals.items():
        rows = Dataset.from_pandas(usable.assign(ranked=way * usable[name]), preserve_index=False)
        kept[name] = set(select(rows, score="ranked", budget_tokens=comparison.budget_tokens).selected["id"])
    edges = half_octaves(usable.ladm_num_tokens.min(), usable.ladm_num_tokens.max())
    usable = usable.assign(band=np.searchsorted(edges, usable.ladm_num_tokens, side="right"))
    matrix = usable[names].rank().corr()
    seen = 0
    for pair in comparison.agreements:
        group = usable
        if pair.domain is not None:
            group = group[group.domain == pair.domain]
        if pair.band is not None:
            group = group[group.band == pair.band]
            assert (pair.min_tokens, pair.max_tokens) == (group.ladm_num_tokens.min(), group.ladm_num_tokens.max())
        assert pair.documents == len(group)
        a, b = ({*group.id} & kept[name] for name in (pair.a, pair.b))
        expected = 2 * len(a & b) / (len(a) + len(b)) if a or b else None
        assert pair.overlap == (None if expected is None else pytest.approx(expected))
        values = group[[pair.a, pair.b]]
        if len(group) < 3 or values.nunique().min() == 1:
            assert pair.correlation is None
            continue
        assert pair.correlation == pytest.approx(stats.spearmanr(values[pair.a], values[pair.b]).statistic)
        if pair.domain is pair.band is None:
            assert pair.correlation == pytest.approx(matrix.loc[pair.a, pair.b])
        seen += 1
    domains, bands = usable.domain.nunique(), usable.band.nunique()
    groups = 1 + domains + bands + len(usable.groupby(["domain", "band"]))
    assert len(comparison.agreements) == groups * math.comb(len(names), 2)
    assert seen > groups


def test_documents_disagreed_about_are_high_by_one_and_low_by_the_other() -> None:
    pool = pool_of()
    comparison = compare(pool, ["ladm_score", "quality", "ladm_token_loss"])
    assert [(each.a, each.b) for each in comparison.disagreements] == [
        ("ladm_score", "quality"), ("quality", "ladm_score"),
        ("ladm_score", "ladm_token_loss"), ("ladm_token_loss", "ladm_score"),
    ]  # fmt: skip
    for each in comparison.disagreements:
        row = pool[each.row]
        assert (row["domain"], row["ladm_num_tokens"], row["text"]) == (each.domain, each.tokens, each.text)
        assert (row[each.a], row[each.b]) == (each.value_a, each.value_b)
        assert each.percentile_a > 75 > 25 > each.percentile_b


def test_signals_without_values_are_left_out_and_told() -> None:
    pool = pool_of().add_column("ladm_context_gain", [None] * 240)
    comparison = compare(pool)
    assert comparison.unused == ["ladm_context_gain"]
    assert "Without any value, and left out: ladm_context_gain." in comparison.summary()
    # of the columns of `ladm score`, no other
    assert list(comparison.signals) == ["ladm_score", "ladm_repetition", "ladm_token_loss"]


def test_what_cannot_be_compared_is_refused() -> None:
    pool = pool_of()
    with pytest.raises(InputError, match="two signals with values, found ladm_score"):
        compare(pool.select_columns(["domain", "ladm_score", "ladm_num_tokens"]))
    with pytest.raises(ColumnError, match="no column 'nothing'"):
        compare(pool, ["ladm_score", "nothing"])
    for signals in ("ladm_score", [], {"ladm_score": 0, "quality": 1}):
        with pytest.raises(ConfigError, match="signals must be|finite numbers other than 0"):
            compare(pool, signals)
    half = [1.0, None] * 120
    pool = pool.add_column("x", half).add_column("y", half[1:] + half[:1])
    with pytest.raises(InputError, match="no document has a value in all of x, y"):
        compare(pool, ["x", "y"])


def test_directions_are_those_given_or_known() -> None:
    assert directions(["a", "ladm_token_loss", "b=-1", "ladm_compression=1"]) == {
        "a": 1, "ladm_token_loss": -1, "b": -1, "ladm_compression": 1,
    }  # fmt: skip
    assert directions({"a": 2, "b": -0.5}) == {"a": 1, "b": -1}


def test_the_folder_of_a_comparison_holds_page_figure_and_tables(tmp_path: Path) -> None:
    comparison = compare(pool_of(), ["ladm_score", "quality", "ladm_token_loss"])
    page = write_comparison(comparison, tmp_path / "out", title="<i>x</i>").read_text(encoding="utf-8")
    assert "&lt;i&gt;x&lt;/i&gt;" in page
    assert "Document" in page
    assert "<b>of</b>" not in page
    assert page.count("data:image/png;base64,") == 1
    for part in (*comparison.notes(), "Rank correlation with ladm_score", "Where they disagree most", "co|de"):
        assert part in page
    assert (tmp_path / "out" / "figures" / "signal_matrix.png").read_bytes().startswith(b"\x89PNG")
    with (tmp_path / "out" / "agreements.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(comparison.agreements)
    assert float(rows[0]["correlation"]) == comparison.agreements[0].correlation
    saved = json.loads((tmp_path / "out" / "comparison.json").read_text(encoding="utf-8"))
    assert saved["agreements"][0]["overlap"] == comparison.agreements[0].overlap
    assert "Document" not in json.dumps(saved)
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(InputError, match="cannot be written"):
        write_comparison(comparison, tmp_path / "file" / "out")


@pytest.mark.parametrize("count", [2, 12])
def test_the_matrix_is_drawn_within_its_page_and_described(count: int) -> None:
    rng = np.random.default_rng(0)
    names = [f"signal_{n}_with_$a_{{long}}$_name" for n in range(count)]
    pool = pool_of().select_columns(["domain", "ladm_num_tokens"])
    for name in names:
        pool = pool.add_column(name, rng.random(240).tolist())
    figure = signal_matrix(compare(pool, names))
    figure.draw_without_rendering()
    box = figure.get_tightbbox()
    assert box.x0 > -0.05
    assert box.x1 < 7.05
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert len(texts) == count * (count - 1)
    assert figure.get_label().count("overlap") == math.comb(count, 2)
    assert "nan" not in figure.get_label()


def test_the_command_prints_and_writes_the_comparison(tmp_path: Path) -> None:
    pool_of().to_parquet(tmp_path / "pool.parquet")
    words = ["compare", str(tmp_path / "pool.parquet"), str(tmp_path / "out"), "--budget", "200k"]
    words += ["--signal", "ladm_score", "--signal", "quality=-1"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    expected = compare(pool_of(), {"ladm_score": 1, "quality": -1}, budget_tokens=200_000)
    assert expected.summary() in done.output
    assert f"{expected.agreements[0].correlation:+.2f}" in done.output
    assert (tmp_path / "out" / "index.html").is_file()
    again = ["compare", str(tmp_path / "pool.parquet"), str(tmp_path / "again"), "--options"]
    done = CliRunner().invoke(app, [*again, str(tmp_path / "out" / "options.yaml")])
    assert expected.summary() in done.output


def test_a_report_compares_the_signals_of_its_pool(tmp_path: Path) -> None:
    pool = pool_of()
    selection = select(pool, budget_tokens=300_000, score={"ladm_score": 1, "quality": -1})
    compared = compare_selection(selection)
    assert compared is not None
    assert compared.signals == {"ladm_score": 1, "quality": -1, "ladm_repetition": -1, "ladm_token_loss": -1}
    alone = compare(pool, compared.signals, budget_tokens=300_000)
    assert {(p.domain, p.band, p.a, p.b): (p.correlation, p.overlap) for p in compared.agreements} == {
        (p.domain, p.band, p.a, p.b): (pytest.approx(p.correlation), pytest.approx(p.overlap)) for p in alone.agreements
    }
    folder = selection.save(tmp_path / "selection", dropped="scores")
    page = report(folder, tmp_path / "report").read_text(encoding="utf-8")
    for part in ("Signals compared", "Rank correlation with ladm_score", "Overlap with the selection by ladm_score"):
        assert part in page
    assert (tmp_path / "report" / "figures" / "signal_matrix.png").is_file()
    # a score and the repetition that all data have are nothing to compare
    plain = select(pool.remove_columns(["quality", "ladm_token_loss"]), budget_tokens=300_000)
    assert compare_selection(plain) is None
    assert "Signals compared" not in report(plain, tmp_path / "plain").read_text(encoding="utf-8")


def test_tables_for_a_terminal_are_aligned() -> None:
    assert aligned([["a", "bb"], ["ccc", "d"]]) == ["a    bb", "ccc   d"]
    lines = compare(pool_of(), ["ladm_score", "quality"]).summary().splitlines()
    rows = [line for line in lines if line.startswith(("law ", "web ", "co|de "))]
    assert len(rows) == 3
    assert len({len(row) for row in rows}) == 1
    assert all(len(list(group)) for _, group in itertools.groupby(rows))


def test_a_pool_of_one_domain_and_length_has_one_group() -> None:
    pool = Dataset.from_dict({"a": [1.0, 2, 3, 4], "b": [1.0, 3, 2, 4], "ladm_num_tokens": [10] * 4})
    comparison = compare(pool, ["a", "b"], by=None, budget_tokens=20)
    (pair,) = comparison.agreements
    assert (pair.documents, pair.group) == (4, "all")
    assert pair.correlation == pytest.approx(pd.Series([1, 2, 3, 4]).corr(pd.Series([1, 3, 2, 4])))
    assert pair.overlap == 0.5
