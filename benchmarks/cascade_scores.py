"""Scores of the same documents by a small and a larger calculator, and what each takes: what `cascade.py` analyses.

    python benchmarks/cascade_scores.py 'pool/*.parquet' --second FOLDER --first-max-length 2560 --output scores.parquet

Columns of the data: text, domain, and id where there is one. Read are documents that mostly fill `--max-length` tokens,
or `--pieces` of each that is long enough for several. The first calculator scores them at each of its lengths, the
second with its own heads, where it has a choice of them, and with all of them, the paper's form. Scores are one row for
each document and run. Seconds a document, from token ids, are of `--timed` documents, all runs in turns on the same
machine: every run scores these once before, so that nothing is loaded or compiled in the time, and the best of `ROUNDS`
counts. They stand with the rest of a run in the file's metadata.

`--random` gives the larger one random weights, for its times alone on another machine, and needs neither its weights
nor data: config.json and ladm_config.json are enough.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from ladm_hf.config import LadmConfig
from ladm_hf.scoring.scorer import LadmScorer
from ladm_hf.version import __version__

# Documents scored at once, and times that those timed are.
BATCH, ROUNDS = 256, 3
# Characters of a document that mostly fills a token, and of one that nearly always does.
FEW, MANY = 4, 5


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
    parser.add_argument("data", nargs="*", help="parquet files with text and domain")
    parser.add_argument("--first", default="ladm-nano")
    parser.add_argument("--second", required=True, help="folder of the larger calculator")
    parser.add_argument("--max-length", type=int, default=4096, help="tokens read of each document")
    parser.add_argument("--first-max-length", type=int, nargs="+", help="those the first reads; as many by default")
    parser.add_argument("--pieces", type=int, default=1, help="most pieces of a document")
    parser.add_argument("--timed", type=int, default=8, help="documents that are timed; on a GPU some hundreds")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--random", action="store_true", help="time the second with random weights, score nothing")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        second = random_weights(options.second, folder) if options.random else options.second
        scorers = runs_of(options, second)
        if options.random:
            documents = random_documents(options.timed)
            ids = {run: random_ids(options.timed, run.max_length) for run in scorers}
        else:
            documents = pieces_of(options.data, options.max_length, options.pieces)
            ids = token_ids(documents, scorers)
        tables = [] if options.random else [scored(documents, ids[run], run, scorers[run]) for run in scorers]
        took = seconds({run: some(ids[run], options.timed) for run in scorers}, scorers)
    described = {
        "ladm_hf": __version__,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else processor(),
        "documents": len(documents),
        "timed": min(options.timed, len(documents)),
        "dtype": {run.calculator: scorer.dtype for run, scorer in scorers.items()},
        "data": sorted(Path(name).name for name in options.data),
        "pieces": options.pieces,
        "second": {"config": LadmScorer(options.second).config.to_dict(), "random": options.random},
        "runs": [asdict(run) | {"seconds": took[run]} for run in scorers],
    }
    empty = pa.table({"run": pa.array([], pa.string())})
    table = pa.concat_tables(tables) if tables else empty
    pq.write_table(table.replace_schema_metadata({"cascade": json.dumps(described)}), options.output)
    print(json.dumps(described, indent=1))


def runs_of(options: argparse.Namespace, second: str) -> dict[Run, LadmScorer]:
    """Every run with its scorer."""
    found = {}
    for length in options.first_max_length or [options.max_length]:
        run = Run(Path(options.first).name, False, True, length)
        found[run] = LadmScorer(options.first, config=LadmConfig(max_length=length), dtype=options.dtype)
    length = {"max_length": options.max_length}
    configs = {False: LadmConfig(**length), True: LadmConfig.paper(**length)}
    if LadmScorer(second).config.heads is None:
        del configs[False]
    for paper, config in configs.items():
        run = Run(Path(options.second).name, paper, False, options.max_length)
        found[run] = LadmScorer(second, config=config, dtype=options.dtype)
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


def scored(documents: pa.Table, ids: Sequence[Any], run: Run, scorer: LadmScorer) -> pa.Table:
    """The score columns of documents in one run, with id and domain."""
    parts = []
    for start in range(0, len(ids), BATCH):
        parts.append(pa.table(scorer({"input_ids": list(ids[start : start + BATCH])})))
        print(f"{run.calculator} {run.max_length} {start + len(parts[-1])}/{len(ids)}", file=sys.stderr, flush=True)
    table = pa.concat_tables(parts).append_column("id", documents["id"]).append_column("domain", documents["domain"])
    return table.append_column("run", pa.array([json.dumps(identity(asdict(run)))] * len(ids)))


def identity(run: Mapping[str, Any]) -> list[Any]:
    """What tells one run of a file from another."""
    return [run[name] for name in ("calculator", "paper", "first", "max_length")]


def seconds(ids: Mapping[Run, list[Any]], scorers: Mapping[Run, LadmScorer]) -> dict[Run, float]:
    """Seconds a document of each run, the best of some rounds in which all runs take turns."""
    best = {run: float("inf") for run in scorers}
    for number in range(ROUNDS + 1):
        for run, scorer in scorers.items():
            began = time.perf_counter()
            scorer({"input_ids": ids[run]})
            if number:
                best[run] = min(best[run], (time.perf_counter() - began) / len(ids[run]))
    return best


def some(ids: Sequence[Any], number: int) -> list[Any]:
    """Evenly chosen documents."""
    return [ids[place] for place in np.linspace(0, len(ids) - 1, min(number, len(ids))).astype(int)]


def random_weights(second: str, folder: str) -> str:
    """A calculator of the same shape and heads."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(second), dtype=torch.bfloat16)
    model.save_pretrained(folder)
    own = Path(second) / "ladm_config.json"
    if own.exists():
        (Path(folder) / own.name).write_text(own.read_text(encoding="utf-8"), encoding="utf-8")
    return folder


def random_ids(number: int, tokens: int) -> list[Any]:
    """Token ids that every vocabulary has."""
    return list(np.random.default_rng(0).integers(0, 8000, (number, tokens)))


def random_documents(number: int) -> pa.Table:
    return pa.table({"id": [str(place) for place in range(number)]})


def processor() -> str:
    """The processor's name and the threads in use."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {torch.get_num_threads()} threads"


if __name__ == "__main__":
    main()
