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
from ladm_hf.scoring.architecture import Angles, Attention, Layer, Mlp, Norm, Rotation, UnknownPart
from ladm_hf.scoring.attention import focused_attention
from ladm_hf.scoring.layers import LayerPlan
from ladm_hf.scoring.product import AnyProduct, in_float8, side_by_side
from ladm_hf.scoring.reading import read_decoder
from ladm_hf.scoring.recorder import NoRecorder, Recorder

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Tokens that go through an MLP at once.
MLP_BLOCK = 16_384
Pair = tuple[AnyProduct, AnyProduct]


class _Products(NamedTuple):
    """The products into and out of a layer's attention and its MLP, `None` where a module is called as it is."""

    mixer: Pair | None
    mlp: Pair | None


class DecoderForward:
    """The forward pass of one model. Use `ladm_hf.scoring.trial.decoder_forward`, which checks that it fits.

    Raises:
        UnknownPart: the model is none of the common shape.
    """

    def __init__(self, model: PreTrainedModel, plan: LayerPlan) -> None:
        self.base: Any = model.get_decoder()
        self.decoder = read_decoder(model, plan)
        self.products = [_products(layer) for layer in self.decoder.layers]
        self.modules = modules_of(self.base)
        self.weights = _weights(self.modules)

    def to_float8(self) -> None:
        """Has all products run in float8 from now on.

        Raises:
            UnknownPart: there are none, or one has sizes that do not suit.
        """
        if not any(pair for products in self.products for pair in products):
            raise UnknownPart("none of its layers has linear layers that are known")
        with launches_on(next(self.base.parameters()).device):
            self.products = [
                _Products(*(pair and (in_float8(pair[0]), in_float8(pair[1])) for pair in products))
                for products in self.products
            ]

    def is_current(self) -> bool:
        """Whether the model still is what was read: its modules and weights in place, no adapters, no hooks."""
        modules = modules_of(self.base)
        return modules == self.modules and _weights(modules) == self.weights and not has_hooks(modules)

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
        shape = input_ids.shape
        if positions is None:
            positions = torch.arange(shape[1], device=input_ids.device)
        embedded = self.decoder.embedding(input_ids)
        if self.decoder.embedding_multiplier != 1.0:
            embedded = embedded * self.decoder.embedding_multiplier
        angles = {} if self.decoder.rotary is None else self.decoder.rotary(embedded, positions)
        # [B T, C]
        hidden = embedded.flatten(0, 1)
        for index, (layer, products) in enumerate(zip(self.decoder.layers, self.products, strict=True)):
            # what the MLP reads where it does not wait for the mixer
            source = hidden.clone() if layer.parallel else hidden
            normed = _normed(hidden, layer.before_mixer)
            if products.mixer is None:
                assert isinstance(layer.mixer, nn.Module)
                _add_module(hidden, layer.mixer, normed.view(*shape, -1), layer.after_mixer, layer.multiplier)
            else:
                assert isinstance(layer.mixer, Attention)
                qkv, out = products.mixer
                product = qkv(normed, _wanted_rows(index, layer.mixer, recorder))
                heads = _attend(index, layer.mixer, product, shape, angles, positions, recorder)
                del product
                if heads is None:
                    return None
                _add(hidden, heads, out, layer.after_mixer, layer.multiplier)
                del heads
            del normed
            if products.mlp is None:
                assert isinstance(layer.mlp, nn.Module)
                x = _normed(source, layer.before_mlp).view(*shape, -1)
                _add_module(hidden, layer.mlp, x, layer.after_mlp, layer.multiplier)
                del x
            else:
                _add_mlp(hidden, source, layer, *products.mlp)
        return _normed(hidden, self.decoder.norm).view(*shape, -1)


def _products(layer: Layer) -> _Products:
    """The products of a layer, each over weights laid side by side."""
    mixer, mlp = layer.mixer, layer.mlp
    return _Products(
        (side_by_side(mixer.qkv), side_by_side((mixer.out,))) if isinstance(mixer, Attention) else None,
        (side_by_side(mlp.gate_up), side_by_side((mlp.down,))) if isinstance(mlp, Mlp) else None,
    )


def _wanted_rows(index: int, attention: Attention, recorder: Recorder) -> int | None:
    """Outputs of the product that are wanted: no values where nothing comes after the queries and keys."""
    ends = recorder.is_last(index) and not recorder.to_the_end and not attention.by_head
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
    queries, gate, keys, values = _heads(attention, product, angles, positions)
    # [B, H, T, D]
    q, k = (heads.unflatten(0, shape).transpose(1, 2) for heads in (queries, keys))
    last = recorder.is_last(index)
    if last:
        recorder.record(index, q, k, call.scale, None, None)
        if not recorder.to_the_end:
            return None
    v = values.unflatten(0, shape).transpose(1, 2)
    if call.window is not None:
        output = windowed_attention(q, k, v, call.scale, call.window)
    else:
        output = _causal(index, q, k, v, call.scale, NoRecorder() if last else recorder)
    # [B T, H, D]
    heads = output.transpose(1, 2).flatten(0, 1)
    return (heads if gate is None else heads * gate.sigmoid()).flatten(1)


def _heads(
    attention: Attention, product: Tensor, angles: Angles, positions: Tensor
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """Queries `[B T, H, D]`, their gates, keys and values `[B T, Hkv, D]`, normed and rotated, views of the product."""
    from ladm_hf.ops import pointwise

    dim = attention.call.head_dim
    queries, keys, values = attention.split(product)
    gate = queries[..., dim:] if attention.gated else None
    queries = queries[..., :dim]
    if attention.norms_last:
        _rotate(queries, keys, attention.rotation, angles, (None, None))
    norms = attention.norms or (None, None)
    if attention.across_heads:
        for heads, norm in zip((queries, keys), norms, strict=True):
            assert norm is not None
            pointwise.rms_norm_(heads.flatten(1), norm)
        norms = (None, None)
    if not attention.norms_last:
        _rotate(queries, keys, attention.rotation, angles, norms)
    elif norms != (None, None):
        _rotate(queries, keys, None, angles, norms)
    if attention.growth is not None:
        beta, step = attention.growth
        growth = (1 + beta * torch.log(1 + torch.floor(positions / step))).to(queries.dtype)
        queries.unflatten(0, (-1, len(positions))).mul_(growth[:, None, None])
    return queries, gate, keys, values


def _rotate(
    queries: Tensor,
    keys: Tensor,
    rotation: Rotation | None,
    angles: Angles,
    norms: tuple[RmsNorm | None, RmsNorm | None],
) -> None:
    """Norms and rotates queries and keys in place."""
    from ladm_hf.ops import pointwise

    if rotation is not None:
        cos, sin = angles[rotation.layers]
    elif norms == (None, None):
        return
    else:
        # angles of nothing where heads have norms alone
        cos = queries.new_ones(1, queries.shape[-1] // 2 * 2)
        sin = torch.zeros_like(cos)
    for heads, norm in zip((queries, keys), norms, strict=True):
        pointwise.rotate_(heads, cos, sin, norm, neighbours=rotation is not None and rotation.neighbours)


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


def _add_module(hidden: Tensor, module: nn.Module, x: Tensor, norm: Norm | None, multiplier: float) -> None:
    """`hidden += multiplier * norm(module(x))` for `x` `[B, T, C]`."""
    output = module(x)
    output = (output[0] if isinstance(output, tuple) else output).flatten(0, 1)
    hidden.add_(_normed(output, norm), alpha=multiplier)


def _add_mlp(hidden: Tensor, source: Tensor, layer: Layer, gate_up: AnyProduct, down: AnyProduct) -> None:
    assert isinstance(layer.mlp, Mlp)
    for block, read in zip(hidden.split(MLP_BLOCK), source.split(MLP_BLOCK), strict=True):
        wide = down.gated(gate_up(_normed(read, layer.before_mlp)), layer.mlp.activation)
        _add(block, wide, down, layer.after_mlp, layer.multiplier)
        del wide


def _add(hidden: Tensor, x: Any, product: AnyProduct, norm: Norm | None, multiplier: float) -> None:
    """`hidden += multiplier * norm(product(x))`."""
    from ladm_hf.ops import pointwise

    if norm is None:
        product.add_to(hidden, x, multiplier)
    elif multiplier == 1.0 and isinstance(norm, RmsNorm):
        pointwise.add_rms_norm_(hidden, product(x), norm)
    else:
        hidden.add_(_normed(product(x), norm), alpha=multiplier)


def _normed(x: Tensor, norm: Norm | None) -> Tensor:
    from ladm_hf.ops import pointwise

    if isinstance(norm, RmsNorm):
        return pointwise.rms_norm(x, norm)
    return x if norm is None else norm(x)


def modules_of(root: nn.Module) -> list[nn.Module]:
    """All modules, each once: `root.modules()` without their names, for every batch asks."""
    found, known = [root], {root}
    for module in found:
        for child in module._modules.values():
            if child is not None and child not in known:
                known.add(child)
                found.append(child)
    return found


def has_hooks(modules: list[nn.Module]) -> bool:
    """Whether anything else runs with a module, which the fast forward pass would leave out."""
    return any(module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__ for module in modules)


def _weights(modules: list[nn.Module]) -> list[tuple[int, int]]:
    """What changes when weights are replaced or moved."""
    weights = (weight for module in modules for weight in module._parameters.values() if weight is not None)
    return [(id(weight), weight.data_ptr()) for weight in weights]
