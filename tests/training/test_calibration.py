from __future__ import annotations

import contextlib
import json

import numpy as np
import pytest
import torch
from conftest import random_ids, tiny_model

from ladm_hf import LadmConfig, LadmScorer
from ladm_hf.calculators.calculator import resolve
from ladm_hf.errors import ConfigError, InputError
from ladm_hf.ops.spans import SpanGrid
from ladm_hf.scoring.attention import scoring_attention
from ladm_hf.scoring.engine import Engine
from ladm_hf.scoring.recorder import ForwardDone
from ladm_hf.training import calibration as module
from ladm_hf.training.calibration import (
    Calibration,
    FocusTable,
    HeadRecorder,
    calibrate,
    choose_heads,
    head_focus,
    mean_area,
    mean_by,
    setting_areas,
    write_calibration,
)
from ladm_hf.training.documents import TokenizedDocument
from ladm_hf.training.labelled import LabelledWindow, labelled_windows

SMALL = LadmConfig(span_length=16, max_length=2048)
SETTINGS = ((512, 2), (512, 3), (640, 2))


@pytest.fixture
def documents() -> list[TokenizedDocument]:
    rng = np.random.default_rng(0)
    return [
        TokenizedDocument(rng.integers(1, 97, 1500).astype(np.int32), f"d{i % 2}", f"s{i % 12}", key=str(i))
        for i in range(24)
    ]


def engine(model) -> Engine:
    return Engine(resolve(model), SMALL, "float32", "cpu", "auto", None)


def plant(monkeypatch: pytest.MonkeyPatch, good: tuple[int, int]) -> None:
    """Gives one head a PFS that falls wherever a window jumps from one document to another."""
    genuine = module.head_focus

    def planted(engine, ids, layers):
        grid, pfs = genuine(engine, ids, layers)
        for layer in pfs:
            pfs[layer] = torch.rand_like(pfs[layer]) * 0.1 + 1.0
        for row, window in enumerate(ids):
            jumps = int((np.abs(np.diff(window.astype(np.int64))) > 1).sum())
            steps = torch.arange(1.0, pfs[good[0]].shape[-1] + 1)
            pfs[good[0]][row, good[1]] = (8.0 + steps) / (1 + jumps)
        return grid, pfs

    monkeypatch.setattr(module, "head_focus", planted)


@pytest.fixture
def counting_documents() -> list[TokenizedDocument]:
    """Documents of one repeated token each, so that a splice shows as a jump."""
    return [
        TokenizedDocument(np.full(1500, 3 * i + 1, np.int32), f"d{i % 2}", f"s{i % 12}", key=str(i)) for i in range(24)
    ]


def test_areas_are_means_over_domains_then_settings() -> None:
    def window(domain: str, length: int, pieces: int) -> LabelledWindow:
        return LabelledWindow(np.zeros(length, np.int32), domain, pieces, (0,), 0)

    windows = [
        window("a", 10, 1), window("a", 10, 2), window("b", 10, 1), window("b", 10, 2),
        window("a", 20, 1), window("a", 20, 0), window("c", 20, 2),
    ]  # fmt: skip
    areas = setting_areas(windows, np.array([2.0, 1.0, 1.0, 2.0, 3.0, 3.0, 0.0]))
    assert areas == {((10, 2), "a"): 1.0, ((10, 2), "b"): 0.0, ((20, 0), "a"): 0.5}
    assert mean_area(areas) == 0.5
    assert mean_by(areas, 1) == {"a": 0.75, "b": 0.0}
    assert np.isnan(mean_area({}))


@pytest.mark.parametrize("ablation", [None, "no_std", "no_length_weight"])
def test_table_gives_the_scores_of_the_scorer(llama, documents, ablation) -> None:
    windows = labelled_windows(documents, 512, [2], per_domain=2) + labelled_windows(documents, 640, [2], per_domain=2)
    table = FocusTable(engine(llama), windows)
    for heads in (((0, 1), (2, 0), (2, 3)), ((1, 2),)):
        config = LadmConfig(span_length=16, max_length=2048, heads=heads, ablation=ablation)
        expected = [score.score for score in LadmScorer(llama, config=config).score_input_ids([w.ids for w in windows])]
        assert table.scores(heads, ablation) == pytest.approx(expected, rel=1e-5)
    assert len(table.by_head(ablation)) == 12


def test_heads_are_read_by_the_models_own_forward_pass_to_the_bit(llama) -> None:
    loaded, ids = engine(llama), np.array([random_ids(512, seed) for seed in (1, 2)])
    expected = HeadRecorder(SpanGrid([512, 512], SMALL), (0, 2), loaded.span_focus)
    with torch.inference_mode(), scoring_attention(llama), contextlib.suppress(ForwardDone):
        llama(input_ids=torch.from_numpy(ids), use_cache=False, ladm_recorder=expected)
    # a live model in training reads as it scores
    llama.train()
    for layer in llama.layers:
        layer.self_attn.attention_dropout = 0.5
    grid, pfs = head_focus(loaded, ids, (0, 2))
    assert llama.training
    assert grid.num_tokens == (512, 512)
    assert list(pfs) == [0, 2]
    for layer in pfs:
        assert pfs[layer].shape == (2, 4, *grid.shape)
        assert torch.equal(pfs[layer], expected.pfs[layer])


def test_reading_some_layers_only(llama, documents) -> None:
    windows = labelled_windows(documents, 512, [2], per_domain=2)
    whole, part = FocusTable(engine(llama), windows), FocusTable(engine(llama), windows, layers=[1])
    assert part.heads == ((1, 0), (1, 1), (1, 2), (1, 3))
    assert part.scores([(1, 2)], None) == pytest.approx(whole.scores([(1, 2)], None), rel=1e-5)
    with pytest.raises(ConfigError, match="layers"):
        FocusTable(engine(llama), windows, layers=[9])


def test_the_head_that_tells_the_kinds_apart_is_chosen(monkeypatch, llama, llama_folder, counting_documents) -> None:
    plant(monkeypatch, (1, 2))
    found = calibrate(llama_folder, counting_documents, settings=SETTINGS, config=SMALL, per_domain=4)
    assert found.config.heads == ((1, 2),)
    assert found.auc == 1.0
    assert set(found.settings) == {"512 x 2", "512 x 3", "640 x 2"}
    assert set(found.domains) == {"d0", "d1"}
    assert max(found.heads, key=lambda head: found.heads[head]) == "1.2"


def test_figures_without_signal_are_near_chance(llama_folder, documents) -> None:
    found = calibrate(llama_folder, documents, settings=SETTINGS, config=SMALL, per_domain=6, max_heads=2)
    assert 0.2 < found.auc < 0.8
    assert 1 <= len(found.config.heads or ()) <= 2
    assert found.documents == 24


def test_greedy_choice_adds_only_heads_that_help(monkeypatch, llama, counting_documents) -> None:
    plant(monkeypatch, (0, 3))
    windows = labelled_windows(counting_documents, 512, [2, 3], per_domain=4)
    heads, _, area = choose_heads(FocusTable(engine(llama), windows), np.ones(len(windows), dtype=bool), 4)
    assert heads == ((0, 3),)
    assert area == 1.0


def test_the_file_is_the_calculators_default_from_then_on(llama_folder) -> None:
    config = LadmConfig(span_length=16, heads=((2, 1),), ablation="no_std")
    found = Calibration(config, 0.9, {"512 x 2": 0.9}, {"d": 0.9}, 0.6, {"2.1": 0.9, "0.0": 0.5}, 40, 12)
    path = write_calibration(llama_folder, found)
    assert LadmScorer(llama_folder).config == config
    values = json.loads(path.read_text())
    assert values["calibration"]["auc"] == 0.9
    assert list(values["calibration"]["auc_by_head"]) == ["2.1", "0.0"]
    assert "max_length" not in values
    with pytest.raises(ConfigError, match="local folder"):
        write_calibration("owner/name", found)


def test_what_cannot_be_calibrated_is_refused(llama_folder, documents) -> None:
    with pytest.raises(InputError, match="too few"):
        calibrate(llama_folder, documents[:3], settings=SETTINGS, config=SMALL)
    with pytest.raises(InputError, match="too few"):
        calibrate(llama_folder, [], settings=SETTINGS, config=SMALL)
    for options in ({"folds": 1}, {"max_heads": 0}, {"per_domain": 1}):
        with pytest.raises(ConfigError, match="calibration needs"):
            calibrate(llama_folder, documents, settings=SETTINGS, config=SMALL, **options)


def test_windows_hold_to_one_fold(monkeypatch, llama_folder, documents) -> None:
    seen: list[set[str]] = []
    genuine = module.labelled_windows

    def spy(mine, *args, **kwargs):
        seen.append({document.source for document in mine})
        return genuine(mine, *args, **kwargs)

    monkeypatch.setattr(module, "labelled_windows", spy)
    calibrate(llama_folder, documents, settings=((512, 2),), config=SMALL, per_domain=2)
    assert len(seen) == 2
    assert not seen[0] & seen[1]


def test_models_of_other_families_are_read(documents) -> None:
    windows = labelled_windows(documents, 512, [2], per_domain=2)
    table = FocusTable(engine(tiny_model("qwen3")), windows)
    assert np.isfinite(table.scores(table.heads, None)).all()
