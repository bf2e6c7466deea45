"""A [`Comparison`] for people: the section of a page, and `write_comparison()`, a folder with page, figure and table.

Comparison -> index.html, figures/signal_matrix.png, agreements.csv (all pairs of all groups), comparison.json
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv

from ladm_hf.data.results import place_in, result_at, write_report
from ladm_hf.report.matrix import signal_matrix
from ladm_hf.report.parts import Picture, draw, opening, render
from ladm_hf.report.tables import MAX_ROWS, Table, correlation
from ladm_hf.selection.comparison import Comparison
from ladm_hf.text import one_line


def write_comparison(
    comparison: Comparison, output: str | os.PathLike[str], *, title: str = "LADM signals compared"
) -> Path | str:
    """Writes the page of a comparison, which needs no other file, its figure, and its table as CSV and JSON.

    Args:
        comparison ([`Comparison`]): from [`compare`].
        output (`str` or path): folder or URL; its other files are left alone.
        title (`str`, *optional*): title of the page.

    Returns:
        `Path` or URL of `index.html`.

    Raises:
        InputError, StorageError: the output cannot be written.
        MissingExtraError: matplotlib is not installed.
    """
    result_at(output, "compare")
    shown = comparison_section(comparison)
    page = render("comparison_template.html", title=title, comparison=shown)
    values = {
        field.name: getattr(comparison, field.name)
        for field in dataclasses.fields(comparison)
        if field.name not in ("agreements", "disagreements")
    }
    for name in ("agreements", "disagreements"):
        values[name] = [dataclasses.asdict(each) for each in getattr(comparison, name)]
    for each in values["disagreements"]:
        # the texts are the data's
        del each["text"]
    table = pa.BufferOutputStream()
    pyarrow.csv.write_csv(comparison.table(), table)
    files: dict[str, bytes | str] = {
        "figures/signal_matrix.png": shown["figure"].png,
        "agreements.csv": table.getvalue().to_pybytes(),
        "comparison.json": json.dumps(values, indent=1, ensure_ascii=False),
        "index.html": page,
    }
    write_report(output, files, "compare")
    return place_in(output, "index.html")


def comparison_section(comparison: Comparison) -> dict[str, Any]:
    """What `comparison_section.html` shows."""
    first, *others = comparison.signals
    return {
        "notes": comparison.notes(),
        "figure": _matrix(comparison),
        "first": one_line(first, 60),
        "correlations": _groups(comparison, others, "correlation"),
        "overlaps": _groups(comparison, others, "overlap"),
        "disagreements": [
            {
                "title": f"High by {one_line(each.a, 60)}, low by {one_line(each.b, 60)}",
                "words": f"Row {each.row:,}, {one_line(each.domain, 60)}, {each.tokens:,} tokens: "
                f"{one_line(each.a, 60)} {each.value_a:.4g} (percentile {each.percentile_a:.0f}), "
                f"{one_line(each.b, 60)} {each.value_b:.4g} (percentile {each.percentile_b:.0f})",
                "opening": None if each.text is None else opening(each.text),
            }
            for each in comparison.disagreements
        ],
    }


def _matrix(comparison: Comparison) -> Picture:
    caption = (
        "Below the diagonal: rank correlation of the columns as they are, over all documents. Above: the share of "
        f"documents that two selections have in common, about {100 * comparison.share:.0f} % by chance. “Lowest "
        "first”: the selection takes the lowest values."
    )
    return draw(signal_matrix(comparison), "signal_matrix", "Signals compared", caption)


def _groups(comparison: Comparison, others: list[str], name: str) -> Table:
    """The first signal against each other one, for all documents, by domain and by length band."""
    cells = []
    for pairs in comparison.of_first():
        values = (getattr(pair, name) for pair in pairs)
        shown = [correlation(value) if name == "correlation" else _share(value) for value in values]
        cells.append([pairs[0].group, f"{pairs[0].documents:,}", *shown])
    if len(cells) > MAX_ROWS:
        cells[MAX_ROWS:] = [[f"{len(cells) - MAX_ROWS:,} more", *["…"] * (len(others) + 1)]]
    # long names break after an underscore
    headings = (one_line(other, 40).replace("_", "_\u200b") for other in others)
    return Table(["group", "documents", *headings], cells)


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f} %"
