"""Runs on a real S3 server and on a bucket of the fake Hub: killed, resumed elsewhere, several launches at once."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from launches import OPTIONS, ROOT, bits, dataset, environment, expected, kill, parquet, scorer
from s3 import BUCKET, S3

from fake_hub import FakeHub
from fake_hub.fixtures import fake_hub, hub_process  # noqa: F401
from ladm_hf import LadmConfig, LadmError, run_status, score_dataset, select
from ladm_hf.data.object_store import storage_at

pytest.importorskip("s3fs")
pytest.importorskip("moto")
URL = f"s3://{BUCKET}/run"
CONFIG = LadmConfig(span_length=8, max_length=256)


@pytest.fixture
def s3() -> Iterator[S3]:
    with S3() as server:
        yield server


def elsewhere(offset: float, *arguments: str) -> subprocess.Popen[str]:
    """Starts `ladm` as on another machine, with a clock that is some seconds off."""
    command = [sys.executable, str(ROOT / "tests" / "elsewhere.py"), str(offset), *arguments]
    found = {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    return subprocess.Popen(
        command,
        env={**environment(), **found},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


@pytest.mark.timeout(600)
def test_a_killed_run_goes_on_elsewhere_with_two_launches_while_requests_fail(tmp_path: Path) -> None:
    source = parquet(tmp_path / "in.parquet")
    arguments = ["score", str(source), URL, *OPTIONS, "--chunks", "8"]
    with S3(faults=0.05, seed=2) as _:
        first = elsewhere(0.0, *arguments)
        end = time.monotonic() + 120
        while not storage_at(URL).entries(".ladm/chunks"):
            assert first.poll() is None, first.communicate()[0]
            assert time.monotonic() < end
            time.sleep(0.05)
        kill(first)
        kept = len(storage_at(URL).entries(".ladm/chunks"))
        others = [elsewhere(offset, *arguments) for offset in (-120.0, 120.0)]
        printed = [other.communicate(timeout=240)[0] for other in others]
        assert [other.returncode for other in others] == [0, 0], printed
        for said in printed:
            assert "finished: 100.0 %, 8 of 8 chunks, 24 rows" in said
        assert len(run_status(URL).ranks) >= 2
        assert list(storage_at(URL).entries("data")) == [f"data/train-{n:05d}-of-00008.parquet" for n in range(8)]
        log = b"".join(storage_at(URL).read(name) or b"" for name in storage_at(URL).entries("logs"))
        # what a killed launch wrote since its last report is lost
        assert log.count(b"begun") >= 8 - kept
        assert b"secretofthetests" not in log + (storage_at(URL).read("run.json") or b"")
        scored = score_dataset(source, URL, scorer(config=CONFIG), progress=False)
        assert bits(scored) == expected(config=CONFIG)


def test_a_run_in_a_bucket_of_the_hub(
    fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from huggingface_hub import HfApi, HfFileSystem, constants
    from huggingface_hub.utils import are_progress_bars_disabled, tqdm

    # as for most users
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", None)
    monkeypatch.setattr(sys.modules[tqdm.__module__], "HF_HUB_DISABLE_PROGRESS_BARS", None)
    HfApi().create_bucket("tester/scored")
    url = "hf://buckets/tester/scored/run"
    assert bits(score_dataset(dataset(), url, scorer(), num_chunks=6, progress=False)) == expected()
    assert not capfd.readouterr().err
    assert not are_progress_bars_disabled()
    fake_hub.faults({"match": "/batch", "kind": "503"}, {"match": "GET /buckets/", "kind": "drop", "times": 2})
    assert bits(score_dataset(dataset(), url, scorer(), progress=False)) == expected()
    assert run_status(url).state == "finished"
    find, calls = HfFileSystem.find, []

    def race(*arguments: Any, **options: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 1:
            raise KeyError("a folder that was made meanwhile")
        return find(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(HfFileSystem, "find", race)
        assert len(storage_at(url).entries("data")) == 6
    with pytest.raises(LadmError, match="hf://buckets/tester/none/run: there is no such bucket"):
        score_dataset(dataset(), "hf://buckets/tester/none/run", scorer(), progress=False)
    with pytest.raises(LadmError, match="hf://buckets/tester/none/run: there is no such bucket"):
        run_status("hf://buckets/tester/none/run")
    with pytest.raises(LadmError, match="no run in hf://buckets/tester/scored/other"):
        run_status("hf://buckets/tester/scored/other")
    fake_hub.faults({"match": "/buckets/", "kind": "403", "times": -1})
    with pytest.raises(LadmError, match="access is refused"):
        run_status(url)
    fake_hub.faults()


def test_what_a_store_refuses_is_told_in_one_line_without_credentials(s3: S3) -> None:
    with pytest.raises(LadmError, match="s3://nowhere/run: there is no such bucket") as missing:
        score_dataset(dataset(3), "s3://nowhere/run", scorer(), progress=False)
    assert "\n" not in str(missing.value)
    with pytest.raises(LadmError, match="s3://nowhere/run: there is no such bucket"):
        run_status("s3://nowhere/run")
    with pytest.raises(LadmError, match=f"no run in s3://{BUCKET}/none"):
        run_status(f"s3://{BUCKET}/none")
    options = {"endpoint_url": "http://127.0.0.1:9", "key": "AKIAMINEMINE", "secret": "mysecretvalue"}
    assert bits(score_dataset(dataset(3), URL, scorer(), progress=False, storage_options={"endpoint_url": s3.endpoint}))
    store = storage_at("s3://user:mypassword@bucket/run", options)
    assert "mypassword" not in store.name
    assert store._reason(OSError("mysecretvalue at https://h/x?X-Amz-Signature=abcdef")) == (  # type: ignore[attr-defined]
        "OSError: *** at https://h/x?X-Amz-Signature=***"
    )


def test_a_run_at_a_url_is_selected_from(s3: S3, tmp_path: Path) -> None:
    score_dataset(dataset(), URL, scorer(), num_chunks=3, progress=False)
    selection = select(URL, budget_tokens=600, by="meta.set")
    local = tmp_path / "run"
    score_dataset(dataset(), local, scorer(), num_chunks=3, progress=False)
    assert selection.selected["id"] == select(local, budget_tokens=600, by="meta.set").selected["id"]
    assert selection.run is not None
    storage_at(URL).delete([".ladm/finished.json"])
    storage_at(URL).put(".ladm/data/x.parquet", b"x")
    with pytest.raises(LadmError, match="has not finished"):
        select(URL, budget_tokens=600)
