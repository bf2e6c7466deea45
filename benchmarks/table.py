"""Renders what was measured on GPUs as Markdown: files that `gpu.py`, `shapes.py` and `attention.py` wrote.

python benchmarks/table.py benchmarks/results/h200.json     # of gpu.py
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

VARIANTS = {
    "plain_flash": "plain transformers forward, SDPA flash",
    "plain_cudnn": "plain transformers forward, SDPA cuDNN",
    "model_forward_naive": "the model's own forward + materialised softmax",
    "model_forward_exact": "the model's own forward + exact prefix pass",
    "model_forward_lse": "the model's own forward + log-sum-exp reused",
    "model_forward_focus": "the model's own forward + span focus inside the attention",
    "engine_unscored_whole": "our forward, unscored, to the end of the last layer",
    "engine_unscored": "our forward, unscored, to the last layer's queries and keys",
    "engine": "**our forward, scored**",
}


def render(result: dict[str, Any]) -> str:
    """The Markdown of one result file."""
    env, times = result["environment"], result["seconds"]
    lengths = sorted({length for row in times.values() for length in row}, key=int)
    rows = [(label, times[name]) for name, label in VARIANTS.items() if name in times]
    rows += [(f"in full batches: {VARIANTS[name]}", row) for name, row in result.get("seconds_in_batches", {}).items()]
    lines = [
        f"One {env['device']}, fp16, TinyLlama-1.1B shape with random weights, seconds a document "
        f"(torch {env['torch']}, cuDNN {env['cudnn']}, Triton {env['triton']}, transformers {env['transformers']}):",
        "",
        "| T | " + " | ".join(f"{int(length):,}" for length in lengths) + " |",
        "|---" * (len(lengths) + 1) + "|",
    ]
    for label, row in rows:
        cells = (f"{row[length]:.4f}" if length in row else "" for length in lengths)
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    lines += ["", *_sentences(result)]
    return "\n".join(lines) + "\n"


def _sentences(result: dict[str, Any]) -> list[str]:
    lines = []
    for dtype in ("float16", "bfloat16"):
        if steady := result.get(f"steady_{dtype}"):
            lines.append(
                f"- Steady state at 32,768 tokens, {dtype}: {steady['scored']:.3f} s a document from token ids to "
                f"score ({steady['tokens_per_second']:,.0f} tokens/s). Scoring adds {steady['scoring_adds']:.1%} to "
                f"our own forward cut at the same place, {steady['scoring_adds_to_whole_forward']:+.1%} to a whole one."
            )
    if batches := result.get("seconds_in_batches"):
        ratios = (
            f"{batches['engine'][length] / plain:.2f} at {int(length):,}"
            for length, plain in batches["plain_cudnn"].items()
        )
        lines.append(
            "- In full batches, a scored document beside the plain forward with cuDNN attention: "
            f"{', '.join(ratios)} tokens."
        )
    if memory := result.get("memory"):
        lines.append(
            f"- Peak memory of 4 documents of 32,768 tokens, weights included: {memory['ratio']:.2f} of the plain "
            "forward's."
        )
    if mixed := result.get("mixed_stream"):
        lines.append(
            f"- A stream of {mixed['documents']} documents of 2k to 32k tokens, log-uniform: {mixed['padding']:.1%} "
            f"padding, {mixed['share_of_predicted']:.0%} of the throughput that equal lengths predict, "
            f"{mixed['tokens_per_second']:,.0f} tokens/s."
        )
    if first := result.get("first_document"):
        lines.append(
            f"- A fresh process with nothing compiled: {first['load']:.1f} s to load, {first['first']:.1f} s for the "
            f"first document, {first['second']:.2f} s for the second, {first['first_of_another_length']:.2f} s for "
            f"the first of another length ({first['again']:.2f} s once more)."
        )
    if "nano" in result:
        lines += render_nano(result).splitlines()
    if "batch_invariance" in result:
        lines.append(
            f"- Parity with the golden scores: {result['parity']['worst_fp32']:.1e} relative at worst in fp32; fp16 "
            "and bf16 within twice the error of plain PyTorch. One document in ten different batches: spread "
            f"{result['batch_invariance']['spread']:.0e}."
        )
    return lines


def render_nano(result: dict[str, Any]) -> str:
    """Documents of 8,192 tokens a second by ladm-nano."""
    environment = result["environment"]
    return "\n".join(
        f"- ladm-nano {environment['ladm_hf']} at 8,192 tokens, {name.replace('_', ' ')}, one {environment['device']}: "
        f"{row['documents_per_second']:,.0f} documents/s; {row['share_in_own_kernels']:.0%} of the GPU's time in our "
        f"own kernels, {row['share_in_scoring']:.0%} in those of the score alone."
        for name, row in result["nano"].items()
    )


def render_shapes(result: dict[str, Any]) -> str:
    """Times of every shape that was timed, and the ratio to the better plain forward pass over all of them."""
    environment, rows = result["environment"], result["shapes"]
    lines = [
        f"One {environment['device']}, bfloat16, random weights, seconds a document of {result['tokens']:,} tokens "
        f"(torch {environment['torch']}, cuDNN {environment['cudnn']}, transformers {environment['transformers']}).",
        "",
        "| shape | head size | layers scored | attention | plain, flash | plain, cuDNN | ours "
        "| attention and products | ratio | scoring adds |",
        "|---" * 10 + "|",
    ]
    for name, row in rows.items():
        if "ours" in row:
            plain = (f"{row[key]:.3f}" if row[key] else "out of memory" for key in ("plain_flash", "plain_cudnn"))
            ratio = f"{row['ratio']:.2f}" if row["ratio"] else ""
            parts = row.get("profile", {})
            share = (parts["attention"] + parts["matrix products"]) / sum(parts.values()) if parts else None
            lines.append(
                f"| {name} | {row['head_dim']} | {row['layers']} of {row['of_layers']} | {row['attention']} | "
                f"{' | '.join(plain)} | {row['ours']:.3f} | {'' if share is None else f'{share:.0%}'} | {ratio} | "
                f"{row['scoring_adds']:+.1%} |"
            )
    lines.append("")
    ratios = [row["ratio"] for row in rows.values() if row.get("ratio")]
    if ratios:
        lines.append(f"- Ratio: {max(ratios):.2f} at most, {statistics.median(ratios):.2f} in the median.")
    if alone := [name for name, row in rows.items() if "ours" in row and "parity" not in row]:
        lines.append(f"- Compared with the model's own pass, but not with float32 at full width: {', '.join(alone)}.")
    return "\n".join(lines)


def render_float8(result: dict[str, Any]) -> str:
    """Times in float8 beside bfloat16."""
    lines = [
        f"One {result['environment']['device']}, random weights, seconds a scored document.",
        "",
        "| shape | tokens | bfloat16 | float8 | ratio |",
        "|---|---|---|---|---|",
    ]
    for name, rows in result["shapes"].items():
        for tokens, row in rows.items():
            ratio = row["float8"] / row["bfloat16"]
            lines.append(f"| {name} | {int(tokens):,} | {row['bfloat16']:.3f} | {row['float8']:.3f} | {ratio:.2f} |")
    return "\n".join(lines)


def render_attention(result: dict[str, Any]) -> str:
    """Times of attention kernels by shape and length, and what the span focus adds beside them and in our own."""
    environment, kernels = result["environment"], {"cudnn": "cuDNN", "flash4": "FlashAttention 4", "hopper": "ours"}
    lines = [
        f"One {environment['device']}, bfloat16, milliseconds of causal attention (TFLOP/s) and of the span focus "
        f"(torch {environment['torch']}, cuDNN {environment['cudnn']}, Triton {environment['triton']}, "
        f"flash-attn-4 {environment['packages'].get('flash-attn-4', 'not installed')}).",
        "",
        f"| shape | heads / KV heads | head size | tokens | {' | '.join(kernels.values())} "
        "| focus beside the first two | focus in ours |",
        "|---" * 9 + "|",
    ]
    for name, row in result["shapes"].items():
        for tokens, found in row["times"].items():
            ms = _medians(found["in_turns"])
            # of the two products over the causal half
            work = 2 * int(tokens) ** 2 * row["heads"] * row["head_dim"] / 1e9
            cells = [f"{ms[kernel]:.3f} ({work / ms[kernel]:.0f})" if kernel in ms else "" for kernel in kernels]
            inside = f"{ms['hopper+focus'] - ms['hopper']:+.3f}" if "hopper" in ms else ""
            lines.append(
                f"| {name} | {row['heads']} / {row['kv_heads']} | {row['head_dim']} | {int(tokens):,} | "
                f"{' | '.join(cells)} | {ms['span_focus']:+.3f} | {inside} |"
            )
    return "\n".join([*lines, "", *_beside_flash4(result)])


def _medians(times: dict[str, Any]) -> dict[str, float]:
    return {name: row["ms"] for name, row in times.items()}


def _beside_flash4(result: dict[str, Any]) -> list[str]:
    """Our kernel's share of FlashAttention 4's time, with the focus and at the power limit; times in a window."""
    focused: dict[str, list[float]] = {}
    alone: dict[str, list[float]] = {"in_turns": [], "sustained": []}
    states, lines = [], []
    for name, row in result["shapes"].items():
        for tokens, found in row["times"].items():
            ms = _medians(found["in_turns"])
            if {"flash4", "hopper"} <= ms.keys():
                beside = ms["flash4"] + ms["span_focus"]
                focused.setdefault(tokens, []).append(ms["hopper+focus"] / beside)
                if "sustained" in found:
                    states.append(found["sustained_on"])
                    for manner, ratios in alone.items():
                        times = _medians(found[manner])
                        ratios.append(times["hopper"] / times["flash4"])
            if "last" in ms:
                lines.append(
                    f"- The last layer ({name}, {int(tokens):,} tokens): {ms['last_triton']:.3f} ms for the span focus "
                    f"alone in Triton, {ms['last']:.3f} in ours."
                )
            if "flash4_windowed" in ms:
                lines.append(
                    f"- A window of {row['window']} ({name}, {int(tokens):,} tokens): {ms['windowed']:.3f} ms in "
                    f"PyTorch's FlashAttention, {ms['flash4_windowed']:.3f} in FlashAttention 4."
                )
    if states:
        by_length = ", ".join(f"{_range(ratios)} at {int(tokens):,} tokens" for tokens, ratios in focused.items())
        watts, clock = (_range([state[key] for state in states], ",.0f") for key in ("watts", "mhz"))
        brief, long = (result["rounds"][manner] for manner in alone)
        lines[:0] = [
            "- With the span focus, ours takes this share of the time of FlashAttention 4 and the Triton kernel: "
            f"{by_length}.",
            f"- Attention alone, at the longer length: {_range(alone['in_turns'])} of FlashAttention 4's time ({brief} "
            f"rounds), and {_range(alone['sustained'])} when it runs for long enough to meet the power limit "
            f"({long} rounds; {watts} W, {clock} MHz).",
        ]
    return lines


def _range(values: list[float], digits: str = ".2f") -> str:
    return f"{min(values):{digits}} to {max(values):{digits}}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path, help="JSON written by benchmarks/gpu.py")
    print(render(json.loads(parser.parse_args().result.read_text())), end="")


if __name__ == "__main__":
    main()
