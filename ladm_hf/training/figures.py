"""Figures of a calibration: what a score reaches by kind, question and objective, with intervals.

Intervals are of a bootstrap over sources: a source that is drawn twice counts twice, with all of its windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ladm_hf.arrays import Floats
from ladm_hf.training.contrasts import QUESTIONS, Comparison, Contrast, kind_figures, mean_of_known, source_draws
from ladm_hf.training.search import objective

# Draws of the bootstrap.
ROUNDS = 500
# Question and kind; a question as a whole has no kind, the objective neither.
Name = tuple[str, str]


@dataclass(frozen=True)
class Figure:
    """A value with its 95 % interval, NaN where nothing was compared."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Row:
    """One kind, question or the objective, by score: probabilities that a natural window scores higher.

    Attributes:
        question (`str`): that the kind belongs to; empty for the objective.
        kind (`str`): empty for a question as a whole, and for the objective.
        windows (`int`): that were compared with natural ones.
        choosing (`float`): of the choice, on the half that it was made on.
        chosen, all_heads, best_head ([`Figure`]): of the choice, of the paper's score and of the best single head, on
            the half that no choice has seen; 0.5 is chance.
        ahead ([`Figure`]): the choice's value less that of the paper's score.
    """

    question: str
    kind: str
    windows: int
    choosing: float
    chosen: Figure
    all_heads: Figure
    best_head: Figure
    ahead: Figure


def figure_rows(
    windows: Sequence[Contrast],
    scores: Floats,
    choosing: Sequence[Comparison],
    report: Sequence[Comparison],
    questions: dict[str, str],
) -> tuple[Row, ...]:
    """The objective, then every question with its kinds.

    Args:
        windows (sequence of [`Contrast`]): all `N` of them.
        scores (`float64` array `[N, 3]`): of the choice, all heads and the best head.
        choosing, report (sequences of [`Comparison`]): of the two halves, with the same kinds.
        questions (`dict[str, str]`): the question that each kind belongs to.
    """
    seen = _with_means(kind_figures(choosing, scores[:, :1]), questions)
    values = _with_means(kind_figures(report, scores), questions)
    drawn = _with_means(kind_figures(report, scores, source_draws(windows, report, ROUNDS)), questions)
    compared: dict[str, set[int]] = {}
    for comparison in report:
        compared.setdefault(comparison.kind, set()).update(comparison.others.tolist())
    rows = []
    for name, value in values.items():
        sample = drawn[name]
        counted = [len(members) for kind, members in compared.items() if _belongs(kind, questions[kind], name)]
        figures = [_figure(value[column], sample[:, column]) for column in range(3)]
        ahead = _figure(value[0] - value[1], sample[:, 0] - sample[:, 1])
        question, kind = name
        rows.append(Row(question, kind, sum(counted), float(seen[name][0]), figures[0], figures[1], figures[2], ahead))
    return tuple(rows)


def markdown(rows: Sequence[Row], best_head: tuple[int, int]) -> str:
    """The rows as a table of Markdown, its columns aligned for a terminal."""
    cells = [["", "windows", "chosen on", "chosen", "all heads", f"best head {best_head}"]]
    for row in rows:
        name = row.kind or row.question or "objective"
        figures = [f"{f.value:.2f} ({f.low:.2f} to {f.high:.2f})" for f in (row.chosen, row.all_heads, row.best_head)]
        cells.append([name if row.kind else f"**{name}**", f"{row.windows:,}", f"{row.choosing:.2f}", *figures])
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in cells
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def _belongs(kind: str, question: str, name: Name) -> bool:
    return name == ("", "") or name in ((question, ""), (question, kind))


def _with_means(figures: dict[str, Floats], questions: dict[str, str]) -> dict[Name, Floats]:
    """The objective, then every question with its kinds."""
    rows: dict[Name, Floats] = {("", ""): objective(figures, questions)}
    for question in QUESTIONS:
        kinds = [kind for kind in figures if questions[kind] == question]
        if kinds:
            rows[question, ""] = mean_of_known([figures[kind] for kind in kinds])
        rows |= {(question, kind): figures[kind] for kind in kinds}
    return rows


def _figure(value: float, sample: Floats) -> Figure:
    known = sample[np.isfinite(sample)]
    low, high = np.percentile(known, [2.5, 97.5]) if len(known) else (np.nan, np.nan)
    return Figure(float(value), float(low), float(high))
