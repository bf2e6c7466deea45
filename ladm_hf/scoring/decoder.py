"""The forward pass of a decoder without its waste: token ids -> queries and keys of every layer.

For models of the common shape (`ladm_hf.scoring.architecture`) on a GPU with Triton. Against the model's own forward
pass:

- one product for queries, keys and values and one for gate and up, over weights laid side by side;
- norms, rotary embedding and gated activation in one kernel each (`ladm_hf.ops.pointwise`), the rotation in place;
- residuals added by the matrix product itself, or by the norm after it;
- sliding layers by a kernel that skips what is outside of the window, and no mask of T x T;
- the MLP a block of tokens at a time, so that its wide intermediate never exists for the whole batch;
- nothing after the queries and keys of the last layer that counts.

The side-by-side weights hold the model's own: its parameters become views into them, and memory stays what it was.
Before it is used it is compared with the model's own forward pass: `ladm_hf.scoring.trial`.

Why it is written out: `torch.compile` of each layer fuses the elementwise parts alone and compiles anew for each model
and dtype, and libraries that patch transformers' modules with fused ones (Liger Kernel) do the same for the whole
process. Both leave products and residuals apart, the wide intermediate and the last layer's tail.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from ladm_hf.ops.causal import causal_attention
from ladm_hf.ops.device import launches_on
from ladm_hf.ops.rms_norm import RmsNorm
from ladm_hf.ops.windowed import windowed_attention
from ladm_hf.scoring.architecture import Attention, Layer, Mlp, read_decoder
from ladm_hf.scoring.attention import focused_attention
from ladm_hf.scoring.layers import LayerPlan
from ladm_hf.scoring.recorder import NoRecorder, Recorder

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Tokens that go through an MLP at once.
MLP_BLOCK = 16_384

# Cosines and sines of every position, `[T, E]` each, by the type of layers.
Angles = dict[str, tuple[Tensor, Tensor]]


class _Product(NamedTuple):
    """Linear layers of one input as one: their weights and biases side by side."""

    weight: Tensor
    bias: Tensor | None

    def __call__(self, x: Tensor, rows: int | None = None) -> Tensor:
        """The first outputs of `[N, C]`, or all."""
        bias = None if self.bias is None else self.bias[:rows]
        return nn.functional.linear(x, self.weight[:rows], bias)


class DecoderForward:
    """The forward pass of one model. Use `ladm_hf.scoring.trial.decoder_forward`, which checks that it fits.

    Raises:
        UnknownPart: the model is none of the common shape.
    """

    def __init__(self, model: PreTrainedModel, plan: LayerPlan) -> None:
        self.base: Any = model.get_decoder()
        self.decoder = read_decoder(model, plan)
        # products of queries, keys and values, where a layer has them, and of gate and up
        self.products = [
            (
                _side_by_side(layer.mixer.qkv) if isinstance(layer.mixer, Attention) else None,
                _side_by_side(layer.mlp.gate_up),
            )
            for layer in self.decoder.layers
        ]
        self.state = _state(self.base)

    def is_current(self) -> bool:
        """Whether the model still is what was read: its modules and weights in place, no adapters, no hooks."""
        return self.state == _state(self.base) and not has_hooks(self.base)

    def __call__(self, input_ids: Tensor, recorder: Recorder, positions: Tensor | None = None) -> Tensor | None:
        """Runs `[B, T]` token ids up to the last layer that the recorder wants.

        Args:
            input_ids (`Tensor` `[B, T]`), recorder ([`Recorder`]): the batch, and what is told of each layer.
            positions (`Tensor` `[T]`, *optional*): where the tokens stand; one after another by default.

        Returns:
            The last hidden states `[B, T, C]` where the recorder lets the pass run to its end.
        """
        with launches_on(input_ids.device):
            return self._run(input_ids, recorder, positions)

    def _run(self, input_ids: Tensor, recorder: Recorder, positions: Tensor | None) -> Tensor | None:
        from ladm_hf.ops import pointwise

        shape = input_ids.shape
        if positions is None:
            positions = torch.arange(shape[1], device=input_ids.device)
        embedded = self.decoder.embedding(input_ids)
        if self.decoder.embedding_multiplier != 1.0:
            embedded = embedded * self.decoder.embedding_multiplier
        angles = self._angles(embedded, positions)
        # [B T, C]
        hidden = embedded.flatten(0, 1)
        for index, (layer, (qkv, gate_up)) in enumerate(zip(self.decoder.layers, self.products, strict=True)):
            normed = _normed(hidden, layer.before_mixer)
            if qkv is None:
                _mix_otherwise(hidden, layer, normed.view(*shape, -1))
            else:
                assert isinstance(layer.mixer, Attention)
                product = qkv(normed, _wanted_rows(index, layer.mixer, recorder))
                heads = _attend(index, layer.mixer, product, shape, angles, positions, recorder)
                del product
                if heads is None:
                    return None
                _add(hidden, heads, layer.mixer.out, layer.after_mixer, layer.multiplier)
                del heads
            del normed
            _add_mlp(hidden, layer, gate_up)
        return pointwise.rms_norm(hidden, self.decoder.norm).view(*shape, -1)

    def _angles(self, embedded: Tensor, positions: Tensor) -> Angles:
        rotary = self.decoder.rotary
        if rotary is None:
            return {}
        found = {
            kind: rotary(embedded, positions[None], *([kind] if kind else [])) for kind in self.decoder.rotary_types
        }
        return {kind: (cos[0], sin[0]) for kind, (cos, sin) in found.items()}


def _wanted_rows(index: int, attention: Attention, recorder: Recorder) -> int | None:
    """Outputs of the product that are wanted: no values where nothing comes after the queries and keys."""
    ends = recorder.is_last(index) and not recorder.to_the_end
    return attention.query_rows + attention.key_rows if ends else None


def _attend(
    index: int,
    attention: Attention,
    product: Tensor,
    shape: torch.Size,
    angles: Angles,
    positions: Tensor,
    recorder: Recorder,
) -> Tensor | None:
    """The heads' outputs `[B T, H D]`, or `None` where the recorder wants nothing more than queries and keys."""
    call = attention.call
    queries, gate, keys = _queries_and_keys(attention, product, angles, positions)
    # [B, H, T, D]
    q, k = (heads.unflatten(0, shape).transpose(1, 2) for heads in (queries, keys))
    last = recorder.is_last(index)
    if last:
        recorder.record(index, q, k, call.scale, None, None)
        if not recorder.to_the_end:
            return None
    values = product[:, attention.query_rows + attention.key_rows :].unflatten(1, (call.num_key_heads, -1))
    v = values.unflatten(0, shape).transpose(1, 2)
    if call.window is not None:
        output = windowed_attention(q, k, v, call.scale, call.window)
    else:
        output = _causal(index, q, k, v, call.scale, NoRecorder() if last else recorder)
    # [B T, H, D]
    heads = output.transpose(1, 2).flatten(0, 1)
    return (heads if gate is None else heads * gate.sigmoid()).flatten(1)


def _queries_and_keys(
    attention: Attention, product: Tensor, angles: Angles, positions: Tensor
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Queries `[B T, H, D]`, their gates and keys `[B T, Hkv, D]`, normed and rotated, views into their product."""
    from ladm_hf.ops import pointwise

    call, rows = attention.call, attention.query_rows
    all_queries, all_keys = product[:, :rows], product[:, rows : rows + attention.key_rows]
    if attention.norms is not None and attention.across_heads:
        pointwise.rms_norm_(all_queries, attention.norms[0])
        pointwise.rms_norm_(all_keys, attention.norms[1])
    queries = all_queries.unflatten(1, (call.num_heads, -1))
    gate = queries[..., call.head_dim :] if attention.gated else None
    queries, keys = queries[..., : call.head_dim], all_keys.unflatten(1, (call.num_key_heads, -1))
    norms = (None, None) if attention.norms is None or attention.across_heads else attention.norms
    if attention.rotary is not None or norms != (None, None):
        cos, sin = angles[attention.rotary] if attention.rotary is not None else _no_rotation(queries, len(positions))
        pointwise.rotate_(queries, cos, sin, norms[0])
        pointwise.rotate_(keys, cos, sin, norms[1])
    if attention.growth is not None:
        beta, step = attention.growth
        growth = (1 + beta * torch.log(1 + torch.floor(positions / step))).to(queries.dtype)
        queries.unflatten(0, (-1, len(positions))).mul_(growth[:, None, None])
    return queries, gate, keys


def _no_rotation(like: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines `[T, D]` that turn nothing, where heads have norms alone."""
    cos = like.new_ones(tokens, like.shape[-1])
    return cos, torch.zeros_like(cos)


def _causal(layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float, recorder: Recorder) -> Tensor:
    """The output `[B, H, T, D]` of plain causal attention; the recorder gets what it wants."""
    focused = focused_attention(layer, q, k, v, scale, recorder)
    if focused is not None:
        return focused
    attended = causal_attention(q, k, v, scale)
    if attended is None:
        output = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=True)
        lse = None
    else:
        output, lse = attended
    if recorder.wants(layer):
        recorder.record(layer, q, k, scale, lse, None)
    return output


def _mix_otherwise(hidden: Tensor, layer: Layer, normed: Tensor) -> None:
    """Adds the output of a mixer that is no attention, for `[B, T, C]`."""
    assert isinstance(layer.mixer, nn.Module)
    mixed = layer.mixer(hidden_states=normed)
    mixed = (mixed[0] if isinstance(mixed, tuple) else mixed).flatten(0, 1)
    hidden.add_(_normed(mixed, layer.after_mixer), alpha=layer.multiplier)


def _add_mlp(hidden: Tensor, layer: Layer, gate_up: _Product) -> None:
    from ladm_hf.ops import pointwise

    mlp: Mlp = layer.mlp
    for block in hidden.split(MLP_BLOCK):
        wide = pointwise.gated(gate_up(_normed(block, layer.before_mlp)), mlp.activation)
        _add(block, wide, mlp.down, layer.after_mlp, layer.multiplier)
        del wide


def _add(hidden: Tensor, x: Tensor, linear: nn.Linear, norm: RmsNorm | None, multiplier: float) -> None:
    """`hidden += multiplier * norm(linear(x))`."""
    from ladm_hf.ops import pointwise

    if norm is None:
        hidden.addmm_(x, linear.weight.t(), alpha=multiplier)
        if linear.bias is not None:
            hidden.add_(linear.bias, alpha=multiplier)
    elif multiplier == 1.0:
        pointwise.add_rms_norm_(hidden, linear(x), norm)
    else:
        hidden.add_(pointwise.rms_norm(linear(x), norm), alpha=multiplier)


def _normed(x: Tensor, norm: RmsNorm | None) -> Tensor:
    from ladm_hf.ops import pointwise

    return x if norm is None else pointwise.rms_norm(x, norm)


def has_hooks(base: nn.Module) -> bool:
    """Whether anything else runs with a module, which the fast forward pass would leave out."""
    return any(
        module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module) for module in base.modules()
    )


def _state(base: nn.Module) -> tuple[list[nn.Module], list[tuple[int, int]]]:
    """What changes when modules are replaced or weights are moved; the modules are kept, so that ids stay theirs."""
    return list(base.modules()), [(id(weight), weight.data_ptr()) for weight in base.parameters()]


def _side_by_side(linears: tuple[nn.Linear, ...]) -> _Product:
    """The linear layers as one product, of whose weights theirs become views."""
    bias = None if linears[0].bias is None else _packed([linear.bias for linear in linears])
    return _Product(_packed([linear.weight for linear in linears]), bias)


def _packed(parameters: list[Any]) -> Tensor:
    # the views must stay trainable, whatever mode the caller is in
    with torch.inference_mode(False), torch.no_grad():
        if len(parameters) == 1:
            return parameters[0].detach()  # type: ignore[no-any-return]
        packed = torch.cat([parameter.detach() for parameter in parameters])
        for parameter, view in zip(parameters, packed.split([len(p) for p in parameters]), strict=True):
            parameter.data = view
    return packed
