"""Which rows a strategy keeps: ranking within domains, division of the budget, and the cut. Arrays only.

`N` rows of the pool, of which `E` are eligible; `D` domains; `G = D x bands` strata, each ranked by itself. Without
length bands, see `bands`, a stratum is a domain.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ladm_hf.arrays import Floats, Ints
from ladm_hf.data.columns import column
from ladm_hf.errors import ColumnError, ConfigError
from ladm_hf.selection.bands import length_band, united
from ladm_hf.selection.pool import Pool


@dataclass(frozen=True)
class Ranking:
    """The rows that have a score, sorted by stratum, and in each from the best rank to the worst.

    Attributes:
        rows (`int64` array `[E]`): row numbers in the pool.
        stratum (`int64` array `[E]`): `domain * num_bands + band`.
        score (`float64` array `[E]`): their scores.
        percentile (`float64` array `[E]`): ranks of the scores within domain and length band, 0 to 100.
        tokens (`int64` array `[E]`): their tokens.
        num_domains (`int`): `D`.
        num_bands (`int`): length bands, 1 where there are none.
        united (`int64` array `[G]`): bands that were united in each stratum, 1 where none was, 0 where it is empty.
    """

    rows: Ints
    stratum: Ints
    score: Floats
    percentile: Floats
    tokens: Ints
    num_domains: int
    num_bands: int
    united: Ints

    @property
    def domain(self) -> Ints:
        """`[E]`, the domain of each row."""
        domain: Ints = self.stratum // self.num_bands
        return domain

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
        return Ranking(
            self.rows[order], self.stratum[order], self.score[order], self.percentile[order], self.tokens[order],
            self.num_domains, self.num_bands, self.united,
        )  # fmt: skip


def rank(
    pool: Pool,
    *,
    percentile: Floats,
    length_bands: int | list[int] | str,
    ties: str | None,
    ascending: bool = False,
    budgets: Budgets | None = None,
) -> Ranking:
    """Ranks the rows of a pool that have a score and do not repeat themselves too much.

    Args:
        pool ([`Pool`]): the rows.
        percentile (`float64` array `[N]`): of each row that is ranked, within domain and length band.
        length_bands (`int`, `list[int]` or `str`): see [`length_band`]; `"auto"` ranks domains by percentile, and what
            is equal there by score.
        ties (`str`, *optional*): column that orders equal scores before the row number.
        ascending (`bool`): the lowest score ranks first.
        budgets ([`Budgets`], *optional*): the domains' budgets, by which narrow bands are united.

    Raises:
        ColumnError: the column `ties` is missing or cannot be sorted.
    """
    rows = np.flatnonzero(pool.eligible)
    code, score, tokens = pool.code[rows], pool.score[rows], pool.tokens[rows]
    by_percentile = length_bands == "auto"
    band, num_bands = length_band(code, tokens, len(pool.domains), "off" if by_percentile else length_bands)
    stratum = code * num_bands + band
    unites = np.minimum(np.bincount(stratum, minlength=len(pool.domains) * num_bands), 1)
    if budgets is not None and num_bands > 1:
        stratum, unites = united(stratum, tokens, num_bands, budgets.final, budgets.capacity)
    keys = [score if ascending else -score, *([-percentile[rows]] if by_percentile else []), stratum]
    if ties is not None:
        keys.insert(0, _tie_rank(pool, ties)[rows])
    # lexsort is stable, so that what is still equal keeps the order of the rows
    order = np.lexsort(tuple(keys))
    rows = rows[order]
    return Ranking(
        rows, stratum[order], score[order], percentile[rows], tokens[order], len(pool.domains), num_bands, unites
    )


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


@dataclass(frozen=True)
class Budgets:
    """How a token budget is divided over domains.

    Attributes:
        share (`list[float]` `[D]`): part of the budget before redistribution, adding up to 1.
        first (`list[int]` `[D]`): tokens by share alone.
        final (`list[int]` `[D]`): tokens once what small domains cannot fill went to the others.
        capacity (`list[int]` `[D]`): tokens of the scored documents, which `final` does not pass.
    """

    share: list[float]
    first: list[int]
    final: list[int]
    capacity: list[int]


def divide(budget: int, shares: str | dict[str, float], pool: Pool) -> Budgets:
    """Divides a budget over domains by their shares.

    Raises:
        ConfigError: `shares` names a domain that is not there.
    """
    domains, usable = pool.domains, pool.eligible
    sums = np.zeros(len(domains), dtype=np.int64)
    np.add.at(sums, pool.code[usable], pool.tokens[usable])
    capacity: list[int] = sums.tolist()
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
    share = [float(weight / whole) if whole else 0.0 for weight in weights]
    return Budgets(share, first, _fill(budget, weights, capacity), capacity)


def parts(ranking: Ranking, budgets: Budgets) -> Ints:
    """`[G]`, the part of each stratum in its domain's budget, in proportion to its tokens, rounded down."""
    sums = ranking.token_sums.reshape(-1, ranking.num_bands).tolist()
    found = [
        budgets.final[d] * tokens // budgets.capacity[d] if budgets.capacity[d] else 0
        for d, bands in enumerate(sums)
        for tokens in bands
    ]
    return np.array(found, dtype=np.int64)


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
    """Fills the parts of each domain from its longest band to its shortest, which gets what the longer one left."""
    assert budgets is not None
    part, counts, running = parts(ranking, budgets), ranking.counts, ranking.running_tokens
    ends = np.cumsum(counts)
    keep = np.zeros(len(counts), dtype=np.int64)
    left = 0
    for g in range(len(counts) - 1, -1, -1):
        domain, band = divmod(g, ranking.num_bands)
        if band == ranking.num_bands - 1:
            # what rounding the parts left over
            left = budgets.final[domain] - int(part[domain * ranking.num_bands : g + 1].sum())
        allowed = int(part[g]) + left
        within = running[ends[g] - counts[g] : ends[g]]
        keep[g] = np.searchsorted(within, allowed, side="right")
        left = allowed - (int(within[keep[g] - 1]) if keep[g] else 0)
    return ranking.rows[ranking.position < keep[ranking.stratum]], None


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
    if options["min_percentile"] is not None:
        return ranking.rows[ranking.percentile >= options["min_percentile"]], None
    return ranking.rows[ranking.score >= options["min_score"]], None


def _temperature(ranking: Ranking, options: Mapping[str, Any], budgets: Budgets | None) -> Kept:
    """Sorting by logit plus Gumbel noise is drawing one by one without replacement, in proportion to `exp(logit)`."""
    value = ranking.score
    if options["length_bands"] == "auto":
        value = np.log(ranking.percentile / (100 - ranking.percentile))
    counts = np.maximum(ranking.counts, 1)
    mean = np.bincount(ranking.stratum, value, len(counts)) / counts
    centred = value - mean[ranking.stratum]
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
