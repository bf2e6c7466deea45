"""What a cascade loses: how much of the selection by an expensive score is kept where a cheap one chose what it reads.

    python benchmarks/cascade.py 'pool/*.parquet' --second CALCULATOR [--second-paper] --output results/cascade.json

Every document is scored by both calculators, once. A cascade is then what `ladm score --cascade --cascade-keep` does:
the best of each domain by the first score go on, to a share of the tokens, and `select` ranks those by the second. Its
recall is the share of the tokens that a selection to the same budget by the second score of all documents has in common
with it; documents that survive at random would have a recall of about the share that survives. Its cost is beside that
of scoring everything by the second calculator, by the seconds that both took here from token ids.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, concatenate_datasets, load_dataset

from ladm_hf import LadmConfig, LadmScorer, __version__, select
from ladm_hf.data.score_columns import FIRST_PASS_ONLY
from ladm_hf.stats import spearman

KEEP = (0.1, 0.25, 0.5)
BUDGETS = (0.01, 0.025, 0.05, 0.1, 0.25)
# Of a whole cascade, beside scoring everything by the second calculator.
COST = 0.1
# Documents scored at once.
BATCH = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", help="parquet files with text and domain")
    parser.add_argument("--first", default="ladm-nano")
    parser.add_argument("--second", default="ladm-nano")
    parser.add_argument("--second-paper", action="store_true", help="all heads of the second, the paper's form")
    parser.add_argument("--max-length", type=int, default=4096, help="tokens read of each document")
    parser.add_argument("--first-max-length", type=int, help="tokens that the first reads; as many by default")
    parser.add_argument("--documents", type=int, default=400, help="evenly from those that are long enough")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    documents = long_documents(options.data, options.max_length, options.documents)
    length = {"max_length": options.max_length}
    second = LadmConfig.paper(**length) if options.second_paper else LadmConfig(**length)
    first = LadmConfig(max_length=options.first_max_length or options.max_length)
    scorers = [LadmScorer(options.first, config=first), LadmScorer(options.second, config=second)]
    found = measure(documents, *scorers) | {
        "ladm_hf": __version__,
        "first": options.first,
        "second": Path(options.second).name,
        "second_paper": options.second_paper,
        "max_length": options.max_length,
        "first_max_length": first.max_length,
        "data": sorted(Path(name).name for name in options.data),
    }
    print(json.dumps(found, indent=1))
    if options.output:
        before = json.loads(options.output.read_text()) if options.output.exists() else []
        same = ("first", "second", "second_paper", "max_length", "first_max_length", "data")
        others = [entry for entry in before if any(entry[name] != found[name] for name in same)]
        options.output.write_text(json.dumps([*others, found], indent=1) + "\n")


def long_documents(files: list[str], max_length: int, number: int) -> Dataset:
    """Documents that mostly fill `max_length` tokens, evenly from all that there are."""
    columns = ["text", "domain"]
    parts = [load_dataset("parquet", data_files=file, split="train").select_columns(columns) for file in files]
    whole = concatenate_datasets(parts)
    sizes = np.array([len(text) for text in whole["text"]])
    enough = np.flatnonzero(sizes > 4 * max_length)
    return whole.select(enough[np.linspace(0, len(enough) - 1, min(number, len(enough))).astype(int)])


def measure(documents: Dataset, first: LadmScorer, second: LadmScorer) -> dict[str, Any]:
    """Recall by what survives and by budget, and what the first pass costs beside the second of everything."""
    tables, seconds = zip(*(scored(documents, scorer) for scorer in (first, second)), strict=True)
    # the first may read less of each document, and both select from the same tokens
    tokens = tables[1]["ladm_num_tokens"].to_numpy()
    tables = [replaced(table, "ladm_num_tokens", pa.array(tokens)) for table in tables]
    scores = [table["ladm_score"].to_numpy() for table in tables]
    both = np.isfinite(scores[0]) & np.isfinite(scores[1])
    total = int(tokens[both].sum())
    rows = []
    share = seconds[0] / seconds[1]
    for keep in (*([COST - share] if share < COST else []), *KEEP):
        survives = chosen(tables[0], keep * total)
        cascade = second_pass(tables[1], survives)
        for budget in BUDGETS:
            wanted, got = chosen(tables[1], budget * total), chosen(cascade, budget * total)
            common, whole = int(tokens[wanted & got].sum()), int(tokens[wanted].sum())
            rows.append(
                {
                    "survive": keep,
                    "cost": share + int(tokens[survives].sum()) / total,
                    "budget": budget,
                    "documents": int(wanted.sum()),
                    "recall": common / whole if whole else None,
                }
            )
    return {
        "documents": len(documents),
        "tokens": total,
        "seconds": seconds,
        "cost_of_first": share,
        "rank_correlation": float(spearman(scores[0][both], scores[1][both])),
        "rows": rows,
    }


def scored(documents: Dataset, scorer: LadmScorer) -> tuple[pa.Table, float]:
    """The score columns of documents, with their domain, and the seconds that scoring took from token ids."""
    tokenizer = scorer.calculator.load_tokenizer()
    ids = [np.asarray(row) for row in tokenizer(documents["text"][:], verbose=False)["input_ids"]]
    batches = [{"input_ids": ids[start : start + BATCH]} for start in range(0, len(ids), BATCH)]
    # nothing is loaded or compiled in the time
    scorer(batches[0])
    began = time.perf_counter()
    tables = [pa.table(scorer(batch)) for batch in batches]
    seconds = time.perf_counter() - began
    table = pa.concat_tables(tables).append_column("index", pa.array(range(len(ids))))
    return table.append_column("domain", pa.array(documents["domain"][:])), seconds


def replaced(table: pa.Table, column: str, values: pa.Array) -> pa.Table:
    """The same with other values of a column."""
    return table.set_column(table.schema.get_field_index(column), column, values)


def chosen(table: pa.Table, budget: float) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which rows `select` keeps to a budget of tokens."""
    kept = np.zeros(table.num_rows, dtype=bool)
    kept[select(Dataset(table), budget_tokens=max(1, int(budget))).selected["index"]] = True
    return kept


def second_pass(second: pa.Table, survives: np.ndarray[Any, np.dtype[np.bool_]]) -> pa.Table:
    """The second scores of the rows that survive, as a cascade writes them."""
    statuses = zip(second["ladm_status"].to_pylist(), survives, strict=True)
    status = pa.array([found if kept else FIRST_PASS_ONLY for found, kept in statuses])
    return replaced(second, "ladm_status", status)


if __name__ == "__main__":
    main()
