"""The base of the planted variant: a language model alone, trained by the package on interleaved windows.

The only way to predict well in a window of several documents' chunks in turn is to look far back for the same document,
which a model of this size does not learn from natural windows in as many tokens.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.trainer_utils import get_last_checkpoint

from ladm_hf.training.documents import TokenizedDocument
from ladm_hf.training.mix import WindowMix
from ladm_hf.training.recipe import Architecture, Recipe
from ladm_hf.training.trainer import RECORD, train_calculator

from .measures import domain_mean, far_losses
from .plan import Plan
from .scores import load_tokenizer
from .store import Stream, read_json, write_json

# Processes that make windows beside a GPU.
WORKERS = 8


def train_interleaved(plan: Plan, work: Path, seed: int, folder: Path) -> None:
    """`bases/SEED` with the gain of the base by distant text in `trained.json`; goes on from its last checkpoint.

    Under `torchrun` the processes share each step.
    """
    settings, cuda = plan["base"], torch.cuda.is_available()
    checkpoints = folder / "checkpoints"
    train_calculator(
        documents(work),
        load_tokenizer(plan),
        folder,
        recipe(plan, seed),
        architecture=architecture(plan, work),
        resume=checkpoints.is_dir() and get_last_checkpoint(str(checkpoints)) is not None,
        compile=cuda,
        save_steps=max(1, settings["steps"] // 10),
        num_workers=WORKERS if cuda else 0,
    )
    if os.environ.get("RANK", "0") != "0":
        return
    record = read_json(folder / RECORD)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to("cuda" if cuda else "cpu").eval()
    with torch.inference_mode(), torch.autocast(model.device.type, torch.bfloat16, enabled=cuda):
        found = far_losses(plan, work, model)
    facts = {
        "steps": settings["steps"],
        "tokens": record["trained_tokens"],
        "parameters": record["parameters"],
        "seconds": record["seconds"],
        "train_loss": record["losses"][-1]["loss"] if record["losses"] else None,
        **{name: round(domain_mean(work, found[name]), 5) for name in ("loss", "gain")},
    }
    write_json(folder / "trained.json", facts)
    print(f"base {seed}: {facts}", flush=True)


def documents(work: Path) -> list[TokenizedDocument]:
    stream = Stream.read(work / "tokens/base")
    return [TokenizedDocument(stream[row], **names) for row, names in enumerate(read_json(work / "base.json"))]


def recipe(plan: Plan, seed: int) -> Recipe:
    settings = plan["base"]
    named = ("steps", "batch_tokens", "learning_rate", "rope_theta")
    stages = tuple((int(length), float(share)) for length, share in settings["stages"])
    return Recipe(
        stages=stages,
        micro_batch_tokens=settings["batch_tokens"] // int(os.environ.get("WORLD_SIZE", "1")),
        max_position_embeddings=max(plan["extension"]["length"], *(length for length, _ in stages)),
        mix=WindowMix(**settings["mix"]),
        seed=seed,
        **{name: settings[name] for name in named},
    )


def architecture(plan: Plan, work: Path) -> Architecture:
    shape: dict[str, Any] = {name: value for name, value in plan["model"].items() if name != "head_dim"}
    assert plan["model"]["head_dim"] * shape["num_attention_heads"] == shape["hidden_size"]
    return Architecture(vocab_size=read_json(work / "prepared.json")["vocab_size"], **shape)
