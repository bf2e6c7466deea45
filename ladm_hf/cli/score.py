"""`ladm score`."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from ladm_hf.cli.job_options import DryRun, Image, Job, Namespace, NumJobs, Package, Secret, Timeout, Yes
from ladm_hf.cli.jobs import check_job_options, show_jobs, start_jobs
from ladm_hf.cli.options import (
    DATA,
    JOB,
    NOTHING_SCORED,
    ONCE,
    OUTPUT,
    Device,
    ModelRevision,
    Name,
    OnError,
    OptionsFile,
    Revision,
    Split,
    TextColumn,
    options_text,
)
from ladm_hf.cli.score_options import (
    FOR_TORCHRUN,
    AfsStride,
    CdsStride,
    Config,
    FirstBy,
    FirstCalculator,
    FirstKeep,
    FirstMaxLength,
    HowFocus,
    MaxBatchTokens,
    MaxLength,
    Paper,
    Precision,
    ShortContext,
    Signals,
    SpanLength,
    WhatOverflows,
    WithoutFactors,
)
from ladm_hf.cli.scoring import score_here, show_estimate
from ladm_hf.errors import RunError
from ladm_hf.runs.job_spec import COMMAND_VARIABLE, CONFIG_FILE
from ladm_hf.text import command_line, without_credentials


def score(
    context: typer.Context,
    input: Annotated[str | None, typer.Argument(help=DATA)] = None,
    output: Annotated[str | None, typer.Argument(help=f"{OUTPUT} that all processes share.")] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Calculator: ladm-nano, a folder or a Hub id.", show_default="$LADM_MODEL, else ladm-nano"),
    ] = None,
    model_revision: ModelRevision = None,
    split: Split = None,
    name: Name = None,
    revision: Revision = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Score only the first rows: a trial.", show_default="all rows")
    ] = None,
    text_column: TextColumn = "text",
    input_ids_column: Annotated[str, typer.Option(help="Column of token ids, read where there is no text.")] = (
        "input_ids"
    ),
    config: Config = None,
    span_length: SpanLength = None,
    d_afs: AfsStride = None,
    d_cds: CdsStride = None,
    paper: Paper = False,
    ablation: WithoutFactors = None,
    max_length: MaxLength = None,
    overflow: WhatOverflows = None,
    dtype: Precision = "auto",
    device: Device = None,
    backend: HowFocus = "auto",
    max_batch_tokens: MaxBatchTokens = None,
    on_error: Annotated[OnError, typer.Option(help="A bad row gets a status, or stops the run.")] = "status",
    signals: Signals = "",
    short_context: ShortContext = 4096,
    cascade: FirstCalculator = None,
    cascade_keep: FirstKeep = None,
    cascade_by: FirstBy = "domain",
    cascade_max_length: FirstMaxLength = None,
    chunks: Annotated[
        int | None, typer.Option(help="Pieces of work.", show_default="of about 4M tokens, at least 64")
    ] = None,
    scores_only: Annotated[bool, typer.Option("--scores-only", help="Write row numbers and scores alone.")] = False,
    jsonl: Annotated[bool, typer.Option("--jsonl", help="Also write the published script's scores.jsonl.")] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Discard the run in OUTPUT and start over.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
    status: Annotated[
        str | None,
        typer.Option(
            "--status", metavar="OUTPUT", help="Show how far a run is, and do nothing else.", show_default="off"
        ),
    ] = None,
    estimate: Annotated[
        bool,
        typer.Option(
            "--estimate",
            help="Show documents, tokens and hours by a quick sample, with --job the price as by --dry-run; score "
            "nothing.",
        ),
    ] = False,
    job: Job = None,
    jobs: NumJobs = 1,
    timeout: Timeout = None,
    namespace: Namespace = None,
    image: Image = None,
    package: Package = None,
    secret: Secret = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    options: OptionsFile = None,
) -> None:
    """Score the documents of INPUT into OUTPUT, or resume an interrupted run.

    Several processes: torchrun --nproc_per_node 8 -m ladm_hf score INPUT OUTPUT, or accelerate launch. A killed run loses at most the chunk each process was working on (on a GPU, three); the same command resumes it, with any number of processes.

    In two passes: ladm score INPUT OUTPUT --model BIG --cascade ladm-nano --cascade-keep 20%

    On rented GPUs: ladm score owner/pool hf://buckets/owner/name/run --job l4x1 --jobs 4
    """  # noqa: E501  (a line of the help that is broken here is broken there)
    if status is not None:
        _show_status(status, namespace)
        return
    if input is None or (output is None and (job is not None or not estimate)):
        raise typer.BadParameter("score needs INPUT and OUTPUT, or INPUT --estimate, or --status OUTPUT")
    if (cascade is None) != (cascade_keep is None):
        raise typer.BadParameter("--cascade and --cascade-keep go together: a calculator, and what goes on to --model")
    if cascade_max_length is not None and cascade is None:
        raise typer.BadParameter("--cascade-max-length is of the first of two passes: name its calculator by --cascade")
    check_job_options(context.params)
    if job is not None:
        start_jobs(context.params, job_arguments(context.params), launch_command(context.params))
    elif estimate:
        show_estimate(context.params)
    else:
        score_here(context.params, rerun_command(context.params), options_text(context))


def _show_status(output: str, namespace: str | None) -> None:
    from ladm_hf.runs.progress import run_status

    try:
        found = run_status(output)
    except RunError:
        # jobs that are still starting have not begun their run
        if not show_jobs(output, namespace):
            raise
        print(f"no job has begun the run yet: {output}")
        return
    print(found)
    show_jobs(output, namespace)
    if found.state == "finished" and not found.num_scored:
        raise typer.Exit(NOTHING_SCORED)


def launch_command(values: Mapping[str, Any]) -> str:
    """The command line that starts the jobs of a run, those that are missing."""
    left_out = ("input", "output", *(name for name in ONCE if name not in JOB))
    return _line(values, {name: value for name, value in values.items() if name not in left_out})


def job_arguments(values: Mapping[str, Any]) -> list[str]:
    """What `ladm` is given in a job, where neither the environment nor the files of this machine are."""
    here = {name: value for name, value in values.items() if name not in ("input", "output", *ONCE)}
    here |= {"model": values["model"] or os.environ.get("LADM_MODEL")}
    here |= {"config": None if values["config"] is None else CONFIG_FILE}
    return shlex.split(_line(values, here).replace(" --signals ", f" {FOR_TORCHRUN} "))[1:]


def _line(values: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    return command_line("score", score, [without_credentials(values[name]) for name in ("input", "output")], options)


def rerun_command(values: Mapping[str, Any]) -> str:
    """The command line that resumes this launch, as far as a process can know it."""
    if command := os.environ.get(COMMAND_VARIABLE):
        # this is a job, which was started from elsewhere
        return command
    line = _line(values, {name: value for name, value in values.items() if name not in ("input", "output", *ONCE)})
    local, nodes = os.environ.get("LOCAL_WORLD_SIZE", "1"), os.environ.get("GROUP_WORLD_SIZE", "1")
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return line
    where = f"--nnodes {nodes} ... " if nodes != "1" else ""
    line = line.removeprefix("ladm ").replace(" --signals ", f" {FOR_TORCHRUN} ")
    return f"torchrun {where}--nproc_per_node {local} -m ladm_hf {line}"
