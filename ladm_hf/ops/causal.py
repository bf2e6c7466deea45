"""Causal attention with its log-sum-exp, from the kernels that the platform brings, and which of ours serve.

PyTorch's `scaled_dot_product_attention` computes the log-sum-exp of every query and keeps it to itself; the operators
behind it return it, and so do FlashAttention 4, where it is installed (the extra `gpu`), `ladm_hf.ops.hopper`, which
gives the span focus besides, and on some CPUs `ladm_hf.ops.tiled`. Which one serves is settled once for each device,
dtype and shape of head, by trying them on a small input in the order of their speed, that of the span focus included
(`benchmarks/attention.py`): the first whose output and log-sum-exp agree with the definition is taken.
"""

from __future__ import annotations

import functools
import importlib.metadata
import logging
import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ladm_hf.ops import hopper, tiled
from ladm_hf.ops.device import cpu_has, launches_on
from ladm_hf.ops.spans import SpanGrid

logger = logging.getLogger(__name__)
aten = torch.ops.aten
FLASH4 = "flash-attn-4"
HALF_TYPES = (torch.float16, torch.bfloat16)
X86 = ("AVX2", "AVX512")
# Tokens of the trial, on purpose no multiple of any tile, and how far it may be off.
TRIAL_TOKENS, TRIAL_TOLERANCE, EXACT_TOLERANCE = 75, 2e-2, 1e-5
# Of a batch: blocks in the second dimension of a launch.
MAX_DOCUMENTS = (1 << 16) - 1


def causal_attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor] | None:
    """Output and log-sum-exp of plain causal attention.

    Args:
        q (`Tensor` `[B, H, T, D]`), k and v (`Tensor` `[B, Hkv, T, D]`): KV heads not repeated.
        scale (`float`): multiplies `q . k`.

    Returns:
        The output `[B, H, T, D]` and the log-sum-exp `[B, H, T]` over the keys `0..i` of each query `i` (natural
        logarithm, fp32), or `None` where no kernel of the platform gives both.
    """
    if q.device.type == "cpu" and q.shape[-1] == v.shape[-1]:
        return KERNELS[cpu_kernel(q.dtype, q.shape[-1], q.shape[1] // k.shape[1])](q, k, v, scale)
    name = _chosen(q, k, v)
    return None if name is None else KERNELS[name](q, k, v, scale)


@functools.cache
def cpu_kernel(dtype: torch.dtype, dim: int, group: int) -> str:
    """Which of [`KERNELS`] serves a shape of head on this CPU."""
    names = ["tiled"] if tiled.covers(dtype) else []
    trial = functools.partial(_trial, device=torch.device("cpu"), dtype=dtype, dim=dim, group=group)
    tolerance = EXACT_TOLERANCE if dtype == torch.float32 else TRIAL_TOLERANCE
    return first_that_agrees(names, trial, tolerance, f"{dtype} heads of {dim}") or "flash_cpu"


def attention_and_focus(
    q: Tensor, k: Tensor, v: Tensor, scale: float, grid: SpanGrid
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Output and log-sum-exp as of [`causal_attention`], and PFS `[B, H, R, S]`, all from one kernel.

    Args:
        grid (`SpanGrid`): spans of the documents, or of one length shared by all.

    Returns:
        `None` where no kernel gives the three.
    """
    if _chosen(q, k, v) != "hopper" or not hopper.focuses(q, grid):
        return None
    with launches_on(q.device):
        output, lse, pfs = hopper.attention(q, k, v, scale, grid)
    return None if pfs is None else (output, lse, pfs)


def focus_alone(q: Tensor, k: Tensor, scale: float, grid: SpanGrid) -> Tensor | None:
    """PFS `[B, H, R, S]` from a kernel that computes nothing else, or `None` where there is none.

    Args:
        q (`Tensor` `[B, H, T, D]`), k (`Tensor` `[B, Hkv, T, D]`), scale (`float`): as of [`causal_attention`].
        grid (`SpanGrid`): spans of the documents, or of one length shared by all.
    """
    if q.device.type != "cuda" or q.dtype != k.dtype or not hopper.focuses(q, grid):
        return None
    device = q.device.index or 0
    if not hopper.covers(device, q.dtype, q.shape[-1], "focus") or not 0 < q.shape[0] <= MAX_DOCUMENTS:
        return None
    if not _focus_agrees(device, q.dtype, q.shape[-1], q.shape[1] // k.shape[1]):
        return None
    with launches_on(q.device):
        return hopper.focus(q, k, scale, grid)


@functools.cache
def _focus_agrees(device: int, dtype: torch.dtype, dim: int, group: int) -> bool:
    """Whether the kernel of the span focus alone runs, and agrees with the definition."""

    def trial(name: str) -> float:
        return hopper.focus_trial(torch.device("cuda", device), dtype, dim, group, "focus")

    names, shape = ["hopper_focus"], f"{dtype} heads of {dim}"
    return first_that_agrees(names, trial, TRIAL_TOLERANCE, shape, expected=names) is not None


def _chosen(q: Tensor, k: Tensor, v: Tensor) -> str | None:
    if q.device.type != "cuda" or q.shape[-1] != v.shape[-1] or not q.dtype == k.dtype == v.dtype:
        return None
    # some of the kernels give no gradients, and none takes more documents
    if not 0 < q.shape[0] <= MAX_DOCUMENTS or (torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v))):
        return None
    return kernel_name(q.device.index or 0, q.dtype, q.shape[-1], q.shape[1] // k.shape[1])


@functools.cache
def kernel_name(device: int, dtype: torch.dtype, dim: int, group: int) -> str | None:
    """The fastest kernel that serves, a name of `KERNELS`, or `None`."""
    on = torch.device("cuda", device)

    def trial(name: str) -> float:
        error = _trial(name, on, dtype, dim, group)
        return max(error, hopper.focus_trial(on, dtype, dim, group, "attention")) if name == "hopper" else error

    names = candidates(device, dtype, dim)
    return first_that_agrees(names, trial, TRIAL_TOLERANCE, f"{dtype} heads of {dim}", expected=["hopper"])


def first_that_agrees(
    names: Sequence[str],
    trial: Callable[[str], float],
    tolerance: float,
    shape: str,
    expected: Sequence[str] = (),
) -> str | None:
    """The first kernel whose trial runs and is off by no more than the tolerance, or `None`.

    Args:
        names (sequence of `str`), trial (callable): kernels, fastest first, and how far one of them is off.
        tolerance (`float`), shape (`str`): the bound, and what was tried, for the log.
        expected (sequence of `str`, *optional*): kernels of which a failure is worth a warning.

    Raises:
        torch.OutOfMemoryError: which says nothing about a kernel, and is not remembered.
    """
    for name in names:
        try:
            error = trial(name)
        except torch.OutOfMemoryError:
            raise
        except Exception as problem:  # a compiler raises what it likes
            level = logging.WARNING if name in expected else logging.DEBUG
            logger.log(level, "the kernel %s cannot run with %s: %s", name, shape, problem)
            continue
        if error <= tolerance:
            return name
        logger.warning("the kernel %s is off by %.1e with %s: not used", name, error, shape)
    return None


def candidates(device: int, dtype: torch.dtype, dim: int) -> list[str]:
    """Kernels that may serve a CUDA device, fastest first."""
    major, _ = torch.cuda.get_device_capability(device)
    names = ["hopper"] if hopper.covers(device, dtype, dim, "attention") else []
    if torch.version.hip is None and dim % 8 == 0:
        if dtype in HALF_TYPES and major == 9 and installed_flash4() is not None:
            names.append("flash4")
        if dtype in HALF_TYPES and major >= 9 and torch.backends.cudnn.is_available():
            names.append("cudnn")
        if dtype in HALF_TYPES and major >= 8 and dim <= 256:
            names.append("flash")
        names.append("efficient")
    return names


def describe(device: str | torch.device, dtype: torch.dtype | None = None, dim: int = 64, group: int = 8) -> str:
    """One line for people: which attention kernel serves a device, and whether it gives the log-sum-exp.

    Args:
        device (`str` or `torch.device`): the device.
        dtype (`torch.dtype`, *optional*): defaults to fp16 on CUDA.
        dim (`int`, *optional*, defaults to `64`): head dimension.
        group (`int`, *optional*, defaults to `8`): query heads for each KV head.
    """
    device = torch.device(device)
    if device.type == "cpu":
        kernel = "tiled products of oneDNN" if tiled.covers(torch.float32) else "PyTorch's CPU flash attention"
        return f"{kernel}, log-sum-exp reused"
    if device.type != "cuda":
        return f"scaled_dot_product_attention on {device.type}, exact prefix pass (no log-sum-exp)"
    index = torch.cuda.current_device() if device.index is None else device.index
    major, minor = torch.cuda.get_device_capability(index)
    name = kernel_name(index, dtype or torch.float16, dim, group)
    card = f"{torch.cuda.get_device_name(index)} (capability {major}.{minor})"
    if name is None:
        return f"{card}: scaled_dot_product_attention, exact prefix pass (no kernel gives the log-sum-exp)"
    version = {"cudnn": f" {torch.backends.cudnn.version()}", "flash4": f" {installed_flash4()}"}.get(name, "")
    focus = f", the focus of spans of {hopper.SPAN_LENGTH} from the same kernel" if name == "hopper" else ""
    return f"{card}: {name}{version} attention, log-sum-exp reused{focus}"


@functools.cache
def installed_flash4() -> str | None:
    """The version of FlashAttention 4, or `None`. Its module is no sign: FlashAttention 2 brings one of that name."""
    try:
        return importlib.metadata.version(FLASH4)
    except importlib.metadata.PackageNotFoundError:
        return None


def _flash_cpu(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    dtype = v.dtype
    if dtype == torch.bfloat16 and not cpu_has("amx_tile") and torch.backends.cpu.get_cpu_capability() in X86:
        # multiplied in float32 either way, but each block of keys would be converted again for each block of queries
        q, k, v = q.float(), k.float(), v.float()
    output, lse = aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, True, scale=scale)
    return output.to(dtype), lse


def _hopper(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    with launches_on(q.device):
        output, lse, _ = hopper.attention(q, k, v, scale)
    return output, lse


def _flash4(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    from flash_attn.cute import flash_attn_func

    # heads inside tokens; it launches on the current device
    q, k, v = (tensor.transpose(1, 2) for tensor in (q, k, v))
    with launches_on(q.device):
        output, lse = flash_attn_func(q, k, v, softmax_scale=scale, causal=True, return_lse=True)
    return output.transpose(1, 2), lse


def _cudnn(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    output, lse, *_ = aten._scaled_dot_product_cudnn_attention(q, k, v, None, True, 0.0, True, False, scale=scale)
    # [B, H, T, 1]
    return output, lse.view(q.shape[:3])


def _flash(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    output, lse, *_ = aten._scaled_dot_product_flash_attention(q, k, v, 0.0, True, False, scale=scale)
    return output, lse[..., : q.shape[2]]


def _efficient(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    group = q.shape[1] // k.shape[1]
    # the one kernel that wants a KV head for each query head
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    output, lse, *_ = aten._scaled_dot_product_efficient_attention(q, k, v, None, True, 0.0, True, scale=scale)
    # padded to a multiple of 32
    return output, lse[..., : q.shape[2]]


KERNELS: dict[str, Callable[[Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]] = {
    "hopper": _hopper,
    "flash4": _flash4,
    "cudnn": _cudnn,
    "flash": _flash,
    "efficient": _efficient,
    "flash_cpu": _flash_cpu,
    "tiled": tiled.attention,
}


def trial_heads(device: torch.device, dtype: torch.dtype, dim: int, group: int) -> tuple[Tensor, Tensor, Tensor]:
    """Random queries, keys and values `[2, H, TRIAL_TOKENS, D]`, two key heads with `group` queries each."""
    generator = torch.Generator(device).manual_seed(0)
    # as projections leave them: heads inside tokens, [B, H, T, D] by transposition
    packed = torch.randn(2, TRIAL_TOKENS, 2 * group + 4, dim, generator=generator, device=device).to(dtype)
    q, k, v = packed.transpose(1, 2).split([2 * group, 2, 2], dim=1)
    return q, k, v


@torch.inference_mode()
def _trial(name: str, device: torch.device, dtype: torch.dtype, dim: int, group: int) -> float:
    """Largest difference from the definition, of output and log-sum-exp, on a small random input."""
    q, k, v = trial_heads(device, dtype, dim, group)
    scale = dim**-0.5
    with warnings.catch_warnings():
        # FlashAttention 4 is compiled here, and its compiler warns of itself
        warnings.simplefilter("ignore")
        output, lse = KERNELS[name](q, k, v, scale)
    logits = scale * q.double() @ k.double().repeat_interleave(group, 1).mT
    logits.masked_fill_(torch.ones_like(logits, dtype=torch.bool).triu_(1), -torch.inf)
    expected = logits.softmax(-1) @ v.double().repeat_interleave(group, 1)
    error = torch.maximum((output - expected).abs().max(), (lse - logits.logsumexp(-1)).abs().max())
    return float("inf") if error.isnan() else float(error)
