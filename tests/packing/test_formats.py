"""Token files, as their readers read them."""

from __future__ import annotations

import struct
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from test_pack import LENGTH, NANO, OPTIONS, expected, texts, without_padding, word_tokenizer

from ladm_hf import pack
from ladm_hf.errors import MissingExtraError

pytest.importorskip("datatrove")

DATA = Dataset.from_dict({"text": texts()})


def test_datatrove_reads_each_window_with_the_positions_in_its_documents(tmp_path: Path) -> None:
    from datatrove.utils.dataset import DatatroveFolderDataset

    record = pack(DATA, tmp_path, format="nanotron", **OPTIONS)
    read = DatatroveFolderDataset(str(tmp_path / "data"), LENGTH, filename_pattern="*.ds", return_positions=True)
    assert len(read) == record.sequences
    found: Counter[Any] = Counter()
    for row in read:
        ids, positions = row["input_ids"].numpy(), row["positions"].numpy()
        assert len(ids) == LENGTH + 1
        for part in np.split(ids, np.flatnonzero(positions == 0)[1:]):
            found[tuple(part.tolist())] += 1
    wanted: Counter[Any] = Counter()
    for text in texts():
        ids = (*NANO(text, add_special_tokens=False)["input_ids"], 0)
        wanted.update(ids[start : start + LENGTH + 1] for start in range(0, len(ids), LENGTH + 1))
    assert without_padding(found) == wanted
    assert record.boundaries is None
    assert (tmp_path / "data" / "00000_packed.ds.metadata").read_text().startswith("ladm-nano|2\n")


def read_megatron(prefix: Path) -> list[np.ndarray]:
    """The documents of an indexed data set of Megatron, by the layout of its index."""
    index = prefix.with_suffix(".idx").read_bytes()
    assert index[:9] == b"MMIDIDX\x00\x00"
    version, code, sequences, documents = struct.unpack_from("<QBQQ", index, 9)
    assert (version, documents) == (1, sequences + 1)
    sizes = np.frombuffer(index, np.int32, sequences, 34)
    pointers = np.frombuffer(index, np.int64, sequences, 34 + 4 * sequences)
    assert np.frombuffer(index, np.int64, documents, 34 + 12 * sequences).tolist() == list(range(documents))
    dtype = np.dtype({4: np.int32, 8: np.uint16}[code])
    data = prefix.with_suffix(".bin").read_bytes()
    return [np.frombuffer(data, dtype, size, at) for size, at in zip(sizes, pointers, strict=True)]


def test_the_documents_of_megatron_are_sequences_whose_documents_end_with_eos(tmp_path: Path) -> None:
    record = pack(DATA, tmp_path, format="megatron", **OPTIONS)
    sequences = read_megatron(tmp_path / "data" / "00000_packed")
    assert [len(sequence) for sequence in sequences] == [LENGTH] * record.sequences
    found: Counter[Any] = Counter()
    for sequence in sequences:
        for part in np.split(sequence, np.flatnonzero(sequence == 0) + 1):
            if len(part):
                found[tuple(part.tolist())] += 1
    assert without_padding(found) == expected(texts())


@pytest.mark.parametrize("format", ["nanotron", "megatron"])
def test_large_vocabularies_get_four_bytes_and_full_files_a_successor(
    format: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = word_tokenizer(eos_token="</s>", unk_token="<unk>")
    tokenizer.add_tokens([f"<{n}>" for n in range(1 << 16)])
    monkeypatch.setattr("ladm_hf.packing.formats.FILE_TOKENS", 4 * LENGTH)
    record = pack(DATA, tmp_path, format=format, **OPTIONS | {"tokenizer": tokenizer})
    files = sorted((tmp_path / "data").glob("*.ds" if format == "nanotron" else "*.bin"))
    window = LENGTH + (format == "nanotron")
    assert len(files) == -(-record.sequences // 4)
    assert sum(file.stat().st_size for file in files) == 4 * window * record.sequences


def test_a_missing_datatrove_is_named_before_anything_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datatrove.pipeline.tokens.tokenizer", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'ladm-hf\[datatrove\]'"):
        pack("no/such.parquet", tmp_path, format="nanotron", **OPTIONS)
