"""`ladm`: the commands. Each one parses its options and calls the public function that does the work.

Heavy imports stay inside the commands, so that `ladm --help` is quick.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import typer

from ladm_hf import __version__
from ladm_hf.errors import LadmError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Choose long-context training data by the attention of a small model (LADM, arXiv 2503.02502).",
)
F = TypeVar("F", bound=Callable[..., Any])


def command(function: F) -> F:
    """Registers a command that ends with one line on standard error, not a traceback, when the package refuses."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except LadmError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(1) from error

    app.command()(run)
    return function


def _show_version(show: bool) -> None:
    if show:
        typer.echo(f"ladm_hf {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


# score, prepare


@command
def score(
    input: Annotated[
        str | None,
        typer.Argument(help="Parquet or JSON lines (path, glob or URL), a folder of save_to_disk, or a Hub id."),
    ] = None,
    output: Annotated[str | None, typer.Argument(help="Folder of the run, shared by all processes.")] = None,
    model: Annotated[str | None, typer.Option(help="Calculator: ladm-nano, a folder or a Hub id.")] = None,
    model_revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the calculator.")] = None,
    split: Annotated[str | None, typer.Option(help="Split of the data.")] = None,
    name: Annotated[str | None, typer.Option(help="Configuration of a Hub data set.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a Hub data set.")] = None,
    text_column: Annotated[str, typer.Option(help="Column of the text; a dot goes into a struct.")] = "text",
    input_ids_column: Annotated[str, typer.Option(help="Column of token ids, read where there is no text.")] = (
        "input_ids"
    ),
    config: Annotated[str | None, typer.Option(help="JSON file of options of the score (ladm_config.json).")] = None,
    span_length: Annotated[int | None, typer.Option(help="Tokens in a span.")] = None,
    d_afs: Annotated[int | None, typer.Option(help="Stride between key spans, in spans.")] = None,
    d_cds: Annotated[int | None, typer.Option(help="Stride between query spans, in spans.")] = None,
    ablation: Annotated[str | None, typer.Option(help="no_std or no_length_weight.")] = None,
    max_length: Annotated[int | None, typer.Option(help="Longest piece scored at once, in tokens.")] = None,
    overflow: Annotated[str | None, typer.Option(help="What happens beyond: truncate or windows.")] = None,
    dtype: Annotated[str, typer.Option(help="auto, float32, float16 or bfloat16.")] = "auto",
    device: Annotated[str | None, typer.Option(help="Defaults to each process's own GPU, else the CPU.")] = None,
    backend: Annotated[str, typer.Option(help="How span focus is computed; changes only the speed.")] = "auto",
    max_batch_tokens: Annotated[int | None, typer.Option(help="Padded tokens in a batch.")] = None,
    on_error: Annotated[str, typer.Option(help="What a bad row gets: status, or raise to stop.")] = "status",
    chunks: Annotated[int | None, typer.Option(help="Pieces of work; by default of about 4M tokens.")] = None,
    scores_only: Annotated[bool, typer.Option("--scores-only", help="Write row numbers and scores alone.")] = False,
    jsonl: Annotated[bool, typer.Option("--jsonl", help="Write the published script's scores.jsonl too.")] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Throw away the run in OUTPUT and begin anew.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
    status: Annotated[
        str | None, typer.Option("--status", metavar="OUTPUT", help="Show how far a run is, and do nothing else.")
    ] = None,
) -> None:
    """Score the documents of INPUT into OUTPUT, or go on where an interrupted run stopped.

    Several processes: torchrun --nproc_per_node 8 -m ladm_hf score INPUT OUTPUT, or accelerate launch. A killed run
    loses at most the chunk that each process was at; the same command goes on, with any number of processes.
    """
    if status is not None:
        from ladm_hf.progress import run_status

        typer.echo(str(run_status(status)))
        return
    if input is None or output is None:
        raise typer.BadParameter("score needs INPUT and OUTPUT, or --status OUTPUT")
    from ladm_hf.runner import score_command

    geometry = {
        "span_length": span_length, "d_afs": d_afs, "d_cds": d_cds, "ablation": ablation, "max_length": max_length,
        "overflow": overflow,
    }  # fmt: skip
    score_command(
        input,
        output,
        scorer={
            "model": model, "revision": model_revision, "text_column": text_column or None,
            "input_ids_column": input_ids_column or None, "dtype": dtype, "device": device, "backend": backend,
            "max_batch_tokens": max_batch_tokens, "on_error": on_error,
        },
        config_file=config,
        geometry={key: value for key, value in geometry.items() if value is not None},
        split=split,
        name=name,
        revision=revision,
        chunks=chunks,
        scores_only=scores_only,
        jsonl=jsonl,
        restart=restart,
        progress=not quiet,
    )  # fmt: skip


@command
def prepare(
    input: Annotated[
        str, typer.Argument(help="Parquet or JSON lines (path, glob or URL), a folder of save_to_disk, or a Hub id.")
    ],
    output: Annotated[str, typer.Argument(help="A new folder.")],
    model: Annotated[str, typer.Option(help="Calculator whose tokenizer is used.")] = "ladm-nano",
    model_revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the calculator.")] = None,
    split: Annotated[str | None, typer.Option(help="Split of the data.")] = None,
    name: Annotated[str | None, typer.Option(help="Configuration of a Hub data set.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a Hub data set.")] = None,
    text_column: Annotated[str, typer.Option(help="Column of the text; a dot goes into a struct.")] = "text",
    min_tokens: Annotated[int | None, typer.Option(help="Shorter documents are dropped; by default 2,305.")] = None,
    max_length: Annotated[int | None, typer.Option(help="Most tokens of a row; by default 32,768.")] = None,
    overflow: Annotated[str, typer.Option(help="Longer documents: truncate, or windows (chunked_index).")] = "truncate",
    num_proc: Annotated[int, typer.Option(help="Worker processes.")] = 1,
) -> None:
    """Tokenise the documents of INPUT into OUTPUT as text, meta, input_ids, index, the form of the paper's data."""
    import pyarrow.parquet as pq

    from ladm_hf.prepare import prepare_files

    files = prepare_files(
        input,
        output,
        model=model,
        model_revision=model_revision,
        text_column=text_column,
        min_tokens=min_tokens,
        max_length=max_length,
        overflow=overflow,
        num_proc=num_proc,
        split=split,
        name=name,
        revision=revision,
    )
    rows = sum(pq.read_metadata(file).num_rows for file in files)
    typer.echo(f"{rows:,} rows in {files[0].parent}")
