"""From parquet to parquet: what the host does for each token, how much one core does, and how many cores feed a GPU.

    python benchmarks/text_to_score.py DATA.parquet --output results/text_to_score.json               # a CPU
    python benchmarks/text_to_score.py DATA.parquet --output results/text_to_score-gpu.json           # one GPU
    torchrun --nproc_per_node 2 benchmarks/text_to_score.py DATA.parquet --gpus-only --output ...     # two
    ... --shape Llama-3.2-1B                    # a model of a shape of benchmarks/shapes.py, with random weights

First it checks that threads ahead of the device change no row. Then, on any machine, the host's part: seconds of
processor time a token of each stage, and of a whole run whose engine costs nothing, with one thread and with all. On a
GPU: documents a second of the engine alone (token ids in memory), of a run from text and of a run from token ids.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ladm_hf import LadmConfig, LadmScorer, __version__
from ladm_hf.data.columns import documents
from ladm_hf.ranks import Ranks
from ladm_hf.runs.runner import run_scoring
from ladm_hf.scoring import engine as engines
from ladm_hf.scoring import loader
from ladm_hf.scoring.encoder import Encoder
from ladm_hf.scoring.engine import Engine, Measured
from ladm_hf.scoring.loader import Loader
from ladm_hf.scoring.repetition import repetition

TOKENS = 8192
# With which the engine alone is timed, and tokens of a chunk, as in large runs.
ENGINE_DOCUMENTS, CHUNK_TOKENS = 1000, 4_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="parquet with text; its documents are joined and cut to about 8k tokens each")
    parser.add_argument("--model", default="ladm-nano")
    parser.add_argument("--shape", help="a random model of a shape of shapes.py, with ladm-nano's tokenizer")
    parser.add_argument("--documents", type=int, default=0, help="defaults to 600 on a CPU and 4,000 on a GPU")
    parser.add_argument("--gpus-only", action="store_true")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    ranks, gpu = Ranks(), torch.cuda.is_available()
    if not gpu:
        torch.set_num_threads(1)
    number = options.documents or (4000 if gpu else 600)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(ranks.share(lambda: scratch))
        text, ids = folder / "text.parquet", folder / "ids.parquet"
        model = options.model
        if options.shape:
            model = str(folder / "calculator")
            ranks.share(lambda: save_shape(options.shape, Path(model)))
        ranks.share(lambda: write(options.data, number, model, text, ids))
        say(ranks, {"written": number})
        result: dict[str, Any] = {
            "ladm_hf": __version__, "machine": platform.machine(), "cores": len(os.sched_getaffinity(0)),
            "processes": ranks.world, "model": options.shape or options.model, "documents": number,
            "tokens": sum(pq.read_table(ids)["tokens"].to_pylist()),
        }  # fmt: skip
        if not options.gpus_only:
            check(text, folder)
            result |= {"stages": stages(text), "run": host_run(text, folder, result["tokens"])}
        if gpu:
            result["gpu"] = torch.cuda.get_device_name()
            result["device"] = on_device(model, text, ids, folder, ranks, number)
        ranks.wait()
    if ranks.is_main:
        print(json.dumps(result, indent=1))
        if options.output:
            options.output.write_text(json.dumps(result, indent=1) + "\n")


def save_shape(name: str, folder: Path) -> None:
    """A calculator of a shape of shapes.py with random weights and ladm-nano's tokenizer."""
    from shapes import SHAPES, build

    tokenizer = LadmScorer().calculator.load_tokenizer()
    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    build(SHAPES[name] | {"vocab_size": len(tokenizer)}, torch.float16, device).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write(data: str, number: int, model: str, text: Path, ids: Path) -> None:
    """Documents of about `TOKENS` tokens in the mean as text, and the same as token ids."""
    encode = Encoder(LadmScorer(model).calculator.load_tokenizer())
    whole = "\n\n".join(filter(None, pq.read_table(data, columns=["text"])["text"].to_pylist()))
    size = 22_000
    while len(whole) < number * size:
        whole += whole
    pieces = [whole[n * size : (n + 1) * size] for n in range(number)]
    rows = [row for start in range(0, number, 100) for row in encode(pieces[start : start + 100])]
    pq.write_table(pa.table({"text": pieces}), text, row_group_size=500)
    lengths = [len(row) for row in rows]
    table = {"input_ids": pa.array([row.astype(np.int32) for row in rows], pa.list_(pa.int32())), "tokens": lengths}
    pq.write_table(pa.table(table), ids, row_group_size=500)


def free(self: Engine, rows: list[Any]) -> Iterator[tuple[list[int], Callable[[], list[Measured]]]]:
    """An engine that costs nothing."""
    each = len(self.config.heads or ()) if self.config.weights else len(self.layers)
    yield list(range(len(rows))), lambda: [Measured(np.ones(each), np.empty(0)) for _ in rows]


def check(text: Path, folder: Path) -> None:
    """Threads ahead give the rows that one thread gives."""
    found = []
    for works_ahead in (False, True):
        with patch.object(Loader, "works_ahead", lambda self, rank, on=works_ahead: on):
            scorer = LadmScorer(device="cpu", config=LadmConfig(max_length=2400))
            run_scoring(text, folder / f"check-{works_ahead}", scorer, limit=4, chunks=2, progress=False)
        files = sorted((folder / f"check-{works_ahead}" / "data").iterdir())
        found.append(pa.concat_tables([pq.read_table(file) for file in files]))
    assert found[0].equals(found[1]), "threads ahead of the device change a row"


def stages(text: Path) -> dict[str, float]:
    """Processor time of each stage on one thread, in ns a token; the least of three."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    texts = documents(pq.read_table(text)["text"])
    tokenizer = LadmScorer().calculator.load_tokenizer()
    encoder = Encoder(tokenizer)
    tokens = sum(map(len, encoder(texts)))
    target = text.with_name("written.parquet")
    table = pq.read_table(text)
    parts: dict[str, Callable[[], Any]] = {
        "read parquet, to Python": lambda: documents(pq.read_table(text, use_threads=False)["text"]),
        "token ids by transformers' call": lambda: tokenizer(texts, verbose=False)["input_ids"],
        "token ids alone, as arrays": lambda: encoder(texts),
        "repetition": lambda: [repetition(row) for row in texts],
        "write parquet": lambda: pq.write_table(table, target, compression="zstd"),
    }
    found = {}
    for name, part in parts.items():
        times = []
        for _ in range(3):
            began = time.process_time()
            part()
            times.append(time.process_time() - began)
        found[name] = min(times) / tokens * 1e9
    os.environ.pop("TOKENIZERS_PARALLELISM")
    return found


def host_run(text: Path, folder: Path, tokens: int) -> list[dict[str, Any]]:
    """A whole run whose engine costs nothing, by threads ahead: tokens a second, and a second of processor time."""
    rows = []
    with patch.object(Engine, "start_all", free):
        for threads in dict.fromkeys([0, 1, engines.host_threads()]):
            scorer = LadmScorer(device="cpu", dtype="float32")
            scorer({"text": ["a b " * 4000]})
            with (
                patch.object(Loader, "works_ahead", lambda self, rank, on=threads > 0: on),
                patch.object(loader, "host_threads", lambda number=threads: number),
            ):
                began, used = time.perf_counter(), processor_time()
                run_scoring(text, folder / f"host-{threads}", scorer, progress=False)
                seconds, used = time.perf_counter() - began, processor_time() - used
            rows.append({
                "threads": threads, "tokens_per_second": tokens / seconds, "tokens_per_core_second": tokens / used,
            })  # fmt: skip
    return rows


def on_device(model: str, text: Path, ids: Path, folder: Path, ranks: Ranks, number: int) -> dict[str, Any]:
    """Documents a second of the engine alone on each GPU, and of runs from token ids and from text on all of them.

    Beside each run stand the cores that were busy in it, and the share of its time that the device waited for the host:
    what it took longer than the engine alone would.
    """
    scorer = LadmScorer(model)
    few = [np.asarray(row) for row in pq.read_table(ids)["input_ids"].slice(0, ENGINE_DOCUMENTS).to_pylist()]
    scorer({"input_ids": few[:64]}, rank=ranks.local)
    engine = scorer._load(ranks.local)
    for _ in range(2):
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in engine.score_all(few):
            pass
        alone = len(few) / (time.perf_counter() - began)
    found: dict[str, Any] = {"engine_alone": alone, "host_threads": engines.host_threads()}
    say(ranks, found)
    chunks = max(16, number * TOKENS // CHUNK_TOKENS)
    for name, source in (("from_token_ids", ids), ("from_text", text)):
        # a short run first, so that nothing is loaded or compiled in the one that is timed
        warm = min(number, 64 * ranks.world)
        run_scoring(source, folder / f"{name}-warm", scorer, limit=warm, chunks=4 * ranks.world, progress=False)
        ranks.wait()
        began, used = time.perf_counter(), processor_time()
        run_scoring(source, folder / name, scorer, chunks=chunks, progress=False)
        ranks.wait()
        took, used = time.perf_counter() - began, processor_time() - used
        rate = number / took
        found[name] = {
            "documents_per_second": rate, "busy_cores": used / took, "chunks": chunks,
            "share_of_engine": rate / (alone * ranks.world), "host_share": max(0.0, 1 - rate / (alone * ranks.world)),
        }  # fmt: skip
        say(ranks, {name: found[name]})
    return found


def processor_time() -> float:
    """Seconds of processor time of this process and of those that it started, which are alive still."""
    this = psutil.Process()
    times = [process.cpu_times() for process in (this, *this.children(recursive=True))]
    return sum(spent.user + spent.system for spent in times)


def say(ranks: Ranks, found: dict[str, Any]) -> None:
    """Prints what was measured so far: a run that is cut off leaves that."""
    if ranks.is_main:
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
