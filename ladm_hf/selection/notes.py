"""What a reader of a selection's table should know, in sentences: what was counted, left out, lost or preferred."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ladm_hf.data.score_columns import FIRST_PASS_ONLY, FIRST_SCORE, SCORE
from ladm_hf.selection.reasons import had_a_score
from ladm_hf.selection.signals import range_words, score_words
from ladm_hf.text import counted, one_line

if TYPE_CHECKING:
    from ladm_hf.selection.result import Selection
    from ladm_hf.selection.table import DomainTally

# A rank correlation from here on is called a preference.
PREFERENCE = 0.2
_MOST = 3
_NAMES = 5


def notes_of(selection: Selection) -> list[str]:
    """The notes of a selection, from its table and reasons."""
    notes = [f"{selection.tokens_counted[:1].upper()}{selection.tokens_counted[1:]}."]
    parts = [_score, _unscored, _budget, _bands, _length, _repeated, _outside]
    if not any(row.scored_documents for row in selection.table):
        repeated, outside = (
            any(getattr(row, name) for row in selection.table) for name in ("repeated_documents", "outside_documents")
        )
        why = " or ".join(["repeats itself"] * repeated + ["lies outside a range of keep"] * outside)
        if why:
            notes.append(f"Every document of the pool that has a score {why}: nothing could be kept.")
        else:
            notes.append("No document of the pool has a score: nothing could be kept.")
        parts = [_score, _unscored, *([_repeated] * repeated), *([_outside] * outside)]
    return [*notes, *(note for part in parts for note in part(selection))]


def _score(selection: Selection) -> Iterable[str]:
    score = selection.options["score"]
    if not isinstance(score, str):
        yield (
            f"Ranked by a blend, {score_words(score)}: the weighted mean of the percentiles of these columns within "
            "domain and length band."
        )
    elif score != SCORE:
        yield f"Ranked by the column {score}, higher first."


def _unscored(selection: Selection) -> Iterable[str]:
    number = sum(
        row.documents - row.scored_documents - (row.repeated_documents or 0) - (row.outside_documents or 0)
        for row in selection.table
    )
    if not number:
        return
    reasons = selection.reasons()
    first = reasons.pop(FIRST_PASS_ONLY, 0)
    if first:
        yield (
            f"{counted(first, 'document')} did not survive the first pass of a cascade and so had no {SCORE} to be "
            f"ranked by (their {FIRST_SCORE} compares with no {SCORE}); with a larger --cascade-keep more go on, but "
            "none that repeats itself."
        )
    number -= first
    if not number:
        return
    groups: dict[str, list[tuple[str, int]]] = {}
    for reason, count in reasons.items():
        if not had_a_score(reason):
            # errors that differ in a number, as in a byte or row, are one
            groups.setdefault(re.sub(r"\d+", "0", reason), []).append((reason, count))
    totals = sorted(((sum(c for _, c in group), group[0][0]) for group in groups.values()), key=lambda g: (-g[0], g[1]))
    shown = [f"{count:,} {one_line(reason, 120)}" for count, reason in totals[:_MOST]]
    if rest := sum(count for count, _ in totals[_MOST:]):
        shown.append(f"{rest:,} for other reasons")
    has = "has no score and was not a candidate" if number == 1 else "have no score and were not candidates"
    yield f"{counted(number, 'document')} {has}: {'; '.join(shown)}."


def _repeated(selection: Selection) -> Iterable[str]:
    limit = selection.options["max_repetition"]
    if limit == "off" or not selection.table:
        return
    if any(row.repeated_documents is None for row in selection.table):
        yield (
            "These data have no column ladm_repetition (version 0.1.0 wrote none), so that documents that repeat "
            "themselves could not be dropped: score them again to have it."
        )
        return
    number = sum(row.repeated_documents or 0 for row in selection.table)
    if number:
        repeats = "repeats itself" if number == 1 else "repeat themselves"
        yield f"{counted(number, 'document')} {repeats} (ladm_repetition above {limit:g}) and left the pool first."


def _outside(selection: Selection) -> Iterable[str]:
    keep = selection.options.get("keep")
    if not keep:
        return
    ranges = ", ".join(range_words(name, bounds) for name, bounds in keep.items())
    number = sum(row.outside_documents or 0 for row in selection.table)
    lies = "lies" if number == 1 else "lie"
    yield f"{counted(number, 'document')} {lies} outside the ranges kept ({ranges}) and left the pool first."


def _budget(selection: Selection) -> Iterable[str]:
    pool, kept, budget = (
        sum(row.scored_tokens for row in selection.table),
        selection.selected_tokens,
        selection.budget_tokens,
    )
    if budget is None:
        return
    if budget >= pool and kept == pool:
        yield (
            f"The budget of {budget:,} tokens is not smaller than the pool's {pool:,} scored tokens: every scored "
            f"document is kept, {budget - pool:,} tokens short of the budget."
        )
        return
    if selection.percent is not None:
        yield (
            f"The smallest whole percent of each domain that passes the budget is {selection.percent} %: "
            f"{kept:,} tokens, {kept - budget:,} over the budget."
        )
        return
    if all(row.selected_documents == row.scored_documents for row in selection.table if row.share):
        yield (
            f"Every scored document of the domains that have a share is kept, {budget - kept:,} tokens short of the "
            f"budget of {budget:,}."
        )
        return
    yield f"{kept:,} of {budget:,} tokens are used; the next document of each domain would not fit."
    small = [row for row in selection.table if row.shortfall_tokens]
    if small and kept < pool:
        total = sum(row.shortfall_tokens or 0 for row in small)
        yield f"{total:,} tokens that {_names(small)} could not fill went to the other domains."
    # a domain that has candidates and a budget, but no document that fits
    nothing = [row for row in selection.table if row.scored_documents and row.share and not row.selected_documents]
    if nothing:
        yield f"Nothing of {_names(nothing)} is kept: their parts of the budget are smaller than their best document."


def _bands(selection: Selection) -> Iterable[str]:
    if not selection.strata:
        return
    if selection.options["length_bands"] == "auto":
        yield "Ranked within each domain by the percentile of the score among documents of like length."
        return
    groups = f"{counted(len(selection.strata), 'group')} of domain and length"
    shared = ", each with a part of the budget in proportion to its tokens" if selection.budget_tokens else ""
    yield f"Ranked within {groups}{shared}."
    bands = Counter(band.domain for band in selection.strata)
    lost: Counter[str] = Counter()
    for band in selection.strata:
        lost[band.domain] += band.united_bands - 1
    lost = +lost
    if lost:
        alone = [name for name in lost if bands[name] == 1]
        whole = f"; ranked as a whole: {_list(alone)}" if alone else ""
        yield (
            f"{counted(lost.total(), 'length band')} of {_list(list(lost))} {'was' if lost.total() == 1 else 'were'} "
            f"united with a neighbour, since the part of the budget was smaller than a document{whole}."
        )


def _length(selection: Selection) -> Iterable[str]:
    score = selection.length_correlation("score_length_correlation")
    kept = selection.length_correlation("kept_length_correlation")
    if score is None:
        return
    way = "grows with length" if score > 0 else "falls with length"
    way = way if abs(score) >= PREFERENCE else "hardly depends on length"
    text = f"Within domains the score {way} (rank correlation {score:+.2f})"
    if kept is not None:
        liked = "longer documents" if kept > 0 else "shorter documents"
        text += f"; {liked if abs(kept) >= PREFERENCE else 'no length'} preferred in what was kept ({kept:+.2f})"
    yield text + "."
    strong = [row for row in selection.table if _goes_with_length(row)]
    if strong and selection.strata:
        yield (
            f"In {_names(strong)} the choice still goes with length: the part of the budget holds too few documents to "
            "compare them with others of like length."
        )
    elif strong:
        yield f"The choice goes with length in {_names(strong)}: rank within length bands (length_bands) to avoid it."


def _goes_with_length(row: DomainTally) -> bool:
    """Whether the correlation of being kept and length is large, and twice its deviation among documents at random."""
    found = abs(row.kept_length_correlation or 0.0)
    return found >= max(PREFERENCE, 2 / math.sqrt(max(1, row.scored_documents - 1)))


def _names(rows: Sequence[DomainTally]) -> str:
    return _list([row.domain for row in rows])


def _list(names: Sequence[str]) -> str:
    shown = ", ".join(one_line(name, 40) for name in names[:_NAMES])
    return shown if len(names) <= _NAMES else f"{shown} and {len(names) - _NAMES:,} more"
