"""The Hub for tests does what the clients expect of the real one."""

import numpy as np
import pytest
from datasets import Dataset, DatasetDict, get_dataset_config_names, load_dataset
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, HfFileSystem
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

from fake_hub.fixtures import fake_hub, hub_process  # noqa: F401
from fake_hub.xet import xorb_chunks

REPO = "tester/some-data"
ROWS = Dataset.from_dict({"text": [f"row {i}" for i in range(300)], "x": np.random.default_rng(0).random(300)})


@pytest.fixture(params=["lfs", "xet"])
def hub(request, fake_hub, monkeypatch):
    if request.param == "xet":
        pytest.importorskip("hf_xet")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", False)
    return fake_hub


def test_push_and_load(hub):
    ROWS.push_to_hub(REPO, private=True)
    DatasetDict({"train": ROWS.select(range(5)), "test": ROWS.select(range(3))}).push_to_hub(REPO, "small")
    assert load_dataset(REPO, split="train")[:] == ROWS[:]
    assert get_dataset_config_names(REPO) == ["default", "small"]
    assert load_dataset(REPO, "small")["test"].num_rows == 3
    assert next(iter(load_dataset(REPO, split="train", streaming=True)))["text"] == "row 0"
    commits = len(hub.repo(f"datasets/{REPO}")["commits"])
    ROWS.push_to_hub(REPO)
    assert len(hub.repo(f"datasets/{REPO}")["commits"]) == commits


def test_upload_folder_branches_tags_and_pull_requests(hub, tmp_path):
    (tmp_path / "data.bin").write_bytes(bytes(range(256)) * 1000)
    (tmp_path / "notes.txt").write_text("notes")
    api = HfApi()
    api.create_repo(REPO, repo_type="dataset")
    api.upload_folder(repo_id=REPO, folder_path=tmp_path, repo_type="dataset")
    request = api.upload_folder(
        repo_id=REPO, folder_path=tmp_path, path_in_repo="sub", repo_type="dataset", create_pr=True
    )
    assert request.pr_num == 1
    api.create_branch(REPO, branch="dev", repo_type="dataset")
    api.create_tag(REPO, tag="v1", repo_type="dataset")
    refs = api.list_repo_refs(REPO, repo_type="dataset", include_pull_requests=True)
    assert [each.name for each in refs.branches] == ["main", "dev"]
    assert [each.name for each in refs.tags] == ["v1"]
    assert len(refs.pull_requests) == 1
    fs = HfFileSystem()
    assert fs.read_bytes(f"datasets/{REPO}/data.bin", start=250, end=260) == bytes(
        [250, 251, 252, 253, 254, 255, 0, 1, 2, 3]
    )
    assert [each.path for each in api.get_paths_info(REPO, ["notes.txt", "gone"], repo_type="dataset")] == ["notes.txt"]
    listed = api.list_repo_tree(REPO, repo_type="dataset", revision="refs/pr/1", expand=True)
    assert [each.path for each in listed] == [".gitattributes", "data.bin", "notes.txt", "sub"]


def test_what_the_hub_refuses(fake_hub):
    api = HfApi()
    with pytest.raises(RepositoryNotFoundError):
        api.dataset_info("tester/gone")
    api.create_repo(REPO, repo_type="dataset", private=True)
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_repo(REPO, repo_type="dataset")
    with pytest.raises(RepositoryNotFoundError):
        HfApi(token="hf_wrong").dataset_info(REPO)
    with pytest.raises(RevisionNotFoundError):
        api.dataset_info(REPO, revision="gone")
    with pytest.raises(EntryNotFoundError):
        list(api.list_repo_tree(REPO, "gone", repo_type="dataset"))
    head = api.dataset_info(REPO).sha
    add = [CommitOperationAdd("a.txt", b"a")]
    api.create_commit(REPO, add, repo_type="dataset", commit_message="a", parent_commit=head)
    with pytest.raises(HfHubHTTPError, match="412"):
        api.create_commit(
            REPO, [CommitOperationAdd("b.txt", b"b")], repo_type="dataset", commit_message="b", parent_commit=head
        )
    with pytest.raises(ValueError, match="Invalid metadata"):
        api.create_commit(
            REPO, [CommitOperationAdd("README.md", b"---\na: [\n---\n")], repo_type="dataset", commit_message="c"
        )
    api.create_commit(REPO, [CommitOperationDelete("a.txt")], repo_type="dataset", commit_message="d")
    assert api.list_repo_files(REPO, repo_type="dataset") == [".gitattributes"]
    api.update_repo_settings(REPO, repo_type="dataset", private=False)
    assert HfApi(token=False).dataset_info(REPO).private is False
    assert api.whoami()["name"] == "tester"
    api.delete_repo(REPO, repo_type="dataset")
    assert fake_hub.repo(f"datasets/{REPO}") is None


def test_chunks_of_all_three_compressions():
    import pyarrow

    def chunk(payload, scheme, size):
        return b"\0" + len(payload).to_bytes(3, "little") + bytes([scheme]) + size.to_bytes(3, "little") + payload

    data = bytes(range(250)) * 4 + b"odd"
    grouped = b"".join(data[offset::4] for offset in range(4))
    lz4 = pyarrow.Codec("lz4")
    xorb = (
        chunk(data, 0, len(data))
        + chunk(lz4.compress(data, asbytes=True), 1, len(data))
        + chunk(lz4.compress(grouped, asbytes=True), 2, len(data))
        + b"XETBLOB footer"
    )
    assert xorb_chunks(xorb) == [data] * 3
