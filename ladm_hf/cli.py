"""`ladm`: the commands. Each one parses its options and calls the public function that does the work.

Heavy imports stay inside the commands, so that `ladm --help` is quick.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
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


@command
def env() -> None:
    """Print versions, devices and the default calculator, to paste into a report."""
    from ladm_hf.environment import report

    lines = report()
    width = max(map(len, lines))
    for name, value in lines.items():
        typer.echo(f"{name:<{width}}  {value}")


@command
def demo(
    output: Annotated[Path, typer.Option(help="Folder for the figures and the scored data.")] = Path("ladm-demo"),
    documents: Annotated[int, typer.Option(min=4, help="Documents of each kind.")] = 24,
    model: Annotated[str, typer.Option(help="Calculator: ladm-nano, a folder or a Hub id.")] = "ladm-nano",
) -> None:
    """Score long documents of Python's own library against splices of unrelated ones; offline, under two minutes."""
    from ladm_hf.demo import run
    from ladm_hf.scorer import LadmScorer

    typer.echo(f"Scoring {documents} natural documents and {documents} splices of unrelated ones with {model}.")
    result = run(output, LadmScorer(model), documents)
    table = result.scored.remove_columns("text").to_pandas()
    typer.echo("")
    typer.echo(f"{'kind':<10}{'documents':>10}{'tokens':>10}{'mean':>10}{'lowest':>10}{'highest':>10}")
    for kind, rows in table.groupby("kind"):
        score = rows["ladm_score"]
        typer.echo(
            f"{kind:<10}{len(rows):>10}{rows['ladm_num_tokens'].sum():>10,}"
            f"{score.mean():>10.3f}{score.min():>10.3f}{score.max():>10.3f}"
        )
    typer.echo(
        f"\nA natural document scores above a splice {result.separation:.0%} of the time (chance: 50%).\n"
        "Highest scores:"
    )
    for _, row in table.nlargest(3, "ladm_score").iterrows():
        typer.echo(f"  {row['ladm_score']:.3f}  {row['kind']:<8}  {row['name']}")
    typer.echo("\nWritten:")
    for path in result.files.values():
        typer.echo(f"  {path}")
