"""What does the default selection keep of a pool of real files with junk among them, all together and by domain?

    python benchmarks/score_windows.py documents.parquet --lengths 8192 32768 --losses --output scores.jsonl
    python benchmarks/mixed_pool.py documents.parquet --scores scores.jsonl --openings openings.txt

Columns of the parquet: id, text, domain, kind (`long`, `short`, or `degenerate`, whose domain is the sort of junk).
`ladm_hf.select` chooses with its defaults, all rules on, a quarter of the tokens of a pool of long documents in which
junk is 27 % of the tokens, drawn anew in each of `--draws`: `together` ranks all as one; `by domain` puts into each
domain the sorts of junk that are found there (`FOUND_IN`); `any junk` puts all sorts into each domain. Shares are of
tokens, with the middle 95 % of the draws. At `--compare` tokens the same is done by every score of the file.

`length` is about all natural documents, read whole: rank correlation, by domain, of length with the score and with
being kept, at three budgets. `--openings` writes the ten highest and lowest of each domain to a text to look at.
"""

from __future__ import annotations

import argparse
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from natural import JUNK
from score_windows import read_scores

from ladm_hf import __version__, select
from ladm_hf.scoring.repetition import repetition
from ladm_hf.training.documents import DEGENERATE

RESULTS = Path(__file__).parent / "results"
BEST = 0.25
BUDGETS = (0.1, 0.25, 0.5)
SHORTEST = 4096
FOUND_IN = {
    "ArXiv/Textbook": "expected log notebook sequence table",
    "Dialogue": "list log repeated translation",
    "Essays": "joined list table",
    "FreeLaw": "joined list repeated table xml",
    "Github": "blob changelog expected generated json lock minified table translation xml",
    "Gutenberg (PG-19)": "joined list repeated table",
    "News/Blog": "changelog contributors joined list translation",
    "Web-docs": "changelog contributors joined json log table xml",
    "Wikipedia-like": "json list table xml",
}


def scored(documents: pd.DataFrame, lines: dict[tuple[str, int], dict[str, Any]], length: int | None) -> pd.DataFrame:
    """Documents with their scores and tokens: of the first `length` tokens, or of as many as were read."""
    chosen: dict[str, dict[str, Any]] = {}
    for (key, cap), line in sorted(lines.items(), key=lambda item: item[0][1]):
        if length is None or cap == length == line["tokens"]:
            chosen[key] = line
    table = documents[documents.id.isin(chosen)].reset_index(drop=True)
    table["tokens"] = [chosen[key]["tokens"] for key in table.id]
    names = list(dict.fromkeys(name for line in chosen.values() for name in line["scores"]))
    for name in names:
        table[name] = [chosen[key]["scores"].get(name, np.nan) for key in table.id]
    table["junk"] = table.kind == DEGENERATE
    table.attrs["scores"] = names
    return table


def add_gzip_band(table: pd.DataFrame) -> None:
    """Nearness of a document's gzip ratio to the middle of all."""
    texts = [text.encode(errors="replace") for text in table.text]
    ratio = np.log([len(text) / len(zlib.compress(text, 6)) for text in texts])
    table["gzip band"] = -np.abs(ratio - np.median(ratio))
    table.attrs["scores"].append("gzip band")


def mixed(natural: pd.DataFrame, junk: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """A pool in which junk is 27 % of the tokens: as much of both, in random order, as that allows."""
    both = [part.iloc[rng.permutation(len(part))] for part in (natural, junk)]
    most = min(natural.tokens.sum() / (1 - JUNK), junk.tokens.sum() / JUNK)
    cut = [np.cumsum(part.tokens) <= share * most + 1 for part, share in zip(both, (1 - JUNK, JUNK), strict=True)]
    return pd.concat([part[keep.to_numpy()] for part, keep in zip(both, cut, strict=True)])


def kept(pool: pd.DataFrame, score: str, share: float, by: str | None) -> Any:
    """The default selection of a share of a pool's tokens."""
    rows = pa.table(
        {
            "row": np.arange(len(pool)),
            "domain": pool.domain.to_list(),
            "ladm_score": pool[score].to_numpy(float),
            "ladm_num_tokens": pool.tokens.to_numpy(),
            "ladm_status": ["ok"] * len(pool),
            "ladm_repetition": pool.repetition.to_numpy(float),
        }
    )
    return select(rows, budget_tokens=int(share * pool.tokens.sum()), by=by)


def junk_share(pool: pd.DataFrame, score: str, by: str | None) -> dict[str, float]:
    """Share of junk in the best quarter, of all and of each domain."""
    best = pool.iloc[np.asarray(kept(pool, score, BEST, by).selected["row"])]
    tokens = best.tokens * best.junk
    share = {"all": float(tokens.sum() / best.tokens.sum())}
    if by is not None:
        sums = best.assign(junk_tokens=tokens).groupby("domain")[["junk_tokens", "tokens"]].sum()
        share |= (sums.junk_tokens / sums.tokens).to_dict()
    return share


def readings(table: pd.DataFrame, score: str, draws: int) -> dict[str, Any]:
    """Junk kept in the three readings."""
    natural, junk = table[~table.junk], table[table.junk]
    found: dict[str, list[dict[str, float]]] = {"together": [], "by domain": [], "any junk": []}
    for draw in range(draws):
        rng = np.random.default_rng(draw)
        found["together"].append(junk_share(mixed(natural, junk, rng).reset_index(drop=True), score, None))
        for reading in ("by domain", "any junk"):
            pools = []
            for domain, group in natural.groupby("domain"):
                sorts = FOUND_IN.get(str(domain), "").split() if reading == "by domain" else []
                there = junk[junk.domain.isin(sorts)] if sorts else junk
                pools.append(mixed(group, there, rng).assign(domain=domain))
            found[reading].append(junk_share(pd.concat(pools, ignore_index=True), score, "domain"))
    return {reading: _summary(shares) for reading, shares in found.items()}


def _summary(shares: Sequence[dict[str, float]]) -> dict[str, Any]:
    table = pd.DataFrame(shares)
    low, high = table.quantile(0.025), table.quantile(0.975)
    return {
        name: {"junk": round(table[name].mean(), 4), "interval": [round(low[name], 4), round(high[name], 4)]}
        for name in table
    }


def length_preference(table: pd.DataFrame, score: str) -> dict[str, Any]:
    """By domain: how score and being kept go with length."""
    result: dict[str, Any] = {}
    for share in BUDGETS:
        for row in kept(table, score, share, "domain").table:
            entry = result.setdefault(row.domain, {"documents": row.scored_documents, "kept": {}})
            entry["score"] = _rounded(row.score_length_correlation)
            entry["kept"][f"{share:.0%}"] = _rounded(row.kept_length_correlation)
    return result


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def openings(table: pd.DataFrame, score: str, number: int = 10, chars: int = 400) -> str:
    """The highest and the lowest of each domain's natural documents and junk found there, as a text for the eye."""
    lines = []
    for domain, group in table[~table.junk].groupby("domain"):
        there = table[table.junk & table.domain.isin(FOUND_IN.get(str(domain), "").split())]
        ranked = pd.concat([group, there]).sort_values(score, ascending=False)
        natural = ranked[~ranked.junk]
        for title, part in (
            ("highest", ranked.head(number)),
            ("lowest", ranked.tail(number)),
            ("lowest natural", natural.tail(number)),
        ):
            lines.append(f"\n######## {domain}: {title} of {len(ranked)}")
            for row in part.to_dict("records"):
                what = row["domain"] if row["junk"] else "natural"
                lines.append(
                    f"\n==== {row[score]:.3f} {what}, {row['tokens']:,} tokens, repetition {row['repetition']:.2f}: "
                    f"{row['id']}\n{row['text'][:chars]}\n[...]\n{row['text'][len(row['text']) // 2 :][:chars]}"
                )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, help="parquet files: id, text, domain and kind")
    parser.add_argument("--scores", type=Path, required=True, help="what score_windows.py wrote of them")
    parser.add_argument("--score", default="LADM", help="score that selects")
    parser.add_argument("--compare", type=int, default=8192, help="tokens at which all scores are compared")
    parser.add_argument("--draws", type=int, default=30)
    parser.add_argument("--openings", type=Path, help="text of the highest and lowest of each domain")
    parser.add_argument("--output", type=Path, default=RESULTS / "mixed_pool.json")
    options = parser.parse_args()
    documents = pd.concat([pd.read_parquet(file) for file in options.files], ignore_index=True)
    lines = read_scores(options.scores)
    documents = documents[documents.id.isin({key for key, _ in lines})].reset_index(drop=True)
    documents["repetition"] = [repetition(text) for text in documents.text]
    whole = scored(documents, lines, None)
    long = whole[(whole.kind != "short") & (whole.tokens >= SHORTEST)]
    same = scored(documents, lines, options.compare)
    same = same[same.kind != "short"].reset_index(drop=True)
    add_gzip_band(same)
    result = {
        "ladm_hf": __version__, "junk_in_the_pool": JUNK, "best": BEST, "draws": options.draws, "shortest": SHORTEST,
        "documents": {"natural": int((~long.junk).sum()), "junk": int(long.junk.sum())},
        "whole": readings(long, options.score, options.draws),
        "compared_at": options.compare,
        "compared": {name: readings(same, name, options.draws) for name in same.attrs["scores"]},
        "length": length_preference(whole[~whole.junk], options.score),
    }  # fmt: skip
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for reading, shares in result["whole"].items():
        print(reading, {name: share["junk"] for name, share in shares.items()})
    if options.openings:
        options.openings.write_text(openings(long, options.score), encoding="utf-8")


if __name__ == "__main__":
    main()
