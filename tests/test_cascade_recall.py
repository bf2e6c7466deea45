"""What a cascade keeps, from written scores: recall, costs and intervals."""

from __future__ import annotations

import importlib
import json
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ROOT

RUNS = [
    {"calculator": "small", "paper": False, "first": True, "max_length": 300, "seconds": 0.05},
    {"calculator": "large", "paper": False, "first": False, "max_length": 400, "seconds": 1.0},
]


@pytest.fixture(scope="module")
def cascade():
    """The benchmark; the benchmarks import each other by name."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    yield importlib.import_module("cascade")
    sys.path.remove(str(ROOT / "benchmarks"))


def scores(first: np.ndarray, second: np.ndarray) -> pa.Table:
    """A file of scores of two runs, as `cascade_scores.py` writes it."""
    parts = []
    for run, values in zip(RUNS, (first, second), strict=True):
        name = json.dumps([run[key] for key in ("calculator", "paper", "first", "max_length")])
        number = len(values)
        parts.append(
            pa.table(
                {
                    "run": [name] * number,
                    "id": [f"{n // 2}@{n % 2}" for n in range(number)],
                    "domain": ["ab"[n % 2] for n in range(number)],
                    "ladm_score": values,
                    "ladm_num_tokens": np.full(number, run["max_length"], dtype=np.int32),
                    "ladm_status": ["ok"] * number,
                    "ladm_repetition": np.zeros(number),
                }
            )
        )
    return pa.concat_tables(parts)


def test_two_calculators_that_agree_lose_nothing_and_two_that_disagree_everything(cascade) -> None:
    second = np.random.default_rng(0).random(200)
    agreeing, disagreeing = (cascade.Pair.of(scores(first, second), *RUNS) for first in (second, -second))
    assert agreeing.recalls(0.3) == [1.0] * len(cascade.BUDGETS)
    assert disagreeing.recalls(0.3) == [0.0] * len(cascade.BUDGETS)
    # both select from the tokens that the second reads
    assert agreeing.total == 200 * 400


def test_what_goes_on_is_the_whole_cost_less_that_of_the_first_pass(cascade, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(cascade, "DRAWS", 5)
    rng = np.random.default_rng(0)
    second = rng.random(200)
    table = scores(second + rng.normal(0, 0.3, 200), second)
    shared = {"ladm_hf": "0", "data": ["x"], "pieces": 2, "pool": 200, "dtype": {}, "threads": 1, "second": {}}
    described = {**shared, "device": "a processor", "runs": RUNS}
    pq.write_table(table.replace_schema_metadata({"cascade": json.dumps(described)}), tmp_path / "scores.parquet")
    monkeypatch.setattr(
        sys, "argv", ["cascade.py", str(tmp_path / "scores.parquet"), "--output", str(tmp_path / "found.json")]
    )
    cascade.main()
    (found,) = json.loads((tmp_path / "found.json").read_text())
    (costs,) = found["costs"]
    assert costs["cost_of_first"] == pytest.approx(0.05)
    assert [row["survive"] for row in costs["rows"]] == pytest.approx([0.05, 0.2, 0.45])
    recalls = [row["budgets"][2]["recall"] for row in costs["rows"]]
    assert recalls == sorted(recalls)
    assert 0 <= recalls[0] < recalls[-1] <= 1
    for row in costs["rows"]:
        low, high = row["budgets"][2]["interval"]
        assert 0 <= low <= high <= 1
        kept, best = row["budgets"][2]["percentiles"]
        assert kept <= best
