"""Ray Data and datatrove, on the real libraries: the same scores as `dataset.map`."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from launches import ROOT, bits, dataset, environment, expected, parquet, scorer

RAY = """
import json, sys, ray
from ladm_hf import LadmConfig, LadmScorer
from ladm_hf.integrations.ray_data import RowScorer

ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR")
config = LadmConfig(span_length=8, max_length=256, ablation="no_std", heads=((3, 1), (3, 2)))
found = {}
for scorer in (RowScorer, LadmScorer):
    scored = ray.data.read_parquet(sys.argv[1]).map_batches(
        scorer, fn_constructor_kwargs={"config": config}, compute=ray.data.ActorPoolStrategy(size=1), batch_size=5
    )
    found[scorer.__name__] = scored.take_all()
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
    rows = sorted(found["RowScorer"], key=lambda row: int(row["id"].split("-")[1]))
    want = dataset(9).map(scorer(), batched=True).to_list()
    assert [row["text"] for row in rows] == [row["text"] for row in want]
    assert repr(scores(rows)) == repr(scores(want))
    assert sorted(map(repr, scores(found["LadmScorer"]))) == sorted(map(repr, scores(want)))


def test_a_row_scorer_returns_the_rows_with_their_scores() -> None:
    from ladm_hf.integrations.ray_data import RowScorer

    data = {"id": [1, 2], "text": ["short", None]}
    found = RowScorer()(data)
    assert found["id"] == [1, 2]
    assert found["ladm_status"] == ["too_short", "null"]
    assert "id" not in RowScorer()(["short"])


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
