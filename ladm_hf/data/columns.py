"""Columns by name, nested with dots: of tables, schemas and data sets."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from ladm_hf.arrays import Floats, Ints
from ladm_hf.data.arrow_types import to_loadable
from ladm_hf.errors import ColumnError, InputError

if TYPE_CHECKING:
    from datasets import Dataset


# Keys that an error names of JSON objects.
_KEYS_SHOWN = 8
# Bytes of text in a token, for balancing where only text is there.
BYTES_PER_TOKEN = 4


def document_column(schema: pa.Schema, candidates: Sequence[str]) -> str:
    """The first candidate that is a column, perhaps nested (`meta.text`).

    Raises:
        ColumnError: none is there.
    """
    for column in candidates:
        if column in schema.names or nested_type(schema, column) is not None:
            return column
    inside = next((name for name in candidates if "." in name and _is_text(schema, name.split(".")[0])), "")
    root = inside.split(".")[0]
    hint = f" Column {root!r} is text: if that is JSON, write {inside!r} as a column of its own." if inside else ""
    raise ColumnError(
        f"no column {' nor '.join(map(repr, candidates))} in this data; its columns are "
        f"{', '.join(map(repr, schema.names)) or 'none'}. Name yours with --text-column or --input-ids-column "
        f"(text_column=, input_ids_column= of LadmScorer).{hint}"
    )


def _is_text(schema: pa.Schema, name: str) -> bool:
    return name in schema.names and may_hold_json(schema.field(name).type)


def pick(table: pa.Table, column: str) -> pa.ChunkedArray:
    """A column of a table, perhaps nested."""
    if column in table.column_names:
        return table[column]
    root, *path = column.split(".")
    return pc.struct_field(table[root], path)


def lengths(values: pa.ChunkedArray) -> Floats:
    """Estimated tokens of each document: exact for token ids, from the bytes of a text, 0 for null."""
    kind = values.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        counts, scale = pc.list_value_length(values), 1
    elif pa.types.is_fixed_size_list(kind):
        return np.full(len(values), kind.list_size, dtype=np.float64)
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind) or _is_bytes(kind):
        counts, scale = pc.binary_length(values), BYTES_PER_TOKEN
    else:
        return np.zeros(len(values))
    filled = pc.fill_null(counts, 0).to_numpy().astype(np.float64)
    return np.asarray(np.ceil(filled / scale))


def is_list(kind: pa.DataType) -> bool:
    """Whether a type is one of lists, of whatever size."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def root_column(schema: pa.Schema, column: str) -> str:
    """The column of the table that holds a column, perhaps nested."""
    return column if column in schema.names else column.split(".")[0]


def content_hash(table: pa.Table) -> bytes:
    """A hash of the values of a table, however they lie in memory."""
    batches = table.combine_chunks().to_batches()
    return b"".join(xxhash.xxh3_128_digest(batch.serialize()) for batch in batches)


def conform(table: pa.Table, schema: pa.Schema, where: str) -> pa.Table:
    """A table with exactly the columns of `schema`; missing ones are null."""
    if table.schema.equals(schema):
        return table.replace_schema_metadata(schema.metadata)
    unknown = [name for name in table.column_names if name not in schema.names]
    if unknown:
        raise InputError(
            f"{where} has a column {unknown[0]!r} that the part of the data looked at before the run lacks"
        )
    arrays = []
    for wanted in schema:
        if wanted.name not in table.column_names:
            arrays.append(pa.nulls(table.num_rows, wanted.type))
            continue
        try:
            arrays.append(to_loadable(table[wanted.name]).cast(wanted.type))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
            raise InputError(
                f"column {wanted.name!r} of {where} is {table[wanted.name].type}, expected {wanted.type}: {error}"
            ) from error
    return pa.table(arrays, schema=schema)


def nested_type(schema: pa.Schema, column: str) -> pa.DataType | None:
    root, *path = column.split(".")
    if root not in schema.names:
        return None
    kind = schema.field(root).type
    for name in path:
        if not pa.types.is_struct(kind) or kind.get_field_index(name) < 0:
            return None
        kind = kind.field(name).type
    return kind


def mask_of(column: str) -> str:
    """Name of the column that says which token ids of another are padding: `attention_mask` beside `input_ids`."""
    return f"{column.rpartition('.')[0]}.attention_mask".lstrip(".")


def document_roots(schema: pa.Schema, column: str) -> list[str]:
    """The columns of the table that are read for documents: theirs and, for token ids, that of their mask."""
    roots = [root_column(schema, column)]
    if _has_mask(schema, column):
        roots.append(root_column(schema, mask_of(column)))
    return list(dict.fromkeys(roots))


def _has_mask(schema: pa.Schema, column: str) -> bool:
    kinds = [nested_type(schema, name) for name in (column, mask_of(column))]
    return all(kind is not None and is_list(kind) for kind in kinds)


def documents_of(table: pa.Table, column: str) -> list[Any]:
    """[`documents`] of a column, perhaps nested, token ids without those that a mask beside them calls padding."""
    rows = documents(pick(table, column))
    if not _has_mask(table.schema, column):
        return rows
    return without_padding(rows, documents(pick(table, mask_of(column))), column)


def without_padding(rows: Sequence[Any], masks: Sequence[Any], column: str) -> list[Any]:
    """Token ids of documents without those whose mask is 0, as models leave them out.

    Raises:
        InputError: a mask has another length than its token ids.
    """
    found = []
    for n, (ids, mask) in enumerate(zip(rows, masks, strict=True)):
        is_token = np.asarray(mask) != 0
        if ids is None or is_token.ndim != 1 or is_token.all():
            found.append(ids)
            continue
        if np.shape(ids) != is_token.shape:
            raise InputError(
                f"row {n} of a part has {np.size(ids):,} token ids in {column!r} but {is_token.size:,} entries in "
                f"{mask_of(column)!r}: remove that column, or make both anew"
            )
        found.append(np.asarray(ids)[is_token])
    return found


def documents(values: pa.ChunkedArray) -> list[Any]:
    """Texts as `str`, token ids as arrays; a text that is no valid UTF-8 stays bytes, which has a status of its own."""
    if is_list(values.type):
        return [_items(value.values) if value.is_valid else None for value in values]
    if isinstance(values.type, pa.JsonType):
        # a column of several types, as `datasets` keeps it
        return [None if value is None else json.loads(value) for value in values.to_pylist()]
    return [decoded(value) for value in to_objects(values, invalid=bytes)]


def _items(values: pa.Array) -> Any:
    """An array, but a list where NumPy would make fractions of integers beside nulls."""
    has_gaps = values.null_count and pa.types.is_integer(values.type)
    return values.to_pylist() if has_gaps else values.to_numpy(zero_copy_only=False)


def decoded(value: Any) -> Any:
    """A text that is kept as bytes, as by writers of parquet that know no texts; anything else as it is."""
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


def replacing(raw: bytes) -> Any:
    """Bytes as text, with the replacement character for those that are no valid UTF-8."""
    return raw.decode("utf-8", "replace")


def to_rows(table: pa.Table, invalid: Callable[[bytes], Any] = replacing) -> list[dict[str, Any]]:
    """The rows of a table as Python objects; `invalid` says what becomes of bytes that are no valid UTF-8."""
    columns = [to_objects(values, invalid) for values in table.columns]
    return [dict(zip(table.column_names, row, strict=True)) for row in zip(*columns, strict=True)]


def to_objects(values: pa.ChunkedArray | pa.Array, invalid: Callable[[bytes], Any] = replacing) -> list[Any]:
    """Values as Python objects; `invalid` says what becomes of bytes that are no valid UTF-8."""
    try:
        objects: list[Any] = values.to_pylist()
        return objects
    except UnicodeDecodeError:
        return [_decoded(value, invalid) for value in values]


def _decoded(value: pa.Scalar, invalid: Callable[[bytes], Any]) -> Any:
    if not value.is_valid:
        return None
    if pa.types.is_struct(value.type):
        return {field.name: _decoded(value[n], invalid) for n, field in enumerate(value.type)}
    if pa.types.is_list(value.type) or pa.types.is_large_list(value.type):
        return [_decoded(item, invalid) for item in value.values]
    try:
        return value.as_py()
    except UnicodeDecodeError:
        return invalid(value.as_buffer().to_pybytes())


def column(dataset: Dataset, name: str) -> pa.ChunkedArray:
    """A column in row order, nested with dots (`meta.pile_set_name`).

    Raises:
        ColumnError: there is no such column.
    """
    dataset, positions = with_positions(dataset)
    values, _ = base_column(dataset, name)
    return in_row_order(values, positions)


def with_positions(dataset: Dataset) -> tuple[Dataset, Ints | None]:
    """The data set, and where each row lies in the table underneath: `None` where the rows are the table."""
    try:
        indices = dataset._indices
    except AttributeError:
        # a private name; without it, a table of their own is made of the rows
        return dataset.flatten_indices(), None
    return dataset, None if indices is None else indices.column(0).to_numpy().astype(np.int64)


def base_column(dataset: Dataset, name: str) -> tuple[pa.ChunkedArray, Any]:
    """A column of the table underneath, and its feature, `None` for what JSON text holds."""
    if name in dataset.column_names:
        return dataset.data.column(name), dataset.features[name]
    root, *path = name.split(".")
    if root not in dataset.column_names:
        raise ColumnError(f"no column {name!r} in this data; its columns are {', '.join(leaves(dataset)) or 'none'}")
    values, feature = dataset.data.column(root), dataset.features[root]
    for depth, part in enumerate(path):
        if may_hold_json(values.type):
            return json_field(values, path[depth:], ".".join([root, *path[:depth]])), None
        if not pa.types.is_struct(values.type) or values.type.get_field_index(part) < 0:
            raise ColumnError(
                f"no column {name!r} in this data; its columns are {', '.join(leaves(dataset)) or 'none'}"
            )
        values, feature = pc.struct_field(values, part), feature[part]
    return values, feature


def may_hold_json(kind: pa.DataType) -> bool:
    """Whether values of a type are texts, which may be JSON objects."""
    if isinstance(kind, pa.BaseExtensionType):
        return bool(kind.extension_name == "arrow.json")
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def json_field(values: pa.ChunkedArray, path: Sequence[str], column: str) -> pa.ChunkedArray:
    """What JSON objects, kept as text, hold at a path of keys: as text, null where an object has no such key.

    Args:
        values (`pa.ChunkedArray`): the column of texts.
        path (sequence of `str`): keys, from the outside in.
        column (`str`): its name, for errors.

    Raises:
        ColumnError: no text is a JSON object, none has the key, or an object or list lies there.
    """
    wanted = ".".join(path)
    keys: dict[str, None] = {}
    chunks = []
    found = 0
    for chunk in values.chunks:
        texts: list[str | None] = []
        for text in to_objects(chunk.storage if isinstance(chunk, pa.ExtensionArray) else chunk):
            outer = _json_object(text)
            keys.update(dict.fromkeys(outer if len(keys) < _KEYS_SHOWN else ()))
            value: Any = outer
            for key in path:
                value = value.get(key) if isinstance(value, dict) else None
            if isinstance(value, (dict, list)):
                kind = "an object" if isinstance(value, dict) else "a list"
                raise ColumnError(f"{wanted!r} in the JSON of column {column!r} is {kind}: go on to a text or number")
            texts.append(value if value is None or isinstance(value, str) else json.dumps(value))
        found += len(texts) - texts.count(None)
        chunks.append(pa.array(texts, pa.large_string()))
    if not found and len(values) > values.null_count:
        inside = f"has keys such as {', '.join(map(repr, keys))}" if keys else "is no JSON object"
        raise ColumnError(f"no {wanted!r} in column {column!r}, which is text that {inside}")
    return pa.chunked_array(chunks, pa.large_string())


def _json_object(text: str | None) -> dict[str, Any]:
    """The object that a text writes as JSON, empty if it writes none."""
    try:
        value = json.loads(text or "")
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def leaves(dataset: Dataset) -> list[str]:
    """Names of the columns of a data set, nested ones with dots, in quotes."""
    return leaves_of(dataset.features.arrow_schema)


def leaves_of(schema: pa.Schema) -> list[str]:
    """Names of the columns of a schema, nested ones with dots, in quotes."""

    def walk(prefix: str, kind: pa.DataType) -> list[str]:
        if not pa.types.is_struct(kind):
            return [repr(prefix)]
        return [leaf for field in kind for leaf in walk(f"{prefix}.{field.name}", field.type)]

    return [leaf for field in schema for leaf in walk(field.name, field.type)]


def in_row_order(values: pa.ChunkedArray, positions: Ints | None) -> pa.ChunkedArray:
    return values if positions is None else values.take(pa.array(positions))
