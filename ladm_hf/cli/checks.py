"""`ladm env`, `ladm demo`, `ladm reproduce`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def env() -> None:
    """Print versions, devices and the default calculator, to paste into a report."""
    from ladm_hf.checks.environment import report

    lines = report()
    width = max(map(len, lines))
    for name, value in lines.items():
        typer.echo(f"{name:<{width}}  {value}")


def demo(
    output: Annotated[Path, typer.Option(help="Folder for the figures and the scored data.")] = Path("ladm-demo"),
    documents: Annotated[int, typer.Option(min=4, help="Documents of each kind.")] = 24,
    model: Annotated[str, typer.Option(help="Calculator: ladm-nano, a folder or a Hub id.")] = "ladm-nano",
) -> None:
    """Score long documents of Python's own library against splices of unrelated ones; offline, under two minutes."""
    from ladm_hf.checks.demo import run
    from ladm_hf.scoring.scorer import LadmScorer

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


def reproduce(
    model: Annotated[str, typer.Option(help="Calculator.")] = "UltraRonin/Long-Attn-Calculator",
    dataset: Annotated[str, typer.Option(help="The paper's toy data set.")] = (
        "UltraRonin/pile-LlamaTokenizerFast-32k-truncated-toy"
    ),
    tolerance: Annotated[float, typer.Option(help="Largest difference of a score that still passes.")] = 0.001,
    rows: Annotated[int | None, typer.Option(help="Only the first rows.")] = None,
    device: Annotated[str | None, typer.Option(help="cuda, cpu, ...; default: the best there is.")] = None,
    dtype: Annotated[str, typer.Option(help="float16 as in the published code, float32, auto.")] = "auto",
) -> None:
    """Score the paper's toy data with the paper's calculator and compare with its 32 published scores."""
    from ladm_hf.checks.reproduce import reproduce as compare

    result = compare(model, dataset, tolerance=tolerance, rows=rows, device=device, dtype=dtype)
    typer.echo(result.report())
    if not result.passed:
        raise typer.Exit(1)
