"""`ladm compare`."""

from __future__ import annotations

from typing import Annotated

import typer

from ladm_hf.cli.options import OUTPUT, OptionsFile, Split, save_options, shown_place
from ladm_hf.selection.options import COMPARED, MAX_REPETITION


def compare(
    context: typer.Context,
    scored: Annotated[
        str,
        typer.Argument(help="Scored rows: the folder or URL of `ladm score`, parquet, JSON lines, or a Hub id."),
    ],
    output: Annotated[
        str, typer.Argument(help=f"{OUTPUT} for the page, the figure and the tables.")
    ] = "ladm-comparison",
    signal: Annotated[
        list[str] | None,
        typer.Option(
            help="Column to compare, repeated; COLUMN=-1 selects the lowest values, COLUMN=1 the highest.",
            show_default="those of `ladm score`; the lowest of repetition, compression and loss",
        ),
    ] = None,
    budget: Annotated[
        str,
        typer.Option(
            "--budget", "--budget-tokens", "-b", help="What each signal selects: tokens (1e9, 500M) or a share (10%)."
        ),
    ] = COMPARED,
    by: Annotated[str, typer.Option(help="Column of the domain, nested with dots; '' for one.")] = "domain",
    length_bands: Annotated[
        str,
        typer.Option(help="Length bands to tell apart: auto (half octaves), off, or the counts between them."),
    ] = "auto",
    max_repetition: Annotated[
        str, typer.Option(help="Leave out documents that repeat themselves: largest ladm_repetition, or off.")
    ] = f"{MAX_REPETITION}",
    tokens: Annotated[
        str, typer.Option(help="Tokens counted: scored, document (length of input_ids), or a column of counts.")
    ] = "scored",
    split: Split = None,
    text_column: Annotated[str, typer.Option(help="Column of the text.")] = "text",
    title: Annotated[str, typer.Option(help="Title of the page.")] = "LADM signals compared",
    options: OptionsFile = None,
) -> None:
    """Compare signals: rank correlations, overlap of what they select, and the documents they disagree about."""
    from ladm_hf.data.results import result_at
    from ladm_hf.report.comparison import write_comparison
    from ladm_hf.selection.compare import compare as compare_signals

    result_at(output, "compare")
    comparison = compare_signals(
        scored,
        signal,
        budget_tokens=budget,
        by=by or None,
        length_bands=length_bands,
        max_repetition=max_repetition,
        tokens=tokens,
        split=split,
        text_column=text_column,
    )
    print(comparison.summary())
    page = write_comparison(comparison, output, title=title)
    save_options(context, output)
    print(f"\nWritten to {shown_place(page)}, with agreements.csv, comparison.json and figures/ beside it")
