"""What documents are ranked by, and the ranges that they must lie in: any numeric columns.

    score = "ladm_score"                                     that column, higher first
    score = {"ladm_score": 1, "ladm_token_loss": -1}         blend = sum_c |w_c| p_c / sum_c |w_c|, in 0..100
    keep = {"ladm_compression": ("20%", "80%")}              low <= value <= high

`p_c` is the percentile of column `c` within domain and length band (see `percentile`) for a weight above 0, and 100
minus it for one below 0, where lower is better. A bound in percent is that quantile of the column within the domain,
linear between neighbours as in `numpy.quantile`, over the documents that have a score and do not repeat themselves; any
other bound is a value of the column. Bounds are inclusive, and all ranges look at the same documents, so that their
order does not matter.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ladm_hf.arrays import Bools, Floats, Ints
from ladm_hf.errors import ConfigError

PERCENTILE, BLEND = "ladm_percentile", "ladm_blend"
# The columns that a selection adds to all rows, the second where documents are ranked by a blend.
MEANINGS = {
    PERCENTILE: "percentile of the score among documents of like length of the domain, in 0..100, NaN if not ranked",
    BLEND: "weighted mean of the percentiles of several columns, by which documents were ranked, in 0..100",
}
Score = str | Mapping[str, float] | Sequence[str]
Bound = float | str | None
Keep = Mapping[str, tuple[Bound, Bound]] | Sequence[str]
_PERCENT = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*%")


def parse_score(score: Any) -> str | dict[str, float]:
    """A column, or the weight of each column of a blend; also from `["ladm_score=1", "ladm_context_gain=1"]`.

    Raises:
        ConfigError: it is neither.
    """
    if isinstance(score, str) and score:
        return score
    if isinstance(score, Sequence) and not isinstance(score, (str, bytes)):
        parts = list(map(str, score))
        if len(parts) == 1 and "=" not in parts[0]:
            return parse_score(parts[0])
        pairs = [_named(part, "a part of a blend is COLUMN=WEIGHT") for part in parts]
        if len({name for name, _ in pairs}) < len(pairs):
            raise ConfigError(f"score names a column twice: {', '.join(parts)}")
        score = dict(pairs)
    if not isinstance(score, Mapping) or not score:
        raise ConfigError(f"score must be a column or {{column: weight}}, got {score!r}")
    weights = {str(name): _number(weight) for name, weight in score.items()}
    if any(not math.isfinite(weight) or weight == 0 for weight in weights.values()):
        raise ConfigError(
            f"the weights of score must be finite numbers other than 0 (below 0: lower is better), got {dict(score)!r}"
        )
    return weights


def parse_keep(keep: Any) -> dict[str, list[Bound]] | None:
    """The range of each column as `[low, high]`, `None` for an open end; also from `["ladm_compression=20%:80%"]`.

    Raises:
        ConfigError: a bound is neither a number nor a percentage from 0 to 100, or the bounds are in the wrong order.
    """
    if keep is None or (isinstance(keep, (Mapping, Sequence)) and not keep):
        return None
    if isinstance(keep, Sequence) and not isinstance(keep, (str, bytes)):
        pairs = [_named(str(part), "a range is COLUMN=LOW:HIGH") for part in keep]
        if len({name for name, _ in pairs}) < len(pairs):
            raise ConfigError(f"keep names a column twice: {', '.join(map(str, keep))}")
        keep = dict(pairs)
    if not isinstance(keep, Mapping):
        raise ConfigError(f"keep must be {{column: (low, high)}}, got {keep!r}")
    return {str(name): _range(str(name), bounds) for name, bounds in keep.items()}


def _named(text: str, expected: str) -> tuple[str, str]:
    # the name of a column may hold an equals sign
    name, sign, value = text.rpartition("=")
    if not sign or not name:
        raise ConfigError(f"{expected}, got {text!r}")
    return name, value


def _number(value: Any) -> float:
    try:
        return math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return math.nan


def _range(column: str, bounds: Any) -> list[Bound]:
    if isinstance(bounds, str):
        bounds = bounds.split(":")
    if not isinstance(bounds, Sequence) or len(bounds) != 2:
        raise ConfigError(f"keep of {column!r} must be a low and a high bound, as in 20%:80% or 1.5:, got {bounds!r}")
    low, high = (_bound(column, bound) for bound in bounds)
    alike = isinstance(low, str) == isinstance(high, str)
    if (low is None and high is None) or (low is not None and high is not None and alike and _size(low) > _size(high)):
        raise ConfigError(f"keep of {column!r} must have a bound, the low one first, got {bounds!r}")
    return [low, high]


def _bound(column: str, bound: Any) -> Bound:
    """`"20%"` for a quantile, a number for a value, `None` for an open end."""
    if bound is None or bound == "":
        return None
    percent = _PERCENT.fullmatch(bound.strip()) if isinstance(bound, str) else None
    number = float(percent[1]) if percent else _number(bound)
    if not math.isfinite(number) or (percent and number > 100):
        raise ConfigError(f"a bound of keep is a number, or 0% to 100%; got {bound!r} for {column!r}")
    return f"{number:.15g}%" if percent else number


def _size(bound: float | str) -> float:
    return float(bound.removesuffix("%")) if isinstance(bound, str) else bound


def columns_of(score: str | Mapping[str, float], keep: Mapping[str, Any] | None) -> list[str]:
    """The columns that a score and ranges read."""
    return list(dict.fromkeys([*([score] if isinstance(score, str) else score), *(keep or ())]))


def score_column(score: str | Mapping[str, float]) -> str:
    """The column that holds what documents were ranked by."""
    return score if isinstance(score, str) else BLEND


def score_words(score: str | Mapping[str, float]) -> str:
    """What documents are ranked by, in words: `ladm_score`, or `1 ladm_score - 0.5 ladm_token_loss`."""
    if isinstance(score, str):
        return score
    terms = [f"{'-' if weight < 0 else '+'} {abs(weight):g} {name}" for name, weight in score.items()]
    return " ".join(terms).removeprefix("+ ")


def range_words(column: str, bounds: Sequence[Bound]) -> str:
    """A range in words: `ladm_compression from 20% to 80%`."""
    low, high = bounds
    parts = [f"{word} {bound if isinstance(bound, str) else f'{bound:g}'}"
             for word, bound in (("from", low), ("to", high)) if bound is not None]  # fmt: skip
    return f"{column} {' '.join(parts)}"


def outside_ranges(
    values: Mapping[str, Floats], keep: Mapping[str, Sequence[Bound]], code: Ints, candidates: Bools, num_domains: int
) -> tuple[Ints, list[str]]:
    """Which documents lie outside a range, and the first range that says so.

    Args:
        values (mapping of `str` to `float64` arrays `[N]`): the columns.
        keep (mapping): `[low, high]` of each column, as [`parse_keep`] gives it.
        code (`int64` array `[N]`): domains.
        candidates (`bool` array `[N]`): documents that quantiles are taken over.
        num_domains (`int`): `D`.

    Returns:
        `int64` array `[N]`, an index into the second, a list of reasons; -1 for a document in all ranges.
    """
    found = np.full(len(code), -1, dtype=np.int64)
    reasons: list[str] = []
    for name, (low, high) in keep.items():
        value = values[name]
        lows, highs = (_limits(bound, value, code, candidates, num_domains) for bound in (low, high))
        tests = {"no_value": ~np.isfinite(value)}
        with np.errstate(invalid="ignore"):
            tests |= {"below_range": value < lows[code], "above_range": value > highs[code]}
        for reason, fails in tests.items():
            found[fails & (found < 0)] = len(reasons)
            reasons.append(f"{reason}: {name}")
    return found, reasons


def _limits(bound: Bound, value: Floats, code: Ints, candidates: Bools, num_domains: int) -> Floats:
    """`[D]`, the bound of each domain; NaN, which nothing is below or above, where it is open."""
    limits = np.full(num_domains, math.nan if bound is None or isinstance(bound, str) else bound)
    if isinstance(bound, str):
        usable = np.flatnonzero(candidates & np.isfinite(value))
        usable = usable[np.argsort(code[usable], kind="stable")]
        for rows in np.split(usable, np.flatnonzero(np.diff(code[usable])) + 1):
            if len(rows):
                limits[code[rows[0]]] = np.quantile(value[rows], _size(bound) / 100)
    return limits


def without_value(values: Mapping[str, Floats], names: Iterable[str]) -> tuple[Ints, list[str]]:
    """`[N]`, the first column without a finite value in each document, -1 where all have one; and the columns."""
    columns = list(names)
    found = np.full(len(values[columns[0]]), -1, dtype=np.int64)
    for n, name in enumerate(columns):
        found[~np.isfinite(values[name]) & (found < 0)] = n
    return found, columns
