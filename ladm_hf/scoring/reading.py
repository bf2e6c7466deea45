"""Reads the decoder that a model is off its modules and off one forward pass over a few tokens.

Which part stands where is seen in the pass: a norm comes before what takes its output, and after what it takes. Forms
of norms, activations and rotations are found by trying them on what was seen or on a sample; linear layers go by their
names. What cannot be read so, down to a single weight that has no place, is an [`UnknownPart`].
"""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ladm_hf.ops.rms_norm import RmsNorm
from ladm_hf.scoring.architecture import Attention, Decoder, Layer, Mlp, Norm, Rotary, Rotation, UnknownPart
from ladm_hf.scoring.forms import ACTIVATIONS, nearest, rotated, same, sample_rows
from ladm_hf.scoring.layers import AttentionCall, LayerPlan
from ladm_hf.scoring.observation import Observation, Seen, is_norm_like, observe

if TYPE_CHECKING:
    from transformers import PreTrainedModel

EPSILONS = ("variance_epsilon", "eps", "norm_eps", "epsilon")


@torch.inference_mode()
def read_decoder(model: PreTrainedModel, plan: LayerPlan) -> Decoder:
    """The decoder that a model is.

    Args:
        model (`PreTrainedModel`): in evaluation mode; of a model that reads more than text, its text part is read.
        plan ([`LayerPlan`]): with the calls of the attention function.

    Raises:
        UnknownPart: it is none of the common shape.
    """
    base: Any = model.get_decoder()
    return _Reader(base, plan, observe(model, base)).decoder()


class _Reader:
    """Reads modules, and remembers which weights have found a place."""

    def __init__(self, base: Any, plan: LayerPlan, seen: Observation) -> None:
        self.base = base
        self.seen = seen
        # where every layer slides, no document is longer than what they all see
        slides = plan.reach is None
        self.calls = {i: call if slides else replace(call, window=None) for i, call in plan.calls.items()}
        self.known: set[int] = set()
        # what is found by trying once for each type of module
        self.norm_forms: dict[type, tuple[float, bool] | None] = {}
        self.activations: dict[type, str] = {}

    def decoder(self) -> Decoder:
        lists = [child for child in self.base.children() if isinstance(child, nn.ModuleList)]
        if len(lists) != 1:
            raise UnknownPart(f"{type(self.base).__name__} has {len(lists) or 'no'} lists of layers")
        embedding = self.base.get_input_embeddings()
        self.know(embedding)
        self.rotary = self.rotary_embedding()
        self.angles = {} if self.rotary is None else self.rotary(self.seen.hidden, self.seen.positions)
        layers = tuple(self.layer(index, layer) for index, layer in enumerate(lists[0]))
        norm = self.last_norm()
        for name, weight in self.base.named_parameters():
            if id(weight) not in self.known:
                raise UnknownPart(f"{name} has no place in a decoder of the common shape")
        return Decoder(embedding, float(getattr(self.base, "embedding_multiplier", 1.0)), layers, norm, self.rotary)

    def rotary_embedding(self) -> Rotary | None:
        module = getattr(self.base, "rotary_emb", None)
        if module is None:
            return None
        by_type = "layer_type" in inspect.signature(module.forward).parameters
        layers = tuple(dict.fromkeys(self.base.config.layer_types)) if by_type else ("",)
        positions = self.seen.positions.expand(*self.seen.position_axes, 1, -1)
        found = module(self.seen.hidden, positions, *layers[:1] if by_type else ())
        if not (isinstance(found, tuple) and len(found) == 2 and found[0].shape[-1] % 2 == 0):
            raise UnknownPart(f"{type(module).__name__} gives no cosines and sines")
        cos = found[0]
        repeats = torch.equal(cos[..., ::2], cos[..., 1::2])
        return Rotary(module, layers, repeats, self.seen.position_axes)

    def last_norm(self) -> Norm | None:
        last = self.seen.calls[self.base][-1]
        if not same(last.output, self.seen.hidden):
            raise UnknownPart(f"{type(self.base).__name__} goes on after its last part")
        return self.norm(last) if is_norm_like(last.module) else None

    def layer(self, index: int, layer: nn.Module) -> Layer:
        calls = [call for call in self.seen.calls[layer] if not _is_identity(call)]
        blocks = [at for at, call in enumerate(calls) if not is_norm_like(call.module)]
        if len(blocks) != 2:
            names = ", ".join(type(calls[at].module).__name__ for at in blocks)
            raise UnknownPart(f"layer {index} is made of {names or 'nothing'}, not of a mixer and an MLP")
        mixer, mlp = (calls[at] for at in blocks)
        before, after = zip(*(_norms_around(calls, at) for at in blocks), strict=True)
        reads_mixer, reads_mlp = ((norm or block).input for norm, block in zip(before, (mixer, mlp), strict=True))
        (whole,) = (call for call in self.seen.calls[self.base] if call.module is layer)
        if not same(reads_mixer, whole.input):
            raise UnknownPart(f"layer {index} does not begin with a norm or its mixer")
        before_mixer, after_mixer, before_mlp, after_mlp = (
            None if norm is None else self.norm(norm) for norm in (before[0], after[0], before[1], after[1])
        )
        return Layer(
            mixer=self.mixer(index, mixer),
            mlp=self.mlp(mlp),
            before_mixer=before_mixer,
            after_mixer=after_mixer,
            before_mlp=before_mlp,
            after_mlp=after_mlp,
            multiplier=float(getattr(layer, "residual_multiplier", 1.0)),
            parallel=same(reads_mlp, whole.input),
        )

    def mixer(self, index: int, block: Seen) -> Attention | nn.Module:
        if index not in self.seen.keys:
            return self.own(block)
        module, keys = self.seen.keys[index]
        call = self.calls[index]
        if module is not block.module or not call.plain or getattr(module, "layer_idx", None) != index:
            raise UnknownPart(f"the attention of layer {index} is more than causal")
        return self.attention(index, block, call, keys)

    def attention(self, index: int, block: Seen, call: AttentionCall, keys: Tensor) -> Attention:
        module = block.module
        qkv = self.linears(module, ("q_proj", "k_proj", "v_proj"), ("qkv_proj",), ("query_key_value",))
        queries, others = call.num_heads * call.head_dim, call.num_key_heads * call.head_dim
        rows = [linear.out_features for linear in qkv]
        gated = rows == [2 * queries, others, others]
        if not gated and rows not in ([queries, others, others], [queries + 2 * others]):
            raise UnknownPart(f"queries, keys and values of layer {index} are made otherwise")
        norms, across = self.head_norms(module, call)
        if gated and across:
            raise UnknownPart(f"layer {index} has gates and norms across heads")
        out = self.linears(module, ("o_proj",), ("out_proj",), ("dense",))[0]
        plain = Attention(qkv, False, out, call, gated, norms, across, False, None, _growth(module))
        product = torch.cat([linear(block.input) for linear in qkv], -1)
        forms = [replace(plain, rotation=rotation) for rotation in (None, *self.rotations())]
        if norms is not None:
            forms += [replace(form, norms_last=True) for form in forms[1:]]
        if len(qkv) == 1 and call.num_heads == call.num_key_heads and not across:
            forms += [replace(form, by_head=True) for form in forms]
        made = {n: self.keys(form, product) for n, form in enumerate(forms)}
        found: int = nearest(made, keys.transpose(1, 2), f"the rotation of layer {index}")
        return forms[found]

    def rotations(self) -> list[Rotation]:
        return [Rotation(layers, neighbours) for layers in self.angles for neighbours in (False, True)]

    def keys(self, attention: Attention, product: Tensor) -> Tensor:
        """The keys `[B, T, Hkv, D]` as they would be."""
        keys = attention.split(product)[1]
        norm = None if attention.norms is None else attention.norms[1]
        if norm is not None and not attention.norms_last:
            keys = norm(keys.flatten(-2)).view_as(keys) if attention.across_heads else norm(keys)
        if attention.rotation is not None:
            keys = rotated(keys, *self.angles[attention.rotation.layers], attention.rotation.neighbours)
        if norm is not None and attention.norms_last:
            keys = norm(keys.flatten(-2)).view_as(keys) if attention.across_heads else norm(keys)
        return keys

    def head_norms(self, module: nn.Module, call: AttentionCall) -> tuple[tuple[RmsNorm, RmsNorm] | None, bool]:
        """Norms of queries and keys, and whether they go across heads."""
        seen = [part for part in self.seen.calls[module] if not _is_identity(part)]
        if not seen:
            return None, False
        sizes = [part.input.shape[-1] for part in seen]
        across = [call.num_heads * call.head_dim, call.num_key_heads * call.head_dim]
        if sizes not in ([call.head_dim] * 2, across):
            raise UnknownPart(f"norms in {type(module).__name__} are of {sizes} values")
        queries, keys = map(self.norm, seen)
        if not (isinstance(queries, RmsNorm) and isinstance(keys, RmsNorm)):
            raise UnknownPart(f"queries and keys have no RMS norm but {type(seen[0].module).__name__}")
        return (queries, keys), sizes != [call.head_dim] * 2

    def mlp(self, block: Seen) -> Mlp | nn.Module:
        try:
            return self.gated_mlp(block.module)
        except UnknownPart:
            return self.own(block)

    def own(self, block: Seen) -> nn.Module:
        """A module that is called as it is, with hidden states alone."""
        output = block.module(block.input)
        output = output[0] if isinstance(output, tuple) else output
        nearest({"": output}, block.output, f"{type(block.module).__name__} given hidden states alone")
        self.know(block.module)
        return block.module

    def gated_mlp(self, module: nn.Module) -> Mlp:
        gate_up = self.linears(module, ("gate_proj", "up_proj"), ("gate_up_proj",), ("input_linear",), ("w1", "w3"))
        (down,) = self.linears(module, ("down_proj",), ("output_linear",), ("w2",))
        if [linear.out_features for linear in gate_up] not in ([down.in_features] * 2, [2 * down.in_features]):
            raise UnknownPart(f"{type(module).__name__} has no gate of its own width")
        if {*map(id, module.parameters())} != {id(p) for linear in (*gate_up, down) for p in linear.parameters()}:
            raise UnknownPart(f"{type(module).__name__} has other weights")
        kind = type(module)
        if kind not in self.activations:
            x = sample_rows(gate_up[0].in_features, down.weight)
            gate, up = torch.cat([linear(x) for linear in gate_up], -1).chunk(2, -1)
            forms = {name: down(activation(gate) * up) for name, activation in ACTIVATIONS.items()}
            self.activations[kind] = nearest(forms, module(x), f"the activation of {kind.__name__}")
        return Mlp(gate_up, down, self.activations[kind])

    def norm(self, seen: Seen) -> Norm:
        """An RMS norm of a form that is known, else the module."""
        module, kind = seen.module, type(seen.module)
        self.know(module)
        eps = next((float(found) for name in EPSILONS if (found := getattr(module, name, None)) is not None), None)
        weight = getattr(module, "weight", None)
        if eps is None or getattr(module, "bias", None) is not None:
            return module
        if weight is None:
            weight = torch.ones(seen.input.shape[-1], dtype=seen.input.dtype, device=seen.input.device)
        if kind not in self.norm_forms:
            x = sample_rows(len(weight), weight)
            outputs = {form: RmsNorm(weight, eps, *form)(x) for form in ((0.0, True), (0.0, False), (1.0, False))}
            try:
                self.norm_forms[kind] = nearest(outputs, module(x), kind.__name__)
            except UnknownPart:
                self.norm_forms[kind] = None
        form = self.norm_forms[kind]
        return module if form is None else RmsNorm(weight, eps, *form)

    def linears(self, module: nn.Module, *choices: tuple[str, ...]) -> tuple[nn.Linear, ...]:
        """The linear layers of the first choice of names that a module has all of."""
        names = next((names for names in choices if all(hasattr(module, name) for name in names)), None)
        if names is None:
            raise UnknownPart(f"{type(module).__name__} has no {', '.join(choices[0])}")
        found: list[nn.Linear] = [getattr(module, name) for name in names]
        for name, linear in zip(names, found, strict=True):
            if type(linear) is not nn.Linear:
                raise UnknownPart(f"{name} is a {type(linear).__name__}")
            self.know(linear)
        if len({linear.bias is None for linear in found}) > 1:
            raise UnknownPart(f"only some of {', '.join(names)} have a bias")
        return tuple(found)

    def know(self, module: nn.Module) -> None:
        self.known.update(map(id, module.parameters()))


def _is_identity(call: Seen) -> bool:
    """Whether a module is a dropout or the like. One with weights is not: a norm may take what is normed already."""
    return next(call.module.parameters(), None) is None and same(call.input, call.output)


def _norms_around(calls: list[Seen], at: int) -> tuple[Seen | None, Seen | None]:
    """The last norm whose output a call takes, and the first that takes the call's."""
    before = (norm for norm in reversed(calls[:at]) if is_norm_like(norm.module))
    after = (norm for norm in calls[at + 1 :] if is_norm_like(norm.module))
    return (
        next((norm for norm in before if same(norm.output, calls[at].input)), None),
        next((norm for norm in after if same(norm.input, calls[at].output)), None),
    )


def _growth(module: nn.Module) -> tuple[float, int] | None:
    """The growth of queries with their position in Ministral 3, which got it from Llama 4."""
    rope = getattr(getattr(module, "config", None), "rope_parameters", None) or {}
    beta, positions = rope.get("llama_4_scaling_beta"), rope.get("original_max_position_embeddings")
    return (float(beta), int(positions)) if beta and positions else None
