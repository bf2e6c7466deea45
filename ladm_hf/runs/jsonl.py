"""`scores.jsonl`: index, chunked_index, score and meta of every row, as the published script writes them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ladm_hf.data.columns import to_rows
from ladm_hf.data.run_record import RunRecord
from ladm_hf.runs.output import Output

COLUMNS = ("index", "chunked_index", "meta", "ladm_score")


def write_jsonl(output: Output, run: RunRecord, target: Path) -> None:
    """Writes the scores of all finished chunks into a file.

    Args:
        output ([`Output`]): of the run.
        run ([`RunRecord`]): the run, all of whose chunks are finished.
        target (`Path`): the file.
    """
    number = 0
    with open(target, "w", encoding="utf-8") as out:
        for chunk in range(run.num_chunks):
            with output.local_chunk(run, chunk) as path:
                for row in _rows(path):
                    score = row["ladm_score"]
                    line = {
                        "index": row.get("index", number),
                        "chunked_index": row.get("chunked_index", 0),
                        "score": score if np.isfinite(score) else None,
                        "meta": row.get("meta"),
                    }
                    out.write(json.dumps(line, ensure_ascii=False, default=str) + "\n")
                    number += 1


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """The columns of a file that are wanted, row by row."""
    file = pq.ParquetFile(path)
    columns = [name for name in COLUMNS if name in file.schema_arrow.names]
    for batch in file.iter_batches(columns=columns):
        yield from to_rows(pa.Table.from_batches([batch]))
