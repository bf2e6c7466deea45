"""Products in float8: what they round, and where they are refused."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from ladm_hf.ops import float8, fused, pointwise

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytestmark = pytest.mark.skipif(DEVICE == "cpu" and not fused.INTERPRETED, reason="needs a GPU or TRITON_INTERPRET=1")


@pytest.fixture
def multiplies() -> None:
    """Skips where this PyTorch has no such product on this device."""
    x = float8.quantized(random(16, 16))
    try:
        float8.product(x, x)
    except RuntimeError as error:
        pytest.skip(f"no product of float8 here: {error}")


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, torch.bfloat16)


def value(rows: float8.Float8) -> torch.Tensor:
    return rows.values.float() * rows.scales


def off_by(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.float() - expected.float()).norm() / expected.float().norm())


def test_rows_are_rounded_to_three_bits_each_by_its_own_scale() -> None:
    x = random(5, 80) * torch.tensor([[1e-4], [1.0], [1e4], [0.0], [3.0]], device=DEVICE, dtype=torch.bfloat16)
    rows = float8.quantized(x)
    assert rows.values.dtype == float8.DTYPE
    for found, expected in zip(value(rows), x, strict=True):
        # Triton's interpreter cuts off where a GPU rounds
        assert torch.equal(found, expected.float()) or off_by(found, expected) < 0.06
    assert value(rows)[3].abs().max() == 0
    assert torch.allclose(value(rows).abs().amax(1), x.float().abs().amax(1), rtol=1e-3)


def test_a_part_of_wider_rows_is_read_as_it_is() -> None:
    x = random(4, 96)
    assert torch.equal(float8.quantized(x[:, 16:64]).values, float8.quantized(x[:, 16:64].contiguous()).values)


@pytest.mark.parametrize("activation", pointwise.ACTIVATIONS)
def test_a_gated_activation_is_rounded_as_if_it_had_been_written_down(activation: str) -> None:
    gate_up = random(5, 2 * 48)
    found, expected = float8.gated(gate_up, activation), float8.quantized(pointwise.gated(gate_up, activation))
    assert torch.equal(found.scales, expected.scales)
    assert torch.equal(found.values, expected.values)


def test_a_product_is_that_of_what_its_rows_stand_for(multiplies) -> None:
    assert float8.trial(torch.device(DEVICE)) <= float8.TRIAL_TOLERANCE
    x, weight, bias = random(20, 64), random(32, 64, seed=1), random(32, seed=2)
    found = float8.product(float8.quantized(x), float8.quantized(weight), bias)
    assert found.dtype == torch.bfloat16
    assert 0 < off_by(found, x @ weight.t() + bias) < 0.1


def test_a_row_has_the_same_product_whatever_stands_beside_it(multiplies) -> None:
    x, weight = random(40, 64), float8.quantized(random(32, 64, seed=1))
    x[20:] *= 1000
    whole = float8.product(float8.quantized(x), weight)
    assert torch.equal(whole[:20], float8.product(float8.quantized(x[:20]), weight))


@pytest.mark.parametrize(
    ("capability", "error", "expected"),
    [
        ((8, 0), 0.0, "its capability is 8.0, below 8.9"),
        ((9, 0), 0.5, "a trial was off by 5.0e-01"),
        ((9, 0), float("inf"), "off by inf"),
        ((9, 0), None, "a trial failed (RuntimeError: no such product)"),
        ((8, 9), 1e-3, ""),
    ],
)
def test_a_device_says_what_it_lacks(monkeypatch, capability: tuple[int, int], error: float | None, expected: str):
    def trial(device: torch.device) -> float:
        if error is None:
            raise RuntimeError("no such product\nat line 3")
        return error

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(float8, "trial", trial)
    found = float8.problem.__wrapped__(torch.device("cuda:0"))
    assert expected in found if expected else not found
