"""Pytest fixtures that point `huggingface_hub` and `datasets` of this process at a fake Hub.

from fake_hub.fixtures import fake_hub, hub_process    # in conftest.py or a test module
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fake_hub import FakeHub

# How patient hf_xet is; it reads this when its first upload begins.
XET_IN_A_HURRY = {
    "HF_XET_CLIENT_RETRY_BASE_DELAY": "20ms",
    "HF_XET_CLIENT_READ_TIMEOUT": "1s",
    "HF_XET_CLIENT_CONNECT_TIMEOUT": "1s",
    "HF_XET_TELEMETRY_ENABLED": "false",
}


@pytest.fixture(scope="session")
def hub_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeHub]:
    # hf_xet remembers on disk what it uploaded; another server has none of that.
    XET_IN_A_HURRY["HF_XET_CACHE"] = str(tmp_path_factory.mktemp("xet"))
    with FakeHub(stall=2.0, late=0.15) as hub:
        yield hub


@pytest.fixture
def fake_hub(hub_process: FakeHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    """A fake Hub without repositories, reached by everything in this process, with Xet off."""
    import datasets
    import datasets.config
    from huggingface_hub import constants
    from huggingface_hub.utils import close_session

    url = hub_process.url
    for module, values in {
        constants: {
            "ENDPOINT": url, "HUGGINGFACE_CO_URL_TEMPLATE": url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(tmp_path / "hub"),
            "HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True,
            "HF_HUB_DISABLE_PROGRESS_BARS": True,
            "HF_TOKEN_PATH": str(tmp_path / "no-token"), "HF_STORED_TOKENS_PATH": str(tmp_path / "no-tokens"),
        },
        datasets.config: {
            "HF_ENDPOINT": url, "HF_HUB_OFFLINE": False, "HF_UPDATE_DOWNLOAD_COUNTS": False,
            "HF_DATASETS_CACHE": tmp_path / "datasets",
            "HUB_DATASETS_URL": url + "/datasets/{repo_id}/resolve/{revision}/{path}",
        },
    }.items():  # fmt: skip
        for name, value in values.items():
            monkeypatch.setattr(module, name, value, raising=False)
    for name, value in {"HF_TOKEN": hub_process.token, **XET_IN_A_HURRY}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    progress = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    close_session()
    hub_process.reset(blobs=False)
    yield hub_process
    hub_process.reset(blobs=False)
    close_session()
    if not progress:
        datasets.enable_progress_bars()
