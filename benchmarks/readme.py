"""Fills the tables of README, docs and model card from the results beside this script: none of it is typed by hand.

python benchmarks/readme.py            # rewrites what stands between the table markers of README, docs and card
python benchmarks/readme.py --check    # fails where these and the results differ
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from quality import domains_markdown, interval, settings_markdown, settings_of
from quality import markdown as render_quality
from table import render as render_gpu

HERE = Path(__file__).parent
ROOT = HERE.parent
CARD = ROOT / "ladm_hf" / "calculators" / "ladm_nano" / "README.md"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), CARD]


def cpu(result: dict[str, Any]) -> str:
    """Seconds, ratios and memory of one pass on a CPU."""
    lengths = sorted({row["tokens"] for row in result["rows"]})
    variants = dict.fromkeys(row["variant"] for row in result["rows"])
    cells = {(row["variant"], row["tokens"]): row for row in result["rows"]}
    lines = [
        f"`{result['model']}`, {result['dtype']}, {result['cores']} CPU cores, one document; time and peak memory "
        "beside the plain forward pass of the same model in the same run:",
        "",
        "| tokens | " + " | ".join(f"{length:,}" for length in lengths) + " |",
        "|---" * (len(lengths) + 1) + "|",
    ]
    for variant in variants:
        row = [cells[variant, length] for length in lengths]
        values = [f"{c['seconds']:.2f} s ({c['ratio']:.2f}x), {c['memory_mib']:.0f} MiB" for c in row]
        lines.append(f"| {variant} | " + " | ".join(values) + " |")
    return "\n".join(lines)


def batches(result: dict[str, Any]) -> str:
    """How far a score moves with its batch mates and with the dtype."""
    lines = ["| dtype | largest move with other batch mates | largest distance from float32 |", "|---|---|---|"]
    for row in result["rows"]:
        lines.append(f"| {row['dtype']} | {row['spread']:.0e} | {row['distance_from_float32']:.0e} |")
    return "\n".join(lines)


def runner(result: dict[str, Any]) -> str:
    """What the runner costs beside the scoring."""
    overhead, scaling, resume = result["overhead"], result["scaling"], result["resume"]
    pairs = zip(overhead["runner_seconds"], overhead["bare_seconds"], strict=True)
    ratios = [run / bare - 1 for run, bare in pairs]
    rows = {
        f"the runner beside a bare loop of the same scorer: {overhead['documents']} documents of 6,000 words, "
        f"median of {len(ratios)} pairs": f"{overhead['overhead']:+.1%} ({min(ratios):+.1%} to {max(ratios):+.1%})",
        f"two processes on two cores against one on one, {scaling['documents']} such documents": (
            f"{scaling['speedup']:.2f} times as fast"
        ),
        f"what a launch adds to scoring the last of {resume['chunks']:,} chunks": f"{resume['overhead_seconds']:.2f} s",
    } | {
        f"peak memory for {int(count):,} rows, short and long": f"{peak:.2f} GiB"
        for count, peak in result["memory"]["peak_gib"].items()
    }
    lines = [f"| `benchmarks/runner.py`, {result['cores']} cores, ladm-nano | |", "|---|---|"]
    return "\n".join(lines + [f"| {name} | {value} |" for name, value in rows.items()])


def soak(result: dict[str, Any]) -> str:
    """What a run that was killed again and again came to."""
    worlds = ", ".join(str(kill["world"]) for kill in result["kills"])
    assert result["equal_to_the_bit"]
    return (
        f"`benchmarks/soak.py`: a run over {result['documents']:,} documents, killed {len(result['kills'])} times at "
        f"random moments ({worlds} processes) and ended with {result['last_world']}, gave the rows of an uninterrupted "
        "one, in order, scores equal to the bit."
    )


def quality_summary(result: dict[str, Any]) -> str:
    """Of the quality table: the mean, how far LADM is ahead, and the seconds."""
    rows = [line.strip("| ").split("|") for line in render_quality(result).splitlines() if line.startswith("|")]
    return "\n".join(f"| {row[0].strip()} | {row[1].strip()} | {row[2].strip()} | {row[-1].strip()} |" for row in rows)


def second_seed(result: dict[str, Any]) -> str:
    """A second run of the recipe beside the calculator shipped, on the same windows."""
    (_, own), *others = result["methods"].items()
    shipped = dict(others)["LADM, ladm-nano"]
    lines = ["| setting | shipped | second seed | difference |", "|---|---|---|---|"]
    for key in [*settings_of(own), "all"]:
        ahead = interval(shipped[key]["behind_first"], "+.3f")
        shown = "mean of all" if key == "all" else key
        lines.append(f"| {shown} | {shipped[key]['auc']:.3f} | {own[key]['auc']:.3f} | {ahead} |")
    return "\n".join(lines)


def paper_recipe(result: dict[str, Any]) -> str:
    """Calculators that went through less than ladm-nano, each by its own configuration."""
    (_, first), *_ = result["methods"].items()
    names = settings_of(first)
    lines = ["| calculator | mean | " + " | ".join(names) + " |", "|---|---|" + "---|" * len(names)]
    labels = {
        "LADM, calibrated heads": "ladm-nano",
        "LADM, stage-1": "stage 1",
        "LADM, paper-recipe": "the paper's recipe",
    }
    for name, row in result["methods"].items():
        cells = [f"{row[setting]['auc']:.2f}" for setting in names]
        lines.append(f"| {labels[name]} | {interval(row['all'])} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def gpu_summary(result: dict[str, Any]) -> str:
    """Of the GPU's results: what was measured on what, and the steady state."""
    lines = render_gpu(result).strip().splitlines()
    card = lines[0].partition(", seconds a document")[0]
    return "\n".join([f"On a GPU ({card}):", "", *(line for line in lines if line.startswith("- Steady state"))])


TABLES: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {
    "cpu": ("cpu.json", cpu),
    "batches": ("batch_invariance.json", batches),
    "runner": ("runner.json", runner),
    "soak": ("soak.json", soak),
    "quality": ("quality.json", render_quality),
    "quality_settings": ("quality.json", settings_markdown),
    "quality_domains": ("quality.json", domains_markdown),
    "quality_seed": ("quality-seed2.json", second_seed),
    "quality_paper": ("quality-recipes.json", paper_recipe),
    "quality_summary": ("quality.json", quality_summary),
    "gpu": ("h200.json", render_gpu),
    "gpu_summary": ("h200.json", gpu_summary),
}


def filled(text: str) -> str:
    """A page with every table made anew."""

    def table(match: re.Match[str]) -> str:
        file, render = TABLES[match[1]]
        result = json.loads((HERE / "results" / file).read_text(encoding="utf-8"))
        return f"<!-- table: {match[1]} -->\n{render(result).strip()}\n<!-- /table -->"

    return re.sub(r"<!-- table: (\w+) -->\n.*?<!-- /table -->", table, text, flags=re.S)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        new = filled(text)
        if options.check and new != text:
            raise SystemExit(f"{page.name} and benchmarks/results differ: run python benchmarks/readme.py")
        page.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
