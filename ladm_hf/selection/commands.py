"""What makes a selection again: a command line, or a call where the scored rows were in memory."""

from __future__ import annotations

import inspect
from typing import Any

from ladm_hf.selection.result import Selection
from ladm_hf.selection.selection import select
from ladm_hf.text import command_line


def select_command(selection: Selection) -> str | None:
    """The command line, `None` where the scored rows were in memory."""
    if selection.pool is None:
        return None
    return command_line("select", select, [selection.pool, selection.folder or "selected"], _options(selection))


def select_call(selection: Selection) -> str:
    """The call in Python, of rows called `scored`."""
    defaults = inspect.signature(select).parameters
    given = [f"{name}={value!r}" for name, value in _options(selection).items() if value != defaults[name].default]
    return f"select({', '.join(['scored', *given])})"


def _options(selection: Selection) -> dict[str, Any]:
    options = {"by": None, **selection.options}
    if options.get("shares") == "proportional":
        del options["shares"]
    return options
