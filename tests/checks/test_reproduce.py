"""`ladm reproduce` against a fake Hub that serves stand-ins under the paper's names."""

import math

import pytest
from datasets import Dataset
from huggingface_hub import HfApi
from typer.testing import CliRunner

from fake_hub.fixtures import fake_hub, hub_process  # noqa: F401
from ladm_hf.checks.reproduce import DATASET, MODEL, PUBLISHED, Comparison, reproduce
from ladm_hf.cli.app import app
from ladm_hf.errors import ColumnError, HubError, InputError
from ladm_hf.publishing.retry import RetryPolicy

HURRIED = RetryPolicy(tries=3, first_wait=0.01, longest_wait=0.02, timeout=5.0)


@pytest.fixture
def stand_ins(fake_hub, tmp_path):
    """A tiny random Llama and 32 documents of 2,305 tokens or more, under the paper's names."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=4096,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path / "model")
    api = HfApi()
    api.create_repo(MODEL)
    api.upload_folder(repo_id=MODEL, folder_path=tmp_path / "model")
    numbers = torch.randint(0, 64, (32, 2400)).tolist()
    Dataset.from_dict({"input_ids": numbers}).push_to_hub(DATASET)
    return fake_hub


def test_stand_ins_are_scored_and_do_not_pass_as_the_papers(stand_ins):
    result = reproduce(rows=3, device="cpu", retry=HURRIED)
    assert len(result.scores) == 3
    assert all(score > 0 for score in result.scores)
    assert not result.passed
    assert "FAIL" in result.table()
    same = reproduce(rows=3, device="cpu", reference=result.scores, retry=HURRIED)
    assert same.passed
    assert same.largest_difference < 1e-6
    done = CliRunner().invoke(app, ["reproduce", "--rows", "2", "--device", "cpu"])
    assert done.exit_code == 1
    assert "largest difference" in done.output


def test_what_is_missing_is_said(stand_ins):
    with pytest.raises(HubError, match="tester/gone cannot be loaded"):
        reproduce(dataset="tester/gone", retry=HURRIED)
    Dataset.from_dict({"text": ["a"] * 40}).push_to_hub("tester/text")
    with pytest.raises(ColumnError, match="input_ids"):
        reproduce(dataset="tester/text", retry=HURRIED)
    Dataset.from_dict({"input_ids": [[1, 2]]}).push_to_hub("tester/short")
    with pytest.raises(InputError, match="1 rows, expected 32"):
        reproduce(dataset="tester/short", retry=HURRIED)


def test_comparison():
    assert len(PUBLISHED) == 32
    same = Comparison(PUBLISHED, PUBLISHED, 0.001, "m", "d")
    assert same.passed
    assert same.rank_correlation == pytest.approx(1.0)
    off = Comparison((PUBLISHED[0] + 0.01, *PUBLISHED[1:]), PUBLISHED, 0.001, "m", "d")
    assert not off.passed
    assert off.largest_difference == pytest.approx(0.01)
    without = Comparison((math.nan, *PUBLISHED[1:]), PUBLISHED, 0.001, "m", "d")
    assert without.largest_difference == math.inf
    assert not without.passed
    assert math.isnan(Comparison((0.1,), (0.1,), 0.001, "m", "d").rank_correlation)
