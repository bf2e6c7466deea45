"""Runs on emulators of Google Cloud Storage and Azure, where they and the packages of the protocols are installed:
pip install gcsfs gcp-storage-emulator adlfs; npm install -g azurite."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import fsspec
import pytest
from launches import bits, dataset, expected, free_port, kill, scorer

from ladm_hf import LadmError, run_status, score_dataset
from ladm_hf.data.object_store import storage_at

# The account that Azurite's documentation names.
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


def server(command: list[str], port: int) -> subprocess.Popen[str]:
    """Starts a server and waits until it listens."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True)
    end = time.monotonic() + 60
    while True:
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return process
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.fixture
def gs(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    # read at the import: else the kind of the bucket is asked for by a protocol that the emulator does not have
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    pytest.importorskip("gcsfs", reason="needs gcsfs")
    pytest.importorskip("gcp_storage_emulator", reason="needs gcp-storage-emulator")
    port = free_port()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
    monkeypatch.setitem(fsspec.config.conf, "gcs", {"token": "anon"})
    options = ["--host", "127.0.0.1", "--port", str(port), "--in-memory", "--default-bucket", "bucket"]
    process = server([sys.executable, "-m", "gcp_storage_emulator", "start", *options], port)
    yield "gs://bucket"
    kill(process)


@pytest.fixture
def abfs(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    pytest.importorskip("adlfs", reason="needs adlfs")
    azurite = shutil.which("azurite-blob")
    if azurite is None:
        pytest.skip("needs azurite-blob")
    from azure.storage.blob import BlobServiceClient

    port = free_port()
    endpoint = f"http://127.0.0.1:{port}/{ACCOUNT}"
    connection = f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};BlobEndpoint={endpoint};"
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", connection)
    options = [
        "--silent",
        "--inMemoryPersistence",
        "--skipApiVersionCheck",
        "--disableTelemetry",
        "--blobPort",
        str(port),
    ]
    process = server([azurite, *options], port)
    with BlobServiceClient.from_connection_string(connection) as client:
        client.create_container("bucket")
    yield "abfs://bucket"
    kill(process)


@pytest.mark.parametrize("store", ["gs", "abfs"])
@pytest.mark.filterwarnings("ignore")
def test_a_run_is_interrupted_and_resumed(store: str, request: pytest.FixtureRequest) -> None:
    root: str = request.getfixturevalue(store)
    url = f"{root}/run"
    with pytest.raises(LadmError, match=f"no run in {url}"):
        run_status(url)
    with pytest.raises(LadmError, match="there is no such bucket"):
        run_status(f"{root}2/run")
    storage = storage_at(f"{root}/verbs")
    assert [storage.create("a", content) for content in (b"1", b"2", b"1")] == [True, False, True]
    # gcp-storage-emulator takes a conditional put without a look at the condition, which is noticed
    assert storage.exclusive == (store == "abfs")
    storage.copy("a", "b/c")
    copied = storage.entry("b/c")
    assert copied is not None
    assert (copied.size, copied.checksum is None) == (1, False)
    assert list(storage.ages("b")) == ["b/c"]
    storage.delete(["a", "never", "b/c"])
    assert not storage.entries("")

    interrupted = scorer()
    begin, calls = interrupted.begin, []

    def stop_at_the_third(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return begin(*arguments)

    interrupted.begin = stop_at_the_third  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        score_dataset(dataset(), url, interrupted, num_chunks=6, progress=False)
    stopped = run_status(url)
    assert (stopped.state, stopped.chunks_done) == ("stopped", 2)
    assert bits(score_dataset(dataset(), url, scorer(), num_chunks=6, progress=False)) == expected()
    assert run_status(url).state == "finished"
