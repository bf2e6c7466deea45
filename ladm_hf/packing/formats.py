"""Packed sequences into files: parquet for TRL and transformers, token files for nanotron and Megatron.

parquet    position_ids   input_ids, labels, position_ids, seq_lengths     padded; default collator of transformers, TRL
           seq_lengths    input_ids, seq_lengths                           not padded; TRL
           cu_seqlens     input_ids, cu_seqlens                            not padded; FlashAttention
nanotron   datatrove's `.ds` and `.ds.index`, windows of length + 1        padded
megatron   `.bin` and `.idx`, one sequence a document                      padded
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ladm_hf.data.files import storage_errors
from ladm_hf.data.shards import table_parts
from ladm_hf.errors import MissingExtraError
from ladm_hf.packing.sequences import PackedSequence
from ladm_hf.packing.tokenizer import TargetTokenizer

Format: TypeAlias = Literal["parquet", "nanotron", "megatron"]
Boundaries: TypeAlias = Literal["position_ids", "seq_lengths", "cu_seqlens"]

COLUMNS: dict[str, tuple[str, ...]] = {
    "position_ids": ("input_ids", "labels", "position_ids", "seq_lengths"),
    "seq_lengths": ("input_ids", "seq_lengths"),
    "cu_seqlens": ("input_ids", "cu_seqlens"),
}
MEANINGS = {
    "input_ids": "token ids of documents, one behind the other",
    "labels": "the same, -100 for the first token of each document and for padding",
    "position_ids": "place of each token in its document",
    "seq_lengths": "tokens of each document, of the padding last",
    "cu_seqlens": "where each document begins, and where the last one ends",
}
# Tokens of one table of parquet, and of one token file, whose index is in memory until it is closed.
_TABLE_TOKENS = 1 << 20
FILE_TOKENS = 1 << 30


def window(format: Format, length: int) -> int:
    """Tokens of a stored sequence: readers of datatrove's files take one more, for the label of the last token."""
    return length + 1 if format == "nanotron" else length


def write_parquet(
    sequences: Iterable[PackedSequence], folder: Path, tokenizer: TargetTokenizer, length: int, boundaries: Boundaries
) -> Iterator[Path]:
    """Writes parquet files with the columns that `boundaries` stands for."""
    columns = COLUMNS[boundaries]
    schema = pa.schema([(name, pa.list_(pa.int32())) for name in columns])
    if boundaries == "position_ids":
        sequences = (sequence.padded(length, tokenizer.pad_token_id) for sequence in sequences)
    tables = (_table(batch, schema) for batch in _batches(sequences, max(1, _TABLE_TOKENS // length)))
    return table_parts(tables, schema, folder)


def _batches(sequences: Iterable[PackedSequence], size: int) -> Iterator[list[PackedSequence]]:
    rest = iter(sequences)
    while batch := list(itertools.islice(rest, size)):
        yield batch


def _table(batch: list[PackedSequence], schema: pa.Schema) -> pa.Table:
    columns = []
    for name in schema.names:
        values = [np.asarray(getattr(sequence, name), dtype=np.int32) for sequence in batch]
        offsets = np.cumsum([0, *map(len, values)], dtype=np.int32)
        columns.append(pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.concatenate(values))))
    return pa.table(columns, schema=schema)


def write_nanotron(
    sequences: Iterable[PackedSequence], folder: Path, tokenizer: TargetTokenizer, length: int
) -> Iterator[Path]:
    """Writes `00000_packed.ds` and so on by datatrove, with the ends of the documents beside them (`.ds.index`)."""
    file_of = _datatrove("tokenizer", "TokenizedFile")

    def write(file: Any, sequence: PackedSequence, dtype: npt.DTypeLike) -> None:
        file.write_bytes(sequence.input_ids.astype(dtype).tobytes(), np.cumsum(sequence.seq_lengths).tolist())

    def opened(number: int) -> Any:
        return file_of(
            str(folder),
            f"{number:05d}_packed.ds",
            tokenizer_name_or_path=tokenizer.name,
            save_final_metadata=True,
            token_size=_token_size(tokenizer),
        )

    dtype = "<u2" if _token_size(tokenizer) == 2 else "<u4"
    full = (sequence.padded(length + 1, tokenizer.pad_token_id) for sequence in sequences)
    return _write_files(full, folder, opened, lambda file, sequence: write(file, sequence, dtype))


def write_megatron(
    sequences: Iterable[PackedSequence], folder: Path, tokenizer: TargetTokenizer, length: int
) -> Iterator[Path]:
    """Writes `00000_packed.bin` and `.idx` and so on by datatrove; Megatron's documents are the sequences."""
    file_of = _datatrove("megatron_tokenizer", "MegatronTokenizedFile")

    def opened(number: int) -> Any:
        return file_of(str(folder), f"{number:05d}_packed", token_size=_token_size(tokenizer))

    full = (sequence.padded(length, tokenizer.pad_token_id) for sequence in sequences)
    return _write_files(full, folder, opened, lambda file, sequence: file.write(sequence.input_ids))


def _write_files(
    sequences: Iterable[PackedSequence],
    folder: Path,
    opened: Callable[[int], Any],
    write: Callable[[Any, PackedSequence], None],
) -> Iterator[Path]:
    """Writes token files, one after the other; each is handed on, with those beside it, when it is finished."""
    known: set[Path] = set()
    rest = iter(sequences)
    sequence = next(rest, None)
    for number in itertools.count():
        with storage_errors(folder, "token files"):
            folder.mkdir(parents=True, exist_ok=True)
            file, tokens = opened(number), 0
        while sequence is not None and tokens < FILE_TOKENS:
            with storage_errors(folder, "token files"):
                write(file, sequence)
            tokens += len(sequence.input_ids)
            sequence = next(rest, None)
        with storage_errors(folder, "token files"):
            file.close()
            finished = sorted({*folder.iterdir()} - known)
        known.update(finished)
        yield from finished
        if sequence is None:
            return


def check_installed(format: Format) -> None:
    """Refuses a format whose library is missing, before any work is done.

    Raises:
        MissingExtraError: datatrove is not installed.
    """
    if format != "parquet":
        _datatrove("tokenizer", "TokenizedFile")


def _token_size(tokenizer: TargetTokenizer) -> int:
    """Bytes of a token in a token file, as datatrove and Megatron choose them by the vocabulary."""
    return 2 if tokenizer.vocab_size <= 1 << 16 else 4


def _datatrove(module: str, name: str) -> Any:
    import importlib

    try:
        return getattr(importlib.import_module(f"datatrove.pipeline.tokens.{module}"), name)
    except ImportError as error:
        raise MissingExtraError(
            "token files of nanotron and Megatron are written by datatrove, which is not installed: "
            "pip install 'ladm-hf[datatrove]'"
        ) from error
