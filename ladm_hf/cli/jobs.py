"""`ladm score --job`: shows what jobs would cost, asks, and starts those that are missing."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import typer

from ladm_hf.cli.options import JOB
from ladm_hf.data.storage import is_url
from ladm_hf.errors import ConfigError, LadmError, ResumeError
from ladm_hf.runs.job_spec import (
    COMMAND_VARIABLE,
    CONFIG_VARIABLE,
    ENVIRONMENT,
    IMAGE,
    JobSpec,
    check_visible,
    default_package,
    job_command,
    timeout_seconds,
)
from ladm_hf.runs.jobs import RunJobs, running
from ladm_hf.text import counted, without_credentials

if TYPE_CHECKING:
    from ladm_hf.config import LadmConfig
    from ladm_hf.data.run_record import RunRecord
    from ladm_hf.runs.flavors import Flavor, Quote, Work
    from ladm_hf.runs.speeds import Speed

# A timeout that nobody gave: a multiple of what is expected, and of the unknown.
SPARE, LEAST_HOURS, UNKNOWN_HOURS = 2, 1, 12
GEOMETRY = ("span_length", "d_afs", "d_cds", "ablation", "max_length", "overflow")


def check_job_options(values: Mapping[str, Any]) -> None:
    """Refuses options of jobs where there are none, and of a run here where there are.

    Raises:
        ConfigError: the message names the option.
    """
    alone = [name for name in (*JOB, "yes", "dry_run") if values[name] and (name, values[name]) != ("jobs", 1)]
    if values["job"] is None and alone:
        raise ConfigError(f"--{alone[0].replace('_', '-')} goes with --job FLAVOR, which is not given")
    if values["job"] is not None and values["estimate"]:
        raise ConfigError("--estimate measures the speed of this machine: --job FLAVOR --dry-run shows that of a job")


def start_jobs(values: Mapping[str, Any], arguments: list[str], command: str) -> None:
    """Starts the jobs of a run that are missing.

    Args:
        values (mapping): parameters of `ladm score`.
        arguments (`list[str]`): of `ladm` in a job.
        command (`str`): the command line that starts what is missing later.
    """
    from ladm_hf.publishing.retry import RetryPolicy, hub_retries
    from ladm_hf.runs.flavors import Quote, find_flavor, list_flavors

    output, wanted = values["output"], values["jobs"]
    _check(values)
    check_visible(values["input"], output, _model(values))
    with hub_retries(RetryPolicy(tries=4)):
        jobs = RunJobs(output, values["namespace"])
        with jobs.refusals():
            flavor = find_flavor(values["job"], list_flavors(jobs.api))
        no_bucket = jobs.bucket_is_missing()
        work, finished = _work(values, begun=not no_bucket)
        if finished:
            print(f"finished already, so nothing is started: {output}")
            return
        earlier = jobs.find()
        for line in jobs.failures(earlier):
            print(line)
        active = len(running(earlier))
        # more jobs than chunks would only wait for each other
        useful = wanted if work is None or work.chunks is None else min(wanted, -(-work.chunks // flavor.processes))
        missing = max(0, useful - active)
        speed = _speed(values, work, flavor)
        quote = Quote(flavor, max(1, active + missing), work, speed)
        print(quote)
        if active:
            print(f"running already: {counted(active, 'job')} of {useful}")
        if not missing:
            print(f"how far it is: {_status_command(values)}")
            return
        specs = _spec(values, jobs, arguments, command, quote).numbered(missing)
        if no_bucket:
            print(f"the private bucket {jobs.bucket} is created first")
        if values["dry_run"]:
            print(f"{counted(missing, 'job')} would be started, as by")
            print(*(spec.command_line() for spec in specs), sep="\n")
            return
        _confirm(values, specs)
        if no_bucket:
            jobs.create_bucket()
        _start(jobs, specs)
    print(f"how far it is: {_status_command(values)}\nto start what is missing later: {command}")


def show_jobs(output: str, namespace: str | None) -> bool:
    """Shows the jobs of a run, if there are any and a token to ask for them; says whether there are."""
    from huggingface_hub import get_token

    if not is_url(output) or get_token() is None:
        return False
    try:
        jobs = RunJobs(output, namespace)
        found = jobs.find()
    except LadmError as error:
        # the run is shown all the same
        print(f"jobs: {error}", file=sys.stderr)
        return False
    if found:
        stages = Counter(job.status.stage.lower() for job in found)
        print(f"jobs of {jobs.namespace}: " + ", ".join(f"{number:,} {stage}" for stage, number in stages.items()))
    for line in jobs.failures(found):
        print(line)
    return bool(found)


def _check(values: Mapping[str, Any]) -> None:
    if not values["yes"] and not values["dry_run"] and not _on_terminal():
        raise ConfigError(
            "--job asks before it starts anything, and there is no terminal to ask on: give --yes, or --dry-run to see "
            "the jobs and their price"
        )
    if values["restart"]:
        raise ConfigError(
            "--restart does not go with --job, since each job would discard what the others did: give another OUTPUT, "
            "or delete the old run first"
        )
    if values["package"] is None:
        default_package()
    if values["timeout"] is not None:
        timeout_seconds(values["timeout"])
    for name in values["secret"] or ():
        if not os.environ.get(name):
            raise ConfigError(f"--secret {name}: there is no environment variable of that name here")


def _on_terminal() -> bool:
    return sys.stdin.isatty()


def _model(values: Mapping[str, Any]) -> str:
    from ladm_hf.calculators.calculator import DEFAULT

    return str(values["model"] or os.environ.get("LADM_MODEL") or DEFAULT)


def _work(values: Mapping[str, Any], *, begun: bool) -> tuple[Work | None, bool]:
    """What is left to score, of a run that may have begun, and whether it is finished."""
    from ladm_hf.runs.flavors import work_left, work_of_input
    from ladm_hf.runs.open import output_at

    config = _config(values)
    output = output_at(values["output"])
    run = output.load() if begun else None
    if run is not None:
        _check_same(values, run, config)
        return work_left(run, output.records(run)), output.is_published(run)
    longest = config.max_length if config.overflow == "truncate" else sys.maxsize
    columns = [column for column in (values["text_column"], values["input_ids_column"]) if column]
    rows = {name: values[name] for name in ("split", "name", "revision", "limit")}
    return work_of_input(values["input"], columns, longest, **rows), False


def _config(values: Mapping[str, Any]) -> LadmConfig:
    """The configuration in force in a job."""
    from ladm_hf.calculators.calculator import outline
    from ladm_hf.config import LadmConfig

    base = LadmConfig() if values["config"] is None else LadmConfig.from_json_file(values["config"])
    given = {name: getattr(base, name) for name in base.given}
    given |= {name: values[name] for name in GEOMETRY if values[name] is not None}
    config = LadmConfig.paper(**given) if values["paper"] else LadmConfig(**given)
    return config.over(outline(_model(values), values["model_revision"]).config)


def _check_same(values: Mapping[str, Any], run: RunRecord, config: LadmConfig) -> None:
    """Refuses settings that every job would be refused for, before any is paid."""
    from ladm_hf.data.score_columns import checked_signals

    asked = {
        "split": values["split"] if str(values["split"] or "").isidentifier() else "train",
        "scores_only": values["scores_only"],
        "limit": values["limit"],
        "text_column": values["text_column"] or None,
        "input_ids_column": values["input_ids_column"] or None,
        "signals": ",".join(checked_signals(values["signals"])) or None,
        **{f"config.{name}": value for name, value in config.to_dict().items()},
    }
    pairs = {name: (run.identity.get(name), value) for name, value in asked.items()}
    pairs["model"] = (run.calculator or _model(values), _model(values))
    pairs["chunks"] = (run.num_chunks, values["chunks"] or run.num_chunks)
    differences = [f"{name}: {there!r} there, {now!r} now" for name, (there, now) in pairs.items() if there != now]
    if differences:
        raise ResumeError(
            f"{values['output']} holds a run with other settings ({'; '.join(differences)}): use the same settings to "
            "continue it, or another OUTPUT"
        )


def _speed(values: Mapping[str, Any], work: Work | None, flavor: Flavor) -> Speed | None:
    from ladm_hf.calculators.calculator import outline
    from ladm_hf.runs.speeds import expected_speed

    if work is not None and work.speed is not None:
        return work.speed
    parameters = outline(_model(values), values["model_revision"]).parameters
    if parameters is None:
        return None
    signals = [name for name in values["signals"].split(",") if name]
    length = None if work is None else work.tokens_per_document
    return expected_speed(flavor.gpu, flavor.cores, parameters, length, signals)


def _spec(values: Mapping[str, Any], jobs: RunJobs, arguments: list[str], command: str, quote: Quote) -> JobSpec:
    from huggingface_hub import constants

    hours = UNKNOWN_HOURS if quote.seconds is None else max(LEAST_HOURS, -(-SPARE * quote.seconds // 3600))
    timeout = values["timeout"] or f"{hours:.0f}h"
    if quote.seconds is not None and timeout_seconds(timeout) < quote.seconds:
        print(
            f"a job ends after --timeout {timeout}, before all is expected to be done: its finished chunks are kept, "
            "and the same command starts what is missing"
        )
    env = {**ENVIRONMENT, COMMAND_VARIABLE: command}
    if values["config"] is not None:
        with open(values["config"], encoding="utf-8") as file:
            env[CONFIG_VARIABLE] = json.dumps(json.load(file))
    if constants.ENDPOINT != "https://huggingface.co":
        env["HF_ENDPOINT"] = constants.ENDPOINT
    spec = JobSpec(
        image=values["image"] or IMAGE,
        command=job_command(
            arguments,
            values["package"] or default_package(),
            quote.flavor.processes,
            config=values["config"] is not None,
        ),
        flavor=quote.flavor.name,
        timeout=timeout,
        namespace=jobs.namespace,
        env=env,
        secrets=("HF_TOKEN", *(values["secret"] or ())),
        labels={**jobs.label, "name": jobs.name},
    )
    line = spec.command_line()
    if without_credentials(line, [jobs.token]) != line:
        raise ConfigError("the job would show a token in its command: give it by --secret, and URLs without it")
    return spec


def _confirm(values: Mapping[str, Any], specs: list[JobSpec]) -> None:
    print(f"each with --timeout {specs[0].timeout} in {specs[0].image}, paid by {specs[0].namespace}")
    if not values["yes"] and not typer.confirm(f"start {counted(len(specs), 'job')}?"):
        print("nothing was started")
        raise typer.Exit(1)


def _start(jobs: RunJobs, specs: list[JobSpec]) -> None:
    for number, spec in enumerate(specs):
        try:
            job = jobs.start(spec)
        except LadmError:
            if number:
                print(f"started {number} of {counted(len(specs), 'job')}; the same command starts the rest")
            raise
        print(f"started {job.url}")


def _status_command(values: Mapping[str, Any]) -> str:
    words = ["ladm", "score", "--status", values["output"]]
    return shlex.join(words + (["--namespace", values["namespace"]] if values["namespace"] else []))
