"""What a selection did, counted: one row for each domain, and one for each domain and length band."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from ladm_hf.arrays import Bools, Ints
from ladm_hf.selection.bands import length_band
from ladm_hf.selection.pool import Pool
from ladm_hf.selection.ranking import Budgets, Ranking, parts
from ladm_hf.stats import correlation_by_group
from ladm_hf.text import aligned, one_line


@dataclass(frozen=True, kw_only=True)
class Tally:
    """Documents and tokens of one group of the pool. Values that do not apply are `None`.

    Attributes:
        domain (`str`): its domain.
        scored_documents, scored_tokens (`int`): those that could be kept.
        selected_documents, selected_tokens (`int`): those that were kept.
        budget_tokens (`int`, *optional*): its part of the budget.
        threshold (`float`, *optional*): lowest score kept.
        mean_score, mean_selected_score (`float`, *optional*): of the scored and of the kept documents.
    """

    domain: str
    scored_documents: int
    scored_tokens: int
    selected_documents: int
    selected_tokens: int
    budget_tokens: int | None = None
    threshold: float | None = None
    mean_score: float | None = None
    mean_selected_score: float | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The row of a saved table, also of version 0.1.0, whose rows have fewer values."""
        return cls(**{field.name: values[field.name] for field in dataclasses.fields(cls) if field.name in values})

    def to_dict(self) -> dict[str, Any]:
        """The row as plain JSON values."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, kw_only=True)
class DomainTally(Tally):
    """One domain.

    Attributes:
        documents, tokens (`int`): of the whole pool, scored or not.
        repeated_documents (`int`, *optional*): scored, but dropped since they repeat themselves; not among
            `scored_documents`.
        outside_documents (`int`, *optional*): scored, but dropped since they lie outside a range of `keep`; not among
            `scored_documents`.
        share (`float`, *optional*): its share of the budget, before any redistribution; `budget_tokens` is after it.
        shortfall_tokens (`int`, *optional*): tokens of its share that it could not fill and others got.
        score_length_correlation (`float`, *optional*): rank correlation (Spearman) of score and length over the scored
            documents, in -1..1: above 0 the score grows with length.
        percentile_length_correlation (`float`, *optional*): the same of the percentile within domain and length band.
        selected_score_length_correlation (`float`, *optional*): that of the score over the documents kept.
        kept_length_correlation (`float`, *optional*): rank correlation of being kept and length over the scored
            documents: above 0 long documents were preferred, near 0 no length was.
    """

    documents: int
    tokens: int
    repeated_documents: int | None = None
    outside_documents: int | None = None
    share: float | None = None
    shortfall_tokens: int | None = None
    score_length_correlation: float | None = None
    percentile_length_correlation: float | None = None
    selected_score_length_correlation: float | None = None
    kept_length_correlation: float | None = None


@dataclass(frozen=True, kw_only=True)
class BandTally(Tally):
    """One length band of one domain. `budget_tokens` is its part in proportion to its tokens, to which comes what the
    next longer band left, less than one document; the bands of `length_bands="auto"`, half octaves, only count.

    Attributes:
        band (`int`): number of the band, from 0 for the shortest.
        min_tokens, max_tokens (`int`): its shortest and its longest scored document.
        united_bands (`int`): bands that were united in it, because their part of the budget held no document.
    """

    band: int
    min_tokens: int
    max_tokens: int
    united_bands: int = 1


def domain_table(pool: Pool, ranking: Ranking, kept: Bools, budgets: Budgets | None) -> list[DomainTally]:
    """Counts by domain, sorted by name.

    Args:
        pool ([`Pool`]): all rows.
        ranking ([`Ranking`]): those that could be kept.
        kept (`bool` array `[N]`): those that were kept.
        budgets ([`Budgets`], *optional*): how a budget was divided.
    """
    size = len(pool.domains)
    domain, chosen = ranking.domain, kept[ranking.rows]
    counted = _counts(domain, ranking, chosen, size)
    documents = np.bincount(pool.code, minlength=size).tolist()
    tokens = np.bincount(pool.code, np.maximum(pool.tokens, 0), minlength=size).tolist()
    repeated: list[int | None] = [None] * size
    if pool.repeated is not None:
        repeated = np.bincount(pool.code[pool.scored & pool.repeated], minlength=size).tolist()
    outside: list[int | None] = [None] * size
    if pool.outside is not None:
        left = pool.scored & (pool.outside >= 0)
        if pool.repeated is not None:
            left &= ~pool.repeated
        outside = np.bincount(pool.code[left], minlength=size).tolist()
    before = correlation_by_group(ranking.score, ranking.tokens, domain, size)
    after = correlation_by_group(ranking.percentile, ranking.tokens, domain, size)
    among = correlation_by_group(ranking.score[chosen], ranking.tokens[chosen], domain[chosen], size)
    being = correlation_by_group(chosen.astype(np.float64), ranking.tokens, domain, size)
    return [
        DomainTally(
            domain=name, documents=documents[d], tokens=int(tokens[d]), repeated_documents=repeated[d],
            outside_documents=outside[d], **counted[d],
            budget_tokens=budgets.final[d] if budgets else None, share=budgets.share[d] if budgets else None,
            shortfall_tokens=max(0, budgets.first[d] - budgets.final[d]) if budgets else None,
            score_length_correlation=_defined(before[d]), percentile_length_correlation=_defined(after[d]),
            selected_score_length_correlation=_defined(among[d]),
            kept_length_correlation=_defined(being[d]),
        )
        for d, name in enumerate(pool.domains)
    ]  # fmt: skip


def band_table(
    pool: Pool, ranking: Ranking, kept: Bools, budgets: Budgets | None, bands: int | list[int] | str
) -> list[BandTally]:
    """Counts by domain and length band, those that have a scored document.

    Args:
        pool, ranking, kept, budgets: as in [`domain_table`].
        bands (`int`, `list[int]` or `str`): the bands ranked within; `"auto"` counts in half octaves, which have no
            part of the budget of their own.
    """
    stratum, num_bands, unites = ranking.stratum, ranking.num_bands, ranking.united
    part = parts(ranking, budgets) if budgets else None
    if bands == "auto":
        band, num_bands = length_band(ranking.domain, ranking.tokens, len(pool.domains), bands)
        stratum, part = ranking.domain * num_bands + band, None
        unites = np.ones(len(pool.domains) * num_bands, dtype=np.int64)
    size = len(pool.domains) * num_bands
    counted = _counts(stratum, ranking, kept[ranking.rows], size)
    shortest, longest = np.full(size, np.iinfo(np.int64).max), np.zeros(size, dtype=np.int64)
    np.minimum.at(shortest, stratum, ranking.tokens)
    np.maximum.at(longest, stratum, ranking.tokens)
    table = []
    for g in np.unique(stratum).tolist():
        d, band = divmod(g, num_bands)
        table.append(
            BandTally(
                domain=pool.domains[d], band=band, min_tokens=int(shortest[g]), max_tokens=int(longest[g]),
                united_bands=int(unites[g]), budget_tokens=None if part is None else int(part[g]), **counted[g],
            )
        )  # fmt: skip
    return table


def _defined(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _counts(group: Ints, ranking: Ranking, chosen: Bools, size: int) -> list[dict[str, Any]]:
    """What every group has, by number of the group."""
    scored, tokens, scores = (
        np.bincount(group, weights, minlength=size).tolist() for weights in (None, ranking.tokens, ranking.score)
    )
    kept, kept_tokens, kept_scores = (
        np.bincount(group[chosen], weights if weights is None else weights[chosen], minlength=size).tolist()
        for weights in (None, ranking.tokens, ranking.score)
    )
    lowest = np.full(size, np.inf)
    np.minimum.at(lowest, group[chosen], ranking.score[chosen])
    return [
        {
            "scored_documents": scored[g], "scored_tokens": int(tokens[g]), "selected_documents": kept[g],
            "selected_tokens": int(kept_tokens[g]), "threshold": float(lowest[g]) if kept[g] else None,
            "mean_score": scores[g] / scored[g] if scored[g] else None,
            "mean_selected_score": kept_scores[g] / kept[g] if kept[g] else None,
        }
        for g in range(size)
    ]  # fmt: skip


def table_lines(table: Sequence[DomainTally], budget_tokens: int | None) -> list[str]:
    """The table by domain as aligned lines of text, with totals."""
    outside = any(row.outside_documents is not None for row in table)
    left = ("repeated", "outside") if outside else ("repeated",)
    rows: list[tuple[str, ...]] = [
        ("domain", "documents", "tokens", *left, "kept", "kept tokens", "budget", "cut", "length")
    ]
    names = ("documents", "tokens", *(f"{name}_documents" for name in left), "selected_documents", "selected_tokens")
    for row in table:
        counts = (getattr(row, name) for name in (*names, "budget_tokens"))
        length = row.kept_length_correlation
        rows.append(
            (
                one_line(row.domain, 40), *("" if count is None else f"{count:,}" for count in counts),
                "" if row.threshold is None else f"{row.threshold:.5g}", "" if length is None else f"{length:+.2f}",
            )
        )  # fmt: skip
    totals = (sum(getattr(row, name) or 0 for row in table) for name in names)
    budget = "" if budget_tokens is None else f"{budget_tokens:,}"
    rows.append(("total", *(f"{total:,}" for total in totals), budget, "", ""))
    return aligned(rows)
