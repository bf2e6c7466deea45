"""`ladm_percentile`: the rank of a document within its domain and length band, 0 to 100; and blends of such ranks.

    percentile = 100 (documents below + (documents equal, itself included) / 2) / documents of the domain and band

the percentile rank of the textbooks (`scipy.stats.percentileofscore(kind="mean")`): 50 on average in every domain and
band and for a document that is alone, the same for equal values, and for `-value` 100 minus that of `value`. With bands
`"auto"`, which overlap, it is the weighted mean over the two bands of a document (see `bands`).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from ladm_hf.arrays import Bools, Floats, Ints
from ladm_hf.selection.bands import neighbourhoods

# Weighted sums of percentiles that agree to so many decimals are equal but for the rounding of their terms.
_DECIMALS = 9


def percentiles(values: Floats, groups: Ints) -> Floats:
    """`[E]`, the percentile of each value within its group."""
    grouped = pd.Series(values).groupby(groups)
    found: Floats = 100 * (grouped.rank().to_numpy() - 0.5) / grouped.transform("size").to_numpy()
    return found


def percentiles_of_rows(
    values: Floats, eligible: Bools, code: Ints, tokens: Ints, num_domains: int, bands: int | list[int] | str
) -> Floats:
    """The percentile of each row within domain and length band.

    Args:
        values (`float64` array `[N]`): what is ranked, higher is better.
        eligible (`bool` array `[N]`): rows that are ranked; they have finite values.
        code, tokens (`int64` arrays `[N]`): domains and lengths.
        num_domains (`int`): `D`.
        bands (`int`, `list[int]` or `str`): length bands, see [`length_band`].

    Returns:
        `float64` array `[N]`, in 0..100, NaN for rows that are not ranked.
    """
    found = np.full(len(values), np.nan)
    groups = neighbourhoods(code[eligible], tokens[eligible], num_domains, bands)
    mean = sum(weight * percentiles(values[eligible], group) for group, weight in groups)
    found[eligible] = np.round(np.asarray(mean), _DECIMALS)
    return found


def blend(ranked: Mapping[str, Floats], weights: Mapping[str, float]) -> Floats:
    """`[N]`, the weighted mean of the percentiles of several columns, 100 minus those whose weight is below 0."""
    total = sum(abs(weight) * (ranked[name] if weight > 0 else 100 - ranked[name]) for name, weight in weights.items())
    return np.round(np.asarray(total) / sum(map(abs, weights.values())), _DECIMALS)
