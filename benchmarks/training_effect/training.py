"""Training of the bases and of every arm: transformers' `Trainer` over packed windows, attention within documents.

`DataCollatorWithFlattening` joins the stretches of a batch and says where each begins. On a GPU PyTorch's flash
attention for variable lengths keeps them apart, elsewhere the mask that transformers builds from the positions.
"""

from __future__ import annotations

import inspect
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    AttentionInterface,
    AutoConfig,
    AutoModelForCausalLM,
    DataCollatorWithFlattening,
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainingArguments,
)

from .plan import Plan
from .store import Stream, Windows, generator, read_json, write_json


def attention_within_documents(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    cu_seq_lens_q: torch.Tensor,
    max_length_q: int,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention of `[1, H, T, D]` within the documents that `cu_seq_lens_q` bounds: `[1, T, H, D]`.

    Keys and values may have fewer heads, each of them then belongs to as many of the queries.
    """
    key, value = (states.repeat_interleave(query.shape[1] // states.shape[1], 1) for states in (key, value))
    q, k, v = (states.to(torch.bfloat16) for states in (query, key, value))
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        # before PyTorch 2.10: document by document
        sizes = cu_seq_lens_q.diff().tolist()
        parts = zip(*(states.split(sizes, 2) for states in (q, k, v)), strict=True)
        documents = [torch.nn.functional.scaled_dot_product_attention(*part, is_causal=True) for part in parts]
        return torch.cat(documents, 2).transpose(1, 2).to(value.dtype), None
    takes = inspect.signature(varlen_attn).parameters
    causal: dict[str, Any] = {"window_size": (-1, 0)} if "window_size" in takes else {"is_causal": True}
    q, k, v = (states[0].transpose(0, 1).contiguous() for states in (q, k, v))
    output = varlen_attn(q, k, v, cu_seq_lens_q, cu_seq_lens_q, max_length_q, max_length_q, **causal)
    assert isinstance(output, torch.Tensor)
    return output.unsqueeze(0).to(value.dtype), None


AttentionInterface.register("within_documents", attention_within_documents)


class PackedWindows(torch.utils.data.Dataset[list[dict[str, Any]]]):
    """Windows of several streams, one after the other."""

    def __init__(self, parts: Sequence[tuple[Stream, Windows]]) -> None:
        self.parts = parts
        self.ends = np.cumsum([len(windows) for _, windows in parts])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, row: int) -> list[dict[str, Any]]:
        part = int(np.searchsorted(self.ends, row, side="right"))
        stream, windows = self.parts[part]
        row -= int(self.ends[part]) - len(windows)
        return [{"input_ids": ids} for ids in windows.stretches(row, stream)]

    @property
    def num_tokens(self) -> int:
        return sum(int(windows.lengths.sum()) for _, windows in self.parts)


def collate(batch: list[list[dict[str, Any]]]) -> dict[str, Any]:
    flat = DataCollatorWithFlattening(return_flash_attn_kwargs=torch.cuda.is_available())
    return dict(flat([stretch for window in batch for stretch in window]))


def llama_config(plan: Plan, work: Path, theta: float, length: int) -> LlamaConfig:
    return LlamaConfig(
        **plan["model"],
        vocab_size=read_json(work / "prepared.json")["vocab_size"],
        max_position_embeddings=length,
        rope_theta=theta,
        rope_parameters={"rope_type": "default", "rope_theta": theta},
        tie_word_embeddings=True,
        use_cache=False,
        bos_token_id=None,
        eos_token_id=None,
    )


def longer(config: Any, theta: float, length: int) -> Any:
    """The configuration of a model that was trained elsewhere, for documents of another length."""
    config.rope_theta = theta
    config.rope_parameters = {"rope_type": "default", "rope_theta": theta}
    config.max_position_embeddings = max(length, config.max_position_embeddings)
    config.use_cache = False
    return config


def train(model: Any, data: PackedWindows, settings: dict[str, Any], seed: int, epochs: float) -> dict[str, Any]:
    """Trains a model in place, and says what it took."""
    cuda = torch.cuda.is_available()
    windows = max(1, settings["batch_tokens"] // settings["length"])
    steps = max(1, round(epochs * len(data) / windows))
    # windows of a forward pass, where a step does not fit in memory at once
    at_once = min(windows, max(1, settings.get("micro_batch_tokens", settings["batch_tokens"]) // settings["length"]))
    assert windows % at_once == 0, f"{windows} windows of a step are not a multiple of {at_once}"
    model.set_attn_implementation("within_documents" if cuda else "sdpa")
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=steps,
            per_device_train_batch_size=at_once,
            gradient_accumulation_steps=windows // at_once,
            learning_rate=settings["learning_rate"],
            lr_scheduler_type="cosine",
            warmup_steps=max(1, round(settings["warmup"] * steps)),
            weight_decay=0.1,
            adam_beta2=0.95,
            max_grad_norm=1.0,
            bf16=cuda,
            use_cpu=not cuda,
            optim="adamw_torch_fused" if cuda else "adamw_torch",
            seed=seed,
            data_seed=seed,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        start = time.perf_counter()
        result = Trainer(model=model, args=arguments, train_dataset=data, data_collator=collate).train()
    seconds = time.perf_counter() - start
    return {"steps": steps, "tokens": data.num_tokens, "train_loss": result.training_loss, "seconds": round(seconds, 2)}


def train_base(plan: Plan, work: Path, seed: int) -> None:
    """`bases/SEED`, unless it is there."""
    folder = work / "bases" / str(seed)
    if (folder / "trained.json").exists():
        return
    settings = plan["base"]
    if name := settings.get("pretrained"):
        given = AutoModelForCausalLM.from_pretrained(name, dtype=torch.bfloat16)
        given.save_pretrained(folder)
        write_json(folder / "trained.json", {"pretrained": name, "parameters": given.num_parameters(), "seconds": 0})
        return
    if "mix" in settings:
        from .interleaved import train_interleaved

        train_interleaved(plan, work, seed, folder)
        return
    data = PackedWindows([(Stream.read(work / "tokens/base"), Windows.load(work / "windows/base.npz"))])
    torch.manual_seed(seed)
    model = LlamaForCausalLM(llama_config(plan, work, settings["rope_theta"], settings["length"]))
    facts = train(model, data, settings, seed, settings["tokens"] / data.num_tokens)
    facts["parameters"] = model.num_parameters()
    model.to(torch.bfloat16).save_pretrained(folder)
    write_json(folder / "trained.json", facts)
    print(f"base {seed}: {facts}", flush=True)


def extended(plan: Plan, work: Path, selection: Path, base: int, seed: int) -> tuple[Any, dict[str, Any]]:
    """A base that has continued its training on the windows of a selection and on short documents."""
    settings = plan["extension"]
    folder = work / "bases" / str(base)
    least, gain = plan["base"].get("least_gain", -np.inf), read_json(folder / "trained.json").get("gain", np.inf)
    if gain < least:
        raise SystemExit(f"base {base} gains {gain} nats by distant text, the plan asks for {least}: no arm is run")
    chosen = Windows.load(selection)
    if len(chosen) < settings["windows"]:
        raise SystemExit(f"{selection.name} has {len(chosen)} windows, the plan needs {settings['windows']}")
    order = generator("windows", seed).permutation(len(chosen))[: settings["windows"]]
    mix = Stream.read(work / "tokens/mix"), Windows.load(work / "windows/mix.npz")
    data = PackedWindows([(Stream.read(work / "tokens/pool"), chosen.take(order)), mix])
    if "pretrained" in plan["base"]:
        config = longer(AutoConfig.from_pretrained(folder), settings["rope_theta"], settings["length"])
    else:
        config = llama_config(plan, work, settings["rope_theta"], settings["length"])
    model = AutoModelForCausalLM.from_pretrained(folder, config=config, dtype=torch.float32)
    return model, train(model, data, settings, seed, 1)
