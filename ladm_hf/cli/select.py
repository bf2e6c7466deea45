"""`ladm select` and `ladm report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def select(
    scored: Annotated[
        str,
        typer.Argument(help="Scored rows: the folder of `ladm score`, a save_to_disk folder, parquet, or a Hub id."),
    ],
    output: Annotated[str, typer.Argument(help="Folder for the selection.")],
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget", "--budget-tokens", "-b", help="Tokens to keep: 1073741824, 1e9, 500M or 32768*32*1024."
        ),
    ] = None,
    by: Annotated[
        str, typer.Option(help="Column of the domain, nested with dots (meta.pile_set_name); '' ranks all rows as one.")
    ] = "domain",
    strategy: Annotated[
        str,
        typer.Option(
            "--strategy",
            "-s",
            help="exact: never over the budget. percent: the paper's smallest whole percent, which overshoots. Also "
            "top-k, bottom-k, threshold, temperature (sampling).",
        ),
    ] = "exact",
    share: Annotated[
        list[str] | None,
        typer.Option(
            help="How domains divide the budget: proportional (default), equal, or DOMAIN=WEIGHT, repeated; domains "
            "left out get nothing.",
        ),
    ] = None,
    k: Annotated[int | None, typer.Option("-k", help="Documents per domain (top-k, bottom-k).")] = None,
    min_score: Annotated[float | None, typer.Option(help="Lowest score kept (threshold).")] = None,
    temperature: Annotated[
        float | None, typer.Option(help="Near 0 keeps the best, large is near chance (temperature; default 1).")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the sampling (temperature).")] = 0,
    length_bands: Annotated[
        str | None,
        typer.Option(
            help="Rank within length bands too: their number (4), or the token counts between (8192,16384; one: 8192,)."
        ),
    ] = None,
    tokens: Annotated[
        str,
        typer.Option(help="Tokens counted: scored, document (length of input_ids), or a column of counts."),
    ] = "scored",
    score_column: Annotated[str, typer.Option(help="Column of the score.")] = "ladm_score",
    ties: Annotated[str | None, typer.Option(help="Column that orders equal scores, before the row number.")] = None,
    split: Annotated[str | None, typer.Option(help="Split, where there are several.")] = None,
    dropped_text: Annotated[
        bool, typer.Option(help="Write long columns of the dropped rows too, which the pool still has.")
    ] = True,
) -> None:
    """Keep the best documents of every domain, to a token budget. Writes data/, dropped/ and selection.json."""
    from ladm_hf.selection.options import parse_bands, parse_shares, parse_tokens
    from ladm_hf.selection.selection import select as select_rows

    selection = select_rows(
        scored,
        budget_tokens=None if budget is None else parse_tokens(budget),
        by=by or None,
        strategy=strategy,  # type: ignore[arg-type]
        shares=parse_shares(share),
        k=k,
        min_score=min_score,
        temperature=temperature,
        seed=seed,
        length_bands=parse_bands(length_bands),
        tokens=tokens,
        score_column=score_column,
        ties=ties,
        split=split,
    )
    folder = selection.save(output, dropped="all" if dropped_text else "scores")
    typer.echo(selection.summary())
    typer.echo(f"\nWritten to {folder}: data/ (kept), dropped/ (with reasons), selection.json")


def report(
    selection: Annotated[str, typer.Argument(help="Folder of a selection, written by `ladm select`.")],
    output: Annotated[str | None, typer.Argument(help="Folder for the report; default: SELECTION/report.")] = None,
    heat_maps: Annotated[
        bool, typer.Option(help="Draw who looks at whom in the best and the worst document (two forward passes).")
    ] = True,
    model: Annotated[str, typer.Option(help="Calculator of the heat maps.")] = "ladm-nano",
    text_column: Annotated[str, typer.Option(help="Column of the text.")] = "text",
    title: Annotated[str, typer.Option(help="Title of the page.")] = "LADM selection report",
) -> None:
    """Draw a selection: figures as PNG, and index.html, one page that needs no other file."""
    from ladm_hf.report.page import report as write_report

    scorer = None
    if heat_maps:
        from ladm_hf.scoring.scorer import LadmScorer

        scorer = LadmScorer(model)
    page = write_report(
        selection, output or Path(selection) / "report", scorer=scorer, text_column=text_column, title=title
    )
    typer.echo(f"Written to {page}")
