"""A model in memory has the calibration of the folder it came from, as long as it is that folder's model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedModel

from ladm_hf import LadmConfig, LadmScorer
from ladm_hf.calculators.calculator import resolve


@pytest.fixture
def folder(llama: PreTrainedModel, tmp_path: Path) -> Path:
    """A calibrated causal language model, with its head."""
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**llama.config.to_dict()))
    model.model.load_state_dict(llama.state_dict())
    model.save_pretrained(tmp_path / "calculator")
    (tmp_path / "calculator" / "ladm_config.json").write_text('{"span_length": 16, "heads": [[1, 2]]}')
    return tmp_path / "calculator"


@pytest.mark.parametrize("loader", [AutoModel, AutoModelForCausalLM])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_live_model_has_the_configuration_of_its_folder(folder: Path, loader, dtype: torch.dtype) -> None:
    live = loader.from_pretrained(folder, dtype=dtype)
    assert resolve(live).config == resolve(folder).config
    assert LadmScorer(live, config=LadmConfig(max_length=2400)).config.heads == ((1, 2),)
    assert LadmScorer(live, config=LadmConfig.paper()).config.heads is None


def test_a_live_model_scores_as_its_folder_does(folder: Path) -> None:
    ids = [[1 + n % 90 for n in range(900)]]
    (live,) = LadmScorer(AutoModel.from_pretrained(folder), text_column=None).score_input_ids(ids)
    (stored,) = LadmScorer(folder, text_column=None).score_input_ids(ids)
    assert live.score == stored.score


def test_a_model_that_was_changed_since_has_none_and_says_so(folder: Path) -> None:
    live = AutoModel.from_pretrained(folder)
    with torch.no_grad():
        live.layers[0].self_attn.q_proj.weight[0, 0] += 1
    assert resolve(live).config == LadmConfig.paper()
    with pytest.warns(UserWarning, match=r"has other weights than .*calculator, so that ladm_config.json there"):
        LadmScorer(live).score_input_ids([list(range(90)) * 30])


def test_a_model_whose_folder_cannot_be_read_has_none(folder: Path) -> None:
    live = AutoModel.from_pretrained(folder)
    # the model may be mapped from the file, which therefore is not written over
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").write_bytes(b"no weights")
    assert "has other weights" in resolve(live).uncalibrated
    (folder / "ladm_config.json").unlink()
    assert resolve(live).uncalibrated == "has no ladm_config.json"
