"""The options of `ladm score` that change the score, its speed, or the number of passes."""

from __future__ import annotations

from typing import Annotated

import typer

from ladm_hf.cli.options import Ablation, Backend, Dtype, Overflow
from ladm_hf.data.score_columns import SIGNALS

_SCORE, _SPEED, _PASSES = "Score", "Precision and speed", "Two passes"
_ITS_OWN = "the calculator's, else "
# torchrun takes --signals for an abbreviation of its own --signals-to-handle, on Python 3.11 even behind the module.
FOR_TORCHRUN = "--add-signals"

Config = Annotated[
    str | None,
    typer.Option(
        help="JSON file of options of the score (ladm_config.json).",
        show_default="the calculator's own",
        rich_help_panel=_SCORE,
    ),
]
SpanLength = Annotated[
    int | None, typer.Option(help="Tokens in a span.", show_default=f"{_ITS_OWN}128", rich_help_panel=_SCORE)
]
AfsStride = Annotated[
    int | None,
    typer.Option(
        "--d-afs", help="Stride between key spans, in spans.", show_default=f"{_ITS_OWN}4", rich_help_panel=_SCORE
    ),
]
CdsStride = Annotated[
    int | None,
    typer.Option(
        "--d-cds", help="Stride between query spans, in spans.", show_default=f"{_ITS_OWN}4", rich_help_panel=_SCORE
    ),
]
Paper = Annotated[
    bool,
    typer.Option(
        "--paper",
        help="The paper's score over all heads and factors, whatever the calculator's calibration.",
        rich_help_panel=_SCORE,
    ),
]
WithoutFactors = Annotated[
    Ablation | None,
    typer.Option(help="Factors to leave out of the score.", show_default=f"{_ITS_OWN}none", rich_help_panel=_SCORE),
]
MaxLength = Annotated[
    int | None,
    typer.Option(
        help="Longest piece scored at once, in tokens.", show_default=f"{_ITS_OWN}32768", rich_help_panel=_SCORE
    ),
]
WhatOverflows = Annotated[
    Overflow | None,
    typer.Option(help="What happens beyond that.", show_default=f"{_ITS_OWN}truncate", rich_help_panel=_SCORE),
]
Signals = Annotated[
    str,
    typer.Option(
        "--signals",
        FOR_TORCHRUN,
        help=f"Other signals to write beside the score, by commas: {', '.join(SIGNALS)}.",
        show_default="none",
        rich_help_panel=_SCORE,
    ),
]
ShortContext = Annotated[
    int,
    typer.Option(
        min=1, help="Tokens of the short context of context_gain and key_token_share.", rich_help_panel=_SCORE
    ),
]
FirstCalculator = Annotated[
    str | None,
    typer.Option(
        help="Calculator of a first pass over everything, such as ladm-nano, with its own calibration; --model "
        "scores what that ranks highest.",
        show_default="none: one pass",
        rich_help_panel=_PASSES,
    ),
]
FirstKeep = Annotated[
    str | None,
    typer.Option(
        help="What goes on to the second pass: a share of the tokens of each domain (20%) or tokens (1B).",
        show_default="none; --cascade needs it",
        rich_help_panel=_PASSES,
    ),
]
FirstBy = Annotated[
    str,
    typer.Option(help="Column of the domain for --cascade-keep; '' ranks all rows as one.", rich_help_panel=_PASSES),
]
Precision = Annotated[
    Dtype,
    typer.Option(
        help="Precision; auto is float16 on a GPU, and on a CPU bfloat16 where it is faster (AMX, AVX512-BF16), "
        "else float32. A resumed run keeps its own.",
        rich_help_panel=_SPEED,
    ),
]
HowFocus = Annotated[
    Backend,
    typer.Option(help="How span focus is computed; changes only the speed.", rich_help_panel=_SPEED),
]
MaxBatchTokens = Annotated[
    int | None,
    typer.Option(
        help="Padded tokens in a batch.",
        show_default="what half of the GPU's memory holds",
        rich_help_panel=_SPEED,
    ),
]
