"""Scoring on Hugging Face Jobs: independent jobs that work on one run, whose output is a URL.

A job takes a public image, installs this package and runs `ladm score INPUT OUTPUT`, under torchrun where it has
several GPUs. The jobs of a run are found by a label made of OUTPUT, so that what is missing is the number asked for
less those that have not ended, from whatever machine the command is given.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import xxhash

from ladm_hf.data.hub import LOG_IN, is_repo_name
from ladm_hf.errors import ConfigError, RunError
from ladm_hf.text import duration, one_line, redacted
from ladm_hf.version import __version__

if TYPE_CHECKING:
    from huggingface_hub import JobInfo

# PyTorch's own image: CUDA, torch, and the C compiler that Triton needs.
IMAGE = "pytorch/pytorch:2.11.0-cuda12.8-cudnn9-runtime"
RUN_LABEL, JOB_LABEL = "ladm-run", "ladm-job"
# Variables of a job: the command that started it, for its messages and records; the content of a --config file.
COMMAND_VARIABLE, CONFIG_VARIABLE = "LADM_COMMAND", "LADM_CONFIG_JSON"
CONFIG_FILE = "/tmp/ladm_config.json"
ENDED = frozenset({"COMPLETED", "CANCELED", "ERROR", "DELETED"})
START_TRIES = 4
FIRST_WAIT = 1.0
LOG_LINES = 5
SHOWN_FAILURES = 3
_TIMEOUT = re.compile(r"(\d+(?:\.\d+)?)([smhd]?)")
_SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


@dataclass(frozen=True)
class JobSpec:
    """What a job is.

    Attributes:
        image (`str`), command (`tuple[str, ...]`), flavor (`str`), timeout (`str`): as `hf jobs run` takes them.
        namespace (`str`): user or organization that it runs under and that pays.
        env (mapping): variables that anybody with access to the job may see.
        secrets (`tuple[str, ...]`): names of variables of this process whose values only the job sees.
        labels (mapping): what the jobs of a run are found by, and which of them it is.
    """

    image: str
    command: tuple[str, ...]
    flavor: str
    timeout: str
    namespace: str
    env: Mapping[str, str]
    secrets: tuple[str, ...]
    labels: Mapping[str, str]

    def numbered(self, count: int) -> list[JobSpec]:
        """So many jobs of this kind, each with a label of its own."""
        launch = uuid.uuid4().hex[:8]
        return [replace(self, labels={**self.labels, JOB_LABEL: f"{launch}-{n}"}) for n in range(count)]

    def command_line(self) -> str:
        """The command of the Hub's own client that starts the same job."""
        words = ["hf", "jobs", "run", "--detach", "--flavor", self.flavor, "--timeout", self.timeout]
        words += ["--namespace", self.namespace]
        for option, values in (("--label", self.labels), ("--env", self.env)):
            for name, value in values.items():
                words += [option, f"{name}={value}"]
        for name in self.secrets:
            words += ["--secrets", name]
        return shlex.join([*words, self.image, *self.command])


def job_command(arguments: Sequence[str], package: str, processes: int, *, config: bool = False) -> tuple[str, ...]:
    """What a job runs: the installation of this package, and `ladm` with some arguments.

    Args:
        arguments (sequence of `str`): of `ladm`: `score`, INPUT, OUTPUT and options.
        package (`str`): requirement or URL for pip.
        processes (`int`): that share the GPUs of the job.
        config (`bool`, *optional*): whether the variable of the configuration is written to its file first.
    """
    launcher = f"torchrun --nproc_per_node {processes}" if processes > 1 else "python"
    steps = [f"python -m pip install --quiet {shlex.quote(package)}"]
    steps += [f'printf %s "${CONFIG_VARIABLE}" > {CONFIG_FILE}'] if config else []
    return ("bash", "-c", " && ".join([*steps, f"exec {launcher} -m ladm_hf {shlex.join(arguments)}"]))


def default_package() -> str:
    """The requirement of this very version.

    Raises:
        ConfigError: it is under development, so that no registry has it.
    """
    if "dev" in __version__:
        raise ConfigError(
            f"a job cannot install ladm-hf {__version__}, which is not released: give --package as pip takes it, the "
            "URL of a wheel or of an archive of the sources"
        )
    return f"ladm-hf=={__version__}"


def timeout_seconds(text: str) -> float:
    """The seconds of a timeout such as `90m` or `6h`; a number alone is seconds.

    Raises:
        ConfigError: it is none.
    """
    found = _TIMEOUT.fullmatch(text)
    if not found or not float(found[1]):
        raise ConfigError(f"--timeout must be a number with s, m, h or d such as 6h, found {text!r}")
    return float(found[1]) * _SECONDS[found[2]]


def check_visible(data: str, output: str, model: str) -> None:
    """Refuses what a job cannot see: files of this machine.

    Raises:
        ConfigError: data, output or calculator are here alone; the message says what to do.
    """
    if "://" not in output or output.startswith("file:"):
        raise ConfigError(
            f"--job needs an OUTPUT that outlives the job, such as hf://buckets/owner/name/run, found {output!r}"
        )
    remote = "://" in data and not data.startswith("file:")
    if not remote and (os.path.exists(os.path.expanduser(data)) or not is_repo_name(data)):
        raise ConfigError(
            f"a job cannot see {data!r} on this machine: upload it (hf upload owner/name FOLDER --repo-type dataset, "
            "or hf buckets sync FOLDER hf://buckets/owner/name) and give its Hub id or URL as INPUT"
        )
    if os.path.isdir(os.path.expanduser(model)):
        raise ConfigError(
            f"a job cannot see the calculator {model!r} on this machine: upload it (hf upload owner/name "
            f"{shlex.quote(model)} --private) and give --model owner/name"
        )


class RunJobs:
    """The jobs of one run on the Hub.

    Args:
        output (`str`): URL of the run.
        namespace (`str`, *optional*): user or organization that the jobs run under, the token's own by default.

    Raises:
        ConfigError: the installed `huggingface_hub` is too old.
        RunError: there is no token, or the Hub refuses it.
    """

    def __init__(self, output: str, namespace: str | None = None) -> None:
        from huggingface_hub import HfApi, get_token
        from huggingface_hub import __version__ as version

        if tuple(map(int, version.split(".")[:2])) < (1, 21):
            raise ConfigError(f"--job needs huggingface_hub 1.21, found {version}: pip install -U huggingface_hub")
        self.token = get_token()
        if self.token is None:
            raise RunError(f"jobs need a token of the Hub: {LOG_IN}")
        self.api = HfApi()
        self.label = {RUN_LABEL: xxhash.xxh3_64_hexdigest(output.rstrip("/").encode())}
        self.name = re.sub(r"[^A-Za-z0-9_-]+", "-", "-".join(["ladm", *output.rstrip("/").split("/")[-2:]]))
        self.namespace = namespace or ""
        with self.refusals():
            self.namespace = namespace or self.api.whoami()["name"]

    @contextlib.contextmanager
    def refusals(self) -> Iterator[None]:
        """What the Hub refuses, in one line that says what to do."""
        from huggingface_hub.errors import HfHubHTTPError

        try:
            yield
        except HfHubHTTPError as error:
            raise RunError(self._refusal(error, getattr(error.response, "status_code", 0))) from error
        except Exception as error:
            if not _of_the_network(error):
                raise
            raise RunError(
                f"the Hub cannot be reached for its jobs, try again later: {one_line(str(error), 200)}"
            ) from (error)

    def _refusal(self, error: Any, status: int) -> str:
        who = f"{self.namespace!r}" if self.namespace else "this token"
        if status == 402:
            return f"{who} has no credit for jobs (402): add some at {self.api.endpoint}/settings/billing"
        if status == 403:
            return (
                f"the token may not run jobs for {who} (403): take one with write access to jobs "
                f"({self.api.endpoint}/settings/tokens), or another --namespace"
            )
        if status == 404:
            return f"the Hub knows no {who} that runs jobs (404): check --namespace"
        if status == 401:
            return f"the Hub does not accept the token (401): {LOG_IN}"
        message = getattr(error, "server_message", None) or str(error)
        return f"the Hub refuses a job of {who} ({status}): {one_line(str(message), 300)}"

    def find(self) -> list[JobInfo]:
        """All jobs of the run, the newest first."""
        with self.refusals():
            found = list(self.api.list_jobs(labels=self.label, namespace=self.namespace))
        return sorted(found, key=lambda job: (job.created_at is not None, job.created_at), reverse=True)

    def start(self, spec: JobSpec) -> JobInfo:
        """Starts a job, once even where the answer of the Hub is lost."""
        secrets = {name: self.token if name == "HF_TOKEN" else os.environ[name] for name in spec.secrets}
        with self.refusals():
            for attempt in range(START_TRIES):
                try:
                    return self.api.run_job(
                        image=spec.image, command=list(spec.command), flavor=spec.flavor, timeout=spec.timeout,
                        namespace=spec.namespace, env=dict(spec.env), secrets=secrets, labels=dict(spec.labels),
                    )  # fmt: skip
                except Exception as error:
                    if attempt + 1 == START_TRIES or not _may_pass(error):
                        raise
                time.sleep(FIRST_WAIT * 2.0**attempt)
                # it may have been started all the same
                if begun := [job for job in self.find() if _number_of(job) == spec.labels[JOB_LABEL]]:
                    return begun[0]
        raise AssertionError("the last try returns or raises")

    def log_lines(self, job: JobInfo) -> list[str]:
        """The last lines that a job printed, without control characters and tokens; none where the Hub has none."""
        try:
            lines = list(self.api.fetch_job_logs(job_id=job.id, namespace=self.namespace, tail=LOG_LINES))
        except Exception as error:  # the log is shown beside what matters; its client raises whatever a stream raises
            return [f"(its log cannot be read: {one_line(str(error), 200)})"]
        shown = [one_line(redacted(line, self.token), 300) for line in lines]
        return [line for line in shown if line][-LOG_LINES:]

    def failures(self, jobs: Sequence[JobInfo]) -> list[str]:
        """What to tell of the jobs, given the newest first, that failed since the last launch began."""
        last = [job for job in jobs if _launch_of(job) == _launch_of(jobs[0])]
        failed = [
            job
            for job in jobs
            if job.status.stage == "ERROR" and (job in last or _later(job.finished_at, last[-1].created_at))
        ]
        lines = []
        for job in failed[:SHOWN_FAILURES]:
            took = job.durations.running_secs if job.durations else None
            message = one_line(job.status.message or "", 200)
            lines.append(
                f"job {job.id} failed{f' after {duration(took)}' if took else ''}{f': {message}' if message else ''}"
            )
            lines += [f"  | {line}" for line in self.log_lines(job)]
            if "timeout" in message.lower():
                lines.append("  its finished chunks are kept; --timeout gives it longer")
            lines.append(f"  all of its log: hf jobs logs {job.id}{self._option()}")
        if len(failed) > SHOWN_FAILURES:
            lines.append(f"and {len(failed) - SHOWN_FAILURES} more failed: hf jobs ps -a{self._option()}")
        return lines

    def _option(self) -> str:
        return f" --namespace {shlex.quote(self.namespace)}"


def running(jobs: Sequence[JobInfo]) -> list[JobInfo]:
    """The jobs that have not ended."""
    return [job for job in jobs if job.status.stage not in ENDED]


def _later(time: Any, other: Any) -> bool:
    return time is not None and other is not None and time > other


def _number_of(job: JobInfo) -> str:
    return str((job.labels or {}).get(JOB_LABEL, ""))


def _launch_of(job: JobInfo) -> str:
    return _number_of(job).rpartition("-")[0]


def _of_the_network(error: BaseException) -> bool:
    # the clients of the Hub raise the errors of requests, httpx or their successors, not all of them OSError
    return isinstance(error, OSError) or "http" in type(error).__module__


def _may_pass(error: BaseException) -> bool:
    """Whether another try may succeed."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return _of_the_network(error) if status is None else status in (408, 429) or status >= 500
