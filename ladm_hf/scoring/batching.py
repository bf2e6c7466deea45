"""Batches of documents under a token budget: longest first, halved when memory runs out, order restored by index.

A batch is padded on the right to its longest document, so it costs `len(batch) * longest` tokens. Longest first means
that memory runs out at once or not at all, and that neighbours in length share a batch.
"""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

T = TypeVar("T")

# A batch that has enough tokens to keep a device busy takes no document that would bring its padding over this share.
ENOUGH_TOKENS, MAX_PADDING = 65_536, 0.03
OUT_OF_MEMORY = "out of memory"


class TokenBudget:
    """The most padded tokens that one batch may have; it shrinks when memory runs out and stays small.

    Args:
        max_tokens (`int`):
            Padded tokens in a batch. A longer document still gets a batch of its own.
    """

    def __init__(self, max_tokens: int) -> None:
        self.max_tokens = max_tokens

    def run(self, lengths: Sequence[int], compute: Callable[[list[int]], T]) -> Iterator[tuple[list[int], T | None]]:
        """Calls `compute` on batches of indices until every document is done.

        Args:
            lengths (`Sequence[int]`): tokens of each document.
            compute: maps a batch of indices to its results.

        Yields:
            `(indices, results)`, with `None` for results where a single document does not fit in memory.
        """
        queue = deque(sorted(range(len(lengths)), key=lambda i: -lengths[i]))
        while queue:
            batch = self._take(queue, lengths)
            try:
                results = compute(batch)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                results = None
            # Outside the except block, where the traceback no longer holds the tensors of the failed batch.
            if results is None:
                _release_memory()
                if len(batch) > 1:
                    self.max_tokens = max(1, len(batch) * lengths[batch[0]] // 2)
                    queue.extendleft(reversed(batch))
                    continue
            yield batch, results

    def _take(self, queue: deque[int], lengths: Sequence[int]) -> list[int]:
        batch = [queue.popleft()]
        longest = total = lengths[batch[0]]
        while queue and (len(batch) + 1) * longest <= self.max_tokens:
            total += lengths[queue[0]]
            padded = (len(batch) + 1) * longest
            if padded > ENOUGH_TOKENS and padded - total > MAX_PADDING * padded:
                break
            batch.append(queue.popleft())
        return batch


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory ran out, on a device or on the host."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and (OUT_OF_MEMORY in text or "can't allocate memory" in text)


def _release_memory() -> None:
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
