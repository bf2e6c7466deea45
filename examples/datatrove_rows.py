"""Scores a folder of parquet files with datatrove, a task a file; killed, run it again with the same arguments.

    python datatrove_rows.py pool/ scored/ logs/
    CUDA_VISIBLE_DEVICES=3 python datatrove_rows.py pool/ scored/ logs/ --part 3/8

datatrove marks a task that is complete in LOGS and does not run it again; the task that was at work begins anew, but
for documents in the journal. Each part is a process of its own: a pool of workers (`workers=8`) waits for ever for one
that was killed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datatrove.executor.local import LocalPipelineExecutor

from ladm_hf import LadmScorer
from ladm_hf.integrations.datatrove import LadmStep, RowReader, RowWriter


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pool", help="folder of parquet files")
    parser.add_argument("scored", help="folder of the result, a file for each of the pool's")
    parser.add_argument("logs", help="folder of datatrove's marks and logs")
    parser.add_argument("--journal", help="folder that keeps finished documents")
    parser.add_argument("--model", default="ladm-nano", help="calculator")
    parser.add_argument("--part", default="0/1", help="which of how many parts of the tasks this process does")
    options = parser.parse_args()
    part, parts = map(int, options.part.split("/"))

    files = sorted(Path(options.pool).rglob("*.parquet"))
    schema = pa.unify_schemas([pq.read_schema(file) for file in files])
    scorer = LadmScorer(options.model, journal=options.journal)
    first, last = part * len(files) // parts, (part + 1) * len(files) // parts
    if first == last:
        return
    reader = RowReader(options.pool, glob_pattern="*.parquet")
    LocalPipelineExecutor(
        [reader, LadmStep(scorer), RowWriter(options.scored, schema, scorer)],
        tasks=len(files),
        workers=1,
        local_tasks=last - first,
        local_rank_offset=first,
        logging_dir=options.logs,
    ).run()


if __name__ == "__main__":
    main()
