from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ladm_hf.calculators.calculator import BUNDLED
from ladm_hf.errors import ConfigError
from ladm_hf.scoring.scorer import LadmScorer
from ladm_hf.training import average_calculators

NANO = BUNDLED["ladm-nano"]


def changed(folder: Path, seed: int) -> Path:
    """ladm-nano with noise on its weights."""
    folder.mkdir()
    for file in NANO.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    torch.manual_seed(seed)
    weights = {
        name: weight + 0.01 * torch.randn_like(weight) for name, weight in load_file(NANO / "model.safetensors").items()
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_an_average_holds_the_mean_of_the_weights_and_can_score(tmp_path) -> None:
    folders = [changed(tmp_path / str(seed), seed) for seed in range(3)]
    written = average_calculators(folders, tmp_path / "mean")
    found = load_file(written / "model.safetensors")
    given = [load_file(folder / "model.safetensors") for folder in folders]
    for name, weight in found.items():
        mean = torch.stack([weights[name].float() for weights in given]).mean(0)
        torch.testing.assert_close(weight, mean.to(torch.bfloat16))
    with pytest.warns(UserWarning, match="ladm calibrate"):
        assert LadmScorer(written).score_texts(["The ship left the harbour. " * 600])[0].status == "ok"


def test_calculators_of_two_architectures_have_no_average(tmp_path, llama_folder) -> None:
    with pytest.raises(ConfigError, match="is not of the architecture of"):
        average_calculators([NANO, llama_folder], tmp_path / "mean")
    with pytest.raises(ConfigError, match="at least two"):
        average_calculators([NANO], tmp_path / "mean")
    assert not (tmp_path / "mean").exists()
