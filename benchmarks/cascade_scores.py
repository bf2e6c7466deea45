"""Scores of the same documents by a small and a larger calculator, and what each takes: what `cascade.py` analyses.

    python benchmarks/cascade_scores.py 'pool/*.parquet' --second FOLDER --first-max-length 2560 --output scores.parquet

Columns of the data: text, domain, and id where there is one. Read are documents that mostly fill `--max-length` tokens,
or `--pieces` of each that is long enough for several. The first calculator scores them at each of its lengths, the
second with its own heads, where it has a choice of them, and with all of them, the paper's form. Scores are one row for
each document and run, written block by block in a shuffled order, so that what is there when the script is stopped is a
random part. All runs take turns, and a run's seconds a document, from token ids, are the median over the blocks; on a
GPU each block is scored twice and the second time counts, so that nothing is compiled in it. They stand with the rest
of a run in the file's metadata.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ladm_hf.config import LadmConfig
from ladm_hf.scoring.scorer import LadmScorer
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
    scorers = runs_of(options)
    documents = pieces_of(options.data, options.max_length, options.pieces)
    documents = documents.take(np.random.default_rng(SEED).permutation(len(documents)))
    described = {
        "ladm_hf": __version__,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else processor(),
        "threads": torch.get_num_threads(),
        "pool": len(documents),
        "dtype": {run.calculator: scorer.dtype for run, scorer in scorers.items()},
        "data": sorted(Path(name).name for name in options.data),
        "pieces": options.pieces,
        "second": LadmScorer(options.second).config.to_dict(),
    }
    score_blocks(documents, scorers, described, options.block, options.output)


def score_blocks(
    documents: pa.Table, scorers: Mapping[Run, LadmScorer], described: dict[str, Any], size: int, output: Path
) -> None:
    """Scores documents by all runs in turns, and writes what there is after each block."""
    parts, seconds = [], {run: [] for run in scorers}
    for start in range(0, len(documents), size):
        block = documents.slice(start, size)
        ids = token_ids(block, scorers)
        for run, scorer in scorers.items():
            if torch.cuda.is_available() or not start:
                scorer({"input_ids": ids[run]})
            began = time.perf_counter()
            columns = pa.table(scorer({"input_ids": ids[run]}))
            seconds[run].append((time.perf_counter() - began) / len(block))
            names = pa.array([json.dumps(identity(asdict(run)))] * len(block))
            for name, values in (("id", block["id"]), ("domain", block["domain"]), ("run", names)):
                columns = columns.append_column(name, values)
            parts.append(columns)
        runs = [asdict(run) | {"seconds": float(np.median(taken))} for run, taken in seconds.items()]
        found = described | {"documents": start + len(block), "runs": runs}
        part = output.with_suffix(".part")
        metadata = {"cascade": json.dumps(found)}
        pq.write_table(pa.concat_tables(parts).replace_schema_metadata(metadata), part)
        part.replace(output)
        times = ", ".join(f"{run['seconds']:.3g}" for run in runs)
        print(f"{found['documents']}/{len(documents)}: {times} s", file=sys.stderr, flush=True)


def runs_of(options: argparse.Namespace) -> dict[Run, LadmScorer]:
    """Every run with its scorer."""
    found = {}
    for length in options.first_max_length or [options.max_length]:
        run = Run(Path(options.first).name, False, True, length)
        found[run] = LadmScorer(options.first, config=LadmConfig(max_length=length), dtype=options.dtype)
    length = {"max_length": options.max_length}
    configs = {False: LadmConfig(**length), True: LadmConfig.paper(**length)}
    if LadmScorer(options.second).config.heads is None:
        del configs[False]
    for paper, config in configs.items():
        run = Run(Path(options.second).name, paper, False, options.max_length)
        found[run] = LadmScorer(options.second, config=config, dtype=options.dtype)
    return found


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


def token_ids(documents: pa.Table, scorers: Mapping[Run, LadmScorer]) -> dict[Run, list[Any]]:
    """Token ids of the documents for each run, by its calculator's tokenizer."""
    texts, found = documents["text"].to_pylist(), {}
    for run, scorer in scorers.items():
        if run.calculator not in found:
            tokenizer = scorer.calculator.load_tokenizer()
            found[run.calculator] = [np.asarray(row) for row in tokenizer(texts, verbose=False)["input_ids"]]
    return {run: found[run.calculator] for run in scorers}


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
