"""The options of `ladm score` that change the score, its speed, or the number of passes."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from ladm_hf.cli.options import Ablation, Backend, Dtype, Overflow
from ladm_hf.data.score_columns import SIGNALS

_score = partial(typer.Option, rich_help_panel="Score")
_speed = partial(typer.Option, rich_help_panel="Precision and speed")
_passes = partial(typer.Option, rich_help_panel="Two passes")
_ITS_OWN = "the calculator's, else "
# torchrun takes --signals for an abbreviation of its own --signals-to-handle, on Python 3.11 even behind the module.
FOR_TORCHRUN = "--add-signals"

Config = Annotated[
    str | None,
    _score(help="JSON file of options of the score (ladm_config.json).", show_default="the calculator's own"),
]
SpanLength = Annotated[int | None, _score(help="Tokens in a span.", show_default=f"{_ITS_OWN}128")]
AfsStride = Annotated[
    int | None,
    _score("--d-afs", help="Stride between key spans, in spans.", show_default=f"{_ITS_OWN}4"),
]
CdsStride = Annotated[
    int | None,
    _score("--d-cds", help="Stride between query spans, in spans.", show_default=f"{_ITS_OWN}4"),
]
Paper = Annotated[
    bool,
    _score("--paper", help="The paper's score over all heads and factors, whatever the calculator's calibration."),
]
WithoutFactors = Annotated[
    Ablation | None,
    _score(help="Factors to leave out of the score.", show_default=f"{_ITS_OWN}none"),
]
MaxLength = Annotated[
    int | None,
    _score(help="Longest piece scored at once, in tokens.", show_default=f"{_ITS_OWN}32768"),
]
WhatOverflows = Annotated[
    Overflow | None,
    _score(help="What happens beyond that.", show_default=f"{_ITS_OWN}truncate"),
]
Signals = Annotated[
    str,
    _score(
        "--signals",
        FOR_TORCHRUN,
        help=f"Other signals to write beside the score, by commas: {', '.join(SIGNALS)}.",
        show_default="none",
    ),
]
ShortContext = Annotated[
    int,
    _score(min=1, help="Tokens of the short context of context_gain and key_token_share."),
]
FirstCalculator = Annotated[
    str | None,
    _passes(
        help="Calculator of a first pass over everything, such as ladm-nano, with its own calibration; --model "
        "scores what that ranks highest.",
        show_default="none: one pass",
    ),
]
FirstKeep = Annotated[
    str | None,
    _passes(
        help="What goes on to the second pass: a share of the tokens of each domain (20%) or tokens (1B).",
        show_default="none; --cascade needs it",
    ),
]
FirstMaxLength = Annotated[
    int | None,
    _passes(
        min=1,
        help="Tokens of each document that the first pass reads, fewer for a cheaper one; --cascade-keep counts these.",
        show_default="--max-length, else the calculator's",
    ),
]
FirstBy = Annotated[
    str,
    _passes(help="Column of the domain for --cascade-keep; '' ranks all rows as one."),
]
Precision = Annotated[
    Dtype,
    _speed(
        help="Precision; auto is float16 on a GPU, and on a CPU bfloat16 where it is faster (AMX, AVX512-BF16), "
        "else float32. float8 is for linear layers, on GPUs that have it (Ada, Hopper). A resumed run keeps its own."
    ),
]
HowFocus = Annotated[
    Backend,
    _speed(help="How span focus is computed; changes only the speed."),
]
MaxBatchTokens = Annotated[
    int | None,
    _speed(help="Padded tokens in a batch.", show_default="what half of the GPU's memory holds"),
]
