"""What a job of a run is: image, command, and what it may and may not see."""

from __future__ import annotations

import os
import re
import shlex
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ladm_hf.data.hub import is_repo_name
from ladm_hf.data.storage import is_url
from ladm_hf.errors import ConfigError
from ladm_hf.text import without_credentials
from ladm_hf.version import __version__

# PyTorch's own image: CUDA, torch, and the C compiler that Triton needs.
IMAGE = "pytorch/pytorch:2.11.0-cuda12.8-cudnn9-runtime"
RUN_LABEL, JOB_LABEL = "ladm-run", "ladm-job"
# Variables of a job: the command that started it, for its messages and records; the content of a --config file.
COMMAND_VARIABLE, CONFIG_VARIABLE = "LADM_COMMAND", "LADM_CONFIG_JSON"
CONFIG_FILE = "/tmp/ladm_config.json"
# The Python of the image may be the system's, and a log is no place for bars that move.
ENVIRONMENT = {"PIP_BREAK_SYSTEM_PACKAGES": "1", "PYTHONUNBUFFERED": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
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


def check_visible(data: str, output: str, models: Sequence[str]) -> None:
    """Refuses what a job cannot see: files of this machine.

    Raises:
        ConfigError: data, output or a calculator are here alone; the message says what to do.
    """
    if not is_url(output) or output.startswith("file:"):
        raise ConfigError(
            f"--job needs an OUTPUT that outlives the job, such as hf://buckets/owner/name/run, found {output!r}"
        )
    for url in (data, output):
        if without_credentials(url) != url:
            raise ConfigError(
                f"anybody with access to a job would see the credentials in {without_credentials(url)!r}: leave them "
                "out of the URL and give --secret with the variables that its client reads, such as "
                "AWS_SECRET_ACCESS_KEY"
            )
    remote = is_url(data) and not data.startswith("file:")
    if not remote and (os.path.exists(os.path.expanduser(data)) or not is_repo_name(data)):
        raise ConfigError(
            f"a job cannot see {data!r} on this machine: upload it (hf upload owner/name FOLDER --repo-type dataset, "
            "or hf buckets sync FOLDER hf://buckets/owner/name) and give its Hub id or URL as INPUT"
        )
    for model in models:
        if os.path.isdir(os.path.expanduser(model)):
            raise ConfigError(
                f"a job cannot see the calculator {model!r} on this machine: upload it (hf upload owner/name "
                f"{shlex.quote(model)} --private) and give owner/name"
            )
