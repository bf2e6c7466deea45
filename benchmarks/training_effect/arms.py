"""The arms: a ranking of the pool each, `ladm_hf.select` with its default rules, and windows packed from the choice.

An arm is a column to rank by. Arms that draw by chance draw anew for each seed. `first` puts documents before all
others and leaves their order to chance: `gzip` those of the middle 60 % of compression ratios, `text` and `not_text`
those of the oracle and of its opposite. Where a domain or length band has too few of them, the others fill it, so that
all arms have the same domains and lengths. Of a planted pool these two take their form of every text, the other arms
the form that is offered, and what is drawn are groups of texts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from ladm_hf import select

from .packing import packed
from .plan import Plan, drawn, slug
from .store import Stream, generator, write_json


def select_arms(plan: Plan, work: Path) -> None:
    """`windows/ARM-SEED.npz` and `selections/ARM-SEED.json` of every arm whose scores are there."""
    pool = pd.read_parquet(work / "pool.parquet")
    stream = Stream.read(work / "tokens/pool")
    for name, arm in plan["arms"].items():
        if not drawn(arm) and not (work / "scores" / f"{arm['rank']}.npy").exists():
            print(f"{name}: not scored yet", flush=True)
            continue
        for seed in plan["extension"]["seeds"] if drawn(arm) else plan["extension"]["seeds"][:1]:
            target = work / "selections" / f"{slug(name)}-{seed}.json"
            if target.exists():
                continue
            rows = chosen_rows(plan, pool[offered(pool, arm)], ranking(work, pool, arm, seed), arm)
            windows = packed(stream, rows, plan["extension"]["length"])
            windows.save(work / "windows" / f"{slug(name)}-{seed}.npz")
            tokens = int(stream.lengths[rows].sum())
            write_json(target, {"arm": name, "seed": seed, "tokens": tokens, "rows": rows.tolist()})
            print(f"{name}, seed {seed}: {len(rows)} documents, {tokens:,} tokens, {len(windows)} windows", flush=True)


def offered(pool: pd.DataFrame, arm: dict[str, Any]) -> pd.Series[bool]:
    """The documents that an arm may choose."""
    if "offered" not in pool:
        return pd.Series(True, pool.index)
    form = {"text": pool["text"], "not_text": ~pool["text"]}
    return form.get(arm.get("first", ""), pool["offered"])


def ranking(work: Path, pool: pd.DataFrame, arm: dict[str, Any], seed: int) -> np.ndarray:
    """The column that an arm ranks by, `[N]`, the higher the sooner chosen."""
    if not drawn(arm):
        values = np.load(work / "scores" / f"{arm['rank']}.npy")
        return values if arm.get("descending", True) else -values
    unit = pool["group"].to_numpy() if "group" in pool else np.arange(len(pool))
    values = generator("draw", seed).random(int(unit.max()) + 1)[unit]
    first = arm.get("first")
    if first == "gzip":
        values = values + pool["gzip_ratio"].rank(pct=True).between(0.2, 0.8)
    elif first is not None:
        values = values + (pool["text"] == (first == "text"))
    return np.asarray(values)


def chosen_rows(plan: Plan, pool: pd.DataFrame, values: np.ndarray, arm: dict[str, Any]) -> np.ndarray:
    """Rows of the pool, by its index, that `select` keeps; `values` are of the whole pool."""
    values = values[pool.index]
    columns: dict[str, Any] = {
        "row": pool.index.to_numpy(),
        "domain": pool["domain"].tolist(),
        "ladm_score": values.astype(float),
        "ladm_num_tokens": pool["ladm_num_tokens"].to_numpy(),
        "ladm_status": ["ok" if np.isfinite(value) else "too_short" for value in values],
    }
    if arm.get("rule"):
        columns["ladm_repetition"] = pool["ladm_repetition"].to_numpy()
    settings = plan["selection"]
    selection = select(pa.table(columns), by=settings["by"], budget_tokens=settings["budget_tokens"])
    return np.sort(np.array(selection.selected["row"], dtype=np.int64))
