"""Rows into token ids: every row becomes an array, or the status that says why it has no score."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from ladm_hf.arrays import Ints
from ladm_hf.config import LadmConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Tokens = Ints
# Characters tokenised at once, which bounds the tokenizer's own memory.
TOKENIZE_CHARS = 4_000_000


def checked_text(text: Any) -> str:
    """The status of a text that cannot be scored, else ''."""
    if text is None:
        return "null"
    if not isinstance(text, str):
        return f"error: expected a string, found {type(text).__name__}"
    return "" if text.strip() else "empty"


def checked_ids(ids: Any) -> Tokens | str:
    """Token ids as an array, or the status of a row that has none."""
    if ids is None:
        return "null"
    try:
        array = np.asarray(ids)
    except (TypeError, ValueError):
        array = np.asarray(None)
    if array.size == 0 and array.ndim == 1:
        return np.empty(0, dtype=np.int64)
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        found = f"{type(ids).__name__} of {array.dtype} with {array.ndim} dimensions"
        return f"error: expected a flat sequence of integers, found {found}"
    return array.astype(np.int64)


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


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[Tokens | str]:
    """Token ids of each text. A text that the tokenizer refuses gets a status and leaves the others alone."""
    try:
        return [np.asarray(ids, dtype=np.int64) for ids in tokenizer(texts, verbose=False)["input_ids"]]
    except Exception as error:  # tokenizer backends raise whatever they like on text that is no valid Unicode
        if len(texts) == 1:
            return [f"error: the tokenizer refused the text ({type(error).__name__}: {error})"]
        return [row for text in texts for row in tokenize(tokenizer, [text])]


def windows(ids: Tokens, config: LadmConfig) -> list[Tokens]:
    """The pieces of a document that are scored, each at least `min_tokens` long."""
    if len(ids) <= config.max_length or config.overflow == "truncate":
        return [ids[: config.max_length]]
    windows = [ids[start : start + config.max_length] for start in range(0, len(ids), config.max_length)]
    return [window for window in windows if len(window) >= config.min_tokens]


def _is_flat(rows: Any) -> bool:
    """Whether the rows are token ids themselves: one document, not a batch of them."""
    return len(rows) > 0 and all(not isinstance(row, (str, type(None))) and np.ndim(row) == 0 for row in rows)
