"""Linear layers of one input as one product, over weights laid side by side of which theirs become views."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from ladm_hf.scoring.architecture import UnknownPart

if TYPE_CHECKING:
    from ladm_hf.ops.float8 import Float8


# Rows with which a product in float8 is compared with its own, and how far it may be off, relative to the norm: three
# bits of mantissa make 4 %.
FLOAT8_ROWS, FLOAT8_TOLERANCE = 32, 0.1


class Product(NamedTuple):
    """Linear layers of one input as one."""

    weight: Tensor
    bias: Tensor | None

    def __call__(self, x: Tensor, rows: int | None = None) -> Tensor:
        """The first outputs of `[N, C]`, or all."""
        bias = None if self.bias is None else self.bias[:rows]
        return nn.functional.linear(x, self.weight[:rows], bias)

    def gated(self, gate_up: Tensor, activation: str) -> Tensor:
        """What it takes of `activation(gate) * up`, `[N, C]` of a contiguous `[N, 2 C]`."""
        from ladm_hf.ops import pointwise

        return pointwise.gated(gate_up, activation)

    def add_to(self, total: Tensor, x: Tensor, multiplier: float) -> None:
        """`total += multiplier * self(x)`."""
        total.addmm_(x, self.weight.t(), alpha=multiplier)
        if self.bias is not None:
            total.add_(self.bias, alpha=multiplier)


class Float8Product(NamedTuple):
    """A [`Product`] in float8: see `ladm_hf.ops.float8`."""

    weight: Float8
    bias: Tensor | None

    def __call__(self, x: Tensor | Float8, rows: int | None = None) -> Tensor:
        from ladm_hf.ops import float8

        # the kernel gives multiples alone
        if rows is not None and rows % float8.MULTIPLE:
            return self(x)[:, :rows].contiguous()
        weight = float8.Float8(self.weight.values[:rows], self.weight.scales[:rows])
        bias = None if self.bias is None else self.bias[:rows]
        return float8.product(float8.quantized(x) if isinstance(x, Tensor) else x, weight, bias)

    def gated(self, gate_up: Tensor, activation: str) -> Float8:
        from ladm_hf.ops import float8

        return float8.gated(gate_up, activation)

    def add_to(self, total: Tensor, x: Tensor | Float8, multiplier: float) -> None:
        total.add_(self(x), alpha=multiplier)


AnyProduct = Product | Float8Product


def side_by_side(linears: tuple[nn.Linear, ...]) -> Product:
    """The linear layers as one product."""
    bias = None if linears[0].bias is None else _packed([linear.bias for linear in linears])
    return Product(_packed([linear.weight for linear in linears]), bias)


def in_float8(product: AnyProduct) -> Float8Product:
    """A product in float8, compared with what it stands for; the weights stay as they are beside it.

    Raises:
        UnknownPart: its sizes do not suit, or it is off.
    """
    from ladm_hf.ops import float8

    assert isinstance(product, Product)
    outputs, inputs = product.weight.shape
    if outputs % float8.MULTIPLE or inputs % float8.MULTIPLE:
        raise UnknownPart(f"it has weights of {outputs} x {inputs}, no multiples of {float8.MULTIPLE}")
    found = Float8Product(float8.quantized(product.weight), product.bias)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(FLOAT8_ROWS, inputs, generator=generator).to(product.weight.device, product.weight.dtype)
    expected = product(x)
    error = float((found(x).float() - expected.float()).norm() / expected.float().norm())
    if not error <= FLOAT8_TOLERANCE:
        raise UnknownPart(f"a product with weights of {outputs} x {inputs} is off by {error:.1e}")
    return found


def _packed(parameters: list[Any]) -> Tensor:
    # the views must stay trainable, whatever mode the caller is in
    with torch.inference_mode(False), torch.no_grad():
        if len(parameters) == 1:
            return parameters[0].detach()  # type: ignore[no-any-return]
        packed = torch.cat([parameter.detach() for parameter in parameters])
        for parameter, view in zip(parameters, packed.split([len(p) for p in parameters]), strict=True):
            parameter.data = view
    return packed
