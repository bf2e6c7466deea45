"""The platform's attention kernels give the output and the log-sum-exp of the definition, or are not used."""

from __future__ import annotations

import importlib
import inspect
import logging
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from ladm_hf.ops import causal, tiled
from ladm_hf.scoring import attention

HAS_GPU = torch.cuda.is_available()


@pytest.fixture(autouse=True)
def forget_choices():
    choices = causal.kernel_name, causal.cpu_kernel, causal.installed_flash4
    for choice in choices:
        choice.cache_clear()
    yield
    for choice in choices:
        choice.cache_clear()


@pytest.mark.parametrize(
    ("amx", "capability", "widened"), [(False, "AVX512", True), (True, "AVX512", False), (False, "DEFAULT", False)]
)
def test_bfloat16_is_converted_once_where_it_is_multiplied_in_float32(
    monkeypatch: pytest.MonkeyPatch, amx: bool, capability: str, widened: bool
) -> None:
    monkeypatch.setattr(causal, "cpu_has", lambda unit: amx)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    heads = causal.trial_heads(torch.device("cpu"), torch.bfloat16, 16, 2)
    inputs = tuple(x.float() for x in heads) if widened else heads
    expected = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*inputs, 0.0, True, scale=0.25)
    output, lse = causal._flash_cpu(*heads, 0.25)
    assert torch.equal(output, expected[0].bfloat16())
    assert torch.equal(lse, expected[1])


def test_the_cpu_kernel_agrees_with_the_definition() -> None:
    assert causal._trial("flash_cpu", torch.device("cpu"), torch.float32, 16, 2) < 1e-5


@pytest.mark.parametrize("group", [1, 3, 4])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, causal.TRIAL_TOLERANCE)])
def test_the_tiled_kernel_agrees_with_the_definition(monkeypatch, dtype, tolerance: float, group: int) -> None:
    # 75 tokens: tiles that are joined, and rows and a tile that end early
    monkeypatch.setattr(tiled, "ROWS", 24)
    monkeypatch.setattr(tiled, "KEYS", 32)
    assert causal._trial("tiled", torch.device("cpu"), dtype, 16, group) < tolerance


@pytest.mark.parametrize(
    ("dtype", "has", "amd", "expected"),
    [
        (torch.bfloat16, True, True, "tiled"),
        (torch.float32, True, True, "tiled"),
        (torch.float16, True, True, "flash_cpu"),
        (torch.bfloat16, True, False, "flash_cpu"),
        (torch.float32, True, False, "flash_cpu"),
        (torch.float32, False, True, "flash_cpu"),
    ],
)
def test_a_cpu_takes_tiles_where_mkl_takes_its_slow_path(monkeypatch, dtype, has, amd, expected) -> None:
    monkeypatch.setattr(tiled, "cpu_has", {"avx512_bf16": has}.__getitem__)
    monkeypatch.setattr(tiled, "cpu_is_amd", lambda: amd)
    assert causal.cpu_kernel(dtype, 16, 2) == expected


@pytest.mark.parametrize("failure", ["off", "absent"])
def test_tiles_that_fail_on_trial_are_not_used(monkeypatch: pytest.MonkeyPatch, failure: str) -> None:
    def product(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        if failure == "absent":
            raise RuntimeError("no such operator")
        return x @ y.t() + 0.1 * x.sum()

    monkeypatch.setattr(tiled, "covers", lambda dtype: True)
    monkeypatch.setattr(tiled, "_product", product)
    assert causal.cpu_kernel(torch.float32, 16, 2) == "flash_cpu"


def test_values_of_another_width_and_other_devices_have_no_kernel() -> None:
    q = torch.randn(1, 2, 5, 8)
    assert causal.causal_attention(q, q, q[..., :4], 1.0) is None
    q = q.to("meta")
    assert causal.causal_attention(q, q, q, 1.0) is None


@pytest.mark.parametrize(
    ("capability", "dtype", "dim", "flash4", "expected"),
    [
        ((9, 0), torch.float16, 64, None, ["hopper", "cudnn", "flash", "efficient"]),
        ((9, 0), torch.bfloat16, 64, "4.0.0", ["hopper", "flash4", "cudnn", "flash", "efficient"]),
        ((9, 0), torch.float16, 128, "4.0.0", ["hopper", "flash4", "cudnn", "flash", "efficient"]),
        ((9, 0), torch.float16, 256, "4.0.0", ["flash4", "cudnn", "flash", "efficient"]),
        ((8, 6), torch.bfloat16, 128, "4.0.0", ["flash", "efficient"]),
        ((7, 5), torch.float16, 64, None, ["efficient"]),
        ((9, 0), torch.float32, 64, "4.0.0", ["efficient"]),
        ((9, 0), torch.float16, 60, "4.0.0", []),
    ],
)
def test_candidates_follow_the_capability(monkeypatch, capability, dtype, dim, flash4, expected) -> None:
    monkeypatch.setattr(causal, "installed_flash4", lambda: flash4)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.backends.cudnn, "is_available", lambda: True)
    assert causal.candidates(0, dtype, dim) == expected


def test_a_kernel_that_fails_or_is_wrong_is_passed_over(monkeypatch, caplog: pytest.LogCaptureFixture) -> None:
    def trial(name: str, *_: object) -> float:
        if name == "flash4":
            raise AssertionError("(head_dim, head_dim_v) not supported")
        if name == "cudnn":
            raise RuntimeError("no plan")
        return {"flash": 0.5, "efficient": 1e-3}[name]

    monkeypatch.setattr(causal, "candidates", lambda *_: ["flash4", "cudnn", "flash", "efficient"])
    monkeypatch.setattr(causal, "_trial", trial)
    with caplog.at_level(logging.DEBUG, "ladm_hf.ops.causal"):
        assert causal.kernel_name(0, torch.float16, 64, 1) == "efficient"
    assert "no plan" in caplog.text
    assert "the kernel flash is off by 5.0e-01" in caplog.text
    monkeypatch.setattr(causal, "candidates", lambda *_: ["flash"])
    assert causal.kernel_name(0, torch.float16, 32, 1) is None


def test_running_out_of_memory_settles_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def trial(*_: object) -> float:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(causal, "candidates", lambda *_: ["flash"])
    monkeypatch.setattr(causal, "_trial", trial)
    with pytest.raises(torch.OutOfMemoryError):
        causal.kernel_name(0, torch.float16, 64, 1)


def test_the_report_names_kernel_and_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiled, "covers", lambda dtype: True)
    assert attention.describe("cpu").startswith("tiled products of oneDNN, log-sum-exp reused")
    monkeypatch.setattr(tiled, "covers", lambda dtype: False)
    assert attention.describe("cpu") == (
        "PyTorch's CPU flash attention, log-sum-exp reused; span focus by PyTorch (chunked)"
    )
    assert "exact prefix pass" in causal.describe("mps")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "Some GPU")
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(causal, "kernel_name", lambda *_: "cudnn")
    assert "Some GPU (capability 9.0): cudnn" in causal.describe("cuda")
    monkeypatch.setattr(causal, "kernel_name", lambda *_: "hopper")
    assert "log-sum-exp reused, the focus of spans of 128 from the same kernel" in causal.describe("cuda")
    monkeypatch.setattr(causal, "kernel_name", lambda *_: "flash4")
    monkeypatch.setattr(causal, "installed_flash4", lambda: "4.0.0")
    assert "Some GPU (capability 9.0): flash4 4.0.0 attention" in causal.describe("cuda")
    monkeypatch.setattr(causal, "kernel_name", lambda *_: None)
    assert "no kernel gives the log-sum-exp" in causal.describe("cuda:0")


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_GPU, reason="needs a CUDA device")
@pytest.mark.parametrize("dim", [32, 64, 80, 96, 128, 256])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_gpu_has_a_kernel_for_every_head(dtype: torch.dtype, dim: int) -> None:
    assert causal.kernel_name(0, dtype, dim, 4) is not None


def test_the_layout_of_every_operators_log_sum_exp_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    def attend(q, k, v, scale):
        output, lse = causal._flash_cpu(q, k, v, scale)
        return output, lse.contiguous()

    def cudnn(q, k, v, bias, compute, dropout, is_causal, debug, *, scale):
        assert bias is None
        assert compute
        assert is_causal
        output, lse = attend(q, k, v, scale)
        return output, lse.unsqueeze(-1), None

    def flash(q, k, v, dropout, is_causal, debug, *, scale):
        assert is_causal
        output, lse = attend(q, k, v, scale)
        return output, torch.nn.functional.pad(lse, (0, 53)), None

    def efficient(q, k, v, bias, compute, dropout, is_causal, *, scale):
        assert q.shape == k.shape == v.shape
        return flash(q, k, v, dropout, is_causal, False, scale=scale)

    def flash4(q, k, v, *, softmax_scale, causal, return_lse):
        assert causal
        assert return_lse
        output, lse = attend(*(tensor.transpose(1, 2) for tensor in (q, k, v)), softmax_scale)
        return output.transpose(1, 2).contiguous(), lse

    package, module = ModuleType("flash_attn"), ModuleType("flash_attn.cute")
    monkeypatch.setitem(sys.modules, "flash_attn", package)
    monkeypatch.setitem(sys.modules, "flash_attn.cute", module)
    monkeypatch.setattr(module, "flash_attn_func", flash4, raising=False)
    operators = {
        "_scaled_dot_product_cudnn_attention": cudnn,
        "_scaled_dot_product_flash_attention": flash,
        "_scaled_dot_product_efficient_attention": efficient,
        "_scaled_dot_product_flash_attention_for_cpu": torch.ops.aten._scaled_dot_product_flash_attention_for_cpu,
    }
    monkeypatch.setattr(causal, "aten", SimpleNamespace(**operators))
    for name in set(causal.KERNELS) - {"hopper"}:
        assert causal._trial(name, torch.device("cpu"), torch.float32, 16, 3) < 1e-5


@pytest.mark.filterwarnings("ignore")
def test_the_installed_flash_attention_4_takes_what_it_is_given() -> None:
    if causal.installed_flash4() is None:
        pytest.skip("needs flash-attn-4: pip install 'ladm_hf[gpu]'")
    parameters = inspect.signature(importlib.import_module("flash_attn.cute").flash_attn_func).parameters
    assert {"softmax_scale", "causal", "return_lse"} < set(parameters)


def test_a_gpu_uses_the_kernel_that_was_chosen_for_its_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple] = []
    monkeypatch.setattr(causal, "kernel_name", lambda *key: asked.append(key) or "flash")
    monkeypatch.setitem(causal.KERNELS, "flash", lambda q, k, v, scale: ("output", scale))
    q, k = (
        SimpleNamespace(
            device=torch.device("cuda:1"), dtype=torch.float16, shape=(1, heads, 9, 64), requires_grad=False
        )
        for heads in (8, 2)
    )
    assert causal.causal_attention(q, k, k, 0.5) == ("output", 0.5)
    assert asked == [(1, torch.float16, 64, 4)]
    # other dtypes, or gradients, are for PyTorch
    for name, value in (("dtype", torch.bfloat16), ("requires_grad", True)):
        assert causal.causal_attention(q, k, SimpleNamespace(**vars(k) | {name: value}), 0.5) is None
    monkeypatch.setattr(causal, "kernel_name", lambda *key: None)
    assert causal.causal_attention(q, k, k, 0.5) is None
