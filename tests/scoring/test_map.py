"""`Dataset.map(scorer, batched=True)` in all its forms, and the fingerprint that makes its cache work."""

from __future__ import annotations

import functools
import os
import pickle
import subprocess
import sys
from pathlib import Path

import dill
import pytest
import torch
from conftest import ROOT, SMALL, random_ids, tiny_model, torch_threads
from datasets import Dataset, DatasetDict, Features
from datasets.fingerprint import Hasher

from ladm_hf import LadmConfig, LadmScorer, ladm_score
from ladm_hf.errors import BackendError
from ladm_hf.scoring.engine import Engine
from ladm_hf.scoring.identity import SCHEMA_VERSION

LENGTHS = [400, 350, 900, 100, 600, 500]


@pytest.fixture
def scorer(llama_folder: Path) -> LadmScorer:
    return LadmScorer(llama_folder, config=SMALL)


@pytest.fixture
def dataset() -> Dataset:
    return Dataset.from_dict({"input_ids": [random_ids(n, seed=n) for n in LENGTHS], "id": list(range(len(LENGTHS)))})


def columns(dataset) -> list[tuple[str, int, str]]:
    return [(repr(float(row["ladm_score"])), row["ladm_num_tokens"], row["ladm_status"]) for row in dataset]


@pytest.mark.parametrize("batch_size", [1, 2, 1000])
def test_batch_size_changes_nothing(scorer: LadmScorer, dataset: Dataset, batch_size: int) -> None:
    expected = [(repr(s.score), s.num_tokens, s.status) for s in scorer.score_input_ids(dataset["input_ids"])]
    scored = dataset.map(scorer, batched=True, batch_size=batch_size)
    assert columns(scored) == expected
    assert scored["id"] == dataset["id"]
    assert scored.features["ladm_score"].dtype == "float64"
    assert scored.features["ladm_num_tokens"].dtype == "int32"


@pytest.mark.parametrize("num_proc", [1, 2])
def test_workers_forked_after_torch_was_used(scorer: LadmScorer, dataset: Dataset, num_proc: int) -> None:
    # a fork of a process that has used torch's threads hangs at its own first use of them
    with torch_threads(2):
        torch.randn(500, 500) @ torch.randn(500, 500)
        expected = columns(dataset.map(scorer, batched=True))
        scored = dataset.map(scorer, batched=True, num_proc=num_proc, with_rank=True, load_from_cache_file=False)
    assert columns(scored) == expected


def test_streaming_partial_and_rank(scorer: LadmScorer, dataset: Dataset) -> None:
    expected = columns(dataset.map(scorer, batched=True))
    stream = dataset.to_iterable_dataset(num_shards=2)
    assert columns(stream.map(scorer, batched=True, batch_size=4)) == expected
    assert columns(dataset.map(functools.partial(scorer, rank=0), batched=True)) == expected
    assert columns(dataset.map(scorer, batched=True, with_rank=True)) == expected
    features = Features({**dataset.features, **scorer.features})
    with_features = stream.map(scorer, batched=True, features=features)
    assert with_features.features == features
    assert columns(with_features) == expected


def test_dataset_dict_formats_and_input_columns(scorer: LadmScorer, dataset: Dataset) -> None:
    expected = columns(dataset.map(scorer, batched=True))
    splits = DatasetDict({"train": dataset, "test": dataset.select([0, 3])}).map(scorer, batched=True)
    assert columns(splits["train"]) == expected
    assert columns(splits["test"]) == [expected[0], expected[3]]
    for form in ("numpy", "torch", "arrow", "pandas"):
        scored = dataset.with_format(form).map(scorer, batched=True)
        assert columns(scored.with_format(None)) == expected
    only_scores = dataset.map(scorer, batched=True, input_columns="input_ids", remove_columns=["id"])
    assert columns(only_scores) == expected


def test_empty_and_all_bad_datasets(scorer: LadmScorer, dataset: Dataset) -> None:
    assert len(dataset.select([]).map(scorer, batched=True)) == 0
    nothing = dataset.to_iterable_dataset().filter(lambda row: False)
    assert list(nothing.map(scorer, batched=True)) == []
    bad = Dataset.from_dict({"text": [None, "", None]}).map(LadmScorer(config=SMALL), batched=True, batch_size=1)
    assert bad["ladm_status"] == ["null", "empty", "null"]
    assert bad.features["ladm_score"].dtype == "float64"


def fingerprint_in_another_process(code: str) -> str:
    program = f"from datasets.fingerprint import Hasher\nfrom ladm_hf import *\nprint(Hasher.hash({code}))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "7"}
    return subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    ).stdout.strip()


def test_without_the_private_hook_of_datasets_a_scorer_still_maps() -> None:
    program = (
        "import datasets.utils._dill as dill; del dill.pklregister\n"
        "from datasets import Dataset\n"
        "from ladm_hf import ladm_score\n"
        "rows = Dataset.from_dict({'text': ['too short']}).map(ladm_score, batched=True, num_proc=1)\n"
        "assert rows['ladm_status'] == ['too_short'], rows['ladm_status']\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def test_the_fingerprint_is_stable(scorer: LadmScorer, llama_folder: Path) -> None:
    before = Hasher.hash(scorer)
    scorer.score_input_ids([random_ids(400)])
    assert Hasher.hash(scorer) == before
    code = f"LadmScorer({str(llama_folder)!r}, config=LadmConfig(max_length=2048, span_length=16))"
    assert fingerprint_in_another_process(code) == before
    assert fingerprint_in_another_process("ladm_score") == Hasher.hash(ladm_score)
    assert Hasher.hash(functools.partial(scorer, rank=1)) == Hasher.hash(functools.partial(scorer, rank=1))


def test_what_changes_only_speed_leaves_the_fingerprint_alone(llama_folder: Path) -> None:
    expected = Hasher.hash(LadmScorer(llama_folder, config=SMALL))
    for options in ({"max_batch_tokens": 5000}, {"backend": "chunked"}, {"device": "cpu"}, {"dtype": "float32"}):
        assert Hasher.hash(LadmScorer(llama_folder, config=SMALL, **options)) == expected


def test_what_changes_the_numbers_changes_the_fingerprint(llama_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {Hasher.hash(LadmScorer(llama_folder, config=SMALL))}
    for other in (
        LadmScorer(llama_folder),
        LadmScorer(llama_folder, config=LadmConfig(span_length=16, max_length=2048, ablation="no_std")),
        LadmScorer(llama_folder, config=SMALL, dtype="bfloat16"),
        LadmScorer(llama_folder, config=SMALL, text_column="body"),
        LadmScorer(config=SMALL),
    ):
        seen.add(Hasher.hash(other))
    monkeypatch.setattr("ladm_hf.scoring.scorer.SCHEMA_VERSION", SCHEMA_VERSION + 1)
    seen.add(Hasher.hash(LadmScorer(llama_folder, config=SMALL)))
    monkeypatch.undo()
    tiny_model(initializer_range=0.5).save_pretrained(llama_folder)
    seen.add(Hasher.hash(LadmScorer(llama_folder, config=SMALL)))
    assert len(seen) == 8


def test_the_fingerprint_follows_a_model_that_changes_in_place(llama_folder: Path) -> None:
    model = tiny_model()
    scorer, folder = LadmScorer(model, config=SMALL), LadmScorer(llama_folder, config=SMALL)
    before = Hasher.hash(scorer), Hasher.hash(folder)
    with torch.no_grad():
        model.embed_tokens.weight[0, 0] += 1
    model.save_pretrained(llama_folder)
    assert Hasher.hash(scorer) != before[0]
    assert Hasher.hash(folder) != before[1]


@pytest.mark.parametrize("pickler", [pickle, dill])
def test_pickles_without_its_model(scorer: LadmScorer, pickler) -> None:
    expected = scorer.score_input_ids([random_ids(400)])
    data = pickler.dumps(scorer)
    assert len(data) < 3000
    copy = pickler.loads(data)
    assert copy._loader._loaded is None
    assert copy.identity == scorer.identity
    assert copy.score_input_ids([random_ids(400)]) == expected


def test_runtime_choices_travel_to_the_worker(llama_folder: Path) -> None:
    scorer = LadmScorer(
        llama_folder, config=SMALL, max_batch_tokens=77, backend="naive", device="cpu", on_error="raise"
    )
    copy = pickle.loads(pickle.dumps(scorer))
    loader = copy._loader
    assert (loader.max_batch_tokens, loader.backend, loader.asked_device) == (77, "naive", "cpu")
    assert copy.on_error == "raise"


def test_a_live_model_travels_with_its_scorer(dataset: Dataset) -> None:
    scorer = LadmScorer(tiny_model(), config=SMALL)
    expected = columns(dataset.map(scorer, batched=True))
    assert columns(dataset.map(scorer, batched=True, num_proc=2, load_from_cache_file=False)) == expected
    assert Hasher.hash(scorer) == Hasher.hash(LadmScorer(tiny_model(), config=SMALL))


def test_a_second_map_comes_from_the_cache(scorer: LadmScorer, dataset: Dataset, tmp_path: Path, monkeypatch) -> None:
    dataset.save_to_disk(tmp_path / "data")
    on_disk = Dataset.load_from_disk(str(tmp_path / "data"))
    expected = columns(on_disk.map(scorer, batched=True))

    def refuse(self, documents):
        raise AssertionError("scored again")

    monkeypatch.setattr(Engine, "measure", refuse)
    again = LadmScorer(scorer.calculator.path, config=SMALL, max_batch_tokens=10_000)
    assert columns(on_disk.map(again, batched=True)) == expected


def test_cuda_used_before_a_fork_gets_the_remedy(scorer: LadmScorer, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments):
        raise RuntimeError("Cannot re-initialize CUDA in forked subprocess. To use CUDA with multiprocessing ...")

    monkeypatch.setattr("ladm_hf.calculators.calculator.Calculator.load_model", refuse)
    with pytest.raises(BackendError, match=r"multiprocess\.set_start_method\('spawn'\)"):
        scorer.score_input_ids([random_ids(400)])


def test_the_rank_picks_the_gpu(scorer: LadmScorer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [scorer._loader.device(rank) for rank in (None, 0, 1, 2, 5)] == [
        "cuda:0", "cuda:0", "cuda:1", "cuda:0", "cuda:1",
    ]  # fmt: skip
    assert scorer.dtype == "float16"
    assert LadmScorer(scorer.calculator.path, device="cpu").dtype == "float32"


def test_real_documents_score_the_same_everywhere(corpus) -> None:
    """One hundred documents of mixed length: one process, two processes, and a stream."""
    documents = sorted((row for row in corpus if row["kind"] == "long"), key=lambda row: row["id"])
    short = [row for row in corpus if row["kind"] == "short"][:20]
    texts = [row["text"][: 6_000 + 450 * i] for i, row in enumerate(documents[:80])] + [row["text"] for row in short]
    dataset = Dataset.from_dict({"text": texts})
    scorer = LadmScorer(config=LadmConfig(max_length=3072, heads=((0, 2), (1, 0))))
    expected = columns(dataset.map(scorer, batched=True, batch_size=16))
    assert len(expected) == 100
    assert sum(status == "ok" for *_, status in expected) >= 40
    assert columns(dataset.map(scorer, batched=True, num_proc=2, load_from_cache_file=False)) == expected
    assert columns(dataset.to_iterable_dataset().map(scorer, batched=True)) == expected
