"""The demonstration: long documents that every machine has, against splices of unrelated ones.

Natural documents are long modules and packages of Python's own standard library, each cut to one window. Splices have
the same length but are pieces of several unrelated modules set one after another, so their later spans have nothing
far back to depend on.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from ladm_hf.report.focus_plot import focus_heatmap
from ladm_hf.report.plots import score_distribution
from ladm_hf.scoring.scorer import LadmScorer
from ladm_hf.stats import area_under_curve
from ladm_hf.training.library import library_modules

# Characters of a window: enough for 8,192 tokens of any tokenizer in use on code.
WINDOW_CHARS = 48_000
PIECES = 8


@dataclass(frozen=True)
class Demo:
    """What [`run`] made.

    Attributes:
        scored (`Dataset`): columns `name`, `kind`, `text` and the score columns.
        separation (`float`): probability that a natural document scores above a splice (the area under the ROC
            curve), 0.5 for chance.
        files (`dict[str, Path]`): figures and data written.
    """

    scored: Dataset
    separation: float
    files: dict[str, Path]


def demo_documents(count: int, seed: int = 0, window_chars: int = WINDOW_CHARS) -> Dataset:
    """`count` natural windows and as many splices, columns `name`, `kind` and `text`."""
    rng = random.Random(seed)
    library = list(library_modules())
    long = [(name, source[:window_chars]) for name, source in library if len(source) >= window_chars]
    natural = rng.sample(long, min(count, len(long)))
    rows: list[dict[str, Any]] = [{"name": name, "kind": "natural", "text": text} for name, text in natural]
    length = window_chars // PIECES
    sources = [(name, source) for name, source in library if len(source) >= length]
    for _ in natural:
        names, pieces = [], []
        for name, source in rng.sample(sources, PIECES):
            start = rng.randrange(len(source) - length + 1)
            names.append(name)
            pieces.append(source[start : start + length])
        rows.append({"name": " + ".join(names), "kind": "spliced", "text": "".join(pieces)})
    return Dataset.from_list(rows)


def run(output: Path, scorer: LadmScorer, count: int = 12) -> Demo:
    """Scores the demonstration, writes its figures and data, and says how well the score tells the kinds apart.

    Args:
        output (`Path`): folder for `scored.parquet`, `score_by_kind.png` and `focus_map.png`; made if missing.
        scorer ([`LadmScorer`]): windows are cut at 8,192 tokens, whatever its own `max_length`.
        count (`int`, *optional*, defaults to `12`): documents of each kind.
    """
    output.mkdir(parents=True, exist_ok=True)
    config = replace(scorer.config, max_length=min(8192, scorer.config.max_length))
    scorer = scorer.with_config(config)
    scored = demo_documents(count).map(scorer, batched=True, batch_size=4, desc="Scoring")
    table = scored.remove_columns("text").to_pandas()
    scores = {kind: rows["ladm_score"].dropna().tolist() for kind, rows in table.groupby("kind", sort=True)}
    separation = area_under_curve(scores["natural"], scores["spliced"])
    best = int(np.nanargmax(np.where(table["kind"] == "natural", table["ladm_score"], np.nan)))
    files = {name: output / name for name in ("scored.parquet", "score_by_kind.png", "focus_map.png")}
    scored.to_parquet(files["scored.parquet"])
    title = "Natural documents and splices of unrelated ones"
    score_distribution(scores, title=title).savefig(files["score_by_kind.png"], dpi=150)
    focus = scorer.focus_map(scored[best]["text"])
    title = f"Source of Python's {scored[best]['name']}: which span looks back at which"
    focus_heatmap(focus, title=title).savefig(files["focus_map.png"], dpi=150)
    return Demo(scored, separation, files)
