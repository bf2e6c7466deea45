"""The model that a recipe trains: a new one, or a base with another rotary base, perhaps expanded."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
)

from ladm_hf.errors import ConfigError
from ladm_hf.scoring.attention import scoring_attention
from ladm_hf.scoring.layers import layer_plan
from ladm_hf.training.expansion import expand
from ladm_hf.training.recipe import Architecture, Recipe


def build_model(base: str | Path | None, architecture: Architecture | None, recipe: Recipe) -> PreTrainedModel:
    """The model to train: a base with its rotary base changed, perhaps expanded, or a new one.

    Raises:
        ConfigError: a supervised layer is not one of the model's layers with full attention, a view names a head that
            such a layer does not have, or the base cannot be expanded to the architecture.
    """
    torch.manual_seed(recipe.seed)
    if base is None:
        architecture = architecture or Architecture()
        config = LlamaConfig(
            **asdict(architecture),
            max_position_embeddings=recipe.max_position_embeddings,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=0,
            pad_token_id=0,
        )
        _set_rope_theta(config, recipe.rope_theta or 500_000.0)
        model: PreTrainedModel = LlamaForCausalLM(config)
    else:
        config = AutoConfig.from_pretrained(base, trust_remote_code=False)
        if recipe.rope_theta is not None:
            _set_rope_theta(config, recipe.rope_theta)
        config.max_position_embeddings = max(recipe.max_position_embeddings, config.max_position_embeddings)
        model = AutoModelForCausalLM.from_pretrained(
            base, config=config, dtype=torch.float32, trust_remote_code=False, use_safetensors=True
        )
        if architecture is not None:
            _check_expansion(Architecture.of(config), architecture)
            model = expand(model, architecture.num_hidden_layers, architecture.intermediate_size)
    if recipe.focus_layers:
        _check_focus(model, recipe)
    return model


def _check_expansion(base: Architecture, asked: Architecture) -> None:
    for name in ("vocab_size", "hidden_size", "num_attention_heads", "num_key_value_heads"):
        if getattr(base, name) != getattr(asked, name):
            raise ConfigError(
                f"a base is expanded in num_hidden_layers and intermediate_size alone, but {name} is "
                f"{getattr(base, name)} in the base and {getattr(asked, name)} in the architecture"
            )


def _check_focus(model: PreTrainedModel, recipe: Recipe) -> None:
    with scoring_attention(model):
        plan = layer_plan(model)
    missing = sorted(set(recipe.focus_layers) - set(plan.scored))
    if missing:
        raise ConfigError(
            f"focus_layers names layer {missing[0]}, but the layers with full attention are {plan.scored}"
        )
    fewest = min(plan.num_heads[layer] for layer in recipe.focus_layers)
    wrong = [head for _, heads in recipe.focus_views for head in heads or () if not 0 <= head < fewest]
    if wrong:
        raise ConfigError(f"focus_views names head {wrong[0]}, but the heads of a layer are 0 to {fewest - 1}")


def _set_rope_theta(config: PretrainedConfig, theta: float) -> None:
    # transformers 5 keeps it in a dictionary, 4.57 beside the others
    if hasattr(config, "rope_parameters"):
        config.rope_parameters = {"rope_type": "default", **(config.rope_parameters or {}), "rope_theta": theta}
    else:
        config.rope_theta = theta
