"""A run that is killed again and again must give the rows of one that is not, to the bit.

    python benchmarks/soak.py --data 'corpus/*.parquet' --documents 5000 --kills 10
    python benchmarks/soak.py --documents 200 --kills 3           # random words, a minute or two

Each launch has another number of processes and dies by SIGKILL, with all its processes, at a random moment. The rows,
their order and the bits of their scores are compared with one uninterrupted process. Results go to
benchmarks/results/soak.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from runner import RESULTS, launch, write

from ladm_hf import run_status
from ladm_hf.data.open import open_source


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kills a launch with all its processes: torchrun puts them into sessions of their own."""
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    process.wait()
    psutil.wait_procs(family, timeout=30)


def source_file(data: str | None, documents: int, folder: Path) -> Path:
    """The first documents of the data, or as many random ones."""
    path = folder / "source.parquet"
    if data is None:
        chance = random.Random(0)
        return write(path, [chance.randrange(20, 3000) for _ in range(documents)])
    source = open_source(data)
    size = int(source.scan(["text"], 1).positions[-1])
    tables = [found.table for found in source.read(0, size)]
    pq.write_table(pa.concat_tables(tables).slice(0, documents), path)
    return path


def rows(output: Path) -> pa.Table:
    return pa.concat_tables([pq.read_table(file) for file in sorted((output / "data").glob("*.parquet"))])


def same(a: pa.Table, b: pa.Table) -> bool:
    """Whether two results are equal in every column, scores to the bit."""
    if a.column_names != b.column_names or a.num_rows != b.num_rows:
        return False
    scores = [np.asarray(table["ladm_score"]).view(np.int64) for table in (a, b)]
    return np.array_equal(*scores) and a.drop_columns("ladm_score").equals(b.drop_columns("ladm_score"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="path, glob or Hub id; random words by default")
    parser.add_argument("--documents", type=int, default=200)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--worlds", type=int, nargs="*", default=[1, 2, 4])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--options", nargs="*", default=["--span-length=16", "--max-length=2048"])
    parser.add_argument("--output", type=Path, default=RESULTS / "soak.json")
    options = parser.parse_args()
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        source = source_file(options.data, options.documents, folder)
        whole, killed = folder / "whole", folder / "killed"
        chunks = max(64, 8 * options.kills)
        began = time.monotonic()
        command = ["score", str(source), str(whole), "--chunks", str(chunks), "--quiet", *options.options]
        assert launch(command).wait() == 0
        seconds = time.monotonic() - began
        command[2] = str(killed)
        kills: list[dict[str, Any]] = []
        while len(kills) < options.kills:
            world = chance.choice(options.worlds)
            process = launch(command, world)
            before = run_status(killed).chunks_done if (killed / "run.json").exists() else 0
            # after the start, somewhere in the work that a share of the whole takes
            goal = before + chance.randrange(0, max(2, (chunks - before) // (options.kills - len(kills) + 1)))
            while process.poll() is None:
                done = run_status(killed).chunks_done if (killed / "run.json").exists() else 0
                if done > goal or (done >= goal and chance.random() < 0.05):
                    break
                time.sleep(0.05)
            assert process.poll() is None, "the run ended before it was killed: give it more documents"
            kill(process)
            status = run_status(killed)
            kills.append({"world": world, "chunks_before": before, "chunks_after": status.chunks_done})
            print(json.dumps(kills[-1]), flush=True)
            assert status.chunks_done >= done, "a finished chunk was lost"
        last = chance.choice(options.worlds)
        assert launch(command, last).wait() == 0
        equal = same(rows(whole), rows(killed))
        status = run_status(killed)
    result = {
        "documents": status.rows, "tokens": status.tokens, "chunks": chunks, "statuses": status.statuses,
        "uninterrupted_seconds": seconds, "kills": kills, "last_world": last, "equal_to_the_bit": equal,
    }  # fmt: skip
    print(json.dumps(result))
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    sys.exit(0 if equal else "the rows differ")


if __name__ == "__main__":
    main()
