"""Training on packed data: two steps in the trainers, and attention that stays within documents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, load_dataset
from test_pack import NANO, OPTIONS, texts
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
    Trainer,
    TrainingArguments,
    default_data_collator,
)

from ladm_hf import pack

ARGUMENTS: dict[str, Any] = {
    "max_steps": 2, "per_device_train_batch_size": 2, "report_to": [], "logging_steps": 1, "use_cpu": True,
    "save_strategy": "no", "disable_tqdm": True, "dataloader_pin_memory": False, "seed": 0,
}  # fmt: skip


def model(attention: str = "sdpa") -> PreTrainedModel:
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "llama", vocab_size=len(NANO), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, pad_token_id=0, bos_token_id=None, eos_token_id=0,
        attn_implementation=attention, use_cache=False,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def packed(folder: Path, documents: list[str] | None = None, **options: Any) -> Dataset:
    pack(Dataset.from_dict({"text": documents or texts(60)}), folder, **OPTIONS | options)
    return load_dataset("parquet", data_files=str(folder / "data" / "*.parquet"), split="train")


def losses(trainer: Trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def expected_loss(network: PreTrainedModel, rows: list[dict[str, Any]]) -> float:
    """The mean loss over the tokens of documents, each document by itself."""
    total, count = 0.0, 0
    for row in rows:
        at = 0
        for size in row["seq_lengths"]:
            ids = torch.tensor([row["input_ids"][at : at + size]])
            if size > 1 and set(ids[0].tolist()) != {NANO.pad_token_id}:
                with torch.no_grad():
                    total += network(input_ids=ids, labels=ids).loss.item() * (size - 1)
                count += size - 1
            at += size
    return total / count


def test_trainer_learns_from_packed_data_as_from_single_documents(tmp_path: Path) -> None:
    dataset = packed(tmp_path / "packed")
    network = model()
    trainer = Trainer(
        network,
        TrainingArguments(output_dir=str(tmp_path / "trainer"), **ARGUMENTS),
        train_dataset=dataset,
        data_collator=default_data_collator,
    )
    first: list[dict[str, Any]] = []
    compute = trainer.compute_loss

    def noting(network: Any, inputs: dict[str, Any], *args: Any, **options: Any) -> Any:
        assert set(inputs) == {"input_ids", "labels", "position_ids"}
        first.extend({"input_ids": ids} for ids in inputs["input_ids"].tolist())
        return compute(network, inputs, *args, **options)

    trainer.compute_loss = noting  # type: ignore[method-assign]
    trainer.train()
    rows = {tuple(row["input_ids"]): row for row in dataset}
    assert losses(trainer)[0] == pytest.approx(
        expected_loss(model(), [rows[tuple(row["input_ids"])] for row in first[:2]]), abs=2e-4
    )
    assert len(losses(trainer)) == 2
    start = model().state_dict()
    assert any(not torch.equal(start[name], value) for name, value in network.state_dict().items())


@pytest.mark.parametrize("boundaries", ["position_ids", "seq_lengths"])
def test_sft_trainer_learns_from_packed_data_as_from_single_documents(boundaries: Any, tmp_path: Path) -> None:
    trl = pytest.importorskip("trl")
    dataset = packed(tmp_path / "packed", boundaries=boundaries)
    trainer = trl.SFTTrainer(
        model(),
        trl.SFTConfig(
            output_dir=str(tmp_path / "trl"), padding_free=True, max_length=None, shuffle_dataset=False, bf16=False,
            gradient_checkpointing=False, **ARGUMENTS,
        ),
        train_dataset=dataset,
        processing_class=NANO,
    )  # fmt: skip
    batch = next(iter(trainer.get_train_dataloader()))
    assert "attention_mask" not in batch
    wanted = expected_loss(model(), _rows_of(batch, dataset))
    trainer.train()
    assert losses(trainer)[0] == pytest.approx(wanted, abs=2e-4)
    assert len(losses(trainer)) == 2


def _rows_of(batch: dict[str, torch.Tensor], dataset: Dataset) -> list[dict[str, Any]]:
    """The rows that were flattened into a batch."""
    ids, rows, at = batch["input_ids"][0].tolist(), list(dataset), 0
    found = []
    while at < len(ids):
        row = next(row for row in rows if ids[at : at + len(row["input_ids"])] == row["input_ids"])
        found.append(row)
        at += len(row["input_ids"])
    assert len(found) == 2
    return found


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_document_does_not_see_its_neighbours(attention: str, tmp_path: Path) -> None:
    """Another neighbour of the same length changes nothing of the others, in a batch as the trainer makes it."""
    row = max(packed(tmp_path / "packed"), key=lambda row: len(row["seq_lengths"]))
    lengths = row["seq_lengths"]
    assert len(lengths) > 3
    changed = {**row, "input_ids": list(row["input_ids"]), "labels": list(row["labels"])}
    start = lengths[0]
    for n in range(start, start + lengths[1]):
        changed["input_ids"][n] = 1 + (changed["input_ids"][n] + 7) % 4000
    names = ("input_ids", "labels", "position_ids")
    network = model(attention).eval()

    def logits(rows: list[dict[str, Any]]) -> torch.Tensor:
        batch = default_data_collator([{name: each[name] for name in names} for each in rows])
        with torch.no_grad():
            return network(**batch).logits

    before, after = logits([row, row]), logits([changed, row])
    others = torch.ones(len(row["input_ids"]), dtype=torch.bool)
    others[start : start + lengths[1]] = False
    assert torch.equal(before[0, others], after[0, others])
    assert not torch.allclose(before[0, ~others], after[0, ~others])
    # the test would fail if attention crossed documents
    whole = network(torch.tensor([row["input_ids"]])).logits
    crossed = network(torch.tensor([changed["input_ids"]])).logits
    behind = torch.arange(len(others)) >= start + lengths[1]
    assert not torch.allclose(whole[0, behind], crossed[0, behind])


def test_a_sequence_of_documents_scores_as_its_documents_alone(tmp_path: Path) -> None:
    rows = list(packed(tmp_path / "packed"))[:3]
    names = ("input_ids", "labels", "position_ids")
    batch = default_data_collator([{name: row[name] for name in names} for row in rows])
    with torch.no_grad():
        loss = model()(**batch).loss.item()
    assert loss == pytest.approx(expected_loss(model(), rows), abs=1e-5)
