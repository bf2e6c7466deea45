"""`ladm score` and `ladm prepare`."""

from __future__ import annotations

import dataclasses
import os
import shlex
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from ladm_hf.errors import LadmError


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
        from ladm_hf.runs.progress import run_status

        typer.echo(str(run_status(status)))
        return
    if input is None or output is None:
        raise typer.BadParameter("score needs INPUT and OUTPUT, or --status OUTPUT")
    geometry = {
        "span_length": span_length, "d_afs": d_afs, "d_cds": d_cds, "ablation": ablation, "max_length": max_length,
        "overflow": overflow,
    }  # fmt: skip
    _score(
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


def _score(
    data: str,
    output: str,
    *,
    scorer: dict[str, Any],
    config_file: str | None,
    geometry: dict[str, Any],
    progress: bool,
    **options: Any,
) -> None:
    """Builds the scorer from the command line, scores, and says at the end what there is."""
    from ladm_hf.ranks import is_first_rank
    from ladm_hf.runs.folder import RunFolder
    from ladm_hf.runs.lock import RunLock

    main = is_first_rank()
    if main:
        # a second launch is refused before it spends seconds on importing torch
        RunLock(RunFolder(output)).check_free(lambda message: typer.echo(f"ladm: {message}", err=True))

    import torch

    from ladm_hf.config import LadmConfig
    from ladm_hf.runs.progress import run_status
    from ladm_hf.runs.runner import run_scoring
    from ladm_hf.scoring.scorer import LadmScorer

    made = LadmScorer(**scorer)
    if config_file is not None or geometry:
        base = made.config if config_file is None else LadmConfig.from_json_file(config_file)
        made = LadmScorer(**scorer, config=dataclasses.replace(base, **geometry))
    try:
        run_scoring(
            data, output, made, **options, progress=None if progress else False, command=rerun_command(sys.argv[1:])
        )
    except LadmError:
        if main:
            raise
        # rank 0 says it
        raise SystemExit(1) from None
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    if main and progress:
        print(f"{run_status(output)}\nresult: {RunFolder(output).data}")


def rerun_command(arguments: Sequence[str]) -> str:
    """The command line that goes on with this launch, as far as a process can know it."""
    local, nodes = os.environ.get("LOCAL_WORLD_SIZE", "1"), os.environ.get("GROUP_WORLD_SIZE", "1")
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return shlex.join(["ladm", *arguments])
    where = f"--nnodes {nodes} ... " if nodes != "1" else ""
    return f"torchrun {where}--nproc_per_node {local} -m ladm_hf {shlex.join(arguments)}"


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

    from ladm_hf.calculators.calculator import resolve
    from ladm_hf.data.open import open_source
    from ladm_hf.runs.prepare import prepare_files

    files = prepare_files(
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
    rows = sum(pq.read_metadata(file).num_rows for file in files)
    typer.echo(f"{rows:,} rows in {files[0].parent}")
