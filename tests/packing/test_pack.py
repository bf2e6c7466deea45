"""`pack()`: any data set into the files of a trainer, every document once."""

from __future__ import annotations

import gzip
import itertools
import json
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import READS_EMPTY_FIXED_SIZE_LISTS
from datasets import Dataset, IterableDataset, load_dataset
from launches import document, scorer
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from ladm_hf import LadmError, PackRecord, pack, prepare_dataset, score_dataset, select
from ladm_hf.calculators.calculator import BUNDLED
from ladm_hf.data.open import open_source
from ladm_hf.errors import BackendError, ColumnError, ConfigError, InputError
from ladm_hf.packing.formats import COLUMNS
from ladm_hf.packing.tokenizer import TargetTokenizer

NANO = AutoTokenizer.from_pretrained(BUNDLED["ladm-nano"])
LENGTH = 256
OPTIONS: dict[str, Any] = {"tokenizer": "ladm-nano", "length": LENGTH, "buffer_tokens": 8 * LENGTH, "progress": False}


def texts(count: int = 120, seed: int = 0) -> list[str]:
    """Documents of 3 to 600 words, no two alike."""
    words = np.exp(np.random.default_rng(seed).uniform(np.log(3), np.log(600), count)).astype(int)
    return [f"{seed} {n} {document(int(size), n)}" for n, size in enumerate(words)]


def expected(documents: Iterable[str], before: tuple[int, ...] = (), after: tuple[int, ...] = (0,)) -> Counter[Any]:
    """The pieces of documents, each with its number of times."""
    found: Counter[Any] = Counter()
    for text in documents:
        ids = (*before, *NANO(text, add_special_tokens=False)["input_ids"], *after)
        found.update(ids[start : start + LENGTH] for start in range(0, len(ids), LENGTH))
    return found


def pieces(folder: Path) -> Counter[Any]:
    """The pieces of documents in the sequences of a folder, padding left out."""
    found: Counter[Any] = Counter()
    for row in load_dataset("parquet", data_files=str(folder / "data" / "*.parquet"), split="train"):
        lengths = row["seq_lengths"] if "seq_lengths" in row else np.diff(row["cu_seqlens"])
        assert sum(lengths) == len(row["input_ids"])
        for ids in np.split(np.array(row["input_ids"]), np.cumsum(lengths)[:-1]):
            found[tuple(ids.tolist())] += 1
    return found


def without_padding(found: Counter[Any]) -> Counter[Any]:
    return Counter({ids: number for ids, number in found.items() if set(ids) != {NANO.pad_token_id}})


def data_bytes(folder: Path) -> list[bytes]:
    return [file.read_bytes() for file in sorted((folder / "data").iterdir())]


def word_tokenizer(**special: str) -> PreTrainedTokenizerFast:
    """A tokenizer with a token for each word, that puts its own first token before each text."""
    words = ["<s>", "</s>", "<pad>", "<unk>", *sorted({word for text in texts() for word in text.split()})]
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


@pytest.mark.parametrize("boundaries", ["position_ids", "seq_lengths", "cu_seqlens"])
def test_every_document_is_packed_once(boundaries: Any, tmp_path: Path) -> None:
    record = pack(Dataset.from_dict({"text": texts()}), tmp_path, boundaries=boundaries, **OPTIONS)
    found = pieces(tmp_path)
    assert without_padding(found) == expected(texts())
    assert record.documents == 120
    assert record.tokens == sum(len(ids) * number for ids, number in expected(texts()).items())
    assert record.cut_documents == sum(len(NANO(text)["input_ids"]) + 1 > LENGTH for text in texts())
    rows = pq.read_table(next((tmp_path / "data").iterdir()))
    assert tuple(rows.column_names) == COLUMNS[boundaries]
    assert record.sequences == rows.num_rows
    assert record.padding == record.sequences * LENGTH - record.tokens
    if boundaries == "position_ids":
        for row in rows.to_pylist():
            assert {len(row[name]) for name in ("input_ids", "labels", "position_ids")} == {LENGTH}
            starts = [n for n, position in enumerate(row["position_ids"]) if position == 0]
            assert starts == np.cumsum([0, *row["seq_lengths"][:-1]]).tolist()
            learnt = [n for n in range(LENGTH) if row["labels"][n] != -100]
            assert [row["labels"][n] for n in learnt] == [row["input_ids"][n] for n in learnt]
            assert not set(learnt) & set(starts)
    assert PackRecord.load(tmp_path) == record


def jsonl(path: Path, values: list[str]) -> Path:
    lines = "".join(json.dumps({"text": text}) + "\n" for text in values).encode()
    path.write_bytes(gzip.compress(lines) if path.suffix == ".gz" else lines)
    return path


def sources(tmp_path: Path, values: list[str]) -> dict[str, Any]:
    dataset = Dataset.from_dict({"text": values})
    pq.write_table(pa.table({"text": values}), tmp_path / "rows.parquet", row_group_size=7)
    (tmp_path / "text.txt").write_text("\n".join(values), encoding="utf-8")
    dataset.save_to_disk(str(tmp_path / "saved"))
    return {
        "parquet": tmp_path / "rows.parquet",
        "json lines": jsonl(tmp_path / "rows.jsonl", values),
        "gzip": jsonl(tmp_path / "rows.jsonl.gz", values),
        "text": tmp_path / "text.txt",
        "saved": tmp_path / "saved",
        "dataset": dataset,
        "view": dataset.select(range(len(values))),
        "stream": IterableDataset.from_generator(lambda: ({"text": text} for text in values)),
    }


@pytest.mark.parametrize("kind", ["parquet", "json lines", "gzip", "text", "saved", "dataset", "view", "stream"])
def test_data_of_every_kind_are_packed_whole(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ladm_hf.data.json_lines._BLOCK_BYTES", 5000)
    monkeypatch.setattr("ladm_hf.data.sources.MAX_TABLE_ROWS", 16)
    source = sources(tmp_path, texts())[kind]
    record = pack(source, tmp_path / "packed", **OPTIONS)
    assert without_padding(pieces(tmp_path / "packed")) == expected(texts())
    assert not record.selected.left_out


@pytest.mark.parametrize(
    "kind", [pa.large_string(), pa.binary(), pa.large_binary(), pa.dictionary(pa.int32(), pa.string())], ids=str
)
def test_texts_of_every_type_are_texts(kind: pa.DataType, tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": pa.array(texts()).cast(kind)}), tmp_path / "rows.parquet")
    pack(tmp_path / "rows.parquet", tmp_path / "packed", **OPTIONS)
    assert without_padding(pieces(tmp_path / "packed")) == expected(texts())


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.int64()),
        pa.large_list(pa.uint16()),
        pytest.param(
            pa.list_(pa.int32(), 3),
            marks=pytest.mark.skipif(not READS_EMPTY_FIXED_SIZE_LISTS, reason="needs pyarrow 26"),
        ),
    ],
    ids=str,
)
def test_token_ids_of_every_type_are_token_ids(kind: pa.DataType, tmp_path: Path) -> None:
    values = [[5, 6, 7], None, [8, 9, 8191], [5, None, 7]]
    pq.write_table(pa.table({"ids": pa.array(values, kind)}), tmp_path / "rows.parquet")
    record = pack(tmp_path / "rows.parquet", tmp_path / "packed", input_ids_column="ids", **OPTIONS)
    assert without_padding(pieces(tmp_path / "packed")) == Counter([(5, 6, 7, 0), (8, 9, 8191, 0)])
    assert record.selected.left_out == {"null": 1, "null among the token ids": 1}


@pytest.mark.parametrize("kind", ["parquet", "json lines", "gzip", "dataset", "stream"])
def test_the_blocks_of_a_source_hold_every_row_once(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ladm_hf.data.json_lines._BLOCK_BYTES", 5000)
    monkeypatch.setattr("ladm_hf.data.sources.MAX_TABLE_ROWS", 16)
    source = open_source(sources(tmp_path, texts())[kind])
    scan = source.scan(["text"], 1000)
    edges = source.block_edges()
    assert edges == sorted(set(edges))
    assert (edges[0], edges[-1]) == (0, int(scan.positions[-1]))
    assert (len(edges) > 3) == (kind in ("parquet", "json lines", "dataset"))
    found = [
        text
        for start, stop in reversed(list(itertools.pairwise(edges)))
        for rows in source.read(start, stop, ["text"])
        for text in rows.table["text"].to_pylist()
    ]
    assert Counter(found) == Counter(texts())


def test_a_seed_gives_the_same_bytes_and_another_one_another_order(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": texts()}), tmp_path / "rows.parquet", row_group_size=10)
    pq.write_table(pa.table({"text": texts(800, 1)}), tmp_path / "short.parquet", row_group_size=10)

    def packed(name: str, **options: Any) -> Path:
        pack(tmp_path / "rows.parquet", tmp_path / name, short=tmp_path / "short.parquet", **OPTIONS | options)
        return tmp_path / name

    first = packed("first")
    assert data_bytes(first) == data_bytes(packed("again"))
    assert data_bytes(first) == data_bytes(packed("processes", num_proc=2))
    other = packed("other", seed=1)
    assert data_bytes(first) != data_bytes(other)
    # other short documents, the same long ones
    long = expected(texts())
    assert all(not long - pieces(folder) for folder in (first, other))
    assert pieces(first) - long != pieces(other) - long


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_short_documents_hold_their_share_of_the_tokens(share: float, tmp_path: Path) -> None:
    short = Dataset.from_dict({"content": [f"{n} short" for n in range(40_000)]})
    record = pack(
        Dataset.from_dict({"text": texts(40)}), tmp_path, short=short, short_share=share, short_text_column="content",
        **OPTIONS,
    )  # fmt: skip
    assert record.short is not None
    assert record.short_share_reached == pytest.approx(share, abs=0.001)
    assert not record.short.used_up
    assert record.selected.documents == 40
    found = pieces(tmp_path)
    assert not expected(texts(40)) - found
    assert set(without_padding(found - expected(texts(40))).values()) == {1}


def test_short_documents_that_do_not_suffice_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    record = pack(
        Dataset.from_dict({"text": texts(40)}), tmp_path, short=Dataset.from_dict({"text": ["a b", "c d"]}), **OPTIONS
    )
    assert record.short is not None
    assert record.short.used_up
    assert record.short.documents == 2
    assert "ended before it held 30.0% of the tokens" in caplog.text


@pytest.mark.parametrize(
    ("special_tokens", "before", "after"),
    [("none", (), ()), ("eos", (), (1,)), ("bos", (0,), ()), ("bos+eos", (0,), (1,))],
)
def test_special_tokens_stand_around_documents(
    special_tokens: Any, before: tuple[int, ...], after: tuple[int, ...], tmp_path: Path
) -> None:
    tokenizer = word_tokenizer(bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>")
    options = OPTIONS | {"tokenizer": tokenizer, "special_tokens": special_tokens, "boundaries": "seq_lengths"}
    pack(Dataset.from_dict({"text": texts()}), tmp_path, **options)
    wanted: Counter[Any] = Counter()
    for text in texts():
        ids = (*before, *tokenizer.convert_tokens_to_ids(text.split()), *after)
        wanted.update(ids[start : start + LENGTH] for start in range(0, len(ids), LENGTH))
    assert pieces(tmp_path) == wanted


def test_padding_is_of_the_padding_token(tmp_path: Path) -> None:
    tokenizer = word_tokenizer(eos_token="</s>", pad_token="<pad>", unk_token="<unk>")
    pack(Dataset.from_dict({"text": ["a b c"]}), tmp_path, **OPTIONS | {"tokenizer": tokenizer})
    (row,) = pq.read_table(next((tmp_path / "data").iterdir())).to_pylist()
    assert row["input_ids"][3:] == [1, *[2] * (LENGTH - 4)]
    assert row["seq_lengths"] == [4, LENGTH - 4]


def test_token_ids_of_the_same_tokenizer_are_taken_and_those_of_another_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare_dataset(
        Dataset.from_dict({"text": texts()}), tmp_path / "prepared", min_tokens=1, max_length=4096, progress=False
    )
    other = word_tokenizer(eos_token="</s>", unk_token="<unk>")
    record = pack(tmp_path / "prepared", tmp_path / "other", **OPTIONS | {"tokenizer": other})
    assert record.selected.column == "text"
    with pytest.raises(InputError, match="'input_ids'.*were made by the tokenizer of 'ladm-nano'"):
        pack(tmp_path / "prepared", tmp_path / "wrong", **OPTIONS | {"tokenizer": other}, input_ids_column="input_ids")

    def not_called(self: TargetTokenizer, texts: list[str]) -> Any:
        raise AssertionError("tokenised")

    monkeypatch.setattr(TargetTokenizer, "tokenize", not_called)
    record = pack(tmp_path / "prepared", tmp_path / "same", **OPTIONS)
    assert record.selected.column == "input_ids"
    assert without_padding(pieces(tmp_path / "same")) == expected(texts())


def test_special_tokens_in_given_token_ids_are_not_doubled(tmp_path: Path) -> None:
    tokenizer = word_tokenizer(bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    ids = [[0, 5, 6], [7, 8, 9]]
    options = OPTIONS | {"tokenizer": tokenizer, "special_tokens": "bos+eos", "boundaries": "seq_lengths"}
    pack(Dataset.from_dict({"ids": ids}), tmp_path, input_ids_column="ids", **options)
    assert pieces(tmp_path) == Counter([(0, 5, 6, 1), (0, 7, 8, 9, 1)])


def test_a_run_and_its_selection_are_packed_and_described(tmp_path: Path) -> None:
    rows = [{"body": text, "domain": "ab"[n % 2]} for n, text in enumerate(texts(12, 1))]
    score_dataset(Dataset.from_list(rows), tmp_path / "scored", scorer(text_column="body"), progress=False)
    selection = select(str(tmp_path / "scored"), strategy="top-k", k=2)
    selection.save(tmp_path / "selected")
    record = pack(tmp_path / "selected", tmp_path / "packed", **OPTIONS)
    chosen = expected(selection.selected["body"])
    assert without_padding(pieces(tmp_path / "packed")) == chosen
    assert record.selected.column == "body"
    assert record.selection is not None
    assert record.selection["strategy"] == "top-k"
    facts = record.facts()
    assert facts["model"]["id"] == "ladm-nano"
    assert facts["packing"]["documents"] == 4
    pack(selection, tmp_path / "object", **OPTIONS)
    assert without_padding(pieces(tmp_path / "object")) == chosen
    pack(tmp_path / "scored", tmp_path / "run", **OPTIONS)
    assert without_padding(pieces(tmp_path / "run")) == expected(row["body"] for row in rows)


def test_rows_without_a_document_are_counted_by_their_reason(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    invalid = pa.array([b"good", b"\xff\xfe bad", None, b""], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": invalid}), tmp_path / "rows.parquet")
    record = pack(tmp_path / "rows.parquet", tmp_path / "packed", **OPTIONS)
    assert record.selected.left_out == {"null": 1, "empty": 1, "no valid UTF-8": 1}
    assert record.documents == 1
    assert "1 empty, 1 no valid UTF-8, 1 null" in caplog.text
    (tmp_path / "rows.jsonl").write_text('{"text": "good"}\n{"text": \n', encoding="utf-8")
    record = pack(tmp_path / "rows.jsonl", tmp_path / "lines", **OPTIONS)
    assert record.selected.left_out == {"unreadable": 1}


def test_a_result_is_not_replaced_unasked_and_stays_when_packing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack(Dataset.from_dict({"text": ["a b"]}), tmp_path, **OPTIONS)
    before = data_bytes(tmp_path)
    with pytest.raises(InputError, match="holds packed data.*--overwrite"):
        pack(Dataset.from_dict({"text": ["c d"]}), tmp_path, **OPTIONS)
    tokenize = TargetTokenizer.tokenize

    def failing(self: TargetTokenizer, texts: list[str]) -> Any:
        if "last" in texts:
            raise KeyboardInterrupt
        return tokenize(self, texts)

    monkeypatch.setattr(TargetTokenizer, "tokenize", failing)
    monkeypatch.setattr("ladm_hf.data.sources.MAX_TABLE_ROWS", 16)
    with pytest.raises(KeyboardInterrupt):
        pack(Dataset.from_dict({"text": [*texts(), "last"]}), tmp_path, overwrite=True, **OPTIONS)
    assert data_bytes(tmp_path) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "pack.json"]
    record = pack(Dataset.from_dict({"text": ["c d", "e"]}), tmp_path, overwrite=True, **OPTIONS)
    assert PackRecord.load(tmp_path) == record
    assert data_bytes(tmp_path) != before


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"length": 1}, ConfigError, "length must be at least 2"),
        ({"short_share": 1.0}, ConfigError, "short_share must be between 0 and 1"),
        ({"format": "arrow"}, ConfigError, "format must be one of parquet, nanotron, megatron"),
        ({"boundaries": "mask"}, ConfigError, "boundaries must be one of"),
        ({"special_tokens": "sep"}, ConfigError, "special_tokens must be one of"),
        ({"special_tokens": "bos"}, ConfigError, "'ladm-nano' has no BOS token"),
        ({"format": "megatron", "special_tokens": "none"}, ConfigError, "Megatron finds the end of a document"),
        ({"buffer_tokens": 0}, ConfigError, "buffer_tokens=0 holds no two sequences"),
        ({"buffer_tokens": 300}, ConfigError, "buffer_tokens=300 holds no two sequences"),
        ({"num_proc": 0}, ConfigError, "num_proc below 1"),
        ({"tokenizer": "no/such-folder/here"}, LadmError, "no/such-folder/here"),
        ({"tokenizer": 7}, ConfigError, "tokenizer must be a Hub id"),
        ({"text_column": "body"}, ColumnError, "nothing says which tokenizer made the token ids in 'input_ids'"),
        ({"text_column": "number"}, ColumnError, "column 'number' .* is int64, expected text or token ids"),
        ({"input_ids_column": "input_ids"}, InputError, "run from 1 to 9000, but the tokenizer of 'ladm-nano' has 8,1"),
        ({"input_ids_column": "ids"}, ColumnError, "no column 'ids'"),
    ],
)  # fmt: skip
def test_what_cannot_be_packed_is_refused_in_one_line_and_leaves_nothing(
    options: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    data = Dataset.from_dict({"text": ["a b"], "number": [1], "input_ids": [[1, 9000]]})
    with pytest.raises(error, match=message) as caught:
        pack(data, tmp_path / "packed", **OPTIONS | options)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "packed").glob("*"))


def test_folders_that_hold_something_else_are_left_alone(tmp_path: Path) -> None:
    data = Dataset.from_dict({"text": ["a b"]})
    (tmp_path / "mine" / "data").mkdir(parents=True)
    with pytest.raises(InputError, match="was not written by `ladm pack`"):
        pack(data, tmp_path / "mine", overwrite=True, **OPTIONS)
    pack(data, tmp_path / "packed", **OPTIONS)
    with pytest.raises(InputError, match="is packed already"):
        pack(tmp_path / "packed", tmp_path / "twice", **OPTIONS)
    with pytest.raises(InputError, match="holds no document to pack: 1 empty"):
        pack(Dataset.from_dict({"text": [""]}), tmp_path / "empty", **OPTIONS)


class Deadly(PreTrainedTokenizerFast):
    """A tokenizer whose process dies of several texts."""

    def __call__(self, text: Any, *args: Any, **options: Any) -> Any:
        if isinstance(text, list):
            os._exit(9)
        return super().__call__(text, *args, **options)


def test_a_process_that_is_killed_is_an_error_of_one_line(tmp_path: Path) -> None:
    tokenizer = Deadly(tokenizer_object=word_tokenizer().backend_tokenizer, eos_token="</s>")
    with pytest.raises(BackendError, match="was killed.*use fewer with --num-proc"):
        pack(Dataset.from_dict({"text": ["a b"]}), tmp_path, num_proc=2, **OPTIONS | {"tokenizer": tokenizer})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["", "[]", '{"pack_format": 2}', '{"pack_format": 1}'])
def test_a_damaged_record_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "pack.json").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match="pack.json cannot be read .*: pack again"):
        PackRecord.load(tmp_path)
    with pytest.raises(InputError, match="holds no pack.json"):
        PackRecord.load(tmp_path / "nowhere")


def test_a_share_of_short_documents_without_any_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there are no short documents: give them by --short"):
        pack("nothing.parquet", tmp_path / "packed", tokenizer="ladm-nano", length=128, short_share=0.2)
    assert not (tmp_path / "packed").exists()
