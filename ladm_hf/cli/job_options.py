"""The options of `ladm score` that start jobs on the Hub."""

from __future__ import annotations

from typing import Annotated

import typer

_PANEL = "Hugging Face Jobs"

Job = Annotated[
    str | None,
    typer.Option(
        metavar="FLAVOR",
        help="Score on Hugging Face Jobs of this hardware (l4x1, h200, ...), into an OUTPUT that is a URL.",
        show_default="here",
        rich_help_panel=_PANEL,
    ),
]
NumJobs = Annotated[
    int,
    typer.Option("--jobs", min=1, help="Jobs that share the run; what is missing is started.", rich_help_panel=_PANEL),
]
Timeout = Annotated[
    str | None,
    typer.Option(
        help="Longest time of a job, such as 90m or 6h. Finished chunks survive it.",
        show_default="twice what is expected",
        rich_help_panel=_PANEL,
    ),
]
Namespace = Annotated[
    str | None,
    typer.Option(
        help="User or organization that runs and pays the jobs.", show_default="yourself", rich_help_panel=_PANEL
    ),
]
Image = Annotated[
    str | None,
    typer.Option(help="Docker image with CUDA and torch.", show_default="PyTorch's own", rich_help_panel=_PANEL),
]
Package = Annotated[
    str | None,
    typer.Option(
        help="This package for pip in the job: a requirement, or the URL of a wheel or source archive.",
        show_default="this version",
        rich_help_panel=_PANEL,
    ),
]
Secret = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="Environment variable that the jobs need too, passed on as a secret as HF_TOKEN is. Repeatable.",
        show_default="none",
        rich_help_panel=_PANEL,
    ),
]
Yes = Annotated[bool, typer.Option("--yes", help="Start without a question.", rich_help_panel=_PANEL)]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Show the jobs and their price, and start nothing.", rich_help_panel=_PANEL)
]
