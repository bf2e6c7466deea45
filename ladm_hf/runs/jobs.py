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
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import xxhash

from ladm_hf.data.hub import LOG_IN
from ladm_hf.errors import ConfigError, RunError
from ladm_hf.runs.job_spec import JOB_LABEL, RUN_LABEL, JobSpec
from ladm_hf.text import duration, one_line, redacted

if TYPE_CHECKING:
    from huggingface_hub import JobInfo

ENDED = frozenset({"COMPLETED", "CANCELED", "ERROR", "DELETED"})
START_TRIES = 4
FIRST_WAIT = 1.0
LOG_LINES = 5
SHOWN_FAILURES = 3
_BUCKET = re.compile(r"hf://buckets/([^/]+/[^/@]+)")


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
        token = get_token()
        if token is None:
            raise RunError(f"jobs need a token of the Hub: {LOG_IN}")
        self.token = token
        self.api = HfApi()
        self.label = {RUN_LABEL: xxhash.xxh3_64_hexdigest(output.rstrip("/").encode())}
        self.name = re.sub(r"[^A-Za-z0-9_-]+", "-", "-".join(["ladm", *output.rstrip("/").split("/")[-2:]]))
        bucket = _BUCKET.match(output)
        self.bucket = bucket[1] if bucket else None
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

    def bucket_is_missing(self) -> bool:
        """Whether the output is in a bucket of the Hub that does not exist yet."""
        from huggingface_hub.errors import HfHubHTTPError

        with self.refusals():
            try:
                if self.bucket is not None:
                    self.api.bucket_info(self.bucket)
            except HfHubHTTPError as error:
                if getattr(error.response, "status_code", 0) != 404:
                    raise
                return True
        return False

    def create_bucket(self) -> None:
        """Creates the bucket of the output, which only its owner can read."""
        assert self.bucket is not None
        with self.refusals():
            self.api.create_bucket(self.bucket, private=True, exist_ok=True)

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
