"""CUDA kernels for Hopper GPUs, fp16 and bf16: attention with the span focus, and the span focus alone.

`hopper_attention.cu`, for heads of 64, 96 and 128, gives the span focus at little cost, since its logits are those of
the attention. `hopper_focus.cu`, for these and heads of 256, is for layers without a log-sum-exp: the last above all,
whose output nobody needs. Both need spans of 128 tokens, the default.

They are compiled at first use, in about a second each, by NVRTC, which comes with PyTorch's CUDA builds; nothing else
is needed, no compiler and no headers of CUDA.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.util
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ladm_hf.config import LadmConfig
from ladm_hf.ops import chunked
from ladm_hf.ops.device import launches_on, sent_to
from ladm_hf.ops.spans import SpanGrid

SPAN_LENGTH = 128
DTYPES = (torch.float16, torch.bfloat16)
# What a kernel keeps of sampled tiles until a row's denominator is known: of the documents that go at a time, and of
# one document, beyond which the span focus is left to others.
SCRATCH_BYTES, DOCUMENT_BYTES = 1 << 29, 1 << 31
# Of keys and values that blocks of threads read at a time, so that the L2 cache (50 MB) holds them.
CACHED_BYTES = 1 << 25
# What both sources include.
HEADER = "hopper.cuh"
# As in it: keys of a tile.
KEYS = 128
LOG2_E = 1.4426950408889634
MAX_DYNAMIC_SHARED_SIZE = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
OUT_OF_MEMORY = 2  # CUDA_ERROR_OUT_OF_MEMORY
FLOAT16, BFLOAT16 = 6, 9  # CUtensorMapDataType
SWIZZLE_128B, PROMOTION_L2_128B = 3, 2
SWIZZLED = 64  # numbers of 128 bytes


class Block(NamedTuple):
    """A block of threads.

    Attributes:
        warpgroups (`int`): of 128 threads and 64 queries each.
        stages (`int`): tiles of keys, and of values, that it holds at once.
        slices (`int`): of 64 dimensions, in which heads lie in shared memory.
        rings (`int`): 2 where it takes keys and values, 1 for keys alone.
        loaders (`int`): threads beside those that compute.
        together (`int`): blocks that a multiprocessor runs at once.
    """

    warpgroups: int
    stages: int
    slices: int
    rings: int = 2
    loaders: int = 128
    together: int = 1

    @property
    def threads(self) -> int:
        """Those that compute, and those that load."""
        return 128 * self.warpgroups + self.loaders

    @property
    def shared_bytes(self) -> int:
        """Shared memory: queries, keys and values, barriers, a flag, and room to align it all."""
        tiles = self.rings * self.stages
        rows = 64 * self.warpgroups + tiles * KEYS
        return rows * self.slices * 2 * SWIZZLED + 8 * (1 + 2 * tiles) + 16 + 1024

    @property
    def defines(self) -> list[str]:
        """What the source is compiled with."""
        return [f"WARPGROUPS={self.warpgroups}", f"STAGES={self.stages}", f"BLOCKS={self.together}"]


# By kernel and head dimension.
BLOCKS = {
    "attention": {64: Block(3, 4, 1), 96: Block(2, 3, 2), 128: Block(2, 3, 2)},
    "focus": {
        64: Block(2, 4, 1, rings=1, loaders=32, together=2),
        96: Block(2, 2, 2, rings=1, loaders=32, together=2),
        128: Block(2, 2, 2, rings=1, loaders=32, together=2),
        256: Block(2, 2, 4, rings=1, loaders=32),
    },
}

_device_lengths: weakref.WeakKeyDictionary[SpanGrid, dict[tuple[torch.device, int], Tensor]] = (
    weakref.WeakKeyDictionary()
)


def covers(device: int, dtype: torch.dtype, dim: int, kernel: str) -> bool:
    """Whether a kernel of [`BLOCKS`] takes such heads on a CUDA device."""
    return (
        torch.version.hip is None
        and dtype in DTYPES
        and dim in BLOCKS[kernel]
        and torch.cuda.get_device_capability(device) == (9, 0)
    )


def attention(
    q: Tensor, k: Tensor, v: Tensor, scale: float, grid: SpanGrid | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Causal attention, its log-sum-exp and, for the spans of `grid`, the span focus.

    Args:
        q (`Tensor` `[B, H, T, D]`), k and v (`Tensor` `[B, Hkv, T, D]`): fp16 or bf16, `D` one of
            `BLOCKS["attention"]`, on the current device.
        scale (`float`): multiplies `q . k`; above 0.
        grid (`SpanGrid`, *optional*): spans of the documents, or of one length shared by all.

    Returns:
        The output `[B, H, T, D]` (heads inside tokens in memory), the log-sum-exp `[B, H, T]` (natural logarithm,
        fp32), and PFS `[B, H, R, S]` in fp32, or `None` without a grid or where [`focuses`] says no.

    Raises:
        ValueError: the grid is that of other documents.
        RuntimeError: the kernel cannot be compiled or launched.
    """
    batch, heads, tokens, dim = q.shape
    if grid is not None:
        _check_grid(q, grid)
    q, k, v = map(_readable, (q, k, v))
    output = q.new_empty(batch, tokens, heads, dim)
    lse = torch.empty(batch, heads, tokens, dtype=torch.float32, device=q.device)
    if grid is None or not focuses(q, grid):
        _attend(q, k, v, scale, output, lse)
        return output.transpose(1, 2), lse, None
    spans = _Spans.of(q, grid)
    for part, some in spans.in_turns():
        _attend(q[part], k[part], v[part], scale, output[part], lse[part], some)
    return output.transpose(1, 2), lse, spans.pfs.sum(2)


def focus(q: Tensor, k: Tensor, scale: float, grid: SpanGrid) -> Tensor:
    """The span focus alone, where [`focuses`] says yes.

    Args:
        q (`Tensor` `[B, H, T, D]`) and k (`Tensor` `[B, Hkv, T, D]`): fp16 or bf16, `D` one of
            `BLOCKS["focus"]`, on the current device.
        scale (`float`): multiplies `q . k`; above 0.
        grid (`SpanGrid`): spans of the documents, or of one length shared by all.

    Returns:
        PFS `[B, H, R, S]` in fp32.

    Raises:
        ValueError: the grid is that of other documents.
        RuntimeError: the kernel cannot be compiled or launched.
    """
    _check_grid(q, grid)
    q, k = _readable(q), _readable(k)
    spans = _Spans.of(q, grid)
    for part, some in spans.in_turns():
        _launch("focus", (q[part], k[part]), scale, blocks=grid.shape[0], spans=some)
    return spans.pfs.sum(2)


def _check_grid(q: Tensor, grid: SpanGrid) -> None:
    batch, _, tokens, _ = q.shape
    if len(grid) not in (1, batch) or max(grid.num_tokens) > tokens:
        raise ValueError(
            f"a grid of {len(grid)} documents of {grid.num_tokens} tokens for a batch of {batch} x {tokens}"
        )


class _Spans(NamedTuple):
    """What a kernel is handed for the span focus of documents.

    Attributes:
        lengths (`Tensor` `[B]`): tokens of every document, int32.
        scratch (`Tensor` `[N, H, R, S, 128]`): of as many documents as go at a time, fp32.
        pfs (`Tensor` `[B, H, 8, R, S]`): sums of 16 queries, the share of a warp, fp32.
        grid (`SpanGrid`): their spans.
    """

    lengths: Tensor
    scratch: Tensor
    pfs: Tensor
    grid: SpanGrid

    @classmethod
    def of(cls, q: Tensor, grid: SpanGrid) -> _Spans:
        batch, heads = q.shape[:2]
        empty = functools.partial(torch.empty, dtype=torch.float32, device=q.device)
        # some documents at a time, which share the scratch
        step = min(batch, max(1, SCRATCH_BYTES // _scratch_bytes(heads, grid)))
        scratch = empty(step, heads, *grid.shape, SPAN_LENGTH)
        pfs = empty(batch, heads, SPAN_LENGTH // 16, *grid.shape)
        return cls(_lengths_on(grid, batch, q.device), scratch, pfs, grid)

    def in_turns(self) -> Iterator[tuple[slice, _Spans]]:
        """Which documents go at a time, and what is theirs."""
        for first in range(0, len(self.pfs), len(self.scratch)):
            part = slice(first, first + len(self.scratch))
            yield part, self._replace(lengths=self.lengths[part], pfs=self.pfs[part])


def _attend(
    q: Tensor, k: Tensor, v: Tensor, scale: float, output: Tensor, lse: Tensor, spans: _Spans | None = None
) -> None:
    tokens, dim = q.shape[2:]
    # tiles end where the document ends, so that one more may be needed
    blocks = -(-(tokens + (0 if spans is None else SPAN_LENGTH - 1)) // (64 * BLOCKS["attention"][dim].warpgroups))
    _launch("attention", (q, k, v), scale, blocks=blocks, spans=spans, results=(output, lse), sizes=(tokens,))


def _launch(
    kernel: str,
    inputs: tuple[Tensor, ...],
    scale: float,
    *,
    blocks: int,
    spans: _Spans | None,
    results: tuple[Tensor, ...] = (),
    sizes: tuple[int, ...] = (),
) -> None:
    """Launches a kernel with so many blocks for each head; `inputs` are queries, keys and maybe values."""
    q, k, *_ = inputs
    batch, heads, tokens, dim = q.shape
    block = BLOCKS[kernel][dim]
    group = heads // k.shape[1]
    section = min(heads, group * max(1, CACHED_BYTES // (2 * (len(inputs) - 1) * tokens * dim)))
    addresses, grid = [0] * 3, [0, 0, 1, 1]
    if spans is not None:
        addresses = [tensor.data_ptr() for tensor in (spans.lengths, spans.scratch, spans.pfs)]
        strides = spans.grid.query_stride, spans.grid.key_stride
        grid = [*spans.grid.shape, *(stride // SPAN_LENGTH for stride in strides)]
    arguments = [
        *(_tensor_map(tensor, 64 if tensor is q else KEYS) for tensor in inputs),
        *map(ctypes.c_void_p, (*(tensor.data_ptr() for tensor in results), *addresses)),
        *map(ctypes.c_int, (*sizes, heads, group, section)),
        ctypes.c_float(scale * LOG2_E),
        *map(ctypes.c_int, grid),
    ]
    pointers = (ctypes.c_void_p * len(arguments))(*(ctypes.addressof(argument) for argument in arguments))
    context = ctypes.c_void_p()
    _check("cuCtxGetCurrent", ctypes.byref(context))
    if not context:
        # a thread whose first work on the device this is: PyTorch makes its context current
        torch.zeros(1, device=q.device)
    _check(
        "cuLaunchKernel", _function(kernel, q.device.index or 0, q.dtype, dim), heads * blocks, batch, 1,
        block.threads, 1, 1, block.shared_bytes,
        ctypes.c_void_p(torch.cuda.current_stream(q.device).cuda_stream), pointers, None,
    )  # fmt: skip


def focuses(q: Tensor, grid: SpanGrid) -> bool:
    """Whether the kernels give the span focus of a grid: spans of 128 tokens, and room for a document's scratch.

    It depends on the longest document of a batch, not on how many there are.
    """
    return grid.span_length == SPAN_LENGTH and _scratch_bytes(q.shape[1], grid) <= DOCUMENT_BYTES


def _scratch_bytes(heads: int, grid: SpanGrid) -> int:
    """Scratch of one document."""
    rows, columns = grid.shape
    return heads * rows * columns * SPAN_LENGTH * 4


@torch.inference_mode()
def focus_trial(device: torch.device, dtype: torch.dtype, dim: int, group: int, kernel: str) -> float:
    """Relative difference of the span focus of a kernel of [`BLOCKS`] from the definition, on two short documents."""
    config = LadmConfig(d_afs=1, d_cds=1)
    grid = SpanGrid([config.min_tokens + 300, config.min_tokens + 75], config)
    generator = torch.Generator(device).manual_seed(0)
    shape = (2, max(grid.num_tokens) + 9, 2 * group + 4, dim)
    packed = torch.randn(shape, generator=generator, device=device).to(dtype)
    q, k, v = packed.transpose(1, 2).split([2 * group, 2, 2], dim=1)
    with launches_on(device):
        pfs = focus(q, k, dim**-0.5, grid) if kernel == "focus" else attention(q, k, v, dim**-0.5, grid)[2]
    expected = chunked.span_focus(q.double(), k.double(), grid, dim**-0.5)
    error = float("inf") if pfs is None else float((pfs - expected).norm() / expected.norm())
    return error if error >= 0 else float("inf")


def _lengths_on(grid: SpanGrid, batch: int, device: torch.device) -> Tensor:
    """`[B]` int32: tokens of every document."""
    known = _device_lengths.setdefault(grid, {})
    if (device, batch) not in known:
        lengths = torch.tensor(grid.num_tokens * (batch if len(grid) == 1 else 1), dtype=torch.int32)
        known[device, batch] = sent_to(device, lengths)
    return known[device, batch]


def _tensor_map(tensor: Tensor, rows: int) -> ctypes.Array[ctypes.c_byte]:
    """The map of `[B, H, T, D]` in boxes of `SWIZZLED` dimensions of `rows` tokens of one head."""
    batch, heads, tokens, dim = tensor.shape
    sizes, strides = (heads, tokens, batch), (tensor.stride(1), tensor.stride(2), tensor.stride(0))
    # the stride of a dimension of one means nothing, but is looked at
    in_bytes = tuple(2 * (stride if size > 1 else dim) for size, stride in zip(sizes, strides, strict=True))
    kind = BFLOAT16 if tensor.dtype == torch.bfloat16 else FLOAT16
    return _encoded_map(tensor.data_ptr(), (dim, *sizes), in_bytes, rows, kind)


# the allocator hands out the same memory for layer after layer
@functools.lru_cache(maxsize=1024)
def _encoded_map(
    address: int, sizes: tuple[int, ...], strides: tuple[int, ...], rows: int, kind: int
) -> ctypes.Array[ctypes.c_byte]:
    """A `CUtensorMap`: 128 bytes on an address of 64."""
    buffer = (ctypes.c_byte * 192)()
    aligned = (ctypes.c_byte * 128).from_buffer(buffer, -ctypes.addressof(buffer) % 64)
    _check(
        "cuTensorMapEncodeTiled", ctypes.byref(aligned), kind, 4, ctypes.c_void_p(address),
        (ctypes.c_uint64 * 4)(*sizes), (ctypes.c_uint64 * 3)(*strides), (ctypes.c_uint32 * 4)(SWIZZLED, 1, rows, 1),
        (ctypes.c_uint32 * 4)(1, 1, 1, 1), 0, SWIZZLE_128B, PROMOTION_L2_128B, 0,
    )  # fmt: skip
    return aligned


def _readable(tensor: Tensor) -> Tensor:
    """The tensor, or a copy where its rows are not of 16-byte alignment."""
    strides = [stride for size, stride in zip(tensor.shape[:-1], tensor.stride()[:-1], strict=True) if size > 1]
    fits = tensor.stride(-1) == 1 and tensor.data_ptr() % 16 == 0 and all(s > 0 and s % 8 == 0 for s in strides)
    return tensor if fits else tensor.clone(memory_format=torch.contiguous_format)


@functools.cache
def _function(kernel: str, device: int, dtype: torch.dtype, dim: int) -> ctypes.c_void_p:
    """A compiled kernel on a device, which must be the current one."""
    module, function = ctypes.c_void_p(), ctypes.c_void_p()
    _check("cuModuleLoadData", ctypes.byref(module), compiled(kernel, dtype, dim))
    _check("cuModuleGetFunction", ctypes.byref(function), module, b"ladm_" + kernel.encode())
    _check("cuFuncSetAttribute", function, MAX_DYNAMIC_SHARED_SIZE, BLOCKS[kernel][dim].shared_bytes)
    return function


@functools.cache
def compiled(kernel: str, dtype: torch.dtype, dim: int) -> bytes:
    """A kernel of [`BLOCKS`] as machine code of capability 9.0.

    Raises:
        RuntimeError: NVRTC is not to be found, is too old, or refuses the source.
    """
    nvrtc = _nvrtc()
    source, header = (Path(__file__).with_name(name) for name in (f"hopper_{kernel}.cu", HEADER))
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    defines = [f"BF16={dtype == torch.bfloat16:d}", f"DIM={dim}", *BLOCKS[kernel][dim].defines]
    options = [b"--gpu-architecture=sm_90a", b"--std=c++17", *(b"-D" + define.encode() for define in defines)]
    headers = (ctypes.c_char_p * 1)(header.read_bytes()), (ctypes.c_char_p * 1)(HEADER.encode())
    _check_nvrtc(
        nvrtc,
        nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.read_bytes(), source.name.encode(), 1, *headers),
    )
    try:
        code = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
        if code:
            nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
            log = ctypes.create_string_buffer(size.value)
            nvrtc.nvrtcGetProgramLog(program, log)
            raise RuntimeError(f"NVRTC cannot compile {source.name}: {log.value.decode(errors='replace')}")
        _check_nvrtc(nvrtc, nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size)))
        binary = ctypes.create_string_buffer(size.value)
        _check_nvrtc(nvrtc, nvrtc.nvrtcGetCUBIN(program, binary))
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return binary.raw


def _nvrtc() -> ctypes.CDLL:
    """NVRTC, from where PyTorch has it: on the loader's path, or in a package of NVIDIA's beside it."""
    # a driver takes what its own generation has compiled
    own = (torch.version.cuda or "13").partition(".")[0]
    names = [f"libnvrtc.so.{major}" for major in sorted(("13", "12"), key=lambda major: major != own)]
    package = importlib.util.find_spec("nvidia")
    folders = [Path(folder) for folder in package.submodule_search_locations or ()] if package else []
    names += sorted(str(path) for folder in folders for path in folder.glob("*/lib/libnvrtc.so.*"))
    for name in names:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        # NVRTC asks for its built-in functions by name alone, which finds them once they are loaded
        for path in (path for folder in folders for path in folder.glob("*/lib/libnvrtc-builtins.so.*")):
            with contextlib.suppress(OSError):
                ctypes.CDLL(str(path))
        return library
    raise RuntimeError("NVRTC (libnvrtc) is not installed")


def _check_nvrtc(nvrtc: ctypes.CDLL, code: int) -> None:
    if code:
        nvrtc.nvrtcGetErrorString.restype = ctypes.c_char_p
        raise RuntimeError(f"NVRTC: {nvrtc.nvrtcGetErrorString(code).decode()}")


@functools.cache
def _driver() -> ctypes.CDLL:
    return ctypes.CDLL("libcuda.so.1")


def _check(function: str, *arguments: object) -> None:
    """Calls a function of the CUDA driver."""
    code = getattr(_driver(), function)(*arguments)
    if code == OUT_OF_MEMORY:
        raise torch.OutOfMemoryError(f"{function}: CUDA out of memory")
    if code:
        message = ctypes.c_char_p()
        _driver().cuGetErrorString(code, ctypes.byref(message))
        raise RuntimeError(f"{function}: {(message.value or b'unknown error').decode()} ({code})")
