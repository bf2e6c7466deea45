"""`dtype="float8"`: linear layers in float8 where all of it can be had, else a refusal of one line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SMALL, random_ids, tiny_model
from datasets import Dataset
from datasets.fingerprint import Hasher

pytest.importorskip("triton")

from ladm_hf import Cascade, LadmScorer, score_dataset
from ladm_hf.calculators.calculator import resolve
from ladm_hf.errors import BackendError, ConfigError, ResumeError
from ladm_hf.ops import float8, fused
from ladm_hf.runs.chunk_scorer import ChunkScorer
from ladm_hf.scoring import engine as engines
from ladm_hf.scoring import loader, trial
from ladm_hf.scoring.attention import scoring_attention
from ladm_hf.scoring.engine import Engine
from ladm_hf.scoring.layers import layer_plan
from ladm_hf.scoring.product import Float8Product, Product, in_float8

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
needs_kernels = pytest.mark.skipif(
    DEVICE == "cpu" and not fused.INTERPRETED, reason="needs a GPU or TRITON_INTERPRET=1"
)


@pytest.fixture
def kernels_run_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "triton_runs_on", lambda device: True)
    monkeypatch.setattr(trial, "TRIAL_TOKENS", 8)
    monkeypatch.setattr(engines, "check_float8", lambda device: None)
    x = float8.quantized(torch.ones(16, 16, dtype=torch.bfloat16, device=DEVICE))
    try:
        float8.product(x, x)
    except RuntimeError as error:
        pytest.skip(f"no product of float8 here: {error}")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_model(num_hidden_layers=1).to(torch.bfloat16).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@needs_kernels
@pytest.mark.parametrize("name", ["llama", "olmo2", "gpt_neox", "gemma3_text"])
def test_scores_come_close_to_those_of_bfloat16(kernels_run_here, name: str) -> None:
    heads = {"num_key_value_heads": 4} if name == "gpt_neox" else {}
    # on a CPU each document runs alone, and the interpreter takes its time over each token
    lengths = (151, 145) if DEVICE == "cuda" else (151,)
    documents = [np.array(random_ids(length, length)) for length in lengths]
    found = {}
    for dtype in ("bfloat16", "float8"):
        model = tiny_model(name, num_hidden_layers=2, **heads).to(DEVICE, torch.bfloat16)
        engine = Engine(resolve(model), replace(SMALL, span_length=8), dtype, DEVICE, "chunked", None)
        found[dtype] = np.stack(engine.score(documents))
        assert engine.forward_pass == "fast"
        pairs = [pair for products in engine._fast.products for pair in products if pair]
        assert all(isinstance(product, Float8Product) is (dtype == "float8") for pair in pairs for product in pair)
    difference = np.abs(found["float8"] / found["bfloat16"] - 1)
    assert 0 < difference.max() < 0.3


@needs_kernels
@pytest.mark.parametrize(
    ("model_type", "options", "reason"),
    [
        ("llama", {"intermediate_size": 88}, "weights of 64 x 88, no multiples of 16"),
        ("gemma2", {"query_pre_attn_scalar": 16}, "more than causal"),
    ],
)
def test_a_model_without_it_is_refused(kernels_run_here, model_type: str, options: dict[str, int], reason: str) -> None:
    model = tiny_model(model_type, num_hidden_layers=1, **options).to(DEVICE, torch.bfloat16)
    with scoring_attention(model):
        plan = layer_plan(model)
    with pytest.raises(BackendError, match=rf"of this '{model_type}' model: .*{reason}.*Use dtype='bfloat16'"):
        trial.float8_forward(model, plan)


@needs_kernels
def test_a_product_that_is_wrong_is_refused(kernels_run_here, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(num_hidden_layers=1).to(DEVICE, torch.bfloat16)
    with scoring_attention(model):
        plan = layer_plan(model)
    right = float8.product
    monkeypatch.setattr(float8, "product", lambda x, weight, bias=None: right(x, weight, bias).roll(1, 1))
    with pytest.raises(BackendError, match=r"a product with weights of 128 x 64 is off by"):
        trial.float8_forward(model, plan)


def test_a_device_without_it_is_refused_in_one_line(folder: Path) -> None:
    with pytest.raises(
        BackendError, match=r"^dtype='float8' .*Ada, Hopper or newer.*cpu.*Use dtype='bfloat16'$"
    ) as refused:
        LadmScorer(folder, dtype="float8", device="cpu", config=SMALL).score_input_ids([random_ids(300)])
    assert "\n" not in str(refused.value)


@needs_kernels
def test_any_number_of_first_outputs_can_be_had(kernels_run_here) -> None:
    torch.manual_seed(0)
    x, weight = (torch.randn(n, 32, device=DEVICE).bfloat16() for n in (5, 48))
    product = in_float8(Product(weight, torch.randn(48, device=DEVICE).bfloat16()))
    for rows in (16, 40):
        torch.testing.assert_close(product(x, rows), product(x)[:, :rows])


def test_a_live_model_keeps_its_own_dtype() -> None:
    with pytest.raises(ConfigError, match=r"loaded by name or from a folder"):
        LadmScorer(tiny_model(), dtype="float8")


def test_it_is_another_identity_than_bfloat16(folder: Path) -> None:
    scorers = [LadmScorer(folder, dtype=dtype, config=SMALL, device="cpu") for dtype in ("bfloat16", "float8")]
    assert [scorer.identity.dtype for scorer in scorers] == ["bfloat16", "float8"]
    assert len({Hasher.hash(scorer) for scorer in scorers}) == 2


def test_a_run_is_neither_continued_nor_begun_in_it(folder: Path, tmp_path: Path) -> None:
    rows = Dataset.from_dict({"input_ids": [random_ids(300, n) for n in range(3)]})
    options = {"text_column": None, "config": SMALL, "device": "cpu"}
    scorer = LadmScorer(folder, dtype="float8", **options)
    with pytest.raises(BackendError, match="Use dtype='bfloat16'"):
        score_dataset(rows, tmp_path / "run", scorer, progress=False)
    score_dataset(rows, tmp_path / "run", LadmScorer(folder, dtype="bfloat16", **options), progress=False)
    with pytest.raises(ResumeError, match="dtype"):
        score_dataset(rows, tmp_path / "run", scorer, progress=False)


@pytest.mark.parametrize("dtype", ["auto", "float8"])
def test_a_run_begun_in_it_is_not_said_to_go_on_in_another(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    rows = Dataset.from_dict({"input_ids": [random_ids(300, n) for n in range(3)]})
    options = {"text_column": None, "config": SMALL, "device": "cpu"}

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as gpu:
        gpu.setattr(loader, "check_float8", lambda *_: None)
        gpu.setattr(ChunkScorer, "score", stop)
        with pytest.raises(KeyboardInterrupt):
            score_dataset(rows, tmp_path / "run", LadmScorer(folder, dtype="float8", **options), progress=False)
    with pytest.raises(BackendError, match=r"run was begun in float8: resume it on such a GPU, [^\n]*$") as refused:
        score_dataset(rows, tmp_path / "run", LadmScorer(folder, dtype=dtype, **options), progress=False)
    assert "bfloat16" not in str(refused.value)


def test_a_second_pass_that_cannot_run_is_refused_before_the_first(folder: Path, tmp_path: Path) -> None:
    rows = Dataset.from_dict({"input_ids": [random_ids(300, n) for n in range(3)]})
    options = {"text_column": None, "config": SMALL, "device": "cpu"}
    first = Cascade(LadmScorer(folder, dtype="bfloat16", **options), "50%", by=None)
    with pytest.raises(BackendError, match="Use dtype='bfloat16'"):
        score_dataset(rows, tmp_path, LadmScorer(folder, dtype="float8", **options), cascade=first, progress=False)
    assert not list(tmp_path.rglob("*.parquet"))
