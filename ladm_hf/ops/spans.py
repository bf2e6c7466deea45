"""Which spans query which: `SpanGrid`, integers only.

With `l = span_length`, a document of `T` tokens has

- query spans that start at `s = T - l, T - l - l d_cds, ...` while `s > l + 4 l d_afs`,
- for each, key spans that start at `e = s - t l d_afs` for `t = 1, 2, ...` while `e >= l`.

The first span (the attention sink) and the nearest spans are thereby left out. Rows of the grid run from the end of
the document to its start (`r = 0` is the last span), columns from the nearest key span to the farthest (`t = 1` is
column 0).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from ladm_hf.arrays import Bools, Ints
from ladm_hf.config import MIN_KEY_SPANS, LadmConfig
from ladm_hf.errors import ConfigError


class SpanGrid:
    """The query and key spans of a batch of documents.

    Args:
        num_tokens (`int` or sequence of `int`):
            Length `T` of the document, or of each document of a batch.
        config ([`LadmConfig`], *optional*):
            Span length and strides. Defaults to the paper's.

    Attributes:
        num_tokens (`tuple[int, ...]`): `T` of each document, length `B`.
        query_starts (`int64` array `[B, R]`): first token of each query span, -1 where a document has fewer than `R`.
        num_key_spans (`int64` array `[B, R]`): key spans of each query span, 0 where there is no query span.
        span_length (`int`): tokens in a span, `l`.
        key_stride (`int`): tokens between key spans, `l d_afs`.
        query_stride (`int`): tokens between query spans, `l d_cds`.

    Raises:
        ConfigError: a document is shorter than `config.min_tokens`.
    """

    def __init__(self, num_tokens: int | Sequence[int], config: LadmConfig | None = None) -> None:
        config = config or LadmConfig()
        self.num_tokens = (int(num_tokens),) if np.ndim(num_tokens) == 0 else tuple(map(int, num_tokens))  # type: ignore[arg-type]
        if min(self.num_tokens, default=0) < config.min_tokens:
            raise ConfigError(
                f"a document of {min(self.num_tokens, default=0)} tokens has no query span: "
                f"{config.min_tokens} are needed"
            )
        self.span_length = config.span_length
        self.key_stride = config.span_length * config.d_afs
        self.query_stride = config.span_length * config.d_cds
        lowest = config.span_length + MIN_KEY_SPANS * self.key_stride
        starts = [
            np.arange(length - self.span_length, lowest, -self.query_stride, dtype=np.int64)
            for length in self.num_tokens
        ]
        self.query_starts: Ints = np.full((len(starts), max(map(len, starts))), -1, dtype=np.int64)
        for row, values in zip(self.query_starts, starts, strict=True):
            row[: len(values)] = values
        present = self.query_starts >= 0
        self.num_key_spans: Ints = np.where(present, (self.query_starts - self.span_length) // self.key_stride, 0)

    def __len__(self) -> int:
        return len(self.num_tokens)

    @functools.cached_property
    def shape(self) -> tuple[int, int]:
        """`(R, S)`: the most query spans and key spans of any document of the batch."""
        return self.query_starts.shape[1], int(self.num_key_spans.max())

    @property
    def present(self) -> Bools:
        """`[B, R, S]`, true where the document has that pair of spans."""
        columns: Bools = np.arange(self.shape[1]) < self.num_key_spans[..., None]
        return columns

    def key_starts(self, sample: int, row: int) -> Ints:
        """First tokens of the key spans of one query span, nearest first, `[t]`."""
        steps = np.arange(1, self.num_key_spans[sample, row] + 1, dtype=np.int64)
        starts: Ints = self.query_starts[sample, row] - steps * self.key_stride
        return starts

    def query_spans(self, sample: int) -> list[tuple[int, int, int]]:
        """`(row, first token, number of key spans)` of every query span of one document."""
        rows = zip(self.query_starts[sample].tolist(), self.num_key_spans[sample].tolist(), strict=True)
        return [(row, start, count) for row, (start, count) in enumerate(rows) if start >= 0]
