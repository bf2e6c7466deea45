"""What `ladm score` costs beside the scoring: overhead, scaling over processes, resume, memory.

    python benchmarks/runner.py                 # all four at full size, about an hour on two cores
    python benchmarks/runner.py --smoke         # the same at a hundredth of the size
    python benchmarks/runner.py overhead resume

Documents are seeded random words, so nothing is downloaded. Every process runs on one thread. Results go to
benchmarks/results/runner.json; parts that are not run keep theirs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ladm_hf import LadmConfig, LadmScorer, __version__, run_status
from ladm_hf.runs.folder import RunFolder
from ladm_hf.runs.runner import run_scoring

RESULTS = Path(__file__).parent / "results"
WORDS = "the of a river stone light under window never answer seven green paper walks slowly machine".split()
SMALL = LadmConfig(span_length=8, max_length=256)


def text(words: int, seed: int) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=words))


def write(path: Path, sizes: list[int], batch: int = 5000) -> Path:
    """Documents of so many words each."""
    with pq.ParquetWriter(path, pa.schema([("id", pa.int64()), ("text", pa.string())])) as writer:
        for low in range(0, len(sizes), batch):
            part = range(low, min(len(sizes), low + batch))
            writer.write_table(pa.table({"id": list(part), "text": [text(sizes[n], n) for n in part]}))
    return path


def launch(arguments: list[str], world: int = 1, cores: str = "") -> subprocess.Popen[bytes]:
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(world)] if world > 1 else []
    pin = ["taskset", "-c", cores] if cores else []
    return subprocess.Popen(
        [*pin, sys.executable, *torchrun, "-m", "ladm_hf", *arguments], cwd=Path(__file__).parents[1]
    )


def overhead(folder: Path, smoke: bool) -> dict[str, Any]:
    """The runner against a bare call of the same scorer on the same rows, taken in turns."""
    documents, repeats = (8, 1) if smoke else (64, 5)
    source = write(folder / "overhead.parquet", [6000] * documents)
    scorer = LadmScorer()
    texts = pq.read_table(source)["text"].to_pylist()
    scorer({"text": texts[:1]})
    bare, run = [], []
    for n in range(repeats):
        began = time.perf_counter()
        scorer({"text": texts})
        bare.append(time.perf_counter() - began)
        began = time.perf_counter()
        run_scoring(source, folder / f"overhead-{n}", scorer, progress=False)
        run.append(time.perf_counter() - began)
    ratio = statistics.median(after / before for after, before in zip(run, bare, strict=True))
    return {"documents": documents, "bare_seconds": bare, "runner_seconds": run, "overhead": ratio - 1}


def scaling(folder: Path, smoke: bool) -> dict[str, Any]:
    """Two processes on two cores against one process on one core."""
    documents = 16 if smoke else 256
    source = write(folder / "scaling.parquet", [6000] * documents)
    seconds = {}
    for world, cores in ((1, "0"), (2, "0,1")):
        output = folder / f"scaling-{world}"
        assert launch(["score", str(source), str(output), "--quiet"], world, cores).wait() == 0
        ranks = run_status(output).ranks.values()
        seconds[world] = max(r["time"] for r in ranks) - min(r["began"] for r in ranks)
    return {"documents": documents, "seconds": seconds, "speedup": seconds[1] / seconds[2]}


def resume(folder: Path, smoke: bool) -> dict[str, Any]:
    """What a launch does beside scoring where all chunks but the last are finished."""
    chunks = 50 if smoke else 1000
    source = write(folder / "resume.parquet", [200] * (2 * chunks))
    output, scorer = folder / "resume", LadmScorer(config=SMALL)
    run_scoring(source, output, scorer, chunks=chunks, progress=False)
    run_folder = RunFolder(output)
    run = run_folder.load()
    assert run is not None
    run_folder.reopen()
    run_folder.chunk_file(run, chunks - 1).unlink()
    began = time.perf_counter()
    run_scoring(source, output, scorer, progress=False)
    whole = time.perf_counter() - began
    record = run_folder.record(chunks - 1)
    assert record is not None
    return {"chunks": chunks, "overhead_seconds": whole - record["seconds"]}


def memory(folder: Path, smoke: bool) -> dict[str, Any]:
    """Peak resident memory of a process that scores many rows, short and long, streamed from parquet."""
    peaks = {}
    for rows in (1000, 4000) if smoke else (20_000, 200_000):
        sizes = [12_000 if n % 4000 == 7 else 20 + n % 400 for n in range(rows)]
        source = write(folder / f"memory-{rows}.parquet", sizes)
        process = launch(["score", str(source), str(folder / f"memory-{rows}"), "--quiet"])
        _, status, usage = os.wait4(process.pid, 0)
        assert status == 0
        assert run_status(folder / f"memory-{rows}").rows == rows
        peaks[rows] = usage.ru_maxrss / 2**20
    return {"peak_gib": peaks, "this_process_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}


PARTS = {"overhead": overhead, "scaling": scaling, "resume": resume, "memory": memory}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help=f"{', '.join(PARTS)}; all by default")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--output", type=Path, default=RESULTS / "runner.json")
    options = parser.parse_args()
    unknown = set(options.parts) - set(PARTS)
    if unknown:
        parser.error(f"no part {unknown.pop()!r}")
    torch.set_num_threads(1)
    environment = {
        "ladm_hf": __version__, "torch": torch.__version__, "machine": platform.machine(), "cores": os.cpu_count(),
        "smoke": options.smoke,
    }  # fmt: skip
    result: dict[str, Any] = json.loads(options.output.read_text()) if options.output.exists() else {}
    if {name: result.get(name) for name in environment} != environment:
        result = environment
    with tempfile.TemporaryDirectory() as folder:
        for name in options.parts or PARTS:
            result[name] = PARTS[name](Path(folder), options.smoke)
            print(name, json.dumps(result[name]), flush=True)
    options.output.parent.mkdir(exist_ok=True)
    options.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
