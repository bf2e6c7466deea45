"""The table of model families: what its script measures anew is what is recorded."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import transformers
from conftest import ROOT
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

RECORDED = json.loads((ROOT / "benchmarks" / "results" / "families.json").read_text(encoding="utf-8"))
FAMILIES = {row["model_type"]: row for row in RECORDED["families"]}


@pytest.fixture(scope="module", autouse=True)
def scripts_by_name():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    yield
    sys.path.remove(str(ROOT / "benchmarks"))


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return importlib.import_module("families")


@pytest.fixture(scope="module")
def table() -> ModuleType:
    return importlib.import_module("readme")


@pytest.mark.parametrize("name", ["llama", "olmo2", "glm", "mixtral", "gemma2", "mamba"])
def test_a_family_comes_to_what_is_recorded(script: ModuleType, name: str) -> None:
    found, recorded = script.measure(name), FAMILIES[name]
    if recorded.get("fused"):
        pytest.importorskip("triton")
    for key in ("head_size", "context", "scored", "left_out", "plain", "fused", "attention", "refused"):
        assert found.get(key) == recorded.get(key)


def test_scores_are_those_of_the_models_own_attention_weights() -> None:
    differences = {name: row["difference"] for name, row in FAMILIES.items() if "difference" in row}
    assert len(differences) > 50
    assert not {name for name, difference in differences.items() if not difference < 1e-4}


def test_the_kernel_goes_by_the_head_size(script: ModuleType) -> None:
    assert [script.first_kernel(size) for size in (64, 128, 96, 256)] == ["hopper", "hopper", "hopper", "cudnn"]


def test_every_family_of_this_transformers_has_a_row() -> None:
    if transformers.__version__ == RECORDED["transformers"]:
        assert list(FAMILIES) == sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    assert {"scored", "refused", "not_built"} >= {
        next(key for key in ("scored", "refused", "not_built") if key in row) for row in FAMILIES.values()
    }


def test_families_that_people_use_take_the_fused_forward() -> None:
    expected = [
        "apertus", "cohere", "cohere2", "ernie4_5", "exaone4", "gemma3_text", "glm", "glm4", "gpt_neox", "granite",
        "helium", "hunyuan_v1_dense", "llama", "mistral", "mixtral", "olmo2", "olmo3", "olmoe", "phi3", "qwen2",
        "qwen3", "qwen3_moe", "seed_oss", "smollm3", "starcoder2",
    ]  # fmt: skip
    assert not [name for name in expected if not FAMILIES[name]["fused"]]


def test_a_measured_ratio_stands_beside_its_family(table: ModuleType, monkeypatch, tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    seconds = {
        name: {"32768": value} for name, value in {"plain_flash": 0.5, "plain_cudnn": 0.4, "engine": 0.3}.items()
    }
    (tmp_path / "results" / "h200.json").write_text(json.dumps({"seconds": seconds}))
    monkeypatch.setattr(table, "HERE", tmp_path)
    row = next(line for line in table.families(RECORDED).splitlines() if line.startswith("| `llama` |"))
    assert row.startswith("| `llama` | 6 of 6 |  | 128 | 2,048 | fused | hopper | 0.75 (TinyLlama-1.1B) | ")
    shapes = {"Gemma-3-1B": {"model_type": "gemma3_text", "ratio": 0.9}, "Phi-3": {"model_type": "phi3", "parity": {}}}
    (tmp_path / "results" / "shapes.json").write_text(json.dumps({"shapes": shapes}))
    rendered = table.families(RECORDED)
    assert "| 256 | 131,072 | fused | cudnn | 0.90 (Gemma-3-1B) |" in rendered
    assert "Phi-3" not in rendered
