"""The dtype that `"auto"` stands for, and how far bfloat16 goes on a CPU.

On an accelerator it is float16, the published code's. On a CPU it is bfloat16 where the processor multiplies it in
hardware (AMX or AVX512-BF16) and a product of the calculator's own MLP is the faster for it, else float32. Only weights
that were saved in bfloat16 are taken so, since others would be rounded.

The trial must give the same answer every time on one machine, so it counts processor time, which a busy machine does
not change, on one thread, and its margin is wide: bfloat16 takes a quarter of float32's time where the instructions
are used and more than all of it where they are not.

In Llama-like models only the products and the attention's inputs are rounded to bfloat16. The residual stream, which a
rounding at each layer would move most, the norms and the queries and keys that the score is made of stay in float32:
they cost little there, and scores come closer to float32's.
"""

from __future__ import annotations

import functools
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ladm_hf.calculators.calculator import Calculator
from ladm_hf.calculators.loading import bfloat16_mlp
from ladm_hf.errors import BackendError
from ladm_hf.ops import triton_problem
from ladm_hf.ops.device import cpu_has, one_thread

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Linear layers of the fast forward pass in float8, everything else in bfloat16; never what "auto" stands for.
FLOAT8 = "float8"
# What to do where a device has no float8.
OTHER_DTYPE = "Use dtype='bfloat16'"
# Models whose sums stay in float32.
FAMILIES = ("LlamaModel", "MistralModel", "Qwen2Model", "Qwen3Model")
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
    mlp = _mlp(calculator.path, calculator.identity)
    if mlp is None or mlp[0] < MIN_WIDTH:
        return "float32"
    return "bfloat16" if bfloat16_is_faster(min(mlp[0], MAX_WIDTH), min(mlp[1], MAX_INNER)) else "float32"


def check_float8(device: str, advice: str = OTHER_DTYPE) -> None:
    """Refuses a device that multiplies no float8.

    Args:
        device (`str`): of PyTorch.
        advice (`str`): what to do instead.

    Raises:
        BackendError: the message says what it lacks.
    """
    on = torch.device(device)
    problem = triton_problem(on) if on.type == "cuda" else "it is no NVIDIA GPU"
    if not problem:
        from ladm_hf.ops import float8

        problem = float8.problem(on)
    if problem:
        raise BackendError(
            f"dtype='float8' needs a GPU that multiplies float8 (Ada, Hopper or newer), which {device} does not: "
            f"{problem}. {advice}"
        )


def _multiplies_bfloat16() -> bool:
    """Whether the processor has instructions for products of bfloat16; oneDNN may be kept from using them."""
    return cpu_has("amx_tile") or cpu_has("avx512_bf16")


@functools.cache
@torch.inference_mode()
def bfloat16_is_faster(width: int, inner: int) -> bool:
    """Whether `[TOKENS, width] @ [width, inner]` takes clearly less processor time in bfloat16 than in float32."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(TOKENS, width, generator=generator)
    weight = torch.randn(inner, width, generator=generator)
    pairs = [(x.to(dtype), weight.to(dtype)) for dtype in (torch.float32, torch.bfloat16)]
    best = [float("inf"), float("inf")]
    # other threads' time would not be counted, and a forked worker must not start any
    with one_thread():
        for _ in range(ROUNDS):
            for i, pair in enumerate(pairs):
                start = time.thread_time()
                nn.functional.linear(*pair)
                best[i] = min(best[i], time.thread_time() - start)
    return best[1] <= MARGIN * best[0]


@functools.cache
def _mlp(path: Path, identity: str) -> tuple[int, int] | None:
    """[`bfloat16_mlp`], looked up once: the identity stands for the folder's content."""
    return bfloat16_mlp(path)


class _Product(nn.Linear):
    """A linear layer that takes any input in the dtype of its weights."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.to(self.weight.dtype))


def keep_sums_in_float32(model: PreTrainedModel) -> None:
    """Puts everything but the linear layers of a Llama-like model in bfloat16 into float32; leaves others as they are.

    A head that shares the embedding's weights goes with them.
    """
    if type(model.base_model).__name__ not in FAMILIES:
        return
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = _Product
            continue
        for parameter in module.parameters(recurse=False):
            parameter.data = parameter.data.float()
