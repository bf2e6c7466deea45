from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ladm_hf import LadmConfig, LadmScorer
from ladm_hf.errors import ConfigError, InputError
from ladm_hf.training.batches import Curriculum
from ladm_hf.training.documents import TokenizedDocument
from ladm_hf.training.mix import KINDS, WindowMix
from ladm_hf.training.model import build_model
from ladm_hf.training.recipe import PAPER, Architecture, Recipe
from ladm_hf.training.tokenizer import train_tokenizer
from ladm_hf.training.trainer import train_calculator
from ladm_hf.training.windows import WindowDataset

TINY = Architecture(
    vocab_size=300,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
)


@pytest.fixture(scope="module")
def tokenizer():
    words = [f"word{i} other{i * 7 % 31}" for i in range(400)]
    return train_tokenizer([" ".join(words)] * 3, vocab_size=300)


@pytest.fixture
def documents() -> list[TokenizedDocument]:
    rng = np.random.default_rng(0)
    return [
        TokenizedDocument(
            rng.integers(1, 280, int(rng.integers(200, 3000))).astype(np.int32), f"d{i % 2}", f"s{i % 12}", key=str(i)
        )
        for i in range(40)
    ]


def recipe(**options) -> Recipe:
    values = {
        "stages": ((1024, 0.5), (2048, 0.5)), "steps": 4, "batch_tokens": 4096, "micro_batch_tokens": 2048,
        "focus_layers": (1,), "held_out": 0.2, "lm_positions": 0.25,
        "mix": WindowMix(renamed=0.2, shuffled=0.2, degenerate=0.2),
    }  # fmt: skip
    return Recipe(**values | options)


def test_training_writes_a_calculator_and_its_record(tmp_path, tokenizer, documents) -> None:
    train_calculator(documents, tokenizer, tmp_path, recipe(), architecture=TINY, logging_steps=1, save_steps=2)
    record = json.loads((tmp_path / "training.json").read_text())
    assert record["recipe"]["steps"] == 4
    assert record["trained_tokens"] == 4 * 4096
    assert 0 < record["documents"] < len(documents)
    assert [line["step"] for line in record["losses"]] == [1, 2, 3, 4]
    assert all(line["lm_loss"] > 0 and line["document_loss"] > 0 for line in record["losses"])
    assert record["architecture"]["num_hidden_layers"] == 2
    assert (tmp_path / "loss.png").stat().st_size > 5000
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"checkpoint-2", "checkpoint-4"}
    weights = load_file(tmp_path / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}
    scorer = LadmScorer(tmp_path, config=LadmConfig(span_length=16, max_length=2048))
    assert scorer.score_texts(["word1 other7 " * 300])[0].status == "ok"


def test_same_seed_same_weights_and_another_seed_others(tmp_path, tokenizer, documents) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train_calculator(documents, tokenizer, tmp_path / name, recipe(steps=2, seed=seed), architecture=TINY)
    a, b, c = (load_file(tmp_path / name / "model.safetensors") for name in "abc")
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not all(torch.equal(a[key], c[key]) for key in a)


# of the Trainer of transformers 5.0, where checkpoints are written within a second
@pytest.mark.filterwarnings("ignore:mtime may not be reliable")
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(tmp_path, tokenizer, documents) -> None:
    from transformers import TrainerCallback

    class Stop(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            raise KeyboardInterrupt

    options = {"architecture": TINY, "save_steps": 2}
    train_calculator(documents, tokenizer, tmp_path / "whole", recipe(), **options)
    with pytest.raises(KeyboardInterrupt):
        train_calculator(documents, tokenizer, tmp_path / "parts", recipe(), callbacks=[Stop()], **options)
    train_calculator(documents, tokenizer, tmp_path / "parts", recipe(), resume=True, **options)
    whole, parts = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


def test_checkpointing_activations_changes_nothing(tmp_path, tokenizer, documents) -> None:
    for name, switch in (("plain", False), ("saving", True)):
        train_calculator(
            documents, tokenizer, tmp_path / name, recipe(steps=2), architecture=TINY, gradient_checkpointing=switch
        )
    plain, saving = (load_file(tmp_path / name / "model.safetensors") for name in ("plain", "saving"))
    assert all(torch.allclose(plain[key].float(), saving[key].float(), atol=1e-3) for key in plain)


def test_going_on_from_a_base(tmp_path, tokenizer, documents) -> None:
    train_calculator(documents, tokenizer, tmp_path / "base", recipe(steps=1), architecture=TINY)
    base = tmp_path / "base"
    model = build_model(base, None, recipe(rope_theta=1234.0, max_position_embeddings=65536))
    assert model.config.max_position_embeddings == 65536
    assert model.config.rope_parameters["rope_theta"] == 1234.0
    train_calculator(
        documents, tokenizer, tmp_path / "more", recipe(steps=1, focus_layers=(), schedule="constant"), base=base
    )
    line = json.loads((tmp_path / "more" / "training.json").read_text())
    assert line["base"] == str(base)


def test_a_base_grows_before_it_is_trained(tmp_path, tokenizer, documents) -> None:
    train_calculator(documents, tokenizer, tmp_path / "base", recipe(steps=1), architecture=TINY)
    larger = replace(TINY, num_hidden_layers=3, intermediate_size=64)
    options = recipe(steps=1, focus_layers=(2,))
    train_calculator(documents, tokenizer, tmp_path / "more", options, base=tmp_path / "base", architecture=larger)
    record = json.loads((tmp_path / "more" / "training.json").read_text())
    assert record["architecture"] == asdict(larger)
    with pytest.raises(ConfigError, match="hidden_size is 32 in the base and 64"):
        build_model(tmp_path / "base", replace(larger, hidden_size=64), options)


def test_each_view_is_learnt_by_its_own_heads(tmp_path, tokenizer, documents) -> None:
    views = (("text_labels", (1,)),)
    mix = WindowMix(natural=0, interleaved=0, spliced=0, joined=0, degenerate=1, generated=1.0)
    options = recipe(steps=2, focus_views=views, mix=mix, weight_decay=0.0, schedule="constant", warmup=0.0)
    model = build_model(None, TINY, options)
    before = model.model.layers[1].self_attn.q_proj.weight.detach().clone().to(torch.bfloat16)
    train_calculator(documents, tokenizer, tmp_path, options, architecture=TINY, logging_steps=1)
    lines = json.loads((tmp_path / "training.json").read_text())["losses"]
    # degenerate windows are no language, and belong to no text
    assert all(line["lm_loss"] == 0 and line["text_loss"] > 0 and "document_loss" not in line for line in lines)
    after = load_file(tmp_path / "model.safetensors")["model.layers.1.self_attn.q_proj.weight"]
    changed = (before != after).any(1).unflatten(0, (2, 16)).any(1)
    assert changed.tolist() == [False, True]


def test_recipes_that_cannot_work_are_refused(tmp_path, tokenizer, documents) -> None:
    for options, message in (
        ({"stages": ()}, "stages"),
        ({"stages": ((1000, 1.0),)}, "multiples of 128"),
        ({"stages": ((1024, 0.0),)}, "shares"),
        ({"stages": ((65536, 1.0),)}, "max_position_embeddings"),
        ({"steps": 0}, "steps"),
        ({"seed": -1}, "seed"),
        ({"lm_positions": 0.0}, "lm_positions"),
        ({"held_out": 1.0}, "held_out"),
        ({"schedule": "steps"}, "schedule"),
        ({"lm_weight": 0.0, "focus_layers": ()}, "nothing to train"),
        ({"focus_views": (("topic_labels", None),)}, "topic_labels"),
        ({"focus_views": ()}, "focus_views"),
        ({"focus_views": (("text_labels", ()),)}, "heads of each view"),
    ):
        with pytest.raises(ConfigError, match=message):
            recipe(**options)
    with pytest.raises(ConfigError, match="layer 7"):
        build_model(None, TINY, recipe(focus_layers=(7,)))
    with pytest.raises(ConfigError, match="head 2"):
        build_model(None, TINY, recipe(focus_views=(("text_labels", (0, 2)),)))
    with pytest.raises(InputError, match="no checkpoint"):
        train_calculator(documents, tokenizer, tmp_path, recipe(), architecture=TINY, resume=True)


def test_the_papers_recipe_is_natural_windows_of_32k() -> None:
    assert PAPER.stages == ((32768, 1.0),)
    assert PAPER.batch_tokens == 2**20
    assert PAPER.rope_theta == 500_000
    assert not PAPER.focus_layers
    shares = {kind: getattr(PAPER.mix, kind) for kind in KINDS if kind != "natural"}
    assert set(shares.values()) == {0.0}
    assert PAPER.mix.flattened == 0


def test_a_curriculum_goes_from_short_windows_to_long_ones(documents) -> None:
    short, long = (WindowDataset(documents, length, 100) for length in (1024, 2048))
    curriculum = Curriculum([(short, 3), (long, 2)], 4096)
    assert [tuple(curriculum[i]["input_ids"].shape) for i in range(len(curriculum))] == [(4, 1024)] * 3 + [
        (2, 2048)
    ] * 2
    assert torch.equal(curriculum[1]["input_ids"][0], short[4]["input_ids"])
    assert curriculum.num_tokens == 5 * 4096
    with pytest.raises(IndexError):
        curriculum[5]


def test_the_tokenizer_encodes_any_text(tokenizer) -> None:
    for text in ("word1", "naïve ☃ 漢字\x00", ""):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.eos_token_id == 0
    assert len(tokenizer) == 300
