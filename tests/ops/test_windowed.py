"""Attention within a sliding window is the definition's, and its cost grows with the length alone."""

from __future__ import annotations

import pytest
import torch

from ladm_hf.ops import windowed

HAS_GPU = torch.cuda.is_available()


@pytest.mark.parametrize("block", [1, 7, 256])
@pytest.mark.parametrize("group", [1, 3])
def test_blocks_of_queries_agree_with_the_definition(monkeypatch, block: int, group: int) -> None:
    # windows above and below the block, and a last block that ends early
    monkeypatch.setattr(windowed, "QUERY_BLOCK", block)
    for window in (1, 20, 74, 75, 400):
        monkeypatch.setattr(windowed, "TRIAL_WINDOW", window)
        assert windowed._trial(windowed.in_blocks, torch.device("cpu"), torch.float32, 16, group) < 1e-5


def test_the_trial_finds_a_window_that_is_off_by_one() -> None:
    def wider(q, k, v, scale, window):
        return windowed.in_blocks(q, k, v, scale, window + 1)

    assert windowed._trial(wider, torch.device("cpu"), torch.float32, 16, 2) > windowed.TRIAL_TOLERANCE


def test_no_block_sees_more_than_its_window(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def attention(q, k, v, **_):
        seen.append(k.shape[2])
        return torch.zeros_like(q)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attention)
    q = torch.zeros(1, 1, 5000, 8)
    windowed.in_blocks(q, q, q, 1.0, 300)
    assert max(seen) < 600


@pytest.mark.parametrize("failure", ["", "off", "absent"])
def test_flash_serves_where_it_agrees(monkeypatch: pytest.MonkeyPatch, failure: str, caplog) -> None:
    def flash(q, k, v, scale, window):
        if failure == "absent":
            raise RuntimeError("no such operator")
        return windowed.in_blocks(q, k, v, scale, window) + (0.1 if failure == "off" else 0.0)

    windowed.flash_serves.cache_clear()
    trial = windowed._trial
    monkeypatch.setattr(windowed, "flash", flash)
    monkeypatch.setattr(
        windowed, "_trial", lambda kernel, device, dtype, *shape: trial(kernel, torch.device("cpu"), dtype, *shape)
    )
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    monkeypatch.setattr(torch.version, "hip", None)
    assert windowed.flash_serves(0, torch.float32, 64, 2) is False
    assert windowed.flash_serves(0, torch.float16, 260, 2) is False
    assert windowed.flash_serves(0, torch.float16, 64, 2) is (not failure)
    # sliding layers without it are slow, which someone should hear of
    assert bool(caplog.records) is bool(failure)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (7, 5))
    assert windowed.flash_serves(0, torch.float16, 128, 2) is False
    windowed.flash_serves.cache_clear()


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_GPU, reason="needs a CUDA device")
@pytest.mark.parametrize("dim", [64, 96, 128, 256])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_flash_agrees_on_a_gpu(dim: int, dtype: torch.dtype) -> None:
    assert windowed.flash_serves(0, dtype, dim, 4)
    generator = torch.Generator("cuda").manual_seed(0)
    q, k, v = (torch.randn(2, heads, 3000, dim, generator=generator, device="cuda").to(dtype) for heads in (8, 2, 2))
    with torch.inference_mode():
        expected = windowed.in_blocks(q.double(), k.double(), v.double(), dim**-0.5, 512)
        torch.testing.assert_close(windowed.flash(q, k, v, dim**-0.5, 512).double(), expected, rtol=0, atol=2e-2)
