"""Does a score go with how far a document reaches back? Rank correlation with a measure that no model takes part in.

    python benchmarks/score_windows.py documents.parquet --lengths 8192 16384 32768 --losses --output scores.jsonl
    python benchmarks/dependency.py documents.parquet --scores scores.jsonl         # writes results/dependency.json

The measure, on the same first tokens that were scored: of all uses of what the document itself defines or first
mentions before (identifiers, labels, citations, numbered things, defined terms, abbreviations, names: see
`definitions.py`), the share whose definition lies `--far` tokens or more before. Windows are compared with others of
their domain and length alone; those with fewer than `--min-uses` uses are left out and counted. Beside the share, the
number of such uses among 1,000 tokens. Spearman's rank correlation, with 95 % intervals of a bootstrap over documents;
gzip ratio is raw over compressed size. `ahead` is the interval of the mean over domains of the first score minus this.

`splices` shows what the measure itself is worth: the area under the curve of its share for windows against the same
whose second half is that of another document of the domain.
"""

from __future__ import annotations

import argparse
import json
import zlib
from bisect import bisect_right
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from definitions import SORTS, uses
from score_windows import read_scores

from ladm_hf import __version__
from ladm_hf.calculators.calculator import resolve
from ladm_hf.stats import area_under_curve, spearman
from ladm_hf.training.documents import DEGENERATE

RESULTS = Path(__file__).parent / "results"
FEWEST = 8
MEASURES = ("share", "per_1000_tokens")


def measure(text: str, starts: list[int], length: int, far: int) -> dict[str, Any]:
    """Uses, far uses and the gzip ratio of the first `length` tokens; `starts` are the tokens' first characters."""
    window = text[: starts[length]] if length < len(starts) else text
    found, distant = Counter[str](), Counter[str]()
    for sort, defined, used in uses(window):
        found[sort] += 1
        distant[sort] += bisect_right(starts, used) - bisect_right(starts, defined) >= far
    raw = window.encode(errors="replace")
    row: dict[str, Any] = {"uses": found.total(), "gzip ratio": len(raw) / len(zlib.compress(raw, 6))}
    row["share"] = distant.total() / found.total() if found else np.nan
    row["per_1000_tokens"] = 1000 * distant.total() / length
    for sort in SORTS:
        row[f"uses: {sort}"] = found[sort]
        row[f"share: {sort}"] = distant[sort] / found[sort] if found[sort] else np.nan
    return row


def measured(
    documents: pd.DataFrame, scores: dict[tuple[str, int], dict[str, Any]], tokenizer: Any, far: int
) -> pd.DataFrame:
    """A row for each scored window of full length: its domain, scores and measures, and the share of its splice."""
    lengths: dict[str, list[int]] = {}
    for (key, length), line in scores.items():
        if line["tokens"] == length:
            lengths.setdefault(key, []).append(length)
    rows = []
    last: dict[tuple[str, int], str] = {}
    for document in documents.itertuples():
        if document.id not in lengths:
            continue
        encoded = tokenizer(document.text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        starts = [start for start, _ in encoded["offset_mapping"]]
        for length in lengths[document.id]:
            row = {"id": document.id, "domain": document.domain, "length": length}
            row |= measure(document.text, starts, length, far) | scores[document.id, length]["scores"]
            # the second half of the document of this domain before
            half, end = starts[length // 2], starts[length] if length < len(starts) else len(document.text)
            if other := last.get((document.domain, length)):
                splice = document.text[:half] + other
                places = [*starts[: length // 2], *range(half, len(splice), max(1, len(other) // (length // 2)))]
                row["splice"] = measure(splice, places, len(places), far)["share"]
            last[document.domain, length] = document.text[half:end]
            rows.append(row)
    return pd.DataFrame(rows)


def correlations(table: pd.DataFrame, names: list[str], target: str, rounds: int) -> dict[str, Any]:
    """Of one domain and length: the correlation of each score, and those of the bootstrap rounds under `drawn`."""
    rng = np.random.default_rng(0)
    table = table.dropna(subset=[target])
    draws = rng.integers(len(table), size=(rounds, len(table)))
    values, goal = table[names].to_numpy(float), table[target].to_numpy(float)
    drawn = np.array([[spearman(values[draw, n], goal[draw]) for n in range(len(names))] for draw in draws])
    whole = [spearman(values[:, n], goal) for n in range(len(names))]
    return {"documents": len(table), "rho": dict(zip(names, whole, strict=True)), "drawn": drawn}


def interval(drawn: np.ndarray) -> list[float]:
    return [round(float(value), 3) for value in np.nanpercentile(drawn, [2.5, 97.5])]


def entry(found: dict[str, Any]) -> dict[str, Any]:
    scores = {
        name: {"rho": round(rho, 3), "interval": interval(found["drawn"][:, place])}
        for place, (name, rho) in enumerate(found["rho"].items())
    }
    return {"documents": found["documents"], "scores": scores}


def overall(by_domain: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """The mean over domains of each score, and how far the first is ahead."""
    drawn = np.nanmean([found["drawn"] for found in by_domain.values()], axis=0)
    mean = np.nanmean([list(found["rho"].values()) for found in by_domain.values()], axis=0)
    return {
        name: {
            "rho": round(float(mean[n]), 3),
            "interval": interval(drawn[:, n]),
            "ahead": interval(drawn[:, 0] - drawn[:, n]) if n else None,
        }
        for n, name in enumerate(names)
    }


def run(table: pd.DataFrame, names: list[str], fewest_uses: int, rounds: int) -> dict[str, Any]:
    """By length: domains, their mean, and the sorts over all domains."""
    result: dict[str, Any] = {}
    for length, windows in table.groupby("length"):
        enough = windows[windows.uses >= fewest_uses]
        sizes = {"windows": len(windows), "with_too_few_uses": len(windows) - len(enough), "splices": {
            str(domain): round(area_under_curve(group.share.dropna(), group.splice.dropna()), 3)
            for domain, group in enough.groupby("domain") if len(group) >= FEWEST
        }}  # fmt: skip
        result[str(length)] = sizes | {
            name: _by_domain(enough, names, name, rounds) for name in MEASURES
        } | {
            "sorts": {
                sort: _by_domain(windows[windows[f"uses: {sort}"] >= fewest_uses], names[:1], f"share: {sort}", rounds)
                for sort in SORTS
            }
        }  # fmt: skip
    return result


def _by_domain(windows: pd.DataFrame, names: list[str], target: str, rounds: int) -> dict[str, Any]:
    found = {
        str(domain): correlations(group, names, target, rounds)
        for domain, group in windows.groupby("domain")
        if len(group) >= FEWEST
    }
    if not found:
        return {}
    medians = windows.groupby("domain")[target].median()
    return {
        "mean over domains": overall(found, names),
        "domains": {name: entry(one) | {"median": round(float(medians[name]), 3)} for name, one in found.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, help="parquet files: id, text and domain; kind where known")
    parser.add_argument("--scores", type=Path, required=True, help="what score_windows.py wrote of them")
    parser.add_argument("--far", type=int, default=2048, help="tokens between a definition and a use far behind it")
    parser.add_argument("--min-uses", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=1000, help="of the bootstrap")
    parser.add_argument("--output", type=Path, default=RESULTS / "dependency.json")
    options = parser.parse_args()
    documents = pd.concat([pd.read_parquet(file) for file in options.files])
    if "kind" in documents:
        documents = documents[documents.kind != DEGENERATE]
    scores = read_scores(options.scores)
    names = [*dict.fromkeys(name for line in scores.values() for name in line["scores"]), "gzip ratio"]
    table = measured(documents, scores, resolve("ladm-nano").load_tokenizer(), options.far)
    result = {
        "ladm_hf": __version__, "far": options.far, "min_uses": options.min_uses,
        "lengths": run(table, [name for name in names if name in table], options.min_uses, options.rounds),
    }  # fmt: skip
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for length, found in result["lengths"].items():
        print(length, found["share"].get("mean over domains"))


if __name__ == "__main__":
    main()
