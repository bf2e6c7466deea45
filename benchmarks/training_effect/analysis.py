"""Statistics of all runs: paired differences with intervals, corrected tests, the instrument, what each arm chose.

Let `L[run, document]` be a measure of an arm, its runs (base, seed) and documents the same for all arms. A round of
the two-level bootstrap draws runs again within each base and documents again within each domain, the same for all arms,
so that differences between arms are paired. A mean is one over runs and, within a run, over domains.
"""

from __future__ import annotations

import math
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd

from .file_types import file_type
from .plan import Plan, digest, drawn, slug
from .report import draw, markdown
from .store import generator, read_json, write_json

Values = dict[str, np.ndarray]
# Titles shown of every arm.
TITLES = 10


def analyse(plan: Plan, work: Path, output: Path) -> None:
    found = read_runs(plan, work)
    result: dict[str, Any] = {"plan": plan, "plan_digest": digest(plan), "prepared": read_json(work / "prepared.json")}
    result["bases"] = {
        str(seed): read_json(work / "bases" / str(seed) / "trained.json") for seed in plan["base"]["seeds"]
    }
    result["runs"] = {name: len(values) for name, values in found["loss"].items()}
    result["stage_0"] = instrument(plan, found)
    if plan["statistics"]["against"] in found["loss"]:
        result["measures"] = {name: compared(plan, found, name) for name in ("loss", "gain", "probes", "short")}
        result["probes"] = probe_accuracy(found)
    pool = pd.read_parquet(work / "pool.parquet")
    result["selections"], chosen = selections(plan, work, pool)
    result["overlap"] = overlap(pool, chosen)
    result["rank_correlation"] = rank_correlation(work, pool)
    result["bill"] = bill(work, found)
    output.mkdir(parents=True, exist_ok=True)
    write_json(output / "training_effect.json", result)
    (output / "training_effect.md").write_text(markdown(result))
    manifest(plan, work, pool).to_csv(output / "training_effect_manifest.csv", index=False)
    if "measures" in result:
        draw(result, output / "training_effect.png")
    print(markdown(result))


def read_runs(plan: Plan, work: Path) -> dict[str, Any]:
    """Measures by arm, `[runs, documents]`, of the runs (base, seed) that all arms run so far have."""
    held = read_json(work / "held_out.json")
    kinds = read_json(work / "probes.json")
    every = {}
    for path in sorted((work / "runs").glob("*.json")):
        run = read_json(path)
        if run["plan"] != digest(plan):
            raise SystemExit(f"{path} was made under another plan")
        every[run["arm"], run["base"], run["seed"]] = run
    arms = [arm for arm in plan["arms"] if any(key[0] == arm for key in every)]
    pairs = [(base, seed) for base in plan["base"]["seeds"] for seed in plan["extension"]["seeds"]]
    common = [pair for pair in pairs if all((arm, *pair) in every for arm in arms)]
    found: dict[str, Any] = {
        "bases": np.array([base for base, _ in common]),
        "domains": {
            "loss": [row["domain"] for row in held],
            "gain": [row["domain"] for row in held],
            "probes": kinds,
        },
        "training_seconds": {key: run["training"]["seconds"] for key, run in every.items()},
        "measuring_seconds": {key: run["measuring_seconds"] for key, run in every.items()},
        "tokens": {arm: [every[arm, *pair]["training"]["tokens"] for pair in common] for arm in arms},
    }
    for name in ("loss", "gain", "short"):
        found[name] = {arm: np.array([every[arm, *pair][name] for pair in common]) for arm in arms}
    found["domains"]["short"] = ["short"] * found["short"][arms[0]].shape[1]
    order = list(dict.fromkeys(kinds))
    found["probes"] = {
        arm: np.array([[hit for kind in order for hit in every[arm, *pair]["probes"][kind]] for pair in common], float)
        for arm in arms
    }
    return found


def document_weights(domains: list[str], rounds: int | None) -> np.ndarray:
    """`[D]`, what each document counts for in a mean over domains; or `[rounds, D]`, drawn again within each domain."""
    names = sorted(set(domains))
    weights = np.zeros((rounds or 1, len(domains)))
    for name in names:
        members = np.flatnonzero(np.array(domains) == name)
        size, rng = len(members), generator("documents", name)
        counts = np.ones((1, size)) if rounds is None else rng.multinomial(size, np.full(size, 1 / size), rounds)
        weights[:, members] = counts / size / len(names)
    return weights


def run_weights(bases: np.ndarray, rounds: int | None) -> np.ndarray:
    """`[runs]`, or `[rounds, runs]` drawn again within each base."""
    weights = np.zeros((rounds or 1, len(bases)))
    for base in sorted(set(bases.tolist())):
        members = np.flatnonzero(bases == base)
        size, rng = len(members), generator("runs", base)
        counts = np.ones((1, size)) if rounds is None else rng.multinomial(size, np.full(size, 1 / size), rounds)
        weights[:, members] = counts / len(bases)
    return weights


def means(found: dict[str, Any], measure: str, rounds: int | None) -> Values:
    """Mean of every arm, `[1]` or `[rounds]`."""
    by_run, by_document = run_weights(found["bases"], rounds), document_weights(found["domains"][measure], rounds)
    return {
        arm: np.einsum("rk,kd,rd->r", by_run, values, by_document, optimize=True)
        for arm, values in found[measure].items()
    }


def compared(plan: Plan, found: dict[str, Any], measure: str) -> dict[str, Any]:
    """Every arm against the baseline: difference, interval, share of the way to the oracle; and the plan's tests."""
    settings = plan["statistics"]
    baseline, tail = settings["against"], 50 * (1 - settings["confidence"])
    point, sample = means(found, measure, None), means(found, measure, settings["rounds"])
    per_document = document_weights(found["domains"][measure], None)[0]

    def interval(values: np.ndarray) -> list[float]:
        return np.nanpercentile(values, [tail, 100 - tail]).round(5).tolist()

    result: dict[str, Any] = {"arms": {}, "tests": []}
    for arm, values in found[measure].items():
        difference = sample[arm] - sample[baseline]
        entry = {"mean": round(float(point[arm][0]), 5), "interval": interval(sample[arm])}
        if arm != baseline:
            entry["difference"] = round(float(point[arm][0] - point[baseline][0]), 5)
            entry["difference_interval"] = interval(difference)
            entry["difference_by_run"] = ((values - found[measure][baseline]) @ per_document).round(5).tolist()
            entry["difference_by_domain"] = by_domain(found, measure, arm, baseline)
        if arm != baseline and "oracle" in point:
            gap = point["oracle"][0] - point[baseline][0]
            entry["share_of_gap"] = round(float((point[arm][0] - point[baseline][0]) / gap), 3) if gap else None
            with np.errstate(divide="ignore", invalid="ignore"):
                entry["share_of_gap_interval"] = interval(difference / (sample["oracle"] - sample[baseline]))
        result["arms"][arm] = entry
    tests = [(a, b) for a, b in settings["tested"] if a in point and b in point]
    p_values = [two_sided(sample[a] - sample[b]) for a, b in tests]
    for (a, b), p, corrected in zip(tests, p_values, holm(p_values), strict=True):
        difference = sample[a] - sample[b]
        entry = {"arm": a, "against": b, "difference": round(float(point[a][0] - point[b][0]), 5)}
        result["tests"].append(
            entry | {"interval": interval(difference), "p": round(p, 5), "p_holm": round(corrected, 5)}
        )
    return result


def by_domain(found: dict[str, Any], measure: str, arm: str, baseline: str) -> dict[str, float]:
    domains = np.array(found["domains"][measure])
    difference = (found[measure][arm] - found[measure][baseline]).mean(0)
    return {name: round(float(difference[domains == name].mean()), 5) for name in sorted(set(domains.tolist()))}


def two_sided(differences: np.ndarray) -> float:
    """Twice the smaller share of rounds on either side of zero, which is at least 1 / (rounds + 1)."""
    below, above = int((differences <= 0).sum()), int((differences >= 0).sum())
    return min(1.0, 2 * (min(below, above) + 1) / (len(differences) + 1))


def holm(p_values: list[float]) -> list[float]:
    """Holm's corrected p-values, in the order given."""
    corrected, highest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(np.argsort(p_values).tolist()):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = highest
    return corrected


def instrument(plan: Plan, found: dict[str, Any]) -> dict[str, Any]:
    """Stage 0: the oracle against its opposite, in units of the spread of seeds within a base."""
    good, bad = plan["stage_0"]["arms"]
    if good not in found["loss"] or bad not in found["loss"]:
        return {}
    weights = document_weights(found["domains"]["loss"], None)[0]
    by_run = {arm: found["loss"][arm] @ weights for arm in found["loss"]}
    spread = within_bases([by_run[good], by_run[bad]], found["bases"])
    difference = float((by_run[bad] - by_run[good]).mean())
    result = {
        "difference": round(difference, 5),
        "spread_of_seeds": round(spread, 5),
        "ratio": round(difference / spread, 2) if spread else None,
        "passed": bool(difference >= plan["stage_0"]["at_least"] * spread),
        "runs": {arm: by_run[arm].round(5).tolist() for arm in (good, bad)},
    }
    baseline = plan["statistics"]["against"]
    if baseline in by_run:
        paired = within_bases([by_run[good] - by_run[baseline]], found["bases"])
        normal = NormalDist()
        factor = normal.inv_cdf(0.5 + plan["statistics"]["confidence"] / 2) + normal.inv_cdf(0.8)
        # by runs alone: the documents are the same in both arms
        result["detectable_difference"] = round(factor * paired / math.sqrt(len(found["bases"])), 5)
    return result


def within_bases(values: list[np.ndarray], bases: np.ndarray) -> float:
    """Pooled standard deviation over the runs of a base."""
    groups = [run[bases == base] for run in values for base in sorted(set(bases.tolist()))]
    freedom = sum(len(group) - 1 for group in groups)
    return math.sqrt(sum(float(((group - group.mean()) ** 2).sum()) for group in groups) / freedom) if freedom else 0.0


def probe_accuracy(found: dict[str, Any]) -> dict[str, dict[str, float]]:
    kinds = np.array(found["domains"]["probes"])
    return {
        arm: {str(kind): round(float(values[:, kinds == kind].mean()), 4) for kind in dict.fromkeys(kinds)}
        for arm, values in found["probes"].items()
    }


def selections(plan: Plan, work: Path, pool: pd.DataFrame) -> tuple[dict[str, Any], dict[str, set[int]]]:
    """What each arm chose, its first draw where it draws: make-up by tokens, and some titles."""
    types = pool["id"].map(file_type)
    result, chosen = {}, {}
    for arm in plan["arms"]:
        path = work / "selections" / f"{slug(arm)}-{plan['extension']['seeds'][0]}.json"
        if not path.exists():
            continue
        rows = read_json(path)["rows"]
        part = pool.iloc[rows]
        tokens = part["ladm_num_tokens"]
        by_type = tokens.groupby(types.iloc[rows]).sum().sort_values(ascending=False) / tokens.sum()
        drawn_titles = generator("titles", arm).permutation(len(rows))[:TITLES]
        chosen[arm] = set(rows)
        result[arm] = {
            "documents": len(rows),
            "tokens": int(tokens.sum()),
            "not_text": round(float(tokens[~part["text"]].sum() / tokens.sum()), 4),
            "mean_gzip_ratio": round(float(part["gzip_ratio"].mean()), 2),
            "repeated": round(float(tokens[part["ladm_repetition"] > 0.3].sum() / tokens.sum()), 4),
            "file_types": {name or "none": round(float(share), 3) for name, share in by_type.head(8).items()},
            "domains": (tokens.groupby(part["domain"]).sum() / tokens.sum()).round(3).to_dict(),
            "titles": part["id"].iloc[np.sort(drawn_titles)].tolist(),
        }
    return result, chosen


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


def bill(work: Path, found: dict[str, Any]) -> dict[str, Any]:
    scores = {path.stem: read_json(path) for path in sorted((work / "scores").glob("*.json"))}
    return {
        "scores": scores,
        "training_seconds": round(sum(found["training_seconds"].values()), 1),
        "measuring_seconds": round(sum(found["measuring_seconds"].values()), 1),
        "runs": len(found["training_seconds"]),
        "mean_training_tokens": {arm: int(np.mean(tokens)) for arm, tokens in found["tokens"].items()},
    }


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
