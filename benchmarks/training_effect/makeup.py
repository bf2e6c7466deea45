"""What each arm chose: make-up by tokens, overlap, rank correlation of the scores, manifest of row ids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .file_types import file_type
from .plan import Plan, drawn, slug
from .store import Stream, generator, read_json

# Titles shown of every arm.
TITLES = 10
# In the path of a program: its tests.
TESTS = r"(?<![A-Za-z])[Tt]est|[a-z]Test|_spec\.|(?:^|[/:])spec/"


def selections(plan: Plan, work: Path, pool: pd.DataFrame) -> tuple[dict[str, Any], dict[str, set[int]]]:
    """Make-up and rows of each arm's choice, of its first draw where it draws."""
    pool = pool.assign(type=pool["id"].map(file_type))
    stream, held_out = Stream.read(work / "tokens/pool"), Stream.read(work / "tokens/held_out")
    domains = [row["domain"] for row in read_json(work / "held_out.json")]
    width = 1 + max(int(part.tokens.max()) for part in (stream, held_out))
    targets = {
        name: token_counts(held_out, [i for i, domain in enumerate(domains) if domain == name], width)
        for name in sorted(set(domains))
    }
    result, chosen = {}, {}
    for arm in plan["arms"]:
        path = work / "selections" / f"{slug(arm)}-{plan['extension']['seeds'][0]}.json"
        if not path.exists():
            continue
        rows = read_json(path)["rows"]
        drawn_titles = generator("titles", arm).permutation(len(rows))[:TITLES]
        chosen[arm] = set(rows)
        found = token_counts(stream, rows, width)
        result[arm] = make_up(pool.iloc[rows]) | {
            "vocabulary": {name: round(cross_entropy(found, target), 4) for name, target in targets.items()},
            "titles": pool["id"].iloc[[rows[i] for i in np.sort(drawn_titles)]].tolist(),
        }
    return result, chosen


def make_up(part: pd.DataFrame) -> dict[str, Any]:
    """Of the documents of a selection, by tokens."""
    tokens = part["ladm_num_tokens"]
    by_domain = tokens.groupby(part["domain"]).sum()
    largest = part[part["domain"] == by_domain.idxmax()]
    types, types_of_largest = shares(part, "type"), shares(largest, "type")
    return {
        "documents": len(part),
        "tokens": int(tokens.sum()),
        "median_length": int(tokens.median()),
        "not_text": share(part, ~part["text"]),
        "not_text_by_domain": {str(name): share(rows, ~rows["text"]) for name, rows in part.groupby("domain")},
        "repeated": share(part, part["ladm_repetition"] > 0.3),
        "mean_gzip_ratio": round(float(part["gzip_ratio"].mean()), 2),
        "file_types": {name or "none": round(value, 3) for name, value in types.head(8).items()},
        "not_text_types": shares(part[~part["text"]], "type").head(5).round(3).to_dict(),
        "domains": (by_domain / tokens.sum()).round(3).to_dict(),
        "effective_sources": effective_number(shares(part, "source")),
        "largest_domain": {
            "name": str(by_domain.idxmax()),
            "tests": share(largest, largest["id"].str.contains(TESTS, regex=True)),
            "file_types": {name or "none": round(value, 3) for name, value in types_of_largest.head(5).items()},
            "effective_file_types": effective_number(types_of_largest),
            "effective_sources": effective_number(shares(largest, "source")),
        },
    }


def share(part: pd.DataFrame, mask: Any) -> float:
    tokens = part["ladm_num_tokens"]
    return round(float(tokens[mask].sum() / tokens.sum()), 4)


def shares(part: pd.DataFrame, column: str) -> pd.Series[Any]:
    """Share of the tokens by value of a column, the largest first."""
    tokens = part["ladm_num_tokens"]
    found: pd.Series[Any] = tokens.groupby(part[column]).sum().sort_values(ascending=False) / tokens.sum()
    return found


def effective_number(values: pd.Series[Any]) -> float:
    """Exponential of the entropy of shares: as many equal ones would be as varied."""
    return round(float(np.exp(-(values * np.log(values)).sum())), 1)


def token_counts(stream: Stream, rows: list[int], width: int) -> np.ndarray:
    counts = np.zeros(width)
    for row in rows:
        counts += np.bincount(stream[row], minlength=width)
    return counts


def cross_entropy(counts: np.ndarray, target: np.ndarray) -> float:
    """Nats a token of a text under the token frequencies of another, of which each counts once more."""
    log = np.log((counts + 1) / (counts.sum() + len(counts)))
    return -float(target @ log / target.sum())


def overlap(pool: pd.DataFrame, chosen: dict[str, set[int]]) -> dict[str, dict[str, float]]:
    """Tokens that two arms share over the tokens of either."""
    tokens = pool["ladm_num_tokens"].to_numpy()

    def share(a: set[int], b: set[int]) -> float:
        return round(float(tokens[sorted(a & b)].sum() / max(1, tokens[sorted(a | b)].sum())), 3)

    return {one: {other: share(rows, others) for other, others in chosen.items()} for one, rows in chosen.items()}


def rank_correlation(work: Path, pool: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Spearman's correlation of the scores over the documents of the pool."""
    table = pd.DataFrame({path.stem: np.load(path) for path in sorted((work / "scores").glob("*.npy"))})
    table["gzip_ratio"] = pool["gzip_ratio"]
    table["ladm_repetition"] = pool["ladm_repetition"]
    table["length"] = pool["ladm_num_tokens"]
    correlation = table.rank().corr().round(3)
    return {str(name): row.dropna().to_dict() for name, row in correlation.iterrows()}


def manifest(plan: Plan, work: Path, pool: pd.DataFrame) -> pd.DataFrame:
    """The pool's ids and scores, and by arm the seeds whose selection has the document; no text."""
    table = pool[["id", "domain", "ladm_num_tokens", "text", "gzip_ratio", "ladm_repetition"]].copy()
    for path in sorted((work / "scores").glob("*.npy")):
        table[path.stem] = np.load(path)
    for arm, options in plan["arms"].items():
        seeds = plan["extension"]["seeds"] if drawn(options) else plan["extension"]["seeds"][:1]
        marks = [""] * len(pool)
        for seed in seeds:
            path = work / "selections" / f"{slug(arm)}-{seed}.json"
            for row in read_json(path)["rows"] if path.exists() else []:
                marks[row] += str(seed) if drawn(options) else "x"
        table[f"chosen by {arm}"] = marks
    return table.round(5)
