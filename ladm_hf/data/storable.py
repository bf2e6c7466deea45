"""Columns of a data set in types that parquet can hold.

struct without fields, wherever it is in a type    -> JSON text, as in JSON lines
any other type that parquet does not know          -> an error that names the column
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from ladm_hf.data.columns import to_objects
from ladm_hf.data.inference import has_empty_struct, to_json
from ladm_hf.errors import InputError

if TYPE_CHECKING:
    from datasets import Features

logger = logging.getLogger(__name__)


def storable_features(features: Features, name: str) -> Features:
    """The features of a data set in types that parquet can hold; columns that become text are logged.

    Args:
        features (`Features`): of the data set.
        name (`str`): what the data set is called, for messages.

    Raises:
        InputError: parquet cannot hold a column.
    """
    from datasets import Features, Value

    found = dict(features)
    for field in features.arrow_schema:
        if has_empty_struct(field.type):
            logger.warning("column %r of %s holds objects without fields: it is kept as JSON text", field.name, name)
            found[field.name] = Value("string")
            continue
        try:
            pq.ParquetWriter(pa.BufferOutputStream(), pa.schema([field])).close()
        except pa.ArrowNotImplementedError as error:
            raise InputError(
                f"parquet, in which results are written, cannot hold column {field.name!r} of {name}, which is "
                f"{field.type}: remove it, or cast it to a type that it can"
            ) from error
    return Features(found)


def to_storable(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """A table with the columns of [`storable_features`], or some of them."""
    for n, name in enumerate(table.column_names):
        if has_empty_struct(table[name].type):
            texts = [None if value is None else to_json(value) for value in to_objects(table[name])]
            table = table.set_column(n, schema.field(name), pa.array(texts, pa.string()))
    return table
