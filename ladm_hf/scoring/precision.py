"""The dtype that `"auto"` stands for.

On an accelerator it is float16, the published code's. On a CPU it is bfloat16 where the processor multiplies it in
hardware (AMX or AVX512-BF16) and a product of the calculator's own MLP is the faster for it, else float32.

The trial must give the same answer every time on one machine, so it counts processor time, which a busy machine does
not change, on one thread, and its margin is wide: bfloat16 takes a quarter of float32's time where the instructions
are used and more than all of it where they are not.
"""

from __future__ import annotations

import functools
import time
from pathlib import Path

import torch
from torch import nn

from ladm_hf.calculators.calculator import Calculator
from ladm_hf.calculators.loading import mlp_shape

# The narrowest model that gains: in narrower ones the conversions between types cost what the products save.
MIN_WIDTH = 128
# The trial: tokens, the most of a product's width that is multiplied, rounds, and the share of float32's time.
TOKENS, MAX_WIDTH, MAX_INNER, ROUNDS, MARGIN = 256, 512, 2048, 6, 0.65


def auto_dtype(calculator: Calculator, device: str) -> str:
    """What `"auto"` is for a calculator in a folder on a device: `"float32"`, `"float16"` or `"bfloat16"`."""
    if torch.device(device).type != "cpu":
        return "float16"
    if not _multiplies_bfloat16():
        return "float32"
    assert calculator.path is not None
    width, inner = _mlp_shape(calculator.path, calculator.identity)
    if width < MIN_WIDTH:
        return "float32"
    return "bfloat16" if bfloat16_is_faster(min(width, MAX_WIDTH), min(inner, MAX_INNER)) else "float32"


def _multiplies_bfloat16() -> bool:
    """Whether the processor has instructions for products of bfloat16; oneDNN may be kept from using them."""
    return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


@functools.cache
@torch.inference_mode()
def bfloat16_is_faster(width: int, inner: int) -> bool:
    """Whether `[TOKENS, width] @ [width, inner]` takes clearly less processor time in bfloat16 than in float32."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(TOKENS, width, generator=generator)
    weight = torch.randn(inner, width, generator=generator)
    pairs = [(x.to(dtype), weight.to(dtype)) for dtype in (torch.float32, torch.bfloat16)]
    best = [float("inf"), float("inf")]
    threads = torch.get_num_threads()
    # other threads' time would not be counted, and a forked worker must not start any
    torch.set_num_threads(1)
    try:
        for _ in range(ROUNDS):
            for i, pair in enumerate(pairs):
                start = time.thread_time()
                nn.functional.linear(*pair)
                best[i] = min(best[i], time.thread_time() - start)
    finally:
        torch.set_num_threads(threads)
    return best[1] <= MARGIN * best[0]


@functools.cache
def _mlp_shape(path: Path, identity: str) -> tuple[int, int]:
    """[`mlp_shape`], looked up once: the identity stands for the folder's content."""
    return mlp_shape(path)
