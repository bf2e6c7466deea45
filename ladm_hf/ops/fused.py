"""PFS in one Triton kernel: a program for each query span and head, sums in fp32, no atomics, no tuning at run time.

A program keeps the queries of one span and walks over its sampled key spans. The softmax's denominator over the prefix
is the difference of log-sum-exps described in `ladm_hf.ops.chunked`; where any row of the program fails
`MIN_PREFIX_SHARE`, the same program passes over its whole prefix and takes the exact value for those rows, so that the
host never has to look. Without a log-sum-exp every program makes that pass.

Inputs that the kernel does not cover (fp64, head dimensions above 256, span lengths that are no power of two in
16..256) go to `ladm_hf.ops.chunked`. Under `TRITON_INTERPRET=1` the kernel runs on a CPU.
"""

from __future__ import annotations

import functools
import math
import os
import weakref

import torch
import triton
import triton.language as tl
from torch import Tensor

from ladm_hf.ops import chunked
from ladm_hf.ops.device import sent_to
from ladm_hf.ops.spans import SpanGrid

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
MAX_HEAD_DIM = 256
SPAN_LENGTHS = (16, 32, 64, 128, 256)
LOG2_E = math.log2(math.e)
# Queries that are summed inside the kernel; their sums are added by one reduction after it.
QUERY_GROUP = 16
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

# Starts and counts of a grid's query spans on each device: every layer of a forward pass asks for them again.
_device_spans: weakref.WeakKeyDictionary[SpanGrid, dict[torch.device, Tensor]] = weakref.WeakKeyDictionary()


def span_focus(
    q: Tensor, k: Tensor, grid: SpanGrid, scale: float, lse: Tensor | None = None, softcap: float | None = None
) -> Tensor:
    """See `ladm_hf.ops`."""
    batch, heads, _, dim = q.shape
    if not covers(q, grid.span_length):
        return chunked.span_focus(q, k, grid, scale, lse, softcap)
    if INTERPRETED and q.dtype == torch.bfloat16:
        # the interpreter multiplies bf16 as if it were an integer type
        q, k = q.float(), k.float()
    rows, columns = grid.shape
    tile, key_tile, warps, stages, registers = _tile(q, grid.span_length)
    # [B, H, R, S, l / QUERY_GROUP]: each warp adds up its own queries, and no warp waits for another
    pfs = torch.empty(
        batch, heads, rows, columns, grid.span_length // QUERY_GROUP, dtype=torch.float32, device=q.device
    )
    spans = _spans_on(grid, q.device)
    _focus_kernel[(rows * batch * heads * (grid.span_length // tile),)](
        q, k, q if lse is None else lse, pfs, spans,
        *q.stride(), *k.stride(), *((0, 0, 0) if lse is None else lse.stride()),
        spans.stride(0) if len(grid) > 1 else 0,
        batch, heads, heads // k.shape[1], rows, columns, grid.key_stride,
        scale * LOG2_E, 0.0 if softcap is None else softcap * LOG2_E,
        chunked.MIN_PREFIX_SHARE,
        SPAN=grid.span_length, TILE=tile, KEYS=key_tile, GROUP=QUERY_GROUP,
        DIM=dim, BLOCK_DIM=max(16, triton.next_power_of_2(dim)),
        HAS_LSE=lse is not None, HAS_SOFTCAP=softcap is not None,
        PRECISION="ieee" if q.dtype == torch.float32 else "tf32",
        num_warps=warps, num_stages=stages, maxnreg=registers,
    )  # fmt: skip
    return pfs.sum(-1)


def covers(q: Tensor, span_length: int) -> bool:
    """Whether the kernel takes such queries and spans."""
    return q.dtype in DTYPES and q.shape[-1] <= MAX_HEAD_DIM and span_length in SPAN_LENGTHS


def _tile(q: Tensor, span_length: int) -> tuple[int, int, int, int, int | None]:
    """Queries and keys of a tile, warps, pipeline stages and most registers, fixed by dtype and head dimension."""
    dim = q.shape[-1]
    if q.dtype == torch.float32:
        # the exact fp32 product runs outside the matrix units and needs its registers for operands
        tile = min(span_length, 32 if dim > 64 else 64)
        return tile, tile, 4, 2, None
    roomy = q.is_cuda and _shared_memory(q.device) >= 200_000
    if dim > 128:
        tile = min(span_length, 128 if roomy else 64)
        return tile, tile, 8 if tile == 128 else 4, 2, None
    # several programs should fit a multiprocessor, so that one multiplies while others take exponentials
    if dim > 64 and roomy and span_length >= 128:
        # a tile of keys for all queries of a span: to read it twice from the cache would take longest
        return 128, 128, 8, 2, 128
    return min(span_length, 64), min(span_length, 128), 4, 3 if dim <= 64 else 2, None


@functools.cache
def _shared_memory(device: torch.device) -> int:
    """Bytes of shared memory that one program may have."""
    return getattr(torch.cuda.get_device_properties(device), "shared_memory_per_block_optin", 0)


def _spans_on(grid: SpanGrid, device: torch.device) -> Tensor:
    """`[B, R, 2]` int64: first token and number of key spans of every query span."""
    known = _device_spans.setdefault(grid, {})
    if device not in known:
        spans = torch.stack([torch.from_numpy(grid.query_starts), torch.from_numpy(grid.num_key_spans)], -1)
        known[device] = sent_to(device, spans)
    return known[device]


@triton.jit
def _logits(queries, keys, scale, softcap, HAS_SOFTCAP: tl.constexpr, PRECISION: tl.constexpr):  # noqa: N803
    """Logits in units of log 2, [queries, keys]; `scale` and `softcap` are in those units too."""
    logits = tl.dot(queries, tl.trans(keys), input_precision=PRECISION) * scale
    if HAS_SOFTCAP:
        # softcap * tanh(logits / softcap), the power held where tanh is 1 long since and exp2 does not overflow
        power = tl.minimum(logits * (2.0 * 1.4426950408889634) / softcap, 100.0)
        logits = softcap * (1.0 - 2.0 / (tl.exp2(power) + 1.0))
    return logits


@triton.jit(
    do_not_specialize=[
        "stride_lb", "stride_lh", "stride_spans", "batch", "rows", "columns", "scale", "softcap", "min_share"
    ]
)  # fmt: skip
def _focus_kernel(
    q_ptr, k_ptr, lse_ptr, pfs_ptr, spans_ptr,
    stride_qb, stride_qh, stride_qt, stride_qd,
    stride_kb, stride_kh, stride_kt, stride_kd,
    stride_lb, stride_lh, stride_lt,
    stride_spans,
    batch, heads, group, rows, columns, key_stride,
    scale, softcap, min_share,
    SPAN: tl.constexpr, TILE: tl.constexpr, KEYS: tl.constexpr, GROUP: tl.constexpr,  # noqa: N803
    DIM: tl.constexpr, BLOCK_DIM: tl.constexpr,  # noqa: N803
    HAS_LSE: tl.constexpr, HAS_SOFTCAP: tl.constexpr, PRECISION: tl.constexpr,  # noqa: N803
):  # fmt: skip
    # TILE queries at a time, a part of the span, against KEYS keys at a time
    PARTS: tl.constexpr = SPAN // TILE  # noqa: N806
    # Row 0, the end of the document, has the most key spans: it starts first.
    program = tl.program_id(0)
    part = program % PARTS
    head = (program // PARTS) % heads
    sample = (program // (PARTS * heads)) % batch
    row = program // (PARTS * heads * batch)

    spans_ptr += sample.to(tl.int64) * stride_spans + row * 2
    start = tl.load(spans_ptr)
    count = tl.load(spans_ptr + 1).to(tl.int32)
    SUMS: tl.constexpr = TILE // GROUP  # noqa: N806
    pfs_ptr += ((sample.to(tl.int64) * heads + head) * rows + row) * columns * (PARTS * SUMS) + part * SUMS
    keys_of_tile = tl.arange(0, KEYS)
    sums = tl.arange(0, SUMS)
    for column in range(count, columns):
        tl.store(pfs_ptr + column * (PARTS * SUMS) + sums, tl.zeros([SUMS], tl.float32))

    if count > 0:
        dims = tl.arange(0, BLOCK_DIM)
        query = part * TILE + tl.arange(0, TILE)
        q_ptr += sample.to(tl.int64) * stride_qb + head.to(tl.int64) * stride_qh + start * stride_qt
        k_ptr += sample.to(tl.int64) * stride_kb + (head // group).to(tl.int64) * stride_kh
        q_ptrs = q_ptr + query.to(tl.int64)[:, None] * stride_qt + dims[None, :] * stride_qd
        # keys of a tile that begins at token 0; token offsets are added as int64
        k_ptrs = k_ptr + keys_of_tile.to(tl.int64)[:, None] * stride_kt + dims[None, :] * stride_kd
        inside = dims[None, :] < DIM
        queries = tl.load(q_ptrs, mask=inside, other=0.0)

        # [TILE], log2 of the softmax's denominator over the prefix
        prefix = tl.full([TILE], float("-inf"), tl.float32)
        doubtful = tl.full([TILE], 1, tl.int1)
        if HAS_LSE:
            lse_ptr += sample.to(tl.int64) * stride_lb + head.to(tl.int64) * stride_lh + start * stride_lt
            full = tl.load(lse_ptr + query.to(tl.int64) * stride_lt).to(tl.float32) * 1.4426950408889634
            # share of the row's mass on its own span
            own = tl.zeros([TILE], tl.float32)
            for first in range(0, (part + 1) * TILE, KEYS):
                keys = tl.load(k_ptrs + (start + first) * stride_kt, mask=inside, other=0.0)
                logits = _logits(queries, keys, scale, softcap, HAS_SOFTCAP, PRECISION)
                causal = first + keys_of_tile[None, :] <= query[:, None]
                own += tl.sum(tl.exp2(tl.where(causal, logits - full[:, None], float("-inf"))), 1)
            share = 1.0 - own
            doubtful = (share >= min_share) == 0
            prefix = full + tl.log2(tl.maximum(share, 1e-30))

        if tl.max(doubtful.to(tl.int32), 0) > 0:
            # whole tiles back from the query span, then what is left at the start of the document
            highest = tl.full([TILE], float("-inf"), tl.float32)
            total = tl.zeros([TILE], tl.float32)
            whole = start.to(tl.int32) // KEYS
            tile_ptrs = k_ptrs + (start - KEYS) * stride_kt
            for _ in range(whole):
                keys = tl.load(tile_ptrs, mask=inside, other=0.0)
                logits = _logits(queries, keys, scale, softcap, HAS_SOFTCAP, PRECISION)
                peak = tl.maximum(highest, tl.max(logits, 1))
                total = total * tl.exp2(highest - peak) + tl.sum(tl.exp2(logits - peak[:, None]), 1)
                highest = peak
                tile_ptrs -= KEYS * stride_kt
            left = start - whole * KEYS
            if left > 0:
                keys = tl.load(k_ptrs, mask=inside & (keys_of_tile < left)[:, None], other=0.0)
                logits = _logits(queries, keys, scale, softcap, HAS_SOFTCAP, PRECISION)
                logits = tl.where((keys_of_tile < left)[None, :], logits, float("-inf"))
                peak = tl.maximum(highest, tl.max(logits, 1))
                total = total * tl.exp2(highest - peak) + tl.sum(tl.exp2(logits - peak[:, None]), 1)
                highest = peak
            prefix = tl.where(doubtful, highest + tl.log2(total), prefix)

        step = key_stride.to(tl.int64) * stride_kt
        k_ptrs += start * stride_kt - step
        for column in range(count):
            focus = tl.zeros([TILE], tl.float32)
            for inner in tl.static_range(SPAN // KEYS):
                keys = tl.load(k_ptrs + inner * KEYS * stride_kt, mask=inside, other=0.0)
                logits = _logits(queries, keys, scale, softcap, HAS_SOFTCAP, PRECISION)
                focus += tl.sum(tl.exp2(logits - prefix[:, None]), 1)
            focus = tl.sum(tl.reshape(focus, [SUMS, GROUP]), 1)
            tl.store(pfs_ptr + column * (PARTS * SUMS) + sums, focus)
            k_ptrs -= step
