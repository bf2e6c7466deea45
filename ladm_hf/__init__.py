"""LADM for Hugging Face: choose long-context training data by the attention of a small model.

    from ladm_hf import ladm_score
    scored = dataset.map(ladm_score, batched=True)

Importing this package loads neither torch nor transformers; each name below is imported when it is first used. It
registers the metric `evaluate.load("ladm")`, where the start-up hook has not done so; see `_ladm_hf_autoload`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import _ladm_hf_autoload
from ladm_hf.version import __version__

if TYPE_CHECKING:
    from ladm_hf.config import LadmConfig
    from ladm_hf.errors import LadmError
    from ladm_hf.ops.spans import SpanGrid
    from ladm_hf.packing.pack import pack
    from ladm_hf.packing.record import PackRecord
    from ladm_hf.publishing.card import build_card
    from ladm_hf.publishing.publish import publish
    from ladm_hf.ranks import is_first_rank
    from ladm_hf.runs.cascade import Cascade
    from ladm_hf.runs.prepare import prepare_dataset
    from ladm_hf.runs.progress import RunStatus, run_status
    from ladm_hf.runs.runner import score_dataset
    from ladm_hf.scoring.attention import register_attention
    from ladm_hf.scoring.results import DocumentScore, FocusMap
    from ladm_hf.scoring.scorer import LadmScorer, ladm_score
    from ladm_hf.selection.compare import compare
    from ladm_hf.selection.options import parse_budget, parse_tokens
    from ladm_hf.selection.result import Selection
    from ladm_hf.selection.selection import add_percentile, select
    from ladm_hf.selection.signals import parse_keep, parse_score

_HOMES = {
    "Cascade": "ladm_hf.runs.cascade",
    "DocumentScore": "ladm_hf.scoring.results",
    "FocusMap": "ladm_hf.scoring.results",
    "LadmConfig": "ladm_hf.config",
    "LadmError": "ladm_hf.errors",
    "LadmScorer": "ladm_hf.scoring.scorer",
    "Selection": "ladm_hf.selection.result",
    "PackRecord": "ladm_hf.packing.record",
    "RunStatus": "ladm_hf.runs.progress",
    "SpanGrid": "ladm_hf.ops.spans",
    "add_percentile": "ladm_hf.selection.selection",
    "build_card": "ladm_hf.publishing.card",
    "compare": "ladm_hf.selection.compare",
    "is_first_rank": "ladm_hf.ranks",
    "ladm_score": "ladm_hf.scoring.scorer",
    "pack": "ladm_hf.packing.pack",
    "parse_budget": "ladm_hf.selection.options",
    "parse_keep": "ladm_hf.selection.signals",
    "parse_score": "ladm_hf.selection.signals",
    "parse_tokens": "ladm_hf.selection.options",
    "prepare_dataset": "ladm_hf.runs.prepare",
    "publish": "ladm_hf.publishing.publish",
    "register_attention": "ladm_hf.scoring.attention",
    "select": "ladm_hf.selection.selection",
    "run_status": "ladm_hf.runs.progress",
    "score_dataset": "ladm_hf.runs.runner",
}

__all__ = [
    "Cascade",
    "DocumentScore",
    "FocusMap",
    "LadmConfig",
    "LadmError",
    "LadmScorer",
    "PackRecord",
    "RunStatus",
    "Selection",
    "SpanGrid",
    "__version__",
    "add_percentile",
    "build_card",
    "compare",
    "is_first_rank",
    "ladm_score",
    "pack",
    "parse_budget",
    "parse_keep",
    "parse_score",
    "parse_tokens",
    "prepare_dataset",
    "publish",
    "register_attention",
    "run_status",
    "score_dataset",
    "select",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__


_ladm_hf_autoload.install()
