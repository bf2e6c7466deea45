"""Fixtures shared by all tests: tiny random models, the golden scores, and no network."""

from __future__ import annotations

import os
import shutil

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_EVALUATE_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# `make test` runs a process a core, and threads that wait for a core take many times as long; torch must know before it
# is loaded, and what a test starts inherits it
os.environ.setdefault("OMP_NUM_THREADS", "1")
if shutil.which("nvidia-smi") is None:
    # Triton kernels run in its interpreter; it must know before they are defined
    os.environ.setdefault("TRITON_INTERPRET", "1")

import contextlib
import importlib.util
import json
import socket
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pytest
import torch
from transformers import AutoConfig, AutoModel, PreTrainedModel

from ladm_hf import LadmConfig
from ladm_hf.data.run_record import RunRecord, run_id

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"
SMALL = LadmConfig(span_length=16, max_length=2048)
READS_EMPTY_FIXED_SIZE_LISTS = int(pa.__version__.split(".")[0]) >= 26
ABLATIONS = {"No": None, "no_std": "no_std", "no_len_weight": "no_length_weight"}


@pytest.fixture(scope="session", autouse=True)
def kernels_untraced() -> Iterator[None]:
    """Coverage looks away while Triton's interpreter runs a kernel, which takes twice as long when it is watched."""
    with pytest.MonkeyPatch.context() as patched:
        if os.environ.get("TRITON_INTERPRET") == "1" and importlib.util.find_spec("triton") is not None:
            from triton.runtime.interpreter import GridExecutor

            patched.setattr(GridExecutor, "__call__", _untraced(GridExecutor.__call__))
        yield


def _untraced(run: Callable[..., Any]) -> Callable[..., Any]:
    def untraced(*args: Any, **kwargs: Any) -> Any:
        trace = sys.gettrace()
        sys.settrace(None)
        try:
            return run(*args, **kwargs)
        finally:
            sys.settrace(trace)

    return untraced


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections may go to this machine only."""
    connect = socket.socket.connect

    def local_only(self: socket.socket, address: Any) -> None:
        host = address[0] if isinstance(address, tuple) else "localhost"
        if host not in ("localhost", "127.0.0.1", "::1"):
            raise OSError(f"a test tried to reach {host}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", local_only)


@pytest.fixture
def url() -> Iterator[str]:
    """A place in a store, gone after the test."""
    url = f"memory://{uuid.uuid4().hex}/run"
    yield url
    fs, root = fsspec.url_to_fs(url)
    if fs.exists(root):
        fs.rm(root, recursive=True)


def tiny_model(model_type: str = "llama", **options: Any) -> PreTrainedModel:
    """A seeded random model of a family, small enough for a test."""
    torch.manual_seed(0)
    values = {
        "vocab_size": 97,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 4096,
        "pad_token_id": 0,
        "bos_token_id": None,
        "eos_token_id": None,
        "attn_implementation": "eager",
    }
    config = AutoConfig.for_model(model_type, **values | options)
    model = AutoModel.from_config(config, dtype=torch.float32).eval()
    # larger weights than at initialisation, so that attention is far from uniform
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" not in name and weight.dim() == 2:
                weight.mul_(4.0)
    return model


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Torch on several threads, as in the process of a user; the tests keep to one."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def random_ids(length: int, seed: int = 0, vocab: int = 97) -> list[int]:
    return torch.randint(0, vocab, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


@pytest.fixture
def llama() -> PreTrainedModel:
    return tiny_model()


@pytest.fixture
def llama_folder(llama: PreTrainedModel, tmp_path: Path) -> Path:
    llama.save_pretrained(tmp_path / "llama")
    return tmp_path / "llama"


def golden_folders() -> list[Any]:
    folders = sorted(folder for folder in (SHARED / "data" / "golden").glob("*") if folder.is_dir())
    missing = pytest.mark.skip(reason=f"golden scores are not at {SHARED / 'data' / 'golden'}")
    return [pytest.param(folder, id=folder.name) for folder in folders] or [pytest.param(None, marks=missing)]


def golden(folder: Path) -> tuple[LadmConfig, list[list[int]], torch.Tensor]:
    """Configuration, documents and layer scores `[L, documents]` of a golden folder."""
    expected = json.loads((folder / "expected.json").read_text())
    config = LadmConfig(
        span_length=expected["span_length"],
        d_afs=expected["d_afs"],
        d_cds=expected["d_cds"],
        ablation=ABLATIONS[expected["ablation"]],  # type: ignore[arg-type]
    )
    return config, expected["input_ids"], torch.tensor(expected["layer_scores"], dtype=torch.float64)


@pytest.fixture(scope="session")
def corpus() -> list[dict[str, Any]]:
    """Rows of the development corpus; its text is never committed."""
    import pyarrow.parquet as pq

    path = SHARED / "data" / "corpus" / "dev.parquet"
    if not path.is_file():
        pytest.skip(f"the corpus is not at {path}")
    return pq.read_table(path).to_pylist()


def run_record(**changes: Any) -> RunRecord:
    """A small record of a scoring run, as `ladm score` would write it."""
    identity = {
        "split": "train", "scores_only": False, "model": "content:9c24", "dtype": "float32", "config.span_length": 8,
        "config.heads": None, "text_column": "text", "data": "462a",
    }  # fmt: skip
    edges = (0, 2, 6)
    values = {
        "input": "pool/documents.parquet", "split": "train", "identity": identity, "unit": "rows", "edges": edges,
        "costs": (4.5, 8.0), "schema": pa.schema([("text", pa.string())]), "layout": {"offsets": [0, 6]},
        "run_id": run_id(identity, edges), "created": "2026-11-26T13:45:41+00:00", "version": "0.1.0",
    }  # fmt: skip
    return RunRecord(**{**values, **changes})
