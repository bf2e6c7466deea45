"""`Ladm` as a metric of `evaluate`, in one process and over ranks."""

from __future__ import annotations

import fractions
import heapq
import inspect
import json
import math
import multiprocessing
import os
import pickle
import socket
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import evaluate
import numpy as np
import pytest
from accelerate import PartialState

from ladm_hf import LadmConfig, LadmScorer
from ladm_hf.errors import BackendError, ConfigError, HubError, InputError, LadmError
from ladm_hf.integrations.evaluate import Ladm, _sizes, score_distributed, split_by_size
from ladm_hf.ranks import Ranks

ROOT = Path(__file__).parents[2]
CONFIG = LadmConfig.paper(span_length=16, heads=((1, 0), (3, 1)), max_length=1024)
DOCUMENTS = [inspect.getsource(module)[:5000] for module in (heapq, textwrap, fractions)]


@pytest.fixture
def metric(tmp_path: Path) -> Ladm:
    return Ladm(cache_dir=str(tmp_path))


def compute(metric: Ladm, predictions: Any, **options: Any) -> dict[str, Any]:
    result = metric.compute(predictions=predictions, **({"config": CONFIG} | options))
    assert result is not None
    return result


def test_scores_are_the_scorers(metric: Ladm) -> None:
    result = compute(metric, DOCUMENTS)
    expected = [score.score for score in LadmScorer(config=CONFIG).score_texts(DOCUMENTS)]
    assert result == {
        "ladm_scores": expected,
        "mean_ladm_score": pytest.approx(np.mean(expected)),
        "num_scored": 3,
        "statuses": ["ok"] * 3,
    }
    json.dumps(result)


def test_the_mean_is_over_scored_documents_only(metric: Ladm) -> None:
    result = compute(metric, [None, DOCUMENTS[0], "  ", "short"])
    assert result["statuses"] == ["null", "ok", "empty", "too_short"]
    assert result["num_scored"] == 1
    assert result["mean_ladm_score"] == result["ladm_scores"][1]
    assert [math.isnan(score) for score in result["ladm_scores"]] == [True, False, True, True]


def test_nothing_scorable_gives_nan(metric: Ladm) -> None:
    result = compute(metric, [None, "", "short"])
    assert math.isnan(result["mean_ladm_score"])
    assert result["num_scored"] == 0


@pytest.mark.parametrize(
    ("predictions", "message"),
    [
        ([], "predictions is empty"),
        ("one text", "must be a list of texts, found str"),
        (7, "must be a list of texts, found int"),
        (["text", 7], r"predictions\[1\] must be a text or None, found int"),
        (["text", "\ud800"], r"predictions\[1\] is not valid Unicode"),
        (None, "there is no document to score"),
    ],
)
@pytest.mark.parametrize("keep_in_memory", [False, True])
def test_bad_predictions_are_named(tmp_path: Path, predictions: Any, message: str, keep_in_memory: bool) -> None:
    metric = Ladm(cache_dir=str(tmp_path), keep_in_memory=keep_in_memory)
    with pytest.raises(InputError, match=message):
        metric.compute(predictions=predictions)


def test_add_and_add_batch_collect_documents(metric: Ladm) -> None:
    metric.add(prediction=DOCUMENTS[0])
    metric.add(prediction=None)
    metric.add_batch(predictions=np.array(DOCUMENTS[1:]))
    metric.add_batch(predictions=[])
    result = metric.compute(config=CONFIG)
    assert result is not None
    assert result["statuses"] == ["ok", "null", "ok", "ok"]
    with pytest.raises(InputError, match="predictions\\[0\\] must be a text"):
        metric.add(prediction=3)


def test_ten_calls_load_one_model(metric: Ladm, monkeypatch: pytest.MonkeyPatch) -> None:
    from ladm_hf.calculators.calculator import Calculator

    loads = []
    load = Calculator.load_model
    monkeypatch.setattr(Calculator, "load_model", lambda *args: loads.append(args) or load(*args))
    results = [compute(metric, DOCUMENTS[:1]) for _ in range(10)]
    assert all(result == results[0] for result in results)
    assert len(loads) == 1
    assert compute(metric, DOCUMENTS[:1], config=CONFIG.to_dict() | {"ablation": "no_length_weight"}) != results[0]
    assert len(loads) == 2


def test_model_may_be_a_scorer_a_folder_or_a_live_model(metric: Ladm, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoModel

    import ladm_hf.calculators.calculator

    folder = ladm_hf.calculators.calculator.BUNDLED["ladm-nano"]
    expected = compute(metric, DOCUMENTS)
    assert compute(metric, DOCUMENTS, model=str(folder)) == expected
    assert compute(metric, DOCUMENTS, model=folder) == expected
    assert compute(metric, DOCUMENTS, model=LadmScorer(config=CONFIG, text_column=None), config=None) == expected
    # a live model keeps its dtype, a folder gets the one that suits this processor
    live = AutoModel.from_pretrained(folder, dtype="float32").eval()
    assert compute(metric, DOCUMENTS, model=live) == compute(metric, DOCUMENTS, model=folder, dtype="float32")
    monkeypatch.setenv("LADM_MODEL", "no/such")
    assert compute(metric, DOCUMENTS, model="ladm-nano") == expected
    with pytest.raises(HubError, match="no/such"):
        compute(metric, DOCUMENTS)
    with pytest.raises(ConfigError, match="config goes into the LadmScorer"):
        compute(metric, DOCUMENTS, model=LadmScorer())


def test_pickles_before_and_after_use(metric: Ladm) -> None:
    copy = pickle.loads(pickle.dumps(metric))
    expected = compute(metric, DOCUMENTS)
    assert compute(copy, DOCUMENTS) == expected
    assert compute(pickle.loads(pickle.dumps(metric)), DOCUMENTS) == expected


def test_combine_takes_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", str(tmp_path))
    result = evaluate.combine(["ladm", evaluate.load("ladm")]).compute(predictions=DOCUMENTS, config=CONFIG)
    assert result["ladm_0_ladm_scores"] == result["ladm_1_ladm_scores"]
    result = evaluate.combine({"long": evaluate.load("ladm")}, force_prefix=True).compute(
        predictions=DOCUMENTS, config=CONFIG
    )
    assert result["long_num_scored"] == 3
    collected = evaluate.combine(["ladm"])
    collected.add(prediction=DOCUMENTS[0])
    collected.add_batch(predictions=["short"])
    assert collected.compute(config=CONFIG)["statuses"] == ["ok", "too_short"]
    with pytest.raises(InputError, match="must be a text or None, found int"):
        collected.add(prediction=5)


def _process(process_id: int, folder: str, results: Any) -> None:
    metric = evaluate.load("ladm", num_process=3, process_id=process_id, experiment_id="test", cache_dir=folder)
    # the last process has no document and never adds one
    shares: list[list[str | None]] = [[DOCUMENTS[0]], [None, DOCUMENTS[1]], []]
    for document in shares[process_id]:
        metric.add(prediction=document)
    results.put((process_id, metric.compute(config=CONFIG)))


def test_processes_of_evaluate_add_up_on_the_first(tmp_path: Path, metric: Ladm) -> None:
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    workers = [context.Process(target=_process, args=(i, str(tmp_path), queue)) for i in range(3)]
    for worker in workers:
        worker.start()
    results = dict(queue.get(timeout=200) for _ in workers)
    for worker in workers:
        worker.join()
    assert results[1] is None
    assert results[2] is None
    expected = compute(metric, [DOCUMENTS[0], None, DOCUMENTS[1]])
    np.testing.assert_equal(results[0], expected)


def test_shares_are_balanced_and_cover_everything() -> None:
    sizes = [100, 1, 1, 1, 97, 3, 0]
    shares = split_by_size(sizes, 2)
    assert sorted(i for share in shares for i in share) == list(range(7))
    totals = [sum(sizes[i] for i in share) for share in shares]
    assert max(totals) - min(totals) <= 5
    assert split_by_size([5], 3) == [[0], [], []]
    assert all(share == sorted(share) for share in shares)


def on_ranks(monkeypatch: pytest.MonkeyPatch, calls: list[Any]) -> list[Any]:
    """Runs a call for each rank, in threads that exchange what accelerate would gather; returns results or errors."""
    barrier = threading.Barrier(len(calls))
    here = threading.local()
    gathered: list[Any] = [None] * len(calls)

    def gather(objects: list[Any]) -> list[Any]:
        gathered[here.rank] = objects
        barrier.wait(100)
        return [each for objects in gathered for each in objects]

    class Here(Ranks):
        def __init__(self) -> None:
            self.world, self.index, self.local, self._state = len(calls), here.rank, here.rank, object()

    def run(rank: int) -> Any:
        here.rank = rank
        try:
            return calls[rank]()
        except LadmError as error:
            return error

    monkeypatch.setattr("ladm_hf.integrations.evaluate.Ranks", Here)
    monkeypatch.setattr("accelerate.utils.gather_object", gather)
    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, range(len(calls))))


def test_each_rank_scores_its_share_and_gets_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    documents = [*DOCUMENTS, None, "short"]
    expected = LadmScorer(config=CONFIG).score_texts(documents)
    scorers = [LadmScorer(config=CONFIG) for _ in range(3)]
    shares = []
    for scorer in scorers:
        score = scorer.score_texts
        monkeypatch.setattr(scorer, "score_texts", lambda texts, score=score, **k: shares.append(texts) or score(texts))
    results = on_ranks(monkeypatch, [lambda s=scorer: score_distributed(s, documents) for scorer in scorers])
    # as text, in which NaN equals NaN and a float shows all its digits
    assert [str(result) for result in results] == [str(expected)] * 3
    assert sorted(map(len, shares)) == [1, 2, 2]


def test_ranks_with_other_documents_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = LadmScorer(config=CONFIG)
    results = on_ranks(monkeypatch, [lambda i=i: score_distributed(scorer, ["a", None, "b"[:i]]) for i in range(2)])
    assert all("rank 1 was given other documents than rank 0" in str(result) for result in results)


def test_a_failure_of_one_rank_stops_all(monkeypatch: pytest.MonkeyPatch) -> None:
    scorers = [LadmScorer(config=CONFIG), LadmScorer("no/such", config=CONFIG)]
    results = on_ranks(monkeypatch, [lambda s=scorer: score_distributed(s, DOCUMENTS) for scorer in scorers])
    assert isinstance(results[1], HubError)
    assert str(results[0]).startswith("rank 1 of 2 failed, so there is no result: HubError: ")


def test_a_long_document_counts_as_what_is_scored_of_it() -> None:
    config = LadmConfig(max_length=2400)
    assert _sizes(["x" * 100_000, None, "abc"], config) == [9600, 0, 3]
    assert _sizes(["x" * 100_000], LadmConfig(max_length=2400, overflow="windows")) == [100_000]


RANK = """
import json, os, sys
import ladm_hf, evaluate
from tests.integrations.test_evaluate import CONFIG, DOCUMENTS
metric = evaluate.load("ladm", cache_dir=sys.argv[1])
rank = int(os.environ.get("RANK", 0))
def attempt(predictions, **options):
    try:
        return metric.compute(predictions=predictions, **({"config": CONFIG} | options))
    except Exception as error:
        return f"{type(error).__name__}: {error}"
results = {
    "odd": attempt([DOCUMENTS[2], None, "short", DOCUMENTS[0], DOCUMENTS[1]]),
    "fewer documents than ranks": attempt(DOCUMENTS[:1]),
    "nothing to score": attempt([None, ""]),
    "different documents": attempt(DOCUMENTS[rank:rank + 1]),
    "one rank fails": attempt(DOCUMENTS, model="ladm-nano" if rank == 0 else "no/such"),
}
with open(os.path.join(sys.argv[1], f"rank{rank}.json"), "w") as file:
    json.dump(results, file)
"""


def launch(command: list[str], folder: Path) -> list[dict[str, Any]]:
    """What each rank of a launch of the script above got."""
    script = folder / "rank.py"
    script.write_text(RANK)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, *command, str(script), str(folder)], env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return [json.loads(path.read_text()) for path in sorted(folder.glob("rank*.json"))]


def free_port() -> str:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return str(server.getsockname()[1])


@pytest.mark.parametrize("launcher", ["torchrun", "accelerate"])
def test_two_ranks_give_the_result_of_one(tmp_path: Path, launcher: str) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    command = {
        "torchrun": ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", free_port()],
        "accelerate": ["-m", "accelerate.commands.accelerate_cli", "launch", "--multi_gpu", "--num_processes", "2",
                       "--main_process_port", free_port()],
    }[launcher]  # fmt: skip
    (one,) = launch([], tmp_path / "one")
    ranks = launch(command, tmp_path / "two")
    assert len(ranks) == 2
    for result in ranks:
        for case in ("odd", "fewer documents than ranks", "nothing to score"):
            np.testing.assert_equal(result[case], one[case])
        assert "rank 1 was given other documents than rank 0" in result["different documents"]
    assert one["odd"]["statuses"] == ["ok", "null", "too_short", "ok", "ok"]
    assert ranks[0]["one rank fails"].startswith("LadmError: rank 1 of 2 failed")
    assert ranks[1]["one rank fails"].startswith("HubError")


def test_ranks_that_do_not_see_each_other_are_refused(metric: Ladm, monkeypatch: pytest.MonkeyPatch) -> None:
    # whatever other tests of this process left
    monkeypatch.setattr(PartialState, "_shared_state", {})
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(BackendError, match="WORLD_SIZE is 2, but RANK is not set"):
        compute(metric, DOCUMENTS)
    # a state made without cpu=True on a machine without GPUs
    monkeypatch.setenv("WORLD_SIZE", "1")
    PartialState()
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(BackendError, match="WORLD_SIZE is 2, but accelerate sees 1"):
        compute(metric, DOCUMENTS)
