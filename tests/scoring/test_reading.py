"""What is read off the modules of a model and off one pass over a few tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import tiny_model
from transformers import PreTrainedModel

from ladm_hf.ops.rms_norm import RmsNorm
from ladm_hf.scoring.architecture import Attention, Layer, Mlp, Rotation, UnknownPart
from ladm_hf.scoring.attention import scoring_attention
from ladm_hf.scoring.layers import layer_plan
from ladm_hf.scoring.reading import read_decoder

HALVES, NEIGHBOURS = Rotation("", False), Rotation("", True)
SLIDING = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 12}


def layers(model_type: str, **options: Any) -> tuple[Layer, ...]:
    return read(tiny_model(model_type, num_hidden_layers=2, **options))


def read(model: PreTrainedModel) -> tuple[Layer, ...]:
    with scoring_attention(model):
        plan = layer_plan(model)
    return read_decoder(model, plan).layers


def attention(layer: Layer) -> Attention:
    assert isinstance(layer.mixer, Attention)
    return layer.mixer


@pytest.mark.parametrize(
    ("model_type", "options", "rotations"),
    [
        ("llama", {}, [HALVES, HALVES]),
        ("glm", {}, [NEIGHBOURS, NEIGHBOURS]),
        ("ernie4_5", {}, [NEIGHBOURS, NEIGHBOURS]),
        ("cohere2", SLIDING, [NEIGHBOURS, None]),
        ("smollm3", {"no_rope_layers": [1, 0]}, [HALVES, None]),
        ("gemma3_text", SLIDING, [Rotation("sliding_attention", False), Rotation("full_attention", False)]),
    ],
)
def test_rotations_are_found_by_trying_them(model_type: str, options: dict[str, Any], rotations: list[Any]) -> None:
    assert [attention(layer).rotation for layer in layers(model_type, **options)] == rotations


def test_norms_of_heads_are_before_or_after_the_rotation() -> None:
    assert not attention(layers("qwen3")[0]).norms_last
    assert attention(layers("hunyuan_v1_dense")[0]).norms_last
    assert attention(layers("olmo2")[0]).across_heads
    assert attention(layers("llama")[0]).norms is None


def test_a_product_by_head_is_told_from_one_after_another() -> None:
    assert attention(layers("gpt_neox", num_key_value_heads=4)[0]).by_head
    assert not attention(layers("phi3", num_key_value_heads=4)[0]).by_head


@pytest.mark.parametrize(
    ("model_type", "present", "parallel"),
    [
        ("llama", (True, False, True, False), False),
        ("olmo2", (False, True, False, True), False),
        ("glm4", (True, True, True, True), False),
        ("gemma3_text", (True, True, True, True), False),
        ("cohere", (True, False, True, False), True),
        ("gpt_neox", (True, False, True, False), True),
    ],
)
def test_norms_go_where_the_pass_shows_them(model_type: str, present: tuple[bool, ...], parallel: bool) -> None:
    model = tiny_model(model_type, num_hidden_layers=2, num_key_value_heads=4)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 1:
                weight.add_(torch.randn_like(weight), alpha=0.3)
    for layer in read(model):
        norms = layer.before_mixer, layer.after_mixer, layer.before_mlp, layer.after_mlp
        assert tuple(norm is not None for norm in norms) == present
        assert layer.parallel is parallel


def test_two_norms_that_give_the_same_are_told_apart_by_their_order() -> None:
    model = tiny_model("gpt_neox", num_hidden_layers=1, num_key_value_heads=4)
    (layer,) = read(model)
    assert layer.before_mixer is model.layers[0].input_layernorm
    assert layer.before_mlp is model.layers[0].post_attention_layernorm


def test_parts_of_no_known_form_stay_the_models_own() -> None:
    model = tiny_model("mixtral", num_hidden_layers=1, num_local_experts=2, sliding_window=None)
    (layer,) = read(model)
    assert layer.mlp is model.layers[0].mlp
    assert isinstance(layer.before_mlp, RmsNorm)
    model = tiny_model("starcoder2", num_hidden_layers=1, sliding_window=None)
    (layer,) = read(model)
    assert layer.before_mixer is model.layers[0].input_layernorm
    model = tiny_model("llama", num_hidden_layers=1, hidden_act="gelu")
    (layer,) = read(model)
    assert layer.mlp is model.layers[0].mlp
    model = tiny_model("llama", num_hidden_layers=2)
    model.layers[1].mlp.scale = torch.nn.Parameter(torch.ones(1))
    first, second = read(model)
    assert isinstance(first.mlp, Mlp)
    assert second.mlp is model.layers[1].mlp


def test_a_norm_without_weights_is_read() -> None:
    model = tiny_model("llama", num_hidden_layers=1)
    model.layers[0].input_layernorm = torch.nn.RMSNorm(64, eps=1e-5, elementwise_affine=False)
    (layer,) = read(model)
    assert isinstance(layer.before_mixer, RmsNorm)
    assert torch.equal(layer.before_mixer.weight, torch.ones(64))


def test_a_norm_of_what_is_normed_already_has_its_place() -> None:
    model = tiny_model("glm4", num_hidden_layers=1).to(torch.bfloat16)
    with torch.no_grad():
        model.embed_tokens.weight.mul_(1e-3)
    (layer,) = read(model)
    assert isinstance(layer.after_mixer, RmsNorm)
    assert isinstance(layer.before_mlp, RmsNorm)


def test_positions_have_the_axes_that_the_rotary_embedding_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("qwen3_5_text", num_hidden_layers=1, layer_types=["full_attention"])
    given, forward = [], model.rotary_emb.forward

    def noting(x: torch.Tensor, position_ids: torch.Tensor) -> Any:
        given.append(position_ids.dim())
        return forward(x, position_ids)

    monkeypatch.setattr(model.rotary_emb, "forward", noting)
    read(model)
    assert len(given) > 2
    assert len(set(given)) == 1


@pytest.mark.parametrize("part", ["weight", "bias", "projection", "list"])
def test_what_has_no_place_is_unknown(part: str) -> None:
    model = tiny_model(num_hidden_layers=1)
    projections: Any = model.layers[0].self_attn
    if part == "weight":
        projections.sink = torch.nn.Parameter(torch.ones(1))
    elif part == "bias":
        projections.k_proj.bias = torch.nn.Parameter(torch.zeros(32))
    elif part == "projection":
        projections.q_proj = torch.nn.Sequential(torch.nn.Linear(64, 64, bias=False))
    else:
        model.others = torch.nn.ModuleList()
    expected = {
        "weight": "self_attn.sink has no place", "bias": "only some of", "projection": "q_proj is a Sequential",
        "list": "2 lists of layers",
    }  # fmt: skip
    with pytest.raises(UnknownPart, match=expected[part]):
        read(model)


def test_reading_leaves_the_model_as_it_was() -> None:
    model = tiny_model("cohere", num_hidden_layers=1)
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    read(model)
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())
