"""What is left of length: `select` with and without length bands on simulated domains whose scores go with length.

    python benchmarks/length.py --output benchmarks/results/length.json

A domain has `n` documents of log-normal lengths, 1,200 to 32,768 tokens, and scores whose correlation with the rank
of the length is -0.6, -0.3, 0, 0.3 or 0.6; of 40 domains of each kind a quarter of the tokens is selected. Told for
each way of `length_bands`: in how many domains the rank correlation of being kept and length lies outside 0.2, the
largest rank correlation of `ladm_percentile` and length, and the mean of what the score holds beside length, in
standard deviations, over the documents kept.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, disable_progress_bars

from ladm_hf import select

SIZES, TRENDS, DOMAINS, SHARE, LIMIT = (16, 24, 32, 64, 160, 640), (-0.6, -0.3, 0.0, 0.3, 0.6), 40, 0.25, 0.2
WAYS = {"ladm_percentile (the default)": "auto", "the score alone": "off", "four bands by hand": 4}


def pool_of(size: int, seed: int) -> tuple[Dataset, np.ndarray]:
    """One domain a trend and draw, and what each score holds beside length."""
    rng = np.random.default_rng(seed)
    rows: dict[str, list[Any]] = {"domain": [], "ladm_score": [], "ladm_num_tokens": []}
    beside = []
    for trend in TRENDS:
        for draw in range(DOMAINS):
            tokens = np.clip(np.exp(rng.normal(8.7, 0.9, size)), 1200, 32768).astype(int)
            ranks = tokens.argsort().argsort()
            own = rng.normal(size=size)
            score = trend * (ranks - ranks.mean()) / ranks.std() + math.sqrt(1 - trend**2) * own
            rows["domain"] += [f"{trend} {draw}"] * size
            rows["ladm_score"] += score.tolist()
            rows["ladm_num_tokens"] += tokens.tolist()
            beside.append(own)
    return Dataset.from_dict({"id": range(len(rows["domain"])), **rows}), np.concatenate(beside)


def measured(size: int) -> list[dict[str, Any]]:
    pool, beside = pool_of(size, size)
    budget = int(SHARE * sum(pool["ladm_num_tokens"]))
    found = []
    for name, bands in WAYS.items():
        selection = select(pool, budget_tokens=budget, length_bands=bands, max_repetition=None)
        kept = [row.kept_length_correlation for row in selection.table if row.kept_length_correlation is not None]
        percentile = [row.percentile_length_correlation or 0.0 for row in selection.table]
        found.append(
            {
                "documents": size, "way": name, "domains": len(selection.table),
                "outside": round(float(np.mean(np.abs(kept) > LIMIT)), 4),
                "percentile": round(float(np.max(np.abs(percentile))), 3),
                "kept": round(float(beside[selection.selected["id"]].mean()), 3),
                "filled": round(selection.selected_tokens / budget, 4),
            }
        )  # fmt: skip
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    disable_progress_bars()
    rows = []
    for size in SIZES:
        rows += measured(size)
        print(*rows[-len(WAYS) :], sep="\n", flush=True)
    if options.output:
        options.output.write_text(json.dumps({"share": SHARE, "limit": LIMIT, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
