"""`report()`: figures of a selection, and one HTML page that holds all of them and needs no other file.

Selection -> figures/*.png
          -> index.html: budget table, scores by domain with the cut, domain mix, length bias, openings of the best,
             median and worst documents, two focus maps, reasons, options
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ladm_hf.data.columns import decoded
from ladm_hf.data.results import place_in, result_at, write_report
from ladm_hf.report import plots, tables
from ladm_hf.report.comparison import comparison_section
from ladm_hf.report.heat_maps import draw_heat_maps
from ladm_hf.report.parts import Picture, draw, opening, render
from ladm_hf.selection.compare import compare_selection
from ladm_hf.selection.reasons import meaning
from ladm_hf.selection.result import Selection
from ladm_hf.text import one_line

if TYPE_CHECKING:
    from ladm_hf.scoring.scorer import LadmScorer

DOCUMENTS_EACH = 2


def report(
    selection: Selection | str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    scorer: LadmScorer | None = None,
    no_scorer: str = "",
    text_column: str = "text",
    title: str = "LADM selection report",
) -> Path | str:
    """Writes figures and one self-contained HTML page about a selection.

    Args:
        selection ([`Selection`], `str` or path): a selection, or the folder or URL of one.
        output (`str` or path): folder or URL for `index.html` and `figures/*.png`. Its other files are left alone.
        scorer ([`LadmScorer`], *optional*):
            The calculator for the focus maps of the best and the worst document; without it there are none. Two
            forward passes: a minute or so on a CPU for documents of 32k tokens. Where its score is not the data's, no
            map is drawn; see [`scorer_of_run`].
        no_scorer (`str`, *optional*): why there is none, for the page.
        text_column (`str`, *optional*, defaults to `"text"`): column of the documents' text.
        title (`str`, *optional*): title of the page.

    Returns:
        `Path` or URL of `index.html`.

    Raises:
        InputError, StorageError: the folder holds no selection, or the output cannot be written.
        MissingExtraError: matplotlib is not installed.
    """
    if not isinstance(selection, Selection):
        selection = Selection.load(selection)
    result_at(output, "report")
    chosen = _documents(selection, text_column)
    figures = _selection_figures(selection)
    drawn, no_heat_maps = draw_heat_maps(scorer, chosen)
    heat_maps = [draw(figure, **words) for figure, words in drawn]
    no_heat_maps = no_scorer or no_heat_maps
    compared = compare_selection(selection, text_column)
    comparison = None if compared is None else comparison_section(compared)
    page = render(
        "report_template.html",
        title=title,
        numbers=tables.numbers(selection),
        notes=selection.notes,
        budget=tables.budget_table(selection),
        strata=tables.strata_table(selection),
        figures=figures,
        documents=chosen,
        heat_maps=heat_maps,
        no_heat_maps=no_heat_maps,
        comparison=comparison,
        reasons=tables.reasons_table(selection),
        options=json.dumps(selection.options, indent=2, ensure_ascii=False),
    )
    drawn_all = [*figures, *heat_maps, *([comparison["figure"]] if comparison else [])]
    files: dict[str, bytes | str] = {f"figures/{figure.name}.png": figure.png for figure in drawn_all}
    write_report(output, {**files, "index.html": page}, "report")
    return place_in(output, "index.html")


def _selection_figures(selection: Selection) -> list[Picture]:
    mix = draw(
        plots.domain_mix(selection),
        "domain_mix",
        "Domain mix",
        "Share of each domain in the tokens of the whole pool (grey) and of the documents kept (blue).",
    )
    if not any(row.scored_documents for row in selection.table):
        return [mix]
    by_domain = draw(
        plots.score_by_domain(selection),
        "score_by_domain",
        "Scores by domain",
        "Histogram of the scored documents of each domain, each row to its own height. Blue: kept.",
    )
    length = draw(
        plots.score_against_length(selection),
        "score_against_length",
        "Score and length",
        f"{_length_caption(selection)}At most {plots.MAX_POINTS:,} documents are drawn; the correlation is over all.",
    )
    return [by_domain, mix, length]


@dataclass(frozen=True)
class _Document:
    """One document of the pool, for the page."""

    rank: str
    score: str
    tokens: str
    domain: str
    fate: str
    opening: str | None
    text: str | None
    value: float


def _documents(selection: Selection, text_column: str) -> list[_Document]:
    """The best, median and worst documents that have a score."""
    frame = selection.frame()
    score = frame["score"].to_numpy()
    rows = np.flatnonzero(np.isfinite(score))
    # of equal scores the first row comes first, as in the ranking
    rows = rows[np.argsort(-score[rows], kind="stable")]
    count = len(rows)
    middle = max(0, count // 2 - DOCUMENTS_EACH // 2)
    places = [("Best", i) for i in range(DOCUMENTS_EACH)]
    places += [("Median", i) for i in range(middle, middle + DOCUMENTS_EACH)]
    places += [("Worst", i) for i in range(count - DOCUMENTS_EACH, count)]
    chosen, seen = [], set()
    for name, place in places:
        if not 0 <= place < count or place in seen:
            continue
        seen.add(place)
        row = int(rows[place])
        record = frame.slice(row, 1).to_pylist()[0]
        text = _text(selection, row, text_column)
        reason = record["reason"]
        chosen.append(
            _Document(
                rank=f"{name}: number {place + 1:,} of {count:,}",
                score=f"{record['score']:.4g}",
                tokens=f"{record['tokens']:,}",
                domain=one_line(record["domain"], 80),
                fate="kept" if record["kept"] else f"dropped ({meaning(reason) or one_line(reason, 80)})",
                opening=None if text is None else opening(text),
                text=text,
                value=record["score"],
            )
        )
    return chosen


def _text(selection: Selection, row: int, text_column: str) -> str | None:
    kept = len(selection.selected_rows)
    if row < kept:
        value = selection.selected_rows.value(row, text_column)
    else:
        value = selection.dropped_rows.value(row - kept, text_column)
    value = decoded(value)
    return value if isinstance(value, str) else None


def _length_caption(selection: Selection) -> str:
    """Which way score and choice go with length in this selection."""
    of_score, of_kept, of_selected = (
        selection.length_correlation(name)
        for name in ("score_length_correlation", "kept_length_correlation", "selected_score_length_correlation")
    )
    means = {
        "of score and length": of_score,
        "of score and length among the documents kept": of_selected,
        "of being kept and length": of_kept,
    }
    shown = ", ".join(f"{what} {value:+.2f}" for what, value in means.items() if value is not None)
    ranked = ""
    if selection.strata:
        by_hand = selection.options["length_bands"] != "auto"
        ranked = f"Ranked {'within length bands' if by_hand else 'among documents of like length'}. "
    return (
        f"{ranked}Mean rank correlation within domains: {shown}. Near 0, no length is preferred. " if shown else ranked
    )
