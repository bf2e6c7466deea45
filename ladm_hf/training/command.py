"""What `ladm train-calculator` and `ladm calibrate` do, once their options are parsed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ladm_hf.calculators.calculator import resolve
from ladm_hf.errors import ConfigError
from ladm_hf.training.calibration import Calibration, Setting, calibrate, write_calibration
from ladm_hf.training.documents import load_documents, tokenize_documents
from ladm_hf.training.recipe import PAPER, Architecture, Recipe, train_calculator
from ladm_hf.training.tokenizer import train_tokenizer
from ladm_hf.training.windows import held_out as kept_out

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Texts that a new tokenizer is fitted to, at most, and characters of each.
TOKENIZER_TEXTS, TOKENIZER_CHARS = 20_000, 20_000


def train(
    data: Sequence[str],
    output: Path,
    *,
    base: str | None = None,
    paper: bool = False,
    stages: Sequence[str] | None = None,
    given: Mapping[str, Any] | None = None,
    mix: Mapping[str, Any] | None = None,
    seed: int = 0,
    architecture: Mapping[str, int] | None = None,
    text_column: str = "text",
    streaming: bool = False,
    resume: bool = False,
    compile: bool = False,
    gradient_checkpointing: bool = False,
    save_steps: int = 500,
    workers: int = 0,
) -> Path:
    """Reads the data, builds the recipe from what was given over its defaults, and trains."""
    recipe = PAPER if paper else Recipe()
    recipe = replace(recipe, seed=seed, mix=replace(recipe.mix, **(mix or {})), **(given or {}))
    if stages:
        recipe = replace(recipe, stages=tuple(_pair(stage, ":", int, float) for stage in stages))
    dataset = load_documents(list(data), streaming=streaming)
    shape = Architecture(**(architecture or {}))
    if base is None:
        tokenizer: PreTrainedTokenizerBase = train_tokenizer(_texts(dataset, text_column), shape.vocab_size)
        shape = replace(shape, vocab_size=len(tokenizer))
        folder = None
    else:
        calculator = resolve(base)
        tokenizer, folder = calculator.load_tokenizer(), calculator.path
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


def calibrate_folder(
    model: str,
    data: Sequence[str],
    *,
    held_out: float = 0.0,
    settings: Sequence[str] | None = None,
    seed: int = 0,
    text_column: str = "text",
    device: str | None = None,
    **options: Any,
) -> tuple[Calibration, Path]:
    """Calibrates a calculator's folder and writes its `ladm_config.json`."""
    if not Path(model).expanduser().is_dir():
        raise ConfigError(f"{model!r} is not a local folder: download the calculator, then calibrate the copy")
    tokenizer = resolve(model).load_tokenizer()
    documents = tokenize_documents(load_documents(list(data)), tokenizer, text_column)
    if held_out:
        out = kept_out(documents, held_out, seed)
        documents = [document for document, apart in zip(documents, out, strict=True) if apart]
    if settings:
        options["settings"] = [_setting(text) for text in settings]
    calibration = calibrate(model, documents, seed=seed, device=device, progress=True, **options)
    return calibration, write_calibration(model, calibration)


def _setting(text: str) -> Setting:
    return _pair(text, "x", int, int)


def _pair(text: str, separator: str, first: Any, second: Any) -> tuple[Any, Any]:
    left, found, right = text.partition(separator)
    try:
        if not found:
            raise ValueError
        return first(left), second(right)
    except ValueError as error:
        raise ConfigError(f"expected two numbers with {separator!r} between them, got {text!r}") from error


def _texts(dataset: Iterable[Any], column: str) -> Iterable[str]:
    """Texts of a data set, long ones cut, so that a few books do not decide the vocabulary."""
    for number, row in enumerate(dataset):
        if number >= TOKENIZER_TEXTS:
            return
        text = row.get(column)
        if isinstance(text, str):
            yield text[:TOKENIZER_CHARS]
