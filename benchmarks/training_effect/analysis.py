"""Statistics of all runs: paired differences with intervals, corrected tests, the instrument, what each arm chose.

Let `L[run, document]` be a measure of an arm, a run being a pair of base and seed. Arms are compared over the runs that
both have. A round of the two-level bootstrap draws runs again within each base and documents again within each domain,
the same for both arms, so that differences are paired. A mean is one over runs and, within a run, over domains.
"""

from __future__ import annotations

import math
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd

from .makeup import manifest, overlap, rank_correlation, selections
from .plan import Plan, digest
from .report import draw, markdown
from .store import generator, read_json, write_json

Values = dict[str, np.ndarray]
Run = tuple[int, int]
MEASURES = ("loss", "gain", "probes", "short")
# Differences that the plan does not test, shown without a test.
NOT_PLANNED = (("LADM", "long minus short loss"), ("LADM", "oracle"), ("long minus short loss", "oracle"))


def analyse(plan: Plan, work: Path, output: Path, name: str = "training_effect") -> None:
    """`NAME.json`, `NAME_manifest.csv` and the figure in `output`."""
    found = read_runs(plan, work)
    result: dict[str, Any] = {"plan": plan, "plan_digest": digest(plan), "prepared": read_json(work / "prepared.json")}
    result["bases"] = {
        str(seed): read_json(work / "bases" / str(seed) / "trained.json") for seed in plan["base"]["seeds"]
    }
    result["runs"] = {arm: [f"base {base}, seed {seed}" for base, seed in runs] for arm, runs in found["runs"].items()}
    result["stage_0"] = instrument(plan, found)
    if plan["statistics"]["against"] in found["loss"]:
        result["measures"] = {name: compared(plan, found, name) for name in MEASURES}
        result["tests_over_common_runs"] = compared(plan, common(found, *found["loss"]), "loss")["tests"]
        result["probes"] = probe_accuracy(found)
    pool = pd.read_parquet(work / "pool.parquet")
    result["selections"], chosen = selections(plan, work, pool)
    result["overlap"] = overlap(pool, chosen)
    result["rank_correlation"] = rank_correlation(work, pool)
    result["bill"] = bill(work, found, result["prepared"]["pool"]["tokens"])
    output.mkdir(parents=True, exist_ok=True)
    write_json(output / f"{name}.json", result)
    manifest(plan, work, pool).to_csv(output / f"{name}_manifest.csv", index=False)
    if "measures" in result:
        draw(result, output / f"{name}.png")
    print(markdown(result))


def read_runs(plan: Plan, work: Path) -> dict[str, Any]:
    """Measures by arm, `[runs, documents]`, and the runs (base, seed) of each arm in their order."""
    held = read_json(work / "held_out.json")
    kinds = read_json(work / "probes.json")
    every = {}
    for path in sorted((work / "runs").glob("*.json")):
        run = read_json(path)
        if run["plan"] != digest(plan):
            raise SystemExit(f"{path} was made under another plan")
        every[run["arm"], run["base"], run["seed"]] = run
    pairs = [(base, seed) for base in plan["base"]["seeds"] for seed in plan["extension"]["seeds"]]
    runs = {arm: [pair for pair in pairs if (arm, *pair) in every] for arm in plan["arms"]}
    runs = {arm: done for arm, done in runs.items() if done}
    domains, sources = ([row[name] for row in held] for name in ("domain", "source"))
    found: dict[str, Any] = {
        "runs": runs,
        "domains": {"loss": domains, "gain": domains, "probes": kinds},
        "sources": {"loss": sources, "gain": sources},
        "training_seconds": {key: run["training"]["seconds"] for key, run in every.items()},
        "measuring_seconds": {key: run["measuring_seconds"] for key, run in every.items()},
        "tokens": {arm: [every[arm, *pair]["training"]["tokens"] for pair in done] for arm, done in runs.items()},
    }
    for name in ("loss", "gain", "short"):
        found[name] = {arm: np.array([every[arm, *pair][name] for pair in done]) for arm, done in runs.items()}
    if runs:
        found["domains"]["short"] = ["short"] * next(iter(found["short"].values())).shape[1]
    order = list(dict.fromkeys(kinds))
    found["probes"] = {
        arm: np.array([[hit for kind in order for hit in every[arm, *pair]["probes"][kind]] for pair in done], float)
        for arm, done in runs.items()
    }
    return found


def common(found: dict[str, Any], *arms: str) -> dict[str, Any]:
    """The measures of some arms, of the runs that all of them have; `bases` `[runs]`."""
    runs: dict[str, list[Run]] = found["runs"]
    shared = [run for run in runs[arms[0]] if all(run in runs[arm] for arm in arms)]
    part = {**found, "runs": dict.fromkeys(arms, shared), "bases": np.array([base for base, _ in shared])}
    for measure in MEASURES:
        if measure in found:
            part[measure] = {arm: found[measure][arm][[runs[arm].index(run) for run in shared]] for arm in arms}
    return part


def document_weights(domains: list[str], rounds: int | None, sources: list[str] | None = None) -> np.ndarray:
    """`[D]`, what each document counts for in a mean over domains; or `[rounds, D]`, drawn again within each domain.

    With sources, all documents of a source are drawn together.
    """
    names = sorted(set(domains))
    weights = np.zeros((rounds or 1, len(domains)))
    for name in names:
        members, rng = np.flatnonzero(np.array(domains) == name), generator("documents", name)
        unit = (
            np.arange(len(members))
            if sources is None
            else np.unique(np.array(sources)[members], return_inverse=True)[1]
        )
        size = int(unit.max()) + 1
        drawn = np.ones((1, size)) if rounds is None else rng.multinomial(size, np.full(size, 1 / size), rounds)
        counts = drawn[:, unit]
        weights[:, members] = counts / counts.sum(1, keepdims=True) / len(names)
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


def means(found: dict[str, Any], measure: str, rounds: int | None, by_source: bool = False) -> Values:
    """Mean of every arm, `[1]` or `[rounds]`."""
    sources = found["sources"][measure] if by_source else None
    by_run = run_weights(found["bases"], rounds)
    by_document = document_weights(found["domains"][measure], rounds, sources)
    return {
        arm: np.einsum("rk,kd,rd->r", by_run, values, by_document, optimize=True)
        for arm, values in found[measure].items()
    }


def compared(plan: Plan, found: dict[str, Any], measure: str) -> dict[str, Any]:
    """Every arm against the baseline: difference, interval, share of the way to the oracle; and the plan's tests."""
    baseline, arms = plan["statistics"]["against"], list(found[measure])
    everyone = means(common(found, *arms), measure, None)
    result: dict[str, Any] = {"arms": {}, "runs_of_all_arms": len(common(found, *arms)["bases"])}
    for arm in arms:
        result["arms"][arm] = {"mean": round(float(everyone[arm][0]), 5)}
        if arm != baseline:
            result["arms"][arm] |= difference(plan, found, measure, arm, baseline)
            if measure == plan["metrics"]["primary"] and "oracle" in arms:
                result["arms"][arm] |= share_of_gap(plan, found, measure, arm, baseline)
    tested = [(a, b) for a, b in plan["statistics"]["tested"] if a in arms and b in arms]
    result["tests"] = [{"arm": a, "against": b} | difference(plan, found, measure, a, b) for a, b in tested]
    for test, corrected in zip(result["tests"], holm([test["p"] for test in result["tests"]]), strict=True):
        test["p_holm"] = round(corrected, 5)
    result["not_planned"] = [
        {"arm": a, "against": b} | difference(plan, found, measure, a, b) for a, b in NOT_PLANNED if {a, b} <= {*arms}
    ]
    return result


def difference(plan: Plan, found: dict[str, Any], measure: str, arm: str, other: str) -> dict[str, Any]:
    """Of two arms over the runs that both have."""
    both, rounds = common(found, arm, other), plan["statistics"]["rounds"]
    point, sample = means(both, measure, None), means(both, measure, rounds)
    weights = document_weights(found["domains"][measure], None)[0]
    by_run = (both[measure][arm] - both[measure][other]) @ weights
    result = {
        "runs": len(both["bases"]),
        "difference": round(float(point[arm][0] - point[other][0]), 5),
        "interval": interval(plan, sample[arm] - sample[other]),
        "p": round(two_sided(sample[arm] - sample[other]), 5),
        "by_run": by_run.round(5).tolist(),
        "by_domain": by_domain(both, measure, arm, other),
    }
    if measure in found.get("sources", {}):
        drawn = means(both, measure, rounds, by_source=True)
        result["interval_by_source"] = interval(plan, drawn[arm] - drawn[other])
    return result


def share_of_gap(plan: Plan, found: dict[str, Any], measure: str, arm: str, baseline: str) -> dict[str, Any]:
    """The difference over that of the oracle, over the runs that all three have."""
    part = common(found, *dict.fromkeys((arm, baseline, "oracle")))
    point, sample = means(part, measure, None), means(part, measure, plan["statistics"]["rounds"])
    gap = float(point["oracle"][0] - point[baseline][0])
    gaps = sample["oracle"] - sample[baseline]
    shares = (sample[arm] - sample[baseline])[gaps != 0] / gaps[gaps != 0]
    value = float(point[arm][0] - point[baseline][0])
    return {"share_of_gap": round(value / gap, 3) if gap else None, "share_of_gap_interval": interval(plan, shares)}


def interval(plan: Plan, values: np.ndarray) -> list[float]:
    tail = 50 * (1 - plan["statistics"]["confidence"])
    found: list[float] = np.nanpercentile(values, [tail, 100 - tail]).round(5).tolist()
    return found


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
    both = common(found, good, bad)
    by_run = {arm: both["loss"][arm] @ weights for arm in (good, bad)}
    # where both train on the same texts, what seeds change in both alike is no noise of the difference
    paired_runs = bool(plan["stage_0"].get("paired"))
    varying = [by_run[bad] - by_run[good]] if paired_runs else [by_run[good], by_run[bad]]
    spread = within_bases(varying, both["bases"])
    difference = float((by_run[bad] - by_run[good]).mean())
    result = {
        "difference": round(difference, 5),
        "spread_of_seeds": round(spread, 5),
        "ratio": round(difference / spread, 2) if spread else None,
        "passed": bool(difference >= plan["stage_0"]["at_least"] * spread),
        "runs": {arm: values.round(5).tolist() for arm, values in by_run.items()},
    }
    baseline = plan["statistics"]["against"]
    if baseline in found["loss"]:
        both = common(found, good, baseline)
        paired = within_bases([(both["loss"][good] - both["loss"][baseline]) @ weights], both["bases"])
        normal = NormalDist()
        factor = normal.inv_cdf(0.5 + plan["statistics"]["confidence"] / 2) + normal.inv_cdf(0.8)
        # by runs alone: the documents are the same in both arms
        result["detectable_difference"] = round(factor * paired / math.sqrt(len(both["bases"])), 5)
    return result


def within_bases(values: list[np.ndarray], bases: np.ndarray) -> float:
    """Pooled standard deviation over the runs of a base."""
    groups = [run[bases == base] for run in values for base in sorted(set(bases.tolist()))]
    freedom = sum(len(group) - 1 for group in groups)
    return math.sqrt(sum(float(((group - group.mean()) ** 2).sum()) for group in groups) / freedom) if freedom else 0.0


def probe_accuracy(found: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Share of true choices by kind, over the runs that all arms have."""
    kinds = np.array(found["domains"]["probes"])
    return {
        arm: {str(kind): round(float(values[:, kinds == kind].mean()), 4) for kind in dict.fromkeys(kinds)}
        for arm, values in common(found, *found["probes"])["probes"].items()
    }


def bill(work: Path, found: dict[str, Any], tokens: int) -> dict[str, Any]:
    """Seconds of scoring the whole pool, and of a run."""
    training, measuring = (list(found[name].values()) for name in ("training_seconds", "measuring_seconds"))
    return {
        "scores": {path.stem: read_json(path) for path in sorted((work / "scores").glob("*.json"))},
        "pool_tokens": tokens,
        "runs": len(training),
        "median_training_seconds": round(float(np.median(training)), 1),
        "training_seconds": round(sum(training), 1),
        "measuring_seconds": round(sum(measuring), 1),
        "mean_training_tokens": {arm: int(np.mean(values)) for arm, values in found["tokens"].items()},
    }
