from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from ladm_hf.errors import ConfigError
from ladm_hf.training.expansion import expand


def small(model_type: str, **options):
    torch.manual_seed(0)
    sizes = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **sizes | options)).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 2 and "norm" not in name:
                weight.mul_(4.0)
            elif name.endswith("bias"):
                weight.normal_()
    return model


@pytest.mark.parametrize(
    ("model_type", "options"),
    [
        ("llama", {"tie_word_embeddings": True}),
        ("llama", {"mlp_bias": True, "attention_bias": True}),
        ("qwen2", {}),
        ("qwen3", {"head_dim": 16}),
        ("mistral", {}),
    ],
)
@pytest.mark.parametrize(("layers", "width"), [(3, 80), (4, 48), (6, 96)])
def test_expansion_keeps_the_logits(model_type, options, layers, width) -> None:
    model = small(model_type, **options)
    larger = expand(model, layers, width)
    ids = torch.randint(0, 97, (2, 60))
    with torch.no_grad():
        assert torch.allclose(larger(ids).logits, model(ids).logits, atol=1e-4)
    assert type(larger) is type(model)
    assert (larger.config.num_hidden_layers, larger.config.intermediate_size) == (layers, width)
    assert larger.num_parameters() > model.num_parameters()
    assert (model.config.num_hidden_layers, model.config.intermediate_size) == (3, 48)


def test_new_layers_are_in_the_middle_and_learn_with_new_units() -> None:
    model = small("llama")
    larger = expand(model, 5, 64)
    old = [layer.self_attn.q_proj.weight for layer in model.model.layers]
    new = [layer.self_attn.q_proj.weight for layer in larger.model.layers]
    assert [torch.equal(new[i], old[j]) for i, j in ((0, 0), (3, 1), (4, 2))] == [True] * 3
    larger(torch.randint(0, 97, (1, 40))).logits.square().mean().backward()
    middle, first = larger.model.layers[1], larger.model.layers[0]
    assert middle.self_attn.o_proj.weight.grad.abs().sum() > 0
    assert middle.mlp.down_proj.weight.grad.abs().sum() > 0
    assert first.mlp.down_proj.weight.grad[:, 48:].abs().sum() > 0


def test_nothing_to_add_gives_the_model_itself() -> None:
    model = small("llama")
    assert expand(model, 3, 48) is model


def test_what_cannot_be_expanded_is_refused() -> None:
    with pytest.raises(ConfigError, match="num_hidden_layers must be at least the base's 3"):
        expand(small("llama"), 2, 64)
    with pytest.raises(ConfigError, match="intermediate_size must be at least the base's 48"):
        expand(small("llama"), 3, 32)
    with pytest.raises(ConfigError, match="'gpt_neox' cannot be expanded"):
        expand(small("gpt_neox"), 4, 64)
