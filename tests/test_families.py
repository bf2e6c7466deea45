"""The table of model families: what its script measures anew is what is recorded."""

from __future__ import annotations

import importlib
import json
import sys
from types import ModuleType

import pytest
from conftest import ROOT

RECORDED = json.loads((ROOT / "benchmarks" / "results" / "families.json").read_text(encoding="utf-8"))
FAMILIES = {row["model_type"]: row for row in RECORDED["families"]}


@pytest.fixture(scope="module")
def script():
    """Imports the script by name."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    yield importlib.import_module("families")
    sys.path.remove(str(ROOT / "benchmarks"))


@pytest.mark.parametrize("name", ["llama", "olmo2", "gemma2", "mamba"])
def test_a_family_comes_to_what_is_recorded(script: ModuleType, name: str) -> None:
    found, recorded = script.measure(name), FAMILIES[name]
    if recorded.get("fused"):
        pytest.importorskip("triton")
    for key in ("scored", "left_out", "fused", "refused"):
        assert found.get(key) == recorded.get(key)


def test_scores_are_those_of_the_models_own_attention_weights() -> None:
    differences = {name: row["difference"] for name, row in FAMILIES.items() if "difference" in row}
    assert len(differences) > 50
    assert not {name for name, difference in differences.items() if not difference < 1e-4}
