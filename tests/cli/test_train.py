from __future__ import annotations

import json

import numpy as np
import pytest
from datasets import Dataset
from typer.testing import CliRunner

from ladm_hf.cli.app import app
from ladm_hf.training.library import library_modules

SMALL = ["--length", "2432", "--windows", "2", "--device", "cpu"]


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def data(tmp_path) -> str:
    rng = np.random.default_rng(0)
    words = [f"w{i}" for i in range(200)]
    rows = [
        {
            "text": " ".join(rng.choice(words[20 * (i % 7) : 20 * (i % 7) + 60], 2500)),
            "domain": f"d{i % 2}",
            "source": f"s{i % 12}",
            "id": str(i),
        }
        for i in range(24)
    ]
    Dataset.from_list(rows).to_parquet(tmp_path / "data.parquet")
    return str(tmp_path / "data.parquet")


def test_train_then_calibrate(data, tmp_path) -> None:
    folder = str(tmp_path / "calculator")
    arguments = [
        "train-calculator", data, "--output", folder, "--stage", "1024:0.5", "--stage", "2048:0.5", "--steps", "3",
        "--batch-tokens", "2048", "--micro-batch-tokens", "2048", "--focus-layer", "1", "--layers", "2",
        "--hidden-size", "32", "--vocab-size", "400", "--workers", "0", "--held-out", "0.2", "--shuffled", "0.3",
        "--renamed", "0.2", "--degenerate", "0.3", "--same-source", "0.6", "--flattened", "0", "--generated", "0.7",
        "--view", "document:0", "--view", "text:1,2", "--intermediate-size", "48",
    ]  # fmt: skip
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "ladm calibrate" in result.output
    record = json.loads((tmp_path / "calculator" / "training.json").read_text())
    mix = record["recipe"]["mix"]
    assert [mix[name] for name in ("shuffled", "renamed", "degenerate", "same_source")] == [0.3, 0.2, 0.3, 0.6]
    assert [mix[name] for name in ("flattened", "generated")] == [0.0, 0.7]
    assert record["recipe"]["focus_views"] == [["document_labels", [0]], ["text_labels", [1, 2]]]
    assert record["architecture"]["intermediate_size"] == 48
    assert record["recipe"]["focus_layers"] == [1]
    result = CliRunner().invoke(
        app,
        ["calibrate", folder, data, *SMALL, "--layer", "1", "--degenerate", data, "--max-heads", "2",
         "--figure", str(tmp_path / "heads.png")],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    for part in ("| **objective**", "| 2 pieces", "| d1, given", "not compared: joined short documents", " x 1"):
        assert part in result.output
    config = json.loads((tmp_path / "calculator" / "ladm_config.json").read_text())
    assert config["calibration"]["chosen_on"]["windows"] > 0
    assert {layer for layer, _ in config["heads"]} == {1}
    assert len(config["weights"]) == len(config["heads"]) <= 2
    assert (tmp_path / "heads.png").is_file()


def test_go_on_from_a_stream_then_calibrate_on_what_was_kept_out(data, tmp_path) -> None:
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    common = ["--stage", "1024:1", "--steps", "1", "--batch-tokens", "1024", "--micro-batch-tokens", "1024"]
    shape = ["--layers", "2", "--hidden-size", "32", "--vocab-size", "400", "--workers", "0"]
    result = CliRunner().invoke(app, ["train-calculator", data, "--output", first, *common, *shape])
    assert result.exit_code == 0, result.output
    result = CliRunner().invoke(
        app,
        ["train-calculator", data, "--output", second, "--base", first, "--streaming", "--held-out", "0.7",
         "--gradient-checkpointing", *common, *shape, "--layers", "3", "--intermediate-size", "800"],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "second" / "training.json").read_text())
    assert record["base"] == first
    assert record["architecture"]["num_hidden_layers"] == 3
    assert record["architecture"]["intermediate_size"] == 800
    result = CliRunner().invoke(
        app,
        ["calibrate", second, data, "--held-out", "0.7", *SMALL, "--output", str(tmp_path / "apart")],
    )
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "apart" / "ladm_config.json").read_text())["calibration"]
    assert 0 < found["chosen_on"]["documents"] < 24
    assert not (tmp_path / "second" / "ladm_config.json").exists()


def test_without_documents_python_itself_serves(data, tmp_path, monkeypatch) -> None:
    folder = tmp_path / "calculator"
    result = CliRunner().invoke(
        app,
        ["train-calculator", data, "--output", str(folder), "--stage", "1024:1", "--steps", "1", "--batch-tokens",
         "1024", "--micro-batch-tokens", "1024", "--layers", "1", "--hidden-size", "32", "--workers", "0"],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    monkeypatch.setattr("ladm_hf.training.library.PACKAGES", ())
    modules = [(name, text) for name, text in library_modules() if 20_000 < len(text) < 60_000][:24]
    monkeypatch.setattr("ladm_hf.training.library.library_modules", lambda: iter(modules))
    result = CliRunner().invoke(app, ["calibrate", str(folder), *SMALL])
    assert result.exit_code == 0, result.output
    record = json.loads((folder / "ladm_config.json").read_text())["calibration"]
    assert record["chosen_on"]["domains"] == ["code", "reference"]


def test_public_names() -> None:
    import ladm_hf.training

    for name in ladm_hf.training.__all__:
        assert getattr(ladm_hf.training, name) is not None
    assert set(dir(ladm_hf.training)) == set(ladm_hf.training.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        ladm_hf.training.nothing  # noqa: B018


def test_refusals_are_one_line(data, tmp_path) -> None:
    for arguments, message in (
        (
            ["train-calculator", data, "--output", str(tmp_path / "x"), "--stage", "1024"],
            "expected two numbers with ':'",
        ),
        (["train-calculator", data, "--output", str(tmp_path / "x"), "--view", "topic:0"], "--view 'topic:0'"),
        (["train-calculator", data, "--output", str(tmp_path / "x"), "--view", "text:a"], "--view 'text:a'"),
        (["calibrate", "owner/name", data], "not a local folder"),
    ):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 1
        assert message in result.output
