"""Documents for training and calibration: from files or the Hub to tokens, on disk and memory-mapped.

Only `text` is needed. `domain` (splices are made within one), `source` (what must not be divided between training and
test), `kind` (`long` or `short`) and `id` are used where they are there.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ladm_hf.data.open import open_documents
from ladm_hf.errors import ColumnError, InputError
from ladm_hf.training.windows import TokenizedDocument

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset
    from transformers import PreTrainedTokenizerBase


def load_documents(data: str | Path | Sequence[str | Path], split: str = "train", streaming: bool = False) -> Any:
    """Opens documents as a `Dataset`, or an `IterableDataset` when streaming.

    Args:
        data (`str`, path or sequence of them): files or patterns (`*.parquet`, `.jsonl`, `.csv`, `.txt`), a folder
            of them, or a Hub id.
        split (`str`, *optional*, defaults to `"train"`): split of a Hub data set.

    Raises:
        InputError: no such file or data set, or files of an unknown or mixed format.
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
    from datasets import Dataset, IterableDataset

    dataset_columns = dataset.column_names
    if dataset_columns is not None and text_column not in dataset_columns:
        raise ColumnError(
            f"no column {text_column!r} in this data; its columns are {', '.join(map(repr, dataset_columns))}"
        )
    names = ("domain", "source", "kind", "id")

    def encode(batch: Any) -> dict[str, list[Any]]:
        texts = batch[text_column]
        keep = [i for i, text in enumerate(texts) if isinstance(text, str) and text.strip()]
        ids = tokenizer([texts[i] for i in keep], add_special_tokens=False, verbose=False)["input_ids"] if keep else []
        columns: dict[str, list[Any]] = {
            "input_ids": [np.asarray(row, dtype=np.int32) for row in ids],
            "num_chars": [len(texts[i]) for i in keep],
        }
        for name in names:
            values = batch[name] if name in batch else [""] * len(texts)
            columns[name] = ["" if values[i] is None else str(values[i]) for i in keep]
        return columns

    if isinstance(dataset, IterableDataset):
        stream = dataset

        def rows() -> Any:
            for batch in stream.iter(batch_size=16):
                columns = encode(batch)
                for values in zip(*columns.values(), strict=True):
                    yield dict(zip(columns, values, strict=True))

        tokens = Dataset.from_generator(rows)
    else:
        tokens = dataset.map(
            encode, batched=True, batch_size=16, remove_columns=dataset.column_names, desc="Tokenizing documents"
        )
    if len(tokens) == 0:
        raise InputError(f"no row of this data has any text in column {text_column!r}")
    return _memory_mapped(tokens)


def _memory_mapped(tokens: Dataset) -> list[TokenizedDocument]:
    """Views of the Arrow file, without a copy of the tokens."""
    views = []
    for chunk in tokens.data.column("input_ids").chunks:
        values, offsets = chunk.values.to_numpy(), chunk.offsets.to_numpy()
        views += [values[start:stop] for start, stop in pairwise(offsets.tolist())]
    columns = [tokens[name] for name in ("domain", "source", "kind", "id", "num_chars")]
    return [
        TokenizedDocument(ids, domain or "all", source or key or str(row), kind, key or str(row), num_chars)
        for row, (ids, domain, source, kind, key, num_chars) in enumerate(zip(views, *columns, strict=True))
    ]
