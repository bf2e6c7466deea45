"""How well a score tells two kinds apart, and how it goes with length: area under the curve and rank correlation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

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
        `{"all": ..., "within_domain": ...}`, each in -1..1, NaN for fewer than 3 documents or where all are alike.
    """
    size = int(codes.max(initial=-1)) + 1
    rho, counts = correlation_by_group(score, tokens, codes.astype(np.int64), size), np.bincount(codes, minlength=size)
    defined = np.isfinite(rho)
    mean = float(np.average(rho[defined], weights=counts[defined])) if defined.any() else math.nan
    return {"all": _correlation(score, tokens), "within_domain": mean}


def spearman(x: npt.ArrayLike, y: npt.ArrayLike) -> float:
    """Spearman's rank correlation, in -1..1; NaN for fewer than 2 values or where all are alike."""
    values = np.asarray(x)
    if len(values) < 2:
        return math.nan
    # pandas' own method="spearman" needs SciPy
    with np.errstate(invalid="ignore"):  # older pandas lets NumPy warn of values that are all alike
        return float(pd.Series(values).rank().corr(pd.Series(np.asarray(y)).rank()))


def _correlation(score: Floats, tokens: Ints) -> float:
    # two documents are always in perfect order
    return spearman(score, tokens) if len(score) > 2 else math.nan


def correlation_by_group(x: Floats, y: Floats | Ints, group: Ints, size: int) -> Floats:
    """Spearman's rank correlation of `x` and `y` within each group.

    Args:
        x, y (arrays `[N]`): values.
        group (`int` array `[N]`): number of the group of each.
        size (`int`): how many groups there are.

    Returns:
        `float64` array `[size]`, in -1..1; NaN for fewer than 3 values or where all are alike.
    """
    counts = np.bincount(group, minlength=size)
    middle = ((counts + 1) / 2)[group]
    # ranks from 1 in each group, equal values sharing the mean of theirs
    a, b = (pd.Series(values).groupby(group).rank().to_numpy() - middle for values in (x, y))
    covariance, var_a, var_b = (np.bincount(group, product, size) for product in (a * b, a * a, b * b))
    found = np.full(size, np.nan)
    np.divide(covariance, np.sqrt(var_a * var_b), out=found, where=(counts > 2) & (var_a > 0) & (var_b > 0))
    return found
