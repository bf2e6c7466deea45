"""Statistics of a text beside its score: how well it compresses, and how many of its lines and paragraphs come again.

They are of the whole text, however much of it is scored, and cost no forward pass. Token ids have no text: NaN.

    compression            bytes of the text in UTF-8 over bytes of its gzip stream at level 6
    duplicate_lines        1 - distinct lines / lines
    duplicate_paragraphs   1 - distinct paragraphs / paragraphs

The first is the ratio by whose quantiles OLMo 3 drops the most and the least compressible documents (arXiv 2512.13961,
section 3.6). The others are the duplicate line and paragraph fractions of Gopher (Rae et al. 2021, arXiv 2112.11446,
table A1, which drops documents above 0.3). Lines end with a line feed and paragraphs with one that white space alone
separates from the next. Unlike there, white space around a line or paragraph does not count, and blank ones are none.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Container, Iterable
from typing import Any

# The default of the gzip program; 31 asks zlib for a gzip stream.
GZIP_LEVEL, _GZIP_FORMAT = 6, 31
_BETWEEN_PARAGRAPHS = re.compile(r"\n\s*\n")


def compression(text: str) -> float:
    """Bytes of a text over those of its gzip stream: positive, and the larger, the more of the text repeats."""
    data = text.encode("utf-8", "surrogatepass")
    return len(data) / len(zlib.compress(data, GZIP_LEVEL, wbits=_GZIP_FORMAT))


def duplicate_lines(text: str) -> float:
    """Share of the lines that repeat an earlier one, in 0..1."""
    return _repeated(text.split("\n"))


def duplicate_paragraphs(text: str) -> float:
    """Share of the paragraphs that repeat an earlier one, in 0..1."""
    return _repeated(_BETWEEN_PARAGRAPHS.split(text))


def _repeated(parts: Iterable[str]) -> float:
    kept = [stripped for part in parts if (stripped := part.strip())]
    return 1 - len(set(kept)) / len(kept)


STATISTICS: dict[str, Callable[[str], float]] = {
    "compression": compression,
    "duplicate_lines": duplicate_lines,
    "duplicate_paragraphs": duplicate_paragraphs,
}


def text_signals(document: Any, names: Iterable[str]) -> dict[str, float]:
    """The text signals of a document.

    Args:
        document (`str` or anything else): NaN for what is no text, or white space alone.
        names (iterable of `str`): signals, NaN also for those that are not in `STATISTICS`.
    """
    known: Container[str] = STATISTICS if isinstance(document, str) and document.strip() else ()
    return {name: STATISTICS[name](document) if name in known else float("nan") for name in names}
