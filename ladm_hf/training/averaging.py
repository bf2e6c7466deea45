"""One calculator of several: the mean of the weights of runs from one base model that differ in their seed.

A mean of such runs is often better than each of them, and costs no more to use (model soups, Wortsman et al. 2022,
arXiv 2203.05482).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from ladm_hf.errors import ConfigError


def average_calculators(calculators: Sequence[str | Path], output_dir: str | Path) -> Path:
    """Writes the mean of several calculators' weights, in bfloat16, with the tokenizer of the first.

    The means are taken in fp32. A calibration is not carried over: calibrate the result.

    Args:
        calculators (sequence of `str` or path): folders or Hub ids, of one architecture and trained from one base.
        output_dir (`str` or path): the folder to write, for `LadmScorer`.

    Raises:
        ConfigError: fewer than two calculators, or their weights do not have the same names and shapes.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if len(calculators) < 2:
        raise ConfigError(f"an average needs at least two calculators, got {len(calculators)}")
    models = [
        AutoModelForCausalLM.from_pretrained(
            name, dtype=torch.float32, trust_remote_code=False, use_safetensors=True
        ).state_dict()
        for name in calculators
    ]
    shapes = [{key: tuple(weight.shape) for key, weight in model.items()} for model in models]
    for name, found in zip(calculators, shapes, strict=True):
        if found != shapes[0]:
            raise ConfigError(f"{name} is not of the architecture of {calculators[0]}")
    mean = {key: torch.stack([model[key] for model in models]).mean(0) for key in models[0]}
    result = AutoModelForCausalLM.from_pretrained(
        calculators[0], dtype=torch.float32, trust_remote_code=False, use_safetensors=True
    )
    result.load_state_dict(mean)
    result.to(torch.bfloat16).save_pretrained(output_dir)
    AutoTokenizer.from_pretrained(calculators[0], trust_remote_code=False).save_pretrained(output_dir)
    return Path(output_dir)
