"""Attention kernels beside one another on one Hopper GPU: parity first, then times in turns, written as JSON.

    python benchmarks/attention.py [--out benchmarks/results/attention.json] [NAME ...]

Of causal attention with its log-sum-exp: cuDNN's, FlashAttention 4 where it is installed, and our own, that with and
without the span focus; of the span focus in Triton, which goes beside the first two; and of the last layer, which needs
the span focus alone, in Triton and our own kernel. Nothing is timed before the kernels agree with the definition. Each
is timed for a moment between the others, as it runs in a model, and at the longer length also for long enough to meet
the GPU's power limit, at which clocks fall. Where other layers of a model slide, windowed attention is timed, too:
PyTorch's FlashAttention, which the package takes, and FlashAttention 4.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import subprocess
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from gpu import environment, rounds_in_turns, seconds
from table import render_attention
from torch import Tensor

from ladm_hf.config import LadmConfig
from ladm_hf.ops import causal, fused, hopper
from ladm_hf.ops.spans import SpanGrid
from ladm_hf.ops.windowed import windowed_attention

LENGTHS = (32_768, 8192)
# Rounds, and the milliseconds that one of them gives each kernel, about.
ROUNDS = {"in_turns": 7, "sustained": 5}
ROUND_MS = {"in_turns": 12.0, "sustained": 120.0}
PARITY_TOKENS = 1111
# Of the norm of the difference between two span focuses, to the norm of one.
FOCUS_TOLERANCE = 2e-5
PACKAGES = ("flash-attn-4", "nvidia-cutlass-dsl")
DEVICE, DTYPE = "cuda:0", torch.bfloat16


class Shape(NamedTuple):
    """Heads of a layer that is scored, and the window of the model's other layers."""

    heads: int
    kv_heads: int
    head_dim: int
    window: int | None = None


SHAPES = {
    "TinyLlama-1.1B": Shape(32, 4, 64),
    "Phi-3-mini": Shape(32, 32, 96),
    "Llama-3.2-3B": Shape(24, 8, 128),
    "SmolLM3-3B": Shape(16, 4, 128),
    "Ministral-3-3B": Shape(32, 8, 128),
    "Gemma-3-1B": Shape(4, 1, 256, 512),
}


def random_heads(shape: Shape, tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values `[1, H, T, D]`, heads inside tokens in memory, as a fused projection leaves them."""
    heads, kv_heads, dim, _ = shape
    generator = torch.Generator(DEVICE).manual_seed(0)
    packed = torch.randn(1, tokens, heads + 2 * kv_heads, dim, generator=generator, device=DEVICE).to(DTYPE)
    q, k, v = packed.transpose(1, 2).split([heads, kv_heads, kv_heads], dim=1)
    return q, k, v


def kernels_of(shape: Shape) -> list[str]:
    """Names of [`causal.KERNELS`] that are compared; PyTorch's older ones are not."""
    names = causal.candidates(torch.device(DEVICE).index, DTYPE, shape.head_dim)
    return [name for name in ("cudnn", "flash4", "hopper") if name in names]


def parity(shape: Shape, kernels: Sequence[str]) -> dict[str, dict[str, float]]:
    """Largest differences of each kernel's output and log-sum-exp from the definition in float32."""
    q, k, v = random_heads(shape, PARITY_TOKENS)
    scale, group = shape.head_dim**-0.5, shape.heads // shape.kv_heads
    logits = scale * q.float() @ k.float().repeat_interleave(group, 1).mT
    logits.masked_fill_(torch.ones_like(logits, dtype=torch.bool).triu_(1), -torch.inf)
    expected = logits.softmax(-1) @ v.float().repeat_interleave(group, 1)
    errors = {}
    for name in kernels:
        output, lse = causal.KERNELS[name](q, k, v, scale)
        errors[name] = {"output": difference(output, expected), "lse": difference(lse, logits.logsumexp(-1))}
    return errors


def difference(found: Tensor, expected: Tensor) -> float:
    return float((found.float() - expected.float()).abs().max())


def flash4_windowed(q: Tensor, k: Tensor, v: Tensor, scale: float, window: int) -> Tensor:
    """[`windowed_attention`] by FlashAttention 4."""
    from flash_attn.cute import flash_attn_func

    q, k, v = (tensor.transpose(1, 2) for tensor in (q, k, v))
    output, _ = flash_attn_func(q, k, v, softmax_scale=scale, causal=True, window_size=(window - 1, 0))
    attended: Tensor = output.transpose(1, 2)
    return attended


def measured(shape: Shape, kernels: Sequence[str], tokens: int, sustained: bool) -> dict[str, Any]:
    """Milliseconds of everything, and of the attention alone at the power limit.

    Raises:
        ValueError: two span focuses, or two windowed attentions, differ.
    """
    q, k, v = random_heads(shape, tokens)
    grid, scale = SpanGrid(tokens, LadmConfig(max_length=tokens)), shape.head_dim**-0.5
    runs: dict[str, Callable[[], Any]] = {name: partial(causal.KERNELS[name], q, k, v, scale) for name in kernels}
    _, lse = runs[kernels[0]]()
    beside = {"span_focus": partial(fused.span_focus, q, k, grid, scale, lse)}
    found: dict[str, Any] = {}
    if "hopper" in kernels:
        runs["hopper+focus"] = partial(hopper.attention, q, k, v, scale, grid)
        own, other = runs["hopper+focus"]()[2], beside["span_focus"]()
        found["focus_difference"] = between_focuses(own, other)
    alone = causal.focus_alone(q, k, scale, grid)
    if alone is not None:
        beside |= {
            "last_triton": partial(fused.span_focus, q, k, grid, scale),
            "last": partial(causal.focus_alone, q, k, scale, grid),
        }
        found["last_difference"] = between_focuses(alone, beside["last_triton"]())
    if shape.window is not None:
        beside["windowed"] = partial(windowed_attention, q, k, v, scale, shape.window)
        if "flash4" in kernels:
            beside["flash4_windowed"] = partial(flash4_windowed, q, k, v, scale, shape.window)
            error = difference(beside["flash4_windowed"](), beside["windowed"]())
            found["windowed_difference"] = within(error, causal.TRIAL_TOLERANCE)
    found["in_turns"] = timed(runs | beside, "in_turns")
    if sustained:
        found["sustained"] = timed(runs, "sustained")
        found["sustained_on"] = clock_and_power()
    return found


def between_focuses(found: Tensor, expected: Tensor) -> float:
    return within(float((found - expected).norm() / expected.norm()), FOCUS_TOLERANCE)


def within(error: float, tolerance: float) -> float:
    # not a number is not within either
    if not error <= tolerance:
        raise ValueError(f"kernels differ by {error:.1e}, more than {tolerance:.0e}")
    return error


def timed(runs: dict[str, Callable[[], Any]], manner: str) -> dict[str, dict[str, float]]:
    """Milliseconds of one call, over several in a row: median, least and most over the rounds."""
    calls = [max(1, round(ROUND_MS[manner] / (1e3 * seconds(run, 3)))) for run in runs.values()]

    def repeated(run: Callable[[], Any], count: int) -> None:
        for _ in range(count):
            run()

    rows = [partial(repeated, run, count) for run, count in zip(runs.values(), calls, strict=True)]
    took = 1e3 * rounds_in_turns(*rows, rounds=ROUNDS[manner]) / calls
    ms, least, most = np.quantile(took, (0.5, 0, 1), axis=0).round(4).tolist()
    return {name: {"ms": ms[i], "least": least[i], "most": most[i]} for i, name in enumerate(runs)}


def clock_and_power() -> dict[str, float]:
    query = ["nvidia-smi", "-i", "0", "--query-gpu=clocks.sm,power.draw", "--format=csv,noheader,nounits"]
    clock, power = subprocess.run(query, capture_output=True, text=True, check=True).stdout.split(",")
    return {"mhz": float(clock), "watts": float(power)}


def packages() -> dict[str, str]:
    """Versions of FlashAttention 4 and of the compiler that it uses."""
    found = {found.name: found.version for found in importlib.metadata.distributions()}
    return {name: found[name] for name in sorted(found) if name.startswith(PACKAGES)}


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/attention.json"))
    parser.add_argument("names", nargs="*", help=f"default: all of {', '.join(SHAPES)}")
    options = parser.parse_args()
    result: dict[str, Any] = {"environment": environment() | {"packages": packages()}, "rounds": ROUNDS, "shapes": {}}
    failed = []
    for name in options.names or SHAPES:
        shape = SHAPES[name]
        kernels = kernels_of(shape)
        row = shape._asdict() | {"parity": parity(shape, kernels), "times": {}}
        result["shapes"][name] = row
        if all(error <= causal.TRIAL_TOLERANCE for errors in row["parity"].values() for error in errors.values()):
            for tokens in LENGTHS:
                row["times"][str(tokens)] = measured(shape, kernels, tokens, tokens == max(LENGTHS))
                torch.cuda.empty_cache()
        else:
            failed.append(name)
        print(f"{name}: {json.dumps(row)}", flush=True)
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(render_attention(result))
    if failed:
        raise SystemExit(f"parity failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
