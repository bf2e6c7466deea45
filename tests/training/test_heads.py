from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import random_ids, tiny_model

from ladm_hf import LadmConfig, LadmScorer
from ladm_hf.calculators.calculator import resolve
from ladm_hf.errors import CalculatorError, ConfigError
from ladm_hf.scoring.engine import Engine
from ladm_hf.training.heads import read_heads
from ladm_hf.training.search import Choice

SMALL = LadmConfig(span_length=16, max_length=2048)
WINDOWS = [np.array(random_ids(length, seed)) for seed, length in enumerate((512, 640, 512, 400))]


def engine(model) -> Engine:
    return Engine(resolve(model), SMALL, "float32", "cpu", "auto", None)


def scores(model, **options) -> list[float]:
    scorer = LadmScorer(model, config=LadmConfig.paper(span_length=16, max_length=2048, **options))
    return [score.score for score in scorer.score_input_ids(WINDOWS)]


@pytest.mark.parametrize("ablation", [None, "no_std", "no_length_weight"])
def test_a_choice_scores_as_the_scorer_does(llama, ablation) -> None:
    read = read_heads(engine(llama), WINDOWS)
    assert read.heads == tuple((layer, head) for layer in range(3) for head in range(4))
    assert read.all_heads[ablation] == pytest.approx(scores(llama, ablation=ablation), rel=1e-5)
    places = {read.heads.index((0, 1)): 1.0, read.heads.index((2, 3)): 0.2}
    expected = scores(llama, ablation=ablation, heads=((0, 1), (2, 3)), weights=(1.0, 0.2))
    assert np.exp(Choice(places, ablation, 0.0).scores(read)) == pytest.approx(expected, rel=1e-5)


def test_reading_some_layers_only(llama) -> None:
    whole, part = read_heads(engine(llama), WINDOWS), read_heads(engine(llama), WINDOWS, layers=[1])
    assert part.heads == ((1, 0), (1, 1), (1, 2), (1, 3))
    np.testing.assert_allclose(part.ratios["no_std"], whole.ratios["no_std"][:, 4:8], rtol=1e-5)
    for layers in ([9], []):
        with pytest.raises(ConfigError, match="layers"):
            read_heads(engine(llama), WINDOWS, layers=layers)


def test_a_live_model_in_training_is_read_as_it_scores(llama) -> None:
    expected = read_heads(engine(llama), WINDOWS).ratios[None]
    llama.train()
    for layer in llama.layers:
        layer.self_attn.attention_dropout = 0.5
    np.testing.assert_array_equal(read_heads(engine(llama), WINDOWS).ratios[None], expected)
    assert llama.training


def test_models_of_other_families_are_read() -> None:
    assert np.isfinite(read_heads(engine(tiny_model("qwen3")), WINDOWS).ratios[None]).all()


def test_a_window_that_does_not_fit_in_memory_is_named(llama, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise MemoryError

    loaded = engine(llama)
    monkeypatch.setattr(loaded, "run", full)
    with pytest.raises(CalculatorError, match="640 tokens does not fit"):
        read_heads(loaded, WINDOWS)


def test_a_head_without_finite_scores_is_named(llama) -> None:
    with torch.no_grad():
        llama.layers[1].self_attn.q_proj.weight[16:32] = 1e30
        llama.layers[1].self_attn.k_proj.weight.mul_(1e30)
    with pytest.raises(CalculatorError, match=r"head \(1, 1\) are not finite in float32"):
        read_heads(engine(llama), WINDOWS, layers=[1])
