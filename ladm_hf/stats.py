"""How well a score tells two kinds apart, and how it goes with length: area under the curve and rank correlation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ladm_hf.arrays import Floats, Ints


def area_under_curve(natural: Sequence[float] | Floats, spliced: Sequence[float] | Floats) -> float:
    """Area under the ROC curve: the probability that a natural document scores above a splice, ties counted half.

    Returns:
        `float` in 0..1, 0.5 for chance; NaN where one side is empty.
    """
    high, low = np.asarray(natural, dtype=np.float64), np.asarray(spliced, dtype=np.float64)
    if not len(high) or not len(low):
        return float("nan")
    ordered = np.sort(low)
    below = np.searchsorted(ordered, high, side="left")
    upto = np.searchsorted(ordered, high, side="right")
    return float((below + upto).mean() / 2 / len(low))


def correlation_with_length(score: Floats, tokens: Ints, codes: npt.NDArray[np.int32]) -> dict[str, float]:
    """Rank correlation of score and length: over all documents, and the mean of the domains', weighted by documents.

    Args:
        score, tokens (arrays `[N]`): of each document.
        codes (`int32` array `[N]`): its domain.

    Returns:
        `{"all": ..., "within_domain": ...}`, each in -1..1, NaN as of [`spearman`].
    """
    order = np.argsort(codes, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(codes[order])) + 1)
    within = [(len(part), spearman(score[part], tokens[part])) for part in parts]
    within = [(size, rho) for size, rho in within if math.isfinite(rho)]
    total = sum(size for size, _ in within)
    mean = sum(size * rho for size, rho in within) / total if total else math.nan
    return {"all": spearman(score, tokens), "within_domain": mean}


def spearman(x: npt.NDArray[Any], y: npt.NDArray[Any]) -> float:
    """Spearman's rank correlation, in -1..1; NaN for fewer than 3 values or where all are alike."""
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return math.nan
    return float(np.corrcoef(average_ranks(x), average_ranks(y))[0, 1])


def average_ranks(values: npt.NDArray[Any]) -> Floats:
    """Ranks from 1, equal values sharing the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: Floats = (last - (counts - 1) / 2)[inverse]
    return ranks
