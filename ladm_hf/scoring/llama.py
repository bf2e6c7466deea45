"""The forward pass of Llama-like models without its waste: token ids -> queries and keys of every layer.

For Llama, Mistral, Qwen2 and Qwen3 models on a GPU with Triton. Against the model's own forward pass:

- one product for queries, keys and values and one for gate and up, over weights laid side by side;
- norms, rotary embedding and gated SiLU in one kernel each (`ladm_hf.ops.pointwise`), the rotation in place;
- residuals added by the matrix product itself;
- the MLP a block of tokens at a time, so that its wide intermediate never exists for the whole batch;
- nothing after the queries and keys of the last layer that counts.

The side-by-side weights hold the model's own: its parameters become views into them, and memory stays what it was.
Before it is used it is compared with the model's own forward pass on a small input; a model for which anything is
unusual keeps its own.
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ladm_hf.ops import triton_runs_on
from ladm_hf.ops.causal import causal_attention
from ladm_hf.ops.device import launches_on
from ladm_hf.scoring.attention import focused_attention, scoring_attention
from ladm_hf.scoring.layers import LayerPlan
from ladm_hf.scoring.recorder import ForwardDone, NoRecorder, Recorder

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)
FAMILIES = ("LlamaModel", "MistralModel", "Qwen2Model", "Qwen3Model")
# Rotary embeddings whose angles do not depend on the length of the batch.
ROPE_TYPES = ("default", "linear", "llama3", "yarn")
# Tokens that go through an MLP at once.
MLP_BLOCK = 16_384
# The comparison at load: its tokens, and how far queries and keys may be off, relative to their norm.
TRIAL_TOKENS = 192
TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}


@dataclass
class _Layer:
    """One decoder layer's weights, those of the products side by side."""

    qkv: Tensor
    qkv_bias: Tensor | None
    gate_up: Tensor
    module: Any


class LlamaForward:
    """The forward pass of one model. Use [`llama_forward`], which checks that it fits."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.base = model.base_model
        self.layers = [_pack(layer) for layer in self.base.layers]
        attention = self.base.layers[0].self_attn
        self.head_dim: int = attention.head_dim
        self.scale = float(attention.scaling)
        self.num_queries = attention.q_proj.out_features // self.head_dim
        self.num_keys = attention.k_proj.out_features // self.head_dim

    def is_current(self) -> bool:
        """Whether the model still is what was packed: its weights in place, no adapters, no hooks."""
        return len(self.layers) == len(self.base.layers) and all(
            module is layer.module and not _oddity(module) and _is_packed(layer)
            for layer, module in zip(self.layers, self.base.layers, strict=True)
        )

    def __call__(self, input_ids: Tensor, recorder: Recorder) -> Tensor | None:
        """Runs `[B, T]` token ids up to the last layer that the recorder wants.

        Returns:
            The last hidden states `[B, T, C]` where the recorder lets the pass run to its end.
        """
        with launches_on(input_ids.device):
            return self._run(input_ids, recorder)

    def _run(self, input_ids: Tensor, recorder: Recorder) -> Tensor | None:
        from ladm_hf.ops import pointwise

        batch, length = input_ids.shape
        embedded = self.base.embed_tokens(input_ids)
        cos, sin = self.base.rotary_emb(embedded, position_ids=torch.arange(length, device=input_ids.device)[None])
        cos, sin = cos[0], sin[0]
        # [B T, C]
        hidden = embedded.flatten(0, 1)
        rotated = self.num_queries + self.num_keys
        for index, layer in enumerate(self.layers):
            module = layer.module
            attention = module.self_attn
            normed = _norm(hidden, module.input_layernorm)
            last = recorder.is_last(index)
            done = last and not recorder.to_the_end
            width = rotated * self.head_dim if done else layer.qkv.shape[0]
            bias = None if layer.qkv_bias is None else layer.qkv_bias[:width]
            # [B T, H + Hkv (+ Hkv), D]
            heads = nn.functional.linear(normed, layer.qkv[:width], bias).unflatten(1, (-1, self.head_dim))
            norms, eps = None, 0.0
            if hasattr(attention, "q_norm"):
                norms = (attention.q_norm.weight, attention.k_norm.weight)
                eps = attention.q_norm.variance_epsilon
            pointwise.rotate_(heads[:, :rotated], cos, sin, self.num_queries, norms, eps)
            q, k, *v = (
                part.view(batch, length, -1, self.head_dim).transpose(1, 2)
                for part in heads.tensor_split((self.num_queries, rotated), dim=1)
                if part.shape[1]
            )
            if last:
                recorder.record(index, q, k, self.scale, None, None)
            if done:
                return None
            output = self._attend(index, q, k, v[0], NoRecorder() if last else recorder)
            hidden.addmm_(output.transpose(1, 2).reshape(hidden.shape[0], -1), attention.o_proj.weight.t())
            del normed, heads, q, k, v, output
            for block in hidden.split(MLP_BLOCK):
                gate_up = nn.functional.linear(_norm(block, module.post_attention_layernorm), layer.gate_up)
                block.addmm_(pointwise.silu_mul(gate_up), module.mlp.down_proj.weight.t())
                del gate_up
        return _norm(hidden, self.base.norm).view(batch, length, -1)

    def _attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, recorder: Recorder) -> Tensor:
        """The attention's output `[B, H, T, D]`; the recorder gets what it wants."""
        focused = focused_attention(layer, q, k, v, self.scale, recorder)
        if focused is not None:
            return focused
        attended = causal_attention(q, k, v, self.scale)
        if attended is None:
            output = nn.functional.scaled_dot_product_attention(
                q, k, v, is_causal=True, scale=self.scale, enable_gqa=True
            )
            lse = None
        else:
            output, lse = attended
        if recorder.wants(layer):
            recorder.record(layer, q, k, self.scale, lse, None)
        return output


def llama_forward(model: PreTrainedModel, plan: LayerPlan) -> LlamaForward | None:
    """The fast forward pass of a model, or `None` where its own must do.

    Args:
        model (`PreTrainedModel`): on its device, in evaluation mode.
        plan ([`LayerPlan`]): which of its layers are scored.
    """
    reason = _unsuitable(model, plan)
    if reason:
        logger.info("%s uses its own forward pass: %s", model.config.model_type, reason)
        return None
    forward = LlamaForward(model)
    try:
        error = _disagreement(model, forward, plan.scored)
    except torch.OutOfMemoryError:
        raise
    except Exception as failure:  # Triton raises what its compiler and driver raise
        logger.warning("%s uses its own forward pass: the fast one failed (%s)", model.config.model_type, failure)
        return None
    if not error <= TOLERANCE[model.dtype]:
        logger.warning(
            "%s uses its own forward pass: the fast one is off by %.1e on a trial input", model.config.model_type, error
        )
        return None
    return forward


def _unsuitable(model: PreTrainedModel, plan: LayerPlan) -> str:
    base = model.base_model
    kind = type(base)
    if kind.__name__ not in FAMILIES or not kind.__module__.startswith("transformers.models."):
        return f"{kind.__name__} is none of {', '.join(FAMILIES)}"
    if not triton_runs_on(model.device):
        return "it needs Triton and a GPU of capability 8.0 or newer"
    if model.dtype not in TOLERANCE:
        return f"no kernels for {model.dtype}"
    if plan.skipped or plan.reach is not None:
        return "some layers do not see the whole document"
    if base.config.hidden_act not in ("silu", "swish"):
        return f"its activation is {base.config.hidden_act}"
    if getattr(base.rotary_emb, "rope_type", None) not in ROPE_TYPES:
        return "its rotary embedding depends on the length of the batch"
    tensors = [*base.parameters(), *base.buffers()]
    if len({tensor.device for tensor in tensors}) > 1 or len({weight.dtype for weight in base.parameters()}) > 1:
        return "its weights are on several devices or of several dtypes"
    return next((oddity for layer in base.layers if (oddity := _oddity(layer))), "")


def _oddity(layer: nn.Module) -> str:
    """What keeps one decoder layer from being packed, or ''."""
    for module in layer.modules():
        if module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module):
            return "it has hooks"
    for name, linear in _linears(layer).items():
        if type(linear) is not nn.Linear:
            return f"{name} is a {type(linear).__name__}"
        if linear.bias is not None and name not in ("q_proj", "k_proj", "v_proj"):
            return f"{name} has a bias"
    return ""


def _linears(layer: Any) -> dict[str, Any]:
    attention, mlp = layer.self_attn, layer.mlp
    return {
        "q_proj": attention.q_proj,
        "k_proj": attention.k_proj,
        "v_proj": attention.v_proj,
        "o_proj": attention.o_proj,
        "gate_proj": mlp.gate_proj,
        "up_proj": mlp.up_proj,
        "down_proj": mlp.down_proj,
    }


def _pack(layer: Any) -> _Layer:
    q, k, v, _, gate, up, _ = _linears(layer).values()
    bias = None if q.bias is None else _side_by_side([q.bias, k.bias, v.bias])
    return _Layer(_side_by_side([q.weight, k.weight, v.weight]), bias, _side_by_side([gate.weight, up.weight]), layer)


def _side_by_side(parameters: list[nn.Parameter]) -> Tensor:
    """The parameters in one tensor, of which they become views."""
    # the views must stay trainable, whatever mode the caller is in
    with torch.inference_mode(False), torch.no_grad():
        packed = torch.cat([parameter.detach() for parameter in parameters])
        for parameter, view in zip(parameters, packed.split([len(p) for p in parameters]), strict=True):
            parameter.data = view
    return packed


def _is_packed(layer: _Layer) -> bool:
    q, k, v, _, gate, up, _ = _linears(layer.module).values()
    groups = [(layer.qkv, [q.weight, k.weight, v.weight]), (layer.gate_up, [gate.weight, up.weight])]
    if layer.qkv_bias is not None:
        groups.append((layer.qkv_bias, [q.bias, k.bias, v.bias]))
    for packed, parameters in groups:
        views = packed.split([len(parameter) for parameter in parameters])
        if any(view.data_ptr() != own.data_ptr() for view, own in zip(views, parameters, strict=True)):
            return False
    return True


def _norm(x: Tensor, module: Any) -> Tensor:
    from ladm_hf.ops import pointwise

    return pointwise.rms_norm(x, module.weight, module.variance_epsilon)


class _Catch(Recorder):
    """A recorder that keeps the queries and keys of the first and the last layer."""

    def __init__(self, layers: tuple[int, ...]) -> None:
        self.layers = layers
        self.caught: list[Tensor] = []

    def wants(self, layer: int) -> bool:
        return layer in (self.layers[0], self.layers[-1])

    def is_last(self, layer: int) -> bool:
        return layer == self.layers[-1]

    def record(self, layer: int, q: Tensor, k: Tensor, scale: float, lse: Tensor | None, softcap: float | None) -> None:
        self.caught += [q.double().flatten(), k.double().flatten()]


@torch.inference_mode()
def _disagreement(model: PreTrainedModel, forward: LlamaForward, layers: tuple[int, ...]) -> float:
    """Relative difference of queries and keys between the fast forward pass and the model's own."""
    vocabulary = model.get_input_embeddings().weight.shape[0]
    # two rows, so that a confusion of batch and length shows
    ids = torch.arange(2 * TRIAL_TOKENS, device=model.device).mul_(7919).remainder_(vocabulary).view(2, -1)
    own, fast = _Catch(layers), _Catch(layers)
    with scoring_attention(model), contextlib.suppress(ForwardDone):
        model(input_ids=ids, use_cache=False, ladm_recorder=own)
    forward(ids, fast)
    errors = [(mine - theirs).norm() / theirs.norm() for mine, theirs in zip(fast.caught, own.caught, strict=True)]
    return float(torch.stack(errors).max())
