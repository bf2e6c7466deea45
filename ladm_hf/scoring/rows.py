"""Rows into scores: every row becomes an array of token ids, or the status that says why it has no score.

texts -> token ids -> windows -> engine -> mean over windows, weighted by tokens
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any, NamedTuple

import numpy as np
from tqdm.auto import tqdm

from ladm_hf.config import LadmConfig
from ladm_hf.data.score_columns import GAIN_SIGNALS
from ladm_hf.ops.scores import document_score
from ladm_hf.scoring.batching import OUT_OF_MEMORY
from ladm_hf.scoring.begun import Begun
from ladm_hf.scoring.engine import Engine, Measured
from ladm_hf.scoring.inputs import Tokens, checked_text
from ladm_hf.scoring.results import DocumentScore

# Characters tokenised at once, which bounds the tokenizer's own memory, and those that one of several threads takes.
TOKENIZE_CHARS, THREAD_CHARS = 4_000_000, 250_000
PROGRESS_DELAY = 2.0
# Threads that count. Their many short calls into NumPy each take the interpreter's lock anew: more threads would only
# wait for one another, and keep the one that launches the device's kernels waiting.
COUNTING_THREADS = 2
# Repetition and text signals of documents.
Count = Callable[[list[Any]], list[tuple[float, Mapping[str, float]]]]


class HostThreads(NamedTuple):
    """Threads that do the host's part for a device: those that tokenise, and those that count beside the score."""

    tokenizing: Executor
    counting: Executor


def groups_by_size(sizes: list[int], limit: int) -> Iterable[list[int]]:
    """Consecutive indices whose sizes sum to at most `limit`, one at least."""
    group: list[int] = []
    total = 0
    for i, size in enumerate(sizes):
        if group and total + size > limit:
            yield group
            group, total = [], 0
        group.append(i)
        total += size
    if group:
        yield group


def windows(ids: Tokens, config: LadmConfig) -> list[Tokens]:
    """The pieces of a document that are scored, each at least `min_tokens` long."""
    if len(ids) <= config.max_length or config.overflow == "truncate":
        return [ids[: config.max_length]]
    windows = [ids[start : start + config.max_length] for start in range(0, len(ids), config.max_length)]
    return [window for window in windows if len(window) >= config.min_tokens]


def token_ids(rows: list[Any], encode: Callable[[list[str]], list[Tokens | str]] | None) -> list[Tokens | str]:
    """Token ids or statuses of some rows.

    Args:
        rows (`list`): texts, where anything else gets a status; or what `checked_ids` gave, where `encode` is `None`.
        encode (callable, *optional*): gives the token ids of texts, and is called only where there is a text.
    """
    if encode is None:
        return rows
    ids: list[Tokens | str] = [checked_text(text) for text in rows]
    todo = [i for i, row in enumerate(ids) if not row]
    for group in groups_by_size([len(rows[i]) for i in todo], TOKENIZE_CHARS):
        for n, found in zip(group, encode([rows[todo[n]] for n in group]), strict=True):
            ids[todo[n]] = found
    return ids


def begin_scoring(
    rows: list[Any],
    encode: Callable[[list[str]], list[Tokens | str]] | None,
    count: Count,
    start: Callable[[list[Tokens | str], int], Callable[[], list[DocumentScore]]],
    threads: HostThreads | None,
) -> Begun[list[DocumentScore]]:
    """Begins the host's part of some rows, by threads where there are some; what is returned scores them.

    While a device scores one group of rows the threads tokenise the next, and once it has begun that one, the group is
    finished; where it has begun the last one, what is returned is started.

    Args:
        rows (`list`): texts, or what `checked_ids` gave.
        encode (callable, *optional*): see [`token_ids`].
        count (callable): gives repetition and text signals of documents, `None` where a row is none.
        start (callable): starts to score token ids or statuses, given the number of the first row; see [`start_rows`].
        threads ([`HostThreads`], *optional*): for a device that works on its own while the host does something else.
    """

    # a string in place of token ids is a status
    kind = np.ndarray if encode is None else str
    documents = [row if isinstance(row, kind) else None for row in rows]
    if threads is None:
        return Begun(lambda: with_statistics(start(token_ids(rows, encode), 0)(), count(documents)))
    sizes = [0 if row is None else len(row) for row in documents]
    parts = [slice(group[0], group[-1] + 1) for group in groups_by_size(sizes, THREAD_CHARS)]
    ids = [threads.tokenizing.submit(token_ids, rows[part], encode) for part in parts]
    counts = [threads.counting.submit(count, documents[part]) for part in parts]
    together = list(groups_by_size([sum(sizes[part]) for part in parts], TOKENIZE_CHARS))

    scores: list[DocumentScore] = []
    finish_last: Callable[[], list[DocumentScore]] = list

    def start_groups() -> None:
        nonlocal finish_last
        for group in together:
            finish_before, finish_last = finish_last, list
            try:
                finish_last = start([row for n in group for row in ids[n].result()], parts[group[0]].start)
            finally:
                # where both fail, the error of the rows that come first is raised
                scores.extend(finish_before())

    def finish() -> list[DocumentScore]:
        scores.extend(finish_last())
        return with_statistics(scores, [values for part in counts for values in part.result()])

    return Begun(finish, [*ids, *counts], start_groups)


def with_statistics(
    scores: Iterable[DocumentScore], measured: Iterable[tuple[float, Mapping[str, float]]]
) -> list[DocumentScore]:
    """The scores of documents with the repetition and text signals of each, in the same order."""
    return [
        dataclasses.replace(score, repetition=repetition, signals={**signals, **score.signals})
        for score, (repetition, signals) in zip(scores, measured, strict=True)
    ]


def start_rows(
    rows: list[Tokens | str],
    load: Callable[[], Engine],
    check: Callable[[int, str], None],
    progress: bool | None,
    running: deque[Callable[[], None]],
) -> Callable[[], list[DocumentScore]]:
    """Starts to score rows of token ids; a row that is a `str` already has its status.

    Args:
        rows (`list`): what `checked_ids` or [`token_ids`] gave.
        load (callable): gives the engine, and is called only where there are token ids.
        check (callable): takes the place and status of every row, and may raise.
        progress (`bool`, *optional*): `None` shows a bar on a terminal when the work takes more than 2 s.
        running (deque of callables): wait for the batches in flight, those of the rows before these first.

    Returns:
        What waits for the batches that a device is still at, and gives the scores.
    """
    statuses = [row if isinstance(row, str) else "" for row in rows]
    pieces: list[tuple[int, Tokens]] = []
    engine: Engine | None = None
    for i, row in enumerate(rows):
        if not isinstance(row, str):
            engine = engine or load()
            statuses[i] = status_of(row, engine)
            if statuses[i] == "ok":
                pieces += [(i, window) for window in windows(row, engine.config)]
        check(i, statuses[i])
    measured: list[list[tuple[int, Measured | None]]] = [[] for _ in rows]
    lengths = [len(window) for _, window in pieces]
    bar = tqdm(
        total=sum(lengths), unit="tok", unit_scale=True, desc="LADM", delay=PROGRESS_DELAY,
        disable=None if progress is None else not progress,
    )  # fmt: skip
    left = len(pieces)

    def wait(batch: list[int], scores: Callable[[], list[Measured]] | None) -> None:
        nonlocal left
        results = None if scores is None else scores()
        for n, j in enumerate(batch):
            measured[pieces[j][0]].append((lengths[j], None if results is None else results[n]))
        bar.update(sum(lengths[j] for j in batch))
        left -= len(batch)
        if not left:
            bar.close()

    if engine is not None and pieces:
        with contextlib.ExitStack() as on_error:
            on_error.callback(bar.close)
            for started in engine.start_all([window for _, window in pieces]):
                running.append(functools.partial(wait, *started))
                while len(running) > engine.in_flight:
                    running.popleft()()
            on_error.pop_all()

    def finish() -> list[DocumentScore]:
        with bar:
            while left:
                running.popleft()()
        found = [_document_score(*row, engine) for row in zip(rows, statuses, measured, strict=True)]
        for i, score in enumerate(found):
            check(i, score.status)
        return found

    return finish


def status_of(ids: Tokens, engine: Engine) -> str:
    """The status of token ids under a calculator: `"ok"` where they can be scored."""
    if len(ids) == 0:
        return "empty"
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= engine.vocab_size:
        return (
            f"error: token ids run from {low} to {high}, a vocabulary of at least {high + 1}, but the model's has "
            f"{engine.vocab_size} entries: these ids were made by another tokenizer, or by one with added tokens for "
            "which the model was not resized (resize_token_embeddings)"
        )
    positions, longest = engine.plan.positions, min(len(ids), engine.config.max_length)
    if len(ids) >= engine.config.min_tokens and positions is not None and longest > positions:
        return (
            f"error: this {engine.model_type!r} model has learned positions for {positions} tokens and cannot read "
            f"{longest}: set LadmConfig(max_length={positions}) or less, or use a model with rotary positions"
        )
    return "ok" if len(ids) >= engine.config.min_tokens else "too_short"


def _document_score(
    row: Tokens | str, status: str, found: list[tuple[int, Measured | None]], engine: Engine | None
) -> DocumentScore:
    """One score from the pieces of a document, each with its tokens, by which it is weighted."""
    num_tokens = 0 if isinstance(row, str) else len(row)
    if status != "ok":
        return DocumentScore(float("nan"), num_tokens, status)
    scored = sum(length for length, _ in found)
    if any(result is None for _, result in found):
        return DocumentScore(
            float("nan"), scored, f"error: {OUT_OF_MEMORY} at {max(n for n, _ in found)} tokens in one piece"
        )
    weights = [length for length, _ in found]
    pieces = [result for _, result in found if result is not None]
    layers = np.average([piece.cds for piece in pieces], axis=0, weights=weights)
    assert engine is not None
    score = document_score(layers, engine.config.weights)
    if not np.isfinite(score):
        return DocumentScore(float("nan"), scored, f"error: the score is not finite in {engine.dtype}{_hint(engine)}")
    signals = _signals(pieces, weights, engine)
    return DocumentScore(score, scored, "ok", tuple(layers.tolist()), signals=signals)


def _signals(pieces: Sequence[Measured], lengths: Sequence[int], engine: Engine) -> dict[str, float]:
    """Each signal of the model: its mean over the pieces that have it, weighted by their tokens; NaN where none has."""
    found = {}
    for column, name in enumerate(engine.signals):
        # a gain needs tokens beyond the short context
        least = engine.short_context or 0 if name in GAIN_SIGNALS else 0
        having = [(piece.signals[column], n) for piece, n in zip(pieces, lengths, strict=True) if n > least]
        values, weights = zip(*having, strict=True) if having else ((np.nan,), (1,))
        found[name] = float(np.average(values, weights=weights))
        if having and not np.isfinite(found[name]):
            warnings.warn(
                f"{name} of a document is not finite in {engine.dtype}{_hint(engine)}", UserWarning, stacklevel=2
            )
    return found


def _hint(engine: Engine) -> str:
    return "; try dtype='bfloat16' or 'float32'" if engine.dtype == "float16" else ""
