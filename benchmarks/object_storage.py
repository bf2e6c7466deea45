"""Runs in object storage: killed with failing requests they must give the rows of one that is not, and what they cost.

    python benchmarks/object_storage.py soak --store s3         # 1,000 documents, ten kills, 5 % of the requests fail
    python benchmarks/object_storage.py soak --store bucket     # the same on a bucket of the test Hub
    python benchmarks/object_storage.py soak --url URL          # the same in a store of your own, without faults
    python benchmarks/object_storage.py overhead                # against a folder, at 50 ms a request; ten minutes

`soak` starts another number of independent launches each time, each as on another machine with an empty disk and a
clock up to two minutes off (tests/elsewhere.py), and kills all of them by SIGKILL at a random moment. `overhead` scores
the same documents into a folder and into S3 behind a delay, by a device that takes its time for the tokens of a chunk
and nothing else. Needs the extra `test`. Results go to benchmarks/results/object_storage_*.json.
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
# the test Hub takes uploads by Xet, but gives files by HTTP alone
os.environ.setdefault("HF_HUB_DISABLE_XET", "1")

import numpy as np
import pyarrow as pa
from runner import RESULTS, write
from soak import kill, rows, same

from ladm_hf import LadmScorer, __version__
from ladm_hf.data.object_store import storage_at
from ladm_hf.data.storage import Storage
from ladm_hf.runs.progress import run_status
from ladm_hf.runs.runner import run_scoring
from ladm_hf.scoring.begun import Begun

TESTS = Path(__file__).parents[1] / "tests"
sys.path.insert(0, str(TESTS))
FAULTY = ("503", "drop", "lost")
# Of a token, as the estimate of a run takes it.
CHARACTERS = 4


@contextlib.contextmanager
def store(kind: str, faults: float, url: str | None) -> Iterator[tuple[str, dict[str, str]]]:
    """A URL in a store of which a share of the requests fails, and what opens it in this process."""
    from s3 import BUCKET, S3

    from fake_hub import FakeHub
    from fake_hub.fixtures import XET_IN_A_HURRY

    if url is not None:
        yield url, {}
        return
    if kind == "s3":
        with S3(faults=faults, seed=1):
            yield f"s3://{BUCKET}/run", {}
        return
    with FakeHub(stall=1.0) as hub:
        os.environ.update(XET_IN_A_HURRY)
        os.environ.update({"HF_ENDPOINT": hub.url, "HF_TOKEN": hub.token, "HF_HUB_OFFLINE": "0"})
        from huggingface_hub import HfApi

        HfApi(endpoint=hub.url, token=hub.token).create_bucket("tester/soak")
        chance = random.Random(1)
        numbers = [n for n in range(200_000) if chance.random() < faults]
        hub.faults(*({"at": n, "kind": chance.choice(FAULTY)} for n in numbers[:5_000]))
        # huggingface_hub has read its environment by now
        yield "hf://buckets/tester/soak/run", {"endpoint": hub.url, "token": hub.token}


def start(arguments: list[str], folder: Path, chance: random.Random) -> subprocess.Popen[bytes]:
    """`ladm` as on another machine, with an empty disk and a clock up to two minutes off."""
    offset, disk = str(chance.uniform(-120.0, 120.0)), tempfile.mkdtemp(dir=folder)
    path = os.pathsep.join([str(TESTS.parent), *sys.path])
    return subprocess.Popen(
        [sys.executable, str(TESTS / "elsewhere.py"), offset, *arguments],
        env={**os.environ, "PYTHONPATH": path, "TMPDIR": disk, "HF_HOME": disk, "HF_XET_CACHE": f"{disk}/xet"},
    )


def table(storage: Storage, folder: Path) -> pa.Table:
    """The rows of a run in a store, by its data/*.parquet alone."""
    target = folder / "fetched" / "data"
    target.mkdir(parents=True)
    for name in storage.entries("data"):
        storage.download(name, target / Path(name).name)
    return rows(folder / "fetched")


def finished(storage: Storage) -> int:
    return len(storage.entries(".ladm/chunks"))


def soak(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Kills launches of a run until they were killed often enough, and compares its rows."""
    chance = random.Random(options.seed)
    source = write(folder / "source.parquet", [chance.randrange(20, options.words) for _ in range(options.documents)])
    settings = ["--span-length=16", "--max-length=2048", "--quiet", "--chunks", str(options.chunks)]
    command = [sys.executable, "-m", "ladm_hf", "score", str(source), str(folder / "whole"), *settings]
    subprocess.run(command, check=True, cwd=TESTS.parent)
    kills: list[dict[str, int]] = []
    with store(options.store, options.faults, options.url) as (url, access):
        storage = storage_at(url, access)
        arguments = ["score", str(source), url, *settings]
        launches: list[subprocess.Popen[bytes]] = []
        try:
            while len(kills) < options.kills:
                launches = [start(arguments, folder, chance) for _ in range(chance.choice(options.worlds))]
                before = finished(storage)
                share = (options.chunks - before) // (options.kills - len(kills) + 1)
                goal = before + chance.randrange(0, max(2, share))
                while (done := finished(storage)) <= goal:
                    assert any(each.poll() is None for each in launches), "the launches ended before they were killed"
                    time.sleep(0.1)
                time.sleep(chance.random())
                for each in launches:
                    kill(each)
                kills.append({"launches": len(launches), "chunks_before": before, "chunks_after": finished(storage)})
                print(json.dumps(kills[-1]), flush=True)
                assert finished(storage) >= done, "a finished chunk was lost"
            launches = [start(arguments, folder, chance) for _ in range(2)]
            assert [each.wait() for each in launches] == [0, 0]
        finally:
            for each in launches:
                if each.poll() is None:
                    kill(each)
        equal = same(rows(folder / "whole"), table(storage, folder))
        status = run_status(url, storage_options=access)
    return {
        "store": options.url or options.store, "documents": status.rows, "tokens": status.tokens,
        "chunks": options.chunks, "faults": 0.0 if options.url else options.faults, "kills": kills, "last_launches": 2,
        "equal_to_the_bit": equal, "version": __version__,
    }  # fmt: skip


class Device(LadmScorer):
    """Scores by length, so many tokens a second, on a device that leaves the processor alone."""

    def __init__(self, tokens_per_second: float) -> None:
        super().__init__()
        self.tokens_per_second = tokens_per_second

    def works_ahead(self, rank: int | None = None) -> bool:
        return True

    def begin(self, batch: Any, rank: int | None = None) -> Begun[dict[str, Any]]:
        lengths = np.array([len(text) for text in batch["text"]])

        def score() -> dict[str, Any]:
            time.sleep(lengths.sum() / CHARACTERS / self.tokens_per_second)
            return {
                "ladm_score": lengths / 7, "ladm_num_tokens": (lengths // CHARACTERS).astype(np.int32),
                "ladm_status": ["ok"] * len(lengths), "ladm_repetition": np.zeros(len(lengths)),
            }  # fmt: skip

        return Begun(score)


def seconds(source: Path, output: str, chunks: int, speed: float) -> float:
    began = time.perf_counter()
    run_scoring(source, output, Device(speed), chunks=chunks, progress=False)
    return time.perf_counter() - began


def overhead(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Seconds of a chunk in a store that takes its time for every request, against those in a folder.

    Both are done in turns, with the same documents and the same device. Of runs of `C` and `3 C` chunks the difference
    counts; what is left of a run is what a launch costs once.
    """
    from s3 import BUCKET, S3

    words, rows = 2_000, []
    warm = write(folder / "warm.parquet", [words])
    for tokens in options.chunk_tokens:
        # more of the smaller ones, so that what differs from launch to launch counts little
        few = round(options.chunks * max(1.0, (4_000_000 / tokens) ** 0.5))
        many = 3 * few
        sources = {
            chunks: write(folder / f"{tokens}-{chunks}.parquet", [words] * round(chunks * tokens / (words * 1.5)), 500)
            for chunks in (few, many)
        }
        for speed in options.speeds:
            chunk: dict[str, list[float]] = {"folder": [], "store": []}
            launch: dict[str, list[float]] = {"folder": [], "store": []}
            for n in range(options.repeats):
                kinds = [("folder", str(folder)), ("store", f"s3://{BUCKET}")]
                with S3(delay=options.delay):
                    # what the first run of a process loads and connects
                    seconds(warm, f"s3://{BUCKET}/warm", 1, speed)
                    for kind, where in kinds if n % 2 else kinds[::-1]:
                        name = f"{where}/run-{tokens}-{speed:.0f}-{n}"
                        took = {each: seconds(sources[each], f"{name}-{each}", each, speed) for each in sources}
                        chunk[kind].append((took[many] - took[few]) / (many - few))
                        launch[kind].append(took[few] - few * chunk[kind][-1])
            rows.append({
                "chunk_tokens": tokens, "chunks": [few, many], "tokens_per_second": speed,
                "folder_seconds": chunk["folder"], "store_seconds": chunk["store"],
                "overhead": float(np.median(np.divide(chunk["store"], chunk["folder"])) - 1),
                "launch_seconds": float(np.median(np.subtract(launch["store"], launch["folder"]))),
            })  # fmt: skip
            print(json.dumps(rows[-1]), flush=True)
    return {"delay": options.delay, "rows": rows, "cores": os.cpu_count(), "version": __version__}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["soak", "overhead"])
    parser.add_argument("--store", choices=["s3", "bucket"], default="s3")
    parser.add_argument("--url", help="a new place in a store of your own, reached as by `ladm score`, for `soak`")
    parser.add_argument("--documents", type=int, default=1000)
    parser.add_argument("--words", type=int, default=600)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--chunks", type=int)
    parser.add_argument("--worlds", type=int, nargs="*", default=[1, 2, 3])
    parser.add_argument("--faults", type=float, default=0.05)
    parser.add_argument("--delay", type=float, default=0.05)
    parser.add_argument("--chunk-tokens", type=int, nargs="*", default=[4_000_000, 1_000_000, 250_000])
    parser.add_argument("--speeds", type=float, nargs="*", default=[1e6, 4e6], help="tokens a second of the device")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.chunks = options.chunks or (100 if options.part == "soak" else 3)
    with tempfile.TemporaryDirectory() as temporary:
        result = (soak if options.part == "soak" else overhead)(options, Path(temporary))
    print(json.dumps(result))
    name = f"soak_{options.store}" if options.part == "soak" else "overhead"
    if options.url is None:
        (RESULTS / f"object_storage_{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    sys.exit(0 if result.get("equal_to_the_bit", True) else "the rows differ")


if __name__ == "__main__":
    main()
