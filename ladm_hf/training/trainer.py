"""Training a calculator: transformers' `Trainer` on natural, interleaved and spliced windows.

    documents -> tokens (memory-mapped) -> Curriculum of windows -> Trainer -> folder for LadmScorer

The loss is the language model's, over sampled positions of the windows that hold language, plus the same-document loss
of the supervised layers (see `ladm_hf.training.objective`), whose heads may learn different labels. Without supervised
layers and with natural windows alone this is the paper's recipe.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.masking_utils import sdpa_mask
from transformers.trainer_utils import get_last_checkpoint

from ladm_hf.errors import InputError
from ladm_hf.scoring.attention import ladm_attention
from ladm_hf.training.batches import Curriculum
from ladm_hf.training.documents import TokenizedDocument, held_out
from ladm_hf.training.model import build_model
from ladm_hf.training.objective import FocusRecorder, same_document_loss
from ladm_hf.training.plots import plot_losses
from ladm_hf.training.recipe import Architecture, Recipe, View
from ladm_hf.training.windows import WindowDataset
from ladm_hf.version import __version__

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ATTENTION = "ladm_training"
RECORD = "training.json"


class CalculatorTrainer(Trainer):  # type: ignore[misc]
    """`Trainer` with the language model's loss and that of each view; each is logged by its own name."""

    def __init__(self, recipe: Recipe, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.recipe = recipe
        # the losses are means of micro-batches, so the Trainer must divide by their number
        self.model_accepts_loss_kwargs = False
        self._parts: dict[str, list[Tensor]] = {}

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> torch.utils.data.Sampler[int]:
        # windows are random by themselves; the order of the stages is not
        return torch.utils.data.SequentialSampler(self.train_dataset)

    def compute_loss(
        self, model: Any, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        ids = inputs["input_ids"]
        recorder = FocusRecorder(self.recipe.focus_layers)
        length = ids.shape[1]
        count = max(1, round(self.recipe.lm_positions * (length - 1)))
        positions = torch.randperm(length - 1, device=ids.device)[:count]
        outputs = model(input_ids=ids, use_cache=False, logits_to_keep=positions, ladm_recorder=recorder)
        losses = torch.nn.functional.cross_entropy(
            outputs.logits.flatten(0, 1).float(), ids[:, positions + 1].flatten(), reduction="none"
        )
        is_language = inputs["is_language"].float()
        lm = (losses.view(len(ids), -1).mean(1) * is_language).sum() / is_language.sum().clamp(min=1)
        self._parts.setdefault("lm_loss", []).append(lm.detach())
        loss = self.recipe.lm_weight * lm
        if recorder.layers:
            with torch.autocast(ids.device.type, enabled=False):
                focus = [self._view_loss(view, recorder, inputs) for view in self.recipe.focus_views]
            loss = loss + self.recipe.focus_weight * torch.stack(focus).mean()
        return (loss, outputs) if return_outputs else loss

    def _view_loss(self, view: View, recorder: FocusRecorder, inputs: dict[str, Tensor]) -> Tensor:
        name, heads = view
        losses = [
            same_document_loss(*_of_heads(q, k, heads), inputs[name], scale) for q, k, scale in recorder.kept.values()
        ]
        loss = torch.stack(losses).mean()
        self._parts.setdefault(f"{name.removesuffix('_labels')}_loss", []).append(loss.detach())
        return loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs:
            for name, values in self._parts.items():
                if values:
                    logs[name] = round(float(torch.stack(values).mean()), 4)
            self._parts = {}
        super().log(logs, *args, **kwargs)


def _of_heads(q: Tensor, k: Tensor, heads: tuple[int, ...] | None) -> tuple[Tensor, Tensor]:
    """Queries of these heads, `[B, N, T, D]`, and the keys of each."""
    if heads is None:
        return q, k
    group = q.shape[1] // k.shape[1]
    return q[:, list(heads)], k[:, [head // group for head in heads]]


def train_calculator(
    documents: Sequence[TokenizedDocument],
    tokenizer: PreTrainedTokenizerBase,
    output_dir: str | Path,
    recipe: Recipe | None = None,
    *,
    base: str | Path | None = None,
    architecture: Architecture | None = None,
    resume: bool = False,
    compile: bool = False,
    gradient_checkpointing: bool = False,
    save_steps: int = 500,
    logging_steps: int = 20,
    num_workers: int = 0,
    callbacks: Sequence[TrainerCallback] = (),
) -> Path:
    """Trains a calculator and writes it, in bfloat16 with its tokenizer, as a folder that `LadmScorer` loads.

    Under `accelerate launch` or `torchrun` every process calls this; windows are shared out by the Trainer.

    Args:
        documents (sequence of [`TokenizedDocument`]): see `tokenize_documents`.
        tokenizer: of the calculator; saved beside it.
        output_dir (`str` or path): gets the model, `training.json` (recipe, versions, losses), `loss.png` where
            matplotlib is there, and `checkpoints/`.
        recipe ([`Recipe`], *optional*): what the result depends on.
        base (`str` or path, *optional*): folder or Hub id of a model to start from; `None` starts from scratch.
        architecture ([`Architecture`], *optional*): of a model from scratch. With a base, the layers and the MLP width
            that it is expanded to before training, without a change of what it computes (see
            `ladm_hf.training.expansion`).
        resume (`bool`, *optional*, defaults to `False`): resume from the last checkpoint in `output_dir`.
        compile (`bool`, *optional*, defaults to `False`): compile the layers; worth it on a GPU.
        gradient_checkpointing (`bool`, *optional*, defaults to `False`): compute activations twice instead of keeping
            them; a 1B model needs it for windows of 32k.
        save_steps, logging_steps (`int`, *optional*): steps between checkpoints, between lines of the log.
        num_workers (`int`, *optional*, defaults to `0`): processes that make windows.
        callbacks (sequence of `TrainerCallback`, *optional*): passed to the Trainer.

    Returns:
        `output_dir`.

    Raises:
        InputError: too few documents are left for training, or `resume=True` and there is no checkpoint.
    """
    recipe = recipe or Recipe()
    output_dir = Path(output_dir)
    kept = [
        document
        for document, out in zip(documents, held_out(documents, recipe.held_out, recipe.seed), strict=True)
        if not out
    ]
    if base is None and architecture is None:
        architecture = Architecture(vocab_size=len(tokenizer))
    model = build_model(base, architecture, recipe)
    arguments = _arguments(output_dir, recipe, save_steps, logging_steps, num_workers)
    if gradient_checkpointing:
        # renamed in transformers 5
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    micro_steps = recipe.steps * arguments.gradient_accumulation_steps * arguments.world_size
    windows = _curriculum(kept, recipe, micro_steps, tokenizer)
    AttentionInterface.register(ATTENTION, torch.compiler.disable(ladm_attention))
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)
    model.set_attn_implementation(ATTENTION)
    if compile:
        blocks = model._no_split_modules or ()
        for module in model.modules():
            if type(module).__name__ in blocks:
                module.compile()
    trainer = CalculatorTrainer(
        recipe,
        model=model,
        args=arguments,
        train_dataset=windows,
        data_collator=_only_batch,
        callbacks=list(callbacks),
    )
    checkpoint = None
    if resume:
        checkpoint = get_last_checkpoint(arguments.output_dir) if Path(arguments.output_dir).is_dir() else None
        if checkpoint is None:
            raise InputError(f"there is no checkpoint to resume from in {arguments.output_dir}")
    trainer.train(resume_from_checkpoint=checkpoint)
    if trainer.is_world_process_zero():
        _write(output_dir, trainer, tokenizer, recipe, base, kept)
    trainer.accelerator.wait_for_everyone()
    return output_dir


def _arguments(
    output_dir: Path, recipe: Recipe, save_steps: int, logging_steps: int, num_workers: int
) -> TrainingArguments:
    cuda = torch.cuda.is_available()
    arguments = TrainingArguments(
        output_dir=str(output_dir / "checkpoints"),
        max_steps=recipe.steps,
        per_device_train_batch_size=1,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type=recipe.schedule if recipe.schedule != "constant" else "constant_with_warmup",
        warmup_steps=round(recipe.warmup * recipe.steps),
        weight_decay=recipe.weight_decay,
        adam_beta2=0.95,
        max_grad_norm=1.0,
        optim="adamw_torch_fused" if cuda else "adamw_torch",
        bf16=cuda and torch.cuda.is_bf16_supported(),
        use_cpu=not cuda and not torch.backends.mps.is_available(),
        save_steps=save_steps,
        save_total_limit=2,
        logging_steps=logging_steps,
        logging_nan_inf_filter=False,
        report_to=[],
        ddp_find_unused_parameters=False,
        remove_unused_columns=False,
        dataloader_num_workers=num_workers,
        dataloader_pin_memory=cuda,
        seed=recipe.seed,
    )
    # several devices in one process would split a micro-batch that is one item; use accelerate launch for them
    arguments._n_gpu = min(1, arguments.n_gpu)
    per_step = recipe.micro_batch_tokens * arguments.world_size
    arguments.gradient_accumulation_steps = max(1, math.ceil(recipe.batch_tokens / per_step))
    return arguments


def _curriculum(
    documents: Sequence[TokenizedDocument], recipe: Recipe, micro_steps: int, tokenizer: PreTrainedTokenizerBase
) -> Curriculum:
    total = sum(share for _, share in recipe.stages)
    ends = np.cumsum([share / total for _, share in recipe.stages]) * micro_steps
    counts = np.diff(np.r_[0, np.round(ends)]).astype(int).tolist()
    stages = []
    for number, ((length, _), count) in enumerate(zip(recipe.stages, counts, strict=True)):
        windows = count * max(1, recipe.micro_batch_tokens // length)
        seed = recipe.seed * 1000 + number
        dataset = WindowDataset(documents, length, windows, recipe.mix, seed, tokenizer, tokenizer.eos_token_id)
        stages.append((dataset, count))
    return Curriculum(stages, recipe.micro_batch_tokens)


def _only_batch(batches: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return batches[0]


def _write(
    output_dir: Path,
    trainer: CalculatorTrainer,
    tokenizer: PreTrainedTokenizerBase,
    recipe: Recipe,
    base: str | Path | None,
    documents: Sequence[TokenizedDocument],
) -> None:
    import transformers

    model = trainer.accelerator.unwrap_model(trainer.model)
    model.to(torch.bfloat16).save_pretrained(output_dir)
    tokenizer.save_pretrained(output_dir)
    history = [line for line in trainer.state.log_history if "loss" in line]
    record = {
        "ladm_hf": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "base": None if base is None else str(base),
        "architecture": asdict(Architecture.of(model.config)),
        "parameters": model.num_parameters(),
        "documents": len(documents),
        "document_tokens": sum(len(document.ids) for document in documents),
        "trained_tokens": trainer.train_dataset.num_tokens,
        "seconds": next((line["train_runtime"] for line in trainer.state.log_history if "train_runtime" in line), None),
        "recipe": asdict(recipe),
        "losses": history,
    }
    (output_dir / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    plot_losses(history, output_dir / "loss.png")
