"""Linear layers of one input as one product, over weights laid side by side of which theirs become views."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Product(NamedTuple):
    """Linear layers of one input as one."""

    weight: Tensor
    bias: Tensor | None

    def __call__(self, x: Tensor, rows: int | None = None) -> Tensor:
        """The first outputs of `[N, C]`, or all."""
        bias = None if self.bias is None else self.bias[:rows]
        return nn.functional.linear(x, self.weight[:rows], bias)


def side_by_side(linears: tuple[nn.Linear, ...]) -> Product:
    """The linear layers as one product."""
    bias = None if linears[0].bias is None else _packed([linear.bias for linear in linears])
    return Product(_packed([linear.weight for linear in linears]), bias)


def _packed(parameters: list[Any]) -> Tensor:
    # the views must stay trainable, whatever mode the caller is in
    with torch.inference_mode(False), torch.no_grad():
        if len(parameters) == 1:
            return parameters[0].detach()  # type: ignore[no-any-return]
        packed = torch.cat([parameter.detach() for parameter in parameters])
        for parameter, view in zip(parameters, packed.split([len(p) for p in parameters]), strict=True):
            parameter.data = view
    return packed
