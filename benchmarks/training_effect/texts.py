"""What documents are ranked by or left out for that needs their text and no model."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from ladm_hf.scoring.repetition import repetition


def text_columns(texts: Sequence[str]) -> dict[str, list[float]]:
    return {
        "gzip_ratio": [compression(text) for text in texts],
        "ladm_repetition": [repetition(text) for text in texts],
    }


def compression(text: str) -> float:
    """Raw size over compressed size."""
    data = text.encode()
    return len(data) / len(zlib.compress(data, 6))
