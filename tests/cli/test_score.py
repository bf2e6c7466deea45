"""`ladm score` on the command line."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from conftest import ROOT
from datasets import Dataset, load_dataset
from launches import document, parquet
from typer.testing import CliRunner

from ladm_hf import LadmConfig, LadmScorer, run_status, score_dataset
from ladm_hf.cli.app import app
from ladm_hf.runs.folder import RunFolder
from ladm_hf.runs.lock import RunLock


def test_a_second_launch_is_refused_before_torch_is_imported(tmp_path: Path) -> None:
    lock = RunLock(RunFolder(tmp_path))
    lock.acquire()
    program = (
        "import sys, runpy\n"
        f"sys.argv = ['ladm', 'score', 'documents.parquet', {str(tmp_path)!r}]\n"
        "try: runpy.run_module('ladm_hf', run_name='__main__')\n"
        "except SystemExit as error: sys.exit(10 * ('torch' in sys.modules) + error.code)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    lock.release()
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: another launch is writing {tmp_path}: process ")
    assert len(done.stderr.splitlines()) == 1


def score(tmp_path: Path, rows: list[object], *options: str) -> Any:
    schema = pa.schema({"text": pa.string(), "input_ids": pa.list_(pa.int64())})
    table = pa.Table.from_pylist([row if isinstance(row, dict) else {"text": row} for row in rows], schema)
    pq.write_table(table, tmp_path / "in.parquet")
    arguments = ["score", str(tmp_path / "in.parquet"), str(tmp_path / "out"), "--span-length", "16", *options]
    return CliRunner().invoke(app, arguments)


GOOD = "The ship left the harbour at dawn. " * 60


@pytest.mark.parametrize(
    ("rows", "options", "reason"),
    [
        (["", " ", None], [], "Most frequent, 2 rows: the text is empty"),
        (["short"] * 3 + [None], [], "Most frequent, 3 rows: too short, see the column ladm_num_tokens"),
        ([], [], "the input has no row"),
        (
            [{"input_ids": [1, 99_999 + i]} for i in range(5)] + [{"input_ids": []}],
            ["--text-column", ""],
            "Most frequent, 5 rows: error: token ids run from 1 to 99999",
        ),
    ],
)
def test_a_run_without_a_score_says_why_and_ends_with_a_code_of_its_own(tmp_path: Path, rows, options, reason) -> None:
    for attempt in range(2):  # the second finds the run finished
        done = score(tmp_path, rows, *options)
        assert done.exit_code == 3, done.output
        assert "finished, but nothing was scored" in done.stdout
        assert done.output.splitlines()[-1].startswith("error: nothing was scored")
        assert reason in done.output.splitlines()[-1], attempt
        # the result is there all the same
        assert len(load_dataset(str(tmp_path / "out"), split="train")) == len(rows) if rows else True
    # for those whose launcher ends with a code of its own
    shown = CliRunner().invoke(app, ["score", "--status", str(tmp_path / "out")])
    assert shown.exit_code == 3
    assert "nothing was scored" in shown.output


def test_a_run_with_some_scores_counts_its_errors(tmp_path: Path) -> None:
    ids = [{"input_ids": [1, 70_000 + i]} for i in range(7)] + [{"input_ids": list(range(1000))}, {"input_ids": [1]}]
    done = score(tmp_path, ids, "--text-column", "")
    assert done.exit_code == 0, done.output
    assert "rows: 7 error, 1 ok, 1 too_short" in done.stdout
    assert "  7 rows: error: token ids run from 1 to 70000" in done.stdout
    assert CliRunner().invoke(app, ["score", "--status", str(tmp_path / "out")]).exit_code == 0
    assert run_status(tmp_path / "out").errors == {next(iter(run_status(tmp_path / "out").errors)): 7}


def test_from_python_a_run_without_a_score_is_a_warning(tmp_path: Path, caplog) -> None:
    score_dataset(Dataset.from_dict({"text": ["", GOOD[:20]]}), tmp_path / "out", progress=False)
    assert "nothing was scored" in caplog.text


def test_prepared_data_without_a_document_have_the_code_too(tmp_path: Path) -> None:
    Dataset.from_dict({"text": ["short"]}).to_parquet(tmp_path / "in.parquet")
    done = CliRunner().invoke(app, ["prepare", str(tmp_path / "in.parquet"), str(tmp_path / "out")])
    assert done.exit_code == 3
    assert "no document was kept" in done.output


def test_the_options_beside_a_run_repeat_it(tmp_path: Path) -> None:
    assert score(tmp_path, [GOOD] * 2, "--restart", "--chunks", "1").exit_code == 0
    options = tmp_path / "out" / "options.yaml"
    values = yaml.safe_load(options.read_text())
    assert (values["span_length"], values["chunks"], values["text_column"]) == (16, 1, "text")
    # what was discarded once is not discarded again
    assert "restart" not in values
    # the same run, which is finished
    done = CliRunner().invoke(app, ["score", "--options", str(options)])
    assert done.exit_code == 0, done.output
    assert "finished" in done.stdout
    again = CliRunner().invoke(app, ["score", "--options", str(options), "--span-length", "8"])
    assert again.exit_code == 1
    assert "config.span_length: 16 there, 8 now" in again.output
    # and the file still tells the run that is there
    assert yaml.safe_load(options.read_text()) == values


TWO_PASSES = ["--cascade", "ladm-nano", "--cascade-keep", "50%", "--cascade-by", ""]


def long_rows() -> list[dict[str, Any]]:
    """Eight documents of 700 words."""
    words = random.Random(0).choices(GOOD.split(), k=6000)
    return [{"text": " ".join(words[700 * n : 700 * (n + 1)])} for n in range(8)]


def test_two_passes_by_one_command(tmp_path: Path) -> None:
    done = score(tmp_path, long_rows(), *TWO_PASSES, "--chunks", "2")
    assert done.exit_code == 0, done.output
    assert "first_pass_only" in done.stdout
    scored = load_dataset(str(tmp_path / "out"), split="train")
    assert sorted(set(scored["ladm_status"])) == ["first_pass_only", "ok"]
    refused = score(tmp_path, long_rows(), "--cascade", "ladm-nano")
    assert refused.exit_code == 2
    assert "go together" in refused.output
    refused = score(tmp_path, long_rows(), "--cascade-max-length", "400")
    assert refused.exit_code == 2
    assert "--cascade-max-length is of the first of two passes" in " ".join(refused.output.replace("│", " ").split())


def test_the_first_of_two_passes_may_read_less_of_each_document(tmp_path: Path) -> None:
    options = [*TWO_PASSES, "--cascade-max-length", "400"]
    done = score(tmp_path, long_rows(), *options)
    assert done.exit_code == 0, done.output
    scored = load_dataset(str(tmp_path / "out"), split="train")
    first, second = (
        LadmScorer(config=LadmConfig(span_length=16, max_length=n))({"text": scored["text"][:]}) for n in (400, 32768)
    )
    np.testing.assert_array_equal(scored["ladm_first_score"], first["ladm_score"])
    kept = np.array(scored["ladm_status"]) == "ok"
    assert kept.sum() == 4
    np.testing.assert_array_equal(np.array(scored["ladm_score"])[kept], second["ladm_score"][kept])
    assert (first["ladm_score"] != second["ladm_score"]).all()
    # what was begun with one length does not go on with another
    other = score(tmp_path, long_rows(), *options[:-1], "500")
    assert other.exit_code == 1
    assert "config.max_length: 400 there, 500 now" in other.output


def test_an_estimate_of_two_passes_counts_what_each_reads(tmp_path: Path) -> None:
    source = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"text": [document(6000, n) for n in range(4)]}), source)
    passes = ["--cascade", "ladm-nano", "--cascade-keep", "6000", "--cascade-max-length", "3000", "--device", "cpu"]
    done = CliRunner().invoke(app, ["score", str(source), "--estimate", "--max-length", "6000", *passes])
    assert done.exit_code == 0, done.output
    first, second = done.output.splitlines()
    assert first.startswith("first pass: about 4 documents, 12.0k tokens")
    assert second.startswith("second pass: about 2 documents, 12.0k tokens")


def test_an_estimate_of_two_passes_is_of_both_and_writes_nothing(tmp_path: Path) -> None:
    source = parquet(tmp_path / "rows.parquet", 8, words=600)
    done = CliRunner().invoke(
        app, ["score", str(source), "--estimate", "--cascade", "ladm-nano", "--cascade-keep", "25%", "--device", "cpu"]
    )
    assert done.exit_code == 0, done.output
    first, second = done.output.splitlines()
    assert first.startswith("first pass: about 8 documents, ")
    assert second.startswith("second pass: about 2 documents, ")
    assert list(tmp_path.iterdir()) == [source]
