"""The elementwise kernels give what the modules give that they stand for."""

from __future__ import annotations

import itertools

import pytest
import torch

pytest.importorskip("triton")

from ladm_hf.ops import fused, pointwise
from ladm_hf.ops.rms_norm import RmsNorm

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytestmark = pytest.mark.skipif(DEVICE == "cpu" and not fused.INTERPRETED, reason="needs a GPU or TRITON_INTERPRET=1")
DTYPES = [torch.float32, torch.bfloat16]
FORMS = [(0.0, True), (0.0, False), (1.0, False)]


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def close(dtype: torch.dtype) -> dict[str, float]:
    # Triton's interpreter cuts bfloat16 off where a GPU rounds it: a unit in the last place, at each of three steps
    return {"rtol": 1e-5, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 3 * 2**-7, "atol": 2e-2}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMS)
def test_a_norm_is_its_definition(dtype: torch.dtype, form: tuple[float, bool]) -> None:
    # rows that are a part of others, and no power of two
    x = random(5, 40, dtype=dtype)[:, 3:27]
    norm = RmsNorm(random(24, dtype=dtype, seed=1), 1e-2, *form)
    expected = norm(x)
    torch.testing.assert_close(pointwise.rms_norm(x, norm), expected, **close(dtype))
    total = random(5, 24, dtype=dtype, seed=2)
    with_sum = total + expected
    pointwise.add_rms_norm_(total, x, norm)
    torch.testing.assert_close(total, with_sum, **close(dtype))
    pointwise.rms_norm_(x, norm)
    torch.testing.assert_close(x, expected, **close(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_orders_of_rounding_differ(dtype: torch.dtype) -> None:
    x, weight = random(9, 64, dtype=dtype), random(64, dtype=dtype, seed=1)
    first, last = (pointwise.rms_norm(x, RmsNorm(weight, 1e-6, 0.0, order)) for order in (True, False))
    assert torch.equal(first, last) is (dtype == torch.float32)


@pytest.mark.parametrize(
    ("dtype", "angles", "width", "form"),
    [(*types, width, form) for types, width, form in itertools.product(
        [(torch.float32, torch.float32), (torch.bfloat16, torch.bfloat16), (torch.bfloat16, torch.float32)],
        [24, 10],
        [None, (0.0, True), (1.0, False)],
    )],
)  # fmt: skip
@pytest.mark.parametrize("neighbours", [False, True])
def test_a_rotation_is_that_of_the_model(dtype, angles, width: int, form, neighbours: bool) -> None:
    # two documents of three tokens; every other head of a product, as where gates stand between
    heads = random(6, 6, 24, dtype=dtype)[:, 0:6:2]
    cos, sin = (random(3, width, dtype=angles, seed=seed) for seed in (1, 2))
    norm = None if form is None else RmsNorm(random(24, dtype=dtype, seed=3), 1e-2, *form)
    x = heads.clone() if norm is None else norm(heads)
    turned, kept = x[..., :width], x[..., width:]
    low, high = (turned[..., ::2], turned[..., 1::2]) if neighbours else turned.chunk(2, -1)
    turned = (
        torch.cat([low, high], -1) * cos.repeat(2, 1)[:, None] + torch.cat([-high, low], -1) * sin.repeat(2, 1)[:, None]
    )
    if neighbours:
        turned = torch.stack(turned.chunk(2, -1), -1).flatten(-2)
    expected = torch.cat([turned.to(dtype), kept], -1)
    pointwise.rotate_(heads, cos, sin, norm, neighbours=neighbours)
    torch.testing.assert_close(
        heads, expected, rtol=close(dtype)["rtol"], atol=1e-6 if dtype == torch.float32 else 0.05
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", pointwise.ACTIVATIONS)
def test_a_gated_activation_is_pytorchs(dtype: torch.dtype, activation: str) -> None:
    x = 3.0 * random(4, 60, dtype=dtype)
    gate, up = x.chunk(2, 1)
    functional = torch.nn.functional
    turned = functional.silu(gate) if activation == "silu" else functional.gelu(gate, approximate="tanh")
    torch.testing.assert_close(pointwise.gated(x, activation), turned * up, **close(dtype))
