"""`ladm score` and `ladm prepare`."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ladm_hf.cli.job_options import DryRun, Image, Job, Namespace, NumJobs, Package, Secret, Timeout, Yes
from ladm_hf.cli.jobs import check_job_options, show_jobs, start_jobs
from ladm_hf.cli.options import (
    DATA,
    JOB,
    ONCE,
    Ablation,
    Backend,
    Device,
    Dtype,
    Input,
    Model,
    ModelRevision,
    Name,
    OnError,
    OptionsFile,
    Overflow,
    Revision,
    Split,
    TextColumn,
    options_text,
    save_options,
)
from ladm_hf.data.score_columns import SIGNALS
from ladm_hf.errors import LadmError, RunError
from ladm_hf.runs.job_spec import COMMAND_VARIABLE, CONFIG_FILE
from ladm_hf.text import command_line, without_credentials

if TYPE_CHECKING:
    from ladm_hf.runs.cascade import Cascade
    from ladm_hf.scoring.scorer import LadmScorer

# Exit code of a run after which no document has a score, or of prepared data without a document.
NOTHING_SCORED = 3
# torchrun takes --signals for an abbreviation of its own --signals-to-handle, on Python 3.11 even behind the module.
FOR_TORCHRUN = "--add-signals"
ITS_OWN = "the calculator's, else "


def score(
    context: typer.Context,
    input: Annotated[str | None, typer.Argument(help=DATA)] = None,
    output: Annotated[
        str | None, typer.Argument(help="Folder that all processes share, or a URL (s3://, hf://buckets/, ...).")
    ] = None,
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
    config: Annotated[
        str | None,
        typer.Option(help="JSON file of options of the score (ladm_config.json).", show_default="the calculator's own"),
    ] = None,
    span_length: Annotated[int | None, typer.Option(help="Tokens in a span.", show_default=f"{ITS_OWN}128")] = None,
    d_afs: Annotated[
        int | None, typer.Option(help="Stride between key spans, in spans.", show_default=f"{ITS_OWN}4")
    ] = None,
    d_cds: Annotated[
        int | None, typer.Option(help="Stride between query spans, in spans.", show_default=f"{ITS_OWN}4")
    ] = None,
    paper: Annotated[
        bool,
        typer.Option(
            "--paper", help="The paper's score over all heads and factors, whatever the calculator's calibration."
        ),
    ] = False,
    ablation: Annotated[
        Ablation | None, typer.Option(help="Factors to leave out of the score.", show_default=f"{ITS_OWN}none")
    ] = None,
    max_length: Annotated[
        int | None, typer.Option(help="Longest piece scored at once, in tokens.", show_default=f"{ITS_OWN}32768")
    ] = None,
    overflow: Annotated[
        Overflow | None, typer.Option(help="What happens beyond that.", show_default=f"{ITS_OWN}truncate")
    ] = None,
    dtype: Annotated[
        Dtype,
        typer.Option(
            help="Precision; auto is float16 on a GPU, and on a CPU bfloat16 where it is faster (AMX, AVX512-BF16), "
            "else float32. A resumed run keeps its own."
        ),
    ] = "auto",
    device: Device = None,
    backend: Annotated[Backend, typer.Option(help="How span focus is computed; changes only the speed.")] = "auto",
    max_batch_tokens: Annotated[
        int | None, typer.Option(help="Padded tokens in a batch.", show_default="what half of the GPU's memory holds")
    ] = None,
    on_error: Annotated[OnError, typer.Option(help="A bad row gets a status, or stops the run.")] = "status",
    signals: Annotated[
        str,
        typer.Option(
            "--signals",
            FOR_TORCHRUN,
            help=f"Other signals to write beside the score, by commas: {', '.join(SIGNALS)}.",
            show_default="none",
        ),
    ] = "",
    short_context: Annotated[
        int, typer.Option(min=1, help="Tokens of the short context of context_gain and key_token_share.")
    ] = 4096,
    cascade: Annotated[
        str | None,
        typer.Option(
            help="Calculator of a first pass over everything, such as ladm-nano, with its own calibration; --model "
            "scores what that ranks highest.",
            show_default="none: one pass",
        ),
    ] = None,
    cascade_keep: Annotated[
        str | None,
        typer.Option(
            help="What goes on to the second pass: a share of the tokens of each domain (20%) or tokens (1B).",
            show_default="none; --cascade needs it",
        ),
    ] = None,
    cascade_by: Annotated[
        str, typer.Option(help="Column of the domain for --cascade-keep; '' ranks all rows as one.")
    ] = "domain",
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
        bool, typer.Option("--estimate", help="Show documents, tokens and hours by a quick sample; score nothing.")
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

    Several processes: torchrun --nproc_per_node 8 -m ladm_hf score INPUT OUTPUT, or accelerate launch. A killed run
    loses at most the chunk each process was working on; the same command resumes it, with any number of processes.
    In two passes: ladm score INPUT OUTPUT --model BIG --cascade ladm-nano --cascade-keep 20%.
    On rented GPUs: ladm score owner/pool hf://buckets/owner/name/run --job l4x1 --jobs 4.
    """
    if status is not None:
        _show_status(status, namespace)
        return
    if input is None or (output is None and not estimate):
        raise typer.BadParameter("score needs INPUT and OUTPUT, or INPUT --estimate, or --status OUTPUT")
    if (cascade is None) != (cascade_keep is None):
        raise typer.BadParameter("--cascade and --cascade-keep go together: a calculator, and what goes on to --model")
    if cascade is not None and (estimate or job is not None):
        other = "--estimate" if estimate else "--job"
        raise typer.BadParameter(f"{other} is of one pass: leave out --cascade, or run both passes on one machine")
    check_job_options(context.params)
    if job is not None:
        start_jobs(context.params, job_arguments(context.params), launch_command(context.params))
        return
    geometry = {
        "span_length": span_length,
        "d_afs": d_afs,
        "d_cds": d_cds,
        "ablation": ablation,
        "max_length": max_length,
        "overflow": overflow,
    }
    made = {
        "model": model,
        "revision": model_revision,
        "text_column": text_column or None,
        "input_ids_column": input_ids_column or None,
        "dtype": dtype,
        "device": device,
        "backend": backend,
        "max_batch_tokens": max_batch_tokens,
        "on_error": on_error,
        "signals": signals,
        "short_context": short_context,
        "config_file": config,
        "paper": paper,
        "geometry": {key: value for key, value in geometry.items() if value is not None},
    }
    rows = {"split": split, "name": name, "revision": revision, "limit": limit}
    if output is None or estimate:
        _estimate(input, made, rows)
        return
    _score(
        input,
        output,
        made,
        rows,
        first=(cascade, cascade_keep, cascade_by or None),
        chunks=chunks,
        scores_only=scores_only,
        jsonl=jsonl,
        restart=restart,
        progress=False if quiet else None,
        command=rerun_command(context.params),
        options=options_text(context),
    )


def _scorer(*, config_file: str | None, geometry: dict[str, Any], paper: bool, **options: Any) -> LadmScorer:
    """The scorer of the command line."""
    from ladm_hf.config import LadmConfig
    from ladm_hf.scoring.scorer import LadmScorer

    base = LadmConfig() if config_file is None else LadmConfig.from_json_file(config_file)
    given = {name: getattr(base, name) for name in base.given} | geometry
    return LadmScorer(**options, config=LadmConfig.paper(**given) if paper else LadmConfig(**given))


def _estimate(data: str, scorer: dict[str, Any], rows: dict[str, Any]) -> None:
    from ladm_hf.runs.runner import estimate_scoring

    found = estimate_scoring(data, _scorer(**scorer), **rows)
    print(found if found is not None else "nothing to score: no document has a token")


def _first_pass(calculator: str | None, keep: str | None, by: str | None, second: dict[str, Any]) -> Cascade | None:
    """The first pass of the command line: the same rows, device and geometry, and the calculator's own calibration."""
    if calculator is None or keep is None:
        return None
    from ladm_hf.config import LadmConfig
    from ladm_hf.runs.cascade import Cascade
    from ladm_hf.scoring.scorer import LadmScorer

    shared = ("text_column", "input_ids_column", "dtype", "device", "backend", "max_batch_tokens", "on_error")
    geometry = {name: value for name, value in second["geometry"].items() if name != "ablation"}
    options = {name: second[name] for name in shared}
    return Cascade(LadmScorer(calculator, config=LadmConfig(**geometry), **options), keep, by)


def _score(
    data: str,
    output: str,
    scorer: dict[str, Any],
    rows: dict[str, Any],
    *,
    first: tuple[str | None, str | None, str | None],
    progress: bool | None,
    **options: Any,
) -> None:
    """Scores, and shows the result."""
    from ladm_hf.ranks import is_first_rank, tell_launcher
    from ladm_hf.runs.open import lock_of, output_at

    main = is_first_rank()
    if main:
        # a second launch is refused before it spends seconds on importing torch
        lock_of(output_at(output)).check_free(lambda message: print(f"ladm: {message}", file=sys.stderr))

    import torch

    from ladm_hf.runs.progress import run_status
    from ladm_hf.runs.runner import run_scoring

    try:
        cascade = _first_pass(*first, scorer)
        run_scoring(data, output, _scorer(**scorer), **rows, **options, progress=progress, cascade=cascade)
    except LadmError as error:
        if main:
            raise
        # rank 0 prints what all ranks share
        tell_launcher(str(error))
        raise SystemExit(1) from None
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    if not main:
        return
    status = run_status(output)
    if progress is not False:
        print(f"{status}\nresult: {output_at(output).name}/data")
    if not status.num_scored:
        print(f"error: {status.why_nothing_was_scored()}", file=sys.stderr)
        tell_launcher(status.why_nothing_was_scored())
        raise typer.Exit(NOTHING_SCORED)


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


def prepare(
    context: typer.Context,
    input: Input,
    output: Annotated[str, typer.Argument(help="A new folder, or a URL.")],
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
