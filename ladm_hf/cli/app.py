"""`ladm`: the commands. Each one parses its options and calls the public function that does the work.

Heavy imports stay inside the commands, so that `ladm --help` is quick.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Annotated, Any

import typer

from ladm_hf.cli import checks, publish, score, select, train
from ladm_hf.errors import LadmError
from ladm_hf.version import __version__

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Choose long-context training data by the attention of a small model (LADM, arXiv 2503.02502).",
)
# in the order of the help text
COMMANDS = (
    checks.env, checks.demo, select.select, select.report, score.score, score.prepare, publish.publish,
    checks.reproduce, train.train_calculator, train.calibrate,
)  # fmt: skip


def command(function: Callable[..., Any]) -> None:
    """Registers a command that ends with one line on standard error, not a traceback, when the package refuses."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except LadmError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(1) from error

    app.command()(run)


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


for function in COMMANDS:
    command(function)
