"""The paper's form of documents: `text, meta, input_ids, index`, and `chunked_index` where they are cut into windows.

What is not made from the text is taken over as Arrow holds it, bytes that are no valid UTF-8 included.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ladm_hf.data.columns import document_column, documents, pick
from ladm_hf.data.sources import Rows
from ladm_hf.errors import ColumnError

OVERFLOWS = ("truncate", "windows")


@dataclass(frozen=True)
class PaperForm:
    """What is made of documents.

    Attributes:
        column (`str`): the text of the input, perhaps nested.
        schema (`pa.Schema`): the columns of the result.
        min_tokens, max_length (`int`): fewest and most tokens of a row.
        overflow (`str`): `"truncate"` or `"windows"`.
    """

    column: str
    schema: pa.Schema
    min_tokens: int
    max_length: int
    overflow: str

    @classmethod
    def of(
        cls,
        source: pa.Schema,
        text_column: str,
        min_tokens: int,
        max_length: int,
        overflow: str,
        metadata: Mapping[Any, Any] | None = None,
    ) -> PaperForm:
        """The form of documents with the columns `source`.

        Raises:
            ColumnError: there is no such text column, or a column of the input has no place in the result.
        """
        column = document_column(source, [text_column])
        schema = _schema(source, text_column, overflow).with_metadata(metadata)
        return cls(column, schema, min_tokens, max_length, overflow)

    def prepare(self, tokenizer: Any, found: Rows, first: int) -> tuple[pa.Table, int]:
        """The rows of the result for some documents, and how many of these cannot be read.

        Args:
            tokenizer: of the calculator.
            found ([`Rows`]): the documents.
            first (`int`): number of the first of them in the input.
        """
        texts = documents(pick(found.table, self.column))
        kept = _Kept()
        numbers = found.table["index"].to_pylist() if _is_numbered(found.table.schema) else [None] * len(texts)
        for row, (text, number) in enumerate(zip(texts, numbers, strict=True)):
            if row not in found.problems and isinstance(text, str) and text.strip():
                self._add(tokenizer, text, row, first + row if number is None else number, kept)
        undecodable = {row for row, text in enumerate(texts) if isinstance(text, bytes)}
        return self._table(found.table.take(pa.array(kept.rows, pa.int64())), kept), len(
            undecodable | set(found.problems)
        )

    def _add(self, tokenizer: Any, text: str, row: int, index: int, kept: _Kept) -> None:
        """Adds the windows of a document that are long enough."""
        encoded = tokenizer(text, verbose=False, return_offsets_mapping=tokenizer.is_fast)
        ids = encoded["input_ids"]
        for window, low in enumerate(range(0, len(ids) if self.overflow == "windows" else 1, self.max_length)):
            part = ids[low : low + self.max_length]
            if len(part) < max(1, self.min_tokens):
                continue
            cut = text if len(part) == len(ids) else _text_of(tokenizer, text, encoded, low, low + len(part))
            kept.rows.append(row)
            kept.text.append(cut)
            kept.input_ids.append(part)
            kept.index.append(index)
            kept.chunked_index.append(window)

    def _table(self, source: pa.Table, kept: _Kept) -> pa.Table:
        """The rows of the result, from the input's row of each."""
        made: dict[str, list[Any]] = {"text": kept.text, "input_ids": kept.input_ids, "index": kept.index}
        if self.overflow == "windows":
            made["chunked_index"] = kept.chunked_index
        columns = []
        for wanted in self.schema:
            if wanted.name in made:
                columns.append(pa.array(made[wanted.name], wanted.type))
            elif wanted.name == "meta":
                columns.append(_meta(source, wanted.type, self.column))
            else:
                columns.append(source[wanted.name])
        return pa.table(columns, schema=self.schema)


@dataclass
class _Kept:
    """The rows of the result, in lists of one length: the input's row of each, and what is made of its text."""

    rows: list[int] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    input_ids: list[Any] = field(default_factory=list)
    index: list[int] = field(default_factory=list)
    chunked_index: list[int] = field(default_factory=list)


def _has_meta(source: pa.Schema, text_column: str) -> bool:
    return "meta" in source.names and text_column != "meta"


def _is_numbered(source: pa.Schema) -> bool:
    return "index" in source.names and pa.types.is_integer(source.field("index").type)


def _schema(source: pa.Schema, text_column: str, overflow: str) -> pa.Schema:
    """The columns of the result."""
    made = {"text": pa.large_string(), "input_ids": pa.list_(pa.int32()), "index": pa.int64()}
    if overflow == "windows":
        made["chunked_index"] = pa.int32()
    replaced = {text_column, "input_ids", "meta", *(["index"] if _is_numbered(source) else [])}
    others = [field for field in source if field.name not in replaced]
    if _has_meta(source, text_column):
        # a column whose name the result has for something else
        displaced = [field for field in others if field.name in made]
        meta = _with_fields(source.field("meta").type, displaced) if displaced else source.field("meta").type
        others = [field for field in others if field.name not in made]
    else:
        meta, others = pa.struct(others) if others else pa.null(), []
    text, *rest = made.items()
    return pa.schema([text, ("meta", meta), *rest, *others])


def _with_fields(meta: pa.DataType, displaced: Sequence[pa.Field]) -> pa.DataType:
    """The type of a `meta` that also holds other columns."""
    if pa.types.is_null(meta):
        return pa.struct(displaced)
    for column in displaced:
        if not pa.types.is_struct(meta) or meta.get_field_index(column.name) >= 0:
            raise ColumnError(
                f"the result has a column {column.name!r} of its own, and 'meta', which holds {meta}, has no place for "
                f"the input's: rename the input's column {column.name!r}"
            )
    return pa.struct([*meta, *displaced])


def _meta(source: pa.Table, kind: pa.DataType, text_column: str) -> pa.Array:
    """The column `meta`: the input's, with displaced columns among its fields, else all other columns."""
    has_meta = _has_meta(source.schema, text_column)
    if has_meta and source["meta"].type == kind:
        return source["meta"]
    if not pa.types.is_struct(kind):
        return pa.nulls(source.num_rows)
    inner = source["meta"].combine_chunks() if has_meta else None
    own = {field.name for field in inner.type} if inner is not None and pa.types.is_struct(inner.type) else set()
    values = [pc.struct_field(inner, f.name) if f.name in own else source[f.name].combine_chunks() for f in kind]
    return pa.StructArray.from_arrays(values, fields=list(kind))


def _text_of(tokenizer: Any, text: str, encoded: Any, low: int, high: int) -> str:
    """The text of the tokens `low..high`: cut from the document where the tokenizer knows the places."""
    if "offset_mapping" not in encoded:
        decoded: str = tokenizer.decode(encoded["input_ids"][low:high], skip_special_tokens=True)
        return decoded
    offsets = encoded["offset_mapping"]
    begin = 0 if low == 0 else offsets[low][0]
    # special tokens at the end of a document have no place in it
    end = offsets[high][0] if high < len(offsets) and offsets[high] != (0, 0) else len(text)
    return text[begin:end]
