"""The focus map of one document: its PFS over spans, averaged over the heads and layers that count."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ladm_hf.arrays import Ints
from ladm_hf.errors import RowError
from ladm_hf.ops.scores import document_score
from ladm_hf.ops.spans import SpanGrid
from ladm_hf.scoring.engine import Engine
from ladm_hf.scoring.inputs import Tokens, checked_ids
from ladm_hf.scoring.repetition import repetition
from ladm_hf.scoring.results import DocumentScore, FocusMap
from ladm_hf.scoring.rows import status_of


def focus_map(engine: Engine, document: str | Sequence[int]) -> FocusMap:
    """The focus map of a text or of token ids, of which the first `max_length` tokens count.

    Raises:
        RowError: the document has no score; the message gives its status.
    """
    ids, offsets = _tokens(engine, document)
    status = ids if isinstance(ids, str) else status_of(ids, engine)
    if isinstance(ids, str) or status != "ok":
        least = engine.config.min_tokens
        raise RowError(f"this document has no focus map: {status} (at least {least} tokens are needed)")
    grid, pfs = engine.pfs([ids])
    layers = engine.cds(grid, pfs)[:, 0].numpy()
    mean = np.where(grid.present[0], pfs.mean(0)[0].numpy(), np.nan).astype(np.float32)
    again = repetition(document if isinstance(document, str) else ids)
    total = document_score(layers, engine.config.weights)
    score = DocumentScore(total, len(ids), "ok", tuple(layers.tolist()), again)
    return FocusMap(mean, grid.query_starts[0], _key_starts(grid), grid.span_length, offsets, score)


def _tokens(engine: Engine, document: str | Sequence[int]) -> tuple[Tokens | str, Ints | None]:
    """Token ids or a status, and where the tokens stand in the text."""
    most, offsets = engine.config.max_length, None
    if not isinstance(document, str):
        ids = checked_ids(document)
        return ids if isinstance(ids, str) else ids[:most], None
    encoded = engine.tokenizer(document, verbose=False, return_offsets_mapping=engine.tokenizer.is_fast)
    found = np.asarray(encoded["input_ids"], dtype=np.int64)[:most]
    if "offset_mapping" in encoded:
        offsets = np.asarray(encoded["offset_mapping"], dtype=np.int64).reshape(-1, 2)[: len(found)]
    return found if document.strip() else "empty", offsets


def _key_starts(grid: SpanGrid) -> Ints:
    """First token of each key span of a batch of one, `[R, S]`, -1 where there is none."""
    starts = np.full(grid.shape, -1, dtype=np.int64)
    for r, _, count in grid.query_spans(0):
        starts[r, :count] = grid.key_starts(0, r)
    return starts
