"""The CUDA kernels for Hopper GPUs: what can be said of them without one, and on one the definition."""

from __future__ import annotations

import ctypes
import logging
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import random_ids, tiny_model

from ladm_hf import ops
from ladm_hf.calculators.calculator import resolve
from ladm_hf.config import LadmConfig
from ladm_hf.ops import BACKENDS, causal, hopper, naive
from ladm_hf.ops.spans import SpanGrid
from ladm_hf.scoring.engine import Engine
from ladm_hf.scoring.recorder import SpanRecorder

HAS_HOPPER = torch.cuda.is_available() and torch.cuda.get_device_capability() == (9, 0)
SOURCES = {name: Path(hopper.__file__).with_name(f"hopper_{name}.cu").read_text() for name in hopper.BLOCKS}
KERNELS = [(name, dim) for name, blocks in hopper.BLOCKS.items() for dim in blocks]


@pytest.mark.parametrize(
    ("capability", "dtype", "dim", "expected"),
    [
        ((9, 0), torch.float16, 64, True),
        ((9, 0), torch.bfloat16, 64, True),
        ((9, 0), torch.float32, 64, False),
        ((9, 0), torch.bfloat16, 128, True),
        ((9, 0), torch.float16, 96, True),
        ((9, 0), torch.float16, 80, False),
        ((9, 0), torch.float16, 256, False),
        ((8, 0), torch.float16, 64, False),
        ((10, 0), torch.float16, 64, False),
    ],
)
def test_it_takes_half_precision_heads_of_some_lengths_on_hopper(monkeypatch, capability, dtype, dim, expected) -> None:
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert hopper.covers(0, dtype, dim, "attention") is expected
    # the span focus alone takes longer heads, too
    assert hopper.covers(0, dtype, dim, "focus") is (expected or (dim == 256 and capability == (9, 0)))


def test_the_span_focus_needs_spans_of_128_tokens_and_room_for_the_scratch() -> None:
    q = torch.empty(1, 32, 1, 64, device="meta")
    longest = LadmConfig(max_length=131072)
    assert hopper.focuses(q, SpanGrid(32768))
    assert not hopper.focuses(q, SpanGrid(32768, LadmConfig(span_length=64)))
    assert hopper.focuses(q, SpanGrid(131072, longest))
    assert not hopper.focuses(q, SpanGrid(262144, LadmConfig(max_length=262144)))
    # nor does the number of documents decide
    assert hopper.focuses(torch.empty(64, 32, 1, 64, device="meta"), SpanGrid([32768] * 64))


class FakeDriver:
    """Takes what the real one would, and keeps the arguments of the launch by the names of the kernel's signature."""

    def __init__(self, code: int = 0) -> None:
        self.code, self.maps = code, []

    def cuModuleGetFunction(self, function, module, name) -> int:  # noqa: N802
        function._obj.value = 1 + list(SOURCES).index(name.decode().removeprefix("ladm_"))
        return 0

    cuModuleLoadData = cuFuncSetAttribute = cuGetErrorString = cuCtxGetCurrent = lambda *_: 0  # noqa: N815

    def cuTensorMapEncodeTiled(self, target, kind, rank, address, sizes, strides, box, *_) -> int:  # noqa: N802
        assert ctypes.addressof(target._obj) % 64 == 0
        self.maps.append((kind, list(sizes), list(strides), list(box)))
        return self.code

    def cuLaunchKernel(self, function, x, y, z, threads, ty, tz, shared, stream, pointers, extra) -> int:  # noqa: N802
        self.launch = (x, y, z, threads, shared)
        self.values = {}
        kernel = list(SOURCES)[function.value - 1]
        signature = re.search(rf"ladm_{kernel}\((.*?)\)", SOURCES[kernel], re.DOTALL)
        assert signature is not None
        parameters = [part.split() for part in signature[1].split(",")]
        assert len(pointers) == len(parameters)
        for pointer, words in zip(pointers, parameters, strict=True):
            kind = {"int": ctypes.c_int, "float": ctypes.c_float}.get(words[0])
            if kind is not None:
                self.values[words[-1]] = kind.from_address(pointer).value
            elif "TensorMap" not in words:
                self.values[words[-1]] = ctypes.c_void_p.from_address(pointer).value
        return 0


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    fake = FakeDriver()
    hopper._function.cache_clear()
    hopper._encoded_map.cache_clear()
    monkeypatch.setattr(hopper, "_driver", lambda: fake)
    monkeypatch.setattr(hopper, "compiled", lambda kernel, dtype, dim: b"cubin")
    monkeypatch.setattr(hopper, "_lengths_on", lambda grid, batch, device: torch.tensor(grid.num_tokens))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=0))
    yield fake
    hopper._function.cache_clear()
    hopper._encoded_map.cache_clear()


@pytest.mark.parametrize(("dim", "rows"), [(64, 192), (96, 128), (128, 128)])
def test_a_launch_hands_over_what_the_signature_asks_for(driver: FakeDriver, dim: int, rows: int) -> None:
    packed = torch.zeros(2, 3000, 12, dim, dtype=torch.bfloat16)
    q, k, v = packed.transpose(1, 2).split([8, 2, 2], 1)
    grid = SpanGrid([3000, 2700], LadmConfig(d_afs=3, d_cds=2))
    output, lse, pfs = hopper.attention(q, k, v, 0.125, grid)
    assert output.shape == q.shape
    assert output.transpose(1, 2).is_contiguous()
    assert lse.shape == (2, 8, 3000)
    assert pfs is not None
    assert pfs.shape == (2, 8, *grid.shape)
    block = hopper.BLOCKS["attention"][dim]
    assert driver.launch == (8 * -(-(3000 + 127) // rows), 2, 1, 128 + 2 * rows, block.shared_bytes)
    numbers = {name: driver.values[name] for name in ("tokens", "heads", "group", "section")}
    assert numbers == {"tokens": 3000, "heads": 8, "group": 4, "section": 8}
    assert [driver.values[name] for name in ("query_stride", "key_stride")] == [2, 3]
    assert (driver.values["query_spans"], driver.values["key_spans"]) == grid.shape
    assert driver.values["scale"] == pytest.approx(0.125 * 1.4426950408889634)
    strides = [2 * dim, 12 * 2 * dim, 3000 * 12 * 2 * dim]
    assert driver.maps == [
        (9, [dim, 8, 3000, 2], strides, [64, 1, 64, 1]),
        (9, [dim, 2, 3000, 2], strides, [64, 1, 128, 1]),
        (9, [dim, 2, 3000, 2], strides, [64, 1, 128, 1]),
    ]


@pytest.mark.parametrize("dim", hopper.BLOCKS["focus"])
def test_the_span_focus_alone_takes_no_values(driver: FakeDriver, dim: int) -> None:
    packed = torch.zeros(2, 3000, 10, dim, dtype=torch.float16)
    q, k = packed.transpose(1, 2).split([8, 2], 1)
    grid = SpanGrid([3000, 2700], LadmConfig(d_afs=3, d_cds=2))
    assert hopper.focus(q, k, 0.125, grid).shape == (2, 8, *grid.shape)
    # a block for each query span
    assert driver.launch == (8 * grid.shape[0], 2, 1, 288, hopper.BLOCKS["focus"][dim].shared_bytes)
    assert [driver.values[name] for name in ("heads", "group", "section")] == [8, 4, 8]
    assert [driver.values[name] for name in ("query_stride", "key_stride")] == [2, 3]
    assert (driver.values["query_spans"], driver.values["key_spans"]) == grid.shape
    assert [(sizes, box) for _, sizes, _, box in driver.maps] == [
        ([dim, 8, 3000, 2], [64, 1, 64, 1]), ([dim, 2, 3000, 2], [64, 1, 128, 1]),
    ]  # fmt: skip


def test_without_spans_it_is_attention_alone(driver: FakeDriver) -> None:
    q = torch.zeros(1, 4, 385, 64, dtype=torch.float16)
    for grid in (None, SpanGrid(300, LadmConfig(span_length=16, d_afs=1))):
        assert hopper.attention(q, q, q, 0.125, grid)[2] is None
        assert [driver.values[name] for name in ("lengths", "scratch", "pfs")] == [None] * 3
        assert driver.launch[:3] == (4 * 3, 1, 1)


def test_heads_go_in_sections_whose_keys_and_values_the_cache_holds(driver: FakeDriver) -> None:
    for tokens, heads, section in ((131072, 6, 2), (32768, 6, 6), (32768, 18, 8)):
        q = torch.empty(1, 1, 1, 64, dtype=torch.float16).expand(1, heads, tokens, 64)
        hopper.attention(q, q[:, ::2], q[:, ::2], 0.125)
        assert driver.values["section"] == section, (tokens, heads)
        # twice as many where there are keys alone
        hopper.focus(q, q[:, ::2], 0.125, SpanGrid(tokens, LadmConfig(max_length=tokens)))
        assert driver.values["section"] == min(heads, 2 * section)


def test_rows_that_are_not_aligned_are_copied() -> None:
    x = torch.arange(2 * 3 * 5 * 72, dtype=torch.float16).view(2, 3, 5, 72)
    assert hopper._readable(x[..., :64]).data_ptr() == x.data_ptr()
    for odd in (x[..., 1:65], x.mT[..., :5]):
        torch.testing.assert_close(hopper._readable(odd), odd)
        assert hopper._readable(odd).is_contiguous()
    # contiguous, but not where the rows may begin; and one row for all
    odd = torch.arange(1 + 64 * 6, dtype=torch.float16)[1:].view(1, 2, 3, 64)
    assert hopper._readable(odd).data_ptr() % 16 == 0
    assert hopper._readable(x[:, :1, :, :64].expand(2, 3, 5, 64)).is_contiguous()


def test_documents_that_need_much_scratch_go_in_turns(driver: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    q = torch.zeros(5, 2, 3000, 64, dtype=torch.float16)
    grid = SpanGrid([3000, 2900, 2800, 2700, 2600])
    monkeypatch.setattr(hopper, "SCRATCH_BYTES", 2 * hopper._scratch_bytes(2, grid))
    launches = []
    launch = driver.cuLaunchKernel
    monkeypatch.setattr(
        driver, "cuLaunchKernel", lambda *a: launch(*a) or launches.append((driver.launch[1], driver.values)) or 0
    )
    for kernel in (lambda: hopper.attention(q, q, q, 0.125, grid)[2], lambda: hopper.focus(q, q, 0.125, grid)):
        launches.clear()
        pfs = kernel()
        assert pfs is not None
        assert pfs.shape == (5, 2, *grid.shape)
        assert [batch for batch, _ in launches] == [2, 2, 1]
        starts = [values["pfs"] for _, values in launches]
        assert starts[1] - starts[0] == starts[2] - starts[1] == 2 * 2 * grid.shape[0] * grid.shape[1] * 8 * 4
        assert len({values["scratch"] for _, values in launches}) == 1


def test_a_grid_of_other_documents_is_refused() -> None:
    q = torch.zeros(2, 2, 3000, 64, dtype=torch.float16)
    for grid in (SpanGrid([3000] * 3), SpanGrid([3100, 3000])):
        with pytest.raises(ValueError, match="for a batch of 2 x 3000"):
            hopper.attention(q, q, q, 0.125, grid)
        with pytest.raises(ValueError, match="for a batch of 2 x 3000"):
            hopper.focus(q, q, 0.125, grid)


def test_running_out_of_memory_is_that(driver: FakeDriver) -> None:
    driver.code = 2
    q = torch.zeros(1, 1, 200, 64, dtype=torch.float16)
    with pytest.raises(torch.OutOfMemoryError):
        hopper.attention(q, q, q, 0.125)


def test_a_call_of_the_driver_that_fails_is_named(driver: FakeDriver) -> None:
    driver.code = 1
    q = torch.zeros(1, 1, 200, 64, dtype=torch.float16)
    with pytest.raises(RuntimeError, match="cuTensorMapEncodeTiled.*1"):
        hopper.attention(q, q, q, 0.125)


@pytest.mark.parametrize(("kernel", "dim"), KERNELS)
def test_blocks_are_within_what_a_multiprocessor_of_hopper_has(kernel: str, dim: int) -> None:
    block = hopper.BLOCKS[kernel][dim]
    assert block.slices == -(-dim // 64)
    # of each block 1 KiB is the system's
    assert block.together * (block.shared_bytes + 1024) <= 233_472
    assert block.together * block.threads <= 2048
    keys = re.search(r"KEYS = (\d+)", Path(hopper.__file__).with_name(hopper.HEADER).read_text())
    assert keys is not None
    assert int(keys[1]) == hopper.KEYS == hopper.SPAN_LENGTH


@pytest.mark.parametrize(("kernel", "dim"), KERNELS)
def test_nvrtc_compiles_the_source_for_both_types(kernel: str, dim: int) -> None:
    try:
        hopper._nvrtc()
    except RuntimeError as missing:
        pytest.skip(f"{missing}: pip install nvidia-cuda-nvrtc")
    for dtype in hopper.DTYPES:
        binary = hopper.compiled(kernel, dtype, dim)
        assert binary.startswith(b"\x7fELF")
        assert b"ladm_" + kernel.encode() in binary


def test_a_machine_without_nvrtc_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", missing)
    with pytest.raises(RuntimeError, match="NVRTC"):
        hopper._nvrtc()


def test_attention_and_focus_is_for_what_the_kernel_covers(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = SpanGrid(3000)
    q = torch.zeros(1, 2, 3000, 64)
    assert causal.attention_and_focus(q, q, q, 0.125, grid) is None
    asked = []
    monkeypatch.setattr(causal, "_chosen", lambda *_: "hopper")
    monkeypatch.setattr(hopper, "attention", lambda *arguments: asked.append(arguments) or ("output", "lse", "pfs"))
    assert causal.attention_and_focus(q, q, q, 0.125, grid) == ("output", "lse", "pfs")
    assert asked[0][-1] is grid
    assert causal.attention_and_focus(q, q, q, 0.125, SpanGrid(3000, LadmConfig(span_length=64))) is None


def test_the_span_focus_alone_serves_where_there_is_no_log_sum_exp_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    grid, q = SpanGrid(3000), torch.zeros(1, 2, 3000, 64)
    assert causal.focus_alone(q, q, 0.125, grid) is None
    monkeypatch.setattr(ops, "_triton_span_focus", lambda *a: "triton")
    monkeypatch.setattr(causal, "focus_alone", lambda q, k, scale, grid: "alone")
    fused = BACKENDS["fused"]
    assert fused(q, q, grid, 0.125) == "alone"
    assert fused(q, q, grid, 0.125, q[..., 0]) == fused(q, q, grid, 0.125, None, 30.0) == "triton"
    monkeypatch.setattr(causal, "focus_alone", lambda *a: None)
    assert fused(q, q, grid, 0.125) == "triton"


@pytest.mark.parametrize("failure", ["raises", "is off", "none"])
def test_the_span_focus_alone_is_tried_before_it_serves(monkeypatch, caplog, failure: str) -> None:
    def trial(device, dtype, dim, group, kernel) -> float:
        assert kernel == "focus"
        if failure == "raises":
            raise RuntimeError("NVRTC (libnvrtc) is not installed")
        return 0.5 if failure == "is off" else 1e-5

    monkeypatch.setattr(hopper, "focus_trial", trial)
    causal._focus_agrees.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert causal._focus_agrees(0, torch.float16, 64, 8) is (failure == "none")
    causal._focus_agrees.cache_clear()
    assert len(caplog.records) == (failure != "none")


def test_a_recorder_offers_its_spans_to_the_attention_of_the_layers_it_wants() -> None:
    grid, pfs = SpanGrid(3000), torch.rand(1, 4, 2, 3)
    recorder = SpanRecorder(grid, (0, 2), {2: [1, 3]}, BACKENDS["fused"])
    assert [recorder.grid_in_attention(layer) for layer in range(3)] == [grid, None, grid]
    assert SpanRecorder(grid, (0,), {}, naive.span_focus).grid_in_attention(0) is None
    recorder.keep(0, pfs)
    recorder.keep(2, pfs)
    torch.testing.assert_close(recorder.pfs, {0: pfs.mean(1)[None], 2: (pfs[:, 1] + pfs[:, 3])[None] / 2})
    by_head = SpanRecorder(grid, (2,), {2: [1, 3]}, BACKENDS["fused"], by_head=True)
    by_head.keep(2, pfs)
    torch.testing.assert_close(by_head.pfs, {2: torch.stack([pfs[:, 1], pfs[:, 3]])})
    every = SpanRecorder(grid, (0,), {}, BACKENDS["fused"], by_head=True)
    every.keep(0, pfs)
    torch.testing.assert_close(every.pfs[0], pfs.transpose(0, 1))


def definition(q, k, v, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Output and log-sum-exp in fp64."""
    group = q.shape[1] // k.shape[1]
    logits = scale * q.double() @ k.double().repeat_interleave(group, 1).mT
    logits.masked_fill_(torch.ones_like(logits, dtype=torch.bool).triu_(1), -torch.inf)
    return logits.softmax(-1) @ v.double().repeat_interleave(group, 1), logits.logsumexp(-1)


@pytest.fixture
def uninitialized_memory_is_nan():
    """Whatever is not written shows."""
    before, warned = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(before, warn_only=warned)


def assert_agrees(q, k, v, grid: SpanGrid) -> tuple[torch.Tensor, torch.Tensor]:
    """Compares the kernel with the definition on the tokens of the documents, and gives its output and PFS."""
    output, lse, pfs = hopper.attention(q, k, v, 0.125, grid)
    expected, expected_lse = definition(q, k, v, 0.125)
    lengths = torch.tensor(grid.num_tokens, device="cuda")[:, None]
    real = (torch.arange(q.shape[2], device="cuda") < lengths).expand(len(q), -1)
    error = (output - expected).transpose(1, 2)[real].norm() / expected.transpose(1, 2)[real].norm()
    assert error < (1e-3 if q.dtype == torch.float16 else 8e-3)
    torch.testing.assert_close(lse.mT[real], expected_lse.float().mT[real], rtol=1e-5, atol=1e-5)
    return output, assert_focus_agrees(pfs, q, k, grid)


def assert_focus_agrees(pfs: torch.Tensor, q: torch.Tensor, k: torch.Tensor, grid: SpanGrid) -> torch.Tensor:
    """Compares PFS with the definition, and gives it."""
    expected = naive.span_focus(q.double(), k.double(), grid, 0.125).float()
    torch.testing.assert_close(pfs, expected, rtol=1e-4, atol=1e-7)
    assert not pfs[expected == 0].any()
    return pfs


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_HOPPER, reason="needs a Hopper GPU")
@pytest.mark.usefixtures("uninitialized_memory_is_nan")
@pytest.mark.filterwarnings("ignore:.*deterministic")
@pytest.mark.parametrize("dim", hopper.BLOCKS["focus"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("d_afs", "d_cds", "extra"),
    # the last has more key spans than a kernel adds up at once
    [(1, 1, [0]), (1, 1, [130, 7, 128]), (2, 3, [500, 600]), (4, 4, [0, 555]), (1, 8, [4600, 0])],
)
@pytest.mark.parametrize("kind", ["plain", "sink", "sharp", "own", "past"])
def test_they_agree_with_the_definition(dim, dtype, d_afs, d_cds, extra, kind) -> None:
    config = LadmConfig(d_afs=d_afs, d_cds=d_cds, max_length=65536)
    lengths = [config.min_tokens + more for more in extra]
    generator = torch.Generator("cuda").manual_seed(0)
    packed = torch.randn(len(lengths), max(lengths) + 37, 12, dim, generator=generator, device="cuda")
    if kind == "sink":
        packed[:, :3, 8:10] *= 6
    elif kind == "sharp":
        packed[:, :, :8] *= 30
    elif kind in ("own", "past"):
        # A query finds the keys of one span so much better that fp32 does not hold the others beside them: its own
        # span, where the prefix is lost, or one that is neither its own nor the first, where the sum overflows.
        spans = torch.arange(packed.shape[1], device="cuda") // 128
        code = torch.randn(int(spans.max()) + 1, dim, generator=generator, device="cuda")
        code = 40 * torch.nn.functional.normalize(code, dim=1)
        packed[:, :, :8] += code[spans - (2 if kind == "past" else 0)][:, None]
        packed[:, :, 8:10] += code[spans][:, None]
    q, k, v = packed.to(dtype).transpose(1, 2).split([8, 2, 2], 1)
    grid, attends = SpanGrid(lengths, config), dim in hopper.BLOCKS["attention"]
    output, pfs = assert_agrees(q, k, v, grid) if attends else (None, None)
    focus = assert_focus_agrees(hopper.focus(q, k, 0.125, grid), q, k, grid)
    for i, length in enumerate(lengths):
        one, alone = slice(i, i + 1), SpanGrid(length, config)
        rows, columns = alone.shape
        queries, keys, values = (x[one, :, :length] for x in (q, k, v))
        assert torch.equal(hopper.focus(queries, keys, 0.125, alone), focus[one, :, :rows, :columns])
        if attends:
            found = hopper.attention(queries, keys, values, 0.125, alone)
            assert torch.equal(found[0], output[one, :, :length])
            assert torch.equal(found[2], pfs[one, :, :rows, :columns])


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_HOPPER, reason="needs a Hopper GPU")
@pytest.mark.usefixtures("uninitialized_memory_is_nan")
@pytest.mark.filterwarnings("ignore:.*deterministic")
@pytest.mark.parametrize("dim", hopper.BLOCKS["attention"])
@pytest.mark.parametrize("kv_heads", [1, 6])
@pytest.mark.parametrize("heads_outside", [False, True])
def test_it_takes_any_groups_of_heads_and_one_grid_for_all(dim: int, kv_heads: int, heads_outside: bool) -> None:
    packed = torch.randn(3, 2500, 6 + 2 * kv_heads, dim, device="cuda").half()
    q, k, v = packed.transpose(1, 2).split([6, kv_heads, kv_heads], 1)
    if heads_outside:
        q, k, v = (tensor.contiguous() for tensor in (q, k, v))
    _, pfs = assert_agrees(q, k, v, SpanGrid([2500] * 3))
    shared = hopper.attention(q, k, v, 0.125, SpanGrid(2500))[2]
    assert torch.equal(shared, pfs)
    alone = assert_focus_agrees(hopper.focus(q, k, 0.125, SpanGrid(2500)), q, k, SpanGrid([2500] * 3))
    assert torch.equal(hopper.focus(q, k, 0.125, SpanGrid([2500] * 3)), alone)


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_HOPPER, reason="needs a Hopper GPU")
@pytest.mark.usefixtures("uninitialized_memory_is_nan")
@pytest.mark.filterwarnings("ignore:.*deterministic")
def test_documents_in_turns_have_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = torch.randn(3, 2800, 8, 64, device="cuda").half().transpose(1, 2).split([4, 2, 2], 1)
    grid = SpanGrid([2800, 2400, 2600])
    together, alone = hopper.attention(q, k, v, 0.125, grid), hopper.focus(q, k, 0.125, grid)
    monkeypatch.setattr(hopper, "SCRATCH_BYTES", 2 * hopper._scratch_bytes(4, grid))
    in_turns = hopper.attention(q, k, v, 0.125, grid)
    assert torch.equal(hopper.focus(q, k, 0.125, grid), alone)
    for length, *results in zip(grid.num_tokens, *together, *in_turns, strict=True):
        output, lse, pfs, *others = results
        assert torch.equal(output[:, :length], others[0][:, :length])
        assert torch.equal(lse[:, :length], others[1][:, :length])
        assert torch.equal(pfs, others[2])


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_HOPPER, reason="needs a Hopper GPU")
@pytest.mark.usefixtures("uninitialized_memory_is_nan")
@pytest.mark.filterwarnings("ignore:.*deterministic")
@pytest.mark.parametrize("dim", hopper.BLOCKS["attention"])
def test_heads_in_sections_the_last_of_them_shorter_have_the_same_bits(monkeypatch, dim: int) -> None:
    q, k, v = torch.randn(2, 2700, 12, dim, device="cuda").half().transpose(1, 2).split([6, 3, 3], 1)
    grid = SpanGrid(2700)
    together = hopper.attention(q, k, v, 0.125, grid)
    # two groups of two heads, and one
    monkeypatch.setattr(hopper, "CACHED_BYTES", 2 * 4 * 2700 * dim)
    assert all(map(torch.equal, hopper.attention(q, k, v, 0.125, grid), together))
    monkeypatch.setattr(hopper, "CACHED_BYTES", 2 * 2 * 2700 * dim)
    in_sections = hopper.focus(q, k, 0.125, grid)
    monkeypatch.undo()
    assert torch.equal(in_sections, hopper.focus(q, k, 0.125, grid))


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_HOPPER, reason="needs a Hopper GPU")
def test_a_model_with_its_own_forward_pass_takes_the_kernel_too(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("persimmon", hidden_size=128, num_attention_heads=2, head_dim=64)
    model = model.half().to("cuda")
    documents = [random_ids(2900), random_ids(2500, 1)]
    kernel, alone, grids, last = hopper.attention, hopper.focus, [], []
    monkeypatch.setattr(hopper, "attention", lambda *a: grids.append(len(a) > 4) or kernel(*a))
    monkeypatch.setattr(hopper, "focus", lambda *a: last.append(True) or alone(*a))
    pfs = {}
    for backend in ("auto", "chunked"):
        engine = Engine(resolve(model), LadmConfig(), "float16", "cuda:0", backend, None)
        assert engine.forward_pass == "model"
        grids.clear()
        last.clear()
        pfs[backend] = engine.pfs(documents)[1]
        # the last layer's attention is not needed
        assert grids == [backend == "auto"] * 2
        assert last == [True] * (backend == "auto")
    for layer, found, expected in zip(range(3), pfs["auto"], pfs["chunked"], strict=True):
        assert (found - expected).norm() <= (5e-2 if layer else 1e-3) * expected.norm()


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_HOPPER or torch.cuda.device_count() < 2, reason="needs two Hopper GPUs")
def test_each_device_has_its_own_kernel_whichever_is_current() -> None:
    tensors = [torch.randn(1, 2500, 8, 64).half().transpose(1, 2).split([4, 2, 2], 1)] * 2
    found = [
        causal.attention_and_focus(*(x.to(f"cuda:{index}") for x in qkv), 0.125, SpanGrid(2500))
        for index, qkv in enumerate(tensors)
    ]
    found = [
        (*one, causal.focus_alone(*(x.to(one[0].device) for x in qkv[:2]), 0.125, SpanGrid(2500)))
        for one, qkv in zip(found, tensors, strict=True)
    ]
    for one, other in zip(*found, strict=True):
        assert other.device.index == 1
        assert torch.equal(one.cpu(), other.cpu())
