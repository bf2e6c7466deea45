"""Matrix products in float8 (e4m3), with a scale for each row of the input and for each output of the weights.

    y = (x / a) (W / b)^T * a * b^T,      a, b: largest absolute value of a row / 448, in fp32

The product is PyTorch's (`torch._scaled_mm`, CUTLASS or cuBLAS beneath), which gives bfloat16 and accumulates
as fast as tensor cores can, on Hopper in fewer bits than fp32 has. Since no scale spans two rows, a document has the
same result in any batch.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ladm_hf.ops.device import launches_on
from ladm_hf.ops.pointwise import ACTIVATIONS, activated

DTYPE = torch.float8_e4m3fn
# What both sizes of a product's weights must be a multiple of.
MULTIPLE = 16
# Of GPUs that multiply float8.
CAPABILITY = (8, 9)
# The trial: tokens, inputs and outputs, and how far its product may be off in bfloat16, relative to its norm.
TRIAL, TRIAL_TOLERANCE = (48, 96, 64), 1e-2


class Float8(NamedTuple):
    """Rows in float8.

    Attributes:
        values (`Tensor` `[N, C]`): float8.
        scales (`Tensor` `[N, 1]`): fp32; `values * scales` is what they stand for.
    """

    values: Tensor
    scales: Tensor


def quantized(x: Tensor) -> Float8:
    """The rows of `[N, C]` in float8."""
    return _launch(x.contiguous(), x.shape[1], "")


def gated(gate_up: Tensor, activation: str) -> Float8:
    """[`ladm_hf.ops.pointwise.gated`] in float8, in one kernel: `[N, I]` of a contiguous `[N, 2 I]`."""
    return _launch(gate_up, gate_up.shape[1] // 2, activation)


def product(x: Float8, weight: Float8, bias: Tensor | None = None) -> Tensor:
    """`x W^T + bias`, `[N, O]` in bfloat16, of `x` `[N, C]` and `W` `[O, C]`."""
    y: Tensor = torch._scaled_mm(
        x.values, weight.values.t(), scale_a=x.scales, scale_b=weight.scales.t(), out_dtype=torch.bfloat16,
        use_fast_accum=True,
    )  # fmt: skip
    return y if bias is None else y.add_(bias)


@functools.cache
def problem(device: torch.device) -> str:
    """What keeps a CUDA device from such products, `""` where nothing does: found out by a small one."""
    major, minor = torch.cuda.get_device_capability(device)
    if (major, minor) < CAPABILITY:
        return f"its capability is {major}.{minor}, below {CAPABILITY[0]}.{CAPABILITY[1]}"
    try:
        error = trial(device)
    except torch.OutOfMemoryError:
        raise
    except Exception as failure:  # libraries beneath raise what they like
        first = next(iter(str(failure).strip().splitlines()), "")
        return f"a trial failed ({type(failure).__name__}: {first})"
    return "" if error <= TRIAL_TOLERANCE else f"a trial was off by {error:.1e}"


@torch.inference_mode()
def trial(device: torch.device) -> float:
    """Relative difference of a small product from that of the values that its float8 stand for."""
    tokens, inputs, outputs = TRIAL
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(n, inputs, generator=generator).to(device, torch.bfloat16) for n in (tokens, outputs))
    with launches_on(device):
        x8, weight8 = quantized(x), quantized(weight)
        found = product(x8, weight8).double()
    exact = [rows.values.double() * rows.scales.double() for rows in (x8, weight8)]
    rounded = max(float((rows - given).norm() / given.norm()) for rows, given in zip(exact, (x, weight), strict=True))
    expected = exact[0] @ exact[1].t()
    error = float((found - expected).norm() / expected.norm())
    # three bits of mantissa: 2.6 % in the mean of squares
    return error if error >= 0 and rounded < 0.06 else float("inf")


def _launch(x: Tensor, width: int, activation: str) -> Float8:
    rows = len(x)
    values = torch.empty(rows, width, dtype=DTYPE, device=x.device)
    scales = torch.empty(rows, 1, dtype=torch.float32, device=x.device)
    block = triton.next_power_of_2(width)
    _quantize_kernel[(rows,)](
        x, values, scales, width, GATED=bool(activation), GELU=activation == ACTIVATIONS[1], BLOCK=block,
        num_warps=4 if block <= 2048 else 8 if block <= 8192 else 16,
    )  # fmt: skip
    return Float8(values, scales)


@triton.jit
def _quantize_kernel(
    x_ptr, values_ptr, scales_ptr, width, GATED: tl.constexpr, GELU: tl.constexpr, BLOCK: tl.constexpr  # noqa: N803
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    offsets = tl.arange(0, BLOCK)
    inside = offsets < width
    x_ptr += row * width * (2 if GATED else 1)
    x = tl.load(x_ptr + offsets, mask=inside, other=0.0)
    if GATED:
        x = activated(x, tl.load(x_ptr + width + offsets, mask=inside, other=0.0), GELU)
    x = x.to(tl.float32)
    # a row of zeros must not divide by zero
    scale = tl.maximum(tl.max(tl.abs(x), 0), 1e-12) / 448.0
    tl.store(scales_ptr + row, scale)
    tl.store(values_ptr + row * width + offsets, (x / scale).to(tl.float8e4nv), mask=inside)
