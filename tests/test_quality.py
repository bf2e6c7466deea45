"""The quality benchmark on a tiny model: every score, intervals, table and figure."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT

from ladm_hf.training.documents import TokenizedDocument
from ladm_hf.training.labelled import LabelledWindow
from ladm_hf.training.model import build_model
from ladm_hf.training.recipe import Architecture, Recipe
from ladm_hf.training.tokenizer import train_tokenizer


@pytest.fixture(scope="module")
def quality():
    spec = importlib.util.spec_from_file_location("quality", ROOT / "benchmarks" / "quality.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["quality"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([" ".join(f"w{i}" for i in range(300))], vocab_size=400)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer) -> Path:
    path = tmp_path_factory.mktemp("calculator")
    shape = Architecture(
        vocab_size=400,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    build_model(None, shape, Recipe(focus_layers=())).save_pretrained(path)
    tokenizer.save_pretrained(path)
    (path / "ladm_config.json").write_text('{"heads": [[1, 0]], "ablation": "no_std"}')
    return path


def documents() -> list[TokenizedDocument]:
    rng = np.random.default_rng(0)
    return [
        TokenizedDocument(rng.integers(1, 400, 5000).astype(np.int32), f"d{i % 2}", f"s{i}", "long", str(i), 15000)
        for i in range(8)
    ]


def test_every_score_of_every_window(quality, tokenizer, folder, tmp_path) -> None:
    result = quality.run(
        documents(), tokenizer, folder, "cpu", per_domain=2, rounds=20, settings=[(2432, 2), (2560, 3)]
    )
    json.dumps(result)
    assert len(result["methods"]) == 10
    for row in result["methods"].values():
        assert set(row["domains"]) == {"d0", "d1"}
        assert 0 <= row["all"]["low"] <= row["all"]["high"] <= 1
        assert row["seconds"] >= 0
    first = result["methods"]["LADM, calibrated heads"]
    assert first["all"]["behind_first"] == {"auc": 0.0, "low": 0.0, "high": 0.0}
    assert result["windows"]["2,432"]["natural"] == 4
    assert all(2 <= count <= 4 for count in result["documents"].values())
    table = quality.markdown(result)
    assert table.count("\n") == 12
    assert quality.settings_markdown(result).splitlines()[-1].startswith("| mean of all | ")
    domains = quality.domains_markdown(result).splitlines()
    assert [line.split(" | ")[0] for line in domains[2:]] == ["| d0", "| d1"]
    assert {line.count("|") for line in domains} == {domains[0].count("|")}
    quality.figure(result, tmp_path / "quality.png")
    assert (tmp_path / "quality.png").stat().st_size > 5000


def test_calibrated_heads_alone(quality, tokenizer, folder) -> None:
    settings = [(2432, 2)]
    alone = quality.run(
        documents(), tokenizer, folder, "cpu", per_domain=2, rounds=5, settings=settings, only_calibrated=True
    )
    assert list(alone["methods"]) == ["LADM, calibrated heads"]


def test_another_calculator_on_the_same_windows(quality, tokenizer, folder, tmp_path) -> None:
    other = shutil.copytree(folder, tmp_path / "other")
    (other / "ladm_config.json").unlink()
    options = {"per_domain": 2, "rounds": 5, "settings": [(2432, 2)], "only_calibrated": True}
    both = quality.run(documents(), tokenizer, folder, "cpu", **options, against=[str(other), str(folder)])
    mine, paper, same = both["methods"].values()
    assert list(both["methods"]) == ["LADM, calibrated heads", "LADM, other", "LADM, calculator0"]
    # the same model by its own configuration, and without one by the paper's
    assert same["all"] == mine["all"]
    assert (
        paper["2,432 x 2"]
        == quality.run(documents(), tokenizer, folder, "cpu", **options | {"only_calibrated": False})["methods"][
            "LADM, all heads (paper)"
        ]["2,432 x 2"]
    )


def test_a_row_that_is_added_is_that_of_the_whole_run(quality, tokenizer, folder) -> None:
    options = {"per_domain": 2, "settings": [(2432, 2), (2560, 3)], "rounds": 5}
    whole = quality.run(documents(), tokenizer, folder, "cpu", **options)
    kept = {name: row for name, row in whole["methods"].items() if "distant" not in name and "gzip" not in name}
    names = ["gzip ratio", "first-layer distant attention"]
    for paired in (False, True):
        first = [quality.CALIBRATED] if paired else []
        result = quality.add(whole | {"methods": kept}, documents(), tokenizer, folder, "cpu", first + names, rounds=5)
        assert list(result["methods"]) == [*kept, *names]
        for name in names:
            row, expected = result["methods"][name], whole["methods"][name]
            assert "seconds" not in row
            assert row["domains"] == expected["domains"]
            for key in ("2,432 x 2", "2,560 x 3", "all"):
                assert row[key] == {k: v for k, v in expected[key].items() if paired or k != "behind_first"}
        lines = quality.markdown(result).splitlines()
        assert lines[-1].startswith("| first-layer distant attention | ")
        assert lines[-1].endswith(" |  |")
        assert quality.settings_markdown(result)


def test_a_row_of_ladm_is_added_where_there_is_none(quality, tokenizer, folder) -> None:
    whole = quality.run(documents(), tokenizer, folder, "cpu", per_domain=2, settings=[(2432, 2)], rounds=5)
    kept = {name: row for name, row in whole["methods"].items() if name not in (quality.CALIBRATED, "gzip ratio")}
    names = ["gzip ratio", quality.CALIBRATED]
    result = quality.add(whole | {"methods": kept}, documents(), tokenizer, folder, "cpu", names, rounds=5)
    assert list(result["methods"]) == [quality.CALIBRATED, *kept, "gzip ratio"]
    for name in names:
        assert result["methods"][name]["all"] == whole["methods"][name]["all"]
    assert quality.settings_markdown(result)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "'length' at .* these are other windows|give other windows"),
        ({"documents": {}}, "give other windows"),
        ({"config": {}}, "another configuration"),
    ],
)
def test_a_row_is_added_to_no_other_windows(quality, tokenizer, folder, change, message: str) -> None:
    options = {"per_domain": 2, "settings": [(2432, 2)], "rounds": 5}
    whole = quality.run(documents(), tokenizer, folder, "cpu", **options)
    # texts of several lengths, which tell windows apart
    whole["methods"]["length"]["2,432 x 2"]["auc"] += 0.01 if "seed" in change else 0.0
    with pytest.raises(SystemExit, match=message):
        quality.add(whole | change, documents(), tokenizer, folder, "cpu", ["gzip ratio"], rounds=5)
    with pytest.raises(SystemExit, match="no score 'zip'"):
        quality.add(whole, documents(), tokenizer, folder, "cpu", ["zip"])


def test_losses_are_the_models(quality, folder) -> None:
    reader = quality.Reader(folder, "cpu")
    ids = torch.randint(1, 400, (2, 700))
    logits = reader.model(input_ids=ids).logits[:, :-1]
    expected = torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
    assert torch.allclose(reader.losses(ids), expected, atol=1e-5)


def test_long_minus_short_is_zero_for_a_model_that_sees_no_context(quality, folder) -> None:
    reader = quality.Reader(folder, "cpu")
    reader.losses = lambda ids: ids[:, 1:].float()
    assert reader.long_minus_short(torch.randint(1, 400, (2, 1024))).tolist() == [0.0, 0.0]


def test_bootstrap_of_a_perfect_and_a_constant_score(quality) -> None:
    windows = [
        LabelledWindow(np.zeros(8192, np.int32), domain, pieces, (number,), 0)
        for domain in "ab"
        for pieces in (1, 2)
        for number in range(5)
    ]
    perfect = np.array([float(window.pieces == 1) for window in windows])
    found = quality.bootstrap(windows, {"perfect": perfect, "constant": np.zeros(20)}, 50, [(8192, 2)])
    assert found["perfect"]["headline"]["auc"] == found["perfect"]["headline"]["low"] == 1.0
    assert found["constant"]["8,192 x 2"]["auc"] == 0.5
    assert found["constant"]["headline"]["behind_first"] == {"auc": 0.5, "low": 0.5, "high": 0.5}


def test_settings_are_read_from_the_command_line(quality) -> None:
    assert quality.setting("8192x0") == (8192, 0)
