"""The planted variant of a pool: every text in two forms, whole and in splices, that differ in nothing but order.

Documents of one domain, as far as possible of one source, are put together in groups of `k`, and each gives its first
window, cut into `k` pieces. Splice `j` of the group takes its piece `i` from document `(i + j) mod k`: the splices of a
group hold the same tokens at the same positions as its documents, each piece after pieces of other documents. What
trains better on the documents than on the splices does so by what precedes a token.

A pool offers each group in one of its forms. The oracle takes documents and its opposite splices whatever is offered,
so that both train on the same texts.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .plan import Plan
from .scores import load_tokenizer
from .store import Ints, Stream, generator
from .texts import text_columns


def plant(plan: Plan, work: Path) -> dict[str, int]:
    """Puts the planted variant in the place of the pool as found: `pool.u16` and `pool.parquet`, two rows a text."""
    settings, length = plan["planted"], plan["extension"]["length"]
    found, table = Stream.read(work / "tokens/pool"), pd.read_parquet(work / "pool.parquet")
    groups = grouped(table, found.lengths >= length, settings)
    documents = list(both_forms(found, groups, length))
    rows, tokenizer = [], load_tokenizer(plan)
    for number, group in enumerate(groups):
        for natural in (True, False):
            part = table.iloc[group]
            names = part["id"] if natural else part["id"] + "#spliced"
            # every second group of the shuffled order is offered as it is
            rows.append(part[["domain", "source"]].assign(
                id=names, group=number, text=natural, offered=(number % 2 == 0) == natural, ladm_num_tokens=length
            ))  # fmt: skip
    planted = pd.concat(rows, ignore_index=True)
    texts = [tokenizer.decode(ids.tolist(), clean_up_tokenization_spaces=False) for ids in documents]
    planted = planted.assign(**text_columns(texts))
    Stream.write(work / "tokens/pool", documents)
    planted.to_parquet(work / "pool.parquet")
    return {"documents": len(planted), "tokens": len(planted) * length, "groups": len(groups)}


def grouped(table: pd.DataFrame, long_enough: Any, settings: dict[str, Any]) -> Ints:
    """Rows of the documents of each group, `[G, k]`: prose, code and markup that does not repeat itself."""
    kept = np.flatnonzero(
        table["text"] & (table["ladm_repetition"] <= settings["most_repetition"]) & np.asarray(long_enough)
    )
    size, groups = settings["pieces"], []
    shuffled = generator("planted").permutation(kept)
    for _, part in table.iloc[shuffled].assign(row=shuffled).groupby("domain"):
        rows = part.sort_values("source", kind="stable")["row"].to_numpy()
        groups += rows[: len(rows) // size * size].reshape(-1, size).tolist()
    order = generator("planted groups").permutation(len(groups))
    return np.array(groups, dtype=np.int64).reshape(-1, size)[order]


def both_forms(stream: Stream, groups: Ints, length: int) -> Iterator[np.ndarray]:
    """Of each group its documents, then its splices, `[length]` tokens each."""
    for group in groups:
        pieces = np.stack([stream[row][:length] for row in group]).reshape(len(group), len(group), -1)
        yield from pieces.reshape(len(group), length)
        for shift in range(len(group)):
            turn = (np.arange(len(group)) + shift) % len(group)
            yield pieces[turn, np.arange(len(group))].reshape(length)
