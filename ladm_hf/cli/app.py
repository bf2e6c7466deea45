"""`ladm`: the commands. Each one parses its options and calls the public function that does the work.

Heavy imports stay inside the commands, so that `ladm --help` is quick.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ladm_hf.cli import calibrate, checks, compare, pack, prepare, publish, score, select, train
from ladm_hf.cli.terminal import plain_warnings, unfailing_output
from ladm_hf.errors import LadmError
from ladm_hf.ranks import tell_launcher
from ladm_hf.version import __version__

# In the order of the work, as `ladm --help` lists them.
EXAMPLES: dict[Callable[..., Any], str] = {
    checks.demo: "ladm demo",
    prepare.prepare: "ladm prepare 'pool/*.jsonl.gz' prepared/ --num-proc 8",
    score.score: "ladm score 'pool/*.parquet' scored/ --text-column content",
    compare.compare: "ladm compare scored/ comparison/ --signal ladm_score --signal ladm_compression",
    select.select: "ladm select scored/ selected/ --budget 1e9 --by domain",
    select.report: "ladm report selected/",
    pack.pack: "ladm pack selected/ packed/ --tokenizer Qwen/Qwen3-0.6B --length 32768",
    publish.publish: "ladm publish selected/ user/pool-1b --license cc-by-4.0",
    train.train_calculator: "ladm train-calculator 'corpus/*.parquet' --base ladm-nano --output mine --held-out 0.12",
    calibrate.calibrate: "ladm calibrate mine 'corpus/*.parquet' --held-out 0.12",
    checks.env: "ladm env",
    checks.reproduce: "ladm reproduce --rows 8",
}
EXIT_CODES = (
    "Exit codes: 0 done; 1 refused or failed, the last line says why; 2 wrong usage; 3 done, but no document got a "
    "score (prepare: no document was kept). torchrun and accelerate launch end with 1 in place of the latter two: see "
    "their last lines, or the exit code of `ladm score --status OUTPUT`."
)


class _Commands(TyperGroup):
    """The commands, with output that cannot make them fail."""

    def main(self, *args: Any, **options: Any) -> Any:
        with unfailing_output(), plain_warnings():
            return super().main(*args, **options)


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Choose long-context training data by the attention of a small model (LADM, arXiv 2503.02502).",
    epilog=EXIT_CODES,
)


def command(function: Callable[..., Any], example: str) -> None:
    """Registers a command that ends with one line on standard error, not a traceback, when the package refuses."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except (LadmError, OSError) as error:
            # what a file system refuses names its file, and a traceback says no more
            print(f"error: {error}", file=sys.stderr)
            tell_launcher(str(error))
            raise typer.Exit(1) from error

    app.command(epilog=f"Example: {example}")(run)


def _show_version(show: bool) -> None:
    if show:
        print(f"ladm_hf {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


for function, example in EXAMPLES.items():
    command(function, example)
