"""Padding that best fit alone, `ladm pack`, and any packing at least leaves, for ranges of document lengths.

    python benchmarks/packing.py --output benchmarks/results/packing.json

Lengths are log-uniform between two parts of a sequence; documents longer than a sequence are cut into pieces of its
length. The bound is the larger of two: of documents of which no more than so many fit into a sequence, and that of
Martello and Toth (1990) of documents above half a sequence and what fits beside them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ladm_hf.packing.best_fit import best_fit
from ladm_hf.packing.sequences import pack_sequences

LENGTH, DOCUMENTS, BUFFERS = 8192, 20_000, (64, 1024)
# Shortest and longest document as parts of a sequence.
RANGES = (
    (1 / 64, 1), (1 / 16, 1), (1 / 8, 1), (1 / 4, 1), (1 / 2, 1),
    (1 / 16, 1 / 2), (1 / 8, 1 / 2), (1 / 4, 1 / 2), (1 / 3, 1 / 2),
    (1 / 16, 1 / 4), (1 / 8, 1 / 4), (1 / 10, 1 / 5), (1 / 5, 1 / 3),
    (1 / 64, 4), (1 / 4, 2), (1 / 2, 2), (1, 4),
)  # fmt: skip


def fewest_sequences(sizes: NDArray[np.int64], length: int) -> int:
    """A number of sequences that no packing of these pieces undercuts."""
    bound = -(-int(sizes.sum()) // length)
    for together in range(1, 20):
        # of documents longer than this, no more than `together` fit into a sequence
        bound = max(bound, -(-int((sizes > length / (together + 1)).sum()) // together))
    for shortest in np.unique(sizes[sizes <= length // 2]):
        alone = int((sizes > length - shortest).sum())
        large = sizes[(sizes > length // 2) & (sizes <= length - shortest)]
        rest = int(sizes[(sizes >= shortest) & (sizes <= length // 2)].sum()) - int((length - large).sum())
        bound = max(bound, alone + len(large) + max(0, -(-rest // length)))
    return bound


def measured(low: float, high: float, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    sizes = np.exp(rng.uniform(np.log(LENGTH * low), np.log(LENGTH * high), DOCUMENTS)).astype(int)
    pieces = [min(LENGTH, size - start) for size in sizes.tolist() for start in range(0, size, LENGTH)]

    def padding(sequences: int) -> float:
        return round(1 - int(sizes.sum()) / (LENGTH * sequences), 5)

    row: dict[str, Any] = {"low": low, "high": high, "best_fit": padding(len(best_fit(pieces, LENGTH)))}
    for buffer in BUFFERS:
        documents = (np.zeros(size, np.int32) for size in sizes)
        row[f"buffer_{buffer}"] = padding(
            sum(1 for _ in pack_sequences(documents, LENGTH, buffer_tokens=buffer * LENGTH))
        )
    return row | {"bound": padding(fewest_sequences(np.array(pieces), LENGTH))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    rows = [measured(low, high, seed) for seed, (low, high) in enumerate(RANGES)]
    result = {"length": LENGTH, "documents": DOCUMENTS, "buffers": BUFFERS, "rows": rows}
    text = json.dumps(result, indent=1) + "\n"
    print(text)
    if options.output:
        options.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
