"""RMS norm in the forms that models have: weights stored as they are or less one, rounding before or after them.

y = (weight + offset) * x / sqrt(mean(x^2) + eps)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class RmsNorm:
    """An RMS norm over the last dimension; called, it is the definition in PyTorch.

    Args:
        weight (`Tensor` `[C]`): as the model stores it.
        eps (`float`): added to the mean square.
        offset (`float`, *optional*, defaults to `0.0`): added to the weights; 1 in Gemma.
        rounds_first (`bool`, *optional*, defaults to `True`): whether `x` is rounded to its dtype before the weight
            multiplies it, as in Llama; else only the product is, as in OLMo 2 and Gemma.
    """

    weight: Tensor
    eps: float
    offset: float = 0.0
    rounds_first: bool = True

    def __call__(self, x: Tensor) -> Tensor:
        values = x.float()
        values = values * torch.rsqrt(values.square().mean(-1, keepdim=True) + self.eps)
        if self.rounds_first:
            values = values.to(x.dtype).float()
        return (values * (self.weight.float() + self.offset)).to(x.dtype)
