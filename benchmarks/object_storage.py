"""Runs in object storage: killed with failing requests they must give the rows of one that is not, and what they cost.

    python benchmarks/object_storage.py soak --store s3         # 1,000 documents, ten kills, 5 % of the requests fail
    python benchmarks/object_storage.py soak --store bucket     # the same on a bucket of the test Hub
    python benchmarks/object_storage.py overhead                # seconds a chunk, at 50 ms a request

`soak` starts another number of independent launches each time, each as on another machine with an empty disk and a
clock up to two minutes off (tests/elsewhere.py), and kills all of them by SIGKILL at a random moment. `overhead` scores
chunks of about 4M tokens with a scorer that takes no time, into a folder and into S3 behind a delay. Needs the extra
`test`. Results go to benchmarks/results/object_storage_*.json.
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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pyarrow as pa
from runner import RESULTS, write
from soak import kill, rows, same

from ladm_hf import LadmScorer, __version__
from ladm_hf.data.object_store import storage_at
from ladm_hf.runs.progress import run_status
from ladm_hf.runs.runner import run_scoring

TESTS = Path(__file__).parents[1] / "tests"
sys.path.insert(0, str(TESTS))
FAULTY = ("503", "drop", "lost")


@contextlib.contextmanager
def store(kind: str, faults: float, folder: Path) -> Iterator[str]:
    """A URL in a store of which a share of the requests fails."""
    from s3 import BUCKET, S3

    from fake_hub import FakeHub
    from fake_hub.fixtures import XET_IN_A_HURRY

    if kind == "s3":
        with S3(faults=faults, seed=1):
            yield f"s3://{BUCKET}/run"
        return
    with FakeHub(stall=1.0) as hub:
        os.environ.update({**XET_IN_A_HURRY, "HF_XET_CACHE": str(folder / "xet"), "HF_HUB_DISABLE_XET": "1"})
        os.environ.update({"HF_ENDPOINT": hub.url, "HF_TOKEN": hub.token, "HF_HUB_OFFLINE": "0"})
        from huggingface_hub import HfApi

        HfApi(endpoint=hub.url, token=hub.token).create_bucket("tester/soak")
        chance = random.Random(1)
        numbers = [n for n in range(200_000) if chance.random() < faults]
        hub.faults(*({"at": n, "kind": chance.choice(FAULTY)} for n in numbers[:5_000]))
        yield "hf://buckets/tester/soak/run"


def start(arguments: list[str], chance: random.Random) -> subprocess.Popen[bytes]:
    """`ladm` as on another machine."""
    offset = str(chance.uniform(-120.0, 120.0))
    path = os.pathsep.join([str(TESTS.parent), *sys.path])
    return subprocess.Popen(
        [sys.executable, str(TESTS / "elsewhere.py"), offset, *arguments], env={**os.environ, "PYTHONPATH": path}
    )


def table(url: str, folder: Path) -> pa.Table:
    """The rows of a run in a store, by its data/*.parquet alone."""
    storage, target = storage_at(url), folder / "fetched" / "data"
    target.mkdir(parents=True)
    for name in storage.entries("data"):
        storage.download(name, target / Path(name).name)
    return rows(folder / "fetched")


def finished(url: str) -> int:
    return len(storage_at(url).entries(".ladm/chunks"))


def soak(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Kills launches of a run until they were killed often enough, and compares its rows."""
    chance = random.Random(options.seed)
    source = write(folder / "source.parquet", [chance.randrange(20, options.words) for _ in range(options.documents)])
    settings = ["--span-length=16", "--max-length=2048", "--quiet", "--chunks", str(options.chunks)]
    command = [sys.executable, "-m", "ladm_hf", "score", str(source), str(folder / "whole"), *settings]
    subprocess.run(command, check=True, cwd=TESTS.parent)
    kills: list[dict[str, int]] = []
    with store(options.store, options.faults, folder) as url:
        arguments = ["score", str(source), url, *settings]
        while len(kills) < options.kills:
            launches = [start(arguments, chance) for _ in range(chance.choice(options.worlds))]
            before = finished(url)
            share = (options.chunks - before) // (options.kills - len(kills) + 1)
            goal = before + chance.randrange(0, max(2, share))
            while (done := finished(url)) <= goal:
                assert any(each.poll() is None for each in launches), "the launches ended before they were killed"
                time.sleep(0.1)
            time.sleep(chance.random())
            for each in launches:
                kill(each)
            kills.append({"launches": len(launches), "chunks_before": before, "chunks_after": finished(url)})
            print(json.dumps(kills[-1]), flush=True)
            assert finished(url) >= done, "a finished chunk was lost"
        last = [start(arguments, chance) for _ in range(2)]
        assert [each.wait() for each in last] == [0, 0]
        equal = same(rows(folder / "whole"), table(url, folder))
        status = run_status(url)
    return {
        "store": options.store, "documents": status.rows, "tokens": status.tokens, "chunks": options.chunks,
        "faults": options.faults, "kills": kills, "last_launches": 2, "equal_to_the_bit": equal, "version": __version__,
    }  # fmt: skip


class Instant(LadmScorer):
    """Scores by length, in no time."""

    def __call__(self, batch: Any, rank: int | None = None) -> dict[str, Any]:
        lengths = np.array([len(text) for text in batch["text"]])
        return {
            "ladm_score": lengths / 7, "ladm_num_tokens": (lengths // 4).astype(np.int32),
            "ladm_status": ["ok"] * len(lengths), "ladm_repetition": np.zeros(len(lengths)),
        }  # fmt: skip


def overhead(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Seconds of a chunk of about 4M tokens in a folder and in a store that takes its time for every request.

    Of runs of `C` and `3 C` chunks the difference counts, so that what a launch costs once is left out.
    """
    from s3 import BUCKET, S3

    words, seconds = 8_000, {"folder": [], "store": []}
    sources = {
        chunks: write(folder / f"{chunks}.parquet", [words] * (chunks * 4_000_000 * 4 // (words * 6)), batch=200)
        for chunks in (options.chunks, 3 * options.chunks)
    }
    with S3(delay=options.delay):
        for n in range(options.repeats):
            for kind, where in (("folder", str(folder)), ("store", f"s3://{BUCKET}")):
                took = []
                for chunks, source in sources.items():
                    began = time.perf_counter()
                    run_scoring(source, f"{where}/run-{n}-{chunks}", Instant(), chunks=chunks, progress=False)
                    took.append(time.perf_counter() - began)
                seconds[kind].append((took[1] - took[0]) / (2 * options.chunks))
    added = float(np.median(np.subtract(seconds["store"], seconds["folder"])))
    return {
        "chunks": options.chunks, "delay": options.delay, "seconds_a_chunk": seconds, "added_seconds_a_chunk": added,
        "tokens_per_second_at_5_percent": 4_000_000 * 0.05 / added, "version": __version__,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["soak", "overhead"])
    parser.add_argument("--store", choices=["s3", "bucket"], default="s3")
    parser.add_argument("--documents", type=int, default=1000)
    parser.add_argument("--words", type=int, default=600)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--chunks", type=int)
    parser.add_argument("--worlds", type=int, nargs="*", default=[1, 2, 3])
    parser.add_argument("--faults", type=float, default=0.05)
    parser.add_argument("--delay", type=float, default=0.05)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.chunks = options.chunks or (100 if options.part == "soak" else 6)
    with tempfile.TemporaryDirectory() as temporary:
        result = (soak if options.part == "soak" else overhead)(options, Path(temporary))
    print(json.dumps(result))
    name = f"soak_{options.store}" if options.part == "soak" else "overhead"
    (RESULTS / f"object_storage_{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    sys.exit(0 if result.get("equal_to_the_bit", True) else "the rows differ")


if __name__ == "__main__":
    main()
