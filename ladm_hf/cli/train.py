"""`ladm train-calculator`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ladm_hf.cli.calibrate import calibrate
from ladm_hf.cli.options import OptionsFile, Schedule, Seed, TextColumn, TrainingData, local_folder, save_options
from ladm_hf.errors import ConfigError
from ladm_hf.text import command_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Texts that a new tokenizer is fitted to, at most, and characters of each.
TOKENIZER_TEXTS, TOKENIZER_CHARS = 20_000, 20_000
# Defaults of the recipe as the command line writes them, and where the paper's recipe (--paper) differs.
RECIPE = {
    "stage": "8192:0.75 16384:0.25", "steps": "2000", "batch_tokens": "131072", "micro_batch_tokens": "131072",
    "learning_rate": "0.001", "schedule": "linear", "natural": "0.25", "interleaved": "0.4", "spliced": "0.25",
    "joined": "0.1", "min_chunk": "90", "max_chunk": "1260", "same_domain": "0.85", "same_source": "0.3",
    "shuffled": "0.0", "renamed": "0.0", "degenerate": "0.0", "generated": "0.4", "flattened": "0.1",
    "focus_layer": "none", "view": "document", "focus_weight": "1.0", "lm_weight": "1.0",
    "lm_positions": "1.0", "held_out": "0.0",
}  # fmt: skip
PAPERS = {
    "stage": "32768:1.0", "steps": "5000", "batch_tokens": "1048576", "micro_batch_tokens": "32768",
    "learning_rate": "2e-05", "natural": "1.0", "interleaved": "0.0", "spliced": "0.0", "joined": "0.0",
    "flattened": "0.0",
}  # fmt: skip


def _recipe(name: str, help: str, **options: Any) -> Any:
    """An option whose default is the recipe's."""
    papers = f"; {PAPERS[name]} with --paper" if name in PAPERS else ""
    return typer.Option(help=help, show_default=RECIPE[name] + papers, **options)


def train_calculator(
    context: typer.Context,
    data: TrainingData,
    output: Annotated[
        Path,
        typer.Option(
            help="Folder for the calculator, its record and checkpoints.", parser=local_folder, metavar="FOLDER"
        ),
    ],
    base: Annotated[
        str | None,
        typer.Option(help="Model to start from: ladm-nano, a folder or a Hub id.", show_default="none: from scratch"),
    ] = None,
    paper: Annotated[
        bool, typer.Option("--paper", help="The paper's recipe: natural windows of 32k, RoPE base 500,000, 1M tokens.")
    ] = False,
    stage: Annotated[
        list[str] | None, _recipe("stage", "LENGTH:SHARE of the steps, in order; may be repeated (8192:0.7).")
    ] = None,
    steps: Annotated[int | None, _recipe("steps", "Optimizer steps.", min=1)] = None,
    batch_tokens: Annotated[int | None, _recipe("batch_tokens", "Tokens of a step, over all devices.", min=1)] = None,
    micro_batch_tokens: Annotated[
        int | None, _recipe("micro_batch_tokens", "Tokens of one device's forward pass.", min=1)
    ] = None,
    learning_rate: Annotated[float | None, _recipe("learning_rate", "Peak learning rate.")] = None,
    schedule: Annotated[Schedule | None, _recipe("schedule", "Learning-rate schedule.")] = None,
    natural: Annotated[float | None, _recipe("natural", "Share of natural windows.")] = None,
    interleaved: Annotated[float | None, _recipe("interleaved", "Share of interleaved windows.")] = None,
    spliced: Annotated[float | None, _recipe("spliced", "Share of spliced windows.")] = None,
    joined: Annotated[float | None, _recipe("joined", "Share of joined short documents.")] = None,
    min_chunk: Annotated[int | None, _recipe("min_chunk", "Fewest tokens of an interleaved chunk.")] = None,
    max_chunk: Annotated[int | None, _recipe("max_chunk", "Most tokens of an interleaved chunk.")] = None,
    same_domain: Annotated[float | None, _recipe("same_domain", "Share of windows mixed within a domain.")] = None,
    same_source: Annotated[float | None, _recipe("same_source", "Share of windows mixed within a source.")] = None,
    shuffled: Annotated[
        float | None, _recipe("shuffled", "Share of windows with shuffled sentences or other units.")
    ] = None,
    renamed: Annotated[float | None, _recipe("renamed", "Share of windows in which names of one half change.")] = None,
    degenerate: Annotated[
        float | None, _recipe("degenerate", "Share of tables, logs and other degenerate text.")
    ] = None,
    generated: Annotated[
        float | None, _recipe("generated", "Share of that text from generators, not the data.")
    ] = None,
    flattened: Annotated[float | None, _recipe("flattened", "Share of natural windows without line breaks.")] = None,
    focus_layer: Annotated[
        list[int] | None, _recipe("focus_layer", "Layer whose heads learn to find their document; may be repeated.")
    ] = None,
    view: Annotated[
        list[str] | None,
        _recipe(
            "view",
            "NAME:HEADS, what heads of these layers learn (text:1,2); may be repeated: "
            "document, text, order or quality.",
        ),
    ] = None,
    focus_weight: Annotated[float | None, _recipe("focus_weight", "Weight of that loss.")] = None,
    lm_weight: Annotated[float | None, _recipe("lm_weight", "Weight of the language-model loss.")] = None,
    lm_positions: Annotated[float | None, _recipe("lm_positions", "Share of the tokens predicted.")] = None,
    held_out: Annotated[float | None, _recipe("held_out", "Share of sources held out for `ladm calibrate`.")] = None,
    seed: Seed = 0,
    vocab_size: Annotated[int, typer.Option(help="From scratch: entries of the tokenizer.")] = 8192,
    layers: Annotated[
        int | None,
        typer.Option(help="Layers; with --base, more are added in the middle.", show_default="6, or the base's"),
    ] = None,
    intermediate_size: Annotated[
        int | None,
        typer.Option(help="Width of the MLPs; with --base, they are widened.", show_default="768, or the base's"),
    ] = None,
    hidden_size: Annotated[int, typer.Option(help="From scratch: width.")] = 256,
    text_column: TextColumn = "text",
    streaming: Annotated[bool, typer.Option("--streaming", help="Read the data as a stream.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Resume from the last checkpoint in the output.")] = False,
    compile_layers: Annotated[bool, typer.Option("--compile", help="Compile the layers; worthwhile on a GPU.")] = False,
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Less memory, more time; a 1B model needs it at 32k.")
    ] = False,
    save_steps: Annotated[int, typer.Option(help="Steps between checkpoints.")] = 500,
    workers: Annotated[int, typer.Option(help="Processes that make windows.")] = 2,
    options: OptionsFile = None,
) -> None:
    """Train a calculator on your documents, new or from a model. Several GPUs: accelerate launch -m ladm_hf."""
    given = {
        "steps": steps,
        "batch_tokens": batch_tokens,
        "micro_batch_tokens": micro_batch_tokens,
        "learning_rate": learning_rate,
        "schedule": schedule,
        "focus_layers": tuple(focus_layer or ()) or None,
        "focus_views": tuple(map(_view, view or ())) or None,
        "focus_weight": focus_weight,
        "lm_weight": lm_weight,
        "lm_positions": lm_positions,
        "held_out": held_out,
    }
    mix = {
        "natural": natural,
        "interleaved": interleaved,
        "spliced": spliced,
        "joined": joined,
        "min_chunk": min_chunk,
        "max_chunk": max_chunk,
        "same_domain": same_domain,
        "same_source": same_source,
        "shuffled": shuffled,
        "renamed": renamed,
        "degenerate": degenerate,
        "generated": generated,
        "flattened": flattened,
    }
    path = _train(
        data,
        output,
        base=base,
        paper=paper,
        stages=stage,
        given=given,
        mix=mix,
        seed=seed,
        text_column=text_column,
        streaming=streaming,
        resume=resume,
        compile=compile_layers,
        gradient_checkpointing=gradient_checkpointing,
        save_steps=save_steps,
        workers=workers,
        new={"vocab_size": vocab_size, "hidden_size": hidden_size},
        size=_given({"num_hidden_layers": layers, "intermediate_size": intermediate_size}),
    )
    save_options(context, path)
    print(f"Written: {path}. Next: {next_command(path, data, held_out, seed, text_column, focus_layer)}")


def next_command(
    folder: Path, data: Sequence[str], held_out: float | None, seed: int, text_column: str, layers: list[int] | None
) -> str:
    """The command that calibrates a calculator on the sources that its training held out."""
    values = {"held_out": held_out or 0.0, "seed": seed, "text_column": text_column, "layer": layers or None}
    return command_line("calibrate", calibrate, [folder, *data], values)


def _train(
    data: Sequence[str],
    output: Path,
    *,
    base: str | None = None,
    paper: bool = False,
    stages: Sequence[str] | None = None,
    given: Mapping[str, Any] | None = None,
    mix: Mapping[str, Any] | None = None,
    seed: int = 0,
    new: Mapping[str, int] | None = None,
    size: Mapping[str, int] | None = None,
    text_column: str = "text",
    streaming: bool = False,
    resume: bool = False,
    compile: bool = False,
    gradient_checkpointing: bool = False,
    save_steps: int = 500,
    workers: int = 0,
) -> Path:
    """Reads the data, builds the recipe from what was given over its defaults, and trains.

    `new` are sizes of a model from scratch, `size` those that a base may be expanded to.
    """
    from transformers import AutoConfig

    from ladm_hf.calculators.calculator import resolve
    from ladm_hf.training import (
        PAPER,
        Architecture,
        Recipe,
        load_documents,
        tokenize_documents,
        train_calculator,
        train_tokenizer,
    )

    recipe = PAPER if paper else Recipe()
    recipe = replace(recipe, seed=seed, mix=replace(recipe.mix, **_given(mix)), **_given(given))
    if stages:
        recipe = replace(recipe, stages=tuple(_pair(stage, ":", int, float) for stage in stages))
    dataset = load_documents(list(data), streaming=streaming)
    shape: Architecture | None = None
    if base is None:
        shape = Architecture(**{**(new or {}), **(size or {})})
        tokenizer: PreTrainedTokenizerBase = train_tokenizer(_texts(dataset, text_column), shape.vocab_size)
        shape = replace(shape, vocab_size=len(tokenizer))
        folder = None
    else:
        calculator = resolve(base)
        tokenizer, folder = calculator.load_tokenizer(), calculator.path
        if size:
            shape = replace(Architecture.of(AutoConfig.from_pretrained(folder, trust_remote_code=False)), **size)
    return train_calculator(
        tokenize_documents(dataset, tokenizer, text_column),
        tokenizer,
        output,
        recipe,
        base=folder,
        architecture=shape,
        resume=resume,
        compile=compile,
        gradient_checkpointing=gradient_checkpointing,
        save_steps=save_steps,
        num_workers=workers,
    )


def _given(values: Mapping[str, Any] | None) -> dict[str, Any]:
    return {name: value for name, value in (values or {}).items() if value is not None}


def _view(text: str) -> tuple[str, tuple[int, ...] | None]:
    from ladm_hf.training.windows import VIEWS

    name, found, heads = text.partition(":")
    try:
        numbers = tuple(int(head) for head in heads.split(",")) if found else None
        if f"{name}_labels" not in VIEWS:
            raise ValueError
    except ValueError as error:
        names = ", ".join(view.removesuffix("_labels") for view in VIEWS)
        raise ConfigError(
            f"expected NAME:HEADS, as in text:1,2, with a name of {names}, got --view {text!r}"
        ) from error
    return f"{name}_labels", numbers


def _pair(text: str, separator: str, first: Any, second: Any) -> tuple[Any, Any]:
    left, found, right = text.partition(separator)
    try:
        if not found:
            raise ValueError
        return first(left), second(right)
    except ValueError as error:
        raise ConfigError(f"expected two numbers with {separator!r} between them, got {text!r}") from error


def _texts(dataset: Iterable[Any], column: str) -> Iterable[str]:
    """Texts of a dataset, long ones cut, so that a few books do not decide the vocabulary."""
    for number, row in enumerate(dataset):
        if number >= TOKENIZER_TEXTS:
            return
        text = row.get(column)
        if isinstance(text, str):
            yield text[:TOKENIZER_CHARS]
