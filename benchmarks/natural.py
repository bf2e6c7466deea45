"""Does a score put natural long documents above what only looks like one? LADM beside cheap and loss-based rules.

    python benchmarks/natural.py documents.parquet                       # ladm-nano; writes results/natural.json
    python benchmarks/natural.py documents.parquet --against OTHER       # another calculator with the same tokenizer

Columns of the parquet: text; domain and source where known; kind, which is `long` or `short` for natural documents and
`degenerate` for tables, logs, lists and their like (their `domain` is then the sort). Two halves, each the area under
the ROC curve (the probability that a natural window scores above another, 0.5 is chance):

- splices: windows of several documents of one domain, mean over settings of the mean over domains;
- degenerate: windows of degenerate files, mean over sorts of the mean over the domains of natural windows.

Beside them, in pairs, how often a natural window of 8,192 tokens scores above itself changed: its sentences, paragraphs
or stretches shuffled, the names of its second half replaced, its second half taken from another document of its source;
the junk among the best quarter of a pool in which degenerate documents are 27 % of the characters; and the mean score
of the same documents cut to several lengths. Intervals are of a bootstrap over documents, differences in pairs.
"""

from __future__ import annotations

import argparse
import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import xxhash
from quality import Reader, load, over_batches

from ladm_hf import __version__
from ladm_hf.calculators.calculator import resolve
from ladm_hf.ops.scores import document_score
from ladm_hf.stats import area_under_curve
from ladm_hf.training.documents import DEGENERATE, TokenizedDocument
from ladm_hf.training.labelled import labelled_windows
from ladm_hf.training.perturbations import names_of, renamed, shuffled

RESULTS = Path(__file__).parent / "results"
SETTINGS = {4096: (2, 4, 8, 0), 8192: (2, 4, 8, 0), 16384: (2, 4, 8, 0)}
LENGTH = 8192
CUTS = (2432, 4096, 8192, 16384, 32768)
# Share of the characters of the pool that are junk.
JUNK = 0.27


@dataclass(frozen=True)
class Item:
    """A window with what it is: `kind` is natural, splice:K, degenerate, base, pool, cut or the name of a change."""

    kind: str
    domain: str
    ids: np.ndarray
    document: str
    num_chars: int = 0

    @property
    def ids_length(self) -> int:
        return len(self.ids)


def windows(documents: Sequence[TokenizedDocument], tokenizer: Any, per_domain: int, seed: int = 0) -> list[Item]:
    """All windows of the benchmark."""
    natural = [document for document in documents if document.kind != DEGENERATE]
    junk = [document for document in documents if document.kind == DEGENERATE]
    items = []
    for length, pieces in SETTINGS.items():
        for window in labelled_windows(natural, length, pieces, per_domain, seed):
            kind = "natural" if window.pieces == 1 else f"splice:{window.pieces}"
            items.append(Item(kind, window.domain, window.ids, natural[window.documents[0]].key))
    for length in (4096, LENGTH):
        for document in junk:
            if len(document.ids) >= length:
                rng = generator(seed, length, document.key)
                start = int(rng.integers(len(document.ids) - length + 1))
                items.append(Item("degenerate", document.domain, document.ids[start : start + length], document.key))
    for document in documents:
        if len(document.ids) >= LENGTH and document.kind != "short":
            label = document.domain if document.kind == DEGENERATE else "natural"
            items.append(Item("pool", label, document.ids[:LENGTH], document.key, document.num_chars))
    by_domain: dict[str, list[TokenizedDocument]] = {}
    for document in natural:
        if len(document.ids) >= LENGTH:
            by_domain.setdefault(document.domain, []).append(document)
    for domain, members in sorted(by_domain.items()):
        rng = generator(seed, "pairs", domain)
        for index in rng.permutation(len(members))[:per_domain].tolist():
            items += changed(members[index], members, natural, tokenizer, rng)
    return items


def changed(
    document: TokenizedDocument,
    members: Sequence[TokenizedDocument],
    natural: Sequence[TokenizedDocument],
    tokenizer: Any,
    rng: np.random.Generator,
) -> list[Item]:
    """One natural window, and the same changed in each way."""
    half = LENGTH // 2

    def text(ids: np.ndarray) -> str:
        return str(tokenizer.decode(ids.tolist(), clean_up_tokenization_spaces=False))

    def tokens(changed_text: str, length: int) -> np.ndarray:
        ids = tokenizer(changed_text, add_special_tokens=False, verbose=False)["input_ids"]
        return np.resize(np.array(ids, dtype=np.int32), length)

    start = int(rng.integers(len(document.ids) - LENGTH + 1))
    base = np.asarray(document.ids[start : start + LENGTH], dtype=np.int32)
    longer = text(np.asarray(document.ids[start : start + LENGTH + LENGTH // 16]))
    found = {"base": base}
    for unit in ("sentence", "paragraph", "stretch"):
        found[f"shuffled {unit}{'es' if unit == 'stretch' else 's'}"] = tokens(shuffled(longer, unit, rng), LENGTH)
    names = names_of(text(base))
    if len(names) >= 8:
        other = members[int(rng.integers(len(members)))]
        second = text(np.asarray(document.ids[start + half : start + LENGTH + LENGTH // 8]))
        changed_half = renamed(second, names, rng, names_of(text(np.asarray(other.ids[:half]))))
        found["renamed second half"] = np.concatenate([base[:half], tokens(changed_half, half)])
    same = [d for d in natural if d.source == document.source and d is not document and len(d.ids) >= LENGTH]
    if same:
        other = same[int(rng.integers(len(same)))]
        middle = len(other.ids) // 2
        found["second half of the same source"] = np.concatenate(
            [base[:half], np.asarray(other.ids[middle : middle + half])]
        )
    items = [Item(kind, document.domain, ids, document.key) for kind, ids in found.items()]
    if len(document.ids) >= max(CUTS):
        items += [Item("cut", document.domain, np.asarray(document.ids[:length]), document.key) for length in CUTS]
    return items


def generator(*seed: Any) -> np.random.Generator:
    return np.random.default_rng(xxhash.xxh3_64_intdigest(repr(seed).encode()))


def scores_of(
    items: Sequence[Item], tokenizer: Any, folder: str, against: Sequence[str], device: str
) -> dict[str, np.ndarray]:
    """Every score of every window."""
    ids = [item.ids for item in items]
    scores = {}
    for name, model in {"LADM": folder, **{Path(other).name: other for other in against}}.items():
        config = resolve(model).config
        scores[name] = np.empty(len(items))
        for batch, found in load(model, config, device).score_all(ids):
            assert found is not None, "out of memory"
            scores[name][batch] = [document_score(measured.cds, config.weights) for measured in found]
    path = resolve(folder).path
    assert path is not None
    reader = Reader(path, device)
    losses: dict[str, Callable[[torch.Tensor], np.ndarray]] = {
        "long minus short loss": reader.long_minus_short,
        "token loss": reader.token_loss,
    }
    scores |= {name: over_batches(score, items, device) for name, score in losses.items()}
    texts = [tokenizer.decode(np.asarray(row).tolist()).encode() for row in ids]
    ratio = np.log([len(row) / len(zlib.compress(row, 6)) for row in texts])
    # how near to the middle of all windows of that length
    lengths = np.array([len(row) for row in ids])
    middle = np.array([np.median(ratio[lengths == length]) for length in lengths])
    scores["gzip band"] = -np.abs(ratio - middle)
    both = [pd.Series(scores[name]).rank(pct=True).to_numpy() for name in ("long minus short loss", "gzip band")]
    scores["long minus short loss and gzip band"] = both[0] + both[1]
    return scores


def halves(items: Sequence[Item], scores: np.ndarray, weights: np.ndarray) -> dict[str, float]:
    """Area under the curve of both halves by setting, domain and sort, with a weight for each window."""
    kinds = np.array([item.kind for item in items])
    domains = np.array([item.domain for item in items])
    lengths = np.array([item.ids_length for item in items])

    def area(high: np.ndarray, low: np.ndarray) -> float:
        a, b = np.repeat(scores[high], weights[high]), np.repeat(scores[low], weights[low])
        return area_under_curve(a, b)

    found: dict[str, float] = {}
    names = sorted(set(domains[kinds == "natural"]))
    by_domain: dict[str, list[float]] = {name: [] for name in names}
    for length, pieces in SETTINGS.items():
        for k in pieces:
            areas = {}
            for name in names:
                here = (domains == name) & (lengths == length)
                areas[name] = area(here & (kinds == "natural"), here & (kinds == f"splice:{k}"))
                by_domain[name].append(areas[name])
            found[f"splices {length:,} x {k}" if k else f"splices {length:,} joined"] = nanmean(areas.values())
    found["splices"] = nanmean(found.values())
    found |= {f"splices in {name}": nanmean(areas) for name, areas in by_domain.items()}
    sorts = sorted(set(domains[kinds == "degenerate"]))
    for sort in sorts:
        areas = []
        for length in (4096, LENGTH):
            low = (kinds == "degenerate") & (domains == sort) & (lengths == length)
            for name in names:
                areas.append(area((kinds == "natural") & (domains == name) & (lengths == length), low))
        found[f"degenerate: {sort}"] = nanmean(areas)
    found["degenerate"] = nanmean([found[f"degenerate: {sort}"] for sort in sorts])
    found["both halves"] = (found["splices"] + found["degenerate"]) / 2
    return found


def nanmean(values: Any) -> float:
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else float("nan")


def paired(items: Sequence[Item], scores: np.ndarray) -> dict[str, dict[str, float]]:
    """How often a natural window scores above itself changed, with the number of pairs."""
    base = {item.document: score for item, score in zip(items, scores, strict=True) if item.kind == "base"}
    wins: dict[str, list[float]] = {}
    for item, score in zip(items, scores, strict=True):
        if item.kind.startswith("shuffled") or "second half" in item.kind:
            wins.setdefault(item.kind, []).append(float(score < base[item.document]))
    return {kind: {"share": round(float(np.mean(won)), 3), "pairs": len(won)} for kind, won in wins.items()}


def pool(items: Sequence[Item], scores: np.ndarray, best: float = 0.25) -> dict[str, float]:
    """Junk among the best quarter of a pool, by characters, where junk is 27 % of them."""
    rows = [row for row, item in enumerate(items) if item.kind == "pool"]
    natural = np.array([items[row].domain == "natural" for row in rows])
    size = np.array([items[row].num_chars for row in rows], dtype=float)
    if natural.all() or not natural.any():
        return {}
    size[natural] *= (1 - JUNK) / size[natural].sum()
    size[~natural] *= JUNK / size[~natural].sum()
    order = np.argsort(-scores[rows])
    kept = order[: np.searchsorted(np.cumsum(size[order]), best) + 1]
    share = size[kept][~natural[kept]].sum() / size[kept].sum()
    return {
        "junk": round(float(share), 4),
        "auc": round(area_under_curve(scores[rows][natural], scores[rows][~natural]), 4),
        "natural": int(natural.sum()),
        "degenerate": int((~natural).sum()),
    }


def run(
    documents: Sequence[TokenizedDocument],
    tokenizer: Any,
    folder: str,
    device: str,
    against: Sequence[str] = (),
    per_domain: int = 12,
    rounds: int = 200,
    seed: int = 0,
) -> dict[str, Any]:
    """The whole comparison as a dictionary for JSON."""
    items = windows(documents, tokenizer, per_domain, seed)
    scores = scores_of(items, tokenizer, folder, against, device)
    drawn = draws(items, rounds)
    first = next(iter(scores))
    samples = {name: [halves(items, values, weights) for weights in drawn] for name, values in scores.items()}
    result: dict[str, Any] = {}
    for name, values in scores.items():
        areas = halves(items, values, np.ones(len(items), dtype=int))
        entry: dict[str, Any] = {"areas": {key: round(area, 4) for key, area in areas.items()}}
        for key in ("splices", "degenerate", "both halves"):
            sample = np.array([draw[key] for draw in samples[name]])
            ahead = np.array([draw[key] for draw in samples[first]]) - sample
            entry[key] = {
                "auc": round(areas[key], 4),
                "interval": np.percentile(sample, [2.5, 97.5]).round(4).tolist(),
                "first_is_ahead_by": np.percentile(ahead, [2.5, 97.5]).round(4).tolist(),
            }
        entry["pairs"] = paired(items, values)
        entry["pool"] = pool(items, values)
        cuts = {length: [v for i, v in zip(items, values, strict=True) if i.kind == "cut" and i.ids_length == length]
                for length in CUTS}  # fmt: skip
        entry["cut to"] = {f"{length:,}": round(nanmean(found), 4) for length, found in cuts.items()}
        result[name] = entry
    kinds = [item.kind for item in items]
    return {
        "ladm_hf": __version__,
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "config": resolve(folder).config.to_dict(),
        "documents": len(documents),
        "sources": len({document.source for document in documents}),
        "windows": {kind: kinds.count(kind) for kind in sorted(set(kinds))},
        "scores": result,
    }


def draws(items: Sequence[Item], rounds: int) -> list[np.ndarray]:
    """How often each window counts in each round: documents are drawn again, with all of their windows."""
    rng = np.random.default_rng(0)
    names = {name: row for row, name in enumerate(dict.fromkeys(item.document for item in items))}
    place = np.array([names[item.document] for item in items])
    return [rng.multinomial(len(names), np.full(len(names), 1 / len(names)))[place] for _ in range(rounds)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", help="parquet or jsonl files, or a Hub id")
    parser.add_argument("--model", default="ladm-nano", help="calculator: ladm-nano, a folder or a Hub id")
    parser.add_argument("--against", nargs="+", default=[], help="other calculators with the same tokenizer")
    parser.add_argument("--per-domain", type=int, default=12, help="most windows of a kind in a domain")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, default=RESULTS / "natural.json")
    options = parser.parse_args()
    from ladm_hf.training.documents import load_documents, tokenize_documents

    tokenizer = resolve(options.model).load_tokenizer()
    documents = tokenize_documents(load_documents(options.data), tokenizer)
    result = run(documents, tokenizer, options.model, options.device, options.against, options.per_domain)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    for name, entry in result["scores"].items():
        print(name, {key: entry[key]["auc"] for key in ("splices", "degenerate", "both halves")}, entry["pool"]["junk"])


if __name__ == "__main__":
    main()
