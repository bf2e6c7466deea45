"""Documents for training and calibration: from files or the Hub to tokens, on disk and memory-mapped.

Only `text` is needed. `domain` (splices are made within one), `source` (what must not be divided between training and
test), `kind` (`long`, `short` or `degenerate`) and `id` are used where they are there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial, reduce
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import xxhash

from ladm_hf.arrays import Bools
from ladm_hf.data.loaded import open_documents
from ladm_hf.errors import ColumnError, InputError

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset
    from transformers import PreTrainedTokenizerBase

# Kind of documents that hold tables, logs and their like; they serve as examples of what is no running text alone.
DEGENERATE = "degenerate"
# A domain with fewer sources than this is divided by document instead of by source.
MIN_SOURCES = 5
# Columns that name what a document is and where it comes from.
_NAMES = ("domain", "source", "kind", "id")


@dataclass(frozen=True)
class TokenizedDocument:
    """A document ready for windows.

    Attributes:
        ids (integer array `[T]`): its tokens.
        domain (`str`): splices are made within a domain.
        source (`str`): where it comes from; documents of one source are the hardest to tell apart.
        kind (`str`): `"long"`, `"short"`, `"degenerate"` or empty.
        key (`str`): what names it, for a division that does not depend on order.
        num_chars (`int`): characters of its text.
    """

    ids: npt.NDArray[Any]
    domain: str = "all"
    source: str = ""
    kind: str = ""
    key: str = ""
    num_chars: int = 0


def load_documents(data: str | Path | Sequence[str | Path], split: str = "train", streaming: bool = False) -> Any:
    """Opens documents as a `Dataset`, or an `IterableDataset` when streaming.

    Args:
        data (`str`, path or sequence of them): whatever can be scored: files, globs or folders of parquet, JSON lines
            (compressed or not) or another format that `datasets` reads, a folder of `save_to_disk`, or a Hub id.
        split (`str`, *optional*, defaults to `"train"`): split of a folder or Hub data set.

    Raises:
        InputError: no such file or data set, or none that can be read, or no such split.
    """
    return open_documents(data, split, streaming)


def tokenize_documents(
    dataset: Dataset | IterableDataset, tokenizer: PreTrainedTokenizerBase, text_column: str = "text"
) -> list[TokenizedDocument]:
    """Tokenises a data set into an Arrow file that is memory-mapped, so that its size is the disk's, not the memory's.

    Args:
        dataset (`Dataset` or `IterableDataset`): a stream is read once. Rows without text are left out.
        tokenizer: of the calculator; its special tokens are not added.
        text_column (`str`, *optional*, defaults to `"text"`): where the text is.

    Raises:
        ColumnError: there is no such column.
        InputError: no row has text.
    """
    from datasets import Dataset, Features, IterableDataset, List, Value

    dataset_columns = dataset.column_names
    if dataset_columns is not None and not {text_column, text_column.split(".")[0]} & set(dataset_columns):
        raise ColumnError(
            f"no column {text_column!r} in this data; its columns are {', '.join(map(repr, dataset_columns))}"
        )
    # without them, `map` turns names back into what the input has in a column of that name
    names = {name: Value("string") for name in _NAMES}
    features = Features({"input_ids": List(Value("int32")), "num_chars": Value("int64"), **names})
    encode = partial(_encode, tokenizer=tokenizer, text_column=text_column)
    if isinstance(dataset, IterableDataset):
        stream = dataset

        def rows() -> Any:
            for batch in stream.iter(batch_size=16):
                columns = encode(batch)
                for values in zip(*columns.values(), strict=True):
                    yield dict(zip(columns, values, strict=True))

        tokens = Dataset.from_generator(rows, features=features)
    else:
        tokens = dataset.map(
            encode,
            batched=True,
            batch_size=16,
            remove_columns=dataset.column_names,
            features=features,
            desc="Tokenizing documents",
        )
    if len(tokens) == 0:
        raise InputError(f"no row of this data has any text in column {text_column!r}")
    return _memory_mapped(tokens)


def _encode(batch: Any, tokenizer: PreTrainedTokenizerBase, text_column: str) -> dict[str, list[Any]]:
    """The columns of a [`TokenizedDocument`] for the rows that have text."""
    texts = _texts(batch, text_column)
    keep = [i for i, text in enumerate(texts) if isinstance(text, str) and text.strip()]
    ids = tokenizer([texts[i] for i in keep], add_special_tokens=False, verbose=False)["input_ids"] if keep else []
    columns: dict[str, list[Any]] = {
        "input_ids": [np.asarray(row, dtype=np.int32) for row in ids],
        "num_chars": [len(texts[i]) for i in keep],
    }
    for name in _NAMES:
        values = batch[name] if name in batch else [""] * len(texts)
        columns[name] = ["" if values[i] is None else str(values[i]) for i in keep]
    return columns


def _texts(batch: Any, column: str) -> list[Any]:
    """The texts of some rows, perhaps nested in a struct."""
    if column in batch:
        return list(batch[column])
    root, *path = column.split(".")
    return [reduce(lambda value, key: (value or {}).get(key), path, row) for row in batch[root]]


def _memory_mapped(tokens: Dataset) -> list[TokenizedDocument]:
    """Views of the Arrow file, without a copy of the tokens."""
    views = []
    for chunk in tokens.data.column("input_ids").chunks:
        values, offsets = chunk.values.to_numpy(), chunk.offsets.to_numpy()
        views += [values[start:stop] for start, stop in pairwise(offsets.tolist())]
    columns = [tokens[name] for name in (*_NAMES, "num_chars")]
    return [
        TokenizedDocument(ids, domain or "all", source or key or str(row), kind, key or str(row), num_chars)
        for row, (ids, domain, source, kind, key, num_chars) in enumerate(zip(views, *columns, strict=True))
    ]


def held_out(documents: Sequence[TokenizedDocument], fraction: float, seed: int = 0) -> Bools:
    """Which documents are set aside, by whole sources; by documents in a domain with fewer than five sources.

    The choice depends on the names of sources and documents and on the seed, not on the order of the documents.

    Args:
        fraction (`float`): share of the sources (or documents) of each domain.

    Returns:
        Boolean array, one for each document.
    """
    units = source_units(documents)
    groups: dict[str, set[str]] = {}
    for document, unit in zip(documents, units, strict=True):
        groups.setdefault(document.domain, set()).add(unit)
    chosen: set[tuple[str, str]] = set()
    for domain, names in groups.items():
        ranked = sorted(names, key=lambda name: xxhash.xxh3_64_intdigest(name.encode(), seed=seed))
        chosen |= {(domain, name) for name in ranked[: round(fraction * len(ranked))]}
    return np.array(
        [(document.domain, unit) in chosen for document, unit in zip(documents, units, strict=True)], dtype=bool
    )


def source_units(documents: Sequence[TokenizedDocument]) -> list[str]:
    """What must not be divided: a document's source, or the document in a domain with fewer than five sources."""
    sources: dict[str, set[str]] = {}
    for document in documents:
        sources.setdefault(document.domain, set()).add(document.source)
    return [
        document.source if len(sources[document.domain]) >= MIN_SOURCES else document.key or _content_name(document)
        for document in documents
    ]


def _content_name(document: TokenizedDocument) -> str:
    return xxhash.xxh3_64_hexdigest(np.ascontiguousarray(document.ids).tobytes())
