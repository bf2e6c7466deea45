"""The limits of the Hub and of accounts: what is refused before anything is read, what is only said, what goes on."""

import itertools
import re

import pyarrow.parquet as pq
import pytest
from datasets import Dataset, load_dataset
from huggingface_hub import HfApi

from fake_hub.fixtures import fake_hub, hub_process  # noqa: F401
from ladm_hf.errors import PublishError
from ladm_hf.publishing import bundle, publication
from ladm_hf.publishing.account import Account
from ladm_hf.publishing.limits import FOLDER_FILES, GB, TB, check_files, check_limits
from ladm_hf.publishing.publish import publish
from ladm_hf.publishing.retry import RetryPolicy

REPO, KEY = "tester/large", "datasets/tester/large"
HURRIED = RetryPolicy(tries=5, first_wait=0.01, longest_wait=0.05, timeout=1.0)
# older clients cannot ask how much of the storage is used
TELLS_USED = hasattr(HfApi, "list_user_repos")
LAB = {"name": "lab", "numUsers": 3}


def lines(sizes, account, private=True, on_hub=None):
    return " | ".join(check_limits(sizes, account, private, lambda: on_hub or {}))


def sparse_parquet(file, size):
    """A parquet file of `size` bytes that can be read, most of it a hole."""
    Dataset.from_dict({"text": ["a", "b"], "ladm_score": [0.1, 0.2]}).to_parquet(file)
    content = file.read_bytes()
    footer = int.from_bytes(content[-8:-4], "little") + 8
    with file.open("r+b") as opened:
        opened.truncate(len(content) - footer)
        opened.seek(size - footer)
        opened.write(content[-footer:])
    assert file.stat().st_size == size
    assert pq.read_table(file).num_rows == 2
    return file


def parts(folder, count, rows=3):
    folder.mkdir()
    for i in range(count):
        numbers = list(range(rows * i, rows * (i + 1)))
        table = {"text": [f"document {n}" for n in numbers], "ladm_score": [float(n) for n in numbers]}
        Dataset.from_dict(table).to_parquet(folder / f"part-{i:03d}.parquet")
    return folder


@pytest.fixture
def no_hashing(monkeypatch):
    def refuse(*_):
        raise AssertionError("a file was hashed")

    monkeypatch.setattr(bundle, "content_hashes", refuse)


@pytest.mark.parametrize(
    ("account", "private", "size", "said"),
    [
        (
            Account("a", "free", True, None, 60 * GB),
            True,
            30 * GB,
            "100 GB, 60 GB of it used; the viewer does not show",
        ),
        (Account("a", "free", True, None, 60 * GB), True, 50 * GB, "warning: these 50 GB may go beyond .* may refuse"),
        (Account("a", "free", True), False, 50 * TB, "public storage: no number published"),
        (
            Account("a", "pro", True, None, 0),
            True,
            TB + 400,
            "the PRO plan; private storage: 1 TB.* shows .*warning: .*is billed",
        ),
        (Account("a", "pro", True), False, 11 * TB, "public storage: 10 TB .*warning: these 11 TB may go beyond"),
        (Account("a", "team", True, 40, TB), True, 38 * TB, "the Team plan; private storage: 40 TB, 1 TB of it used"),
        (Account("a", "enterprise", True), False, TB, "public storage: 200 TB and 1 TB a seat"),
        (Account("a", "enterprise", True), True, 9 * TB, "private storage: 1 TB a seat; the viewer shows"),
        (Account("a", "academia", True, 9), True, 9 * TB, "Academia Hub plan; private storage: no number published"),
        (Account("a", "free", False), True, 9 * TB, "a shows no paid plan; .*warning: .*may refuse"),
        (Account("a", "planet", True, reason="the Hub calls it 'planet'"), True, TB, "not known .the Hub calls it 'pl"),
    ],
)
def test_a_plan_says_what_it_includes(account, private, size, said):
    sizes = {f"data/train-{i:05d}-of-00400.parquet": size // 400 for i in range(400)}
    text = lines(sizes, account, private)
    assert "400 data files" in text
    assert "in 5 commits of up to 100 files" in text
    assert re.search(said, text), text
    assert text.count("warning") == said.count("warning")


def test_a_free_account_is_refused_only_what_is_new(no_hashing):
    sizes = {"data/train-00000-of-00002.parquet": 90 * GB, "data/train-00001-of-00002.parquet": 20 * GB}
    free = Account("a", "free", True)
    with pytest.raises(PublishError, match="110 GB would be added to the private storage of a.*has 100 GB.*--public"):
        lines(sizes, free)
    assert "may refuse" in lines(sizes, free, on_hub=dict(list(sizes.items())[:1]))
    with pytest.raises(PublishError, match="110 GB would be added"):
        lines(sizes, free, on_hub={path: size - 1 for path, size in sizes.items()})
    assert "warning" not in lines(sizes, free, private=False)


def test_files_that_no_account_can_publish_are_refused():
    check_files({"data/a": 500 * GB} | {f"data/{i}": 1 for i in range(FOLDER_FILES - 1)})
    with pytest.raises(PublishError, match="data/a would have 500.5 GB, and the Hub takes no file above 500 GB"):
        check_files({"data/a": 500 * GB + 500_000_000})
    with pytest.raises(PublishError, match="data would hold 10,001 files, and the Hub takes 10,000 in a folder"):
        check_files({f"data/{i}": 1 for i in range(FOLDER_FILES + 1)} | {"assets/a": 1})
    assert "data/a above 200 GB: the Hub advises" in lines({"data/a": 201 * GB}, Account("a", "pro", True))


@pytest.mark.parametrize("dry_run", [False, True])
def test_hundreds_of_gigabytes_are_refused_before_a_byte_is_hashed(fake_hub, tmp_path, no_hashing, dry_run):
    folder = tmp_path / "pool"
    folder.mkdir()
    sparse_parquet(folder / "rows.parquet", 600 * GB)
    for private in (True, False):
        with pytest.raises(PublishError, match=r"600 GB, and the Hub takes no file above 500 GB"):
            publish(folder, REPO, private=private, retry=HURRIED, dry_run=dry_run)
    assert fake_hub.log() == []
    sparse_parquet(folder / "rows.parquet", 120 * GB)
    with pytest.raises(PublishError, match="120 GB would be added to the private storage of tester, whose free plan"):
        publish(folder, REPO, retry=HURRIED, dry_run=dry_run)
    assert fake_hub.repo(KEY) is None


@pytest.mark.parametrize(
    ("account", "repo", "said"),
    [
        ({"isPro": True}, REPO, "tester has the PRO plan; private storage: 1 TB" + ", 0 bytes of it used" * TELLS_USED),
        ({"orgs": [LAB | {"plan": "team"}]}, "lab/large", "lab has the Team plan; private storage: 3 TB"),
        ({"orgs": [LAB | {"isEnterprise": True}]}, "lab/large", "lab has the Enterprise plan; private storage: 3 TB"),
        ({"orgs": [LAB]}, "lab/large", "lab shows no paid plan; private storage: 100 GB.*\n.*may refuse"),
        ({"orgs": [LAB | {"plan": "planet"}]}, "lab/large", "the plan of lab is not known .the Hub calls it 'planet'"),
        ({}, "lab/large", "the plan of lab is not known .tester, whose token this is, is not among its members"),
    ],
)
def test_a_dry_run_of_a_large_file_reads_none_of_it(fake_hub, tmp_path, no_hashing, capsys, account, repo, said):
    fake_hub.account(**account)
    publish(sparse_parquet(tmp_path / "rows.parquet", 120 * GB), repo, retry=HURRIED, dry_run=True, license="mit")
    out = capsys.readouterr().out
    assert re.search(said, out), out
    assert "add     120,000,000,000 bytes  data/train-00000-of-00001.parquet" in out


@pytest.mark.parametrize("kind", ["401", "403", "503", "drop", "429-ratelimit"])
def test_publishing_goes_on_where_the_account_cannot_be_read(fake_hub, capsys, kind):
    fake_hub.faults({"match": "whoami", "kind": kind, "times": -1})
    publish(Dataset.from_dict({"text": ["a"], "ladm_score": [0.1]}), REPO, retry=HURRIED, license="mit")
    assert "ladm: the plan of tester is not known (" in capsys.readouterr().err
    fake_hub.reset()
    fake_hub.faults({"match": "settings/repositories", "kind": kind, "times": -1})
    publish(Dataset.from_dict({"text": ["a"], "ladm_score": [0.1]}), REPO, retry=HURRIED, license="mit")
    assert "ladm: tester has the free plan; private storage: 100 GB; the viewer" in capsys.readouterr().err


def test_offline_the_limits_are_said_and_the_error_is_that_of_the_hub(fake_hub, monkeypatch, capsys):
    from huggingface_hub import constants
    from huggingface_hub.utils import close_session

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    close_session()
    with pytest.raises(PublishError, match="(?i)offline"):
        publish(Dataset.from_dict({"text": ["a"], "ladm_score": [0.1]}), REPO, retry=HURRIED, dry_run=True)
    out = capsys.readouterr().out
    assert "to publish: 1 data file" in out
    assert "the plan of tester is not known" in out


def test_the_hub_says_itself_when_the_storage_is_used_up(fake_hub, capsys):
    fake_hub.account(privateUsed=100 * GB)
    with pytest.raises(PublishError, match=r"takes no more data for tester/large \(403\).*storage limit reached"):
        publish(Dataset.from_dict({"text": ["a"], "ladm_score": [0.1]}), REPO, retry=HURRIED, license="mit")
    assert ("may go beyond this storage: the Hub may refuse" in capsys.readouterr().err) == TELLS_USED


def test_many_files_are_several_commits_with_the_card_in_the_last(fake_hub, tmp_path, monkeypatch):
    monkeypatch.setattr(publication, "COMMIT_FILES", 4)
    folder = parts(tmp_path / "pool", 11)
    commit = publish(folder, REPO, retry=HURRIED, license="mit", tag="v1")
    repo = fake_hub.repo(KEY)
    seen = [set(each["files"]) for each in repo["commits"]]
    assert [len(after - before) for before, after in itertools.pairwise(seen)] == [4, 4, 3, 2]
    assert {"README.md", "ladm_manifest.json"} == seen[-1] - seen[-2]
    assert repo["tags"] == {"v1": commit.oid} == {"v1": repo["branches"]["main"]}
    assert load_dataset(REPO, split="train")["ladm_score"] == [float(n) for n in range(33)]
    assert publish(folder, REPO, retry=HURRIED, license="mit", tag="v1").oid == commit.oid
    # of fewer files than before, old ones go before the card, nothing that is kept is sent again
    (folder / "part-010.parquet").unlink()
    publish(folder, REPO, retry=HURRIED, license="mit")
    assert load_dataset(REPO, split="train").num_rows == 30
    assert sum(path.startswith("data/") for path in fake_hub.repo(KEY)["commits"][-1]["files"]) == 10


@pytest.mark.parametrize("kind", ["lost", "lost-504", "late-504", "503", "412"])
def test_an_interrupted_series_of_commits_is_finished_by_the_same_call(fake_hub, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(publication, "COMMIT_FILES", 3)
    folder = parts(tmp_path / "pool", 8)
    fake_hub.faults({"match": "POST .*/commit/", "kind": kind, "times": 2})
    commit = publish(folder, REPO, retry=HURRIED, license="mit")
    assert sum("(part)" not in each["title"] for each in fake_hub.repo(KEY)["commits"][1:]) == 1
    assert fake_hub.repo(KEY)["commits"][-1]["oid"] == commit.oid
    fake_hub.reset()
    # refused from the second upload on
    fake_hub.faults(
        {"match": "POST .*/commit/", "kind": "lost"}, {"match": "POST .*/commit/", "kind": "403", "times": 1}
    )
    with pytest.raises(PublishError, match="403"):
        publish(folder, REPO, retry=HURRIED, license="mit")
    fake_hub.faults()
    publish(folder, REPO, retry=HURRIED, license="mit")
    assert load_dataset(REPO, split="train").num_rows == 24
    assert sum("(part)" not in each["title"] for each in fake_hub.repo(KEY)["commits"][1:]) == 1


def test_a_pull_request_takes_the_parts_too(fake_hub, tmp_path, monkeypatch):
    monkeypatch.setattr(publication, "COMMIT_FILES", 3)
    commit = publish(parts(tmp_path / "pool", 8), REPO, retry=HURRIED, license="mit", create_pr=True)
    repo = fake_hub.repo(KEY)
    assert repo["prs"]["1"]["head"] == commit.oid
    main = next(each for each in repo["commits"] if each["oid"] == repo["branches"]["main"])
    assert list(main["files"]) == [".gitattributes"]


def test_more_files_than_a_folder_takes_are_copied_into_larger_ones(fake_hub, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(bundle, "FOLDER_FILES", 5)
    publish(parts(tmp_path / "pool", 8), REPO, retry=HURRIED, license="mit")
    assert "holds 8 files, and the Hub takes 5 in a folder: their rows are copied into larger files" in caplog.text
    files = fake_hub.repo(KEY)["commits"][-1]["files"]
    assert [path for path in files if path.startswith("data/")] == ["data/train-00000-of-00001.parquet"]
    assert load_dataset(REPO, split="train")["ladm_score"] == [float(n) for n in range(24)]
