"""Draws the picture of README and site: the focus maps of a natural document and of a splice, at the same scale.

    python benchmarks/focus_map.py            # docs/focus_map.png

The documents are made as those of `ladm demo`, of modules of Python's standard library, but short enough to be scored
whole; of each kind the one of median score is drawn.
Every span is set against every earlier one, where a score takes a sample. A value is the share of its attention that
the later span pays to the earlier one, times the number of spans up to there: 1 where it attends evenly to all.
"""

from __future__ import annotations

import argparse
import platform
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from ladm_hf import FocusMap, LadmScorer
from ladm_hf.checks.demo import demo_documents

PICTURE = Path(__file__).parents[1] / "docs" / "focus_map.png"
TITLES = {"natural": "one module: {}", "spliced": "pieces of eight modules"}
# Fewer than 8,192 tokens.
WINDOW_CHARS = 26_000
# Colours end here, so that both kinds are legible.
CEILING = 2.5


def median_document(rows: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    """Of an odd number of documents of a kind, the one of median score."""
    ranked = sorted((row for row in rows if row["kind"] == kind), key=lambda row: row["ladm_score"])
    return ranked[len(ranked) // 2]


def times_even(focus: FocusMap) -> np.ndarray:
    """Attention by later span (from the first on) and earlier span, over that of a span that attends evenly."""
    length = focus.span_length
    image = np.full((len(focus.pfs), focus.score.num_tokens // length), np.nan)
    rows, columns = np.nonzero(focus.key_starts >= 0)
    values = focus.pfs * focus.query_starts[:, None] / length**2
    image[rows, focus.key_starts[rows, columns] // length] = values[rows, columns]
    return image


def draw(documents: list[tuple[str, float, FocusMap]], path: Path) -> None:
    """The maps side by side, each under its title and the score."""
    figure = Figure(figsize=(9.4, 4.3), layout="constrained")
    for axes, (title, score, focus) in zip(figure.subplots(1, len(documents)), documents, strict=True):
        length, tokens = focus.span_length, focus.score.num_tokens
        drawn = axes.imshow(
            times_even(focus), cmap=colormaps["cividis"].with_extremes(bad="#EDEDED"), vmin=0, vmax=CEILING,
            aspect="auto", interpolation="nearest",
            extent=(0, tokens // length * length, focus.query_starts[-1], focus.query_starts[0] + length),
        )  # fmt: skip
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.set_title(f"{title}\nLADM score {score:.2f}", loc="left", fontsize=11)
        axes.set(xlabel="earlier span starts at token", ylabel="later span starts at token")
        axes.spines[["top", "right"]].set_visible(False)
    bar = figure.colorbar(drawn, ax=figure.axes, extend="max", pad=0.02)
    bar.set_label("attention, times an even share")
    bar.outline.set_visible(False)
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=5, help="of each kind, an odd number")
    parser.add_argument("--output", type=Path, default=PICTURE)
    options = parser.parse_args()
    scorer = LadmScorer()
    every_pair = scorer.with_config(replace(scorer.config, d_afs=1, d_cds=1))
    found = demo_documents(options.documents, window_chars=WINDOW_CHARS)
    scored = scorer(found.to_dict())
    rows = [{**row, "ladm_score": float(score)} for row, score in zip(found, scored["ladm_score"], strict=True)]
    documents = []
    for kind, title in TITLES.items():
        row = median_document(rows, kind)
        documents.append((title.format(row["name"]), row["ladm_score"], every_pair.focus_map(row["text"])))
        print(f"{kind}: {row['name']}, Python {platform.python_version()}, score {row['ladm_score']:.4g}")
    draw(documents, options.output)


if __name__ == "__main__":
    main()
