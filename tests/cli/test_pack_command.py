"""`ladm pack`, from selected documents to a card."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from huggingface_hub import DatasetCard
from typer.testing import CliRunner

from ladm_hf import PackRecord, build_card
from ladm_hf.cli.app import app
from ladm_hf.errors import InputError
from ladm_hf.publishing.bundle import make_bundle

runner = CliRunner()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    pq.write_table(pa.table({"text": [f"document {n} " * (5 + n) for n in range(60)]}), "long.parquet")
    pq.write_table(pa.table({"body": [f"note {n}" for n in range(5000)]}), "short.parquet")
    return tmp_path


PACK = "pack long.parquet packed --tokenizer ladm-nano --length 128 --short short.parquet --short-text-column body"


def test_the_command_packs_and_says_what_came_of_it(folder: Path) -> None:
    done = runner.invoke(app, [*PACK.split(), "--short-share", "0.25"])
    assert done.exit_code == 0, done.output
    record = PackRecord.load("packed")
    assert f"{record.sequences} sequences of 128 tokens" in done.stdout
    assert "25.0% of the tokens are of" in done.stdout
    assert record.selected.documents == 60
    assert json.loads((folder / "packed" / "pack.json").read_text())["short_share_reached"] == pytest.approx(
        0.25, abs=0.01
    )
    assert pq.read_table(folder / "packed" / "data").num_rows == record.sequences


def test_the_command_of_the_record_and_the_options_beside_it_pack_the_same_again(folder: Path) -> None:
    assert runner.invoke(app, [*PACK.split(), "--seed", "3", "--boundaries", "seq_lengths"]).exit_code == 0
    record = PackRecord.load("packed")
    before = [file.read_bytes() for file in sorted((folder / "packed" / "data").iterdir())]
    for again in (record.command.split()[1:], ["pack", "--options", "packed/options.yaml"]):
        done = runner.invoke(app, [*again, "--overwrite"])
        assert done.exit_code == 0, done.output
        assert PackRecord.load("packed") == record
        assert [file.read_bytes() for file in sorted((folder / "packed" / "data").iterdir())] == before


def test_refusals_are_one_line(folder: Path) -> None:
    assert runner.invoke(app, PACK.split()).exit_code == 0
    done = runner.invoke(app, PACK.split())
    assert done.exit_code == 1
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: packed holds packed data: choose another folder")
    done = runner.invoke(app, ["pack", "long.parquet", "other", "--tokenizer", "ladm-nano", "--text-column", "content"])
    assert done.exit_code == 1
    assert "no column 'content' in long.parquet; its columns are 'text'. Name yours with --text-column" in done.stderr
    done = runner.invoke(app, ["pack", "long.parquet", "other", "--tokenizer", "ladm-nano", "--short", "short.parquet"])
    assert "no column 'text' in short.parquet; its columns are 'body'. Name yours with --short-text-col" in done.stderr
    assert runner.invoke(app, ["pack", "long.parquet", "other"]).exit_code == 2


def test_packed_data_are_published_with_a_card_that_says_how_they_were_packed(folder: Path) -> None:
    assert runner.invoke(app, PACK.split()).exit_code == 0
    record = PackRecord.load("packed")
    (folder / "work").mkdir()
    bundle = make_bundle("packed", folder / "work")
    assert bundle.num_rows == record.sequences
    card = build_card(run=bundle.run, data=bundle.info)
    assert f"{record.sequences} sequences of 128 tokens to train on: {record.documents:,} documents" in card.text
    assert "place of each token in its document" in card.text
    assert record.command in card.text
    assert card.data.to_dict()["ladm"]["packing"]["length"] == 128
    assert yaml.safe_load(DatasetCard(card.content).data.to_yaml())["ladm"]["packing"]["documents"] == record.documents


def test_token_files_are_not_published(folder: Path) -> None:
    pytest.importorskip("datatrove")
    assert runner.invoke(app, [*PACK.split(), "--format", "megatron"]).exit_code == 0
    (folder / "work").mkdir()
    with pytest.raises(InputError, match="token files of megatron.*--format parquet"):
        make_bundle("packed", folder / "work")
