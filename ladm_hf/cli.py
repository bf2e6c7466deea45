"""`ladm`: the commands. Each one parses its options and calls the public function that does the work.

Heavy imports stay inside the commands, so that `ladm --help` is quick.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import typer

from ladm_hf import __version__
from ladm_hf.errors import LadmError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Choose long-context training data by the attention of a small model (LADM, arXiv 2503.02502).",
)
F = TypeVar("F", bound=Callable[..., Any])


def command(function: F) -> F:
    """Registers a command that ends with one line on standard error, not a traceback, when the package refuses."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except LadmError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(1) from error

    app.command()(run)
    return function


def _show_version(show: bool) -> None:
    if show:
        typer.echo(f"ladm_hf {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass
