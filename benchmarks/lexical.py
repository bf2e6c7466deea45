"""What words alone tell of the hardest change: a second half from another document of the same source.

    python benchmarks/lexical.py documents.parquet          # the documents of natural.py; writes results/lexical.json

Of the pairs of `natural.py`, how often the natural window is the more alike by the words of its parts. Vectors are
`(1 + log count) * idf`, with idf over the documents given, and their likeness is the cosine:

- both halves: of the first half and the second, which knows where the change begins;
- far contexts: mean over contexts of 16 spans that do not overlap, which does not know it;
- far spans: the same of single spans of 128 tokens;
- returns: the share of all words whose attention would go to far spans, if each word attended evenly to where it stood
  before: as near to a score of attention as words come.

Nothing here is learned from windows.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from natural import RESULTS, windows

from ladm_hf import __version__
from ladm_hf.calculators.calculator import resolve
from ladm_hf.training.documents import DEGENERATE, load_documents, tokenize_documents

SPAN, CONTEXT, NEAR = 128, 16, 4
KIND = "second half of the same source"
WORD = re.compile(r"\w+")
MEASURES = ("both halves", "far contexts", "far spans", "returns")


def vectors(counts: np.ndarray, idf: np.ndarray) -> np.ndarray:
    """Rows of unit length, `[N, W]`."""
    weighted = np.where(counts > 0, 1 + np.log(np.maximum(counts, 1)), 0) * idf
    norm = np.linalg.norm(weighted, axis=1, keepdims=True)
    return np.asarray(weighted / np.maximum(norm, 1e-12))


def measures(spans: Sequence[str], idf_of: Callable[[str], float]) -> dict[str, float]:
    """All measures of one window of spans of text."""
    found = [WORD.findall(span) for span in spans]
    words = {word: column for column, word in enumerate(dict.fromkeys(word for row in found for word in row))}
    idf = np.array([idf_of(word) for word in words])
    counts = np.zeros((len(spans), len(words)))
    for row, present in enumerate(found):
        for word, count in Counter(present).items():
            counts[row, words[word]] = count
    half = len(spans) // 2
    halves = vectors(np.stack([counts[:half].sum(0), counts[half:].sum(0)]), idf)
    contexts = vectors(np.stack([counts[max(0, s - CONTEXT + 1) : s + 1].sum(0) for s in range(len(spans))]), idf)
    alone = vectors(counts, idf)
    apart = np.subtract.outer(np.arange(len(spans)), np.arange(len(spans)))
    # of each word, the occurrences before a span, and those of them that are far
    so_far = np.cumsum(counts, axis=0)
    before, far = so_far - counts, np.zeros_like(so_far)
    far[NEAR:] = so_far[:-NEAR]
    share = np.divide(far, before, out=np.zeros_like(far), where=before > 0)
    return {
        "both halves": float(halves[0] @ halves[1]),
        "far contexts": float((contexts @ contexts.T)[apart >= CONTEXT].mean()),
        "far spans": float((alone @ alone.T)[apart >= NEAR].mean()),
        "returns": float((counts * share * idf).sum() / (counts * idf).sum()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", help="parquet or jsonl files, or a Hub id")
    parser.add_argument("--per-domain", type=int, default=12, help="most pairs of a domain")
    parser.add_argument("--output", type=Path, default=RESULTS / "lexical.json")
    options = parser.parse_args()
    tokenizer = resolve("ladm-nano").load_tokenizer()
    documents = tokenize_documents(load_documents(options.data), tokenizer)
    seen: Counter[str] = Counter()
    natural = [document for document in documents if document.kind != DEGENERATE]
    for document in natural:
        seen.update(set(WORD.findall(tokenizer.decode(document.ids.tolist()))))
    items = windows(documents, tokenizer, options.per_domain)
    base = {item.document: item for item in items if item.kind == "base"}

    def of(ids: np.ndarray) -> dict[str, float]:
        spans = [tokenizer.decode(ids[start : start + SPAN].tolist()) for start in range(0, len(ids), SPAN)]
        return measures(spans, lambda word: np.log((len(natural) + 1) / (seen[word] + 1)))

    wins: dict[str, dict[str, list[float]]] = {name: {} for name in MEASURES}
    for item in items:
        if item.kind == KIND:
            whole, changed = of(base[item.document].ids), of(item.ids)
            for name in MEASURES:
                wins[name].setdefault(item.domain, []).append(float(whole[name] > changed[name]))
    result = {
        "ladm_hf": __version__,
        "documents": len(documents),
        "pairs": sum(map(len, wins["returns"].values())),
        "measures": {
            name: {
                "share": round(float(np.mean([won for rows in found.values() for won in rows])), 3),
                "domains": {domain: round(float(np.mean(rows)), 3) for domain, rows in sorted(found.items())},
            }
            for name, found in wins.items()
        },
    }
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    for name, row in result["measures"].items():
        print(f"{name:14s} {row['share']:.3f}  {row['domains']}")


if __name__ == "__main__":
    main()
