"""Publishing under every fault at every request: in the end one commit with the right content, or a clear error."""

import functools
import itertools
import random
import re
from collections import Counter

import pytest
from datasets import Dataset, Features, Value
from huggingface_hub.utils import _xet

from fake_hub import FAULTS
from fake_hub.fixtures import fake_hub, hub_process  # noqa: F401
from ladm_hf.errors import PublishError
from ladm_hf.publishing.publish import publish
from ladm_hf.publishing.retry import RetryPolicy

HURRIED = RetryPolicy(tries=6, first_wait=0.01, longest_wait=0.05, timeout=0.5)
REPO = "tester/faulty"
KEY = f"datasets/{REPO}"
# These ask for a whole second, so they are tried at every third request only; `test_hub` measures the waiting.
ASKING = {"429-ratelimit", "429-retry-after"}
# The requests of a Xet upload. Versions of hf_xet before upload grants post to xorbs instead; versions of
# huggingface_hub before Xet sessions ask for the kind of transfer first, and keep the token.
XET_STEPS = (
    "objects/batch", "xet-write-token", "v1/xorb-grants", "_cas/upload", "v1/xorb-commits", "/xorbs/", "/shards",
)  # fmt: skip


def rows(seed=0):
    numbers = random.Random(seed)
    return Dataset.from_dict(
        {"text": [f"document {i} " + "x" * 2000 for i in range(8)], "ladm_score": [numbers.random() for _ in range(8)]},
        features=Features({"text": Value("string"), "ladm_score": Value("float64")}),
    )


def publish_here(seed=0, **options):
    return publish(rows(seed), REPO, retry=HURRIED, **{"read_back": False, **options})


def assert_published_once(hub, commit, expected_files=None):
    repo = hub.repo(KEY)
    ours = [each for each in repo["commits"] if "ladm-publication" in each["message"]]
    assert len(ours) == 1, [each["title"] for each in repo["commits"]]
    assert expected_files is None or ours[0]["files"] == expected_files
    assert commit is None or commit.oid == ours[0]["oid"]
    assert repo["private"] is True


@functools.cache
def warm_up():
    """The first publish of a process asks for things that later ones remember; those shall be alike."""
    publish_here()


def clean_run(hub, **options):
    """The requests of an undisturbed publish, and the files it leaves."""
    warm_up()
    hub.reset()
    publish_here(**options)
    return hub.log(), hub.repo(KEY)["commits"][-1]["files"]


@pytest.mark.parametrize("kind", FAULTS)
def test_each_fault_at_each_request_of_a_publish(fake_hub, kind):
    log, files = clean_run(fake_hub)
    for at in range(0, len(log), 3 if kind in ASKING else 1):
        fake_hub.reset()
        fake_hub.faults({"at": at, "kind": kind})
        commit = publish_here()
        assert fake_hub.log()[at]["fault"] == kind
        assert_published_once(fake_hub, commit, files)


@pytest.mark.parametrize("kind", FAULTS)
def test_each_fault_at_each_step_of_a_xet_upload(fake_hub, kind, monkeypatch):
    pytest.importorskip("hf_xet")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", False)
    # Content that hf_xet has seen is not uploaded again, so each publish gets rows of its own.
    seeds = itertools.count(1000 * FAULTS.index(kind) + 1)
    fake_hub.reset(blobs=False)
    publish_here(seed=next(seeds))
    log = fake_hub.log()
    steps = [step for step in XET_STEPS if any(re.search(step, each["path"]) for each in log)]
    for step in steps:
        fake_hub.reset(blobs=False)
        fake_hub.faults({"match": step, "kind": kind})
        # where a version keeps tokens, each publish asks for one all the same
        vars(_xet).get("XET_CONNECTION_INFO_CACHE", {}).clear()
        commit = publish_here(seed=next(seeds), read_back=True)
        assert [each for each in fake_hub.log() if each["fault"]]
        assert_published_once(fake_hub, commit)
    assert len(steps) >= 3, log


@pytest.mark.parametrize("kind", ["503", "cut", "drop"])
def test_faults_while_reading_back(fake_hub, kind):
    log, files = clean_run(fake_hub)
    first = len(log)
    fake_hub.reset()
    publish_here(read_back=True)
    whole = fake_hub.log()
    for at in range(first, len(whole)):
        fake_hub.reset()
        fake_hub.faults({"at": at, "kind": kind})
        commit = publish_here(read_back=True)
        assert_published_once(fake_hub, commit, files)


@pytest.mark.parametrize("seed", range(4))
def test_random_fault_sequences(fake_hub, seed):
    """50 sequences each: every request fails with some chance, by any fault, until a budget of faults is used up."""
    log, files = clean_run(fake_hub)
    outcomes = Counter()
    dice = random.Random(seed)
    kinds = [kind for kind in FAULTS if kind not in ASKING]
    # Silence costs its time limit, so it is rarer than the rest.
    weights = [0.2 if "stall" in kind else 1 for kind in kinds]
    for _ in range(50):
        fake_hub.reset()
        hits = sorted(dice.sample(range(len(log) + 6), dice.randint(2, 6)))
        fake_hub.faults(*({"at": at, "kind": dice.choices(kinds, weights)[0]} for at in hits))
        try:
            commit = publish_here()
        except PublishError:
            outcomes["error"] += 1
            fake_hub.faults()
            commit = publish_here()
        outcomes["published"] += 1
        assert_published_once(fake_hub, commit, files)
    assert outcomes["published"] == 50


def test_an_endless_fault_ends_in_a_clear_error_and_the_same_call_finishes(fake_hub):
    _, files = clean_run(fake_hub)
    for match in ("POST .*commit/main", "PUT /_lfs", "POST .*preupload", "GET .*tree"):
        for kind in ("503", "drop", "lost-504"):
            fake_hub.reset()
            fake_hub.faults({"match": match, "kind": kind, "times": -1})
            if (match, kind) == ("POST .*commit/main", "lost-504"):
                # The commit happened at the first try, and was recognised before the second.
                commit = publish_here()
            else:
                with pytest.raises(PublishError, match="To finish: call publish\\(\\) again"):
                    publish_here()
                fake_hub.faults()
                commit = publish_here()
            assert_published_once(fake_hub, commit, files)
