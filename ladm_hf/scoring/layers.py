"""The layers of a model that are scored, found by one forward pass over a few tokens, and why the others are not."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ladm_hf.config import LadmConfig
from ladm_hf.errors import ConfigError, LadmError, NoFullAttentionError, UnsupportedModelError
from ladm_hf.text import one_line

FAMILIES = "Models of the Llama, Mistral, Qwen, Gemma, Phi-3, OLMo and GPT-NeoX families do."


@dataclass(frozen=True)
class AttentionCall:
    """What one layer asks of the attention function.

    Attributes:
        num_heads, num_key_heads, head_dim (`int`): of its queries and keys.
        scale (`float`): of the logits.
        window (`int`, *optional*): keys that a query sees, itself among them; `None` for all before it.
        plain (`bool`): whether it is causal attention within that window and nothing else: no softcap, sinks or bias.
    """

    num_heads: int
    num_key_heads: int
    head_dim: int
    scale: float
    window: int | None
    plain: bool


@dataclass(frozen=True)
class LayerPlan:
    """The layers of a model that are scored, and the reason for each that is not.

    Attributes:
        scored (`tuple[int, ...]`): layers with full attention, in order.
        skipped (`dict[int, str]`): reason for each layer left out.
        reach (`int`, *optional*): longest document that the scored layers see whole; `None` for no limit.
        num_heads (`dict[int, int]`): query heads of each scored layer.
        positions (`int`, *optional*): most tokens that the model can take at all; `None` for no limit.
        calls (`dict[int, AttentionCall]`): of every layer with attention, scored or not.
    """

    scored: tuple[int, ...]
    skipped: dict[int, str]
    reach: int | None
    num_heads: dict[int, int]
    positions: int | None = None
    calls: dict[int, AttentionCall] = field(default_factory=dict)


@dataclass
class LayerProbe:
    """Notes every layer that reaches the attention function, and why it cannot be scored where it cannot."""

    reasons: dict[int, str | None] = field(default_factory=dict)
    shared: bool = False
    windows: dict[int, int] = field(default_factory=dict)
    calls: dict[int, AttentionCall] = field(default_factory=dict)
    # the module that called, and its keys [B, Hkv, T, D]
    keys: dict[int, tuple[nn.Module, Tensor]] = field(default_factory=dict)


@torch.inference_mode()
def layer_plan(model: PreTrainedModel) -> LayerPlan:
    """Finds the layers that can be scored, by one forward pass over a few tokens.

    The model must be under [`scoring_attention`].

    Raises:
        UnsupportedModelError: no layer reached the attention function, or several that cannot be told apart.
        NoFullAttentionError: every layer that did sees only a part of the document.
    """
    probe = LayerProbe()
    ids = torch.zeros(1, 8, dtype=torch.long, device=model.device)
    try:
        model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, ladm_recorder=probe)
    except (TypeError, ValueError, AttributeError) as error:
        # a forward pass that takes no keywords for its layers, or no token ids alone
        raise not_on_interface(model, error) from error
    except (RuntimeError, ImportError, LookupError, ArithmeticError, AssertionError) as error:
        # kernels that are not there for this device or dtype, weights that do not fit together
        if isinstance(error, LadmError):
            raise
        reason = one_line(str(error), 300)
        raise UnsupportedModelError(
            f"a forward pass of this {model.config.model_type!r} model in {model.dtype} on {model.device} failed, so "
            f"its attention cannot be scored: {type(error).__name__}: {reason}"
        ) from error
    model_type = model.config.model_type
    if not probe.reasons:
        raise not_on_interface(model)
    if probe.shared:
        raise UnsupportedModelError(
            f"layers of this {model_type!r} model share one attention module, which does not say which of them it "
            f"works for, so their scores cannot be told apart. Use a model whose layers have their own. {FAMILIES}"
        )
    total = getattr(model.config.get_text_config(), "num_hidden_layers", None) or max(probe.reasons) + 1
    scored = tuple(sorted(layer for layer, reason in probe.reasons.items() if reason is None))
    skipped = {
        layer: probe.reasons.get(layer, "it has no softmax attention") or ""
        for layer in range(max(total, max(probe.reasons) + 1))
        if layer not in scored
    }
    reach = None
    if not scored:
        if set(probe.windows) != set(probe.reasons):
            reasons = ", ".join(sorted(set(skipped.values())))
            raise NoFullAttentionError(
                f"no layer of this {model_type!r} model sees the whole document ({reasons}), so there is nothing to "
                f"score. Use a model with full attention in some layers. {FAMILIES}"
            )
        # Every layer slides over the same document: up to the window they all see everything.
        scored, reach = tuple(sorted(probe.windows)), min(probe.windows.values())
        skipped = {layer: reason for layer, reason in skipped.items() if layer not in scored}
    num_heads = {layer: probe.calls[layer].num_heads for layer in scored}
    return LayerPlan(scored, skipped, reach, num_heads, _learned_positions(model), probe.calls)


def chosen_heads(plan: LayerPlan, config: LadmConfig, model_type: str) -> tuple[tuple[int, ...], dict[int, list[int]]]:
    """The layers to record and the heads that count in each, from the plan and `config.heads`.

    Raises:
        ConfigError: a head named in the config does not exist or its layer cannot be scored.
    """
    if config.heads is None:
        return plan.scored, {}
    heads: dict[int, list[int]] = {}
    for layer, head in config.heads:
        if layer not in plan.scored:
            reason = plan.skipped.get(layer, f"the model has no layer {layer}")
            raise ConfigError(f"heads names layer {layer} of a {model_type!r} model, which cannot be scored: {reason}")
        if head >= plan.num_heads[layer]:
            raise ConfigError(
                f"heads names head {head} of layer {layer}, but that {model_type!r} layer has "
                f"{plan.num_heads[layer]} heads"
            )
        heads.setdefault(layer, []).append(head)
    return tuple(sorted(heads)), heads


def check_reach(plan: LayerPlan, num_tokens: int, model_type: str) -> None:
    """Refuses a document that no layer sees whole.

    Raises:
        NoFullAttentionError: every layer is a sliding window shorter than the document.
    """
    if plan.reach is not None and num_tokens > plan.reach:
        raise NoFullAttentionError(
            f"every layer of this {model_type!r} model attends within a sliding window of {plan.reach} tokens, so none "
            f"sees the whole of a document of {num_tokens}. Set LadmConfig(max_length={plan.reach}) or less, or use a "
            f"model with full attention in some layers. {FAMILIES}"
        )


def note_layer(
    probe: LayerProbe,
    layer: int,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scale: float,
    kwargs: dict[str, Any],
) -> None:
    """Notes one call of the attention function in a forward pass over a few tokens."""
    if query.shape[1] % key.shape[1]:
        # kernels divide the one by the other, and some take the process with them
        raise UnsupportedModelError(
            f"layer {layer} of this model has {query.shape[1]} query heads and {key.shape[1]} key heads, which do not "
            "divide them: correct num_attention_heads or num_key_value_heads in its config.json"
        )
    # an attention module without a layer of its own has the number -1
    probe.shared |= layer < 0 or layer in probe.reasons
    config = getattr(module, "config", None)
    kinds = getattr(config, "layer_types", None)
    kind = kinds[layer] if kinds and layer < len(kinds) else "full_attention"
    window = kwargs.get("sliding_window")
    if not kinds and "sliding_window" not in kwargs and getattr(config, "use_sliding_window", True):
        # a window that the model applies through its mask alone, which a short probe does not show
        window = getattr(config, "sliding_window", None)
    causal = kwargs.get("is_causal")
    causal = causal if causal is not None else getattr(module, "is_causal", True)
    if window is not None or kind == "sliding_attention":
        reason: str | None = f"sliding window of {window} tokens" if window is not None else "sliding window"
        if window is not None:
            probe.windows[layer] = int(window)
    elif kind not in ("full_attention", "attention", "hybrid"):
        reason = kind.replace("_", " ")
    elif kwargs.get("position_bias") is not None:
        reason = "position bias added to the logits"
    elif query.shape[2] != key.shape[2] or mask is not None or not causal:
        reason = "not plain causal attention"
    else:
        reason = None
    probe.reasons[layer] = reason
    probe.keys[layer] = module, key
    probe.calls[layer] = AttentionCall(
        num_heads=query.shape[1],
        num_key_heads=key.shape[1],
        head_dim=query.shape[3],
        scale=scale,
        window=probe.windows.get(layer),
        plain=(reason is None or layer in probe.windows)
        and causal
        and query.shape[2:] == key.shape[2:] == value.shape[2:]
        and all(kwargs.get(name) is None for name in ("softcap", "s_aux", "position_bias")),
    )


def _learned_positions(model: PreTrainedModel) -> int | None:
    """Rows of a model's table of learned positions, which nothing can be read beyond; `None` for other models."""
    config = model.config.get_text_config()
    rotary = any(getattr(config, name, None) is not None for name in ("rope_parameters", "rope_theta", "rope_scaling"))
    limit = getattr(config, "max_position_embeddings", None)
    return None if rotary or limit is None else int(limit)


def not_on_interface(model: PreTrainedModel, error: Exception | None = None) -> UnsupportedModelError:
    reason = (
        "" if error is None else f" (its forward pass ended in {type(error).__name__}: {one_line(str(error), 200)})"
    )
    return UnsupportedModelError(
        f"model type {model.config.model_type!r} does not pass its queries and keys through transformers' attention "
        f"interface, so its attention cannot be scored{reason}. {FAMILIES}"
    )
