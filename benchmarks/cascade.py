"""What a cascade loses: how much of the selection by an expensive score is kept where a cheap one chose what it reads.

    python benchmarks/cascade_scores.py 'pool/*.parquet' --second FOLDER --first-max-length 2560 --output scores.parquet
    python benchmarks/cascade.py scores.parquet [--seconds times.parquet ...] --output benchmarks/results/cascade.json

The second calculator of the published results is made by `gguf_calculator.py`; any folder or Hub id does. A cascade
is what `ladm score --cascade --cascade-keep` does: the best of each domain by the first score go on, to a share of the
tokens, and `select` ranks those by the second. Its recall is the share of the tokens that a selection to the same
budget by the second score of all documents has in common with it; of documents that go on at random it would be the
share that goes on. Intervals are of a bootstrap over documents, each with all its pieces. What it selects instead may
be nearly as good: the percentile of its selection by the second score, within the domain, stands beside that of the
whole selection. `COSTS` are of a whole cascade, both passes, beside scoring everything by the second calculator: what
goes on is that less the cost of the first pass, by the seconds measured beside the scores or, with `--seconds`, on
another machine. `--differences` shows the documents of which the two calculators think most differently.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from cascade_scores import identity
from datasets import Dataset
from scipy.stats import rankdata

from ladm_hf import select
from ladm_hf.arrays import Bools, Floats
from ladm_hf.data.score_columns import FIRST_PASS_ONLY
from ladm_hf.stats import spearman

COSTS = (0.1, 0.25, 0.5)
BUDGETS = (0.01, 0.025, 0.05, 0.1, 0.25)
# Draws of the bootstrap that gives the intervals.
DRAWS = 100
# Documents shown of either sort.
SHOWN = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scores", type=Path, nargs="+")
    parser.add_argument("--seconds", type=Path, nargs="+", default=[], help="scores of other machines, for their times")
    parser.add_argument("--one-domain", action="store_true", help="rank all documents as one domain: of few documents")
    parser.add_argument("--differences", action="store_true")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    found = []
    for file in options.scores:
        table, described = read(file)
        if options.one_domain:
            table = replaced(table, "domain", pa.array([""] * len(table)))
        times = [described, *(read(other)[1] for other in options.seconds)]
        runs = described["runs"]
        seconds = [run for run in runs if not run["first"]]
        for second, first in product(seconds, [run for run in runs if run["first"]]):
            pair = Pair.of(table, first, second)
            draws = pair.draws(DRAWS)
            correlations = [draw.rank_correlation() for draw in draws]
            found.append(
                {
                    **pair.described(),
                    "rank_correlation_interval": np.nanpercentile(correlations, (2.5, 97.5)).tolist(),
                    "one_domain": options.one_domain,
                    **of_pool(described),
                    "costs": pair.costs(times, draws),
                }
            )
        if options.differences:
            for second in seconds:
                show_differences(Pair.of(table, runs[0], second))
    for entry in found:
        show(entry)
    if options.output:
        options.output.write_text(json.dumps(found, indent=1) + "\n")


def read(file: Path) -> tuple[pa.Table, dict[str, Any]]:
    """Scores of `cascade_scores.py`, and what describes them."""
    table = pq.read_table(file)
    return table, json.loads(table.schema.metadata[b"cascade"])


def of_pool(described: dict[str, Any]) -> dict[str, Any]:
    """What stands with every pair of runs."""
    config = described["second"]
    heads = {name: config[name] for name in ("heads", "weights", "ablation") if name in config}
    names = ("ladm_hf", "data", "pieces", "pool", "dtype")
    return {**{name: described[name] for name in names}, "scored_on": described["device"], "own_heads": heads}


class Pair:
    """The scores of the same documents by two runs.

    Args:
        tables (sequence of `pa.Table`): of the first and the second. The tokens are those of the second in both: both
            select from the same.
        runs (sequence of mappings): the two runs.

    Attributes:
        selected (`dict[float, Bools]`): by budget, what `select` keeps by the second score of everything.
    """

    def __init__(self, tables: Sequence[pa.Table], runs: Sequence[dict[str, Any]]) -> None:
        self.runs = runs
        counts = tables[1]["ladm_num_tokens"]
        places = pa.array(range(len(counts)))
        self.tables = [replaced(replaced(table, "ladm_num_tokens", counts), "index", places) for table in tables]
        self.tokens = counts.to_numpy()
        self.scores = [table["ladm_score"].to_numpy() for table in self.tables]
        self.both = np.isfinite(self.scores[0]) & np.isfinite(self.scores[1])
        self.total = int(self.tokens[self.both].sum())
        self.selected = {budget: chosen(self.tables[1], budget * self.total) for budget in BUDGETS}

    @classmethod
    def of(cls, table: pa.Table, first: dict[str, Any], second: dict[str, Any]) -> Pair:
        """Two runs of a file of scores."""
        tables = [table.filter(pc.equal(table["run"], json.dumps(identity(run)))) for run in (first, second)]
        if tables[0]["id"] != tables[1]["id"]:
            raise SystemExit("the two runs have other documents")
        return cls(tables, (first, second))

    def draws(self, number: int) -> list[Pair]:
        """Bootstrap over documents, each with all its pieces."""
        rng = np.random.default_rng(0)
        sources = np.array([name.rpartition("@")[0] for name in self.tables[1]["id"].to_pylist()])
        pieces = [np.flatnonzero(sources == source) for source in np.unique(sources)]
        found = []
        for _ in range(number):
            rows = np.concatenate([pieces[n] for n in rng.integers(0, len(pieces), len(pieces))])
            found.append(Pair([table.take(rows) for table in self.tables], self.runs))
        return found

    def described(self) -> dict[str, Any]:
        first, second = self.runs
        return {
            "first": first["calculator"],
            "first_max_length": first["max_length"],
            "second": second["calculator"],
            "second_paper": second["paper"],
            "max_length": second["max_length"],
            "documents": len(self.tokens),
            "tokens": self.total,
            "rank_correlation": self.rank_correlation(),
        }

    def rank_correlation(self) -> float:
        return float(spearman(self.scores[0][self.both], self.scores[1][self.both]))

    def costs(self, times: list[dict[str, Any]], draws: Sequence[Pair]) -> list[dict[str, Any]]:
        """Recall at every whole cost, by the times of each machine that has them."""
        found = []
        for described in times:
            seconds = [time_of(described, run) for run in self.runs]
            if None in seconds:
                continue
            share = seconds[0] / seconds[1]
            rows = []
            for cost in COSTS:
                if cost <= share:
                    continue
                recalls = np.array([draw.recalls(cost - share) for draw in draws], dtype=float)
                rows.append(self.row(cost, cost - share, np.nanpercentile(recalls, (2.5, 97.5), axis=0).T))
            device = f"{described['device']}, {described['threads']} threads"
            found.append({"device": device, "seconds": seconds, "cost_of_first": share, "rows": rows})
        return found

    def selections(self, keep: float) -> dict[float, Bools]:
        """By budget, what a cascade selects where a share of the tokens goes on to the second pass."""
        cascade = second_pass(self.tables[1], chosen(self.tables[0], keep * self.total))
        return {budget: chosen(cascade, budget * self.total) for budget in BUDGETS}

    def recalls(self, keep: float) -> list[float]:
        """Recall by budget; NaN where the budget is less than a document."""
        return [
            self.tokens[self.selected[budget] & got].sum() / max(self.tokens[self.selected[budget]].sum(), 1)
            if self.selected[budget].any()
            else float("nan")
            for budget, got in self.selections(keep).items()
        ]

    def row(self, cost: float, keep: float, intervals: Floats) -> dict[str, Any]:
        """Recall by budget at one whole cost, with what the selections are worth by the second score."""
        budgets = []
        kept = self.selections(keep)
        for budget, recall, interval in zip(BUDGETS, self.recalls(keep), intervals.tolist(), strict=True):
            wanted = self.selected[budget]
            budgets.append(
                {
                    "budget": budget,
                    "documents": int(wanted.sum()),
                    "recall": recall if wanted.any() else None,
                    "interval": interval if wanted.any() else None,
                    "percentiles": [self.percentile(kept[budget]), self.percentile(wanted)],
                }
            )
        return {"cost": cost, "survive": keep, "budgets": budgets}

    def percentile(self, kept: Bools) -> float | None:
        """Mean percentile by the second score within the domain, weighted by tokens."""
        if not kept.any():
            return None
        domains = np.array(self.tables[1]["domain"].to_pylist())
        return float(np.average(percentiles(self.scores[1], domains)[kept], weights=self.tokens[kept]))


def percentiles(scores: Floats, domains: Any) -> Floats:
    """Of each document within its domain, 0 to 100; NaN without a score."""
    found = np.full(len(scores), np.nan)
    for domain in np.unique(domains):
        places = np.flatnonzero((domains == domain) & np.isfinite(scores))
        found[places] = 100 * (rankdata(scores[places]) - 0.5) / max(len(places), 1)
    return found


def time_of(described: dict[str, Any], run: dict[str, Any]) -> float | None:
    """Seconds a document of the same run on another machine."""
    return {tuple(identity(other)): other["seconds"] for other in described["runs"]}.get(tuple(identity(run)))


def replaced(table: pa.Table, column: str, values: pa.Array) -> pa.Table:
    """The same with other values of a column, which may be new."""
    place = table.schema.get_field_index(column)
    return table.append_column(column, values) if place < 0 else table.set_column(place, column, values)


def chosen(table: pa.Table, budget: float) -> Bools:
    """Which rows `select` keeps to a budget of tokens."""
    kept = np.zeros(table.num_rows, dtype=bool)
    kept[select(Dataset(table), budget_tokens=max(1, int(budget))).selected["index"]] = True
    return kept


def second_pass(second: pa.Table, survives: Bools) -> pa.Table:
    """The second scores of the rows that survive, as a cascade writes them."""
    statuses = zip(second["ladm_status"].to_pylist(), survives, strict=True)
    status = pa.array([found if kept else FIRST_PASS_ONLY for found, kept in statuses])
    return replaced(second, "ladm_status", status)


def show(entry: dict[str, Any]) -> None:
    """One pair of runs, for people."""
    heads = "all heads" if entry["second_paper"] else "its own heads"
    print(
        f"{entry['data']} {entry['documents']} documents, {entry['second']} ({heads}, {entry['max_length']} tokens) "
        f"after {entry['first']} ({entry['first_max_length']}): rank correlation {entry['rank_correlation']:+.2f}"
    )
    for basis in entry["costs"]:
        print(f"  {basis['device']}: the first pass costs {basis['cost_of_first']:.1%}")
        for row in basis["rows"]:
            cells = []
            for of in row["budgets"]:
                if of["documents"]:
                    low, high = of["interval"]
                    cells.append(
                        f"{of['budget']:.1%} ({of['documents']}): {of['recall']:.0%} ({low:.0%} to {high:.0%})"
                    )
            print(f"    cost {row['cost']:.0%}, {row['survive']:.1%} goes on: {', '.join(cells)}")


def show_differences(pair: Pair) -> None:
    """The documents that one of the two ranks far above the other, within all documents."""
    places = np.flatnonzero(pair.both)
    ranks = [rankdata(scores[places]) / len(places) for scores in pair.scores]
    gaps = ranks[1] - ranks[0]
    ids, domains = (pair.tables[1][name].to_pylist() for name in ("id", "domain"))
    print(f"{pair.described()}")
    order = np.argsort(gaps, kind="stable")
    for name, shown in (("first", order[:SHOWN]), ("second", order[::-1][:SHOWN])):
        print(f"  ranked higher by the {name}: percentile by the first, by the second, domain, document")
        for n in shown:
            place = places[n]
            print(f"    {ranks[0][n]:4.0%} {ranks[1][n]:4.0%} {domains[place]:<18} {ids[place]}")


if __name__ == "__main__":
    main()
