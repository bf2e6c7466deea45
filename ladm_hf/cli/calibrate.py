"""`ladm calibrate`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ladm_hf.cli.options import Device, Dtype, OptionsFile, Seed, TextColumn, local_folder
from ladm_hf.errors import ConfigError

if TYPE_CHECKING:
    from ladm_hf.training import Calibration


def calibrate(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="Calculator: a folder, a Hub id or ladm-nano.")],
    data: Annotated[
        list[str] | None,
        typer.Argument(
            help="Documents: files, a folder or a Hub id; best never seen in training.",
            show_default="the code and documentation of this Python",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Folder for ladm_config.json.",
            show_default="MODEL, where it is a folder",
            parser=local_folder,
            metavar="FOLDER",
        ),
    ] = None,
    degenerate: Annotated[
        list[str] | None,
        typer.Option(
            help="Documents that should score low, beside rows of kind 'degenerate'; may be repeated.",
            show_default="none",
        ),
    ] = None,
    held_out: Annotated[
        float, typer.Option(help="Use only the sources that training with this share and seed held out; 0 uses all.")
    ] = 0.0,
    max_heads: Annotated[int, typer.Option(min=1, help="Most heads.")] = 4,
    layer: Annotated[
        list[int] | None,
        typer.Option(
            help="Choose from this layer's heads only; may be repeated. Scoring stops at the last one.",
            show_default="all layers",
        ),
    ] = None,
    length: Annotated[
        list[int] | None,
        typer.Option(help="Tokens of the windows; may be repeated.", show_default="4096 and 8192"),
    ] = None,
    windows: Annotated[
        int, typer.Option(min=2, help="Natural windows of each length and half of the sources, about.")
    ] = 24,
    span_length: Annotated[
        int | None, typer.Option(min=2, help="Tokens in a span, for models of few positions.", show_default="128")
    ] = None,
    figure: Annotated[
        Path | None, typer.Option(help="Picture of all heads and kinds to write.", show_default="none")
    ] = None,
    seed: Seed = 0,
    text_column: TextColumn = "text",
    dtype: Annotated[Dtype, typer.Option(help="Of the weights.")] = "auto",
    device: Device = None,
    options: OptionsFile = None,
) -> None:
    """Choose heads, weights and factors by what the score must do; writes ladm_config.json."""
    calibration, path = _calibrate(
        model,
        data or [],
        output=output,
        degenerate=degenerate or [],
        held_out=held_out,
        max_heads=max_heads,
        layers=layer,
        lengths=length,
        windows=windows,
        span_length=span_length,
        seed=seed,
        text_column=text_column,
        dtype=dtype,
        device=device,
    )
    config = calibration.config
    weighted = zip(config.heads or (), config.weights or (), strict=True)
    print(f"heads (layer, head)  {', '.join(f'{head} x {weight:g}' for head, weight in weighted)}")
    print(f"factors              {config.ablation or 'all'}")
    print(calibration.table())
    for kind, need in calibration.absent.items():
        print(f"not compared: {kind} (needs {need})")
    if figure is not None:
        from ladm_hf.training.plots import plot_calibration

        plot_calibration(calibration).savefig(figure, dpi=150)
    print(f"Written: {path}")


def _calibrate(
    model: str,
    data: Sequence[str],
    *,
    output: Path | None = None,
    degenerate: Sequence[str] = (),
    held_out: float = 0.0,
    span_length: int | None = None,
    seed: int = 0,
    text_column: str = "text",
    device: str | None = None,
    **options: Any,
) -> tuple[Calibration, Path]:
    """Calibrates a calculator and writes its `ladm_config.json`."""
    from ladm_hf.calculators.calculator import resolve
    from ladm_hf.config import LadmConfig
    from ladm_hf.training import calibrate, library_documents, load_documents, tokenize_documents, write_calibration
    from ladm_hf.training import held_out as kept_out
    from ladm_hf.training.documents import DEGENERATE

    folder = output or Path(model).expanduser()
    if output is None and not folder.is_dir():
        raise ConfigError(
            f"{model!r} is not a local folder: give one for ladm_config.json by --output. `ladm score --config` reads "
            "it there, and hub_scripts/calibrate-model.py opens a pull request with it"
        )
    tokenizer = resolve(model).load_tokenizer()
    dataset = load_documents(list(data)) if data else library_documents()
    documents = tokenize_documents(dataset, tokenizer, text_column if data else "text")
    if held_out:
        out = kept_out(documents, held_out, seed)
        documents = [document for document, apart in zip(documents, out, strict=True) if apart]
    if degenerate:
        found = tokenize_documents(load_documents(list(degenerate)), tokenizer, text_column)
        documents += [replace(document, kind=DEGENERATE) for document in found]
    config = None if span_length is None else LadmConfig(span_length=span_length)
    calibration = calibrate(model, documents, config=config, seed=seed, device=device, progress=True, **options)
    folder.mkdir(parents=True, exist_ok=True)
    return calibration, write_calibration(folder, calibration)
