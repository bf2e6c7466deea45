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
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from ladm_hf.errors import NoFullAttentionError
from ladm_hf.ops import causal, triton_problem
from ladm_hf.ops.blockwise import blockwise_attention
from ladm_hf.ops.causal import attention_and_focus, causal_attention
from ladm_hf.scoring.layers import FAMILIES, LayerProbe, not_on_interface, note_layer
from ladm_hf.scoring.recorder import ForwardDone, Recorder

NAME = "ladm"


def ladm_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    ladm_recorder: Recorder | LayerProbe | None = None,
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
    if isinstance(ladm_recorder, LayerProbe):
        if layer is not None:
            note_layer(ladm_recorder, layer, module, query, key, value, attention_mask, scale, kwargs)
    elif ladm_recorder is not None and layer is not None and ladm_recorder.wants(layer):
        if attention_mask is not None and not _last_sees_all(attention_mask):
            raise NoFullAttentionError(
                f"layer {layer} of this model masks a document of {query.shape[2]} tokens, though it sees a short one "
                f"whole: it cannot be scored at this length. Set a smaller LadmConfig(max_length=...). {FAMILIES}"
            )
        softcap = kwargs.get("softcap")
        if ladm_recorder.is_last(layer):
            ladm_recorder.record(layer, query, key, scale, None, softcap)
            if not ladm_recorder.to_the_end:
                raise ForwardDone
            return attend(module, query, key, value, attention_mask, scale, dropout, **kwargs)[0], None
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
    # queries and keys may come in float32 from a rotary embedding: see ladm_hf.scoring.precision
    query, key = query.to(value.dtype), key.to(value.dtype)
    if kwargs.get("softcap") is not None or kwargs.get("s_aux") is not None:
        return blockwise_attention(query, key, value, attention_mask, scale, kwargs.get("softcap"), kwargs.get("s_aux"))
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
            raise not_on_interface(model) from error
        if model.config._attn_implementation != NAME:
            raise not_on_interface(model)
        yield
    finally:
        if before is not None and model.config._attn_implementation != before:
            model.set_attn_implementation(before)


def _last_sees_all(mask: Tensor) -> bool:
    """Whether the last query may attend to every key: a window or chunk would keep it from the first ones."""
    last = mask[..., -1, :]
    return bool((last if mask.dtype == torch.bool else last == 0).all())


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
