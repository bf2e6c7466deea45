"""Columns of rows that are Python objects, as of JSON: one type a column for all rows, so that no value changes.

    one type, or types with a common one (1 and 2.5, structs with other fields)      -> that type
    several types, or integers beyond a double's beside fractions                    -> text, all else written as JSON
    objects that hold ever new keys                                                  -> JSON text

Columns that become text are logged with the reason.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ladm_hf.data.columns import is_list

logger = logging.getLogger(__name__)

# Integers beyond are not all exact as a double.
_EXACT = 2**53
# A struct of more fields than the first, of which an object has fewer than one in the second, is kept as JSON text.
_MANY_FIELDS, _SPARSE = 128, 20

Place = tuple[str, ...]


class Inference:
    """Finds the columns of rows, part by part.

    Args:
        name (`str`): what the data are called, for the log.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.fields: dict[str, pa.DataType] = {}
        self.as_text: dict[str, str] = {}
        self._wide: set[Place] = set()

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        """Takes some more rows into account."""
        for name in dict.fromkeys(name for row in rows for name in row):
            if name not in self.as_text:
                self._add_values(name, [row.get(name) for row in rows])

    def finish(self) -> pa.Schema:
        """The columns of all rows."""
        for path in self._wide:
            if path[0] not in self.as_text and pa.types.is_floating(_type_at(self.fields[path[0]], path[1:])):
                self._make_text(path[0], "holds integers that a double cannot, beside fractions")
        return self.schema

    def log(self) -> None:
        """Logs which columns became text, and why."""
        for name, reason in self.as_text.items():
            logger.warning("column %r of %s %s: it is kept as text, all but text as JSON", name, self.name, reason)

    @property
    def schema(self) -> pa.Schema:
        """The columns so far."""
        return pa.schema(list(self.fields.items()))

    def _add_values(self, name: str, values: list[Any]) -> None:
        try:
            array = pa.array(values)
            self._wide.update(_wide(array, (name,)))
            kind = pa.string() if has_empty_struct(array.type) else array.type
            if name in self.fields:
                both = [pa.schema([(name, self.fields[name])]), pa.schema([(name, kind)])]
                kind = pa.unify_schemas(both, promote_options="permissive").field(0).type
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
            self._make_text(name, "holds values without a common type")
        else:
            self.fields[name] = kind
            if _has_many_fields(kind) and _is_sparse(values, kind):
                self._make_text(name, "holds objects with ever new keys")

    def _make_text(self, name: str, reason: str) -> None:
        self.fields[name], self.as_text[name] = pa.string(), reason


def to_table(rows: Sequence[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows with the columns that an [`Inference`] found."""
    return pa.table([_array([row.get(field.name) for row in rows], field.type) for field in schema], schema=schema)


def _array(values: list[Any], kind: pa.DataType) -> pa.Array:
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        values = [value if value is None or isinstance(value, str) else to_json(value) for value in values]
    return pa.array(values, type=kind)


def to_json(value: Any) -> str:
    """A value as JSON text; arrays as lists, and what JSON has no word for as its `str`."""
    return json.dumps(value, ensure_ascii=False, default=_plain)


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)


def value_in(row: dict[str, Any], column: str) -> Any:
    """What a row has in a column, perhaps nested; `None` where it has none."""
    value: Any = row
    for name in [column] if column in row else column.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def text_problem(row: dict[str, Any], column: str, kind: pa.DataType | None) -> str:
    """The status of a document that a text column, perhaps nested, holds only in another form; empty if it has none."""
    value = value_in(row, column)
    if value is None or kind is None or not pa.types.is_string(kind):
        return ""
    if not isinstance(value, str):
        return f"error: expected a string, found {type(value).__name__}"
    return "" if _is_unicode(value) else "error: the text is not valid Unicode"


def replace_surrogates(value: Any) -> Any:
    """A value whose strings are all valid Unicode, with question marks for what is none."""
    if isinstance(value, str):
        return value if _is_unicode(value) else value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {replace_surrogates(name): replace_surrogates(item) for name, item in value.items()}
    return [replace_surrogates(item) for item in value] if isinstance(value, list) else value


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _wide(values: pa.Array, path: Place) -> Iterator[Place]:
    """Where an array, perhaps nested, has integers that a double cannot hold.

    They meet fractions in files that pandas wrote: it writes an integer column as one of doubles where a value is
    missing, so identifiers are whole in one file and rounded in the next.
    """
    if pa.types.is_struct(values.type):
        for n, field in enumerate(values.type):
            yield from _wide(values.field(n), (*path, field.name))
    elif pa.types.is_list(values.type):
        yield from _wide(values.flatten(), path)
    elif pa.types.is_integer(values.type):
        bounds = pc.min_max(values).as_py()
        if bounds["max"] is not None and max(bounds["max"], -bounds["min"]) > _EXACT:
            yield path


def _type_at(kind: pa.DataType, path: Place) -> pa.DataType:
    """The type at a path of [`_wide`]; null where a column holds something else by now."""
    for name in [*path, None]:
        while pa.types.is_list(kind):
            kind = kind.value_type
        if name is not None:
            kind = kind.field(name).type if pa.types.is_struct(kind) else pa.null()
    return kind


def has_empty_struct(kind: pa.DataType) -> bool:
    """Whether a type has a struct without fields in it, which parquet cannot hold."""
    if pa.types.is_struct(kind):
        return kind.num_fields == 0 or any(has_empty_struct(field.type) for field in kind)
    return is_list(kind) and has_empty_struct(kind.value_type)


def _has_many_fields(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind):
        return _has_many_fields(kind.value_type)
    return pa.types.is_struct(kind) and (kind.num_fields > _MANY_FIELDS or any(_has_many_fields(f.type) for f in kind))


def _is_sparse(values: Sequence[Any], kind: pa.DataType) -> bool:
    """Whether some struct in a type has many fields, of which each object has few."""
    if pa.types.is_list(kind):
        return _is_sparse([item for value in values if isinstance(value, list) for item in value], kind.value_type)
    if not _has_many_fields(kind):
        return False
    objects = [value for value in values if isinstance(value, dict)]
    if kind.num_fields > _MANY_FIELDS and sum(map(len, objects)) * _SPARSE < kind.num_fields * len(objects):
        return True
    return any(_is_sparse([value.get(field.name) for value in objects], field.type) for field in kind)
