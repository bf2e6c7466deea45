"""What a call of a scorer is given: a batch of columns or a list of documents, in any of the libraries' types.

dict, LazyBatch, pa.Table, pandas or polars DataFrame, Dataset    columns by name, nested ones with dots
list, tuple, array, Series, Column, pa.Array, iterator            the documents themselves
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from ladm_hf.arrays import Ints
from ladm_hf.data.columns import decoded, documents, mask_of, without_padding
from ladm_hf.errors import ColumnError, InputError

Tokens = Ints


def read_batch(batch: Any, text_column: str | None, input_ids_column: str | None) -> tuple[str, list[Any]]:
    """The column to score and its rows, from columns by name or a list of documents.

    Raises:
        ColumnError: neither column is there, or it holds one document.
        InputError: one text was given.
    """
    names = column_names(batch)
    if names is None:
        return _bare_rows(batch, text_column, input_ids_column)
    for column in filter(None, (text_column, input_ids_column)):
        rows = _column(batch, names, column)
        if rows is None:
            continue
        if column == input_ids_column:
            if _is_flat(rows):
                raise _not_batched(column)
            masks = _column(batch, names, mask_of(column))
            rows = rows if masks is None else without_padding(rows, masks, column)
        return column, rows
    wanted = " nor ".join(repr(name) for name in (text_column, input_ids_column) if name is not None)
    raise ColumnError(
        f"no column {wanted} in this data; its columns are {', '.join(map(repr, names)) or 'none'}. "
        "Name yours with LadmScorer(text_column=...) or LadmScorer(input_ids_column=...), with a dot where one lies in "
        "another."
    )


def column_names(batch: Any) -> list[str] | None:
    """Names of the columns of a batch; `None` for a list of documents."""
    names = batch.keys() if isinstance(batch, Mapping) else getattr(batch, "column_names", None)
    if names is None:
        names = getattr(batch, "columns", None)
    return None if names is None else [str(name) for name in names]


def all_rows(values: Any) -> list[Any]:
    """The values of a column or list of documents, as Python objects or arrays; texts kept as bytes are decoded.

    Raises:
        InputError: one text was given.
    """
    if isinstance(values, (str, bytes)):
        raise InputError("expected a list of texts, found one text: pass [text]")
    if isinstance(values, (pa.Array, pa.ChunkedArray)):
        return documents(values)
    try:
        return [decoded(value) for value in values]
    except TypeError as error:
        raise InputError(
            f"expected a list of documents or a batch of columns, found {type(values).__name__}"
        ) from error


def checked_text(text: Any) -> str:
    """The status of a text that cannot be scored, else ''."""
    if is_missing(text):
        return "null"
    if not isinstance(text, str):
        # a list of Arrow's or NumPy's is a list to who wrote it
        found = "list" if isinstance(text, np.ndarray) else type(text).__name__
        return f"error: expected a string, found {found}"
    return "" if text.strip() else "empty"


def checked_ids(ids: Any) -> Tokens | str:
    """Token ids as an array, or the status of a row that has none."""
    if is_missing(ids):
        return "null"
    try:
        array = np.asarray(ids)
    except (TypeError, ValueError):
        array = np.asarray(None)
    if array.size == 0 and array.ndim == 1:
        return np.empty(0, dtype=np.int64)
    if array.ndim == 1 and array.dtype == object and any(value is None for value in array):
        return "error: expected a flat sequence of integers, found null among them"
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        found = f"{type(ids).__name__} of {array.dtype} with {array.ndim} dimensions"
        return f"error: expected a flat sequence of integers, found {found}"
    return array.astype(np.int64)


def is_missing(value: Any) -> bool:
    """Whether a row holds nothing: `None`, or what pandas and NumPy put in its place (NaN, NA, NaT)."""
    if value is None or isinstance(value, str):
        return value is None
    return bool(pd.api.types.is_scalar(value) and pd.isna(value))


def _bare_rows(batch: Any, text_column: str | None, input_ids_column: str | None) -> tuple[str, list[Any]]:
    rows = all_rows(batch)
    if rows and all(isinstance(row, Mapping) for row in rows):
        raise InputError(
            "found a list of rows, not of documents: give one of their columns, or Dataset.from_list(rows)"
        )
    column = text_column or input_ids_column or ""
    if input_ids_column and not any(isinstance(row, str) for row in rows):
        # no text at all: rows that have a length are token ids
        column = input_ids_column if any(hasattr(row, "__len__") for row in rows) else column
    return column, rows


def _column(batch: Any, names: list[str], column: str) -> list[Any] | None:
    """The rows of a column, perhaps nested; `None` where it is not there."""
    root, *path = [column] if column in names else column.split(".")
    if root not in names:
        return None
    if names.count(root) > 1:
        raise ColumnError(f"{names.count(root)} columns are called {root!r}: rename all but one")
    values = batch[root]
    if values is None or isinstance(values, (str, Mapping)):
        raise _not_batched(column)
    rows = all_rows(values)
    for name in path:
        # a batch without one value cannot tell whether the column is there
        held = [row for row in rows if not is_missing(row)]
        if held and not any(isinstance(row, Mapping) and name in row for row in held):
            return None
        rows = [row.get(name) if isinstance(row, Mapping) else None for row in rows]
    return rows


def _is_flat(rows: list[Any]) -> bool:
    """Whether the rows are token ids themselves: one document, not a batch of them."""
    return len(rows) > 0 and all(not isinstance(row, (str, bytes, type(None))) and np.ndim(row) == 0 for row in rows)


def _not_batched(column: str) -> ColumnError:
    return ColumnError(f"column {column!r} holds one document, not a batch of them: call map(..., batched=True)")
