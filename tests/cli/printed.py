"""A command line that the package printed, read as its user's shell and `ladm` read it."""

from __future__ import annotations

import inspect
import shlex
from typing import Any

import typer

from ladm_hf.cli.app import app


def parsed(line: str) -> tuple[str, dict[str, Any]]:
    """The command and the values of all its parameters."""
    program, name, *arguments = shlex.split(line)
    assert program == "ladm"
    command = typer.main.get_command(app).commands[name]
    found = command.make_context(name, arguments).params
    # an option that may be repeated is a list, in older versions of typer a tuple, empty where it was not given
    return name, {key: (list(value) or None) if isinstance(value, tuple) else value for key, value in found.items()}


def defaults(function: Any) -> dict[str, Any]:
    """The defaults of a command's parameters."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}
