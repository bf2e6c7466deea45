"""The common shape of decoder as data, read off the modules of a loaded model.

Most language models are one decoder with a few choices. Of a residual stream `h`, each layer makes

    h += m * norm(mixer(norm(h)))
    h += m * norm(down(activation(gate(.)) * up(.)))(norm(h))

where any of the norms may be absent, the mixer is attention or something else, and `m` is 1 but for Granite. What the
attention is asked for (scale, window) is seen in a forward pass over a few tokens, [`AttentionCall`]; forms of norms
and activations are found by trying them; the rest goes by names. What cannot be read so, down to a single weight that
has no place here, is an [`UnknownPart`].
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ladm_hf.ops.rms_norm import RmsNorm
from ladm_hf.scoring.layers import AttentionCall, LayerPlan

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# The norms of a layer by their names: before and after the mixer, before and after the MLP.
NORMS: tuple[tuple[str | None, ...], ...] = (
    ("input_layernorm", None, "post_attention_layernorm", None),
    ("operator_norm", None, "ffn_norm", None),
    (None, "post_attention_layernorm", None, "post_feedforward_layernorm"),
    (
        "input_layernorm",
        "post_attention_layernorm",
        "pre_feedforward_layernorm",
        "post_feedforward_layernorm",
    ),
)
ATTENTION = "self_attn"
OTHER_MIXERS = ("conv", "linear_attn", "mamba")
MLPS = ("mlp", "feed_forward", "shared_mlp")
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": nn.functional.silu,
    "gelu_tanh": lambda x: nn.functional.gelu(x, approximate="tanh"),
}
# How far a norm or an MLP may be from the form that it is read as, relative to its norm: in float32, and in others.
EXACT_TOLERANCE, TOLERANCE = 1e-5, 1e-2


class UnknownPart(Exception):  # noqa: N818, it is no error
    """A model is no decoder of the common shape; the message is the reason."""


@dataclass(frozen=True)
class Attention:
    """Queries, keys and values of one layer, and what happens to them.

    Attributes:
        qkv (`tuple` of `nn.Linear`): the products that make them: one, or three in this order.
        out (`nn.Linear`): of the heads' outputs.
        call ([`AttentionCall`]): heads, scale and window.
        gated (`bool`): whether each query head is followed by a gate, whose sigmoid multiplies the head's output.
        norms (two [`RmsNorm`], *optional*): of queries and keys, before the rotation.
        across_heads (`bool`): whether these norms go over all heads of a token at once.
        rotary (`str`, *optional*): whose angles of the rotary embedding it takes: those of a type of layers, or `""`
            where all have the same; `None` without one.
        growth (`tuple[float, int]`, *optional*): `(beta, n)`, where queries at position `p` are multiplied by
            `1 + beta * log(1 + floor(p / n))`.
    """

    qkv: tuple[nn.Linear, ...]
    out: nn.Linear
    call: AttentionCall
    gated: bool
    norms: tuple[RmsNorm, RmsNorm] | None
    across_heads: bool
    rotary: str | None
    growth: tuple[float, int] | None

    @property
    def query_rows(self) -> int:
        """Outputs of `qkv` that belong to queries and their gates."""
        return self.call.num_heads * self.call.head_dim * (2 if self.gated else 1)

    @property
    def key_rows(self) -> int:
        """Outputs of `qkv` that belong to keys; values have as many."""
        return self.call.num_key_heads * self.call.head_dim


@dataclass(frozen=True)
class Mlp:
    """`down(activation(gate) * up)`; `gate_up` makes both, in this order, by one product or two."""

    gate_up: tuple[nn.Linear, ...]
    down: nn.Linear
    activation: str


@dataclass(frozen=True)
class Layer:
    """One decoder layer; a mixer other than attention is the model's own module, and is called as it is."""

    mixer: Attention | nn.Module
    mlp: Mlp
    before_mixer: RmsNorm | None
    after_mixer: RmsNorm | None
    before_mlp: RmsNorm | None
    after_mlp: RmsNorm | None
    multiplier: float


@dataclass(frozen=True)
class Decoder:
    """A decoder from token ids to last hidden states."""

    embedding: nn.Module
    embedding_multiplier: float
    layers: tuple[Layer, ...]
    norm: RmsNorm
    rotary: nn.Module | None
    rotary_types: frozenset[str]


@torch.inference_mode()
def read_decoder(model: PreTrainedModel, plan: LayerPlan) -> Decoder:
    """The decoder that a model is.

    Args:
        model (`PreTrainedModel`): in evaluation mode; of a model that reads more than text, its text part is read.
        plan ([`LayerPlan`]): with the calls of the attention function.

    Raises:
        UnknownPart: it is none of the common shape.
    """
    return _Reader(model.get_decoder(), plan).decoder()


class _Reader:
    """Reads modules, and remembers which weights have found a place."""

    def __init__(self, base: Any, plan: LayerPlan) -> None:
        self.base = base
        # where every layer slides, no document is longer than what they all see
        slides = plan.reach is None
        self.calls = {i: call if slides else replace(call, window=None) for i, call in plan.calls.items()}
        self.known: set[int] = set()
        # what is found by trying once for each type of module
        self.norm_forms: dict[type, tuple[float, bool]] = {}
        self.activations: dict[type, str] = {}
        self.rotary = getattr(base, "rotary_emb", None)
        self.by_type = self.rotary is not None and "layer_type" in inspect.signature(self.rotary.forward).parameters

    def decoder(self) -> Decoder:
        if not isinstance(getattr(self.base, "layers", None), nn.ModuleList):
            raise UnknownPart(f"{type(self.base).__name__} has no list of layers")
        embedding = self.child(self.base, ("embed_tokens",))
        self.know(embedding)
        layers = tuple(self.layer(index, layer) for index, layer in enumerate(self.base.layers))
        norm = self.norm(self.child(self.base, ("norm", "embedding_norm")))
        for name, weight in self.base.named_parameters():
            if id(weight) not in self.known:
                raise UnknownPart(f"{name} has no place in a decoder of the common shape")
        types = {layer.mixer.rotary for layer in layers if isinstance(layer.mixer, Attention)}
        return Decoder(
            embedding=embedding,
            embedding_multiplier=float(getattr(self.base, "embedding_multiplier", 1.0)),
            layers=layers,
            norm=norm,
            rotary=self.rotary,
            rotary_types=frozenset(name for name in types if name is not None),
        )

    def layer(self, index: int, layer: nn.Module) -> Layer:
        mlp = self.child(layer, MLPS)
        mixer = self.child(layer, (ATTENTION, *OTHER_MIXERS))
        parts = {name for name, child in layer.named_children() if any(True for _ in child.parameters())}
        parts -= {name for name, child in layer.named_children() if child in (mlp, mixer)}
        roles = next((names for names in NORMS if parts == {name for name in names if name}), None)
        if roles is None:
            raise UnknownPart(f"layer {index} has {', '.join(sorted(parts)) or 'no norms'}")
        attends = mixer is getattr(layer, ATTENTION, None)
        if not attends:
            self.know(mixer)
        before_mixer, after_mixer, before_mlp, after_mlp = (
            None if name is None else self.norm(getattr(layer, name)) for name in roles
        )
        return Layer(
            mixer=self.attention(index, mixer) if attends else mixer,
            mlp=self.mlp(mlp),
            before_mixer=before_mixer,
            after_mixer=after_mixer,
            before_mlp=before_mlp,
            after_mlp=after_mlp,
            multiplier=float(getattr(layer, "residual_multiplier", 1.0)),
        )

    def attention(self, index: int, module: nn.Module) -> Attention:
        call = self.calls.get(index)
        if call is None or not call.plain or getattr(module, "layer_idx", None) != index:
            raise UnknownPart(f"the attention of layer {index} is more than causal")
        qkv = self.linears(module, ("q_proj", "k_proj", "v_proj"), ("qkv_proj",))
        queries, keys = call.num_heads * call.head_dim, call.num_key_heads * call.head_dim
        rows = [linear.out_features for linear in qkv]
        gated = rows == [2 * queries, keys, keys]
        if not gated and rows not in ([queries, keys, keys], [queries + 2 * keys]):
            raise UnknownPart(f"queries, keys and values of layer {index} are made otherwise")
        norms, across = self.head_norms(module, call)
        if gated and across:
            raise UnknownPart(f"layer {index} has gates and norms across heads")
        return Attention(
            qkv, self.linears(module, ("o_proj",), ("out_proj",))[0], call, gated, norms, across,
            self.rotary_of(index, module), _growth(module),
        )  # fmt: skip

    def head_norms(self, module: nn.Module, call: AttentionCall) -> tuple[tuple[RmsNorm, RmsNorm] | None, bool]:
        """Norms of queries and keys, and whether they go across heads."""
        found = [getattr(module, name, None) for name in ("q_norm", "q_layernorm", "k_norm", "k_layernorm")]
        modules = [norm for norm in found if norm is not None]
        if not modules:
            return None, False
        if len(modules) != 2:
            raise UnknownPart("queries and keys are not both normed")
        queries, keys = map(self.norm, modules)
        sizes = len(queries.weight), len(keys.weight)
        if sizes == (call.head_dim, call.head_dim):
            return (queries, keys), False
        if sizes == (call.num_heads * call.head_dim, call.num_key_heads * call.head_dim):
            return (queries, keys), True
        raise UnknownPart(f"norms of queries and keys have {sizes[0]} and {sizes[1]} weights")

    def rotary_of(self, index: int, module: nn.Module) -> str | None:
        if self.rotary is None or not getattr(module, "use_rope", True):
            return None
        return str(self.base.config.layer_types[index]) if self.by_type else ""

    def mlp(self, module: nn.Module) -> Mlp:
        gate_up = self.linears(module, ("gate_proj", "up_proj"), ("gate_up_proj",), ("input_linear",), ("w1", "w3"))
        (down,) = self.linears(module, ("down_proj",), ("output_linear",), ("w2",))
        if [linear.out_features for linear in gate_up] not in ([down.in_features] * 2, [2 * down.in_features]):
            raise UnknownPart(f"{type(module).__name__} has no gate of its own width")
        kind = type(module)
        if kind not in self.activations:
            x = _sample(gate_up[0].in_features, down.weight)
            gate, up = torch.cat([linear(x) for linear in gate_up], -1).chunk(2, -1)
            forms = {name: down(activation(gate) * up) for name, activation in ACTIVATIONS.items()}
            self.activations[kind] = _nearest(forms, module(x), f"the activation of {kind.__name__}")
        return Mlp(gate_up, down, self.activations[kind])

    def norm(self, module: nn.Module) -> RmsNorm:
        kind, weight = type(module), getattr(module, "weight", None)
        eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
        if not isinstance(weight, Tensor) or weight.dim() != 1 or eps is None:
            raise UnknownPart(f"{kind.__name__} is no RMS norm with weights")
        self.known.add(id(weight))
        if kind not in self.norm_forms:
            x = _sample(len(weight), weight)
            forms = [(0.0, True), (0.0, False), (1.0, False)]
            outputs = {form: RmsNorm(weight, float(eps), *form)(x) for form in forms}
            self.norm_forms[kind] = _nearest(outputs, module(x), kind.__name__)
        return RmsNorm(weight, float(eps), *self.norm_forms[kind])

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

    def child(self, module: nn.Module, names: Iterable[str]) -> nn.Module:
        """The one child that a module has of some names."""
        found = [child for name in names if isinstance(child := getattr(module, name, None), nn.Module)]
        if len(found) != 1:
            raise UnknownPart(f"{type(module).__name__} has {len(found) or 'none'} of {', '.join(names)}")
        return found[0]

    def know(self, module: nn.Module) -> None:
        self.known.update(map(id, module.parameters()))


def _growth(module: nn.Module) -> tuple[float, int] | None:
    """The growth of queries with their position in Ministral 3, which got it from Llama 4."""
    rope = getattr(getattr(module, "config", None), "rope_parameters", None) or {}
    beta, positions = rope.get("llama_4_scaling_beta"), rope.get("original_max_position_embeddings")
    return (float(beta), int(positions)) if beta and positions else None


def _sample(width: int, like: Tensor) -> Tensor:
    """Two rows whose mean is not zero, small enough that an epsilon tells."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, width, generator=generator) + 1.0
    return x.mul_(torch.tensor([[1.0], [3e-3]])).to(like.device, like.dtype)


def _nearest(forms: dict[Any, Tensor], own: Tensor, what: str) -> Any:
    """The form whose output is what the module gives."""
    tolerance = EXACT_TOLERANCE if own.dtype == torch.float32 else TOLERANCE
    own = own.double()
    distances = {form: float((output.double() - own).norm() / own.norm()) for form, output in forms.items()}
    best = min(distances, key=distances.__getitem__)
    if not distances[best] <= tolerance:
        raise UnknownPart(f"{what} has no known form")
    return best
