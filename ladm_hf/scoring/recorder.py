"""What travels to every layer of a forward pass and keeps its span focus."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from ladm_hf.ops import BACKENDS, SpanFocus
from ladm_hf.ops.distant import distant_attention
from ladm_hf.ops.spans import SpanGrid


class Recorder(Protocol):
    """What travels to the layers as `ladm_recorder`."""

    # whether the forward pass runs on after the last layer that is wanted, to its hidden states
    to_the_end: bool = False

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


class NoRecorder(Recorder):
    """Wants no layer: the forward pass is the model's."""

    to_the_end = True

    def wants(self, layer: int) -> bool:
        return False

    def is_last(self, layer: int) -> bool:
        return False

    def record(self, layer: int, q: Tensor, k: Tensor, scale: float, lse: Tensor | None, softcap: float | None) -> None:
        raise TypeError("no layer was wanted")


class ForwardDone(Exception):  # noqa: N818, it is no error
    """Ends a forward pass at the last scored layer: everything after its queries and keys feeds nothing."""


class SpanRecorder(Recorder):
    """Collects the PFS of every scored layer during one forward pass, averaged over heads or head by head.

    Args:
        grid ([`SpanGrid`]): spans of the documents in the batch.
        layers (`tuple[int, ...]`): layers to record.
        heads (`dict[int, list[int]]`): heads that count in each layer; a layer not named counts all of its heads.
        span_focus (`SpanFocus`): the backend.
        by_head (`bool`, *optional*, defaults to `False`): keep the heads apart.
    """

    def __init__(
        self,
        grid: SpanGrid,
        layers: tuple[int, ...],
        heads: dict[int, list[int]],
        span_focus: SpanFocus,
        by_head: bool = False,
    ) -> None:
        self.grid = grid
        self.layers = layers
        self.heads = heads
        self.span_focus = span_focus
        self.by_head = by_head
        # layer -> [N, B, R, S], where N is 1 or the number of heads that count
        self.pfs: dict[int, Tensor] = {}

    def wants(self, layer: int) -> bool:
        return layer in self.layers

    def is_last(self, layer: int) -> bool:
        return layer == self.layers[-1]

    def grid_in_attention(self, layer: int) -> SpanGrid | None:
        return self.grid if self.wants(layer) and self.span_focus is BACKENDS["fused"] else None

    def keep(self, layer: int, pfs: Tensor) -> None:
        """Takes the PFS of all heads, `[B, H, R, S]`."""
        self._keep_counted(layer, _take(pfs, self.heads[layer]) if layer in self.heads else pfs)

    def record(self, layer: int, q: Tensor, k: Tensor, scale: float, lse: Tensor | None, softcap: float | None) -> None:
        if layer in self.heads:
            q, k, lse = _select_heads(q, k, lse, self.heads[layer])
        self._keep_counted(layer, self.span_focus(q, k, self.grid, scale, lse, softcap))

    def _keep_counted(self, layer: int, pfs: Tensor) -> None:
        """Takes the PFS of the heads that count, `[B, N, R, S]`."""
        self.pfs[layer] = pfs.transpose(0, 1) if self.by_head else pfs.mean(1)[None]


class SignalRecorder(SpanRecorder):
    """A [`SpanRecorder`] that takes the distant attention of one layer too, and may let the forward pass run on.

    Args:
        distant_layer (`int`, *optional*): the layer, see `ladm_hf.ops.distant`.
        uniformity (`bool`): whether its uniformity is wanted.
        padded (callable): length to which that attention is padded.
        to_the_end (`bool`): whether the last hidden states are wanted.
    """

    def __init__(
        self,
        grid: SpanGrid,
        layers: tuple[int, ...],
        heads: dict[int, list[int]],
        span_focus: SpanFocus,
        by_head: bool,
        *,
        distant_layer: int | None,
        uniformity: bool,
        padded: Callable[[int], int],
        to_the_end: bool,
    ) -> None:
        super().__init__(grid, layers, heads, span_focus, by_head)
        self.distant_layer = distant_layer
        self.uniformity = uniformity
        self.padded = padded
        self.to_the_end = to_the_end
        # [B, 2]
        self.distant: Tensor | None = None

    def wants(self, layer: int) -> bool:
        return layer == self.distant_layer or super().wants(layer)

    def grid_in_attention(self, layer: int) -> SpanGrid | None:
        # a kernel that gives the focus alone would leave nothing for the distant attention
        return None if layer == self.distant_layer else super().grid_in_attention(layer)

    def record(self, layer: int, q: Tensor, k: Tensor, scale: float, lse: Tensor | None, softcap: float | None) -> None:
        if layer == self.distant_layer:
            self.distant = distant_attention(
                q, k, self.grid.num_tokens, scale, lse, softcap, uniformity=self.uniformity, padded=self.padded
            )
        if super().wants(layer):
            super().record(layer, q, k, scale, lse, softcap)


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
