"""One call of a scorer: rows of one column -> [`DocumentScore`] of each, with or without a journal."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from ladm_hf.data.score_columns import TEXT_SIGNALS
from ladm_hf.errors import RowError
from ladm_hf.scoring.begun import Begun
from ladm_hf.scoring.inputs import Tokens
from ladm_hf.scoring.journal import Finished, Journal, with_journal
from ladm_hf.scoring.loader import Loader
from ladm_hf.scoring.results import DocumentScore
from ladm_hf.scoring.rows import TOKENIZE_CHARS, begin_scoring, start_rows, with_statistics

# Characters scored on a CPU before the journal keeps them; elsewhere as many as are tokenised at once.
JOURNAL_CHARS = 65_536
OnError = Literal["status", "raise"]


@dataclass(frozen=True)
class Call:
    """How the rows of one call are scored.

    Args:
        loader ([`Loader`]): gives the engine and the tokenizer.
        column (`str`): name of the column, for messages.
        are_texts (`bool`): whether the rows are texts; else they are what `checked_ids` gave.
        signals (`tuple[str, ...]`): signals beside the score.
        on_error (`str`): `"status"`, or `"raise"` for a [`RowError`] of the first row without a score.
        rank (`int`, *optional*): of the worker.
        progress (`bool`, *optional*): `None` shows a bar on a terminal when the work takes more than 2 s.
    """

    loader: Loader
    column: str
    are_texts: bool
    signals: tuple[str, ...]
    on_error: OnError
    rank: int | None = None
    progress: bool | None = None

    def begin(self, rows: list[Any]) -> Begun[list[DocumentScore]]:
        """Begins the host's part, where a device leaves the host free for it; what is returned scores the rows."""
        if not self.are_texts:
            self._warn_of_text_signals()

        running: deque[Callable[[], None]] = deque()

        def start(ids: list[Tokens | str], first: int) -> Callable[[], list[DocumentScore]]:
            def check(i: int, status: str) -> None:
                self._check_status(first + i, status)

            return start_rows(ids, lambda: self.loader.engine(self.rank), check, self.progress, running)

        ahead = self.loader.works_ahead(self.rank)
        much = ahead and self.loader.is_much(sum(len(row) for row in rows if isinstance(row, (str, np.ndarray))))

        def encode(texts: list[str]) -> list[Tokens | str]:
            return self.loader.host(texts=True, by_processes=much).encode(texts)

        def count(documents: list[Any]) -> list[tuple[float, Mapping[str, float]]]:
            return self.loader.host(texts=False, by_processes=much).count(documents, self.signals)

        threads = self.loader.host_threads() if ahead else None
        return begin_scoring(rows, encode if self.are_texts else None, count, start, threads)

    def score_journalled(self, rows: list[Any], journal: Journal) -> list[DocumentScore]:
        """Scores rows that the journal does not hold yet, and keeps them as they finish."""
        # bad rows are named by their place in the whole batch, so the parts of it must not raise
        part, names = replace(self, on_error="status"), self.loader.model_signals

        def score(group: list[Any]) -> list[Finished]:
            return [
                Finished(found.score, found.num_tokens, found.status, tuple(found.signals[name] for name in names))
                for found in part.begin(group)()
            ]

        limit = JOURNAL_CHARS if self.loader.device(self.rank) == "cpu" else TOKENIZE_CHARS
        scores = [
            DocumentScore(*found[:3], signals=dict(zip(names, found.signals, strict=True)))
            for found in with_journal(journal, rows, limit if self.are_texts else limit // 4, score)
        ]
        for i, found in enumerate(scores):
            self._check_status(i, found.status)
        # counted again rather than kept: it costs less than the journal's own hash
        documents = rows if self.are_texts else [None if isinstance(row, str) else row for row in rows]
        return with_statistics(scores, self.loader.host(texts=False).count(documents, self.signals))

    def _check_status(self, row: int, status: str) -> None:
        if self.on_error == "raise" and status != "ok":
            raise RowError(
                f"row {row} of this batch, column {self.column!r}: {status}. With on_error='status' such rows get NaN."
            )

    def _warn_of_text_signals(self) -> None:
        without = [name for name in self.signals if name in TEXT_SIGNALS]
        if without:
            warnings.warn(
                f"the signals {', '.join(without)} are statistics of a text, and these rows hold token ids: they are "
                "NaN. Give a text column beside the token ids, or leave these signals out",
                UserWarning,
                stacklevel=2,
            )
