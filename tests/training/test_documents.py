from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from ladm_hf.errors import ColumnError, InputError
from ladm_hf.training.documents import held_out, load_documents, tokenize_documents
from ladm_hf.training.tokenizer import train_tokenizer

ROWS = [
    {"text": "the cat sat", "domain": "a", "source": "x", "kind": "long", "id": "1"},
    {"text": None, "domain": "a", "source": "x", "kind": "long", "id": "2"},
    {"text": "  ", "domain": "a", "source": "x", "kind": "long", "id": "3"},
    {"text": "naïve ☃", "domain": None, "source": None, "kind": "short", "id": "4"},
]


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["the cat sat on the mat"], vocab_size=270)


def test_tokens_and_metadata(tokenizer) -> None:
    first, second = tokenize_documents(Dataset.from_list(ROWS), tokenizer)
    assert tokenizer.decode(first.ids) == "the cat sat"
    assert (first.domain, first.source, first.kind, first.key, first.num_chars) == ("a", "x", "long", "1", 11)
    assert tokenizer.decode(second.ids) == "naïve ☃"
    assert (second.domain, second.source) == ("all", "4")


def test_a_stream_gives_the_same(tokenizer) -> None:
    plain = tokenize_documents(Dataset.from_list(ROWS), tokenizer)
    stream = tokenize_documents(Dataset.from_list(ROWS).to_iterable_dataset(), tokenizer)
    assert [document.ids.tolist() for document in plain] == [document.ids.tolist() for document in stream]
    assert [document.key for document in plain] == [document.key for document in stream]


@pytest.mark.parametrize("stream", [False, True])
def test_names_are_texts_whatever_the_columns_hold(tokenizer, stream: bool) -> None:
    rows = Dataset.from_dict({"text": ["one", "two"], "id": [7, None], "domain": [1.5, 2.0], "source": [True, False]})
    documents = tokenize_documents(rows.to_iterable_dataset() if stream else rows, tokenizer)
    assert [(document.key, document.domain, document.source) for document in documents] == [
        ("7", "1.5", "True"), ("1", "2.0", "False"),
    ]  # fmt: skip
    assert not held_out(documents, 0.0).any()


def test_text_alone_is_enough(tokenizer) -> None:
    documents = tokenize_documents(Dataset.from_dict({"body": ["one", "two"]}), tokenizer, text_column="body")
    assert [(document.domain, document.source) for document in documents] == [("all", "0"), ("all", "1")]


def test_columns_and_rows_that_are_missing(tokenizer) -> None:
    with pytest.raises(ColumnError, match="'text'.*'body'"):
        tokenize_documents(Dataset.from_dict({"body": ["one"]}), tokenizer)
    with pytest.raises(InputError, match="no row"):
        tokenize_documents(Dataset.from_dict({"text": [None, " "]}), tokenizer)


def test_files_folders_and_patterns(tmp_path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    dataset = Dataset.from_list(ROWS)
    dataset.to_parquet(folder / "a.parquet")
    dataset.to_parquet(folder / "b.parquet")
    (folder / "README.md").write_text("not a document")
    for data in (folder, str(folder / "*.parquet"), [folder / "a.parquet", folder / "b.parquet"]):
        assert len(load_documents(data)) == 8
    assert len(list(load_documents(folder / "a.parquet", streaming=True))) == 4
    lines = tmp_path / "rows.jsonl"
    lines.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    assert load_documents(lines)["text"][0] == "the cat sat"
    with pytest.raises(InputError, match="one format"):
        load_documents([lines, folder / "a.parquet"])
    for missing in (tmp_path / "none.parquet", "./none", str(tmp_path / "none" / "*.jsonl")):
        with pytest.raises(InputError, match="no file, folder or glob|no parquet or JSON-lines file"):
            load_documents(missing)
    with pytest.raises(InputError, match="neither a path here nor a data set that the Hub gives"):
        load_documents("nobody/nothing-here")
    odd = tmp_path / "rows.xyz"
    odd.write_text("")
    with pytest.raises(InputError, match="no known format"):
        load_documents(odd)


@pytest.mark.parametrize("name", ["rows.jsonl.zst", "rows.jsonl.gz"])
def test_documents_are_read_as_they_are_for_scoring(tmp_path, name, tokenizer, caplog) -> None:
    lines = [json.dumps({"doc": row, "meta": {str(n): n}}) for n, row in enumerate(ROWS)]
    (tmp_path / "pool").mkdir()
    with pa.output_stream(tmp_path / "pool" / name, compression="zstd" if name.endswith("zst") else "gzip") as file:
        file.write("\n".join([*lines, "{", *lines]).encode())
    for streaming in (False, True):
        dataset = load_documents(tmp_path / "pool", streaming=streaming)
        assert [row["doc"]["text"] for row in dataset] == [row["text"] for row in ROWS + ROWS]
        assert "1 lines of" in caplog.text
        caplog.clear()
        documents = tokenize_documents(dataset, tokenizer, text_column="doc.text")
        assert [tokenizer.decode(document.ids) for document in documents] == ["the cat sat", "naïve ☃"] * 2


def test_documents_of_parquet_files_whose_types_differ(tmp_path, tokenizer) -> None:
    for n, kind in enumerate((pa.string(), pa.large_string())):
        texts = pa.array([b"the cat sat", b"\xff"], pa.binary()).view(pa.string()).cast(pa.binary())
        texts = texts.cast(pa.large_binary()).view(kind) if n else texts.view(kind)
        pq.write_table(pa.table({"text": texts, "n": [n, n]}), tmp_path / f"{n}.parquet")
    assert load_documents(tmp_path)["text"] == ["the cat sat", None] * 2
    assert len(tokenize_documents(load_documents(tmp_path), tokenizer)) == 2


def test_the_cache_follows_the_content_of_a_file(tmp_path) -> None:
    file = tmp_path / "rows.jsonl"
    found = []
    for text in ("first", "other", "other"):
        file.write_text(json.dumps({"text": text}) + "\n")
        dataset = load_documents(file)
        found.append((dataset["text"][0], dataset.cache_files[0]["filename"]))
    assert [text for text, _ in found] == ["first", "other", "other"]
    assert found[0][1] != found[1][1] == found[2][1]


def test_only_the_split_asked_for_is_read(tmp_path) -> None:
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").write_text(json.dumps({"text": split}) + "\n")
    assert load_documents(tmp_path)["text"] == ["train"]
    assert load_documents(tmp_path, "test")["text"] == ["test"]
    with pytest.raises(InputError, match="no split 'validation'"):
        load_documents(tmp_path, "validation")
