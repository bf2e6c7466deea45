"""What a selection did, counted: one row for each domain, and one for each domain and length band."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from ladm_hf.arrays import Bools, Ints
from ladm_hf.selection.pool import Pool
from ladm_hf.selection.ranking import Budgets, Ranking, parts
from ladm_hf.stats import correlation_by_group


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
        share (`float`, *optional*): its share of the budget, before any redistribution; `budget_tokens` is after it.
        shortfall_tokens (`int`, *optional*): tokens of its share that it could not fill and others got.
        score_length_correlation (`float`, *optional*): rank correlation (Spearman) of score and length over the scored
            documents, in -1..1: above 0 the score grows with length.
        selected_score_length_correlation (`float`, *optional*): the same over the documents kept.
        kept_length_correlation (`float`, *optional*): rank correlation of being kept and length over the scored
            documents: above 0 long documents were preferred, near 0 no length was.
    """

    documents: int
    tokens: int
    repeated_documents: int | None = None
    share: float | None = None
    shortfall_tokens: int | None = None
    score_length_correlation: float | None = None
    selected_score_length_correlation: float | None = None
    kept_length_correlation: float | None = None


@dataclass(frozen=True, kw_only=True)
class BandTally(Tally):
    """One length band of one domain. `budget_tokens` is its part in proportion to its tokens; to that comes what the
    next longer band left, less than one document.

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
    before = correlation_by_group(ranking.score, ranking.tokens, domain, size)
    among = correlation_by_group(ranking.score[chosen], ranking.tokens[chosen], domain[chosen], size)
    being = correlation_by_group(chosen.astype(np.float64), ranking.tokens, domain, size)
    return [
        DomainTally(
            domain=name, documents=documents[d], tokens=int(tokens[d]), repeated_documents=repeated[d], **counted[d],
            budget_tokens=budgets.final[d] if budgets else None, share=budgets.share[d] if budgets else None,
            shortfall_tokens=max(0, budgets.first[d] - budgets.final[d]) if budgets else None,
            score_length_correlation=_defined(before[d]), selected_score_length_correlation=_defined(among[d]),
            kept_length_correlation=_defined(being[d]),
        )
        for d, name in enumerate(pool.domains)
    ]  # fmt: skip


def band_table(pool: Pool, ranking: Ranking, kept: Bools, budgets: Budgets | None) -> list[BandTally]:
    """Counts by domain and length band, those that have a scored document; the arguments of [`domain_table`]."""
    size = len(ranking.counts)
    counted = _counts(ranking.stratum, ranking, kept[ranking.rows], size)
    shortest, longest = np.full(size, np.iinfo(np.int64).max), np.zeros(size, dtype=np.int64)
    np.minimum.at(shortest, ranking.stratum, ranking.tokens)
    np.maximum.at(longest, ranking.stratum, ranking.tokens)
    part = parts(ranking, budgets) if budgets else None
    table = []
    for g in np.flatnonzero(ranking.counts).tolist():
        d, band = divmod(g, ranking.num_bands)
        table.append(
            BandTally(
                domain=pool.domains[d], band=band, min_tokens=int(shortest[g]), max_tokens=int(longest[g]),
                united_bands=int(ranking.united[g]), budget_tokens=None if part is None else int(part[g]), **counted[g],
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
