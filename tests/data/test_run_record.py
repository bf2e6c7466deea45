"""`run.json`: one record, one loader and one error for everyone who reads it."""

from __future__ import annotations

import dataclasses
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from conftest import run_record as record
from typer.testing import CliRunner

from ladm_hf import build_card, publish, run_status, score_dataset, select
from ladm_hf.cli.app import app
from ladm_hf.data.run_record import RunRecord, run_facts, run_id, run_of
from ladm_hf.errors import InputError, ResumeError, RunError, RunRecordError

OLD = ROOT / "tests" / "fixtures" / "v0.1.0"


@pytest.mark.parametrize(
    "changes",
    [{}, {"row_starts": (0, 2)}, {"hub": {"id": "user/pool", "revision": "c0ffee"}}, {"calculator": "ladm-nano"}],
)
def test_a_record_is_loaded_as_it_was_saved(tmp_path: Path, changes: dict[str, Any]) -> None:
    saved = record(**changes)
    saved.save(tmp_path)
    assert RunRecord.load(tmp_path / "run.json") == saved == pickle.loads(pickle.dumps(saved))
    assert run_of(tmp_path) == run_of(str(tmp_path / "data")) == saved
    assert run_of(tmp_path / "elsewhere") is None
    with pytest.raises(dataclasses.FrozenInstanceError):
        saved.split = "test"  # type: ignore[misc]


@pytest.mark.parametrize("name", ["finished", "unfinished"])
def test_records_of_version_0_1_0_are_read_and_written_back_the_same(name: str) -> None:
    file = OLD / name / "run.json"
    old = RunRecord.load(file)
    assert old.to_dict() == json.loads(file.read_text(encoding="utf-8"))
    assert (old.version, old.calculator, old.config["span_length"]) == ("0.1.0", None, 8)
    assert old.run_id == run_id(old.identity, old.edges)
    assert old.schema.names == ["id", "text", "meta"]


def damaged() -> dict[str, str]:
    values = record().to_dict()
    return {
        "no JSON": "{",
        "no object": "[]",
        "no format": json.dumps({"model": "mine"}),
        "format 99": json.dumps({**values, "format": 99}),
        "no edges": json.dumps({name: value for name, value in values.items() if name != "edges"}),
        "edges": json.dumps({**values, "edges": [0, 6]}),
        "order": json.dumps({**values, "edges": [6, 2, 0]}),
        "schema": json.dumps({**values, "schema": "ff00"}),
        "hex": json.dumps({**values, "schema": "text"}),
        "identity": json.dumps({**values, "identity": "me"}),
    }


@pytest.mark.parametrize("damage", damaged())
def test_every_reader_of_a_damaged_record_raises_the_same_error(tmp_path: Path, damage: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train-00000-of-00001.parquet").touch()
    (tmp_path / "run.json").write_text(damaged()[damage], encoding="utf-8")
    readers = [
        lambda: RunRecord.load(tmp_path / "run.json"),
        lambda: run_status(tmp_path),
        lambda: select(tmp_path, budget_tokens=10),
        lambda: publish(tmp_path, "user/name"),
        lambda: score_dataset(OLD / "documents.parquet", tmp_path, progress=False),
    ]
    for read in readers:
        with pytest.raises(RunRecordError, match=r"run\.json cannot be read as the record of a scoring run") as caught:
            read()
        assert isinstance(caught.value, (InputError, ResumeError, RunError))
        assert "\n" not in str(caught.value)
    for arguments in (["score", "--status", str(tmp_path)], ["select", str(tmp_path), str(tmp_path / "x"), "-b", "9"]):
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 1
        assert "run.json cannot be read" in done.output


def test_the_facts_of_a_run_name_calculator_and_source() -> None:
    named = record(calculator="ladm-nano").facts()
    assert named["model"] == {"id": "ladm-nano", "content": "9c24", "dtype": "float32"}
    assert named["dataset"] == {"name": "documents.parquet", "split": "train", "fingerprint": "462a"}
    assert named["config"] == {"span_length": 8}
    hub = {**record().identity, "model": "user/calculator@c0ffee"}
    for calculator in ("user/calculator", None):
        found = record(identity=hub, calculator=calculator, calculator_revision=calculator and "c0ffee")
        assert found.model == {"id": "user/calculator", "revision": "c0ffee", "dtype": "float32"}
    assert record(calculator="/home/me/my-calculator").model["id"] == "my-calculator"
    assert record().model["id"] == "content:9c24"
    assert record(hub={"id": "user/pool", "revision": "v1"}).dataset["id"] == "user/pool"
    assert run_facts(record().to_dict()) == run_facts(record()) == record().facts()
    assert run_facts(None) == {}
    assert run_facts({"model": "mine"}) == {"model": "mine"}


def test_a_card_takes_a_record_or_the_content_of_its_file() -> None:
    from datasets import Dataset

    data = Dataset.from_dict({"text": ["a"]})
    run = record(calculator="ladm-nano")
    assert str(build_card(run, data=data)) == str(build_card(run.to_dict(), data=data))
    assert build_card(run, data=data).data["ladm"]["model"]["id"] == "ladm-nano"
