"""The elementwise parts of a decoder layer, one Triton kernel each: RMS norm, rotary embedding, gated activation.

Each rounds where transformers' own modules round, so that a forward pass made of them has the numerics of the model's.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ladm_hf.ops.rms_norm import RmsNorm

BLOCK = 1024
# Heads of a token that one program rotates, and the most values that these may have.
HEADS_BLOCK, HEADS_VALUES = 64, 8192
# The functions of the gate that [`gated`] knows.
ACTIVATIONS = ("silu", "gelu_tanh")


def rms_norm(x: Tensor, norm: RmsNorm) -> Tensor:
    """The norm of the rows of `[N, C]`, whose columns are contiguous."""
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    _launch_rms_norm(x, norm, out, add=False)
    return out


def rms_norm_(x: Tensor, norm: RmsNorm) -> None:
    """[`rms_norm`] in place."""
    _launch_rms_norm(x, norm, x, add=False)


def add_rms_norm_(total: Tensor, x: Tensor, norm: RmsNorm) -> None:
    """Adds [`rms_norm`] of `x` to `total` `[N, C]`, in place."""
    _launch_rms_norm(x, norm, total, add=True)


def rotate_(heads: Tensor, cos: Tensor, sin: Tensor, norm: RmsNorm | None = None, *, neighbours: bool = False) -> None:
    """Applies the rotary embedding to every head of every token, in place.

    Args:
        heads (`Tensor` `[N, heads, D]`): queries or keys of `N = B T` tokens; `D` is contiguous.
        cos, sin (`Tensor` `[T, E]`): of every position. The first `E` of the `D` dimensions are rotated; where `cos`
            has another dtype than the heads, rounding comes after the sum of the two products, not before.
            In each half of the `E` is the angle of each pair; those of one position serve all.
        norm ([`RmsNorm`], *optional*): of each head, before the rotation.
        neighbours (`bool`, *optional*, defaults to `False`): whether dimensions `2 i` and `2 i + 1` are turned
            together; else `i` and `i + E / 2`.
    """
    tokens, count, dim = heads.shape
    half, rest = cos.shape[1] // 2, dim - cos.shape[1]
    block = min(HEADS_BLOCK, triton.next_power_of_2(count), max(1, HEADS_VALUES // triton.next_power_of_2(dim)))
    weight, eps, offset = (cos, 0.0, 0.0) if norm is None else (norm.weight, norm.eps, norm.offset)
    _rotate_kernel[(tokens, triton.cdiv(count, block))](
        heads, cos, sin, weight, heads.stride(0), heads.stride(1), cos.stride(0), cos.shape[0], count, eps, offset,
        HALF=half, REST=rest, BLOCK_HEADS=block, BLOCK_HALF=triton.next_power_of_2(half),
        BLOCK_REST=triton.next_power_of_2(max(rest, 1)), ROUNDS=cos.dtype == heads.dtype, HAS_NORM=norm is not None,
        ROUNDS_FIRST=norm is not None and norm.rounds_first, NEIGHBOURS=neighbours, num_warps=4,
    )  # fmt: skip


def gated(gate_up: Tensor, activation: str) -> Tensor:
    """`activation(gate) * up` of a contiguous `[N, 2 I]` that holds them side by side, `[N, I]`."""
    width = gate_up.shape[1] // 2
    out = torch.empty(gate_up.shape[0], width, dtype=gate_up.dtype, device=gate_up.device)
    _gated_kernel[(gate_up.shape[0], triton.cdiv(width, BLOCK))](
        gate_up, out, width, GELU=ACTIVATIONS.index(activation) == 1, BLOCK=BLOCK, num_warps=4
    )
    return out


def _launch_rms_norm(x: Tensor, norm: RmsNorm, out: Tensor, add: bool) -> None:
    width = x.shape[1]
    block = triton.next_power_of_2(width)
    _rms_norm_kernel[(x.shape[0],)](
        x, norm.weight, out, x.stride(0), out.stride(0), width, norm.eps, norm.offset,
        ROUNDS_FIRST=norm.rounds_first, ADD=add, BLOCK=block, num_warps=4 if block <= 4096 else 8,
    )  # fmt: skip


@triton.jit
def _weighted(values, weight, like, ROUNDS_FIRST: tl.constexpr):  # noqa: N803
    """`values * weight` in fp32, rounded to the dtype of `like`."""
    if ROUNDS_FIRST:
        values = values.to(like.dtype).to(tl.float32)
    return (values * weight).to(like.dtype).to(tl.float32)


@triton.jit(do_not_specialize=["eps", "offset"])
def _rms_norm_kernel(
    x_ptr, weight_ptr, out_ptr, stride_x, stride_out, width, eps, offset,
    ROUNDS_FIRST: tl.constexpr, ADD: tl.constexpr, BLOCK: tl.constexpr,  # noqa: N803
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    offsets = tl.arange(0, BLOCK)
    inside = offsets < width
    x = tl.load(x_ptr + row * stride_x + offsets, mask=inside, other=0.0)
    weight = tl.load(weight_ptr + offsets, mask=inside, other=0.0).to(tl.float32) + offset
    values = x.to(tl.float32)
    values *= tl.rsqrt(tl.sum(values * values, 0) / width + eps)
    values = _weighted(values, weight, x, ROUNDS_FIRST)
    out_ptrs = out_ptr + row * stride_out + offsets
    if ADD:
        values += tl.load(out_ptrs, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptrs, values.to(x.dtype), mask=inside)


@triton.jit(do_not_specialize=["positions", "eps", "offset"])
def _rotate_kernel(
    heads_ptr, cos_ptr, sin_ptr, weight_ptr, stride_token, stride_head, stride_position, positions, count, eps, offset,
    HALF: tl.constexpr, REST: tl.constexpr,  # noqa: N803
    BLOCK_HEADS: tl.constexpr, BLOCK_HALF: tl.constexpr, BLOCK_REST: tl.constexpr,  # noqa: N803
    ROUNDS: tl.constexpr, HAS_NORM: tl.constexpr, ROUNDS_FIRST: tl.constexpr, NEIGHBOURS: tl.constexpr,  # noqa: N803
):  # fmt: skip
    token = tl.program_id(0)
    head = tl.program_id(1) * BLOCK_HEADS + tl.arange(0, BLOCK_HEADS)
    half = tl.arange(0, BLOCK_HALF)
    valid = half < HALF
    inside = (head < count)[:, None] & valid[None, :]
    rows = heads_ptr + token.to(tl.int64) * stride_token + head[:, None] * stride_head
    # where the two of a pair are
    first = 2 * half if NEIGHBOURS else half
    second = first + (1 if NEIGHBOURS else HALF)
    stored = tl.load(rows + first[None, :], mask=inside, other=0.0)
    low, high = stored.to(tl.float32), tl.load(rows + second[None, :], mask=inside, other=0.0).to(tl.float32)
    if HAS_NORM:
        squares = tl.sum(low * low, 1) + tl.sum(high * high, 1)
        if REST > 0:
            others = tl.arange(0, BLOCK_REST)
            rest_inside = (head < count)[:, None] & (others < REST)[None, :]
            rest_ptrs = rows + 2 * HALF + others[None, :]
            rest = tl.load(rest_ptrs, mask=rest_inside, other=0.0).to(tl.float32)
            squares += tl.sum(rest * rest, 1)
        inverse = tl.rsqrt(squares / (2 * HALF + REST) + eps)[:, None]
        weight_low = tl.load(weight_ptr + first, mask=valid, other=0.0).to(tl.float32)[None, :] + offset
        weight_high = tl.load(weight_ptr + second, mask=valid, other=0.0).to(tl.float32)[None, :] + offset
        low = _weighted(low * inverse, weight_low, stored, ROUNDS_FIRST)
        high = _weighted(high * inverse, weight_high, stored, ROUNDS_FIRST)
        if REST > 0:
            weight_rest = tl.load(weight_ptr + 2 * HALF + others, mask=others < REST, other=0.0).to(tl.float32)
            rest = _weighted(rest * inverse, weight_rest[None, :] + offset, stored, ROUNDS_FIRST)
            tl.store(rest_ptrs, rest.to(stored.dtype), mask=rest_inside)
    angle = (token % positions).to(tl.int64) * stride_position + half
    cos_low = tl.load(cos_ptr + angle, mask=valid, other=0.0).to(tl.float32)[None, :]
    cos_high = tl.load(cos_ptr + angle + HALF, mask=valid, other=0.0).to(tl.float32)[None, :]
    sin_low = tl.load(sin_ptr + angle, mask=valid, other=0.0).to(tl.float32)[None, :]
    sin_high = tl.load(sin_ptr + angle + HALF, mask=valid, other=0.0).to(tl.float32)[None, :]
    a, b, c, d = low * cos_low, high * sin_low, high * cos_high, low * sin_high
    if ROUNDS:
        a, b = a.to(stored.dtype).to(tl.float32), b.to(stored.dtype).to(tl.float32)
        c, d = c.to(stored.dtype).to(tl.float32), d.to(stored.dtype).to(tl.float32)
    tl.store(rows + first[None, :], (a - b).to(stored.dtype), mask=inside)
    tl.store(rows + second[None, :], (c + d).to(stored.dtype), mask=inside)


@triton.jit
def activated(gate, up, GELU: tl.constexpr):  # noqa: N803
    """`activation(gate) * up` in the dtype of both."""
    values = gate.to(tl.float32)
    # gelu's (1 + tanh(u)) / 2 is the sigmoid of 2 u, with u = sqrt(2 / pi) (x + 0.044715 x^3)
    power = 1.5957691216057308 * (values + 0.044715 * values * values * values) if GELU else values
    values = (values / (1.0 + tl.exp(-power))).to(gate.dtype).to(tl.float32)
    return (values * up.to(tl.float32)).to(gate.dtype)


@triton.jit
def _gated_kernel(gate_up_ptr, out_ptr, width, GELU: tl.constexpr, BLOCK: tl.constexpr):  # noqa: N803
    row = tl.program_id(0).to(tl.int64)
    offsets = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = offsets < width
    gate = tl.load(gate_up_ptr + row * 2 * width + offsets, mask=inside, other=0.0)
    up = tl.load(gate_up_ptr + row * 2 * width + width + offsets, mask=inside, other=0.0)
    tl.store(out_ptr + row * width + offsets, activated(gate, up, GELU), mask=inside)
