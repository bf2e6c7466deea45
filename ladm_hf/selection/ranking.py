"""Which rows a strategy keeps: ranking within domains, division of the budget, and the cut. Arrays only.

`N` rows of the pool, of which `E` have a score; `D` domains; `G = D x bands` strata, each ranked by itself. Without
length bands a stratum is a domain.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ladm_hf.arrays import Bools, Floats, Ints
from ladm_hf.data.columns import column
from ladm_hf.errors import ColumnError, ConfigError
from ladm_hf.selection.pool import Pool


@dataclass(frozen=True)
class Ranking:
    """The rows that have a score, sorted by stratum, and in each from the best rank to the worst.

    Attributes:
        rows (`int64` array `[E]`): row numbers in the pool.
        stratum (`int64` array `[E]`): `domain * num_bands + band`.
        score (`float64` array `[E]`): their scores.
        tokens (`int64` array `[E]`): their tokens.
        num_domains (`int`): `D`.
        num_bands (`int`): length bands, 1 where there are none.
    """

    rows: Ints
    stratum: Ints
    score: Floats
    tokens: Ints
    num_domains: int
    num_bands: int

    @property
    def counts(self) -> Ints:
        """`[G]`, documents in each stratum."""
        return np.bincount(self.stratum, minlength=self.num_domains * self.num_bands).astype(np.int64)

    @property
    def position(self) -> Ints:
        """`[E]`, rank within the stratum, from 0."""
        counts = self.counts
        starts: Ints = np.cumsum(counts) - counts
        position: Ints = np.arange(len(self.rows), dtype=np.int64) - starts[self.stratum]
        return position

    @property
    def token_sums(self) -> Ints:
        """`[G]`, tokens in each stratum."""
        # before[e] is the sum over the e first rows of all strata
        before = np.concatenate([[0], np.cumsum(self.tokens)])
        ends = np.cumsum(self.counts)
        sums: Ints = before[ends] - before[ends - self.counts]
        return sums

    @property
    def running_tokens(self) -> Ints:
        """`[E]`, tokens of the stratum up to and with this row."""
        counts = self.counts
        running = np.cumsum(self.tokens)
        before = np.concatenate([[0], running])[np.cumsum(counts) - counts]
        within: Ints = running - before[self.stratum]
        return within

    def reordered(self, key: Floats) -> Ranking:
        """The same rows ranked by another key, higher first."""
        order = np.lexsort((-key, self.stratum))
        columns = self.rows[order], self.stratum[order], self.score[order], self.tokens[order]
        return Ranking(*columns, self.num_domains, self.num_bands)


def rank(pool: Pool, *, length_bands: int | list[int] | None, ties: str | None, ascending: bool = False) -> Ranking:
    """Ranks the rows of a pool that have a score.

    Args:
        pool ([`Pool`]): the rows.
        length_bands (`int` or `list[int]`, *optional*): number of bands, or the token counts that divide them.
        ties (`str`, *optional*): column that orders equal scores before the row number.
        ascending (`bool`): the lowest score ranks first.

    Raises:
        ColumnError: the column `ties` is missing or cannot be sorted.
    """
    rows = np.flatnonzero(pool.eligible)
    code, score, tokens = pool.code[rows], pool.score[rows], pool.tokens[rows]
    band, num_bands = _bands(code, tokens, len(pool.domains), length_bands)
    stratum = code * num_bands + band
    keys = [score if ascending else -score, stratum]
    if ties is not None:
        keys.insert(0, _tie_rank(pool, ties)[rows])
    # lexsort is stable, so that what is still equal keeps the order of the rows
    order = np.lexsort(tuple(keys))
    return Ranking(rows[order], stratum[order], score[order], tokens[order], len(pool.domains), num_bands)


def _tie_rank(pool: Pool, ties: str) -> Ints:
    """Ranks in which equal values are equal, and leave the decision to the row number."""
    values = column(pool.dataset, ties)
    if not len(values):
        return np.empty(0, dtype=np.int64)
    try:
        # not pandas', which takes large integers beside a null for doubles
        ranks: Ints = pc.rank(values, sort_keys="ascending", tiebreaker="dense").to_numpy().astype(np.int64)
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ColumnError(f"column {ties!r} holds {values.type}, which cannot order ties: {error}") from error
    return ranks


def _bands(code: Ints, tokens: Ints, num_domains: int, bands: int | list[int] | None) -> tuple[Ints, int]:
    """The length band of each row, and how many there are. It depends on the row's length and domain alone."""
    if bands is None:
        return np.zeros(len(code), dtype=np.int64), 1
    if isinstance(bands, list):
        return np.searchsorted(bands, tokens, side="right").astype(np.int64), len(bands) + 1
    order = np.lexsort((tokens, code))
    sorted_code, sorted_tokens = code[order], tokens[order]
    counts = np.bincount(code, minlength=num_domains)
    starts = np.cumsum(counts) - counts
    new = np.ones(len(code), dtype=bool)
    new[1:] = (sorted_code[1:] != sorted_code[:-1]) | (sorted_tokens[1:] != sorted_tokens[:-1])
    # documents of one length share the band of the first of them
    first = np.maximum.accumulate(np.where(new, np.arange(len(code)), 0)) - starts[sorted_code]
    band = np.empty(len(code), dtype=np.int64)
    band[order] = first * bands // counts[sorted_code]
    return band, bands


@dataclass(frozen=True)
class Budgets:
    """How a token budget is divided.

    Attributes:
        share (`list[float]` `[D]`): part of the budget before redistribution, adding up to 1.
        first (`list[int]` `[D]`): tokens by share alone.
        final (`list[int]` `[D]`): tokens once what small domains cannot fill went to the others.
        strata (`int64` array `[G]`): tokens of each stratum.
    """

    share: list[float]
    first: list[int]
    final: list[int]
    strata: Ints


def divide(budget: int, shares: str | dict[str, float], domains: list[str], ranking: Ranking) -> Budgets:
    """Divides a budget over domains by their shares, and over the length bands of each by their tokens.

    Raises:
        ConfigError: `shares` names a domain that is not there.
    """
    sums = ranking.token_sums.reshape(-1, ranking.num_bands).tolist()
    capacity = [sum(bands) for bands in sums]
    if shares == "proportional":
        weights = [Fraction(tokens) for tokens in capacity]
    elif shares == "equal":
        weights = [Fraction(1)] * len(domains)
    else:
        assert isinstance(shares, dict)
        unknown = sorted(set(shares) - set(domains))
        if unknown:
            raise ConfigError(
                f"shares name the domain {unknown[0]!r}, but the pool's are {', '.join(map(repr, domains))}"
            )
        weights = [Fraction(shares.get(name, 0)) for name in domains]
    whole = sum(weights)
    first = [int(budget * weight / whole) if whole else 0 for weight in weights]
    final = _fill(budget, weights, capacity)
    strata = [
        final[d] * tokens // capacity[d] if capacity[d] else 0 for d, bands in enumerate(sums) for tokens in bands
    ]
    share = [float(weight / whole) if whole else 0.0 for weight in weights]
    return Budgets(share, first, final, np.array(strata, dtype=np.int64))


def _fill(budget: int, weights: list[Fraction], capacity: list[int]) -> list[int]:
    """Parts of the budget in proportion to the weights, none above its capacity."""
    final = [0] * len(weights)
    weighted = [d for d, weight in enumerate(weights) if weight]
    rest = sum((weights[d] for d in weighted), Fraction(0))
    # those that fill up first come first; once one does not fill up, none after it does
    for d in sorted(weighted, key=lambda d: capacity[d] / weights[d]):
        final[d] = min(capacity[d], int(budget * weights[d] / rest))
        if final[d] == capacity[d]:
            budget -= capacity[d]
            rest -= weights[d]
    return final


Kept = tuple[Ints, int | None]


def _exact(ranking: Ranking, options: Mapping[str, Any], budgets: Budgets | None) -> Kept:
    assert budgets is not None
    return ranking.rows[ranking.running_tokens <= budgets.strata[ranking.stratum]], None


def _percent(ranking: Ranking, options: Mapping[str, Any], budgets: Budgets | None) -> Kept:
    counts = ranking.counts
    before = np.concatenate([[0], np.cumsum(ranking.tokens)])
    starts = np.cumsum(counts) - counts
    for percent in range(1, 101):
        # the published code's arithmetic, in floating point
        taken = (counts * percent * 0.01).astype(np.int64)
        if int((before[starts + taken] - before[starts]).sum()) > options["budget_tokens"]:
            break
    return ranking.rows[ranking.position < taken[ranking.stratum]], percent


def _first_k(ranking: Ranking, options: Mapping[str, Any], budgets: Budgets | None) -> Kept:
    return ranking.rows[ranking.position < options["k"]], None


def _threshold(ranking: Ranking, options: Mapping[str, Any], budgets: Budgets | None) -> Kept:
    return ranking.rows[ranking.score >= options["min_score"]], None


def _temperature(ranking: Ranking, options: Mapping[str, Any], budgets: Budgets | None) -> Kept:
    """Sorting by logit plus Gumbel noise is drawing one by one without replacement, in proportion to `exp(logit)`."""
    counts = np.maximum(ranking.counts, 1)
    mean = np.bincount(ranking.stratum, ranking.score, len(counts)) / counts
    centred = ranking.score - mean[ranking.stratum]
    deviation = np.sqrt(np.bincount(ranking.stratum, centred**2, len(counts)) / counts)[ranking.stratum]
    z = np.divide(centred, deviation, out=np.zeros_like(centred), where=deviation > 0)
    # drawn in the order of the ranking, the noise does not depend on the order of the pool's rows
    noise = np.random.default_rng(options["seed"]).gumbel(size=len(z))
    with np.errstate(over="ignore"):
        return _exact(ranking.reordered(z / options["temperature"] + noise), options, budgets)


STRATEGIES: dict[str, Callable[[Ranking, Mapping[str, Any], Budgets | None], Kept]] = {
    "exact": _exact,
    "percent": _percent,
    "top-k": _first_k,
    "bottom-k": _first_k,
    "threshold": _threshold,
    "temperature": _temperature,
}


def tally(
    pool: Pool, ranking: Ranking, kept: Bools, budgets: Budgets | None, *, by_band: bool = False
) -> list[dict[str, Any]]:
    """Counts by domain, or by domain and length band. The records are described in [`Selection`]."""
    group = ranking.stratum if by_band else ranking.stratum // ranking.num_bands
    size = ranking.num_domains * (ranking.num_bands if by_band else 1)
    chosen = kept[ranking.rows]

    def count(where: Bools | slice) -> list[int]:
        counted: list[int] = np.bincount(group[where], minlength=size).tolist()
        return counted

    def total(where: Bools | slice, values: Any) -> list[Any]:
        summed: list[Any] = np.bincount(group[where], values[where], minlength=size).tolist()
        return summed

    everything = slice(None)
    scored, scored_tokens = count(everything), total(everything, ranking.tokens)
    picked, picked_tokens = count(chosen), total(chosen, ranking.tokens)
    score_sums, picked_sums = total(everything, ranking.score), total(chosen, ranking.score)
    lowest = np.full(size, np.inf)
    np.minimum.at(lowest, group[chosen], ranking.score[chosen])
    shortest, longest = np.full(size, np.iinfo(np.int64).max), np.zeros(size, dtype=np.int64)
    np.minimum.at(shortest, group, ranking.tokens)
    np.maximum.at(longest, group, ranking.tokens)
    documents = np.bincount(pool.code, minlength=ranking.num_domains).tolist()
    tokens = np.bincount(pool.code, np.maximum(pool.tokens, 0), minlength=ranking.num_domains).tolist()
    records = []
    for g in range(size):
        d, band = divmod(g, ranking.num_bands) if by_band else (g, 0)
        record: dict[str, Any] = {"domain": pool.domains[d]}
        if by_band:
            if not scored[g]:
                continue
            record |= {"band": band, "min_tokens": int(shortest[g]), "max_tokens": int(longest[g])}
            budget = int(budgets.strata[g]) if budgets else None
        else:
            record |= {
                "documents": documents[d],
                "tokens": int(tokens[d]),
                "share": budgets.share[d] if budgets else None,
                "shortfall_tokens": max(0, budgets.first[d] - budgets.final[d]) if budgets else None,
            }
            budget = budgets.final[d] if budgets else None
        records.append(
            record
            | {
                "scored_documents": scored[g],
                "scored_tokens": int(scored_tokens[g]),
                "budget_tokens": budget,
                "selected_documents": picked[g],
                "selected_tokens": int(picked_tokens[g]),
                "threshold": float(lowest[g]) if picked[g] else None,
                "mean_score": score_sums[g] / scored[g] if scored[g] else None,
                "mean_selected_score": picked_sums[g] / picked[g] if picked[g] else None,
            }
        )
    return records
