"""One forward pass of a model over a few tokens, watched: what its layers call, on what, and what comes out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from ladm_hf.scoring.attention import scoring_attention
from ladm_hf.scoring.layers import LayerProbe

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOKENS = 8
# Positions that a pass spans where a model does not say how many it knows.
POSITIONS = 32_768


class Seen(NamedTuple):
    """One call of a module: hidden states before and after."""

    module: nn.Module
    input: Tensor
    output: Tensor


class Observation(NamedTuple):
    """What a watched pass has shown.

    Attributes:
        calls (`dict`): calls of the children of a module, in their order.
        keys (`dict[int, tuple[nn.Module, Tensor]]`): module and keys `[B, Hkv, T, D]` at the attention function, by
            layer.
        hidden (`Tensor` `[B, T, C]`): last hidden states.
        positions (`Tensor` `[T]`): of the tokens.
        position_axes (`tuple[int, ...]`): what precedes `[B, T]` in the shape of the positions that the rotary
            embedding takes: `(3,)` (time, height, width) for the multimodal one of Qwen3.5, else `()`.
    """

    calls: dict[nn.Module, list[Seen]]
    keys: dict[int, tuple[nn.Module, Tensor]]
    hidden: Tensor
    positions: Tensor
    position_axes: tuple[int, ...]


def observe(model: PreTrainedModel, base: nn.Module) -> Observation:
    """Watches a decoder, its layers and their parts in one forward pass of the model.

    Args:
        model (`PreTrainedModel`): in evaluation mode.
        base (`nn.Module`): its decoder.
    """
    calls: dict[nn.Module, list[Seen]] = defaultdict(list)
    layers = [layer for child in base.children() if isinstance(child, nn.ModuleList) for layer in child]
    # of the parts of a layer's parts norms alone are of interest
    parts = [(base, child) for child in base.children()] + [(base, layer) for layer in layers]
    parts += [(layer, child) for layer in layers for child in layer.children()]
    blocks = [block for layer in layers for block in layer.children()]
    parts += [(block, child) for block in blocks for child in block.children() if is_norm_like(child)]
    ids, positions = sample(model, TOKENS)
    probe = LayerProbe()
    axes: list[tuple[int, ...]] = []

    def note_axes(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # what is not floating point is positions
        given = (x for x in (*args, *kwargs.values()) if isinstance(x, Tensor) and not x.is_floating_point())
        axes.extend(tuple(x.shape[:-2]) for x in given)

    with ExitStack() as hooks, scoring_attention(model):
        for parent, child in parts:
            handle = child.register_forward_hook(_noting(calls[parent]), with_kwargs=True)
            hooks.callback(handle.remove)
        if isinstance(rotary := getattr(base, "rotary_emb", None), nn.Module):
            hooks.callback(rotary.register_forward_pre_hook(note_axes, with_kwargs=True).remove)
        output = model.base_model(
            input_ids=ids, attention_mask=torch.ones_like(ids), position_ids=positions.expand(len(ids), -1),
            use_cache=False, ladm_recorder=probe,
        )  # fmt: skip
    return Observation(calls, probe.keys, output.last_hidden_state, positions, axes[0] if axes else ())


def sample(model: PreTrainedModel, tokens: int) -> tuple[Tensor, Tensor]:
    """Token ids `[2, T]`, and positions `[T]` far apart, so that what depends on a position shows at every position."""
    vocabulary = model.get_input_embeddings().weight.shape[0]
    # two rows, so that a confusion of batch and length shows
    ids = torch.arange(2 * tokens, device=model.device).mul_(7919).remainder_(vocabulary).view(2, -1)
    known = getattr(model.config.get_text_config(), "max_position_embeddings", None) or POSITIONS
    return ids, torch.arange(tokens, device=model.device) * max(1, (known - 1) // max(1, tokens - 1))


def is_norm_like(module: nn.Module) -> bool:
    """Whether a module is one of no parts that has vectors for weights, or none."""
    return not any(True for _ in module.children()) and all(weight.dim() <= 1 for weight in module.parameters())


def _noting(calls: list[Seen]) -> Callable[..., None]:
    """A hook that notes calls, with copies of what may be added to in place."""

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        given = [x for x in (*args, kwargs.get("hidden_states"), *kwargs.values()) if _is_values(x)]
        found = output[0] if isinstance(output, tuple) and output else output
        if given and _is_values(found):
            calls.append(Seen(module, given[0].clone(), found.clone()))

    return note


def _is_values(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point()
