"""What the tests of runs share: seeded documents, a small geometry, and launches in other processes."""

from __future__ import annotations

import contextlib
import functools
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
from datasets import Dataset

from ladm_hf import LadmConfig, LadmScorer

ROOT = Path(__file__).parents[1]
GEOMETRY = LadmConfig(span_length=8, max_length=256, ablation="no_std", heads=((3, 1), (3, 2)))
OPTIONS = ["--span-length", "8", "--max-length", "256"]
WORDS = "the of a river stone light under window never answer seven green paper walks slowly machine".split()


def scorer(**options: Any) -> LadmScorer:
    return LadmScorer(**{"config": GEOMETRY, **options})


def document(words: int, seed: int) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=words))


def rows(count: int = 24, words: int = 200) -> list[dict[str, Any]]:
    """Documents of which every third is too short for the small geometry."""
    return [
        {"id": f"row-{n}", "text": document(40 if n % 3 == 2 else words + 5 * n, n), "meta": {"set": "ab"[n % 2]}}
        for n in range(count)
    ]


def dataset(count: int = 24, words: int = 200) -> Dataset:
    return Dataset.from_list(rows(count, words))


def parquet(path: Path, count: int = 24, row_group_size: int = 7, words: int = 200) -> Path:
    pq.write_table(dataset(count, words).with_format("arrow")[:], path, row_group_size=row_group_size)
    return path


def bits(scored: Any) -> list[tuple[Any, int, int, str]]:
    """Ids and scores to the bit, to compare."""
    values = np.asarray(scored["ladm_score"], dtype=np.float64).view(np.int64).tolist()
    ids = list(scored["id"]) if "id" in scored.column_names else [None] * len(values)
    return list(zip(ids, values, list(scored["ladm_num_tokens"]), list(scored["ladm_status"]), strict=True))


@functools.cache
def expected(count: int = 24, words: int = 200, config: LadmConfig = GEOMETRY) -> list[tuple[Any, int, int, str]]:
    """What the scorer alone says about `rows(count)`."""
    found = rows(count, words)
    result = scorer(config=config)({"text": [row["text"] for row in found]})
    return bits(Dataset.from_dict({"id": [row["id"] for row in found], **result}))


def result(output: Path) -> list[tuple[Any, int, int, str]]:
    """What a run wrote, file by file in the order of their names."""
    tables = [pq.read_table(file) for file in sorted((output / "data").glob("*.parquet"))]
    return [row for table in tables if table.num_rows for row in bits(Dataset(table))]


def launch(arguments: list[str], world: int = 0, **options: Any) -> subprocess.Popen[str]:
    """Starts `ladm` in a process group of its own, under torchrun where `world` is given."""
    torchrun = ["-m", "torch.distributed.run", "--nproc_per_node", str(world), "--master_port", str(free_port())]
    command = [sys.executable, *(torchrun if world else []), "-m", "ladm_hf", *arguments]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment(), start_new_session=True, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, **options,
    )  # fmt: skip


def environment() -> dict[str, str]:
    return {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}


def scored_by_the_command(source: Path, output: Path, *options: str) -> Path:
    """What one uninterrupted process of `ladm score` writes."""
    command = [sys.executable, "-m", "ladm_hf", "score", str(source), str(output), "--quiet", *options]
    subprocess.run(command, cwd=ROOT, env=environment(), check=True)
    return output


def free_port() -> int:
    import socket

    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def finished_chunks(output: Path) -> int:
    return len(list((output / ".ladm" / "data").glob("*.parquet")))


def wait_for_chunks(process: subprocess.Popen[str], output: Path, count: int, limit: float = 90.0) -> None:
    """Waits until a launch has finished some chunks, or ended."""
    end = time.monotonic() + limit
    while finished_chunks(output) < count and process.poll() is None:
        assert time.monotonic() < end, "the launch makes no progress"
        time.sleep(0.02)


def kill(process: subprocess.Popen[str], *, tree: bool = True) -> None:
    """Kills a launch, with all its processes or without."""
    # torchrun puts its ranks into sessions of their own
    ranks = psutil.Process(process.pid).children(recursive=True) if tree else []
    for victim in [process, *ranks]:
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.kill()
    process.communicate()
    psutil.wait_procs(ranks, timeout=10)
