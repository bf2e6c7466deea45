"""Causal attention within a sliding window, whose cost grows with the length and not with its square.

Query `i` attends to the keys `i - window + 1 .. i`. On CUDA it is FlashAttention, which PyTorch brings and which skips
what lies outside of the window; it is compared with the definition before it is used. Elsewhere a block of queries at a
time is multiplied by the keys that it may see.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ladm_hf.ops.causal import HALF_TYPES, TRIAL_TOKENS, TRIAL_TOLERANCE, first_that_agrees, trial_heads
from ladm_hf.ops.device import launches_on

# Fewest queries of a block, and the window of the trial.
QUERY_BLOCK, TRIAL_WINDOW = 256, 20


def windowed_attention(q: Tensor, k: Tensor, v: Tensor, scale: float, window: int) -> Tensor:
    """Output of causal attention within a window.

    Args:
        q (`Tensor` `[B, H, T, D]`), k and v (`Tensor` `[B, Hkv, T, D]`): KV heads not repeated.
        scale (`float`): multiplies `q . k`.
        window (`int`): keys that a query sees, itself among them.

    Returns:
        The output `[B, H, T, D]`.
    """
    if q.is_cuda and flash_serves(q.device.index or 0, q.dtype, q.shape[-1], q.shape[1] // k.shape[1]):
        with launches_on(q.device):
            return flash(q, k, v, scale, window)
    return in_blocks(q, k, v, scale, window)


def in_blocks(q: Tensor, k: Tensor, v: Tensor, scale: float, window: int) -> Tensor:
    """[`windowed_attention`] by PyTorch's attention, a block of queries at a time."""
    tokens, size = q.shape[2], max(window, QUERY_BLOCK)
    positions = torch.arange(tokens, device=q.device)
    outputs = []
    for start in range(0, tokens, size):
        stop, first = min(start + size, tokens), max(0, start - window + 1)
        # [l, keys], tokens between query and key
        distance = positions[start:stop, None] - positions[first:stop]
        seen = (distance >= 0) & (distance < window)
        keys, values = k[:, :, first:stop], v[:, :, first:stop]
        outputs.append(
            nn.functional.scaled_dot_product_attention(
                q[:, :, start:stop], keys, values, attn_mask=seen, scale=scale, enable_gqa=True
            )
        )
    return torch.cat(outputs, 2)


def flash(q: Tensor, k: Tensor, v: Tensor, scale: float, window: int) -> Tensor:
    """[`windowed_attention`] by FlashAttention on CUDA, on the current device."""
    # heads inside tokens
    q, k, v = (tensor.transpose(1, 2) for tensor in (q, k, v))
    output, *_ = torch.ops.aten._flash_attention_forward(
        q, k, v, None, None, q.shape[1], k.shape[1], 0.0, True, False,
        scale=scale, window_size_left=window - 1, window_size_right=0,
    )  # fmt: skip
    attended: Tensor = output.transpose(1, 2)
    return attended


@functools.cache
def flash_serves(device: int, dtype: torch.dtype, dim: int, group: int) -> bool:
    """Whether [`flash`] takes such heads on a CUDA device and agrees with the definition there."""
    if torch.version.hip or dtype not in HALF_TYPES or dim % 8 or dim > 256:
        return False
    if torch.cuda.get_device_capability(device) < (8, 0):
        return False
    names, shape = ["windowed flash"], f"{dtype} heads of {dim}"

    def trial(_: str) -> float:
        return _trial(flash, torch.device("cuda", device), dtype, dim, group)

    return first_that_agrees(names, trial, TRIAL_TOLERANCE, shape, expected=names) is not None


@torch.inference_mode()
def _trial(
    kernel: Callable[[Tensor, Tensor, Tensor, float, int], Tensor],
    device: torch.device,
    dtype: torch.dtype,
    dim: int,
    group: int,
) -> float:
    """Largest difference of the output from the definition on a small random input."""
    q, k, v = trial_heads(device, dtype, dim, group)
    with launches_on(device):
        output = kernel(q, k, v, dim**-0.5, TRIAL_WINDOW)
    logits = dim**-0.5 * q.double() @ k.double().repeat_interleave(group, 1).mT
    outside = torch.ones(TRIAL_TOKENS, TRIAL_TOKENS, dtype=torch.bool, device=device)
    outside = outside.triu(1) | outside.tril(-TRIAL_WINDOW)
    expected = logits.masked_fill_(outside, -torch.inf).softmax(-1) @ v.double().repeat_interleave(group, 1)
    error = (output - expected).abs().max()
    return float("inf") if error.isnan() else float(error)
