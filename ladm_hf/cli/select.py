"""`ladm select` and `ladm report`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ladm_hf.cli.options import OUTPUT, OptionsFile, Seed, Split, Strategy, save_options, shown_place
from ladm_hf.data.score_columns import SCORE
from ladm_hf.selection.options import MAX_REPETITION


def select(
    context: typer.Context,
    scored: Annotated[
        str,
        typer.Argument(help="Scored rows: the folder or URL of `ladm score`, parquet, JSON lines, or a Hub id."),
    ],
    output: Annotated[str, typer.Argument(help=f"{OUTPUT} for the selection.")],
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget",
            "--budget-tokens",
            "-b",
            help="Tokens to keep: 1073741824, 1e9, 500M, 32768*32*1024, or a share of the pool's (25%).",
            show_default="none; needed by exact, percent and temperature",
        ),
    ] = None,
    score: Annotated[
        list[str] | None,
        typer.Option(
            "--score",
            "--score-column",
            help="Column to rank by, or COLUMN=WEIGHT, repeated, for a blend of ranks within domain and length band; a "
            "weight below 0: lower is better.",
            show_default="ladm_score",
        ),
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(
            help="Range that a column must lie in, COLUMN=LOW:HIGH, repeated: quantiles of the domain (20%:80%) or "
            "values (1.5:).",
            show_default="none",
        ),
    ] = None,
    by: Annotated[
        str, typer.Option(help="Column of the domain, nested with dots (meta.pile_set_name); '' ranks all rows as one.")
    ] = "domain",
    strategy: Annotated[
        Strategy,
        typer.Option(
            "--strategy",
            "-s",
            help="exact: never over the budget. percent: the paper's smallest whole percent, which overshoots. "
            "temperature: weighted sampling.",
        ),
    ] = "exact",
    share: Annotated[
        list[str] | None,
        typer.Option(
            help="How domains divide the budget: proportional, equal, or DOMAIN=WEIGHT, repeated; domains left out get "
            "nothing.",
            show_default="proportional",
        ),
    ] = None,
    k: Annotated[
        int | None, typer.Option("-k", help="Documents per domain.", show_default="none; needed by top-k and bottom-k")
    ] = None,
    min_score: Annotated[
        float | None,
        typer.Option(help="Lowest score kept.", show_default="none; threshold needs this or --min-percentile"),
    ] = None,
    min_percentile: Annotated[
        float | None,
        typer.Option(help="Lowest percentile kept, of the domain and length band (0 to 100).", show_default="none"),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(help="Near 0 keeps the best, a large one is near chance.", show_default="1, for temperature"),
    ] = None,
    seed: Seed = 0,
    length_bands: Annotated[
        str,
        typer.Option(
            help="Rank among documents of like length, so that no length is preferred: auto (neighbours in length, for "
            "exact and temperature), off, or bands: their number (4), the token counts between them (8192,16384; one: "
            "8192,) or ranges (0:8k,8k:32k,32k:)."
        ),
    ] = "auto",
    max_repetition: Annotated[
        str,
        typer.Option(help="Drop documents that repeat themselves: largest ladm_repetition kept (0 to 1), or off."),
    ] = f"{MAX_REPETITION}",
    tokens: Annotated[
        str,
        typer.Option(help="Tokens counted: scored, document (length of input_ids), or a column of counts."),
    ] = "scored",
    ties: Annotated[
        str | None, typer.Option(help="Column that orders equal scores.", show_default="the row number")
    ] = None,
    split: Split = None,
    dropped_text: Annotated[
        bool, typer.Option(help="Also write the long columns of the dropped rows, which the pool still has.")
    ] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the selection in OUTPUT.")] = False,
    options: OptionsFile = None,
) -> None:
    """Keep the best documents of every domain, to a token budget. Writes data/, dropped/ and selection.json."""
    from ladm_hf.selection.folder import check_free
    from ladm_hf.selection.options import parse_shares
    from ladm_hf.selection.selection import select as select_rows

    replaced = check_free(output, overwrite=overwrite)
    selection = select_rows(
        scored,
        score=score or SCORE,
        keep=keep,
        budget_tokens=budget,
        by=by or None,
        strategy=strategy,
        shares=parse_shares(share),
        k=k,
        min_score=min_score,
        min_percentile=min_percentile,
        temperature=temperature,
        seed=seed,
        length_bands=length_bands,
        max_repetition=max_repetition,
        tokens=tokens,
        ties=ties,
        split=split,
    )
    selection.save(output, dropped="all" if dropped_text else "scores", overwrite=overwrite)
    save_options(context, output)
    print(selection.summary())
    if replaced:
        print(f"\nReplaced {replaced}.")
    print(f"\nWritten to {shown_place(output)}: data/ (kept), dropped/ (with reasons), selection.json")


def report(
    context: typer.Context,
    selection: Annotated[str, typer.Argument(help="Folder or URL of a selection, written by `ladm select`.")],
    output: Annotated[
        str | None, typer.Argument(help=f"{OUTPUT} for the report.", show_default="SELECTION/report")
    ] = None,
    heat_maps: Annotated[
        bool,
        typer.Option(help="Draw which spans attend to which in the best and the worst document (two forward passes)."),
    ] = True,
    model: Annotated[
        str | None,
        typer.Option(help="Calculator of the heat maps.", show_default="that of the run, with its configuration"),
    ] = None,
    text_column: Annotated[
        str | None, typer.Option(help="Column of the text.", show_default="that of the run, else text")
    ] = None,
    title: Annotated[str, typer.Option(help="Title of the page.")] = "LADM selection report",
    options: OptionsFile = None,
) -> None:
    """Draw a selection: figures as PNG, and index.html, one page that needs no other file."""
    from ladm_hf.data.results import place_in
    from ladm_hf.errors import LadmError
    from ladm_hf.report.heat_maps import scorer_of_run
    from ladm_hf.report.page import report as write_report
    from ladm_hf.selection.result import Selection

    loaded = Selection.load(selection)
    scorer, reason = None, ""
    if heat_maps:
        try:
            scorer = scorer_of_run(loaded.run, model)
        except LadmError as error:
            reason = f"No focus maps: {error}."
            print(f"ladm: {reason}", file=sys.stderr)
    known = loaded.run and loaded.run.identity.get("text_column")
    place = output or place_in(selection, "report")
    page = write_report(
        loaded,
        place,
        scorer=scorer,
        no_scorer=reason,
        text_column=text_column or known or "text",
        title=title,
    )
    save_options(context, place)
    print(f"Written to {shown_place(page)}")
