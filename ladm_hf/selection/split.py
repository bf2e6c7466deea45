"""The rows kept and the rows dropped, with the columns that a selection adds: views of the pool or of its files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from ladm_hf.arrays import Bools
from ladm_hf.data.columns import with_positions
from ladm_hf.data.rows import AnyRows, DatasetRows, SourceRows
from ladm_hf.selection.pool import Pool
from ladm_hf.selection.reasons import DROP_REASON

if TYPE_CHECKING:
    from datasets import Dataset


def split_rows(pool: Pool, kept: Bools, added: Mapping[str, pa.Array], reasons: pa.Array) -> tuple[AnyRows, AnyRows]:
    """The rows kept and the rows dropped.

    Args:
        pool ([`Pool`]): all rows.
        kept (`bool` array `[N]`): those that were kept.
        added (mapping of `str` to `pa.Array` `[N]`): columns that all rows get.
        reasons (`pa.Array` `[N]`): the column that the dropped rows get.
    """
    if isinstance(pool.rows, SourceRows):
        of_kept = {name: values.filter(pa.array(kept)) for name, values in added.items()}
        of_dropped = {name: values.filter(pa.array(~kept)) for name, values in {**added, DROP_REASON: reasons}.items()}
        return (
            pool.rows.part(kept, pa.table(of_kept) if of_kept else None, without=[DROP_REASON]),
            pool.rows.part(~kept, pa.table(of_dropped)),
        )
    dataset = pool.rows.dataset()
    for name, values in added.items():
        dataset = with_column(dataset, name, values)
    if DROP_REASON in dataset.column_names:
        dataset = dataset.remove_columns(DROP_REASON)
    dropped = with_column(dataset, DROP_REASON, reasons)
    return DatasetRows(dataset.select(np.flatnonzero(kept))), DatasetRows(dropped.select(np.flatnonzero(~kept)))


def with_column(dataset: Dataset, name: str, values: pa.Array) -> Dataset:
    """The data set with a column, replaced where it is there, the others not copied even where it is a view of rows."""
    from datasets import Dataset

    if name in dataset.column_names:
        dataset = dataset.remove_columns(name)
    dataset, positions = with_positions(dataset)
    if positions is None:
        return dataset.add_column(name, values)
    source = np.full(dataset.data.num_rows, -1, dtype=np.int64)
    source[positions] = np.arange(len(positions))
    beneath = values.take(pa.array(source, mask=source < 0))
    if len(np.unique(positions)) < len(positions) and not beneath.take(pa.array(positions)).equals(values):
        # a row that occurs twice is both kept and dropped: there is no one value to put beside it
        return dataset.flatten_indices().add_column(name, values)
    fingerprint = getattr(dataset, "_fingerprint", None)
    table = Dataset(dataset.data, info=dataset.info.copy(), split=dataset.split, fingerprint=fingerprint)
    return table.add_column(name, beneath).select(positions)
