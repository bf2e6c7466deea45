"""`ladm prepare`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ladm_hf.cli.options import (
    NOTHING_SCORED,
    OUTPUT,
    Input,
    Model,
    ModelRevision,
    Name,
    OptionsFile,
    Overflow,
    Revision,
    Split,
    TextColumn,
    save_options,
)


def prepare(
    context: typer.Context,
    input: Input,
    output: Annotated[str, typer.Argument(help=f"{OUTPUT}, new.")],
    model: Model = "ladm-nano",
    model_revision: ModelRevision = None,
    split: Split = None,
    name: Name = None,
    revision: Revision = None,
    text_column: TextColumn = "text",
    min_tokens: Annotated[
        int | None, typer.Option(help="Shorter documents are dropped.", show_default="the calculator's, mostly 2305")
    ] = None,
    max_length: Annotated[
        int | None, typer.Option(help="Most tokens of a row.", show_default="the calculator's, mostly 32768")
    ] = None,
    overflow: Annotated[
        Overflow, typer.Option(help="Longer documents: truncate, or cut into windows (chunked_index).")
    ] = "truncate",
    num_proc: Annotated[int, typer.Option(help="Worker processes.")] = 1,
    options: OptionsFile = None,
) -> None:
    """Tokenise the documents of INPUT into OUTPUT as text, meta, input_ids, index, the form of the paper's data."""
    from ladm_hf.calculators.calculator import resolve
    from ladm_hf.data.open import open_source
    from ladm_hf.runs.prepare import prepare_files

    prepared = prepare_files(
        open_source(input, split=split, name=name, revision=revision),
        resolve(model, model_revision),
        output,
        text_column=text_column,
        min_tokens=min_tokens,
        max_length=max_length,
        overflow=overflow,
        num_proc=num_proc,
        progress=None,
    )
    save_options(context, output)
    rows = prepared.num_rows()
    print(f"{rows:,} rows in {prepared.storage.name}/data")
    if not rows:
        print(
            f"error: no document was kept: {input} has no text of at least the fewest tokens (--min-tokens) in column "
            f"{text_column!r}",
            file=sys.stderr,
        )
        raise typer.Exit(NOTHING_SCORED)
