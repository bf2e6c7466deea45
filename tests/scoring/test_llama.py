"""The fast forward pass is the model's own, or it is not used."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from conftest import SMALL, random_ids, tiny_model

pytest.importorskip("triton")

from ladm_hf.calculators.calculator import resolve
from ladm_hf.ops import BACKENDS, chunked, fused
from ladm_hf.ops.causal import causal_attention
from ladm_hf.ops.spans import SpanGrid
from ladm_hf.scoring import attention, llama
from ladm_hf.scoring.attention import scoring_attention
from ladm_hf.scoring.engine import Engine, _rotates_by_length
from ladm_hf.scoring.layers import LayerPlan, layer_plan
from ladm_hf.scoring.llama import LlamaForward, llama_forward
from ladm_hf.scoring.recorder import ForwardDone, NoRecorder, SignalRecorder, SpanRecorder

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytestmark = pytest.mark.skipif(DEVICE == "cpu" and not fused.INTERPRETED, reason="needs a GPU or TRITON_INTERPRET=1")
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}  # fmt: skip


@pytest.fixture(autouse=True)
def kernels_run_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama, "triton_runs_on", lambda device: True)
    monkeypatch.setattr(llama, "TRIAL_TOKENS", 24)
    monkeypatch.setattr(llama, "MLP_BLOCK", 32)


def plan(model) -> LayerPlan:
    with scoring_attention(model):
        return layer_plan(model)


@pytest.mark.parametrize(
    ("family", "options"),
    [("llama", {}), ("llama", {"rope_parameters": LLAMA3, "head_dim": 24}), ("mistral", {"sliding_window": None}),
     ("qwen2", {}), ("qwen3", {})],
)  # fmt: skip
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_agrees_with_the_models_own(family: str, options: dict, dtype: torch.dtype) -> None:
    model = tiny_model(family, num_hidden_layers=2, **options).to(DEVICE, dtype)
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    forward = llama_forward(model, plan(model))
    assert forward is not None
    assert forward.is_current()
    assert llama._disagreement(model, forward, (0, 1)) <= llama.TOLERANCE[dtype]
    # the model is what it was
    assert all(torch.equal(weights[name], weight) for name, weight in model.state_dict().items())


@pytest.mark.parametrize(
    ("family", "options", "reason"),
    [
        ("gemma", {}, "none of"),
        ("llama", {"attention_bias": True}, "o_proj has a bias"),
        ("llama", {"hidden_act": "gelu"}, "activation is gelu"),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "rotary"),
        ("mistral", {"sliding_window": 64}, "whole document"),
    ],
)
def test_anything_unusual_keeps_its_own(family, options, reason, caplog: pytest.LogCaptureFixture) -> None:
    model = tiny_model(family, num_hidden_layers=1, **options)
    with caplog.at_level(logging.INFO, "ladm_hf.scoring.llama"):
        assert llama_forward(model, plan(model)) is None
    assert reason in caplog.text


def test_hooks_adapters_and_other_types_keep_their_own() -> None:
    model = tiny_model(num_hidden_layers=1)
    layers = plan(model)
    handle = model.layers[0].mlp.register_forward_hook(lambda *_: None)
    assert llama._unsuitable(model, layers) == "it has hooks"
    handle.remove()
    assert "float64" in llama._unsuitable(tiny_model(num_hidden_layers=1).double(), layers)
    model.layers[0].self_attn.o_proj.half()
    assert "several dtypes" in llama._unsuitable(model, layers)
    model.float()
    model.layers[0].self_attn.q_proj = torch.nn.Sequential(torch.nn.Linear(64, 64, bias=False))
    assert "q_proj is a Sequential" in llama._unsuitable(model, layers)


def test_without_a_gpu_the_model_keeps_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama, "triton_runs_on", lambda device: False)
    model = tiny_model(num_hidden_layers=1)
    assert "needs Triton" in llama._unsuitable(model, plan(model))


def test_a_forward_pass_that_disagrees_is_not_used(monkeypatch, caplog: pytest.LogCaptureFixture) -> None:
    from ladm_hf.ops import pointwise

    model = tiny_model(num_hidden_layers=2).to(DEVICE)
    monkeypatch.setattr(pointwise, "silu_mul", lambda gate_up: gate_up.chunk(2, 1)[0])
    assert llama_forward(model, plan(model)) is None
    assert "off by" in caplog.text


def test_it_notices_when_the_model_changes() -> None:
    model = tiny_model(num_hidden_layers=2, attention_bias=False).to(DEVICE)
    forward = LlamaForward(model)
    with torch.no_grad():
        model.layers[1].self_attn.q_proj.weight.mul_(1.5)
    assert forward.is_current()
    # an update in place reaches the packed weights
    assert llama._disagreement(model, forward, (0, 1)) <= 1e-4
    model.layers[1].mlp.up_proj.weight.data = model.layers[1].mlp.up_proj.weight.data.clone()
    assert not forward.is_current()
    forward = LlamaForward(model)
    model.layers[0].self_attn.k_proj = torch.nn.Sequential(torch.nn.Linear(64, 32, bias=False))
    assert not forward.is_current()


def test_packed_weights_stay_trainable_and_can_be_saved(tmp_path) -> None:
    model = tiny_model(num_hidden_layers=1).to(DEVICE)
    with torch.inference_mode():
        LlamaForward(model)
    model(input_ids=torch.tensor([random_ids(20)], device=DEVICE)).last_hidden_state.sum().backward()
    assert model.layers[0].self_attn.k_proj.weight.grad is not None
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert all(
        torch.equal(a.cpu(), b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True)
    )


def test_the_engine_scores_the_same_by_either_forward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(num_hidden_layers=2).to(DEVICE)
    documents = [np.array(random_ids(length, length)) for length in (311, 300)]

    def scores() -> np.ndarray:
        engine = Engine(resolve(model), SMALL, "float32", DEVICE, "chunked", None)
        passes.append(engine.forward_pass)
        found = {
            i: found.cds
            for batch, all_found in engine.score_all(documents)
            for i, found in zip(batch, all_found, strict=True)
        }
        return np.stack([found[0], found[1]])

    passes: list[str] = []
    fast = scores()
    monkeypatch.setattr(llama, "triton_runs_on", lambda device: False)
    np.testing.assert_allclose(fast, scores(), rtol=1e-5)
    assert passes == ["fast", "model"]


@pytest.mark.parametrize("own", [False, True])
def test_a_kernel_that_gives_the_focus_too_is_asked_for_all_but_the_last_layer(
    monkeypatch: pytest.MonkeyPatch, own: bool
) -> None:
    asked: list[SpanGrid] = []

    def attention_and_focus(q, k, v, scale, grid):
        asked.append(grid)
        attended = causal_attention(q, k, v, scale)
        return *attended, chunked.span_focus(q, k, grid, scale, attended[1])

    model = tiny_model("llama", num_hidden_layers=3).to(DEVICE)
    forward = LlamaForward(model)
    ids = torch.tensor([random_ids(311, 0), random_ids(311, 1)], device=DEVICE)
    ones = torch.ones_like(ids)
    recorders = []
    for replacement in (None, attention_and_focus):
        if replacement is not None:
            monkeypatch.setattr(attention, "attention_and_focus", replacement)
        recorders.append(SpanRecorder(SpanGrid([311, 300], SMALL), (0, 1, 2), {1: [0, 2]}, BACKENDS["fused"]))
        with torch.inference_mode():
            if own:
                with scoring_attention(model), pytest.raises(ForwardDone):
                    model(input_ids=ids, attention_mask=ones, use_cache=False, ladm_recorder=recorders[-1])
            else:
                forward(ids, recorders[-1])
    plain, focused = recorders
    assert asked == [focused.grid] * 2
    torch.testing.assert_close(focused.pfs, plain.pfs, rtol=1e-4, atol=1e-6)


def test_lengths_are_padded_to_few_shapes_unless_the_rotation_would_change(monkeypatch: pytest.MonkeyPatch) -> None:
    rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    for options, pads in (({}, True), ({"rope_parameters": rope}, False)):
        model = tiny_model(num_hidden_layers=1, **options)
        engine = Engine(resolve(model), SMALL, "float32", "cpu", "chunked", None)
        assert engine._padded_length(5000) == 5000
        monkeypatch.setattr(engine, "_pads", not _rotates_by_length(model))
        padded = {length: engine._padded_length(length) for length in range(2305, 32769, 7)}
        assert all(length <= to <= length * 33 / 32 for length, to in padded.items())
        assert (len(set(padded.values())) <= 4 * 32) == pads
        assert engine._padded_length(32768) == 32768


@pytest.mark.parametrize("recorder", ["wants the last layer", "wants nothing"])
def test_it_runs_on_to_the_models_last_hidden_states(recorder: str) -> None:
    model = tiny_model("qwen3", num_hidden_layers=2).to(DEVICE)
    forward = llama_forward(model, plan(model))
    assert forward is not None
    ids = torch.tensor([random_ids(300, 1), random_ids(300, 2)], device=DEVICE)
    grid = SpanGrid([300, 300], SMALL)
    stops = SpanRecorder(grid, (0, 1), {}, chunked.span_focus)
    goes_on = SignalRecorder(
        grid, (0, 1), {}, chunked.span_focus, False, distant_layer=0, uniformity=True, padded=int, to_the_end=True
    )
    with torch.inference_mode():
        expected = model(input_ids=ids, use_cache=False).last_hidden_state
        hidden = forward(ids, goes_on if recorder == "wants the last layer" else NoRecorder())
        assert forward(ids, stops) is None
    torch.testing.assert_close(hidden, expected, rtol=1e-4, atol=1e-4)
    if recorder == "wants the last layer":
        assert goes_on.distant is not None
        assert all(torch.allclose(stops.pfs[layer], goes_on.pfs[layer], rtol=1e-4) for layer in (0, 1))
