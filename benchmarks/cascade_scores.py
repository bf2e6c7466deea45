"""Scores of the same documents by a small and a larger calculator, and what each takes: what `cascade.py` analyses.

    python benchmarks/cascade_scores.py 'pool/*.parquet' --second FOLDER --first-max-length 2560 --output scores.parquet

Columns of the data: text, domain, and id where there is one. Read are documents that mostly fill `--max-length` tokens,
or `--pieces` of each that is long enough for several. The first calculator scores them at each of its lengths, the
second by its own heads (`ladm calibrate FOLDER` chooses them) and by all of them, the paper's form. Both are read off
one pass, whose time counts for both. Scores are one row for each document and run, written block by block in a shuffled
order, so that what is there when the script is stopped is a random part. All runs take turns, and a run's seconds a
document, from token ids, are the median over the blocks; on a GPU each block is scored twice and the second time
counts, so that nothing is compiled in it. They stand with the rest of a run in the file's metadata.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ladm_hf.arrays import Floats
from ladm_hf.config import LadmConfig
from ladm_hf.scoring.engine import Engine
from ladm_hf.scoring.scorer import LadmScorer
from ladm_hf.training.heads import read_heads
from ladm_hf.training.search import Choice
from ladm_hf.training.windows import Ids
from ladm_hf.version import __version__

# Characters of a document that mostly fills a token, and of one that nearly always does.
FEW, MANY = 4, 5
# Of the order of documents.
SEED = 0


@dataclass(frozen=True)
class Run:
    """A calculator at one length.

    Attributes:
        calculator (`str`): its name.
        paper (`bool`): whether all heads count, the paper's form.
        first (`bool`): whether it is the small one.
        max_length (`int`): tokens read.
        seconds (`float`): of a document, from token ids.
    """

    calculator: str
    paper: bool
    first: bool
    max_length: int
    seconds: float = float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", help="parquet files with text and domain")
    parser.add_argument("--first", default="ladm-nano")
    parser.add_argument("--second", required=True, help="folder of the larger calculator")
    parser.add_argument("--max-length", type=int, default=4096, help="tokens read of each document")
    parser.add_argument("--first-max-length", type=int, nargs="+", help="those the first reads; as many by default")
    parser.add_argument("--pieces", type=int, default=1, help="most pieces of a document")
    parser.add_argument("--block", type=int, default=8, help="documents of a block; on a GPU some hundreds")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    lengths = options.first_max_length or [options.max_length]
    name = Path(options.first).name
    firsts = {
        Run(name, False, True, n): LadmScorer(options.first, config=LadmConfig(max_length=n), dtype=options.dtype)
        for n in lengths
    }
    second = Second(options.second, options.max_length, options.dtype)
    documents = pieces_of(options.data, options.max_length, options.pieces)
    documents = documents.take(np.random.default_rng(SEED).permutation(len(documents)))
    described = {
        "ladm_hf": __version__,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else processor(),
        "threads": torch.get_num_threads(),
        "pool": len(documents),
        "dtype": {name: next(iter(firsts.values())).dtype, second.name: second.engine.dtype},
        "data": sorted(Path(name).name for name in options.data),
        "pieces": options.pieces,
        "second": second.config.to_dict(),
    }
    score_blocks(documents, firsts, second, described, options.block, options.output)


class Second:
    """The larger calculator: its own choice of heads and all of them, the paper's form, read off one forward pass."""

    def __init__(self, model: str, max_length: int, dtype: str) -> None:
        scorer = LadmScorer(model, config=LadmConfig(max_length=max_length), dtype=dtype)
        if scorer.config.weights is None:
            raise SystemExit(f"{model} has no choice of heads: run ladm calibrate {model} first")
        self.name, self.config = Path(model).name, scorer.config
        self.tokenizer = scorer.calculator.load_tokenizer()
        device = "cuda" if torch.cuda.is_available() else "cpu"
        paper = LadmConfig.paper(max_length=max_length)
        self.engine = Engine(scorer.calculator, paper, scorer.dtype, device, "auto", None)
        self.runs = [Run(self.name, paper, False, max_length) for paper in (False, True)]

    def __call__(self, ids: Sequence[Ids]) -> list[Floats]:
        """The scores of documents in both forms."""
        read = read_heads(self.engine, ids)
        assert self.config.heads is not None
        assert self.config.weights is not None
        places = [read.heads.index(head) for head in self.config.heads]
        own = Choice(dict(zip(places, self.config.weights, strict=True)), self.config.ablation, 0.0)
        return [np.exp(own.scores(read)), read.all_heads[None]]


def score_blocks(
    documents: pa.Table,
    firsts: Mapping[Run, LadmScorer],
    second: Second,
    described: dict[str, Any],
    size: int,
    output: Path,
) -> None:
    """Scores documents by all runs in turns, and writes what there is after each block."""
    parts: list[pa.Table] = []
    seconds: dict[Run, list[float]] = {run: [] for run in (*firsts, *second.runs)}
    small = next(iter(firsts.values())).calculator.load_tokenizer()
    for start in range(0, len(documents), size):
        block = documents.slice(start, size)
        again = torch.cuda.is_available() or not start
        ids = token_ids(block, small)
        found = {}
        for run, scorer in firsts.items():
            found[run], took = timed(partial(scorer, {"input_ids": ids}), again)
            seconds[run].append(took / len(block))
        ids = [row[: second.config.max_length] for row in token_ids(block, second.tokenizer)]
        scores, took = timed(partial(second, ids), again)
        counts = np.array([len(row) for row in ids], dtype=np.int32)
        for run, values in zip(second.runs, scores, strict=True):
            # how much a text repeats itself is the same for both
            found[run] = {**found[next(iter(firsts))], "ladm_score": values, "ladm_num_tokens": counts}
            seconds[run].append(took / len(block))
        parts += [table_of(columns, block, run) for run, columns in found.items()]
        runs = [asdict(run) | {"seconds": float(np.median(taken))} for run, taken in seconds.items()]
        write(parts, described | {"documents": start + len(block), "runs": runs}, output)
        print(
            f"{start + len(block)}/{len(documents)}: {[run['seconds'] for run in runs]} s", file=sys.stderr, flush=True
        )


def timed(score: Callable[[], Any], again: bool) -> tuple[Any, float]:
    """What scoring gives and the seconds it takes, of a second time where the first may compile."""
    if again:
        score()
    began = time.perf_counter()
    return score(), time.perf_counter() - began


def table_of(columns: Mapping[str, Any], block: pa.Table, run: Run) -> pa.Table:
    """The rows of a run, with id and domain."""
    names = pa.array([json.dumps(identity(asdict(run)))] * len(block))
    return pa.table({"run": names, "id": block["id"], "domain": block["domain"], **columns})


def write(parts: Sequence[pa.Table], described: Mapping[str, Any], output: Path) -> None:
    """All rows so far, in place of those before."""
    part = output.with_suffix(".part")
    pq.write_table(pa.concat_tables(parts).replace_schema_metadata({"cascade": json.dumps(described)}), part)
    part.replace(output)


def pieces_of(files: Sequence[str], max_length: int, pieces: int) -> pa.Table:
    """Documents that mostly fill `max_length` tokens: id, domain and text of evenly spaced pieces of each."""
    rows: list[dict[str, str]] = []
    size = MANY * max_length
    for file in files:
        for number, row in enumerate(pq.read_table(file).to_pylist()):
            text = row["text"]
            if len(text) <= FEW * max_length:
                continue
            name = row.get("id") or f"{Path(file).name}:{number}"
            count = min(pieces, max(1, len(text) // size))
            # one piece is the document itself, however long: nothing is read beyond max_length
            starts = np.linspace(0, len(text) - size, count).astype(int) if count > 1 else [0]
            for start in starts:
                end = start + size if count > 1 else len(text)
                rows.append({"id": f"{name}@{start}", "domain": row["domain"], "text": text[start:end]})
    return pa.Table.from_pylist(rows)


def token_ids(documents: pa.Table, tokenizer: Any) -> list[Ids]:
    return [np.asarray(row) for row in tokenizer(documents["text"].to_pylist(), verbose=False)["input_ids"]]


def identity(run: Mapping[str, Any]) -> list[Any]:
    """What tells one run of a file from another."""
    return [run[name] for name in ("calculator", "paper", "first", "max_length")]


def processor() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    main()
