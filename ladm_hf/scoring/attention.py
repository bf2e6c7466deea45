"""The attention function "ladm": the platform's attention, and the span focus of its queries and keys.

The layer's output comes from the platform's kernel, and the span focus is computed beside it; where one kernel gives
both, from that. What the score needs travels to every layer as a keyword of the forward pass, `ladm_recorder`, a plain
object; there is no global state. A layer is scored only if it sees the whole document: sliding-window, chunked, biased
and bidirectional layers are left out, and `layer_plan` says why. The forward pass ends at the last scored layer, as
soon as its queries and keys are known.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from ladm_hf.config import LadmConfig
from ladm_hf.errors import ConfigError, NoFullAttentionError, UnsupportedModelError
from ladm_hf.ops import BACKENDS, SpanFocus, causal, triton_problem
from ladm_hf.ops.causal import attention_and_focus, causal_attention
from ladm_hf.ops.spans import SpanGrid

NAME = "ladm"
WORKS = "Models of the Llama, Mistral, Qwen, Gemma, Phi-3, OLMo and GPT-NeoX families do."
# Queries computed at once where no kernel of the platform serves (softcap, attention sinks).
QUERY_BLOCK = 256


class Recorder(Protocol):
    """What travels to the layers as `ladm_recorder`."""

    def wants(self, layer: int) -> bool: ...

    def is_last(self, layer: int) -> bool: ...

    def grid_in_attention(self, layer: int) -> SpanGrid | None:
        """The spans whose focus the layer's attention may compute by itself, for `keep`."""
        return None

    def keep(self, layer: int, pfs: Tensor) -> None:
        """Takes the PFS of all heads, `[B, H, R, S]`, in place of [`record`]."""
        raise TypeError(f"{type(self).__name__} offered no spans")

    def record(
        self, layer: int, q: Tensor, k: Tensor, scale: float, lse: Tensor | None, softcap: float | None
    ) -> None: ...


class ForwardDone(Exception):  # noqa: N818, it is no error
    """Ends a forward pass at the last scored layer: everything after its queries and keys feeds nothing."""


@dataclass(frozen=True)
class LayerPlan:
    """The layers of a model that are scored, and the reason for each that is not.

    Attributes:
        scored (`tuple[int, ...]`): layers with full attention, in order.
        skipped (`dict[int, str]`): reason for each layer left out.
        reach (`int`, *optional*): longest document that the scored layers see whole; `None` for no limit.
        num_heads (`dict[int, int]`): query heads of each scored layer.
        positions (`int`, *optional*): most tokens that the model can take at all; `None` for no limit.
    """

    scored: tuple[int, ...]
    skipped: dict[int, str]
    reach: int | None
    num_heads: dict[int, int]
    positions: int | None = None


class SpanRecorder:
    """Collects the head-averaged PFS of every scored layer during one forward pass.

    Args:
        grid ([`SpanGrid`]): spans of the documents in the batch.
        layers (`tuple[int, ...]`): layers to record.
        heads (`dict[int, list[int]]`): heads that count in each layer; a layer not named counts all of its heads.
        span_focus (`SpanFocus`): the backend.
    """

    def __init__(
        self, grid: SpanGrid, layers: tuple[int, ...], heads: dict[int, list[int]], span_focus: SpanFocus
    ) -> None:
        self.grid = grid
        self.layers = layers
        self.heads = heads
        self.span_focus = span_focus
        # layer -> [B, R, S]
        self.pfs: dict[int, Tensor] = {}

    def wants(self, layer: int) -> bool:
        return layer in self.layers

    def is_last(self, layer: int) -> bool:
        return layer == self.layers[-1]

    def grid_in_attention(self, layer: int) -> SpanGrid | None:
        return self.grid if self.wants(layer) and self.span_focus is BACKENDS["fused"] else None

    def keep(self, layer: int, pfs: Tensor) -> None:
        """Takes the PFS of all heads, `[B, H, R, S]`."""
        self.pfs[layer] = (_take(pfs, self.heads[layer]) if layer in self.heads else pfs).mean(1)

    def record(self, layer: int, q: Tensor, k: Tensor, scale: float, lse: Tensor | None, softcap: float | None) -> None:
        if layer in self.heads:
            q, k, lse = _select_heads(q, k, lse, self.heads[layer])
        self.pfs[layer] = self.span_focus(q, k, self.grid, scale, lse, softcap).mean(1)


@dataclass
class _LayerProbe:
    """Notes every layer that reaches the attention function, and why it cannot be scored where it cannot."""

    reasons: dict[int, str | None] = field(default_factory=dict)
    shared: bool = False
    windows: dict[int, int] = field(default_factory=dict)
    num_heads: dict[int, int] = field(default_factory=dict)


def ladm_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    ladm_recorder: Recorder | _LayerProbe | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The attention function registered as "ladm" in transformers' `AttentionInterface`.

    Without a recorder it is the platform's attention and nothing else, softcap and attention sinks included.

    Args:
        query (`Tensor` `[B, H, T, D]`), key and value (`Tensor` `[B, Hkv, S, D]`): after the rotary embedding.
        attention_mask (`Tensor` `[B, 1, T, S]`, *optional*): `True` attends; `None` is causal.
        ladm_recorder ([`SpanRecorder`], *optional*): receives the queries and keys of the layers it wants, or their
            PFS where the attention's kernel gives it.

    Returns:
        The attention output `[B, T, H, D]` and `None` in place of the weights.
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
    layer = getattr(module, "layer_idx", None)
    if isinstance(ladm_recorder, _LayerProbe):
        if layer is not None:
            _note_layer(ladm_recorder, layer, module, query, key, attention_mask, kwargs)
    elif ladm_recorder is not None and layer is not None and ladm_recorder.wants(layer):
        if attention_mask is not None and not _last_sees_all(attention_mask):
            raise NoFullAttentionError(
                f"layer {layer} of this model masks a document of {query.shape[2]} tokens, though it sees a short one "
                f"whole: it cannot be scored at this length. Set a smaller LadmConfig(max_length=...). {WORKS}"
            )
        softcap = kwargs.get("softcap")
        if ladm_recorder.is_last(layer):
            ladm_recorder.record(layer, query, key, scale, None, softcap)
            raise ForwardDone
        if _is_plain_causal(module, query, key, attention_mask, dropout, kwargs):
            focused = focused_attention(layer, query, key, value, scale, ladm_recorder)
            if focused is not None:
                return focused.transpose(1, 2).contiguous(), None
        output, lse = attend(module, query, key, value, attention_mask, scale, dropout, **kwargs)
        ladm_recorder.record(layer, query, key, scale, lse, softcap)
        return output, None
    return attend(module, query, key, value, attention_mask, scale, dropout, **kwargs)[0], None


def focused_attention(
    layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float, recorder: Recorder
) -> Tensor | None:
    """Plain causal attention from a kernel that gives the span focus too, which the recorder keeps.

    Returns:
        The output `[B, H, T, D]`, or `None` where there is no such kernel or the recorder wants no focus.
    """
    grid = recorder.grid_in_attention(layer)
    focused = None if grid is None else attention_and_focus(query, key, value, scale, grid)
    if focused is None:
        return None
    output, _, pfs = focused
    recorder.keep(layer, pfs)
    return output


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scale: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """The platform's attention and, where its kernel gives it, the log-sum-exp over the causal keys.

    Returns:
        The output `[B, T, H, D]`, and the log-sum-exp `[B, H, T]` in fp32 (natural logarithm, attention sinks left
        out) or `None`.
    """
    if kwargs.get("softcap") is not None or kwargs.get("s_aux") is not None:
        return _blockwise_attention(
            query, key, value, attention_mask, scale, kwargs.get("softcap"), kwargs.get("s_aux")
        )
    if _is_plain_causal(module, query, key, attention_mask, dropout, kwargs):
        attended = causal_attention(query, key, value, scale)
        if attended is not None:
            output, lse = attended
            return output.transpose(1, 2).contiguous(), lse
    output, _ = sdpa_attention_forward(
        module, query, key, value, attention_mask, dropout=dropout, scaling=scale, **kwargs
    )
    return output, None


def describe(device: str | torch.device) -> str:
    """One line for people: the attention kernel of a device, and the backend that `"auto"` takes there.

    Args:
        device (`str` or `torch.device`): for instance `"cuda:0"` or `"cpu"`.
    """
    device = torch.device(device)
    problem = triton_problem(device)
    reason = f": {problem}" if problem and device.type == "cuda" else ""
    return f"{causal.describe(device)}; span focus by {'PyTorch (chunked)' if problem else 'Triton (fused)'}{reason}"


def register_attention() -> None:
    """Registers "ladm" with transformers' attention and mask interfaces. Idempotent.

    After it, `model.set_attn_implementation("ladm")` and `from_pretrained(..., attn_implementation="ladm")` work for
    every model on transformers' attention interface. [`LadmScorer`] calls it by itself.
    """
    AttentionInterface.register(NAME, ladm_attention)
    # Without a mask function of that name the mask would be None whatever the padding or window.
    AttentionMaskInterface.register(NAME, sdpa_mask)


@contextlib.contextmanager
def scoring_attention(model: PreTrainedModel) -> Iterator[None]:
    """Switches a model to the "ladm" attention and back.

    Raises:
        UnsupportedModelError: the model does not use transformers' attention interface.
    """
    register_attention()
    before = model.config._attn_implementation
    try:
        try:
            model.set_attn_implementation(NAME)
        except (ValueError, AttributeError) as error:
            raise _not_on_interface(model) from error
        if model.config._attn_implementation != NAME:
            raise _not_on_interface(model)
        yield
    finally:
        if before is not None and model.config._attn_implementation != before:
            model.set_attn_implementation(before)


@torch.inference_mode()
def layer_plan(model: PreTrainedModel) -> LayerPlan:
    """Finds the layers that can be scored, by one forward pass over a few tokens.

    The model must be under [`scoring_attention`].

    Raises:
        UnsupportedModelError: no layer reached the attention function, or several that cannot be told apart.
        NoFullAttentionError: every layer that did sees only a part of the document.
    """
    probe = _LayerProbe()
    ids = torch.zeros(1, 8, dtype=torch.long, device=model.device)
    try:
        model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, ladm_recorder=probe)
    except (TypeError, ValueError, AttributeError) as error:
        # a forward pass that takes no keywords for its layers, or no token ids alone
        raise _not_on_interface(model) from error
    model_type = model.config.model_type
    if not probe.reasons:
        raise _not_on_interface(model)
    if probe.shared:
        raise UnsupportedModelError(
            f"layers of this {model_type!r} model share one attention module, which does not say which of them it "
            f"works for, so their scores cannot be told apart. Use a model whose layers have their own. {WORKS}"
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
                f"score. Use a model with full attention in some layers. {WORKS}"
            )
        # Every layer slides over the same document: up to the window they all see everything.
        scored, reach = tuple(sorted(probe.windows)), min(probe.windows.values())
        skipped = {layer: reason for layer, reason in skipped.items() if layer not in scored}
    num_heads = {layer: probe.num_heads[layer] for layer in scored}
    return LayerPlan(scored, skipped, reach, num_heads, _learned_positions(model))


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
            f"model with full attention in some layers. {WORKS}"
        )


def _note_layer(
    probe: _LayerProbe,
    layer: int,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    mask: Tensor | None,
    kwargs: dict[str, Any],
) -> None:
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
    if window is not None or kind == "sliding_attention":
        reason: str | None = f"sliding window of {window} tokens" if window is not None else "sliding window"
        if window is not None:
            probe.windows[layer] = int(window)
    elif kind not in ("full_attention", "attention", "hybrid"):
        reason = kind.replace("_", " ")
    elif kwargs.get("position_bias") is not None:
        reason = "position bias added to the logits"
    elif (
        query.shape[2] != key.shape[2]
        or mask is not None
        or not (causal if causal is not None else getattr(module, "is_causal", True))
    ):
        reason = "not plain causal attention"
    else:
        reason = None
    probe.reasons[layer] = reason
    probe.num_heads[layer] = query.shape[1]


def _last_sees_all(mask: Tensor) -> bool:
    """Whether the last query may attend to every key: a window or chunk would keep it from the first ones."""
    last = mask[..., -1, :]
    return bool((last if mask.dtype == torch.bool else last == 0).all())


def _learned_positions(model: PreTrainedModel) -> int | None:
    """Rows of a model's table of learned positions, which nothing can be read beyond; `None` for other models."""
    config = model.config.get_text_config()
    rotary = any(getattr(config, name, None) is not None for name in ("rope_parameters", "rope_theta", "rope_scaling"))
    limit = getattr(config, "max_position_embeddings", None)
    return None if rotary or limit is None else int(limit)


def _not_on_interface(model: PreTrainedModel) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"model type {model.config.model_type!r} does not pass its queries and keys through transformers' attention "
        f"interface, so its attention cannot be scored. {WORKS}"
    )


def _select_heads(q: Tensor, k: Tensor, lse: Tensor | None, heads: list[int]) -> tuple[Tensor, Tensor, Tensor | None]:
    """Keeps the query heads named, and their KV heads, one for each query head where groups are broken up."""
    group = q.shape[1] // k.shape[1]
    return _take(q, heads), _take(k, [head // group for head in heads]), None if lse is None else _take(lse, heads)


def _take(x: Tensor, heads: list[int]) -> Tensor:
    """Some heads of `[B, H, ...]`."""
    if x.device.type != "cuda":
        return x[:, torch.tensor(heads, device=x.device)]
    # Indices on the host, or sending them would wait for the device: a view where the heads stand together.
    if heads == list(range(heads[0], heads[0] + len(heads))):
        return x[:, heads[0] : heads[-1] + 1]
    return torch.cat([x[:, head : head + 1] for head in heads], dim=1)


def _is_plain_causal(
    module: nn.Module, query: Tensor, key: Tensor, mask: Tensor | None, dropout: float, kwargs: dict[str, Any]
) -> bool:
    """Whether a call is nothing but causal attention of a whole document, without a gradient."""
    causal = kwargs.get("is_causal")
    return (
        mask is None
        and dropout == 0.0
        and all(kwargs.get(name) is None for name in ("position_bias", "softcap", "s_aux"))
        and query.shape[2] == key.shape[2] > 1
        and (causal if causal is not None else getattr(module, "is_causal", True))
        and not (torch.is_grad_enabled() and query.requires_grad)
    )


def _blockwise_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scale: float,
    softcap: float | None,
    sinks: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Attention with softcap and sinks, which PyTorch's kernels lack, a block of queries at a time."""
    heads, length, keys = query.shape[1], query.shape[2], key.shape[2]
    dtype = torch.promote_types(query.dtype, torch.float32)
    # [B, H, S, D]
    key = key.repeat_interleave(heads // key.shape[1], dim=1)
    value = value.repeat_interleave(heads // value.shape[1], dim=1)
    positions = torch.arange(keys, device=query.device)
    outputs, lses = [], []
    for start in range(0, length, QUERY_BLOCK):
        stop = min(start + QUERY_BLOCK, length)
        # a plain causal block needs only the keys up to its own end
        limit = keys if mask is not None else keys - length + stop
        # in fp32: a log-sum-exp of logits rounded to half precision would not fit those of the span focus
        logits = query[:, :, start:stop].to(dtype) @ key[:, :, :limit].to(dtype).transpose(2, 3) * scale
        if softcap is not None:
            logits = logits.div_(softcap).tanh_().mul_(softcap)
        if mask is None:
            allowed = positions[:limit] <= positions[keys - length + start : keys - length + stop, None]
        else:
            allowed = mask[:, :, start:stop, :limit]
        if allowed.dtype == torch.bool:
            logits = logits.masked_fill_(~allowed, -torch.inf)
        else:
            logits = logits + allowed
        lse = logits.logsumexp(-1)
        lses.append(lse)
        if sinks is not None:
            lse = torch.logaddexp(lse, sinks.to(dtype).view(1, -1, 1).expand_as(lse))
        # a row that may attend to nothing gets nothing
        lse = lse.masked_fill(lse == -torch.inf, 0.0)
        weights = logits.sub_(lse.unsqueeze(-1)).exp_()
        outputs.append(weights.to(value.dtype) @ value[:, :, :limit])
    return torch.cat(outputs, 2).transpose(1, 2).contiguous(), torch.cat(lses, 2)
