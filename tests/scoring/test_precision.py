"""What `dtype="auto"` comes to on a CPU, and that it comes to one thing for everything that belongs together."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SMALL, random_ids, tiny_model
from datasets.fingerprint import Hasher

from ladm_hf import LadmConfig, LadmScorer
from ladm_hf.checks.demo import demo_documents
from ladm_hf.scoring import precision
from ladm_hf.scoring.precision import MARGIN, bfloat16_is_faster

Machine = Callable[[bool, bool], None]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Makes this a machine that has instructions for bfloat16 or not, and one where they are faster or not."""

    def become(has: bool, faster: bool) -> None:
        monkeypatch.setattr(precision, "_multiplies_bfloat16", lambda: has)
        monkeypatch.setattr(precision, "bfloat16_is_faster", lambda width, inner: faster)

    return become


@pytest.fixture
def wide_folder(tmp_path: Path) -> Path:
    model = tiny_model(hidden_size=128, head_dim=32, num_hidden_layers=1).to(torch.bfloat16)
    model.save_pretrained(tmp_path / "wide")
    return tmp_path / "wide"


@pytest.mark.parametrize(
    ("has", "faster", "expected"),
    [(True, True, "bfloat16"), (True, False, "float32"), (False, True, "float32")],
)
def test_auto_is_bfloat16_where_it_is_there_and_faster(machine, wide_folder, has, faster, expected) -> None:
    machine(has, faster)
    assert LadmScorer(wide_folder, device="cpu").dtype == expected
    assert LadmScorer(wide_folder, device="cpu", dtype="float32").dtype == "float32"


def test_calculators_that_would_lose_by_it_stay_in_float32(machine, wide_folder: Path, tmp_path: Path) -> None:
    machine(True, True)
    tiny_model().to(torch.bfloat16).save_pretrained(tmp_path / "narrow")
    tiny_model(hidden_size=128, head_dim=32).save_pretrained(tmp_path / "saved in float32")
    for folder in ("narrow", "saved in float32"):
        assert LadmScorer(tmp_path / folder, device="cpu").dtype == "float32"
    config = wide_folder / "config.json"
    plain = config.read_text()
    for before, after in (
        ("{", '{"quantization_config": {"quant_method": "fp8"},'),
        ('"llama"', '"no such model"'),
        ('"bfloat16"', "null"),
    ):
        assert before in plain
        config.write_text(plain.replace(before, after, 1))
        assert LadmScorer(wide_folder, device="cpu").dtype == "float32"


def test_a_live_model_keeps_its_own(machine) -> None:
    machine(True, True)
    model = tiny_model(hidden_size=128, head_dim=32)
    assert LadmScorer(model).dtype == "float32"
    assert LadmScorer(model.to(torch.bfloat16)).dtype == "bfloat16"


@pytest.mark.parametrize(
    ("share", "noise", "expected"),
    [
        (0.25, [1, 1, 1, 1, 1, 1], True),
        (0.25, [9, 9, 9, 9, 1, 9], True),
        (1.2, [1, 1, 1, 1, 1, 1], False),
        (1.2, [1, 9, 9, 9, 9, 9], False),
        (MARGIN + 0.01, [1, 1, 1, 1, 1, 1], False),
    ],
)
def test_the_trial_takes_the_best_of_its_rounds(monkeypatch, share, noise, expected) -> None:
    def ticks() -> Iterator[float]:
        now = 0.0
        for factor in noise:
            for cost in (1.0, share):
                yield now
                now += cost * factor
                yield now

    clock = ticks()
    monkeypatch.setattr(precision.time, "thread_time", lambda: next(clock))
    threads = torch.get_num_threads()
    assert bfloat16_is_faster.__wrapped__(16, 16) is expected
    assert torch.get_num_threads() == threads


def test_it_hashes_as_what_it_came_to(machine, wide_folder: Path) -> None:
    machine(True, True)
    found = {dtype: Hasher.hash(LadmScorer(wide_folder, config=SMALL, device="cpu", dtype=dtype))
             for dtype in ("auto", "bfloat16", "float32")}  # fmt: skip
    assert found["auto"] == found["bfloat16"] != found["float32"]
    machine(False, False)
    assert Hasher.hash(LadmScorer(wide_folder, config=SMALL, device="cpu")) == found["float32"]


def test_workers_take_what_it_came_to_where_they_were_sent_from(machine, wide_folder: Path) -> None:
    machine(True, True)
    sent = pickle.dumps(LadmScorer(wide_folder, config=SMALL, device="cpu"))
    machine(False, False)
    worker = pickle.loads(sent)
    assert worker.dtype == worker.identity.dtype == "bfloat16"
    assert worker.with_config(LadmConfig()).dtype == "bfloat16"
    assert worker._load(None).model.layers[0].mlp.up_proj.weight.dtype == torch.bfloat16


def test_only_auto_is_settled_by_others(wide_folder: Path) -> None:
    assert LadmScorer(wide_folder, device="cpu").with_auto_dtype("bfloat16").dtype == "bfloat16"
    assert LadmScorer(wide_folder, device="cpu", dtype="float32").with_auto_dtype("bfloat16").dtype == "float32"
    assert LadmScorer(tiny_model()).with_auto_dtype("bfloat16").dtype == "float32"


@pytest.mark.parametrize(
    ("family", "sums"), [("llama", torch.float32), ("qwen3", torch.float32), ("olmo2", torch.bfloat16)]
)
def test_llama_like_models_multiply_in_bfloat16_and_add_in_float32(tmp_path: Path, family: str, sums) -> None:
    tiny_model(family, hidden_size=128, head_dim=32).save_pretrained(tmp_path)
    ids = [random_ids(500)]
    exact = LadmScorer(tmp_path, config=SMALL, device="cpu", dtype="float32").score_input_ids(ids)[0].score
    scorer = LadmScorer(tmp_path, config=SMALL, device="cpu", dtype="bfloat16")
    layer = scorer._load(None).model.layers[0]
    seen: list[torch.dtype] = []
    layer.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    layer.mlp.up_proj.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    assert scorer.score_input_ids(ids)[0].score == pytest.approx(exact, rel=2e-2)
    assert seen == [torch.bfloat16, sums]


def test_bfloat16_gives_the_scores_of_float32() -> None:
    texts = [text[:9_000] for text in demo_documents(3)["text"]]
    scores = {}
    for dtype in ("float32", "bfloat16"):
        found = LadmScorer(config=LadmConfig(max_length=2560), device="cpu", dtype=dtype).score_texts(texts)
        assert {score.status for score in found} == {"ok"}
        scores[dtype] = np.array([score.score for score in found])
    assert np.abs(scores["bfloat16"] / scores["float32"] - 1).max() < 2e-2
