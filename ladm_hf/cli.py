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


@command
def train_calculator(
    data: Annotated[list[str], typer.Argument(help="Documents: files, a folder or a Hub id; needs a text column.")],
    output: Annotated[Path, typer.Option(help="Folder for the calculator, its record and checkpoints.")],
    base: Annotated[
        str | None, typer.Option(help="Model to go on from: ladm-nano, a folder or a Hub id. Without it: from scratch.")
    ] = None,
    paper: Annotated[
        bool, typer.Option("--paper", help="The paper's recipe: natural windows of 32k, RoPE base 500,000, 1M tokens.")
    ] = False,
    stage: Annotated[
        list[str] | None, typer.Option(help="LENGTH:SHARE of the steps, in order; may be repeated. 8192:0.7 16384:0.3")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Optimizer steps.")] = None,
    batch_tokens: Annotated[int | None, typer.Option(min=1, help="Tokens of a step, over all devices.")] = None,
    micro_batch_tokens: Annotated[int | None, typer.Option(min=1, help="Tokens of one device's forward pass.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    schedule: Annotated[str | None, typer.Option(help="linear, cosine or constant.")] = None,
    natural: Annotated[float | None, typer.Option(help="Share of natural windows.")] = None,
    interleaved: Annotated[float | None, typer.Option(help="Share of interleaved windows.")] = None,
    spliced: Annotated[float | None, typer.Option(help="Share of spliced windows.")] = None,
    joined: Annotated[float | None, typer.Option(help="Share of joined short documents.")] = None,
    min_chunk: Annotated[int | None, typer.Option(help="Fewest tokens of an interleaved chunk.")] = None,
    max_chunk: Annotated[int | None, typer.Option(help="Most tokens of an interleaved chunk.")] = None,
    same_domain: Annotated[float | None, typer.Option(help="Share of windows mixed within a domain.")] = None,
    same_source: Annotated[float | None, typer.Option(help="Share of windows mixed within a source.")] = None,
    renamed: Annotated[float | None, typer.Option(help="Share of windows whose documents swap rare words.")] = None,
    focus_layer: Annotated[
        list[int] | None, typer.Option(help="Layer whose heads learn to find their document; may be repeated.")
    ] = None,
    focus_weight: Annotated[float | None, typer.Option(help="Weight of that loss.")] = None,
    lm_weight: Annotated[float | None, typer.Option(help="Weight of the language model's loss.")] = None,
    lm_positions: Annotated[float | None, typer.Option(help="Share of the tokens predicted.")] = None,
    held_out: Annotated[float | None, typer.Option(help="Share of sources kept for `ladm calibrate`.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of weights and windows.")] = 0,
    vocab_size: Annotated[int, typer.Option(help="From scratch: entries of the tokenizer.")] = 8192,
    layers: Annotated[int, typer.Option(help="From scratch: layers.")] = 6,
    hidden_size: Annotated[int, typer.Option(help="From scratch: width.")] = 256,
    text_column: Annotated[str, typer.Option(help="Column of the text.")] = "text",
    streaming: Annotated[bool, typer.Option("--streaming", help="Read the data as a stream.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in the output.")] = False,
    compile_layers: Annotated[bool, typer.Option("--compile", help="Compile the layers; worth it on a GPU.")] = False,
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Less memory, more time; a 1B model needs it at 32k.")
    ] = False,
    save_steps: Annotated[int, typer.Option(help="Steps between checkpoints.")] = 500,
    workers: Annotated[int, typer.Option(help="Processes that make windows.")] = 2,
) -> None:
    """Train a calculator on your documents, new or from a model. Several GPUs: accelerate launch -m ladm_hf."""
    from ladm_hf.training.command import train

    given = {
        name: value
        for name, value in {
            "steps": steps, "batch_tokens": batch_tokens, "micro_batch_tokens": micro_batch_tokens,
            "learning_rate": learning_rate, "schedule": schedule, "focus_layers": tuple(focus_layer or ()) or None,
            "focus_weight": focus_weight, "lm_weight": lm_weight, "lm_positions": lm_positions, "held_out": held_out,
        }.items()
        if value is not None
    }  # fmt: skip
    mix = {
        name: value
        for name, value in {
            "natural": natural, "interleaved": interleaved, "spliced": spliced, "joined": joined,
            "min_chunk": min_chunk, "max_chunk": max_chunk, "same_domain": same_domain, "same_source": same_source,
            "renamed": renamed,
        }.items()
        if value is not None
    }  # fmt: skip
    path = train(
        data, output, base=base, paper=paper, stages=stage, given=given, mix=mix, seed=seed, text_column=text_column,
        streaming=streaming, resume=resume, compile=compile_layers, gradient_checkpointing=gradient_checkpointing,
        save_steps=save_steps, workers=workers,
        architecture={"vocab_size": vocab_size, "num_hidden_layers": layers, "hidden_size": hidden_size},
    )  # fmt: skip
    typer.echo(f"Written: {path}. Next: ladm calibrate {path} {' '.join(data)}")


@command
def calibrate(
    model: Annotated[str, typer.Argument(help="Folder of the calculator.")],
    data: Annotated[list[str], typer.Argument(help="Documents: files, a folder or a Hub id; needs a text column.")],
    held_out: Annotated[
        float, typer.Option(help="Use only the sources that training with this share and seed kept out; 0 uses all.")
    ] = 0.0,
    max_heads: Annotated[int, typer.Option(min=1, help="Most heads.")] = 4,
    layer: Annotated[
        list[int] | None,
        typer.Option(help="Choose from this layer's heads only; may be repeated. Scoring stops at the last one."),
    ] = None,
    folds: Annotated[int, typer.Option(min=2, help="Parts that the sources are divided into for the test.")] = 2,
    per_domain: Annotated[int, typer.Option(min=2, help="Most windows of each kind, domain, setting and fold.")] = 24,
    setting: Annotated[
        list[str] | None, typer.Option(help="TxK: windows of T tokens, splices of K (0: joined short documents).")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of windows and folds.")] = 0,
    text_column: Annotated[str, typer.Option(help="Column of the text.")] = "text",
    device: Annotated[str | None, typer.Option(help="Defaults to the GPU if there is one.")] = None,
) -> None:
    """Choose the heads and factors that tell natural documents from splices; writes ladm_config.json into MODEL."""
    from ladm_hf.training.command import calibrate_folder

    calibration, path = calibrate_folder(
        model, data, held_out=held_out, max_heads=max_heads, layers=layer, folds=folds, per_domain=per_domain,
        settings=setting, seed=seed, text_column=text_column, device=device,
    )  # fmt: skip
    typer.echo(
        f"heads (layer, head)  {', '.join(map(str, calibration.config.heads or ()))}\n"
        f"factors              {calibration.config.ablation or 'all'}\n"
        f"area under the curve {calibration.auc:.3f} on sources left out of the choice; "
        f"all heads and factors {calibration.uncalibrated:.3f}"
    )
    for name, area in {**calibration.settings, **calibration.domains}.items():
        typer.echo(f"  {name:<18} {area:.3f}")
    typer.echo(f"Written: {path}")
