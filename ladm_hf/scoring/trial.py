"""Whether the fast forward pass stands in for a model's own: it is tried when the model is loaded.

Queries, keys and last hidden states of both are compared on a small input, at positions up to the last that the model
knows and beyond its sliding windows; a model for which anything is unusual keeps its own.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ladm_hf.errors import BackendError
from ladm_hf.ops import triton_runs_on
from ladm_hf.scoring.architecture import UnknownPart
from ladm_hf.scoring.attention import scoring_attention
from ladm_hf.scoring.decoder import DecoderForward, has_hooks, modules_of
from ladm_hf.scoring.layers import LayerPlan
from ladm_hf.scoring.observation import sample
from ladm_hf.scoring.recorder import Recorder

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)
# Tokens of the comparison, so many beyond the widest window, unless that is wider than the last; and how far
# queries, keys and last hidden states may be off, relative to their norm: so much for every so many layers, over which
# roundings add up.
TRIAL_TOKENS, MOST_TRIAL_TOKENS = 192, 8192
TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
TOLERANCE_LAYERS = 16


def decoder_forward(model: PreTrainedModel, plan: LayerPlan) -> DecoderForward | None:
    """The fast forward pass of a model, or `None` where its own must do.

    Args:
        model (`PreTrainedModel`): on its device, in evaluation mode.
        plan ([`LayerPlan`]): which of its layers are scored, and what they ask of the attention function.
    """
    try:
        return _tried(model, plan)
    except UnknownPart as unknown:
        # nothing that a user could mend, but for kernels that fail
        level = logging.INFO if unknown.__cause__ is None else logging.WARNING
        logger.log(level, "%s uses its own forward pass: %s", model.config.model_type, unknown)
        return None


def float8_forward(model: PreTrainedModel, plan: LayerPlan) -> DecoderForward:
    """The fast forward pass of a model in bfloat16, its linear layers in float8.

    Raises:
        BackendError: it has none, or a linear layer does not suit.
    """
    try:
        forward = _tried(model, plan)
        forward.to_float8()
        # each product has been compared with its own; how far their roundings lead is the model's
        if not math.isfinite(disagreement(model, forward, plan)):
            raise UnknownPart("it gives no numbers on a trial input")
    except UnknownPart as unknown:
        raise BackendError(
            f"dtype='float8' cannot be had of this {model.config.model_type!r} model: {unknown}. Use dtype='bfloat16'"
        ) from unknown
    return forward


def _tried(model: PreTrainedModel, plan: LayerPlan) -> DecoderForward:
    """The fast forward pass of a model, compared with its own.

    Raises:
        UnknownPart: there is none; with a cause, where a kernel failed.
    """
    if reason := _unsuitable(model):
        raise UnknownPart(reason)
    try:
        forward = DecoderForward(model, plan)
    except (UnknownPart, torch.OutOfMemoryError):
        raise
    except Exception as failure:  # parts of a model raise what they like when they are tried
        raise UnknownPart(f"it could not be read ({type(failure).__name__}: {failure})") from None
    try:
        error = disagreement(model, forward, plan)
    except torch.OutOfMemoryError:
        raise
    except Exception as failure:  # Triton raises what its compiler and driver raise
        raise UnknownPart(f"the fast one failed ({failure})") from failure
    if not error <= TOLERANCE[model.dtype] * max(1.0, len(forward.decoder.layers) / TOLERANCE_LAYERS):
        raise UnknownPart(f"the fast one is off by {error:.1e} on a trial input")
    return forward


def _unsuitable(model: PreTrainedModel) -> str:
    """What keeps a model from the fast forward pass whatever its shape, or ''."""
    if not triton_runs_on(model.device):
        return "it needs Triton and a GPU of capability 8.0 or newer"
    base = model.get_decoder()
    if not type(base).__module__.startswith("transformers.models."):
        return f"{type(base).__name__} is no model of transformers"
    if model.dtype not in TOLERANCE:
        return f"no kernels for {model.dtype}"
    if len({tensor.device for tensor in [*base.parameters(), *base.buffers()]}) > 1:
        return "its weights are on several devices"
    if len({weight.dtype for weight in base.parameters()}) > 1:
        return "its weights are of several dtypes"
    return "it has hooks" if has_hooks(modules_of(base)) else ""


class _Catch(Recorder):
    """A recorder that keeps the queries and keys of every scored layer, and lets the pass run to its end."""

    to_the_end = True

    def __init__(self, layers: tuple[int, ...]) -> None:
        self.layers = layers
        self.caught: list[Tensor] = []

    def wants(self, layer: int) -> bool:
        return layer in self.layers

    def is_last(self, layer: int) -> bool:
        return layer == self.layers[-1]

    def record(self, layer: int, q: Tensor, k: Tensor, scale: float, lse: Tensor | None, softcap: float | None) -> None:
        self.caught += [scale * q, k]


class _Compare(_Catch):
    """A recorder that compares queries and keys with those that another has kept."""

    def __init__(self, other: _Catch) -> None:
        super().__init__(other.layers)
        self.others = iter(other.caught)
        self.errors: list[Tensor] = []

    def record(self, layer: int, q: Tensor, k: Tensor, scale: float, lse: Tensor | None, softcap: float | None) -> None:
        self.compare(scale * q)
        self.compare(k)

    def compare(self, mine: Tensor) -> None:
        other = next(self.others).double()
        self.errors.append((mine.double() - other).norm() / other.norm())


@torch.inference_mode()
def disagreement(model: PreTrainedModel, forward: DecoderForward, plan: LayerPlan) -> float:
    """Relative difference of queries, keys and last hidden states between the fast forward pass and the model's own."""
    ids, positions = sample(model, _trial_tokens(plan))
    own = _Catch(plan.scored)
    with scoring_attention(model):
        output = model.base_model(
            input_ids=ids, attention_mask=torch.ones_like(ids), position_ids=positions.expand(2, -1),
            use_cache=False, ladm_recorder=own,
        )  # fmt: skip
    own.caught.append(output.last_hidden_state)
    fast = _Compare(own)
    hidden = forward(ids, fast, positions)
    assert hidden is not None
    fast.compare(hidden)
    errors = torch.stack(fast.errors)
    # a maximum may lose a nan
    return float("inf") if errors.isnan().any() else float(errors.max())


def _trial_tokens(plan: LayerPlan) -> int:
    """Enough for sliding windows to slide, no more than layers that are scored see."""
    if plan.reach is not None:
        return min(TRIAL_TOKENS, plan.reach)
    windows = [call.window for call in plan.calls.values() if call.window is not None]
    beyond = [window + TRIAL_TOKENS for window in windows if window + TRIAL_TOKENS <= MOST_TRIAL_TOKENS]
    return max([TRIAL_TOKENS, *beyond])
