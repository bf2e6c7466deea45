"""The common shape of decoder as data: what `ladm_hf.scoring.reading` finds in a model.

Most language models are one decoder with a few choices. Of a residual stream `h`, each layer makes

    h += m * norm(mixer(norm(h)))
    h += m * norm(mlp(norm(h)))

one after the other, or both from the same `h`. Any of the norms may be absent, the mixer is attention or something
else, and `m` is 1 but for Granite. A part that is none of the forms known here stands as the model's own module and is
called as it is: a norm, an MLP (a mixture of experts, say), a mixer other than attention.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ladm_hf.ops.rms_norm import RmsNorm
from ladm_hf.scoring.layers import AttentionCall

Norm = RmsNorm | nn.Module
# Cosines and sines of every position, `[T, E]` each, by the type of layers.
Angles = dict[str, tuple[Tensor, Tensor]]


class UnknownPart(Exception):  # noqa: N818, it is no error
    """A model is no decoder of the common shape; the message is the reason."""


class Rotation(NamedTuple):
    """How queries and keys are rotated.

    Attributes:
        layers (`str`): whose angles of the rotary embedding it takes: those of a type of layers, or `""` where all
            have the same.
        neighbours (`bool`): whether dimensions `2 i` and `2 i + 1` are turned together, as in GLM and Cohere; else `i`
            and `i + E / 2` of the `E` that are turned.
    """

    layers: str
    neighbours: bool


@dataclass(frozen=True)
class Attention:
    """Queries, keys and values of one layer, and what happens to them.

    Attributes:
        qkv (`tuple` of `nn.Linear`): the products that make them: one, or three in this order.
        by_head (`bool`): whether the one product has query, key and value of a head side by side, as in GPT-NeoX.
        out (`nn.Linear`): of the heads' outputs.
        call ([`AttentionCall`]): heads, scale and window.
        gated (`bool`): whether each query head is followed by a gate, whose sigmoid multiplies the head's output.
        norms (two [`RmsNorm`], *optional*): of queries and keys.
        across_heads (`bool`): whether these norms go over all heads of a token at once.
        norms_last (`bool`): whether they come after the rotation.
        rotation ([`Rotation`], *optional*): `None` without one.
        growth (`tuple[float, int]`, *optional*): `(beta, n)`, where queries at position `p` are multiplied by
            `1 + beta * log(1 + floor(p / n))`.
    """

    qkv: tuple[nn.Linear, ...]
    by_head: bool
    out: nn.Linear
    call: AttentionCall
    gated: bool
    norms: tuple[RmsNorm, RmsNorm] | None
    across_heads: bool
    norms_last: bool
    rotation: Rotation | None
    growth: tuple[float, int] | None

    @property
    def query_rows(self) -> int:
        """Outputs of `qkv` that belong to queries and their gates."""
        return self.call.num_heads * self.call.head_dim * (2 if self.gated else 1)

    @property
    def key_rows(self) -> int:
        """Outputs of `qkv` that belong to keys; values have as many."""
        return self.call.num_key_heads * self.call.head_dim

    def split(self, product: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries with their gates `[..., H, D or 2 D]`, keys and values `[..., Hkv, D]`, views into `[..., rows]`.

        There are no values where the product has been cut before them.
        """
        call = self.call
        if self.by_head:
            queries, keys, values = product.unflatten(-1, (call.num_heads, 3, call.head_dim)).unbind(-2)
            return queries, keys, values
        queries, keys, values = product.tensor_split((self.query_rows, self.query_rows + self.key_rows), -1)
        return (
            queries.unflatten(-1, (call.num_heads, -1)),
            keys.unflatten(-1, (call.num_key_heads, call.head_dim)),
            values.unflatten(-1, (-1, call.head_dim)),
        )


@dataclass(frozen=True)
class Mlp:
    """`down(activation(gate) * up)`; `gate_up` makes both, in this order, by one product or two."""

    gate_up: tuple[nn.Linear, ...]
    down: nn.Linear
    activation: str


@dataclass(frozen=True)
class Layer:
    """One decoder layer; `parallel` where the MLP reads what the mixer reads, not what the mixer has added to."""

    mixer: Attention | nn.Module
    mlp: Mlp | nn.Module
    before_mixer: Norm | None
    after_mixer: Norm | None
    before_mlp: Norm | None
    after_mlp: Norm | None
    multiplier: float
    parallel: bool


@dataclass(frozen=True)
class Rotary:
    """A model's rotary embedding.

    Attributes:
        module (`nn.Module`): gives cosines and sines of positions.
        layers (`tuple[str, ...]`): types of layers, each with angles of its own; `("",)` where all have the same.
        repeats (`bool`): whether the angle of a pair stands twice in a row, not in both halves.
        position_axes (`tuple[int, ...]`): what precedes `[B, T]` in the shape of the positions that the module takes;
            along these axes the positions of text are the same.
    """

    module: nn.Module
    layers: tuple[str, ...]
    repeats: bool
    position_axes: tuple[int, ...]

    def __call__(self, like: Tensor, positions: Tensor) -> Angles:
        """The angles of positions `[T]`, with those of the pairs in both halves."""
        positions = positions.expand(*self.position_axes, 1, -1)
        found = {layers: self.module(like, positions, *([layers] if layers else [])) for layers in self.layers}
        return {layers: (self._halves(cos[0]), self._halves(sin[0])) for layers, (cos, sin) in found.items()}

    def _halves(self, angles: Tensor) -> Tensor:
        return torch.cat([angles[:, ::2]] * 2, -1) if self.repeats else angles


@dataclass(frozen=True)
class Decoder:
    """A decoder from token ids to last hidden states."""

    embedding: nn.Module
    embedding_multiplier: float
    layers: tuple[Layer, ...]
    norm: Norm | None
    rotary: Rotary | None
