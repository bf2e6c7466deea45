"""Forms of a decoder's parts in PyTorch, and which of them a module has: the one that gives what it gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ladm_hf.scoring.architecture import UnknownPart

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": nn.functional.silu,
    "gelu_tanh": lambda x: nn.functional.gelu(x, approximate="tanh"),
}
# How far a part may be from the form that it is read as, relative to its norm: in float32, and in others.
EXACT_TOLERANCE, TOLERANCE = 1e-5, 1e-2


def nearest(forms: dict[Any, Tensor], own: Tensor, what: str) -> Any:
    """The form whose output is what the module gives.

    Args:
        forms (`dict`): output of each form.
        own (`Tensor`): the module's.
        what (`str`): for the message.

    Raises:
        UnknownPart: there is none.
    """
    tolerance = EXACT_TOLERANCE if own.dtype == torch.float32 else TOLERANCE
    own = own.double()
    distances = {form: float((output.double() - own).norm() / own.norm()) for form, output in forms.items()}
    best = min(distances, key=distances.__getitem__)
    if not distances[best] <= tolerance:
        raise UnknownPart(f"{what} has no known form")
    return best


def rotated(heads: Tensor, cos: Tensor, sin: Tensor, neighbours: bool) -> Tensor:
    """`[B, T, H, D]` turned by angles `[T, E]`."""
    turned, rest = heads[..., : cos.shape[-1]].float(), heads[..., cos.shape[-1] :]
    low, high = (turned[..., ::2], turned[..., 1::2]) if neighbours else turned.chunk(2, -1)
    a, b = (angles.float().chunk(2, -1)[0][:, None] for angles in (cos, sin))
    pair = low * a - high * b, high * a + low * b
    turned = torch.stack(pair, -1).flatten(-2) if neighbours else torch.cat(pair, -1)
    return torch.cat([turned.to(heads.dtype), rest], -1)


def same(x: Tensor, y: Tensor) -> bool:
    """Whether two are the same values, whatever their shape."""
    return x.numel() == y.numel() and torch.equal(x.flatten(), y.flatten())


def sample_rows(width: int, like: Tensor) -> Tensor:
    """Two rows whose mean is not zero, small enough that an epsilon tells."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, width, generator=generator) + 1.0
    return x.mul_(torch.tensor([[1.0], [3e-3]])).to(like.device, like.dtype)
