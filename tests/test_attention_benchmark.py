"""The benchmark of attention kernels: what is off is found before it is timed, and the table is what was measured."""

from __future__ import annotations

import importlib
import json
import sys
from types import ModuleType

import pytest
import torch
from conftest import ROOT

from ladm_hf.ops import causal, chunked

SMALL = {"heads": 4, "kv_heads": 2, "head_dim": 16}
# enough for a score
TOKENS = 2500


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch):
    """The script on a CPU: kernels of the CPU in place of a GPU's, none of which gives the span focus by the way."""
    pytest.importorskip("triton")
    sys.path.insert(0, str(ROOT / "benchmarks"))
    found = importlib.import_module("attention")
    monkeypatch.setattr(found, "DEVICE", "cpu")
    monkeypatch.setattr(found, "ROUND_MS", dict.fromkeys(found.ROUNDS, 0.1))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(found, "clock_and_power", lambda: {"mhz": 1400.0, "watts": 690.0})
    for name in ("cudnn", "flash4", "hopper"):
        monkeypatch.setitem(causal.KERNELS, name, causal.KERNELS["flash_cpu"])
    monkeypatch.setattr(found.hopper, "attention", with_focus)
    monkeypatch.setattr(found.fused, "span_focus", chunked.span_focus)
    monkeypatch.setattr(causal, "focus_alone", lambda q, k, scale, grid: chunked.span_focus(q, k, grid, scale))
    monkeypatch.setattr(found, "flash4_windowed", found.windowed_attention)
    yield found
    sys.path.remove(str(ROOT / "benchmarks"))


def with_focus(q, k, v, scale, grid):
    output, lse = causal.KERNELS["flash_cpu"](q, k, v, scale)
    return output, lse, chunked.span_focus(q, k, grid, scale, lse)


def test_a_kernel_that_leaves_out_the_mask_is_found(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def unmasked(q, k, v, scale):
        _, lse = causal.KERNELS["flash_cpu"](q, k, v, scale)
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=scale, enable_gqa=True), lse

    monkeypatch.setitem(causal.KERNELS, "flash4", unmasked)
    errors = script.parity(script.Shape(**SMALL), ["cudnn", "flash4"])
    assert max(errors["cudnn"].values()) <= causal.TRIAL_TOLERANCE
    assert errors["flash4"]["output"] > causal.TRIAL_TOLERANCE


def test_a_span_focus_that_differs_is_not_timed(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def off(q, k, v, scale, grid):
        output, lse, pfs = with_focus(q, k, v, scale, grid)
        return output, lse, 1.001 * pfs

    monkeypatch.setattr(script.hopper, "attention", off)
    monkeypatch.setattr(script, "timed", lambda *_: pytest.fail("timed"))
    with pytest.raises(ValueError, match="differ"):
        script.measured(script.Shape(**SMALL), ["cudnn", "hopper"], TOKENS, False)


def test_what_is_measured_is_in_the_table(script: ModuleType) -> None:
    shape = script.Shape(**SMALL, window=100)
    found = script.measured(shape, ["cudnn", "flash4", "hopper"], TOKENS, True)
    assert set(found["in_turns"]) == {
        "cudnn", "flash4", "hopper", "hopper+focus", "span_focus", "last_triton", "last", "windowed",
        "flash4_windowed",
    }  # fmt: skip
    assert set(found["sustained"]) == {"cudnn", "flash4", "hopper", "hopper+focus"}
    for row in [*found["in_turns"].values(), *found["sustained"].values()]:
        assert 0 < row["least"] <= row["ms"] <= row["most"]
    environment = {"device": "GPU", "torch": "2", "cudnn": 9, "triton": "3", "packages": {}}
    rows = {"Small": shape._asdict() | {"times": {str(TOKENS): found}}}
    found["in_turns"] |= {name: {"ms": ms} for name, ms in [("cudnn", 4.0), ("flash4", 3.0), ("hopper", 2.0)]}
    found["in_turns"] |= {name: {"ms": ms} for name, ms in [("hopper+focus", 2.5), ("span_focus", 2.0)]}
    found["in_turns"] |= {name: {"ms": ms} for name, ms in [("last_triton", 1.5), ("last", 1.0)]}
    rendered = script.render_attention({"environment": environment, "rounds": script.ROUNDS, "shapes": rows})
    assert "| Small | 4 / 2 | 16 | 2,500 | 4.000 (0) | 3.000 (0) | 2.000 (0) | +2.000 | +0.500 |" in rendered
    assert "(Small, 2,500 tokens): 1.500 ms for the span focus alone in Triton, 1.000 in ours" in rendered
    assert "0.50 to 0.50 at 2,500 tokens" in rendered
    assert "A window of 100 (Small, 2,500 tokens)" in rendered


def test_operations_are_those_of_the_causal_half(script: ModuleType) -> None:
    result = json.loads((ROOT / "benchmarks" / "results" / "attention.json").read_text(encoding="utf-8"))
    row = result["shapes"]["Llama-3.2-3B"]
    row["times"]["32768"]["in_turns"]["cudnn"]["ms"] = 2 * 32768**2 * 24 * 128 / 500e9
    assert "13.194 (500)" in script.render_attention(result)


def test_shapes_of_the_results_are_those_of_the_script(script: ModuleType) -> None:
    result = json.loads((ROOT / "benchmarks" / "results" / "attention.json").read_text(encoding="utf-8"))
    for name, shape in script.SHAPES.items():
        assert {key: result["shapes"][name][key] for key in shape._fields} == shape._asdict()
