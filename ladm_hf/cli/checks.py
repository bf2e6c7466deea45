"""`ladm demo`, `ladm env`, `ladm reproduce`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ladm_hf.cli.options import Device, Dtype, Model, OptionsFile, local_folder, save_options


def env() -> None:
    """Print versions, devices and the default calculator, for a bug report."""
    from ladm_hf.checks.environment import describe_environment

    lines = describe_environment()
    width = max(map(len, lines))
    for name, value in lines.items():
        print(f"{name:<{width}}  {value}")


def demo(
    context: typer.Context,
    output: Annotated[
        Path,
        typer.Option(help="Folder for the figures and the scored data.", parser=local_folder, metavar="FOLDER"),
    ] = Path("ladm-demo"),
    documents: Annotated[int, typer.Option(min=4, help="Documents of each kind.")] = 12,
    model: Model = "ladm-nano",
    options: OptionsFile = None,
) -> None:
    """Score long documents of Python's own library against splices of unrelated ones; offline, under two minutes."""
    from ladm_hf.checks.demo import run
    from ladm_hf.scoring.scorer import LadmScorer

    print(f"Scoring {documents} natural documents and {documents} splices of unrelated ones with {model}.", flush=True)
    result = run(output, LadmScorer(model), documents)
    save_options(context, output)
    table = result.scored.remove_columns("text").to_pandas()
    print(f"\n{'kind':<10}{'documents':>10}{'tokens':>10}{'mean':>10}{'lowest':>10}{'highest':>10}")
    for kind, rows in table.groupby("kind"):
        score = rows["ladm_score"]
        print(
            f"{kind:<10}{len(rows):>10}{rows['ladm_num_tokens'].sum():>10,}"
            f"{score.mean():>10.3f}{score.min():>10.3f}{score.max():>10.3f}"
        )
    print(f"\nA natural document scores above a splice {result.separation:.0%} of the time (chance: 50%).")
    print("Highest scores:")
    for _, row in table.nlargest(3, "ladm_score").iterrows():
        print(f"  {row['ladm_score']:.3f}  {row['kind']:<8}  {row['name']}")
    print("\nWritten:")
    for path in result.files.values():
        print(f"  {path}")


def reproduce(
    model: Model = "UltraRonin/Long-Attn-Calculator",
    dataset: Annotated[str, typer.Option(help="The paper's toy dataset.")] = (
        "UltraRonin/pile-LlamaTokenizerFast-32k-truncated-toy"
    ),
    tolerance: Annotated[float, typer.Option(help="Largest difference of a score that passes.")] = 0.001,
    rows: Annotated[int | None, typer.Option(min=1, help="Only the first rows.", show_default="all 32")] = None,
    device: Device = None,
    dtype: Annotated[
        Dtype, typer.Option(help="Precision; auto is float16 on a GPU, as the published code's, and float32 on a CPU.")
    ] = "auto",
    options: OptionsFile = None,
) -> None:
    """Score the paper's toy data with the paper's calculator and compare with its 32 published scores."""
    from ladm_hf.checks.reproduce import reproduce as compare

    result = compare(model, dataset, tolerance=tolerance, rows=rows, device=device, dtype=dtype)
    print(result.table())
    if not result.passed:
        raise typer.Exit(1)
