"""The options of `ladm score` that start jobs on the Hub."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

_job = partial(typer.Option, rich_help_panel="Hugging Face Jobs")

Job = Annotated[
    str | None,
    _job(
        metavar="FLAVOR",
        help="Score on Hugging Face Jobs of this hardware (l4x1, h200, ...), into an OUTPUT that is a URL.",
        show_default="here",
    ),
]
NumJobs = Annotated[
    int,
    _job("--jobs", min=1, help="Jobs that share the run; what is missing is started."),
]
Timeout = Annotated[
    str | None,
    _job(
        help="Longest time of a job, such as 90m or 6h. Finished chunks survive it.",
        show_default="twice what is expected",
    ),
]
Namespace = Annotated[
    str | None,
    _job(help="User or organization that runs and pays the jobs.", show_default="yourself"),
]
Image = Annotated[
    str | None,
    _job(help="Docker image with CUDA and torch.", show_default="PyTorch's own"),
]
Package = Annotated[
    str | None,
    _job(
        help="This package for pip in the job: a requirement, or the URL of a wheel or source archive.",
        show_default="this version",
    ),
]
Secret = Annotated[
    list[str] | None,
    _job(
        metavar="NAME",
        help="Environment variable that the jobs need too, passed on as a secret as HF_TOKEN is. Repeatable.",
        show_default="none",
    ),
]
Yes = Annotated[bool, _job("--yes", help="Start without a question.")]
DryRun = Annotated[bool, _job("--dry-run", help="Show the jobs and their price, and start nothing.")]
