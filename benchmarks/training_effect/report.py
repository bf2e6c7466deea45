"""The results as tables in Markdown, and as a figure."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def markdown(result: dict[str, Any]) -> str:
    """All tables."""
    parts = []
    stage_0 = result["stage_0"]
    if stage_0:
        verdict = "passed" if stage_0["passed"] else "not passed"
        parts.append(
            f"Stage 0: junk is above the oracle by {stage_0['difference']:.4f} nats, {stage_0['ratio']} times the "
            f"spread of seeds ({stage_0['spread_of_seeds']:.4f}): {verdict}."
        )
        if "detectable_difference" in stage_0:
            parts[-1] += (
                f" Smallest difference to random found with a power of 80 %: {stage_0['detectable_difference']:.4f}."
            )
    measures = result.get("measures", {})
    for name, title in {
        "loss": "Loss, positions 8k to 16k (nats, lower is better)",
        "gain": "Gain over 1k of context (nats, higher is better)",
        "probes": "Probes (share of true choices, higher is better)",
        "short": "Loss on short documents (nats, lower is better)",
    }.items():
        if name in measures:
            parts.append(f"{title}\n\n{table(measures[name])}")
    if measures:
        parts.append(f"Tests of the loss\n\n{tests(measures['loss'])}")
        found = {arm: e["difference_by_domain"] for arm, e in measures["loss"]["arms"].items() if "difference" in e}
        domains = list(next(iter(found.values())))
        rows = [[arm, *(f"{by_domain[domain]:+.4f}" for domain in domains)] for arm, by_domain in found.items()]
        parts.append(f"Difference to random in loss, by domain\n\n{grid(['arm', *domains], rows)}")
        kinds = list(next(iter(result["probes"].values())))
        rows = [[arm, *(f"{hits[kind]:.3f}" for kind in kinds)] for arm, hits in result["probes"].items()]
        parts.append(f"Probes by kind\n\n{grid(['arm', *kinds], rows)}")
    parts.append(f"What each arm chose\n\n{choices(result)}")
    names = list(result["overlap"])
    rows = [[one, *(f"{result['overlap'][one][other]:.2f}" for other in names)] for one in names]
    parts.append(f"Overlap (tokens shared over tokens of either)\n\n{grid(['', *names], rows)}")
    names = list(result["rank_correlation"])
    rows = [
        [one, *(f"{result['rank_correlation'][one].get(other, float('nan')):+.2f}" for other in names)] for one in names
    ]
    parts.append(f"Rank correlation\n\n{grid(['', *names], rows)}")
    return "\n\n".join(parts) + "\n"


def table(measure: dict[str, Any]) -> str:
    rows = []
    for arm, entry in measure["arms"].items():
        row = [arm, f"{entry['mean']:.4f}"]
        if "difference" in entry:
            low, high = entry["difference_interval"]
            row += [f"{entry['difference']:+.4f} ({low:+.4f} to {high:+.4f})"]
            if entry.get("share_of_gap") is None:
                row += [""]
            else:
                low, high = entry["share_of_gap_interval"]
                row += [f"{entry['share_of_gap']:.2f} ({low:.2f} to {high:.2f})"]
        else:
            row += ["", ""]
        rows.append(row)
    return grid(["arm", "mean", "difference to random", "share of the gap to the oracle"], rows)


def tests(measure: dict[str, Any]) -> str:
    rows = []
    for test in measure["tests"]:
        low, high = test["interval"]
        difference = f"{test['difference']:+.4f} ({low:+.4f} to {high:+.4f})"
        rows.append([test["arm"], test["against"], difference, f"{test['p']:.4f}", f"{test['p_holm']:.4f}"])
    return grid(["arm", "against", "difference", "p", "p, Holm"], rows)


def choices(result: dict[str, Any]) -> str:
    rows = []
    for arm, entry in result["selections"].items():
        types = ", ".join(f"{name} {share:.0%}" for name, share in list(entry["file_types"].items())[:5])
        rows.append([arm, str(entry["documents"]), f"{entry['tokens'] / 1e6:.2f}", f"{entry['not_text']:.0%}",
                     f"{entry['repeated']:.1%}", f"{entry['mean_gzip_ratio']:.1f}", types])  # fmt: skip
    titles = ["arm", "documents", "million tokens", "not text, by type", "repeated", "gzip ratio", "file types"]
    return grid(titles, rows)


def grid(titles: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(cells) + " |" for cells in [titles, ["---"] * len(titles), *rows]]
    return "\n".join(lines)


def draw(result: dict[str, Any], path: Path) -> None:
    """Paired differences to random by arm: each run, the mean and its interval."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    arms = {arm: entry for arm, entry in result["measures"]["loss"]["arms"].items() if "difference" in entry}
    figure, axes = plt.subplots(figsize=(7.5, 0.5 * len(arms) + 1.2), constrained_layout=True)
    for y, (_, entry) in enumerate(arms.items()):
        low, high = entry["difference_interval"]
        axes.plot(entry["difference_by_run"], [y] * len(entry["difference_by_run"]), ".", color="0.6", markersize=4)
        axes.plot([low, high], [y, y], color="tab:blue", linewidth=2)
        axes.plot(entry["difference"], y, "o", color="tab:blue")
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(arms)), list(arms))
    axes.invert_yaxis()
    axes.set_xlabel("loss at positions 8k to 16k, difference to random (nats; left is better)")
    figure.savefig(path, dpi=150)
    plt.close(figure)
