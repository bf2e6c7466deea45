"""Chunks: where to cut a source, and the columns of the result."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from ladm_hf.data.score_columns import SCORE_FIELDS, with_score_columns
from ladm_hf.data.sources import SourceScan

# Estimated tokens of a chunk, where that makes between MIN_CHUNKS and MAX_CHUNKS of them.
CHUNK_TOKENS = 4_000_000
MIN_CHUNKS, MAX_CHUNKS = 64, 9_999


def balanced_edges(scan: SourceScan, chunks: int | None = None) -> list[int]:
    """Units at which to cut a source into pieces of about equal cost.

    Args:
        scan ([`SourceScan`]): cost by position.
        chunks (`int`, *optional*): how many pieces; fewer where there are not so many rows.

    Returns:
        `list[int]`: ascending, from 0 to the size of the source.
    """
    size, total = int(scan.positions[-1]), float(scan.cost[-1])
    if size == 0:
        return [0, 0]
    wanted = chunks or int(np.clip(np.ceil(total / CHUNK_TOKENS), MIN_CHUNKS, MAX_CHUNKS))
    targets = np.linspace(0.0, total, wanted + 1)[1:-1]
    if scan.exact:
        after = np.clip(np.searchsorted(scan.cost, targets), 1, len(scan.cost) - 1)
        nearer = targets - scan.cost[after - 1] < scan.cost[after] - targets
        cuts = scan.positions[after - nearer]
    else:
        cuts = np.round(np.interp(targets, scan.cost, scan.positions)).astype(np.int64)
    inner: list[int] = sorted({int(cut) for cut in cuts} - {0, size})
    return [0, *inner, size]


def output_schema(
    schema: pa.Schema, scores_only: bool, score_columns: Sequence[str], kept: Sequence[str] = ()
) -> pa.Schema:
    """The columns of the result, with the features that `datasets` reads from the file.

    Args:
        schema (`pa.Schema`): columns of the source.
        scores_only (`bool`): whether the columns of the source are left out.
        score_columns (sequence of `str`): the columns that scoring adds to the run.
        kept (sequence of `str`): columns of the source that stay even so.

    Raises:
        ColumnError: the source has a column of scores already.
    """
    if scores_only:
        fields = [field for field in SCORE_FIELDS if field.name in score_columns]
        others = [schema.field(name) for name in kept if name != "index"]
        return pa.schema([pa.field("index", pa.int64()), *others, *fields])
    return with_score_columns(schema, score_columns)
