"""Ray Data and datatrove, on the real libraries: the same scores as `dataset.map`."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from launches import ROOT, bits, dataset, environment, expected, parquet, scorer

from ladm_hf.errors import ColumnError
from ladm_hf.integrations.ray_data import RowScorer

RAY = """
import json, sys, ray
from ladm_hf import LadmConfig, LadmScorer
from ladm_hf.integrations.ray_data import RowScorer

ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR")
config = LadmConfig(span_length=8, max_length=256, ablation="no_std", heads=((3, 1), (3, 2)))
found = {}
for scorer, form in ((RowScorer, "numpy"), (RowScorer, "pandas"), (RowScorer, "pyarrow"), (LadmScorer, "numpy")):
    scored = ray.data.read_parquet(sys.argv[1]).map_batches(
        scorer, fn_constructor_kwargs={"config": config}, compute=ray.data.ActorPoolStrategy(size=1), batch_size=5,
        batch_format=form,
    )
    found[f"{scorer.__name__} {form}"] = scored.take_all()
json.dump(found, open(sys.argv[2], "w"))
"""


def scores(rows: list[dict[str, Any]]) -> list[Any]:
    return [(row["ladm_score"], row["ladm_num_tokens"], row["ladm_status"]) for row in rows]


def test_ray_data(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs ladm-hf[ray]")
    source, out = parquet(tmp_path / "in.parquet", 9), tmp_path / "out.json"
    # a short path, for the sockets in it
    temporary = tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True)
    options = {
        "RAY_DATA_DISABLE_PROGRESS_BARS": "1", "RAY_TMPDIR": temporary.name, "RAY_USAGE_STATS_ENABLED": "0",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", RAY, str(source), str(out)], cwd=ROOT, env={**environment(), **options},
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    temporary.cleanup()
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    want = dataset(9).map(scorer(), batched=True).to_list()
    for form in ("numpy", "pandas", "pyarrow"):
        rows = sorted(found[f"RowScorer {form}"], key=lambda row: int(row["id"].split("-")[1]))
        # Ray makes null of the NaN of a pandas column
        assert repr(rows) == (repr(want).replace("nan", "None") if form == "pandas" else repr(want))
    assert sorted(map(repr, scores(found["LadmScorer numpy"]))) == sorted(map(repr, scores(want)))


ROWS = pa.table(
    {
        "id": pa.array([1, None], pa.int32()),
        "text": pa.array(["short", None], pa.large_string()),
        "when": pa.array([0, None], pa.timestamp("ms")),
        "meta": [{"set": "a", "n": None}, None],
        "tags": [["x"], None],
    }
)


@pytest.mark.parametrize(
    ("batch", "kind"),
    [
        (ROWS.to_pydict(), dict),
        ({name: np.array(values, dtype=object) for name, values in ROWS.to_pydict().items()}, dict),
        (ROWS, dict),
        (ROWS.to_pandas(), pd.DataFrame),
        (ROWS.to_pandas(types_mapper=pd.ArrowDtype).set_index(pd.Index([5, 7])), pd.DataFrame),
    ],
    ids=["lists", "numpy", "pyarrow", "pandas", "pandas of arrow types"],
)
def test_a_row_scorer_returns_the_rows_with_their_scores(batch: Any, kind: type) -> None:
    found = RowScorer()(batch)
    assert type(found) is kind
    assert list(found) == [*ROWS.column_names, "ladm_score", "ladm_num_tokens", "ladm_status", "ladm_repetition"]
    for name in ROWS.column_names:
        assert found[name] is batch[name] or found[name].equals(batch[name])
    assert list(found["ladm_status"]) == ["too_short", "null"]
    assert found["ladm_score"].dtype == np.float64


def test_a_row_scorer_gives_arrow_columns_back_with_their_types() -> None:
    assert pa.table(RowScorer()(ROWS)).select(ROWS.column_names).equals(ROWS)


def test_a_row_scorer_replaces_no_column() -> None:
    with pytest.raises(ColumnError, match="'ladm_score' already"):
        RowScorer()(ROWS.append_column("ladm_score", [[1.0, 2.0]]))
    assert list(RowScorer()(["short"])) == ["ladm_score", "ladm_num_tokens", "ladm_status", "ladm_repetition"]


def test_datatrove(tmp_path: Path) -> None:
    pytest.importorskip("datatrove", reason="needs ladm-hf[datatrove]")
    from datatrove.data import Document
    from datatrove.executor.local import LocalPipelineExecutor
    from datatrove.pipeline.writers.jsonl import JsonlWriter

    from ladm_hf.integrations.datatrove import LadmStep

    documents = [Document(text=row["text"], id=row["id"]) for row in dataset(9)]
    pipeline = [documents, LadmStep(scorer(), batch_size=4), JsonlWriter(str(tmp_path / "out"), compression=None)]
    stats = LocalPipelineExecutor(pipeline, tasks=1, logging_dir=str(tmp_path / "logs")).run()
    (file,) = (tmp_path / "out").glob("*.jsonl")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["id"] for line in lines] == [document.id for document in documents]
    want = bits(dataset(9).map(scorer(), batched=True))
    assert want == expected(9)
    for line, document, (_, _, tokens, status) in zip(lines, documents, want, strict=True):
        found = line["metadata"]
        assert (found["ladm_num_tokens"], found["ladm_status"]) == (tokens, status)
        score = scorer().score_texts([document.text])[0].score
        assert found["ladm_score"] == score or (found["ladm_score"] is None and status == "too_short")
    assert "ok" in json.dumps(stats.to_dict() if hasattr(stats, "to_dict") else str(stats))


def test_a_missing_engine_names_its_extra() -> None:
    program = (
        "import sys; sys.modules['datatrove'] = None\n"
        "from ladm_hf.errors import BackendError\n"
        "try:\n    import ladm_hf.integrations.datatrove\n"
        "except BackendError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "pip install 'ladm-hf[datatrove]'" in done.stdout
