"""Sources: the same rows from everywhere, in any ranges, with honest costs."""

from __future__ import annotations

import itertools
import json
import os
import pickle
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Array2D, Dataset, DatasetDict, Features, IterableDataset, List, Value, load_dataset
from launches import dataset, parquet, rows

from ladm_hf.data import columns, sources
from ladm_hf.data.data_files import DataFiles
from ladm_hf.data.hub import is_hub_id
from ladm_hf.data.loaded import open_documents
from ladm_hf.data.open import find_data, find_splits, open_source
from ladm_hf.data.parquet import ParquetSource
from ladm_hf.data.sources import Source, SourceScan
from ladm_hf.errors import ColumnError, InputError
from ladm_hf.runs.chunks import balanced_edges

IDS = [row["id"] for row in rows()]


def everything(source: Source) -> list[Any]:
    scan = source.scan(["text"], 512)
    return ids(source, 0, int(scan.positions[-1]))


def ids(source: Source, start: int, stop: int, columns: list[str] | None = None) -> list[Any]:
    return [value for found in source.read(start, stop, columns) for value in found.table["id"].to_pylist()]


def inputs(tmp_path: Path) -> dict[str, Any]:
    dataset().save_to_disk(tmp_path / "saved")
    DatasetDict({"train": dataset(), "other": dataset(3)}).save_to_disk(tmp_path / "splits")
    (tmp_path / "many").mkdir()
    for n in range(4):
        pq.write_table(dataset().with_format("arrow")[n * 6 : n * 6 + 6], tmp_path / "many" / f"train-{n}.parquet")
    memory = fsspec.filesystem("memory")
    parquet(tmp_path / "one.parquet")
    memory.pipe("/pool/one.parquet", (tmp_path / "one.parquet").read_bytes())
    return {
        "dataset": dataset(),
        "shuffled": dataset().select(list(range(23, -1, -1))).select(list(range(23, -1, -1))),
        "stream": dataset().to_iterable_dataset(num_shards=3),
        "generator": IterableDataset.from_generator(rows),
        "saved": str(tmp_path / "saved"),
        "split": DatasetDict({"train": dataset()}),
        "file": tmp_path / "one.parquet",
        "glob": str(tmp_path / "many" / "*.parquet"),
        "folder": str(tmp_path / "many"),
        "url": "memory://pool/*.parquet",
    }


def test_every_kind_of_input_gives_the_same_rows_in_the_same_order(tmp_path: Path) -> None:
    for kind, data in inputs(tmp_path).items():
        assert everything(open_source(data)) == IDS, kind
    assert everything(open_source(str(tmp_path / "splits"), split="train")) == IDS


@pytest.mark.parametrize("edges", [[0, 1, 2, 24], [0, 6, 12, 18, 24], [0, 5, 5, 13, 14, 24], [0, 24]])
def test_ranges_join_to_the_whole_in_any_order(tmp_path: Path, edges: list[int]) -> None:
    for kind, data in inputs(tmp_path).items():
        source = open_source(data)
        source.scan(["text"], 512)
        ranges = list(itertools.pairwise(edges))
        assert [i for start, stop in ranges for i in ids(source, start, stop)] == IDS, kind
        backwards = [ids(source, start, stop) for start, stop in reversed(ranges)]
        assert [i for part in reversed(backwards) for i in part] == IDS, kind


def test_another_process_reads_with_the_layout_alone(tmp_path: Path) -> None:
    for kind, data in inputs(tmp_path).items():
        source = open_source(data)
        scan = source.scan(["text"], 512)
        other = pickle.loads(pickle.dumps(open_source(data)))
        other.restore_layout(scan.layout)
        assert ids(other, 3, 9) == IDS[3:9], kind


def test_only_the_columns_asked_for_are_read(tmp_path: Path) -> None:
    for kind, data in inputs(tmp_path).items():
        source = open_source(data)
        source.scan(["text"], 512)
        (found,) = source.read(2, 4, ["id"])
        assert found.table.column_names == ["id"], kind


def test_fingerprints_follow_the_content_not_the_place(tmp_path: Path) -> None:
    first = parquet(tmp_path / "a.parquet")
    (tmp_path / "b.parquet").write_bytes(first.read_bytes())
    changed = rows()
    changed[5]["text"] = changed[5]["text"][::-1]
    pq.write_table(Dataset.from_list(changed).with_format("arrow")[:], tmp_path / "c.parquet", row_group_size=7)
    a, b, c = (open_source(tmp_path / f"{name}.parquet").fingerprint() for name in "abc")
    assert a == b != c
    assert open_source(dataset()).fingerprint() == open_source(dataset()).fingerprint()
    assert open_source(dataset()).fingerprint() != open_source(Dataset.from_list(changed)).fingerprint()


def test_fingerprints_of_large_data_take_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "HASH_BYTES", 10)
    a, b = parquet(tmp_path / "a.parquet"), parquet(tmp_path / "b.parquet", 23)
    assert open_source(a).fingerprint() == open_source(a).fingerprint() != open_source(b).fingerprint()
    assert open_source(dataset()).fingerprint() != open_source(dataset(23)).fingerprint()
    assert open_source(dataset(0)).fingerprint() == open_source(dataset(0)).fingerprint()


def test_chunks_cost_about_the_same(tmp_path: Path) -> None:
    scan = open_source(dataset()).scan(["text"], 512)
    edges = balanced_edges(scan, 6)
    costs = np.diff(np.interp(edges, scan.positions, scan.cost))
    assert len(costs) == 6
    assert costs.max() - costs.min() <= 2 * np.diff(scan.cost).max()


def test_costs_from_footers_alone_cover_all_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "SCAN_BYTES", 0)
    source = open_source(parquet(tmp_path / "one.parquet"))
    scan = source.scan(["text"], 512)
    assert scan.positions.tolist() == [0, 7, 14, 21, 24]
    edges = balanced_edges(scan, 5)
    assert edges[0] == 0
    assert edges[-1] == 24
    assert [i for start, stop in itertools.pairwise(edges) for i in ids(source, start, stop)] == IDS


def test_token_ids_count_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = pa.table({"input_ids": [[1] * 10, None, [1] * 700, []]})
    scan = open_source(Dataset(table)).scan(["text", "input_ids"], 512)
    assert np.diff(scan.cost).tolist() == [11, 1, 513, 1]
    pq.write_table(table, tmp_path / "ids.parquet")
    monkeypatch.setattr(sources, "SCAN_BYTES", 0)
    # a null or empty list counts as one value in the footer
    assert open_source(tmp_path / "ids.parquet").scan(["input_ids"], 512).cost[-1] == 4 + 712
    fixed = pa.chunked_array([pa.array([[1, 2]], pa.list_(pa.int64(), 2))])
    assert columns.lengths(fixed).tolist() == [2]
    assert columns.lengths(pa.chunked_array([[1.5]])).tolist() == [0]


def test_nested_columns_are_found() -> None:
    data = Dataset.from_list([{"meta": {"text": "abcd" * 8, "deep": {"n": 1}}}, {"meta": None}])
    source = open_source(data)
    scan = source.scan(["text", "meta.text"], 512)
    assert np.diff(scan.cost).tolist() == [9, 1]
    (found,) = source.read(0, 2)
    assert columns.pick(found.table, "meta.deep.n").to_pylist() == [1, None]
    with pytest.raises(ColumnError, match="meta.nothing"):
        source.scan(["meta.nothing", "meta.text.more", "none.text"], 512)


def test_files_with_other_columns_are_filled_or_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a"], "id": [1]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"text": ["b"], "more": [2.5]}), tmp_path / "b.parquet")
    source = open_source(tmp_path / "*.parquet")
    source.scan(["text"], 512)
    assert [row for found in source.read(0, 2) for row in found.table.to_pylist()] == [
        {"text": "a", "id": 1, "more": None},
        {"text": "b", "id": None, "more": 2.5},
    ]
    pq.write_table(pa.table({"text": [1]}), tmp_path / "c.parquet")
    with pytest.raises(InputError, match=r"'text' is string in .*a.parquet but int64 in .*c.parquet.*write one"):
        open_source(tmp_path / "*.parquet").scan(["text"], 512)


def test_what_cannot_be_read_says_so(tmp_path: Path) -> None:
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 nothing")
    (tmp_path / "table.xyz").write_text("text\na\n")
    (tmp_path / "empty").mkdir()
    parquet(tmp_path / "one.parquet")
    (tmp_path / "two.jsonl").write_text("{}\n")
    for data, message in {
        tmp_path / "broken.parquet": "cannot read",
        tmp_path / "table.xyz": "no known format",
        tmp_path / "empty": "no parquet or JSON-lines file",
        tmp_path / "none.parquet": "no file, folder or glob",
        tmp_path / "*.nothing": "no parquet or JSON-lines file",
        str(tmp_path / "[ot][nw]*"): "mixture of formats",
        "nowhere://x/*.parquet": "cannot open",
        3: "found int",
    }.items():
        with pytest.raises(InputError, match=message):
            open_source(data).scan(["text"], 512)
    with pytest.raises(InputError, match="no split 'dev'"):
        open_source(DatasetDict({"train": dataset(1)}), split="dev")
    with pytest.raises(InputError, match="several splits"):
        open_source(DatasetDict({"a": dataset(1), "b": dataset(1)}))


@pytest.mark.parametrize("name", ["../pool", "./pool", "owner/a--b", "owner/name.", "owner/n" + 96 * "a", "ö/name"])
def test_a_name_that_the_hub_cannot_have_is_looked_for_here_alone(name: str, tmp_path: Path) -> None:
    assert not is_hub_id(name)
    for open_name in (open_source, open_documents):
        with pytest.raises(InputError, match="no file, folder or glob"):
            open_name(name)


@pytest.mark.parametrize("name", ["owner/name", "_owner/_name", "o.w-n_er/N.a-m_e"])
def test_a_name_that_the_hub_can_have_is_asked_for_there(name: str) -> None:
    assert is_hub_id(name)
    assert not is_hub_id(name.replace("/", "-"))
    for open_name in (open_source, open_documents):
        with pytest.raises(InputError, match="the Hub"):
            open_name(name)


def test_a_file_that_shrinks_is_told(tmp_path: Path) -> None:
    source = open_source(parquet(tmp_path / "one.parquet"))
    source.scan(["text"], 512)
    parquet(tmp_path / "one.parquet", 10)
    with pytest.raises(InputError, match="shorter than it was"):
        ids(source, 0, 24)


def test_a_stream_that_grows_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_TABLE_ROWS", 8)
    before, after = (IterableDataset.from_generator(rows, gen_kwargs={"count": count}) for count in (24, 30))
    scanned = open_source(before)
    layout = scanned.scan(["text"], 512).layout
    longer = open_source(after)
    assert longer.fingerprint() != scanned.fingerprint() == open_source(before).fingerprint()
    longer.restore_layout(layout)
    assert len(ids(longer, 0, 12)) == 12
    with pytest.raises(InputError, match="longer than it was"):
        ids(longer, 12, 24)


def test_a_folder_is_searched_for_a_split(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / ".ladm").mkdir()
    parquet(tmp_path / "data" / "train-00000-of-00001.parquet")
    parquet(tmp_path / "data" / "test-00000-of-00001.parquet", 3)
    parquet(tmp_path / ".ladm" / "train-9.parquet", 3)
    assert everything(open_source(tmp_path, split="train")) == IDS
    assert everything(open_source(tmp_path, split="test")) == IDS[:3]


class FakeBuilder:
    def __init__(self, files: dict[str, list[str]]) -> None:
        self.config = type("Config", (), {"data_files": files})()


def test_a_hub_data_set_is_read_file_by_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    file = str(parquet(tmp_path / "train-0.parquet"))
    # the builder of a repository is a class of its own, made from the format's
    kind = type("ParquetOwnerName", (type("Parquet", (FakeBuilder,), {}),), {})
    parquet_builder = kind({"train": [file], "test": [file]})
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda *args, **options: parquet_builder)
    source = open_source("owner/name", split="train")
    assert isinstance(source, ParquetSource)
    assert everything(source) == IDS
    with pytest.raises(InputError, match="several splits"):
        open_source("owner/name")


def test_a_hub_data_set_in_another_format_is_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets, "load_dataset_builder", lambda *args, **options: FakeBuilder({}))
    streams = {"train": dataset().to_iterable_dataset()}
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **options: streams)
    assert everything(open_source("name")) == IDS


@pytest.mark.parametrize(
    ("revision", "file"), [("main", "hf://datasets/owner/name@0a1b2c/train-0.parquet"), ("v1", "")]
)
def test_only_what_was_opened_from_the_hub_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, revision: str, file: str
) -> None:
    import datasets

    builder = FakeBuilder({"train": [file]} if file else {})
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda *args, **options: builder)
    streams = {"train": dataset().to_iterable_dataset()}
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **options: streams)
    source = open_source("owner/name", revision=revision)
    assert source.hub == {"id": "owner/name", "revision": "0a1b2c" if file else "v1"}
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "name").mkdir(parents=True)
    parquet(tmp_path / "owner" / "name" / "train-0.parquet")
    assert open_source("owner/name").hub is None
    assert open_source(dataset()).hub is None


def test_names_that_look_like_globs_are_read_as_they_are(tmp_path: Path) -> None:
    folder = tmp_path / "run[1]*"
    folder.mkdir()
    file = parquet(folder / "a[b]?.parquet")
    assert everything(open_source(file)) == everything(open_source(folder)) == IDS
    parquet(tmp_path / "1.parquet")
    assert everything(open_source(tmp_path / "[1].parquet")) == IDS


@pytest.mark.parametrize("mark", ["run.json", "selection.json"])
def test_results_below_a_folder_are_no_part_of_it(tmp_path: Path, mark: str) -> None:
    parquet(tmp_path / "a.parquet")
    (tmp_path / "out" / "data").mkdir(parents=True)
    parquet(tmp_path / "out" / "data" / "b.parquet")
    (tmp_path / "out" / mark).touch()
    assert everything(open_source(tmp_path)) == IDS
    assert everything(open_source(tmp_path / "out")) == IDS


def test_a_name_that_is_not_on_the_hub_says_what_to_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match="neither a path here nor a data set that the Hub gives"):
        open_source("owner/no-such-data")


def test_edges_of_nothing_and_of_one_row() -> None:
    nothing = SourceScan(pa.schema([]), np.zeros(1, np.int64), np.zeros(1), {})
    assert balanced_edges(nothing, 4) == [0, 0]
    one = SourceScan(pa.schema([]), np.array([0, 1]), np.array([0.0, 5.0]), {})
    assert balanced_edges(one, 4) == [0, 1]


def split_of(files: list[str], folder: Path) -> dict[str, list[str]]:
    """The splits that our answer makes of some files, each holding one row with its own path."""
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(json.dumps({"text": file}) + "\n")
    found = find_splits(folder)
    assert all(isinstance(split.content, DataFiles) for split in found.values())
    return {
        name: [str(Path(path).relative_to(folder)) for path in split.content.paths] for name, split in found.items()
    }


@pytest.mark.parametrize(
    "files",
    [
        ["train/chunk1/x.jsonl", "test/b.jsonl"],
        ["chunk1/train/x.jsonl", "chunk1/validation/x.jsonl", "chunk2/train/y.jsonl"],
        ["train.jsonl", "test.jsonl"],
        ["my-train-1.jsonl", "my_dev_2.jsonl", "other.jsonl"],
        ["data/pool-00000-of-00002.jsonl", "data/pool-00001-of-00002.jsonl", "data/rest-00000-of-00001.jsonl"],
        ["en/a.jsonl", "de/b.jsonl"],
        ["dev-set/a.jsonl", "training/b.jsonl", "c.jsonl"],
        ["evaluation/x.json", "eval/y.json"],
    ],
)
def test_splits_of_a_folder_are_those_that_load_dataset_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: list[str]
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    found = split_of(files, tmp_path / "pool")
    theirs = load_dataset(str(tmp_path / "pool"))
    assert {name: sorted(paths) for name, paths in found.items()} == {
        str(name): sorted(rows["text"]) for name, rows in theirs.items()
    }


def test_a_split_of_a_folder_is_given_or_asked_for(tmp_path: Path) -> None:
    split_of(["train/chunk1/x.jsonl", "test/b.jsonl"], tmp_path)
    assert everything_text(open_source(tmp_path, split="train")) == ["train/chunk1/x.jsonl"]
    with pytest.raises(InputError, match=r"has several splits: name one of train, test with --split"):
        open_source(tmp_path)
    with pytest.raises(InputError, match=r"has no split 'validation': name one of train, test"):
        open_source(tmp_path, split="validation")


def test_files_named_by_a_glob_are_all_read_or_those_of_the_split(tmp_path: Path) -> None:
    split_of(["train.jsonl", "test.jsonl"], tmp_path)
    assert len(everything_text(open_source(tmp_path / "*.jsonl"))) == 2
    assert everything_text(open_source(tmp_path / "*.jsonl", split="test")) == ["test.jsonl"]
    assert everything_text(open_source(tmp_path / "test.jsonl", split="train")) == ["test.jsonl"]
    with pytest.raises(InputError, match="no split 'validation'"):
        open_source(tmp_path / "*.jsonl", split="validation")


def test_a_card_beside_the_files_says_which_splits_and_configurations_there_are(tmp_path: Path) -> None:
    split_of(["one/a.jsonl", "two/b.jsonl"], tmp_path)
    card = "configs:\n- config_name: first\n  data_files: one/*\n- config_name: second\n  data_files: two/*\n"
    (tmp_path / "README.md").write_text(f"---\n{card}---\n")
    assert everything_text(open_source(tmp_path, name="second")) == ["two/b.jsonl"]
    with pytest.raises(InputError, match="has several configurations: name one of first, second with --name"):
        open_source(tmp_path)


@pytest.mark.parametrize("dtype", ["hologram", "{hologram: {}}", "{_type: Hologram}"])
def test_a_card_that_names_unknown_features_still_leads_to_the_files(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, dtype: str
) -> None:
    split_of(["one/a.jsonl", "two/b.jsonl"], tmp_path)
    parts = "".join(
        f"  - split: {split}\n    path: {folder}/*\n" for split, folder in (("first", "one"), ("second", "two"))
    )
    files = f"configs:\n- config_name: default\n  data_files:\n{parts}"
    (tmp_path / "README.md").write_text(
        f"---\n{files}dataset_info:\n  features:\n  - name: text\n    dtype: {dtype}\n---\n"
    )
    assert everything_text(open_source(tmp_path, split="second")) == ["two/b.jsonl"]
    assert "is read for its files alone" in caplog.text
    with pytest.raises(InputError, match="name one of first, second"):
        open_source(tmp_path)
    with pytest.raises(InputError, match="no configuration 'other': name one of default"):
        open_source(tmp_path, name="other")


def test_files_left_out_of_a_folder_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    split_of(["a.jsonl", "b.jsonl"], tmp_path)
    assert not caplog.text
    parquet(tmp_path / "c.parquet")
    (tmp_path / "README.md").write_text("# A pool")
    assert len(everything_text(open_source(tmp_path))) == 2
    assert "left out" in caplog.text
    assert "c.parquet" in caplog.text
    assert "README" not in caplog.text


def test_any_format_and_any_number_of_paths(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text\none\n")
    (tmp_path / "b.tsv").write_text("text\tn\ntwo\t1\n")
    assert everything_text(open_source(tmp_path / "a.csv")) == ["one"]
    assert everything_text(open_source(tmp_path / "b.tsv")) == ["two"]
    both = [parquet(tmp_path / "x.parquet", 3), parquet(tmp_path / "y.parquet", 2)]
    assert everything(open_source(both)) == IDS[:3] + IDS[:2]
    with pytest.raises(InputError, match="one format"):
        open_source([tmp_path / "a.csv", tmp_path / "x.parquet"])


def everything_text(source: Source) -> list[Any]:
    scan = source.scan(["text"], 512)
    return [v for found in source.read(0, int(scan.positions[-1])) for v in found.table["text"].to_pylist()]


@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
def test_values_that_only_names_of_folders_hold_are_told(
    tmp_path: Path, ending: str, caplog: pytest.LogCaptureFixture
) -> None:
    for domain in ("books", "web"):
        folder = tmp_path / f"domain={domain}" / "lang=en"
        folder.mkdir(parents=True)
        table = pa.table({"text": [domain], "lang": ["en"]})
        if ending == "parquet":
            pq.write_table(table, folder / "part.parquet")
        else:
            (folder / "part.jsonl").write_text("\n".join(map(json.dumps, table.to_pylist())))
    open_source(tmp_path).scan(["text"], 512)
    assert "name values of 'domain', which no file has as a column" in caplog.text


def test_gaps_in_lists_and_large_integers_are_kept(tmp_path: Path) -> None:
    features = Features({"text": Value("string"), "grid": Array2D((1, 1), "int64"), "list": List(List(Value("int64")))})
    values = {"text": ["a", "b"], "grid": [[[2**53 + 1]], None], "list": [[None, [0]], [[], None]]}
    dataset = Dataset.from_dict(values, features=features).select_columns(["list", "grid", "text"])
    dataset.to_parquet(tmp_path / "a.parquet")
    for data in (dataset, dataset.to_iterable_dataset(), tmp_path / "a.parquet"):
        source = open_source(data)
        scan = source.scan(["text"], 512)
        assert scan.schema.names == ["list", "grid", "text"]
        table = pa.concat_tables(part.table for part in source.read(0, 2))
        assert table["list"].to_pylist() == values["list"]
        grid = table["grid"].combine_chunks()
        assert getattr(grid, "storage", grid).to_pylist() == values["grid"]


def test_the_options_beside_a_result_are_no_data_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pq.write_table(pa.table({"text": ["a", "b"]}), tmp_path / "a.parquet")
    (tmp_path / "options.yaml").write_text("seed: 0\n", encoding="utf-8")
    assert open_source(str(tmp_path)).scan(["text"], 512).positions[-1] == 2
    assert "left out" not in caplog.text
    (tmp_path / "notes.csv").write_text("a\n1\n", encoding="utf-8")
    open_source(str(tmp_path))
    assert "notes.csv" in caplog.text


def test_a_pipe_is_no_file_that_can_be_read_again(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(InputError, match=r"pipe\.jsonl' is a pipe .* write them to a file"):
        find_data(tmp_path / "pipe.jsonl")
