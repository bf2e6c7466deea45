"""How much a document repeats itself: a statistic of its text, beside the score, which cannot tell.

A passage is a window of `WINDOW_CHARS` characters, without regard to white space and case, or of `WINDOW_TOKENS` tokens
where there is no text. Of the passages of a document, one beginning at each character, `D` are distinct, and `R` of
these occur more than once. Of the `N` passages that are `LONGER` times as long, `E` are distinct.

    repetition = max(R / D, (N - E) / N)

`R / D` is near 1 for a text that comes twice, half of that for one of which a half comes twice, and small for a licence
or a formula of law that comes often but is short. `(N - E) / N`, the share of the text that is a copy, finds what is
short but comes so often that it fills the document. Its passages are longer because the idioms of natural code and law,
copied in short pieces, reach as much. `benchmarks/repetition.py` shows what a limit finds.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

# 3 * 2^k, see `_hashes`.
WINDOW_CHARS, WINDOW_TOKENS = 48, 12
# A power of 2.
LONGER = 4
# Passages that are counted: of a longer document every second, third, ..., chosen by their hash.
_MOST_PASSAGES = 4_000_000
# Passages that are hashed at once.
_PART = 1_000_000
# Odd, so that its powers never vanish modulo 2^64 and every symbol of a window counts.
_BASE = 0x9E3779B97F4A7C15


def repetition(document: Any) -> float:
    """How much of a document it says more than once.

    Args:
        document (`str` or integer array `[T]`): a text, or token ids.

    Returns:
        `float` in 0..1, as the module's docstring defines it; 0 for a document shorter than a passage, NaN where there
        is no text: white space alone, no tokens, or neither of the two.
    """
    if isinstance(document, str):
        data = "".join(document.casefold().split()).encode("utf-32-le", "surrogatepass")
        return _repetition(np.frombuffer(data, dtype=np.uint32), WINDOW_CHARS)
    if isinstance(document, np.ndarray) and document.ndim == 1 and np.issubdtype(document.dtype, np.integer):
        return _repetition(document, WINDOW_TOKENS)
    return float("nan")


def _repetition(symbols: npt.NDArray[Any], length: int) -> float:
    if not len(symbols):
        return float("nan")
    short, long = _occurrences(symbols, length), _occurrences(symbols, LONGER * length)
    again = float(np.mean(short > 1)) if len(short) else 0.0
    return max(again, 1 - len(long) / int(long.sum()) if len(long) else 0.0)


def _occurrences(symbols: npt.NDArray[Any], length: int) -> npt.NDArray[np.int64]:
    """How often each distinct passage occurs."""
    kept, every = [], 1 + (len(symbols) - 1) // _MOST_PASSAGES
    for start in range(0, len(symbols), _PART):
        hashes = _hashes(symbols[start : start + _PART + length - 1], length)
        # the remainder of a prime, since the low bits of these hashes depend on the low bits of the symbols alone
        kept.append(hashes if every == 1 else hashes[hashes % 65_537 % every == 0])
    passages = np.concatenate(kept)
    passages.sort()
    first = np.flatnonzero(np.concatenate([np.ones(min(1, len(passages)), bool), passages[1:] != passages[:-1]]))
    return np.diff(first, append=len(passages))


def _hashes(symbols: npt.NDArray[Any], length: int) -> npt.NDArray[np.uint64]:
    """`[N]`, the sum over a window `s` of `s[i] * _BASE ^ (length - 1 - i)` modulo 2^64; `length` is 3 * 2^k.

    Two windows make one of twice the width, and at last three one of `length`; a shorter document has none.
    """
    hashes, width = symbols.astype(np.uint64), 1
    while True:
        shift = np.uint64(pow(_BASE, width, 2**64))
        double = hashes[:-width] * shift + hashes[width:]
        if 3 * width == length:
            return double[:-width] * shift + hashes[2 * width :]
        hashes, width = double, 2 * width
