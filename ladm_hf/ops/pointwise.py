"""The elementwise parts of a Llama-like layer, one Triton kernel each: RMS norm, rotary embedding, gated SiLU.

Each rounds where transformers' own modules round, so that a forward pass made of them has the numerics of the model's.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024
HEADS_BLOCK = 64


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`weight * x / sqrt(mean(x^2) + eps)` over the rows of a contiguous `[N, C]`."""
    out = torch.empty_like(x)
    width = x.shape[1]
    block = triton.next_power_of_2(width)
    _rms_norm_kernel[(x.shape[0],)](x, weight, out, width, eps, BLOCK=block, num_warps=4 if block <= 4096 else 8)
    return out


def rotate_(
    heads: Tensor,
    cos: Tensor,
    sin: Tensor,
    num_queries: int,
    norms: tuple[Tensor, Tensor] | None = None,
    eps: float = 0.0,
) -> None:
    """Applies the rotary embedding, in place, to the first heads of every token.

    Args:
        heads (`Tensor` `[N, heads, D]`): queries, then keys, of `N = B T` tokens; `D` is contiguous.
        cos, sin (`Tensor` `[T, D]`): of every position.
        num_queries (`int`): how many of the heads are queries.
        norms (two `Tensor` `[D]`, *optional*): weights of an RMS norm of each query and key head before the rotation.
        eps (`float`, *optional*): of that norm.
    """
    tokens, count, dim = heads.shape
    block = min(HEADS_BLOCK, triton.next_power_of_2(count))
    query_norm, key_norm = norms or (cos, cos)
    _rotate_kernel[(tokens, triton.cdiv(count, block))](
        heads, cos, sin, query_norm, key_norm,
        heads.stride(0), heads.stride(1), cos.stride(0), cos.shape[0], count, num_queries, eps,
        HALF=dim // 2, BLOCK_HEADS=block, BLOCK_HALF=triton.next_power_of_2(dim // 2), HAS_NORM=norms is not None,
        num_warps=4,
    )  # fmt: skip


def silu_mul(gate_up: Tensor) -> Tensor:
    """`silu(gate) * up` of a contiguous `[N, 2 I]` that holds them side by side, `[N, I]`."""
    width = gate_up.shape[1] // 2
    out = torch.empty(gate_up.shape[0], width, dtype=gate_up.dtype, device=gate_up.device)
    _silu_mul_kernel[(gate_up.shape[0], triton.cdiv(width, BLOCK))](gate_up, out, width, BLOCK=BLOCK, num_warps=4)
    return out


@triton.jit(do_not_specialize=["eps"])
def _rms_norm_kernel(x_ptr, weight_ptr, out_ptr, width, eps, BLOCK: tl.constexpr):  # noqa: N803
    row = tl.program_id(0).to(tl.int64) * width
    offsets = tl.arange(0, BLOCK)
    inside = offsets < width
    x = tl.load(x_ptr + row + offsets, mask=inside, other=0.0)
    weight = tl.load(weight_ptr + offsets, mask=inside, other=0.0)
    values = x.to(tl.float32)
    values *= tl.rsqrt(tl.sum(values * values, 0) / width + eps)
    rounded = values.to(x.dtype).to(tl.float32) * weight.to(tl.float32)
    tl.store(out_ptr + row + offsets, rounded.to(x.dtype), mask=inside)


@triton.jit(do_not_specialize=["positions", "eps"])
def _rotate_kernel(
    heads_ptr, cos_ptr, sin_ptr, query_norm_ptr, key_norm_ptr,
    stride_token, stride_head, stride_position, positions, count, num_queries, eps,
    HALF: tl.constexpr, BLOCK_HEADS: tl.constexpr, BLOCK_HALF: tl.constexpr, HAS_NORM: tl.constexpr,  # noqa: N803
):  # fmt: skip
    token = tl.program_id(0)
    head = tl.program_id(1) * BLOCK_HEADS + tl.arange(0, BLOCK_HEADS)
    half = tl.arange(0, BLOCK_HALF)
    inside = (head < count)[:, None] & (half < HALF)[None, :]
    heads_ptr += token.to(tl.int64) * stride_token
    low_ptrs = heads_ptr + head[:, None] * stride_head + half[None, :]
    low, high = tl.load(low_ptrs, mask=inside, other=0.0), tl.load(low_ptrs + HALF, mask=inside, other=0.0)
    dtype = low.dtype
    angle = (token % positions).to(tl.int64) * stride_position + half
    valid = half < HALF
    cos_low = tl.load(cos_ptr + angle, mask=valid, other=0.0).to(tl.float32)[None, :]
    cos_high = tl.load(cos_ptr + angle + HALF, mask=valid, other=0.0).to(tl.float32)[None, :]
    sin_low = tl.load(sin_ptr + angle, mask=valid, other=0.0).to(tl.float32)[None, :]
    sin_high = tl.load(sin_ptr + angle + HALF, mask=valid, other=0.0).to(tl.float32)[None, :]
    low, high = low.to(tl.float32), high.to(tl.float32)
    if HAS_NORM:
        inverse = tl.rsqrt((tl.sum(low * low, 1) + tl.sum(high * high, 1)) / (2 * HALF) + eps)[:, None]
        is_query = (head < num_queries)[:, None]
        weight_low = tl.where(
            is_query,
            tl.load(query_norm_ptr + half, mask=valid, other=0.0).to(tl.float32)[None, :],
            tl.load(key_norm_ptr + half, mask=valid, other=0.0).to(tl.float32)[None, :],
        )
        weight_high = tl.where(
            is_query,
            tl.load(query_norm_ptr + HALF + half, mask=valid, other=0.0).to(tl.float32)[None, :],
            tl.load(key_norm_ptr + HALF + half, mask=valid, other=0.0).to(tl.float32)[None, :],
        )
        low = ((low * inverse).to(dtype).to(tl.float32) * weight_low).to(dtype).to(tl.float32)
        high = ((high * inverse).to(dtype).to(tl.float32) * weight_high).to(dtype).to(tl.float32)
    new_low = (low * cos_low).to(dtype).to(tl.float32) - (high * sin_low).to(dtype).to(tl.float32)
    new_high = (high * cos_high).to(dtype).to(tl.float32) + (low * sin_high).to(dtype).to(tl.float32)
    tl.store(low_ptrs, new_low.to(dtype), mask=inside)
    tl.store(low_ptrs + HALF, new_high.to(dtype), mask=inside)


@triton.jit
def _silu_mul_kernel(gate_up_ptr, out_ptr, width, BLOCK: tl.constexpr):  # noqa: N803
    row = tl.program_id(0).to(tl.int64)
    offsets = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = offsets < width
    gate = tl.load(gate_up_ptr + row * 2 * width + offsets, mask=inside, other=0.0)
    up = tl.load(gate_up_ptr + row * 2 * width + width + offsets, mask=inside, other=0.0)
    values = gate.to(tl.float32)
    activated = (values / (1.0 + tl.exp(-values))).to(gate.dtype).to(tl.float32)
    tl.store(out_ptr + row * width + offsets, (activated * up.to(tl.float32)).to(gate.dtype), mask=inside)
