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
from ladm_hf.data.results import refuse_repository
from ladm_hf.data.storage import is_url
from ladm_hf.errors import ConfigError, LadmError
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
    from ladm_hf.runs.flavors import Quote

# Characters of a secret that are too few to look for.
SHORT_SECRET = 7
# A timeout that nobody gave: a multiple of what is expected, and of the unknown.
SPARE, LEAST_HOURS, UNKNOWN_HOURS = 2, 1, 12


def check_job_options(values: Mapping[str, Any]) -> None:
    """Refuses options of jobs where there are none, and of a run here where there are.

    Raises:
        ConfigError: the message names the option.
    """
    alone = [name for name in (*JOB, "yes", "dry_run") if values[name] and (name, values[name]) != ("jobs", 1)]
    if values["job"] is None and alone:
        raise ConfigError(f"--{alone[0].replace('_', '-')} goes with --job FLAVOR, which is not given")


def start_jobs(values: Mapping[str, Any], arguments: list[str], command: str) -> None:
    """Starts the jobs of a run that are missing.

    Args:
        values (mapping): parameters of `ladm score`.
        arguments (`list[str]`): of `ladm` in a job.
        command (`str`): the command line that starts what is missing later.
    """
    from ladm_hf.cli.job_quote import models_of, passes_left
    from ladm_hf.publishing.retry import RetryPolicy, hub_retries
    from ladm_hf.runs.flavors import Quote, find_flavor, list_flavors

    output, wanted = values["output"], values["jobs"]
    _check(values, command)
    check_visible(values["input"], output, models_of(values))
    refuse_repository(output, "score")
    with hub_retries(RetryPolicy(tries=4)):
        jobs = RunJobs(output, values["namespace"])
        with jobs.refusals():
            flavor = find_flavor(values["job"], list_flavors(jobs.api))
        flavor.check_dtype(values["dtype"])
        no_bucket = jobs.bucket_is_missing()
        passes, finished = passes_left(values, flavor, begun=not no_bucket)
        if finished:
            print(f"finished already, so nothing is started: {output}")
            return
        earlier = jobs.find()
        for line in jobs.failures(earlier):
            print(line)
        active = len(running(earlier))
        # more jobs than chunks would only wait for each other
        chunks = [None if each.work is None else each.work.chunks for each in passes]
        useful = wanted if None in chunks else min(wanted, -(-max(filter(None, chunks), default=0) // flavor.processes))
        missing = max(0, useful - active)
        quote = Quote(flavor, max(1, active + missing), passes)
        print(quote)
        if active:
            print(f"running already: {counted(active, 'job')} of {useful}")
        if not missing:
            print(f"how far it is: {_status_command(values)}")
            return
        specs = _spec(values, jobs, arguments, command, quote).numbered(missing)
        if no_bucket:
            print(f"the private bucket {jobs.bucket} is created first")
        if values["dry_run"] or values["estimate"]:
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


def _check(values: Mapping[str, Any], command: str) -> None:
    if not any(values[name] for name in ("yes", "dry_run", "estimate")) and not _on_terminal():
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
    # a short one may stand there for something else
    _check_hides(command, [value for name in values["secret"] or () if len(value := os.environ[name]) > SHORT_SECRET])


def _check_hides(line: str, secrets: list[str]) -> None:
    """Refuses what anybody with access to a job would see."""
    if without_credentials(line, secrets) != line:
        raise ConfigError(
            "a job would show a token or secret in its command: give it by --secret alone, and URLs without it"
        )


def _on_terminal() -> bool:
    return sys.stdin.isatty()


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
    _check_hides(spec.command_line(), [jobs.token])
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
