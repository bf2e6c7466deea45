"""Arrow types that `datasets` can hold, and what becomes of the others: the types by which their values are stored.

map<key, value>                -> list<struct<key, value>>
list view                      -> list
string view, binary view       -> large string, large binary: few of Arrow's functions take views
decimal of 32 or 64 bits       -> decimal of 128 bits
uuid, tensors, other extensions -> their storage, booleans of 8 bits -> booleans
binary of a fixed size         -> binary, before datasets 5.1
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

logger = logging.getLogger(__name__)

_VIEWS = {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}


def loadable_schemas(schemas: Sequence[pa.Schema], name: str) -> list[pa.Schema]:
    """Schemas in types that `datasets` can hold; columns that become something else than views do are logged.

    Args:
        schemas (sequence of `pa.Schema`): of files or tables.
        name (`str`): what the data are called, for the log.
    """
    found = []
    changed: dict[str, tuple[pa.DataType, pa.DataType]] = {}
    for schema in schemas:
        fields = [field.with_type(loadable_type(field.type)) for field in schema]
        changed.update(
            (old.name, (old.type, new.type))
            for old, new in zip(schema, fields, strict=True)
            if old.type != new.type and old.type not in _VIEWS
        )
        found.append(pa.schema(fields, metadata=schema.metadata))
    for column, (old, new) in changed.items():
        logger.warning(
            "column %r of %s is %s, which `datasets` does not know: it is kept as %s", column, name, old, new
        )
    return found


def loadable_type(kind: pa.DataType) -> pa.DataType:
    """The type that holds the values of another and is known to `datasets`."""
    if isinstance(kind, pa.BaseExtensionType):
        return _storage(kind)
    if kind in _VIEWS:
        return _VIEWS[kind]
    if pa.types.is_dictionary(kind) and kind.value_type in _VIEWS:
        return _VIEWS[kind.value_type]
    if pa.types.is_decimal32(kind) or pa.types.is_decimal64(kind):
        return pa.decimal128(kind.precision, kind.scale)
    if pa.types.is_fixed_size_binary(kind) and not _holds_fixed_size_binary():
        return pa.binary()
    if pa.types.is_map(kind):
        entry = [("key", loadable_type(kind.key_type)), ("value", loadable_type(kind.item_type))]
        return pa.list_(pa.struct(entry))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(loadable_type(field.type)) for field in kind])
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(_item(kind), kind.list_size)
    if pa.types.is_list(kind) or pa.types.is_list_view(kind):
        return pa.list_(_item(kind))
    if pa.types.is_large_list(kind) or pa.types.is_large_list_view(kind):
        return pa.large_list(_item(kind))
    return kind


def to_loadable(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column in the type that [`loadable_type`] gives for its own."""
    kind = loadable_type(values.type)
    if kind == values.type:
        return values
    return pa.chunked_array([_converted(chunk, kind) for chunk in values.chunks], kind)


def _converted(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """One array in its loadable type. Arrow's own cast of list views gives arrays that are not valid."""
    if array.type == kind:
        return array
    if isinstance(array, pa.ExtensionArray):
        return _converted(array.storage, kind) if not pa.types.is_boolean(kind) else array.storage.cast(kind)
    if isinstance(array, pa.DictionaryArray):
        return pa.DictionaryArray.from_arrays(array.indices, array.dictionary.cast(kind)).cast(kind)
    if isinstance(array, pa.StructArray):
        fields = [_converted(pc.struct_field(array, n), field.type) for n, field in enumerate(kind)]
        return pa.StructArray.from_arrays(fields, fields=list(kind), mask=array.is_null())
    if isinstance(array, pa.FixedSizeListArray):
        items = array.values.slice(array.offset * kind.list_size, len(array) * kind.list_size)
        return pa.FixedSizeListArray.from_arrays(_converted(items, kind.value_type), type=kind, mask=array.is_null())
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        return array.cast(kind)
    if isinstance(array, pa.MapArray):
        array = array.cast(pa.list_(pa.struct([("key", array.type.key_type), ("value", array.type.item_type)])))
    ends = np.cumsum(pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False))
    made, offset = (pa.ListArray, pa.int32()) if pa.types.is_list(kind) else (pa.LargeListArray, pa.int64())
    offsets = pa.array(np.concatenate([[0], ends]), offset)
    items = _converted(array.flatten(), kind.value_type)
    return made.from_arrays(offsets, items, type=kind, mask=array.is_null())


@cache
def _holds_fixed_size_binary() -> bool:
    from datasets import Features

    try:
        Features.from_arrow_schema(pa.schema([("x", pa.binary(1))]))
    except ValueError:
        return False
    return True


def _item(kind: pa.DataType) -> pa.Field:
    return kind.value_field.with_type(loadable_type(kind.value_type))


def _storage(kind: pa.BaseExtensionType) -> pa.DataType:
    if isinstance(kind, pa.JsonType) or type(kind).__module__.startswith("datasets."):
        return kind
    return pa.bool_() if isinstance(kind, pa.Bool8Type) else loadable_type(kind.storage_type)
