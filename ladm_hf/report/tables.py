"""The tables of a report's page, and the numbers at its head, as texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ladm_hf.data.score_columns import SCORE
from ladm_hf.selection.reasons import meaning
from ladm_hf.selection.result import Selection
from ladm_hf.selection.signals import score_words
from ladm_hf.selection.table import BandTally, DomainTally
from ladm_hf.text import one_line

MAX_ROWS = 200
MAX_REASONS = 30


def numbers(selection: Selection) -> list[tuple[str, str]]:
    """The figures at the head of the page."""
    kept = len(selection.selected_rows)
    pool = kept + len(selection.dropped_rows)
    budget = selection.budget_tokens
    found = [
        (f"documents kept of {pool:,}", f"{kept:,}"),
        ("tokens kept" + (f" of a budget of {budget:,}" if budget else ""), f"{selection.selected_tokens:,}"),
        ("strategy", selection.strategy),
        ("domains" + (f" (column {selection.by})" if selection.by else ""), f"{len(selection.table):,}"),
    ]
    if selection.options["score"] != SCORE:
        found.append(("ranked by", one_line(score_words(selection.options["score"]), 80)))
    if selection.percent is not None:
        found.insert(3, ("of each domain's documents", f"{selection.percent} %"))
    return found


@dataclass(frozen=True)
class Table:
    """A table of the page, as texts.

    Attributes:
        columns (`list[str]`): headings.
        rows (`list[list[str]]`): cells.
        total (`list[str]`, *optional*): the last row.
        text (`list[str]`): headings of columns of sentences, which are not numbers.
    """

    columns: list[str]
    rows: list[list[str]]
    total: list[str] | None = None
    text: list[str] = field(default_factory=list)


def cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def correlation(value: float | None) -> str:
    return "–" if value is None else f"{value:+.2f}"


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _filled(rows: Sequence[Any], columns: Mapping[str, Callable[[Any], str]], rest: str) -> list[list[str]]:
    """One row of texts for each of the first rows, and one that counts the others."""
    found = [[show(row) for show in columns.values()] for row in rows[:MAX_ROWS]]
    if len(rows) > MAX_ROWS:
        found.append([f"{len(rows) - MAX_ROWS:,} {rest}", *["…"] * (len(columns) - 1)])
    return found


def budget_table(selection: Selection) -> Table:
    """Counts, budget and correlations of each domain, the largest first."""
    # the name in the selection's table of what is a sum over the domains
    sums = {
        "documents": "documents", "tokens": "tokens", "repeated": "repeated_documents", "outside": "outside_documents",
        "kept": "selected_documents", "kept tokens": "selected_tokens",
    }  # fmt: skip
    columns: dict[str, Callable[[DomainTally], str]] = {
        "domain": lambda row: one_line(row.domain, 60),
        "documents": lambda row: cell(row.documents),
        "tokens": lambda row: cell(row.tokens),
        "repeated": lambda row: cell(row.repeated_documents),
        "outside": lambda row: cell(row.outside_documents),
        "share": lambda row: percent(row.share),
        "budget": lambda row: cell(row.budget_tokens),
        "kept": lambda row: cell(row.selected_documents),
        "kept tokens": lambda row: cell(row.selected_tokens),
        "cut": lambda row: cell(row.threshold),
        "mean": lambda row: cell(row.mean_score),
        "mean kept": lambda row: cell(row.mean_selected_score),
        "score and length": lambda row: correlation(row.score_length_correlation),
        "kept and length": lambda row: correlation(row.kept_length_correlation),
    }
    if not selection.options.get("keep"):
        del columns["outside"]
    table = sorted(selection.table, key=lambda row: (-row.tokens, row.domain))
    total = {name: cell(sum(getattr(row, sums[name]) or 0 for row in table)) for name in columns if name in sums}
    total |= {"domain": "total", "budget": cell(selection.budget_tokens)}
    rows = _filled(table, columns, "smaller domains")
    return Table(list(columns), rows, [total.get(name, "") for name in columns])


def strata_table(selection: Selection) -> Table | None:
    """Counts of each length band of each domain, and its part of the budget where it has one."""
    if not selection.strata:
        return None
    columns: dict[str, Callable[[BandTally], str]] = {
        "domain": lambda band: one_line(band.domain, 60),
        "length in tokens": lambda band: f"{band.min_tokens:,} to {band.max_tokens:,}",
        "bands united": lambda band: cell(band.united_bands),
        "documents": lambda band: cell(band.scored_documents),
        "tokens": lambda band: cell(band.scored_tokens),
        "budget": lambda band: cell(band.budget_tokens),
        "kept": lambda band: cell(band.selected_documents),
        "kept tokens": lambda band: cell(band.selected_tokens),
        "share kept": lambda band: percent(band.selected_tokens / band.scored_tokens if band.scored_tokens else None),
        "cut": lambda band: cell(band.threshold),
    }
    if selection.options["length_bands"] == "auto":
        del columns["bands united"], columns["budget"]
    return Table(list(columns), _filled(selection.strata, columns, "more"))


def reasons_table(selection: Selection) -> Table:
    """Why documents were dropped, the most frequent reason first."""
    reasons = list(selection.reasons().items())
    rows = [
        [one_line(reason, 80), f"{count:,}", meaning(reason) or "its status, as the scoring left it"]
        for reason, count in reasons[:MAX_REASONS]
    ]
    if len(reasons) > MAX_REASONS:
        rest = sum(count for _, count in reasons[MAX_REASONS:])
        rows.append([f"{len(reasons) - MAX_REASONS:,} other reasons", f"{rest:,}", ""])
    columns = ["reason", "documents", "meaning"]
    return Table(columns, rows or [["none", "0", "every document was kept"]], text=columns[2:])
