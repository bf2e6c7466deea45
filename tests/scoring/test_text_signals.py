"""Statistics of a text beside its score: their definitions, and that every way to score gives them."""

from __future__ import annotations

import gzip
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import random_ids
from datasets import Dataset
from datasets.fingerprint import Hasher
from hypothesis import given, settings
from hypothesis import strategies as st
from launches import GEOMETRY, document
from typer.testing import CliRunner

from ladm_hf import LadmScorer, score_dataset
from ladm_hf.cli.app import app
from ladm_hf.data.score_columns import TEXT_SIGNALS, checked_signals
from ladm_hf.errors import ConfigError, ResumeError
from ladm_hf.integrations.evaluate import Ladm
from ladm_hf.integrations.ray_data import RowScorer
from ladm_hf.scoring.text_signals import compression, duplicate_lines, duplicate_paragraphs, text_signals

NAMES = tuple(TEXT_SIGNALS)
COLUMNS = [f"ladm_{name}" for name in NAMES]
POEM = "A line.\n  A line. \nAnother.\n\n \nA line.\n\nA line.\n"
TEXTS = [document(200, 1), POEM, "short", " \n", None, f"{document(90, 2)}\n\n{document(90, 2)}"]


def gopher(parts: list[str]) -> float:
    """The duplicate fraction, counting one by one what came before."""
    seen: list[str] = []
    again = 0
    for part in filter(None, map(str.strip, parts)):
        again += part in seen
        seen.append(part)
    return again / len(seen)


def by_hand(text: str | None) -> list[float]:
    if not text or not text.strip():
        return [math.nan] * 3
    data = text.encode("utf-8", "surrogatepass")
    ratio = len(data) / len(gzip.compress(data, 6))
    return [ratio, gopher(text.splitlines()), gopher(re.split(r"\n[ \t\n]*\n", text))]


def expected() -> dict[str, list[float]]:
    return dict(zip(COLUMNS, map(list, zip(*map(by_hand, TEXTS), strict=True)), strict=True))


def assert_expected(found: Any) -> None:
    for name, values in expected().items():
        assert list(found[name]) == pytest.approx(values, nan_ok=True), name


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["one line", "two", " ", "\n", "\n\n", "\n \n", "één", "\ud800"]), max_size=30))
def test_the_statistics_are_their_definitions(parts: list[str]) -> None:
    text = "".join(parts)
    assert list(text_signals(text, NAMES).values()) == pytest.approx(by_hand(text), nan_ok=True)


def test_a_text_whose_values_are_known() -> None:
    # of five lines three are "A line." again, of three paragraphs one is
    assert duplicate_lines(POEM) == pytest.approx(3 / 5)
    assert duplicate_paragraphs(POEM) == pytest.approx(1 / 3)
    assert duplicate_lines("x") == duplicate_paragraphs("x\ny") == 0
    assert compression("ab" * 50_000) > 400
    noise = "".join(map(chr, np.random.default_rng(0).integers(32, 127, 20_000)))
    assert 1 < compression(noise) < 1.3


def test_what_is_no_text_has_no_statistics() -> None:
    for nothing in (None, "", " \t\n", 7, np.arange(3)):
        assert all(math.isnan(value) for value in text_signals(nothing, NAMES).values())


def test_signals_are_named_in_any_order_and_form() -> None:
    assert checked_signals(" duplicate_lines, compression,") == ("compression", "duplicate_lines")
    assert checked_signals(["compression", "repetition"]) == ("compression",)
    assert checked_signals(()) == checked_signals("") == checked_signals(None) == ()
    with pytest.raises(ConfigError, match="signals must be names of signals, got 5"):
        checked_signals(5)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="signals has no 'gzip': choose some of compression"):
        LadmScorer(signals="compression,gzip")


def test_every_way_to_score_gives_the_statistics(tmp_path: Path) -> None:
    data = Dataset.from_dict({"text": TEXTS})
    scorer = LadmScorer(config=GEOMETRY, signals=NAMES)
    plain = LadmScorer(config=GEOMETRY)({"text": TEXTS})
    found = scorer({"text": TEXTS})
    assert list(found) == [*plain, *COLUMNS] == list(scorer.features)
    for name, values in plain.items():
        np.testing.assert_array_equal(found[name], values)
    assert_expected(found)
    assert_expected(data.map(scorer, batched=True, batch_size=2))
    assert_expected(data.map(scorer, batched=True, num_proc=2, load_from_cache_file=False))
    assert_expected(RowScorer(config=GEOMETRY, signals=NAMES)(data.to_pandas()))
    metric = Ladm(cache_dir=str(tmp_path / "metric"))
    assert_expected(metric.compute(predictions=TEXTS, config=GEOMETRY, signals=NAMES))
    for _ in range(2):
        assert_expected(LadmScorer(config=GEOMETRY, signals=NAMES, journal=tmp_path / "journal")({"text": TEXTS}))
    # the statistics are no reason to score again
    assert len(list((tmp_path / "journal").iterdir())) == 1
    LadmScorer(config=GEOMETRY, journal=tmp_path / "journal")({"text": TEXTS})
    assert len(list((tmp_path / "journal").iterdir())) == 1
    run = score_dataset(data, tmp_path / "run", scorer, progress=False)
    assert_expected(run)
    assert run.column_names == ["text", *plain, *COLUMNS]


def test_datatrove_gets_the_statistics() -> None:
    pytest.importorskip("datatrove", reason="needs ladm-hf[datatrove]")
    from datatrove.data import Document

    from ladm_hf.integrations.datatrove import LadmStep

    texts = [text for text in TEXTS if text is not None]
    step = LadmStep(LadmScorer(config=GEOMETRY, signals=NAMES), batch_size=2)
    found = [item.metadata for item in step.run([Document(text=text, id=str(n)) for n, text in enumerate(texts)])]
    for text, metadata in zip(texts, found, strict=True):
        assert [metadata[name] for name in COLUMNS] == pytest.approx(by_hand(text), nan_ok=True)
        assert {type(value) for value in metadata.values()} <= {float, int, str}


def test_signals_are_part_of_what_a_scorer_is(tmp_path: Path) -> None:
    scorers = [LadmScorer(config=GEOMETRY, signals=signals) for signals in ((), ("compression",), NAMES)]
    assert len({Hasher.hash(scorer) for scorer in scorers}) == 3
    again = LadmScorer(config=GEOMETRY, signals=NAMES[::-1])
    assert Hasher.hash(again) == Hasher.hash(scorers[2])
    assert scorers[1].with_config(GEOMETRY).signals == ("compression",)


def test_a_run_with_other_signals_is_refused_and_loses_nothing(tmp_path: Path) -> None:
    data = Dataset.from_dict({"text": TEXTS})
    first = LadmScorer(config=GEOMETRY, signals="compression")
    score_dataset(data, tmp_path, first, progress=False)
    before = {file.name: file.read_bytes() for file in (tmp_path / "data").iterdir()}
    for other, now in (((), "None"), (NAMES, f"'{','.join(NAMES)}'")):
        with pytest.raises(ResumeError, match=f"signals: 'compression' there, {now} now"):
            score_dataset(data, tmp_path, LadmScorer(config=GEOMETRY, signals=other), progress=False)
    assert {file.name: file.read_bytes() for file in (tmp_path / "data").iterdir()} == before
    assert score_dataset(data, tmp_path, first, progress=False).column_names[-1] == "ladm_compression"


def test_the_command_line_writes_them(tmp_path: Path) -> None:
    Dataset.from_dict({"text": TEXTS}).to_parquet(tmp_path / "in.parquet")
    options = ["--span-length", "8", "--max-length", "256", "--signals", ",".join(NAMES), "--quiet"]
    done = CliRunner().invoke(app, ["score", str(tmp_path / "in.parquet"), str(tmp_path / "out"), *options])
    assert done.exit_code == 0, done.output
    assert_expected(Dataset(pq.read_table(tmp_path / "out" / "data")))
    assert f"--signals {','.join(NAMES)}" in (tmp_path / "out" / "run.json").read_text()


def test_token_ids_have_no_text_and_say_so() -> None:
    scorer = LadmScorer(config=GEOMETRY, signals=("compression",))
    ids = {"input_ids": [random_ids(300, vocab=400), None]}
    with pytest.warns(UserWarning, match="the signals compression are statistics of a text"):
        found = scorer(ids)
    assert np.isnan(found["ladm_compression"]).all()
    assert found["ladm_status"] == ["ok", "null"]
