"""What a scorer gives: the score of a document, and the focus map behind it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ladm_hf.arrays import Ints


@dataclass(frozen=True)
class DocumentScore:
    """The score of one document.

    Attributes:
        score (`float`): CDS, the mean of `layer_scores`, or their weighted geometric mean where the calculator's heads
            carry weights; non-negative, NaN unless `status` is `"ok"`.
        num_tokens (`int`): tokens that were scored, `max_length` at most for a truncated document; for a document
            without a score, its length in tokens (0 where it has none).
        status (`str`): `"ok"`, `"too_short"`, `"empty"`, `"null"` or `"error: ..."`.
        layer_scores (`tuple[float, ...]`): CDS of each scored layer, in the order of `LadmScorer.scored_layers`; with
            weights, `CDS / CDS_even` of each head, in the order of `LadmConfig.heads`.
        repetition (`float`): how much the document repeats itself, in 0..1, whatever its status; see
            [`ladm_hf.scoring.repetition`]. NaN where there is no text.
        signals (mapping of `str` to `float`): the signals that were asked for, by name.
    """

    score: float
    num_tokens: int
    status: str
    layer_scores: tuple[float, ...] = ()
    repetition: float = float("nan")
    signals: Mapping[str, float] = field(default_factory=dict)


def columns(scores: list[DocumentScore], signals: Iterable[str]) -> dict[str, Any]:
    """Scores, and signals by name, as the columns that a call gives."""
    return {
        "ladm_score": np.array([score.score for score in scores], dtype=np.float64),
        "ladm_num_tokens": np.array([score.num_tokens for score in scores], dtype=np.int32),
        "ladm_status": [score.status for score in scores],
        "ladm_repetition": np.array([score.repetition for score in scores], dtype=np.float64),
        **{f"ladm_{name}": np.array([score.signals[name] for score in scores], dtype=np.float64) for name in signals},
    }


@dataclass(frozen=True)
class FocusMap:
    """What the score of one document is made of: who looks at whom.

    Attributes:
        pfs (`float32` array `[R, S]`): PFS averaged over the heads and layers that count, in `0..l`; NaN where there
            is no such pair of spans.
        query_starts (`int64` array `[R]`): first token of each query span, from the end of the document.
        key_starts (`int64` array `[R, S]`): first token of each key span, nearest first, -1 where there is none.
        span_length (`int`): tokens in a span, `l`.
        offsets (`int64` array `[T, 2]`, *optional*): first and last character of each token in the text.
        score ([`DocumentScore`]): the score of the same tokens.
    """

    pfs: npt.NDArray[np.float32]
    query_starts: Ints
    key_starts: Ints
    span_length: int
    offsets: Ints | None
    score: DocumentScore
