"""Each command with input and output in a folder, on an S3 server and in a bucket of the fake Hub."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from launches import GEOMETRY, dataset
from s3 import BUCKET, S3
from typer.testing import CliRunner

from fake_hub import FakeHub
from fake_hub.fixtures import fake_hub, hub_process  # noqa: F401
from ladm_hf import LadmError, LadmScorer, PackRecord, score_dataset, select
from ladm_hf.cli.app import app
from ladm_hf.data import object_store
from ladm_hf.data.object_store import ObjectStore, storage_at
from ladm_hf.errors import ConfigError
from ladm_hf.selection.result import Selection

pytest.importorskip("s3fs")
pytest.importorskip("moto")

SELECT = ["--budget", "600", "--by", "meta.set"]
PACK = ["--tokenizer", "ladm-nano", "--length", "64"]
# Input, what follows it, and the files that a command writes beside options.yaml.
COMMANDS = {
    "select": (
        "run", SELECT,
        ["data/train-00000-of-00001.parquet", "dropped/dropped-00000-of-00001.parquet", "selection.json"],
    ),
    "compare": (
        "run", ["--signal", "ladm_score", "--signal", "ladm_repetition", "--by", "meta.set"],
        ["agreements.csv", "comparison.json", "figures/signal_matrix.png", "index.html"],
    ),
    "report": (
        "selection", ["--no-heat-maps"],
        [*(f"figures/{name}.png" for name in ("domain_mix", "score_against_length", "score_by_domain")), "index.html"],
    ),
    "pack": ("selection", PACK, ["data/train-00000-of-00001.parquet", "pack.json"]),
}  # fmt: skip


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with S3() as server:
        yield server


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, a selection from it, what was packed of that, and the results of the other commands, in folders."""
    folder = tmp_path_factory.mktemp("made")
    score_dataset(dataset(), folder / "run", LadmScorer(config=GEOMETRY), num_chunks=3, progress=False)
    for name, (source, options, _) in COMMANDS.items():
        ladm(name, str(folder / source), str(folder / RESULTS.get(name, name)), *options)
    return folder


RESULTS = {"select": "selection", "pack": "packed"}


@pytest.fixture(params=["s3", "bucket"])
def place(request: pytest.FixtureRequest, made: Path) -> Iterator[str]:
    """A URL that holds the same run, selection and packed data as `made`."""
    if request.param == "s3":
        request.getfixturevalue("s3")
        url = f"s3://{BUCKET}/{made.name}"
    else:
        request.getfixturevalue("fake_hub")
        from huggingface_hub import HfApi

        HfApi().create_bucket("tester/scored")
        url = "hf://buckets/tester/scored"
    storage = storage_at(url)
    for name in ("run", "selection", "packed"):
        for file in (made / name).rglob("*"):
            if file.is_file() and "report" not in file.parts:
                storage.upload(file, file.relative_to(made).as_posix())
    yield url
    storage.delete(storage.entries(""))


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(app, arguments)


def ladm(*arguments: str) -> str:
    done = invoke(*arguments)
    assert done.exit_code == 0, (done.output, done.exception)
    return done.output


def contents(place: str, name: str) -> dict[str, bytes]:
    """The files of a result, without what names their place."""
    storage = storage_at(place)
    start = len(name) + 1
    return {path[start:]: storage.read(path) or b"" for path in sorted(storage.entries(name))}


@pytest.mark.parametrize(
    ("command", "place"),
    [*((command, "s3") for command in COMMANDS), ("select", "bucket"), ("report", "bucket")],
    indirect=["place"],
)
def test_a_command_reads_and_writes_a_url_as_it_does_a_folder(command: str, place: str, made: Path) -> None:
    source, options, files = COMMANDS[command]
    printed = ladm(command, f"{place}/{source}", f"{place}/out", *options)
    assert f"{place}/out" in printed
    found, expected = contents(place, "out"), contents(str(made), RESULTS.get(command, command))
    assert list(found) == sorted([*files, "options.yaml"])
    for name in files:
        if name.endswith((".parquet", ".csv")):
            assert found[name] == expected[name], name
    for name in ("selection.json", "pack.json", "comparison.json"):
        if name in found:
            assert without_places(found[name], place, made) == without_places(expected[name], place, made)


def without_places(content: bytes, *places: Any) -> Any:
    for place in places:
        content = content.replace(str(place).encode(), b"PLACE")
    return json.loads(content.replace(b"PLACE/packed", b"PLACE/out"))


def test_what_was_written_to_a_url_is_used_from_there(place: str, made: Path) -> None:
    selection = Selection.load(f"{place}/selection")
    assert selection.selected["id"] == Selection.load(made / "selection").selected["id"]
    assert selection.folder == f"{place}/selection"
    assert selection.run is not None
    assert PackRecord.load(f"{place}/packed") == PackRecord.load(made / "packed")
    ladm("report", f"{place}/selection", "--no-heat-maps")
    assert storage_at(place).entry("selection/report/index.html") is not None
    assert (
        "the report beside it describes that one"
        in invoke("select", f"{place}/run", f"{place}/selection", *SELECT).output
    )
    assert "is a selection, not a scored pool" in invoke("select", f"{place}/selection", f"{place}/x", *SELECT).output
    assert "is packed already" in invoke("pack", f"{place}/packed", f"{place}/x", *PACK).output
    assert f"{place}/nothing holds no selection.json" in invoke("report", f"{place}/nothing").output


@pytest.mark.parametrize("source", ["run", "selection"])
def test_what_is_published_from_a_url_has_the_bytes_of_what_is_published_from_a_folder(
    fake_hub: FakeHub, s3: S3, made: Path, source: str
) -> None:
    from huggingface_hub import HfApi

    url = f"s3://{BUCKET}/publish"
    for file in (made / source).rglob("*"):
        if file.is_file():
            storage_at(url).upload(file, file.relative_to(made).as_posix())
    trees = []
    for place, repository in ((str(made), "tester/from-folder"), (url, "tester/from-url")):
        ladm("publish", f"{place}/{source}", repository, "--no-read-back")
        tree = HfApi().list_repo_tree(repository, repo_type="dataset", recursive=True)
        trees.append({file.path: file.blob_id for file in tree if file.path.endswith((".parquet", ".png"))})
    assert trees[0] == trees[1]
    assert len(trees[0]) >= 1


@pytest.mark.parametrize("place", ["bucket"], indirect=True)
def test_a_result_that_was_interrupted_is_not_read_and_is_written_by_the_same_command(
    place: str, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy, out = ObjectStore.copy, f"{place}/out"

    def fails(self: ObjectStore, name: str, target: str) -> None:
        if target.startswith("dropped"):
            raise KeyboardInterrupt
        copy(self, name, target)

    for overwrite in ([], ["--overwrite"]):
        monkeypatch.setattr(ObjectStore, "copy", fails)
        assert invoke("select", f"{place}/run", out, *SELECT, *overwrite).exit_code == 130
        monkeypatch.setattr(ObjectStore, "copy", copy)
        with pytest.raises(LadmError, match="is a result that is not finished: give its command again"):
            select(out, budget_tokens=600)
        ladm("select", f"{place}/run", out, *SELECT)
        found = contents(place, "out")
        assert not [name for name in found if name.startswith(".ladm")]
        assert (
            found["data/train-00000-of-00001.parquet"]
            == contents(str(made), "selection")["data/train-00000-of-00001.parquet"]
        )


def test_a_result_that_fails_leaves_nothing_behind(s3: S3, made: Path) -> None:
    url = f"s3://{BUCKET}/failed"
    storage_at(f"{url}/input").upload(next((made / "selection" / "dropped").iterdir()), "rows.parquet")
    done = invoke("pack", f"{url}/input", f"{url}/out", *PACK, "--text-column", "ladm_status")
    assert done.exit_code == 0, done.output
    done = invoke("pack", f"{url}/input", f"{url}/out2", *PACK, "--text-column", "nothing")
    assert done.exit_code == 1
    empty = select(dataset_of(made), budget_tokens=1, by=None)
    empty.save(f"{url}/empty")
    done = invoke("pack", f"{url}/empty", f"{url}/out3", *PACK)
    assert "holds no document to pack" in done.output
    assert not storage_at(url).entries("out2")
    assert not storage_at(url).entries("out3")


@pytest.mark.parametrize("command", ["select {0} out --budget 600", "score {0} out --estimate"])
def test_an_input_without_credentials_is_refused_in_one_line(
    s3: S3, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    fsspec.filesystem("s3").clear_instance_cache()
    done = invoke(*command.format(f"s3://{BUCKET}/nothing/").split())
    fsspec.filesystem("s3").clear_instance_cache()
    assert done.exit_code == 1
    assert len(done.output.splitlines()) == 1
    assert "Unable to locate credentials" in done.output
    assert "check the credentials" in done.output


def test_other_data_at_a_url_are_left_alone(s3: S3, made: Path) -> None:
    url = f"s3://{BUCKET}/other"
    storage_at(url).put("data/mine.parquet", b"mine")
    for command, (source, options, _) in COMMANDS.items():
        if command in RESULTS:
            done = invoke(command, str(made / source), url, *options)
            assert done.exit_code == 1
            assert f"{url}/data is there already and was not written by" in done.output
    assert storage_at(url).read("data/mine.parquet") == b"mine"


def test_what_replaced_a_selection_is_read_in_the_same_process(place: str, made: Path) -> None:
    rows = dataset_of(made)
    for budget in (300, 3000, 600):
        selection = select(rows, budget_tokens=budget, by=None)
        selection.save(f"{place}/again", overwrite=True)
        assert Selection.load(f"{place}/again").selected["id"][:] == selection.selected["id"][:]


def test_files_of_a_large_result_are_uploaded_one_by_one(
    s3: S3, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ladm_hf.data.shards.SHARD_BYTES", 4000)
    upload, waiting = ObjectStore.upload, []

    def counted(self: ObjectStore, file: Path, name: str) -> Any:
        waiting.append(len([each for each in file.parent.iterdir() if each.suffix == ".parquet"]))
        return upload(self, file, name)

    monkeypatch.setattr(ObjectStore, "upload", counted)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    selection = select(dataset_of(made), budget_tokens=3000, by=None)
    expected = selection.selected["id"][:]
    selection.save(f"s3://{BUCKET}/large")
    assert len(waiting) > 3
    assert set(waiting) == {1}
    assert not list(tmp_path.iterdir())
    assert Selection.load(f"s3://{BUCKET}/large").selected["id"][:] == expected


def dataset_of(made: Path) -> Any:
    from datasets import load_dataset

    return load_dataset("parquet", data_files=str(made / "run/data/*.parquet"), split="train", keep_in_memory=True)


@pytest.mark.parametrize(
    ("arguments", "first", "then"),
    [
        ("score IN {0}", "`ladm score` into hf://buckets/o/n/output", "ladm publish hf://buckets/o/n/output o/n"),
        ("prepare IN {0}", "`ladm prepare` into hf://buckets/o/n/output", "ladm publish hf://buckets/o/n/output o/n"),
        (
            "select IN {0} -b 1M",
            "`ladm select` into hf://buckets/o/n/output",
            "ladm publish hf://buckets/o/n/output o/n",
        ),
        ("pack IN {0} --tokenizer ladm-nano", "`ladm pack` into", "ladm publish hf://buckets/o/n/output o/n"),
        ("report SELECTION {0}", "`ladm report` into report", "hf upload o/n report report --repo-type dataset"),
        ("compare IN {0}", "`ladm compare` into compare", "hf upload o/n compare compare --repo-type dataset"),
        ("score --status {0}", "`ladm score` into", "ladm publish"),
    ],
)
def test_a_repository_as_output_is_refused_with_the_two_commands_that_do_it(
    arguments: str, first: str, then: str, made: Path
) -> None:
    places = {"IN": str(made / "run/data"), "SELECTION": str(made / "selection")}
    words = [places.get(word, word) for word in arguments.format("hf://datasets/o/n@main/sub").split()]
    done = invoke(*words)
    assert done.exit_code == 1, done.output
    assert len(done.output.splitlines()) == 1
    assert "is a repository, where every file written is a commit" in done.output
    assert first in done.output
    assert then in done.output


def test_a_repository_is_refused_for_a_journal() -> None:
    with pytest.raises(ConfigError, match="is a repository, .*: give a bucket, such as hf://buckets/o/n/output"):
        LadmScorer(journal="hf://datasets/o/n")({"text": ["a"]})


@pytest.mark.parametrize(
    "arguments",
    ["demo --output {0}", "train-calculator rows.parquet --output {0}", "calibrate mine rows.parquet --output {0}"],
)
def test_a_command_that_writes_to_this_machine_alone_says_what_to_do(
    arguments: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = invoke(*arguments.format("s3://bucket/place").split())
    assert done.exit_code == 2
    assert "writes to a folder of this machine" in " ".join(done.output.replace("│", " ").split())
    assert not list(tmp_path.iterdir())


def test_no_record_names_the_credentials_of_a_url(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_store, "storage_at", storage_at)
    memory = fsspec.filesystem("memory")
    selection = select(dataset_of(made), budget_tokens=600, by="meta.set")
    selection.save("memory://user:hush@pool/selection")
    record = storage_at("memory://user:hush@pool/selection").read("selection.json")
    assert record is not None
    ladm("pack", "memory://user:hush@pool/selection", str(tmp_path / "packed"), *PACK)
    for file in (tmp_path / "packed").glob("*.*"):
        assert "hush" not in file.read_text()
    memory.store.clear()
