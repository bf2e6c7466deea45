"""publish(): what lands on the Hub, what is kept there, what is refused, and what the token never gets into."""

import importlib
import logging
import random
import re
import time
import traceback
from dataclasses import replace

import pytest
from conftest import run_record
from datasets import Dataset, DatasetDict, load_dataset
from huggingface_hub import DatasetCard, HfApi, get_session
from typer.testing import CliRunner

from fake_hub.fixtures import fake_hub, hub_process  # noqa: F401
from ladm_hf.cli.app import app
from ladm_hf.errors import ConfigError, HubUnavailableError, InputError, PublishError
from ladm_hf.publishing.publish import publish
from ladm_hf.publishing.retry import RetryPolicy, asked_wait, hub_retries
from ladm_hf.selection.selection import select

REPO, KEY = "tester/data", "datasets/tester/data"
HURRIED = RetryPolicy(tries=5, first_wait=0.01, longest_wait=0.05, timeout=2.0)


def scored_rows(count=40, seed=0):
    dice = random.Random(seed)
    return Dataset.from_dict(
        {
            "text": [f"document {i} " + "long text " * 50 for i in range(count)],
            "domain": [("web", "code | `x`", "livres 📚")[i % 3] for i in range(count)],
            "ladm_score": [float("nan") if i % 10 == 9 else dice.random() for i in range(count)],
            "ladm_num_tokens": [1000 + i for i in range(count)],
            "ladm_status": ["too_short" if i % 10 == 9 else "ok" for i in range(count)],
        }
    )


def publish_here(source, **options):
    return publish(source, REPO, **{"retry": HURRIED, **options})


def files_of(hub, key=KEY):
    return hub.repo(key)["commits"][-1]["files"]


def readme(revision="main"):
    url = f"{HfApi().endpoint}/datasets/{REPO}/resolve/{revision}/README.md"
    return get_session().get(url, headers={"authorization": f"Bearer {HfApi().token or _token()}"}).text


def _token():
    from huggingface_hub import get_token

    return get_token()


def same_rows(one, other):
    return [repr(row) for row in one] == [repr(row) for row in other]


def test_a_selection_is_one_private_commit_with_data_card_figures_and_manifest(fake_hub):
    pytest.importorskip("matplotlib")
    selection = select(scored_rows(), budget_tokens=15_000)
    commit = publish_here(selection, license="cc-by-4.0", language="en")
    repo = fake_hub.repo(KEY)
    assert repo["private"] is True
    assert [each["title"] for each in repo["commits"]] == [
        "initial commit", f"Publish {selection.selected.num_rows} rows with LADM",
    ]  # fmt: skip
    assert commit.oid == repo["branches"]["main"]
    files = files_of(fake_hub)
    assert {"README.md", "ladm_manifest.json", "data/train-00000-of-00001.parquet"} < set(files)
    assert {"assets/ladm_domain_mix.png", "assets/ladm_score_by_domain.png"} < set(files)
    assert same_rows(load_dataset(REPO, split="train"), selection.selected)
    card = DatasetCard(readme())
    assert card.data.license == "cc-by-4.0"
    assert card.data["ladm"]["selection"]["budget_tokens"] == 15_000
    for path in re.findall(r"!\[.+?\]\((.+?)\)", card.text):
        assert path in files


def test_publishing_again_changes_nothing_and_sends_no_content(fake_hub):
    first = publish_here(scored_rows())
    fake_hub.faults()
    assert publish_here(scored_rows()).oid == first.oid
    assert not [each for each in fake_hub.log() if each["method"] in ("PUT", "POST")]
    assert len(fake_hub.repo(KEY)["commits"]) == 2


def test_another_selection_replaces_shards_and_keeps_what_people_wrote(fake_hub):
    publish_here(scored_rows(), shard_bytes=4_000)
    assert sum(path.startswith("data/") for path in files_of(fake_hub)) > 1
    text = readme()
    mine = text.replace("# data", "# Our own title\n\nHuman words, `{{ kept }}`.").replace(
        "pretty_name: data", "pretty_name: Ours\nviewer: true\nlanguage:\n- fr"
    )
    api = HfApi()
    for path, content in {"README.md": mine, "notes/plan.txt": "ours too"}.items():
        api.upload_file(path_or_fileobj=content.encode(), path_in_repo=path, repo_id=REPO, repo_type="dataset")
    publish_here(scored_rows(seed=1))
    assert [path for path in files_of(fake_hub) if path.startswith("data/")] == ["data/train-00000-of-00001.parquet"]
    assert "notes/plan.txt" in files_of(fake_hub)
    now = readme()
    assert "# Our own title\n\nHuman words, `{{ kept }}`." in now
    assert now.count("<!-- ladm:begin") == 1
    card = DatasetCard(now)
    assert (card.data.pretty_name, card.data.language, card.data["viewer"]) == ("Ours", ["fr"], True)
    assert load_dataset(REPO, split="train").num_rows == 40


def test_configurations_and_splits_live_side_by_side(fake_hub):
    publish_here(scored_rows())
    publish_here(DatasetDict({"train": scored_rows(10), "test": scored_rows(5)}), config_name="small")
    publish_here(Dataset.from_dict(scored_rows(7).to_dict(), split="test"), config_name="small")
    assert load_dataset(REPO, split="train").num_rows == 40
    small = load_dataset(REPO, "small")
    assert (small["train"].num_rows, small["test"].num_rows) == (10, 7)
    assert DatasetCard(readme()).data["size_categories"] == ["n<1K"]


def test_folders_of_parquet_of_select_and_of_save_to_disk(fake_hub, tmp_path):
    rows = scored_rows()
    (tmp_path / "plain").mkdir()
    rows.to_parquet(tmp_path / "plain" / "part.parquet")
    rows.save_to_disk(tmp_path / "disk")
    selection = select(rows, budget_tokens=15_000)
    selection.save(tmp_path / "selected")
    for folder, expected in (("plain", rows), ("disk", rows), ("selected", selection.selected)):
        fake_hub.reset()
        publish_here(tmp_path / folder)
        assert same_rows(load_dataset(REPO, split="train"), expected)
    assert "assets/ladm_domain_mix.png" in files_of(fake_hub)


def test_language_and_licence_come_from_the_source(fake_hub):
    rows = scored_rows()
    publish(rows, "tester/source", license="odc-by", language=["en", "de"], retry=HURRIED)
    loaded = load_dataset("tester/source", split="train")
    publish_here(loaded, source_dataset="tester/source")
    data = DatasetCard(readme()).data
    assert (data.license, data.language, data.source_datasets) == ("odc-by", ["en", "de"], ["tester/source"])


def test_folders_that_have_the_names_of_repositories_play_no_part(fake_hub, tmp_path, monkeypatch):
    publish(scored_rows(), "tester/source", license="odc-by", retry=HURRIED)
    for name in ("tester/source", REPO):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "README.md").write_text("---\nlicense: mit\n---\n")
    monkeypatch.chdir(tmp_path)
    publish_here(scored_rows(), source_dataset="tester/source")
    assert DatasetCard(readme()).data.license == "odc-by"


def test_only_a_source_opened_from_the_hub_is_named(fake_hub, tmp_path):
    publish(scored_rows(), "tester/source", license="odc-by", retry=HURRIED)
    (tmp_path / "data").mkdir()
    scored_rows().to_parquet(tmp_path / "data" / "train-00000-of-00001.parquet")
    run = run_record(identity={"data": "1f2e"}, input="tester/source")
    for hub, expected in (
        (None, (None, None, {"name": "source", "split": "train", "fingerprint": "1f2e"})),
        (
            {"id": "tester/source", "revision": "c0ffee"},
            (
                "odc-by", ["tester/source"],
                {"id": "tester/source", "revision": "c0ffee", "split": "train", "fingerprint": "1f2e"},
            ),
        ),
    ):  # fmt: skip
        replace(run, hub=hub).save(tmp_path)
        publish_here(tmp_path)
        data = DatasetCard(readme()).data
        assert (data.license, data.source_datasets, data["ladm"]["dataset"]) == expected


def test_a_source_that_cannot_be_read_is_said_and_not_forgotten(fake_hub, caplog):
    publish_here(scored_rows(), source_dataset="tester/gone")
    assert "language and licence are not carried over" in caplog.text
    assert "names no licence that could be carried over" in readme()


def test_pull_request_branch_and_tag(fake_hub):
    publish_here(scored_rows(5), tag="v1")
    request = publish_here(scored_rows(6), create_pr=True)
    assert request.pr_url.endswith("/discussions/1")
    assert publish_here(scored_rows(6), create_pr=True).pr_url == request.pr_url
    branch = publish_here(scored_rows(7), revision="dev", tag="v2")
    repo = fake_hub.repo(KEY)
    assert repo["branches"]["dev"] == repo["tags"]["v2"] == branch.oid
    assert len(repo["prs"]) == 1
    assert load_dataset(REPO, revision="v1", split="train").num_rows == 5
    assert load_dataset(REPO, revision="refs/pr/1", split="train").num_rows == 6
    assert load_dataset(REPO, revision="v2", split="train").num_rows == 7
    assert load_dataset(REPO, split="train").num_rows == 5
    fake_hub.faults()
    with pytest.raises(PublishError, match="tag 'v1' .* other content"):
        publish_here(scored_rows(8), tag="v1")
    assert not [each for each in fake_hub.log() if each["method"] == "PUT"]


@pytest.mark.parametrize("kind", ["lost", "lost-504", "503", "drop"])
def test_a_pull_request_is_opened_once(fake_hub, kind):
    publish_here(scored_rows(5))
    fake_hub.faults({"match": "POST .*/discussions$", "kind": kind}, {"match": "POST .*/commit/", "kind": kind})
    publish_here(scored_rows(6), create_pr=True)
    repo = fake_hub.repo(KEY)
    assert len(repo["prs"]) == 1
    assert len(repo["commits"]) == 3


def test_another_visibility_is_refused_before_anything_is_sent(fake_hub):
    publish_here(scored_rows(5), private=False)
    assert fake_hub.repo(KEY)["private"] is False
    fake_hub.faults()
    with pytest.raises(PublishError, match="public already.*--public"):
        publish_here(scored_rows(6))
    assert not [each for each in fake_hub.log() if each["method"] in ("PUT", "POST")]


def test_somebody_elses_commit_in_between_is_kept(fake_hub):
    publish_here(scored_rows(5))
    api = HfApi()
    original = HfApi.create_commit

    def commit_after_a_stranger(self, *arguments, **options):
        if not api.file_exists(REPO, "stranger.txt", repo_type="dataset"):
            original(
                api, REPO, [_add("stranger.txt", b"hello")], repo_type="dataset", commit_message="a stranger's commit"
            )
        return original(self, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HfApi, "create_commit", commit_after_a_stranger)
        publish_here(scored_rows(6))
    assert [each["title"] for each in fake_hub.repo(KEY)["commits"]][2:] == [
        "a stranger's commit", "Publish 6 rows with LADM",
    ]  # fmt: skip
    assert "stranger.txt" in files_of(fake_hub)


def _add(path, content):
    from huggingface_hub import CommitOperationAdd

    return CommitOperationAdd(path, content)


def test_an_interrupted_upload_goes_on_where_it_was(fake_hub):
    rows = scored_rows(40)
    fake_hub.faults({"match": "POST .*/commit/", "kind": "503", "times": -1})
    with pytest.raises(HubUnavailableError, match=r"may or may not.*To finish: call publish\(\) again"):
        publish_here(rows, shard_bytes=4_000)
    sent = [each["path"] for each in fake_hub.log() if each["method"] == "PUT"]
    assert len(sent) == len(set(sent)) > 1
    fake_hub.faults()
    publish_here(rows, shard_bytes=4_000)
    assert not [each for each in fake_hub.log() if each["method"] == "PUT"]


def test_an_interrupted_xet_upload_sends_no_block_twice(fake_hub, monkeypatch):
    pytest.importorskip("hf_xet")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", False)
    rows = scored_rows(40, seed=77)
    fake_hub.faults({"match": "POST .*/commit/main", "kind": "503", "times": -1})
    with pytest.raises(HubUnavailableError):
        publish_here(rows)
    assert [each for each in fake_hub.log() if "_cas/upload" in each["path"] or "/xorbs/" in each["path"]]
    fake_hub.faults()
    publish_here(rows)
    assert not [each for each in fake_hub.log() if "_cas/upload" in each["path"] or "/xorbs/" in each["path"]]


def test_a_xet_upload_that_stays_silent_is_ended_and_repeated(fake_hub, monkeypatch):
    pytest.importorskip("hf_xet")
    if not hasattr(importlib.import_module("huggingface_hub.utils._xet"), "abort_xet_session"):
        pytest.skip("this huggingface_hub cannot end a Xet upload")
    from fake_hub import FakeHub

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", False)
    with FakeHub(stall=30) as other:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", other.url)
        other.faults({"match": "shards", "kind": "stall"})
        start = time.monotonic()
        publish_here(scored_rows(40, seed=78), read_back=False, retry=replace(HURRIED, timeout=0.4))
        # sooner than the server ends it
        assert time.monotonic() - start < 30
        assert len(other.repo(KEY)["commits"]) == 2


def test_a_reverted_publication_is_made_again(fake_hub):
    first = publish_here(scored_rows(5))
    api = HfApi()
    api.delete_file("data/train-00000-of-00001.parquet", REPO, repo_type="dataset")
    fake_hub.faults({"match": "POST .*/commit/", "kind": "503"})
    assert publish_here(scored_rows(5)).oid not in (first.oid, None)
    assert "data/train-00000-of-00001.parquet" in files_of(fake_hub)


def test_large_files_go_in_parts(monkeypatch, fake_hub):
    from fake_hub import FakeHub

    with FakeHub(part_size=3000) as other:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", other.url)
        other.faults({"match": r"PUT /_lfs/\w+/2", "kind": "503"})
        publish_here(scored_rows(200), read_back=False)
        assert len([each for each in other.log() if re.search(r"_lfs/\w+/\d+$", each["path"])]) >= 3
        assert other.repo(KEY)["commits"][-1]["files"]["data/train-00000-of-00001.parquet"]


@pytest.mark.parametrize("kind", ["429-ratelimit", "429-retry-after"])
@pytest.mark.parametrize("match", ["POST /api/repos/create", "PUT /_lfs", "POST .*/commit/"])
def test_the_hub_is_given_the_time_it_asks_for(fake_hub, kind, match):
    publish_here(scored_rows(3), read_back=False)
    fake_hub.reset()
    fake_hub.faults({"match": match, "kind": kind})
    start = time.monotonic()
    publish_here(scored_rows(3), read_back=False)
    assert 1.0 <= time.monotonic() - start < 60


def test_asked_wait():
    assert asked_wait({"RateLimit": '"api";r=0;t=30'}) == 30
    assert asked_wait({"ratelimit": '"api";r=12;t=30', "Retry-After": "7"}) == 7
    assert asked_wait({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0
    assert asked_wait({"Retry-After": "soon"}) is None
    assert asked_wait({}) is None
    with pytest.raises(HubUnavailableError, match="come back in 5000 s"):
        RetryPolicy().pause(0, "x", "busy", {"Retry-After": "5000"})


def test_the_retry_policy_ends_with_its_block(fake_hub):
    client = get_session()
    before = dict(vars(client))
    with hub_retries(HURRIED), hub_retries(HURRIED):
        pass
    assert dict(vars(client)) == before


@pytest.mark.parametrize("kind", ["data", "visibility"])
def test_reading_back_finds_what_is_wrong(fake_hub, kind, monkeypatch):
    original = HfApi.create_commit

    def spoil(self, *arguments, **options):
        commit = original(self, *arguments, **options)
        if kind == "visibility":
            self.update_repo_settings(REPO, repo_type="dataset", private=False)
        return commit

    monkeypatch.setattr(HfApi, "create_commit", spoil)
    if kind == "data":
        monkeypatch.setattr(
            "ladm_hf.publishing.bundle._same_content", lambda entry, hashes: entry.path != "ladm_manifest.json"
        )
    with pytest.raises(PublishError, match="reading back .*(another file|it is public).*The data is on the Hub"):
        publish_here(scored_rows(3))


def test_rows_that_differ_are_found(fake_hub, monkeypatch):
    import pyarrow.parquet as pq

    other = scored_rows(40, seed=5).data.table
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", lambda self, size: iter(other.to_batches()))
    with pytest.raises(PublishError, match="row 0 of split train differs"):
        publish_here(scored_rows())


def test_much_data_is_read_back_in_part(fake_hub, monkeypatch):
    asked = []

    def load(*arguments, streaming, **options):
        asked.append(streaming)
        return load_dataset(*arguments, streaming=streaming, **options)

    monkeypatch.setattr("datasets.load_dataset", load)
    publish_here(scored_rows(200))
    monkeypatch.setattr("ladm_hf.publishing.verify.READ_BACK_WHOLE", 10)
    publish_here(scored_rows(210))
    # whole, then the first rows of a stream
    assert asked == [False, True]
    monkeypatch.setattr("ladm_hf.publishing.verify._differences", lambda *arguments: iter(["row 3 differs"]))
    with pytest.raises(PublishError, match="row 3 differs"):
        publish_here(scored_rows(220))


def test_the_token_is_nowhere(fake_hub, tmp_path, caplog, capfd, monkeypatch):
    caplog.set_level(logging.DEBUG)
    folder = tmp_path / "out"
    (folder / "data").mkdir(parents=True)
    scored_rows().to_parquet(folder / "data" / "train-00000-of-00001.parquet")
    run_record(command=f"HF_TOKEN={fake_hub.token} ladm score").save(folder)
    fake_hub.faults({"match": "POST .*/commit/", "kind": "503"}, {"match": "PUT ", "kind": "drop"})
    publish_here(folder)
    url = f"{fake_hub.url}/datasets/{REPO}/resolve/main/"
    headers = {"authorization": f"Bearer {fake_hub.token}"}
    for path in ("README.md", "ladm_manifest.json"):
        text = get_session().get(url + path, headers=headers).text
        assert "ladm score" in text
        assert fake_hub.token not in text

    class EchoError(Exception):
        pass

    def refuse(*_, **__):
        raise EchoError(f"401 for Bearer {fake_hub.token}")

    monkeypatch.setattr(HfApi, "repo_info", refuse)
    with pytest.raises(PublishError) as caught:
        publish_here(folder)
    shown = "".join(traceback.format_exception(caught.value))
    captured = capfd.readouterr()
    for text in (shown, caplog.text, captured.out, captured.err):
        assert fake_hub.token not in text
    assert "Bearer hf_***" in shown


@pytest.mark.parametrize("variable", ["RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "MV2_COMM_WORLD_RANK"])
def test_only_the_first_rank_talks(fake_hub, monkeypatch, variable):
    monkeypatch.setenv(variable, "1")
    assert publish_here(scored_rows()) is None
    assert fake_hub.log() == []


def test_what_cannot_be_published_is_refused(tmp_path):
    for source, error, words in (
        (scored_rows().select([]), InputError, "no split has a row"),
        (scored_rows().to_iterable_dataset(), InputError, "without streaming"),
        (tmp_path, InputError, "no parquet or JSON-lines file"),
        (tmp_path / "nothing", InputError, "no file, folder or glob"),
        (DatasetDict({"a-b": scored_rows()}), ConfigError, "split 'a-b'"),
    ):
        with pytest.raises(error, match=words):
            publish(source, REPO)
    for name in ("just-a-name", "user/a--b", "user/name.", "../name", "user/name.git", "a/b/c"):
        with pytest.raises(ConfigError, match="repo_id must be 'user/name'"):
            publish(scored_rows(), name)
    with pytest.raises(ConfigError, match="leave revision out"):
        publish(scored_rows(), REPO, revision="dev", create_pr=True)
    with pytest.raises(ConfigError, match="config_name"):
        publish(scored_rows(), REPO, config_name="data")
    (tmp_path / "a.parquet").parent.mkdir(exist_ok=True)
    scored_rows().to_parquet(tmp_path / "a.parquet")
    scored_rows().remove_columns("domain").to_parquet(tmp_path / "b.parquet")
    with pytest.raises(InputError, match="other columns"):
        publish(tmp_path, REPO)


def test_command_line(fake_hub, tmp_path, monkeypatch):
    select(scored_rows(), budget_tokens=15_000).save(tmp_path / "sel")
    runner = CliRunner()
    dry = runner.invoke(app, ["publish", str(tmp_path / "sel"), REPO, "--dry-run", "--license", "mit", "--no-figures"])
    assert dry.exit_code == 0, dry.output
    assert "new repository; to be private" in dry.output
    assert "data/train-00000-of-00001.parquet" in dry.output
    assert "+license: mit" in dry.output
    assert fake_hub.repo(KEY) is None
    done = runner.invoke(app, ["publish", str(tmp_path / "sel"), REPO, "--license", "mit", "--tag", "v1"])
    assert done.exit_code == 0, done.output
    assert fake_hub.repo(KEY)["tags"]["v1"] in done.output
    again = runner.invoke(app, ["publish", str(tmp_path / "sel"), REPO, "--dry-run", "--license", "mit"])
    assert "same" in again.output
    assert "@@" not in again.output
    refused = runner.invoke(app, ["publish", str(tmp_path / "sel"), REPO, "--public"])
    assert refused.exit_code == 1
    assert "private already, but was to be public" in refused.output
    assert "To finish" not in refused.output
    monkeypatch.setattr("ladm_hf.publishing.publish.RetryPolicy", lambda: HURRIED)
    fake_hub.faults({"match": "PUT |POST .*/commit/", "kind": "503", "times": -1})
    failed = runner.invoke(app, ["publish", str(tmp_path / "sel"), REPO, "--license", "gpl-3.0"])
    assert f"To finish: ladm publish {tmp_path / 'sel'} {REPO} --license gpl-3.0" in failed.output.replace("\n", " ")
    fake_hub.faults({"match": "GET ", "kind": "503", "times": -1})
    failed = runner.invoke(app, ["publish", str(tmp_path / "sel"), REPO, "--dry-run"])
    assert f"To finish: ladm publish {tmp_path / 'sel'} {REPO} --figures --dry-run" in failed.output.replace("\n", " ")


@pytest.mark.parametrize("status", ["401", "403"])
@pytest.mark.parametrize("request_", ["repos/create", "preupload", "/commit/"])
def test_a_refusal_says_how_to_log_in_and_claims_no_upload(fake_hub, status, request_):
    fake_hub.faults({"match": request_, "kind": status, "times": -1})
    with pytest.raises(PublishError, match=rf"\({status}\) for {REPO}|{REPO} \({status}\)") as caught:
        publish_here(scored_rows(seed=int(status) + len(request_)))
    message = str(caught.value)
    assert "`hf auth login` or set HF_TOKEN" in message
    assert ("Nothing was uploaded or committed." in message) == (request_ != "/commit/")
    assert ("what was uploaded is kept" in message) == (request_ == "/commit/")
    assert "To finish: call publish() again" in message
