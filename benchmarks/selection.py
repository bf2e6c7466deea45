"""Seconds and memory of `select()` on score rows alone: score, tokens, status and domain.

    python benchmarks/selection.py --rows 10000000 --output benchmarks/results/selection.json

Each strategy runs in its own process, whose peak memory includes the pool itself and the libraries. CPU seconds are
those of all threads: on a busy machine they tell more than the seconds on the clock.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

DOMAINS = 22
STRATEGIES: dict[str, dict[str, Any]] = {
    "exact": {"budget_tokens": 0.1},
    "exact, 4 length bands": {"budget_tokens": 0.1, "length_bands": 4},
    "exact, no length bands": {"budget_tokens": 0.1, "length_bands": "off"},
    "percent": {"budget_tokens": 0.1, "strategy": "percent"},
    "temperature": {"budget_tokens": 0.1, "strategy": "temperature"},
    "top-k": {"k": 10_000, "strategy": "top-k"},
}


def score_rows(rows: int, seed: int) -> pa.Table:
    """A pool without texts: log-normal lengths, domains of very unequal size, one row in a hundred without a score."""
    rng = np.random.default_rng(seed)
    names = pa.array([f"domain {i:02d}" for i in range(DOMAINS)])
    weights = 1 / np.arange(1, DOMAINS + 1)
    bad = rng.random(rows) < 0.01
    score = rng.gamma(4.0, 0.05, rows)
    score[bad] = np.nan
    tokens = np.clip(rng.lognormal(9.3, 0.8, rows), 100, 32_768).astype(np.int32)
    return pa.table(
        {
            "domain": names.take(pa.array(rng.choice(DOMAINS, rows, p=weights / weights.sum()))),
            "ladm_score": score,
            "ladm_num_tokens": tokens,
            "ladm_status": pa.array(["ok", "too_short"]).take(pa.array(bad.astype(np.int8))),
        }
    )


def _measure(name: str, rows: int, seed: int, results: Any) -> None:
    from ladm_hf.selection.selection import select

    table = score_rows(rows, seed)
    options = dict(STRATEGIES[name])
    if "budget_tokens" in options:
        pool_tokens = int(np.asarray(table["ladm_num_tokens"]).sum())
        options["budget_tokens"] = int(options["budget_tokens"] * pool_tokens)
    start, cpu_start = time.perf_counter(), time.process_time()
    selection = select(table, **options)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    assert len(selection.selected) + len(selection.dropped) == rows
    results.put(
        {
            "strategy": name,
            "rows": rows,
            "seconds": round(seconds, 2),
            "cpu_seconds": round(cpu_seconds, 2),
            "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
            "selected": len(selection.selected),
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    measured = []
    for name in STRATEGIES:
        results = context.SimpleQueue()
        process = context.Process(target=_measure, args=(name, arguments.rows, arguments.seed, results))
        process.start()
        process.join()
        if process.exitcode:
            raise SystemExit(f"{name}: the process ended with {process.exitcode}")
        measured.append(results.get())
        print(
            "{strategy:24} {rows:>12,} rows {seconds:7.2f} s {cpu_seconds:7.2f} CPU s {peak_gb:6.2f} GB".format(
                **measured[-1]
            ),
            flush=True,
        )
    if arguments.output:
        record = {
            "benchmark": "selection",
            "cores": len(os.sched_getaffinity(0)),
            "python": platform.python_version(),
            "seed": arguments.seed,
            "results": measured,
        }
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
