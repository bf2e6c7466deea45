"""One schema for several files: the columns of all, of types that hold the values of each unchanged.

string | large_string -> large_string      int32 | int64 -> int64      struct<a> | struct<b> -> struct<a, b>
a column that a file lacks -> null         int64 | double -> double, where the integers are exact as doubles
anything else -> an error with both files, the column and the remedy
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from ladm_hf.errors import InputError

logger = logging.getLogger(__name__)

_FEATURES = b"huggingface"


class FileSchema(NamedTuple):
    """The columns of one parquet file, and its footer."""

    path: str
    schema: pa.Schema
    footer: pq.FileMetaData


def join_schemas(files: Sequence[FileSchema]) -> pa.Schema:
    """The schema of the rows of all files.

    Raises:
        InputError: a file has two columns of one name, or two files have a column in types without a common one.
    """
    fields: dict[str, pa.Field] = {}
    first: dict[str, FileSchema] = {}
    widened: set[str] = set()
    for file in files:
        _check_names(file)
        for field in file.schema:
            known = fields.setdefault(field.name, field)
            origin = first.setdefault(field.name, file)
            if known.type != field.type:
                kind = join_types(known.type, field.type)
                if kind is None:
                    raise InputError(_differ(field.name, origin, known.type, file, field.type))
                fields[field.name] = pa.field(field.name, kind)
                widened.add(field.name)
    for name in widened:
        _check_values(name, fields[name].type, files)
    return pa.schema(list(fields.values()), metadata=_joined_metadata(files, fields))


def join_types(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """The type that holds the values of both unchanged, `None` where there is none."""
    if one == other:
        return one
    one, other = _plain(one), _plain(other)
    if pa.types.is_struct(one) and pa.types.is_struct(other):
        names = dict.fromkeys([*(field.name for field in one), *(field.name for field in other)])
        kinds = {name: _field_type(one, other, name) for name in names}
        return None if None in kinds.values() else pa.struct(list(kinds.items()))
    if {_family(one), _family(other)} in ({"text", "bytes"}, {"decimal", "double"}, {"decimal", "integer"}):
        return None
    try:
        both = [pa.schema([("x", one)]), pa.schema([("x", other)])]
        return pa.unify_schemas(both, promote_options="permissive").field(0).type
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return None


def _field_type(one: pa.DataType, other: pa.DataType, name: str) -> pa.DataType | None:
    found = [kind.field(name).type for kind in (one, other) if kind.get_field_index(name) >= 0]
    return join_types(found[0], found[-1])


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type without what only says how its values lie."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.large_string() if kind == pa.string_view() else kind


def _family(kind: pa.DataType) -> str:
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "text"
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return "bytes"
    if pa.types.is_decimal(kind):
        return "decimal"
    return "double" if pa.types.is_floating(kind) else "integer" if pa.types.is_integer(kind) else str(kind)


def _check_names(file: FileSchema) -> None:
    names = file.schema.names
    twice = next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None
    if twice is not None:
        raise InputError(f"{file.path} has {names.count(twice)} columns named {twice!r}: rename or remove all but one")


def _differ(name: str, origin: FileSchema, before: pa.DataType, file: FileSchema, found: pa.DataType) -> str:
    return (
        f"column {name!r} is {before} in {origin.path} but {found} in {file.path}, and no type holds both unchanged: "
        "write one of the files again with the other's type, drop the column, or give the files separately"
    )


def _check_values(name: str, kind: pa.DataType, files: Sequence[FileSchema]) -> None:
    """Refuses a type in which a value of some file would be another, as far as footers tell the range of values."""
    for file in files:
        if name not in file.schema.names or file.schema.field(name).type == kind:
            continue
        for value in _extremes(file.footer, name):
            try:
                pa.scalar(value, file.schema.field(name).type).cast(kind)
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
                other = next(f for f in files if name in f.schema.names and f.schema.field(name).type == kind)
                raise InputError(
                    f"{_differ(name, other, kind, file, file.schema.field(name).type)} (it holds {value})"
                ) from error


def _extremes(footer: pq.FileMetaData, name: str) -> Iterator[Any]:
    """The least and the greatest value of a column of numbers or times in each row group, where they are recorded."""
    column = next((c for c in range(footer.num_columns) if footer.schema.column(c).path == name), None)
    if column is None:
        return
    for group in range(footer.num_row_groups):
        found = footer.row_group(group).column(column).statistics
        if found is not None and found.has_min_max and not isinstance(found.min, (str, bytes)):
            yield from (found.min, found.max)


# What `datasets` keeps of features in the metadata


def _joined_metadata(files: Sequence[FileSchema], fields: dict[str, pa.Field]) -> dict[bytes, bytes] | None:
    """The metadata of the first file, with the features of all of them that match the joined columns."""
    from datasets import Features

    found: dict[str, tuple[Any, FileSchema]] = {}
    seen: set[bytes] = set()
    for file in files:
        packed = (file.schema.metadata or {}).get(_FEATURES)
        if packed is None or packed in seen:
            continue
        seen.add(packed)
        for name, feature in _features(file).items():
            before, origin = found.setdefault(name, (feature, file))
            if hasattr(feature, "names") and hasattr(before, "names") and feature.names != before.names:
                raise InputError(
                    f"column {name!r} has the class labels {before.names} in {origin.path} but {feature.names} in "
                    f"{file.path}: give the files separately"
                )
    metadata = {key: value for key, value in (files[0].schema.metadata or {}).items() if key != _FEATURES}
    if found:
        plain = Features.from_arrow_schema(pa.schema(list(fields.values())))
        for name, (feature, _) in found.items():
            if name in fields and Features({name: feature}).arrow_schema.field(name).type == fields[name].type:
                plain[name] = feature
        metadata.update(plain.arrow_schema.metadata)
    return metadata or None


def _features(file: FileSchema) -> dict[str, Any]:
    """The features that a file's metadata names; none where this version of `datasets` does not know them."""
    from datasets import Features

    try:
        return dict(Features.from_arrow_schema(file.schema))
    except Exception as error:  # whatever a feature of another version makes it raise
        logger.warning(
            "%s names features that this version of datasets does not know (%s): its Arrow types are used instead",
            file.path, str(error).partition(". ")[0],
        )  # fmt: skip
        return {}
