"""Training a calculator, and calibrating one: documents -> windows -> Trainer -> heads that count, and how much.

    documents = tokenize_documents(load_documents("corpus/*.parquet"), tokenizer)
    train_calculator(documents, tokenizer, "my-calculator", Recipe(focus_layers=(4,), held_out=0.12))
    write_calibration("my-calculator", calibrate("my-calculator", documents))

Each name is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ladm_hf.training.averaging import average_calculators
    from ladm_hf.training.calibration import Calibration, calibrate, write_calibration
    from ladm_hf.training.documents import TokenizedDocument, held_out, load_documents, tokenize_documents
    from ladm_hf.training.labelled import labelled_windows
    from ladm_hf.training.library import library_documents
    from ladm_hf.training.mix import WindowMix
    from ladm_hf.training.recipe import PAPER, Architecture, Recipe
    from ladm_hf.training.tokenizer import train_tokenizer
    from ladm_hf.training.trainer import train_calculator
    from ladm_hf.training.windows import WindowDataset

_HOMES = {
    "Architecture": "recipe",
    "Calibration": "calibration",
    "PAPER": "recipe",
    "Recipe": "recipe",
    "TokenizedDocument": "documents",
    "WindowDataset": "windows",
    "WindowMix": "mix",
    "average_calculators": "averaging",
    "calibrate": "calibration",
    "held_out": "documents",
    "labelled_windows": "labelled",
    "library_documents": "library",
    "load_documents": "documents",
    "tokenize_documents": "documents",
    "train_calculator": "trainer",
    "train_tokenizer": "tokenizer",
    "write_calibration": "calibration",
}

__all__ = [
    "PAPER",
    "Architecture",
    "Calibration",
    "Recipe",
    "TokenizedDocument",
    "WindowDataset",
    "WindowMix",
    "average_calculators",
    "calibrate",
    "held_out",
    "labelled_windows",
    "library_documents",
    "load_documents",
    "tokenize_documents",
    "train_calculator",
    "train_tokenizer",
    "write_calibration",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
