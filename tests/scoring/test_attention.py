"""The attention function: golden scores, an independent oracle for many families, and what cannot be scored."""

from __future__ import annotations

import re

import pytest
import torch
from conftest import SMALL, golden, golden_folders, random_ids, tiny_model
from transformers import AutoModel

from ladm_hf import LadmConfig, LadmScorer, register_attention
from ladm_hf.errors import ConfigError, NoFullAttentionError, UnsupportedModelError
from ladm_hf.ops import BACKENDS
from ladm_hf.ops.scores import contextual_dependency_score
from ladm_hf.ops.spans import SpanGrid
from ladm_hf.scoring.attention import ladm_attention, scoring_attention

FULL_AND_SLIDING = ["full_attention", "sliding_attention", "full_attention"]
FAMILIES = {
    "llama": {},
    "mistral": {"sliding_window": None},
    "qwen2": {},
    "qwen2-sliding": {"layer_types": FULL_AND_SLIDING, "use_sliding_window": True, "sliding_window": 64},
    "qwen3": {},
    "gemma2": {"layer_types": FULL_AND_SLIDING, "sliding_window": 64, "query_pre_attn_scalar": 16},
    "gemma3_text": {"layer_types": FULL_AND_SLIDING, "sliding_window": 64, "query_pre_attn_scalar": 16},
    "phi3": {},
    "gpt_neox": {"num_key_value_heads": 4},
    "gpt2": {"n_embd": 64, "n_layer": 3, "n_head": 4, "max_position_embeddings": 1024},
    "olmo2": {},
    "olmo3": {"layer_types": FULL_AND_SLIDING, "sliding_window": 64},
    "gpt_oss": {
        "layer_types": FULL_AND_SLIDING,
        "sliding_window": 64,
        "num_local_experts": 2,
        "num_experts_per_tok": 1,
    },
    "mixtral": {"num_local_experts": 2, "num_experts_per_tok": 1, "sliding_window": None},
}


def family(name: str):
    return tiny_model(name.split("-")[0], **FAMILIES[name])


def full_layers(name: str) -> list[int]:
    kinds = FAMILIES[name].get("layer_types")
    return [layer for layer in range(3) if kinds is None or kinds[layer] == "full_attention"]


def oracle(model, ids: list[int], config: LadmConfig, layers: list[int]) -> list[float]:
    """CDS by layer from eager attention weights: renormalise each row over the prefix and sum over the spans."""
    with torch.inference_mode():
        weights = model(input_ids=torch.tensor([ids]), output_attentions=True, use_cache=False).attentions
    grid = SpanGrid(len(ids), config)
    scores = []
    for layer in layers:
        attention = weights[layer][0].double()
        pfs = torch.zeros(1, *grid.shape, dtype=torch.float64)
        for row, start, count in grid.query_spans(0):
            rows = attention[:, start : start + config.span_length, :start]
            rows = (rows / rows.sum(-1, keepdim=True)).sum(1).mean(0)
            for column, key in enumerate(grid.key_starts(0, row)):
                pfs[0, row, column] = rows[key : key + config.span_length].sum()
            assert count == column + 1
        scores.append(contextual_dependency_score(pfs, grid, config.ablation).item())
    return scores


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("folder", golden_folders())
def test_scores_are_the_published_codes(folder, backend: str) -> None:
    if backend == "fused":
        pytest.importorskip("triton")
    config, documents, expected = golden(folder)
    scorer = LadmScorer(folder / "model", config=config, backend=backend, dtype="float32")
    actual = torch.tensor([score.layer_scores for score in scorer.score_input_ids(documents)], dtype=torch.float64).T
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", FAMILIES)
def test_scores_are_those_of_eager_attention_weights(name: str) -> None:
    model = family(name)
    ids = random_ids(700, seed=1)
    expected = oracle(model, ids, SMALL, full_layers(name))
    scorer = LadmScorer(model, config=SMALL)
    (score,) = scorer.score_input_ids([ids])
    assert scorer.scored_layers == tuple(full_layers(name))
    assert score.layer_scores == pytest.approx(expected, rel=1e-4)
    assert score.score == pytest.approx(sum(expected) / len(expected), rel=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_hidden_states_are_those_of_eager_attention(name: str) -> None:
    model = family(name)
    ids = torch.tensor([random_ids(300, seed=2), random_ids(300, seed=3)])
    mask = torch.ones_like(ids)
    mask[0, :40] = 0
    with torch.inference_mode():
        for attention_mask in (None, mask):
            expected = model(ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
            with scoring_attention(model):
                actual = model(ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
            seen = slice(None) if attention_mask is None else mask.bool()
            torch.testing.assert_close(actual[seen], expected[seen], rtol=1e-4, atol=1e-4)


def test_sliding_layers_are_reported_with_their_window() -> None:
    scorer = LadmScorer(family("gemma2"), config=SMALL)
    assert scorer.skipped_layers == {1: "sliding window of 64 tokens"}


def test_linear_layers_are_left_out_and_reported() -> None:
    model = tiny_model(
        "lfm2", num_hidden_layers=2, layer_types=["conv", "full_attention"], full_attn_idxs=[1], block_ff_dim=96
    )
    scorer = LadmScorer(model, config=SMALL)
    assert scorer.scored_layers == (1,)
    assert list(scorer.skipped_layers) == [0]
    assert scorer.score_input_ids([random_ids(500)])[0].status == "ok"


def test_a_model_of_sliding_layers_scores_only_what_they_see_whole() -> None:
    model = tiny_model("mistral", sliding_window=600)
    scorer = LadmScorer(model, config=SMALL)
    ids = random_ids(600)
    expected = oracle(model, ids, SMALL, [0, 1, 2])
    assert scorer.score_input_ids([ids])[0].layer_scores == pytest.approx(expected, rel=1e-4)
    with pytest.raises(NoFullAttentionError, match=r"'mistral'.*600 tokens.*max_length=600"):
        scorer.score_input_ids([random_ids(601)])


def test_models_without_full_attention_are_refused() -> None:
    model = tiny_model(
        "llama4_text", attention_chunk_size=64, layer_types=["chunked_attention"] * 3, num_local_experts=2
    )
    with pytest.raises(NoFullAttentionError, match=r"'llama4_text'.*chunked attention.*Use a model"):
        LadmScorer(model, config=SMALL).score_input_ids([random_ids(500)])


@pytest.mark.parametrize(
    ("model_type", "options"),
    [("bloom", {"n_head": 4, "n_layer": 2}), ("mamba", {"state_size": 4, "num_hidden_layers": 2})],
)
def test_models_off_the_attention_interface_are_refused(model_type: str, options) -> None:
    with pytest.raises(UnsupportedModelError, match=rf"'{model_type}'.*attention interface.*Llama"):
        LadmScorer(tiny_model(model_type, **options), config=SMALL).score_input_ids([random_ids(500)])


def test_learned_positions_are_a_limit_with_a_remedy() -> None:
    scorer = LadmScorer(family("gpt2"), config=SMALL)
    assert scorer.score_input_ids([random_ids(1024)])[0].status == "ok"
    fits, too_long = scorer.score_input_ids([random_ids(1024), random_ids(1025)])
    assert fits.status == "ok"
    assert "'gpt2' model has learned positions for 1024 tokens" in too_long.status
    assert "max_length=1024" in too_long.status


def test_layers_that_share_one_attention_module_are_refused() -> None:
    model = tiny_model()
    model.layers[2].self_attn = model.layers[0].self_attn
    with pytest.raises(UnsupportedModelError, match=r"'llama'.*share one attention module.*Use a model"):
        LadmScorer(model, config=SMALL).score_input_ids([random_ids(400)])


@pytest.mark.parametrize("model_type", ["t5", "vit"])
def test_models_that_read_no_tokens_alone_are_refused(model_type: str) -> None:
    options = {"d_model": 32, "d_kv": 8, "num_layers": 1, "d_ff": 32} if model_type == "t5" else {"image_size": 32}
    with pytest.raises(UnsupportedModelError, match=f"'{model_type}'"):
        LadmScorer(tiny_model(model_type, **options), config=SMALL).score_input_ids([random_ids(400)])


def test_a_window_that_acts_through_the_mask_alone_is_found() -> None:
    model = tiny_model("phimoe", sliding_window=64, num_local_experts=2, num_experts_per_tok=1)
    with pytest.raises(NoFullAttentionError, match=r"'phimoe'.*64 tokens"):
        LadmScorer(model, config=SMALL).score_input_ids([random_ids(600)])


def test_half_precision_with_sinks_keeps_to_the_definition() -> None:
    model = family("gpt_oss")
    with torch.no_grad():
        for layer in model.layers:
            layer.self_attn.q_proj.weight.mul_(6)
            layer.self_attn.k_proj.weight.mul_(6)
    model = model.to(torch.bfloat16)
    ids = [random_ids(600)]
    naive = LadmScorer(model, config=SMALL, backend="naive").score_input_ids(ids)[0].layer_scores
    chunked = LadmScorer(model, config=SMALL, backend="chunked").score_input_ids(ids)[0].layer_scores
    assert chunked == pytest.approx(naive, rel=1e-3)


@pytest.mark.parametrize(
    ("model_type", "rope"),
    [
        ("llama", {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}),
        (
            "phi3",
            {
                "rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 512,
                "short_factor": [1.0] * 8, "long_factor": [4.0] * 8,
            },
        ),
    ],
)  # fmt: skip
def test_rotary_embeddings_that_depend_on_length_see_one_document_at_a_time(model_type: str, rope) -> None:
    model = tiny_model(model_type, max_position_embeddings=512, rope_parameters=rope)
    documents = [random_ids(n, seed=n) for n in (400, 1800, 700)]
    alone = [LadmScorer(model, config=SMALL).score_input_ids([ids])[0] for ids in documents]
    together = LadmScorer(model, config=SMALL, max_batch_tokens=100_000).score_input_ids(documents)
    assert together == alone
    again = LadmScorer(model, config=SMALL).score_input_ids(documents[::-1])
    assert again == alone[::-1]


def test_encoders_are_refused() -> None:
    # on the attention interface since transformers 5, where it is found not to be causal
    with pytest.raises(UnsupportedModelError, match=r"'bert'"):
        LadmScorer(tiny_model("bert", pad_token_id=0), config=SMALL).score_input_ids([random_ids(400)])


def test_chosen_heads_are_the_only_ones_that_count() -> None:
    model = tiny_model()
    ids = random_ids(600)
    heads = ((0, 1), (2, 3), (2, 0))
    config = LadmConfig(span_length=16, heads=heads)
    with torch.inference_mode():
        weights = model(input_ids=torch.tensor([ids]), output_attentions=True, use_cache=False).attentions
    grid, expected = SpanGrid(600, config), []
    for layer, chosen in ((0, [1]), (2, [0, 3])):
        pfs = torch.zeros(1, *grid.shape, dtype=torch.float64)
        for row, start, _ in grid.query_spans(0):
            rows = weights[layer][0, chosen, start : start + 16, :start].double()
            rows = (rows / rows.sum(-1, keepdim=True)).sum(1).mean(0)
            for column, key in enumerate(grid.key_starts(0, row)):
                pfs[0, row, column] = rows[key : key + 16].sum()
        expected.append(contextual_dependency_score(pfs, grid).item())
    (score,) = LadmScorer(model, config=config).score_input_ids([ids])
    assert score.layer_scores == pytest.approx(expected, rel=1e-4)


def test_all_heads_named_one_by_one_give_the_plain_score() -> None:
    model = tiny_model()
    heads = tuple((layer, head) for layer in range(3) for head in range(4))
    ids = [random_ids(600)]
    named = LadmScorer(model, config=LadmConfig(span_length=16, heads=heads)).score_input_ids(ids)
    plain = LadmScorer(model, config=LadmConfig(span_length=16)).score_input_ids(ids)
    assert named[0].score == pytest.approx(plain[0].score, rel=1e-6)


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        (((7, 0),), "layer 7 of a 'gemma2' model.*no layer 7"),
        (((1, 0),), "layer 1.*sliding window of 64"),
        (((0, 4),), "head 4 of layer 0.*4 heads"),
    ],
)
def test_heads_that_cannot_be_scored_are_named(heads, message: str) -> None:
    scorer = LadmScorer(family("gemma2"), config=LadmConfig(span_length=16, heads=heads))
    with pytest.raises(ConfigError, match=message):
        scorer.score_input_ids([random_ids(500)])


def test_a_live_model_is_left_as_it_was() -> None:
    model = tiny_model().train()
    model.layers[1].training = False
    LadmScorer(model, config=SMALL).score_input_ids([random_ids(400)])
    assert all(module.training for module in model.modules() if module is not model.layers[1])
    assert not model.layers[1].training
    assert model.config._attn_implementation == "eager"


def test_registration_is_idempotent_and_serves_from_config(llama_folder) -> None:
    register_attention()
    register_attention()
    model = AutoModel.from_pretrained(llama_folder, attn_implementation="ladm").eval()
    ids = torch.tensor([random_ids(100)])
    with torch.inference_mode():
        actual = model(ids).last_hidden_state
        model.set_attn_implementation("eager")
        torch.testing.assert_close(actual, model(ids).last_hidden_state, rtol=1e-4, atol=1e-4)


def test_the_attention_function_trains(llama) -> None:
    ids = torch.tensor([random_ids(64)])
    llama.set_attn_implementation("ladm") if register_attention() is None else None
    llama.train()
    llama(ids).last_hidden_state.square().mean().backward()
    assert all(weight.grad is not None for weight in llama.parameters())


def test_the_documented_registration_name() -> None:
    from transformers import AttentionInterface

    register_attention()
    assert AttentionInterface()["ladm"] is ladm_attention
    assert re.fullmatch("[a-z]+", "ladm")
