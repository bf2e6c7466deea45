"""`span_focus(q, k, grid, scale, lse=None, softcap=None) -> pfs`: how much each query span attends to each key span.

One signature, several implementations. Dimensions, here and everywhere in the package:

    B batch    H query heads    T tokens    D head dimension    R query spans    S key spans    L layers

- `q` `[B, H, T, D]` and `k` `[B, Hkv, T, D]`: after rotary embedding and any q/k norm, KV heads not repeated,
  `H` a multiple of `Hkv`. Right padding beyond a document's own length is never read.
- `grid`: a `SpanGrid` of `B` documents, or of one length shared by all.
- `scale` multiplies `q . k`; then `softcap`, where given, bounds it: `x -> softcap * tanh(x / softcap)`.
- `lse` `[B, H, T]`, *optional*: natural log of the sum of `exp` of those logits over the causal keys `0..i` of each
  query `i`, as attention kernels return it. It saves the pass over the prefix and changes no result.
- `pfs` `[B, H, R, S]`, fp32 (fp64 for fp64 input): sum over the keys of the key span, mean over nothing, of the softmax
  over the keys before the query span, summed over the queries of the query span. In `0..l`; 0 where a document has
  no such pair.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
from typing import Protocol

import torch
from torch import Tensor

from ladm_hf.errors import BackendError
from ladm_hf.ops import chunked, naive
from ladm_hf.ops.device import launches_on
from ladm_hf.ops.spans import SpanGrid

logger = logging.getLogger(__name__)
# Tokens of the trial, a little above the fewest that have a score, and how far its largest value may be off.
TRIAL_TOKENS, TRIAL_TOLERANCE = 2432, 1e-2


class SpanFocus(Protocol):
    """The signature that every backend has."""

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        grid: SpanGrid,
        scale: float,
        lse: Tensor | None = None,
        softcap: float | None = None,
    ) -> Tensor: ...


def _fused_span_focus(
    q: Tensor, k: Tensor, grid: SpanGrid, scale: float, lse: Tensor | None = None, softcap: float | None = None
) -> Tensor:
    """`ladm_hf.ops.hopper`'s where there is neither a log-sum-exp nor a softcap and it serves, else Triton's kernel."""
    from ladm_hf.ops import causal

    alone = causal.focus_alone(q, k, scale, grid) if lse is None and softcap is None else None
    return _triton_span_focus(q, k, grid, scale, lse, softcap) if alone is None else alone


def _triton_span_focus(
    q: Tensor, k: Tensor, grid: SpanGrid, scale: float, lse: Tensor | None = None, softcap: float | None = None
) -> Tensor:
    """`ladm_hf.ops.fused`, which only this call imports: Triton is not everywhere."""
    from ladm_hf.ops import fused

    with launches_on(q.device):
        return fused.span_focus(q, k, grid, scale, lse, softcap)


BACKENDS: dict[str, SpanFocus] = {
    "naive": naive.span_focus,
    "chunked": chunked.span_focus,
    "fused": _fused_span_focus,
}


def choose_backend(name: str, device: torch.device | str) -> SpanFocus:
    """The backend of a name on a device; `"auto"` is `"fused"` where Triton runs at full speed, else `"chunked"`.

    Raises:
        BackendError: `"fused"` was asked for where it cannot run.
    """
    device = torch.device(device)
    if name == "auto":
        name = "fused" if triton_runs_on(device) else "chunked"
    if name == "fused":
        if not _has_triton():
            raise BackendError(
                "backend='fused' needs Triton, which is not installed: `pip install triton` (Linux), or use "
                "backend='auto', which runs everywhere"
            )
        if device.type != "cuda" and not _is_interpreted():
            raise BackendError(
                f"backend='fused' needs a CUDA device, but the model is on {str(device)!r}: use backend='auto' or "
                "'chunked', which run everywhere, or set TRITON_INTERPRET=1 to try the kernel slowly on a CPU"
            )
        if device.type == "cuda" and (problem := _trial_problem(device.index or 0)):
            raise BackendError(f"backend='fused' cannot run here: {problem}. Use backend='auto' or 'chunked'")
    return BACKENDS[name]


def triton_runs_on(device: torch.device) -> bool:
    """Whether Triton kernels run at full speed on a device: see [`triton_problem`]."""
    return not triton_problem(device)


def triton_problem(device: torch.device) -> str:
    """What keeps Triton kernels from running at full speed on a device, `""` where nothing does.

    They need CUDA of capability 8.0 or newer, Triton, and whatever Triton compiles with; the last is found out by one
    small launch for each device and process.
    """
    if device.type != "cuda" or torch.version.hip is not None:
        return "Triton kernels need a CUDA device"
    major, minor = torch.cuda.get_device_capability(device)
    if (major, minor) < (8, 0):
        return f"Triton kernels need capability 8.0 or newer, not {major}.{minor}"
    if not _has_triton():
        return "Triton is not installed"
    return _trial_problem(device.index or 0)


@functools.cache
def _trial_problem(index: int) -> str:
    """Launches the kernel once on a CUDA device and compares it with PyTorch; says what went wrong, if anything."""
    device = torch.device("cuda", index)
    try:
        error = _trial(device)
    except torch.OutOfMemoryError:
        # says nothing about the kernel: the next one who asks tries again
        raise
    except Exception as failure:  # Triton raises what its compiler and driver raise
        first = next(iter(str(failure).strip().splitlines()), "")
        problem = f"a trial of Triton failed ({type(failure).__name__}: {first})"
    else:
        if error <= TRIAL_TOLERANCE:
            return ""
        problem = f"a trial of Triton was off by {error:.1e}"
    logger.warning("the span focus on %s is computed by PyTorch, which is slower: %s", device, problem)
    return problem


@torch.inference_mode()
def _trial(device: torch.device) -> float:
    """Largest relative difference between the kernel and PyTorch on one short document."""
    grid = SpanGrid(TRIAL_TOKENS)
    generator = torch.Generator(device).manual_seed(0)
    # as projections leave them: heads inside tokens, [1, H, T, D] by transposition
    packed = torch.randn(1, TRIAL_TOKENS, 18, 64, generator=generator, device=device).half()
    q, k = packed.transpose(1, 2).split([16, 2], dim=1)
    expected = chunked.span_focus(q, k, grid, 0.125)
    difference = (_triton_span_focus(q, k, grid, 0.125) - expected).abs().max() / expected.max()
    return float("inf") if difference.isnan() else float(difference)


def _is_interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


@functools.lru_cache(maxsize=1)
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None
