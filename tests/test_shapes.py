"""The benchmark of families by shape: its models are as it says, and its table is."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import pytest
import torch
from conftest import ROOT
from transformers import AutoModel


@pytest.fixture(scope="module")
def script():
    """Imports the script by name; it imports another of the benchmarks by name."""
    pytest.importorskip("triton")
    sys.path.insert(0, str(ROOT / "benchmarks"))
    yield importlib.import_module("shapes")
    sys.path.remove(str(ROOT / "benchmarks"))


@pytest.mark.parametrize(
    ("name", "billions"),
    [("TinyLlama-1.1B", 1.0), ("OLMo-2-1B", 1.1), ("Gemma-3-1B", 0.7), ("Phi-4-mini", 3.2), ("Granite-4.0-micro", 3.1)],
)
def test_shapes_have_the_size_of_their_names_without_the_vocabulary(script: ModuleType, name: str, billions: float):
    model = script.build(script.shortened(script.SHAPES[name], 2), torch.bfloat16, "meta")
    deeper = script.build(script.shortened(script.SHAPES[name], 3), torch.bfloat16, "meta")
    sizes = [sum(weight.numel() for weight in built.layers.parameters()) for built in (model, deeper)]
    layers = script.SHAPES[name]["num_hidden_layers"]
    assert (sizes[0] + (layers - 2) * (sizes[1] - sizes[0])) / 1e9 == pytest.approx(billions, rel=0.1)


def test_narrow_models_are_of_the_same_family_and_slide(script: ModuleType) -> None:
    for values in script.SHAPES.values():
        small = script.build(script.tiny(values), torch.float32, "meta")
        assert isinstance(small, AutoModel._model_mapping[type(small.config)])
        assert len(small.layers) == script.COMPARED_LAYERS
        assert getattr(small.config, "sliding_window", None) in (None, 40)


def test_the_table_has_a_row_for_every_shape_that_was_timed(script: ModuleType) -> None:
    timed = {
        "plain_flash": 0.2, "plain_cudnn": None, "ours": 0.15, "layers": 4, "of_layers": 26,
        "head_dim": 256, "ratio": 0.75, "scoring_adds": 0.07, "attention": "cudnn",
        "profile": {"attention": 50.0, "matrix products": 25.0, "scoring": 20.0, "rest": 5.0},
    }  # fmt: skip
    shapes = {"Gemma-3-1B": timed, "Phi-3-mini": {"parity": {}}}
    environment = {"device": "GPU", "torch": "2", "cudnn": 9, "transformers": "5"}
    rendered = script.render_shapes({"environment": environment, "tokens": 32768, "shapes": shapes})
    assert "| Gemma-3-1B | 256 | 4 of 26 | cudnn | 0.200 | out of memory | 0.150 | 75% | 0.75 | +7.0% |" in rendered
    assert "Phi-3-mini" not in rendered
    assert "0.75 at most, 0.75 in the median" in rendered
