"""The documents of a data set as token ids, in an order that a seed gives, read and tokenised as a stream.

blocks of rows, shuffled -> tables -> token ids of the same tokenizer, taken as they are
                                   -> text, tokenised by several processes, in order
"""

from __future__ import annotations

import itertools
import json
import logging
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from ladm_hf.calculators.token_ids import KEY
from ladm_hf.data.columns import document_column, document_roots, documents_of, is_list, leaves_of, nested_type
from ladm_hf.data.sources import Rows, Source
from ladm_hf.errors import BackendError, ColumnError, InputError
from ladm_hf.packing.sequences import TokenIds
from ladm_hf.packing.tokenizer import TargetTokenizer

logger = logging.getLogger(__name__)

INPUT_IDS = "input_ids"
# Tables that wait for each process, so that none is idle and few are in memory.
_AHEAD = 3

T = TypeVar("T")
R = TypeVar("R")


@dataclass
class Documents:
    """The documents of an opened source; iterating gives the token ids of each, special tokens around them.

    Attributes:
        source ([`Source`]): the rows.
        tokenizer ([`TargetTokenizer`]): what makes token ids of text.
        text_column (`str`): column of the text.
        input_ids_column (`str`, *optional*): column of token ids that are taken instead, whoever made them.
        seed (sequence of `int`): of the order of the blocks.
        num_proc (`int`): processes that tokenise.
        option (`str`): the option that names the column of the text, for errors.
        column (`str`): the column that is read, known after [`open`].
        left_out (`Counter`): rows without a document, by the reason.
    """

    source: Source
    tokenizer: TargetTokenizer
    text_column: str
    input_ids_column: str | None = None
    seed: tuple[int, ...] = (0,)
    num_proc: int = 1
    option: str = "--text-column (text_column=)"
    column: str = ""
    left_out: Counter[str] = field(default_factory=Counter)
    _edges: list[int] = field(default_factory=list)
    _are_ids: bool = False

    def open(self) -> float:
        """Finds the columns; the estimated number of tokens.

        Raises:
            ColumnError: there is no column of documents, or token ids of which nobody knows who made them.
        """
        candidates = [self.input_ids_column] if self.input_ids_column else [self.text_column, INPUT_IDS]
        try:
            scan = self.source.scan(candidates, 1 << 62)
        except ColumnError as error:
            if self.source.schema is None:
                raise
            raise self._no_column(self.source.schema, candidates) from error
        self.column = self._document_column(scan.schema, candidates)
        kind = scan.schema.field(self.column).type if self.column in scan.schema.names else None
        kind = kind or nested_type(scan.schema, self.column)
        assert kind is not None, "the column was found"
        self._are_ids = is_list(kind)
        if not (self._are_ids and pa.types.is_integer(kind.value_type)) and not _is_text(kind):
            raise ColumnError(f"column {self.column!r} of {self.source.name} is {kind}, expected text or token ids")
        self._edges = self.source.block_edges()
        return float(scan.cost[-1])

    def _document_column(self, schema: pa.Schema, candidates: list[str]) -> str:
        """The column of token ids that this tokenizer made, where the data say so, else that of the text."""
        noted = json.loads((schema.metadata or {}).get(KEY, b"{}"))
        ids = self.input_ids_column or INPUT_IDS
        made_here = bool(noted) and noted.get("fingerprint") == self.tokenizer.fingerprint
        if self.input_ids_column and noted and not made_here:
            raise InputError(
                f"the token ids in {ids!r} of {self.source.name} were made by the tokenizer of "
                f"{noted.get('calculator')!r}, which gives other ids than that of {self.tokenizer.name!r}: leave out "
                "--input-ids-column, so that the text is tokenised"
            )
        if made_here and ids in schema.names:
            return ids
        found = document_column(schema, candidates)
        if found == INPUT_IDS and found not in (self.input_ids_column, self.text_column):
            raise ColumnError(
                f"no column {self.text_column!r} in {self.source.name}, and nothing says which tokenizer made the "
                f"token ids in {found!r}: name the column of the text with {self.option}, or, if "
                f"{self.tokenizer.name!r} made them, say so with --input-ids-column {found} (input_ids_column=)"
            )
        return found

    def _no_column(self, schema: pa.Schema, candidates: list[str]) -> ColumnError:
        option = "--input-ids-column (input_ids_column=)" if self.input_ids_column else self.option
        return ColumnError(
            f"no column {candidates[0]!r} in {self.source.name}; its columns are "
            f"{', '.join(leaves_of(schema)) or 'none'}. Name yours with {option}"
        )

    def __iter__(self) -> Iterator[TokenIds]:
        rows = self._rows()
        found = map(self._given, rows) if self._are_ids else self._tokenized(rows)
        for document in itertools.chain.from_iterable(found):
            if isinstance(document, str):
                self.left_out[document] += 1
            elif len(document) == 0:
                self.left_out["empty"] += 1
            else:
                yield self.tokenizer.framed(document)

    def _rows(self) -> Iterator[Rows]:
        blocks = list(itertools.pairwise(self._edges))
        roots = document_roots(self.source.schema or pa.schema([]), self.column)
        for block in np.random.default_rng(self.seed).permutation(len(blocks)):
            start, stop = blocks[block]
            yield from self.source.read(start, stop, roots)

    def _values(self, rows: Rows) -> list[Any]:
        """Texts or token ids of some rows; a reason of class `_LeftOut` where there is none."""
        values = documents_of(rows.table, self.column)
        return [_LeftOut("unreadable") if n in rows.problems else _text_or_ids(value) for n, value in enumerate(values)]

    def _given(self, rows: Rows) -> list[TokenIds | str]:
        """Token ids as they are in the data, without what the tokenizer put around them."""
        found: list[TokenIds | str] = []
        for value in self._values(rows):
            if isinstance(value, str):
                found.append(value)
                continue
            if len(value) and (value.min() < 0 or value.max() >= self.tokenizer.vocab_size):
                raise InputError(
                    f"token ids in {self.column!r} of {self.source.name} run from {value.min()} to {value.max()}, but "
                    f"the tokenizer of {self.tokenizer.name!r} has {self.tokenizer.vocab_size:,}: another one made them"
                )
            found.append(self.tokenizer.bare(value.astype(np.int32)))
        return found

    def _tokenized(self, rows: Iterator[Rows]) -> Iterator[list[TokenIds | str]]:
        values = map(self._values, rows)
        if self.num_proc == 1:
            yield from (_tokenize(self.tokenizer, each) for each in values)
            return
        import multiprocessing

        # not forked: a fork of a process whose tokenizer or torch has used threads may hang
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(self.num_proc, spawn, _start, (self.tokenizer,)) as pool:
            try:
                yield from _in_order(pool, _work, values, self.num_proc * _AHEAD)
            except BrokenProcessPool as error:
                raise BackendError(
                    "a process that tokenises was killed, most often for want of memory: use fewer with --num-proc "
                    "(num_proc=)"
                ) from error
            finally:
                pool.shutdown(wait=False, cancel_futures=True)


class _LeftOut(str):
    """Why a row has no document, as no text of a row is."""


def _text_or_ids(value: Any) -> Any:
    if value is None:
        return _LeftOut("null")
    if isinstance(value, bytes):
        return _LeftOut("no valid UTF-8")
    if isinstance(value, list) and None in value:
        return _LeftOut("null among the token ids")
    if isinstance(value, np.ndarray) and value.dtype.kind not in "iu" and value.size:
        return _LeftOut("token ids that are no integers")
    # a column of several types, which is kept as JSON, has more than texts
    return value if isinstance(value, (str, np.ndarray)) else _LeftOut("no text")


def _tokenize(tokenizer: TargetTokenizer, values: list[Any]) -> list[TokenIds | str]:
    """Token ids of the texts among some values."""
    texts = [n for n, value in enumerate(values) if not isinstance(value, _LeftOut)]
    found: list[TokenIds | str] = list(values)
    if texts:
        for n, ids in zip(texts, tokenizer.tokenize([values[n] for n in texts]), strict=True):
            found[n] = ids
    return found


_tokenizer: TargetTokenizer | None = None


def _start(tokenizer: TargetTokenizer) -> None:
    global _tokenizer
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _tokenizer = tokenizer


def _work(values: list[Any]) -> list[TokenIds | str]:
    assert _tokenizer is not None
    return _tokenize(_tokenizer, values)


def _in_order(pool: ProcessPoolExecutor, function: Callable[[T], R], items: Iterable[T], ahead: int) -> Iterator[R]:
    """The results of a function by a pool, in the order of the items, of which few are taken ahead."""
    waiting: deque[Future[R]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_text(kind.value_type)
    # of a column that is null throughout, every row is left out with that reason
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
    # writers of parquet that know no texts keep them as bytes
    return any(test(kind) for test in (*texts, pa.types.is_binary, pa.types.is_large_binary))
