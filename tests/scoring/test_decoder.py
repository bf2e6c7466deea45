"""The fast forward pass is the model's own, or it is not used."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SMALL, random_ids, tiny_model
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

pytest.importorskip("triton")

from ladm_hf.calculators.calculator import resolve
from ladm_hf.ops import BACKENDS, chunked, fused, pointwise
from ladm_hf.ops.causal import causal_attention
from ladm_hf.ops.spans import SpanGrid
from ladm_hf.scoring import architecture, attention, decoder, trial
from ladm_hf.scoring.architecture import Rotation
from ladm_hf.scoring.attention import scoring_attention
from ladm_hf.scoring.decoder import DecoderForward, modules_of
from ladm_hf.scoring.engine import Engine, _rotates_by_length
from ladm_hf.scoring.layers import LayerPlan, layer_plan
from ladm_hf.scoring.recorder import ForwardDone, NoRecorder, SignalRecorder, SpanRecorder
from ladm_hf.scoring.trial import decoder_forward

# documents of 145 tokens and more: the interpreter of Triton takes its time over each token
SHORT = replace(SMALL, span_length=8)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytestmark = pytest.mark.skipif(DEVICE == "cpu" and not fused.INTERPRETED, reason="needs a GPU or TRITON_INTERPRET=1")
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}  # fmt: skip
LONGROPE = {
    "rope_type": "longrope", "rope_theta": 1e4, "factor": 64.0, "original_max_position_embeddings": 64,
    "short_factor": [1.0] * 8, "long_factor": [2.0 + i for i in range(8)],
}  # fmt: skip
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
GROWING = {
    "rope_type": "yarn", "rope_theta": 1e4, "factor": 16.0, "original_max_position_embeddings": 64,
    "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.5,
}  # fmt: skip
SLIDING = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 12}
GRANITE = {"residual_multiplier": 0.22, "embedding_multiplier": 12.0, "attention_multiplier": 0.1}
LINEAR = {
    "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
}  # fmt: skip
# Each with two layers; the window is shorter than the trial.
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama llama3": {"rope_parameters": LLAMA3, "head_dim": 24},
    "llama dynamic": {"rope_parameters": DYNAMIC, "max_position_embeddings": 64},
    "llama biases": {"attention_bias": True, "mlp_bias": True},
    "mistral": {"sliding_window": None},
    "mistral sliding": {"sliding_window": 300},
    "qwen2": {},
    "qwen3": {},
    "olmo2": {},
    "olmo3": SLIDING,
    "gemma": {"hidden_act": "gelu_pytorch_tanh"},
    "gemma3_text": SLIDING | {"query_pre_attn_scalar": 20},
    "phi3": {},
    "phi3 partial": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
    "phi3 longrope": {"rope_parameters": LONGROPE, "original_max_position_embeddings": 64},
    "smollm3": {"no_rope_layers": [1, 0]},
    "ministral3": {"rope_parameters": GROWING},
    "granite": GRANITE,
    "granitemoehybrid": GRANITE | {
        "layer_types": ["full_attention"] * 2, "num_local_experts": 0, "shared_intermediate_size": 96,
        "position_embedding_type": "rope",
    },
    "granitemoehybrid nope": GRANITE | {
        "layer_types": ["full_attention"] * 2, "num_local_experts": 0, "shared_intermediate_size": 96,
        "position_embedding_type": None,
    },
    "lfm2": {"layer_types": ["conv", "full_attention"], "block_ff_dim": 96},
    "qwen3_5_text": LINEAR | {"layer_types": ["linear_attention", "full_attention"]},
    "glm": {},
    "cohere": {},
    "cohere2": SLIDING,
    "gpt_neox": {"num_key_value_heads": 4, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
    "hunyuan_v1_dense": {},
    "mixtral": {"num_local_experts": 2, "sliding_window": None},
    "starcoder2": {"sliding_window": None},
    "olmo": {},
}  # fmt: skip


@pytest.fixture(autouse=True)
def kernels_run_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "triton_runs_on", lambda device: True)
    monkeypatch.setattr(trial, "TRIAL_TOKENS", 8)
    monkeypatch.setattr(decoder, "MLP_BLOCK", 12)


def family(name: str, **options: Any):
    """A tiny model of a family, or a skipped test where this version of transformers has it not, or not so."""
    try:
        model = tiny_model(name.split()[0], num_hidden_layers=2, **FAMILIES[name] | options)
    except (ValueError, KeyError) as error:
        pytest.skip(f"transformers has no such model: {error}")
    with torch.no_grad():
        # weights of norms and biases that a confusion of theirs would show
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return model.to(DEVICE)


def plan(model) -> LayerPlan:
    with scoring_attention(model):
        return layer_plan(model)


def off_by(model, forward: DecoderForward | None = None) -> float:
    layers = plan(model)
    return trial.disagreement(model, forward or DecoderForward(model, layers), layers)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_agrees_with_the_models_own(name: str, dtype: torch.dtype) -> None:
    model = family(name).to(dtype)
    weights = {key: weight.clone() for key, weight in model.state_dict().items()}
    forward = DecoderForward(model, plan(model))
    assert forward.is_current()
    assert off_by(model, forward) <= (2e-6 if dtype == torch.float32 else trial.TOLERANCE[dtype])
    # the model is what it was
    assert all(torch.equal(weights[key], weight) for key, weight in model.state_dict().items())


def test_the_text_part_of_a_multimodal_model_is_read() -> None:
    text = {
        "vocab_size": 97, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": None,
    }  # fmt: skip
    vision = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    tokens = {"image_token_id": 96, "boi_token_id": 95, "eoi_token_id": 94}
    config = AutoConfig.for_model("gemma3", text_config=text | SLIDING, vision_config=vision, **tokens)
    for kind in (AutoModel, AutoModelForCausalLM):
        torch.manual_seed(0)
        assert off_by(kind.from_config(config, dtype=torch.float32).eval().to(DEVICE)) <= 2e-6


def test_one_call_loads_compares_and_takes_it() -> None:
    model = family("olmo3")
    forward = decoder_forward(model, plan(model))
    assert forward is not None
    read = forward.decoder.layers
    assert [layer.mixer.call.window for layer in read] == [12, None]
    assert read[0].before_mixer is None
    assert read[0].after_mlp is not None


def test_heads_with_norms_and_no_rotation_are_normed() -> None:
    model = family("qwen3")
    forward = DecoderForward(model, plan(model))
    replaced(forward, rotation=None)
    assert off_by(model, forward) > 100 * trial.TOLERANCE[torch.float32]
    # angles of nothing everywhere
    model.rotary_emb.inv_freq.zero_()
    assert off_by(model, forward) <= 2e-6


def replaced(forward: DecoderForward, **changes: Any) -> None:
    """Changes the first layer with attention, or its attention or MLP."""
    layers = list(forward.decoder.layers)
    at = next(i for i, layer in enumerate(layers) if isinstance(layer.mixer, architecture.Attention))
    layer = layers[at]
    for name, value in changes.items():
        if hasattr(layer, name):
            layer = replace(layer, **{name: value})
        elif hasattr(layer.mlp, name):
            layer = replace(layer, mlp=replace(layer.mlp, **{name: value}))
        elif hasattr(layer.mixer, name):
            layer = replace(layer, mixer=replace(layer.mixer, **{name: value}))
        else:
            layer = replace(layer, mixer=replace(layer.mixer, call=replace(layer.mixer.call, **{name: value})))
    layers[at] = layer
    forward.decoder = replace(forward.decoder, layers=tuple(layers))


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("gemma3_text", {"window": None}),
        ("gemma3_text", {"window": 11}),
        ("gemma3_text", {"rotation": Rotation("full_attention", False)}),
        ("gemma3_text", {"scale": 0.25}),
        ("gemma3_text", {"activation": "silu"}),
        ("gemma3_text", {"before_mlp": None}),
        ("qwen3", {"norms": None}),
        ("olmo2", {"after_mixer": None}),
        ("smollm3", {"rotation": None}),
        ("glm", {"rotation": Rotation("", False)}),
        ("hunyuan_v1_dense", {"norms_last": False}),
        ("gpt_neox", {"by_head": False}),
        ("cohere", {"parallel": False}),
        ("ministral3", {"growth": None}),
        ("granite", {"multiplier": 1.0}),
    ],
)
def test_a_description_with_one_thing_wrong_fails_the_comparison(name: str, changes: dict[str, Any]) -> None:
    model = family(name)
    forward = DecoderForward(model, plan(model))
    replaced(forward, **changes)
    assert off_by(model, forward) > 100 * trial.TOLERANCE[torch.float32]


@pytest.mark.parametrize(
    ("name", "attribute", "value"),
    [("granite", "embedding_multiplier", 1.0), ("olmo2", "norm", None)],
)
def test_a_decoder_with_one_thing_wrong_fails_the_comparison(name: str, attribute: str, value: Any) -> None:
    model = family(name)
    forward = DecoderForward(model, plan(model))
    changed = replace(forward.decoder.norm, offset=1.0) if value is None else value
    forward.decoder = replace(forward.decoder, **{attribute: changed})
    assert off_by(model, forward) > 100 * trial.TOLERANCE[torch.float32]


def test_what_is_not_a_number_fails_the_comparison() -> None:
    model = family("llama")
    forward = DecoderForward(model, plan(model))
    with torch.no_grad():
        model.layers[1].mlp.down_proj.weight.fill_(torch.nan)
    assert off_by(model, forward) == float("inf")


@pytest.mark.parametrize(
    ("model_type", "options", "reason"),
    [
        ("gemma2", {"query_pre_attn_scalar": 16}, "more than causal"),
        ("bitnet", {}, "norms in BitNetAttention"),
        ("nanochat", {}, "rotation of layer 0"),
        ("biogpt", {}, "not of a mixer and an MLP"),
        ("gpt_oss", {"num_local_experts": 2, "num_experts_per_tok": 1, "sliding_window": 12}, "more than causal"),
    ],
)
def test_anything_unusual_keeps_its_own_without_a_warning(
    model_type: str, options: dict[str, Any], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny_model(model_type, num_hidden_layers=1, **options).to(DEVICE)
    with caplog.at_level(logging.INFO, "ladm_hf.scoring.trial"):
        assert decoder_forward(model, plan(model)) is None
    assert reason in caplog.text
    assert {record.levelname for record in caplog.records} == {"INFO"}


def test_a_model_that_cannot_be_read_keeps_its_own(monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    def forward(*_: Any, **__: Any) -> None:
        raise TypeError("unexpected keyword")

    model = tiny_model(num_hidden_layers=1).to(DEVICE)
    layers = plan(model)
    monkeypatch.setattr(type(model), "forward", forward)
    with caplog.at_level(logging.INFO, "ladm_hf.scoring.trial"):
        assert decoder_forward(model, layers) is None
    assert "could not be read (TypeError: unexpected keyword)" in caplog.text


def test_hooks_adapters_and_other_types_keep_their_own() -> None:
    model = tiny_model(num_hidden_layers=1)
    handle = model.layers[0].mlp.register_forward_hook(lambda *_: None)
    assert trial._unsuitable(model) == "it has hooks"
    handle.remove()
    assert trial._unsuitable(model) == ""
    assert "float64" in trial._unsuitable(tiny_model(num_hidden_layers=1).double())
    model.layers[0].self_attn.o_proj.half()
    assert "several dtypes" in trial._unsuitable(model)


def test_without_a_gpu_the_model_keeps_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "triton_runs_on", lambda device: False)
    assert "needs Triton" in trial._unsuitable(tiny_model(num_hidden_layers=1))


@pytest.mark.parametrize("failure", ["wrong", "raises"])
def test_a_forward_pass_that_disagrees_is_not_used(monkeypatch, failure: str, caplog) -> None:
    def gated(gate_up: torch.Tensor, activation: str) -> torch.Tensor:
        if failure == "raises":
            raise RuntimeError("no compiler")
        return gate_up.chunk(2, 1)[0].contiguous()

    model = tiny_model(num_hidden_layers=2).to(DEVICE)
    monkeypatch.setattr(pointwise, "gated", gated)
    with caplog.at_level(logging.INFO, "ladm_hf.scoring.trial"):
        assert decoder_forward(model, plan(model)) is None
    # a compiler can be installed
    (record,) = caplog.records
    assert ("off by" if failure == "wrong" else "no compiler") in record.getMessage()
    assert record.levelname == ("INFO" if failure == "wrong" else "WARNING")


def test_the_trial_goes_beyond_the_windows_but_not_beyond_what_scored_layers_see() -> None:
    assert trial._trial_tokens(plan(family("llama"))) == 8
    assert trial._trial_tokens(plan(family("gemma3_text"))) == 20
    assert trial._trial_tokens(plan(family("gemma3_text", sliding_window=8192))) == 8
    assert trial._trial_tokens(plan(family("mistral sliding", sliding_window=5))) == 5


def test_it_notices_when_the_model_changes() -> None:
    model = tiny_model(num_hidden_layers=2).to(DEVICE)
    forward = DecoderForward(model, plan(model))
    with torch.no_grad():
        model.layers[1].self_attn.q_proj.weight.mul_(1.5)
        model.norm.weight.mul_(1.5)
    assert forward.is_current()
    # an update in place reaches the packed weights
    assert off_by(model, forward) <= 1e-4
    handle = model.layers[1].mlp.register_forward_pre_hook(lambda *_: None)
    assert not forward.is_current()
    handle.remove()
    assert forward.is_current()
    model.layers[1].mlp.up_proj.weight.data = model.layers[1].mlp.up_proj.weight.data.clone()
    assert not forward.is_current()
    forward = DecoderForward(model, plan(model))
    model.layers[0].self_attn.k_proj = torch.nn.Sequential(torch.nn.Linear(64, 32, bias=False))
    assert not forward.is_current()


def test_modules_are_walked_once_each_whatever_refers_to_whom() -> None:
    model = tiny_model(num_hidden_layers=2)
    model.layers[1].mlp = model.layers[0].mlp
    model.layers[0].mlp.outer = model.layers[0]
    model.layers[0].mlp.register_module("none", None)
    found = modules_of(model)
    assert len(found) == len(set(found))
    assert set(found) == set(model.modules())


def test_packed_weights_stay_trainable_and_can_be_saved(tmp_path) -> None:
    model = tiny_model(num_hidden_layers=1).to(DEVICE)
    with torch.inference_mode():
        DecoderForward(model, plan(model))
    model(input_ids=torch.tensor([random_ids(20)], device=DEVICE)).last_hidden_state.sum().backward()
    assert model.layers[0].self_attn.k_proj.weight.grad is not None
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert all(
        torch.equal(a.cpu(), b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("name", ["llama", "gemma3_text", "phi3 longrope"])
def test_the_engine_scores_the_same_by_either_forward_pass(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    # the second document lies within what the rotary embedding began with, the first does not
    began = {"original_max_position_embeddings": 150}
    longrope = began | {"rope_parameters": LONGROPE | began}
    model = family(name, **(longrope if "longrope" in name else {}))
    documents = [np.array(random_ids(length, length)) for length in (155, 145)]

    def scores() -> np.ndarray:
        engine = Engine(resolve(model), SHORT, "float32", DEVICE, "chunked", None)
        passes.append(engine.forward_pass)
        found = {
            i: found.cds
            for batch, all_found in engine.score_all(documents)
            for i, found in zip(batch, all_found, strict=True)
        }
        return np.stack([found[0], found[1]])

    passes: list[str] = []
    fast = scores()
    monkeypatch.setattr(trial, "triton_runs_on", lambda device: False)
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
    forward = DecoderForward(model, plan(model))
    ids = torch.tensor([random_ids(150)], device=DEVICE)
    ones = torch.ones_like(ids)
    recorders = []
    for replacement in (None, attention_and_focus):
        if replacement is not None:
            monkeypatch.setattr(attention, "attention_and_focus", replacement)
        recorders.append(SpanRecorder(SpanGrid(150, SHORT), (0, 1, 2), {1: [0, 2]}, BACKENDS["fused"]))
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


def test_it_runs_on_to_the_models_last_hidden_states() -> None:
    model = family("olmo2")
    forward = DecoderForward(model, plan(model))
    ids = torch.tensor([random_ids(20, 1), random_ids(20, 2)], device=DEVICE)
    with torch.inference_mode():
        expected = model(input_ids=ids, use_cache=False).last_hidden_state
        torch.testing.assert_close(forward(ids, NoRecorder()), expected, rtol=1e-4, atol=1e-4)


def test_it_records_the_same_whether_it_stops_or_runs_on() -> None:
    model = family("llama")
    forward = DecoderForward(model, plan(model))
    ids = torch.tensor([random_ids(150, 1)], device=DEVICE)
    grid = SpanGrid(150, SHORT)
    stops = SpanRecorder(grid, (0, 1), {}, chunked.span_focus)
    goes_on = SignalRecorder(
        grid, (0, 1), {}, chunked.span_focus, False, distant_layer=0, uniformity=True, padded=int, to_the_end=True
    )
    with torch.inference_mode():
        expected = model(input_ids=ids, use_cache=False).last_hidden_state
        torch.testing.assert_close(forward(ids, goes_on), expected, rtol=1e-4, atol=1e-4)
        assert forward(ids, stops) is None
    assert goes_on.distant is not None
    assert all(torch.allclose(stops.pfs[layer], goes_on.pfs[layer], rtol=1e-4) for layer in (0, 1))
