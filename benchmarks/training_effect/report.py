"""The results as tables in Markdown, and as a figure."""

from __future__ import annotations

import operator
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

Result = dict[str, Any]


def markdown(result: Result) -> str:
    """All tables."""
    there = {name for name in BEFORE_ARMS if result["selections"] or name not in OF_SELECTIONS}
    found = {name: table(result) for name, table in TABLES.items() if name in there or "measures" in result}
    return "\n\n".join(f"{name}\n\n{text}" for name, text in found.items() if text) + "\n"


def summary(result: Result) -> str:
    """What it says of LADM, in a few sentences."""
    loss, short = (result["measures"][name]["arms"] for name in ("loss", "short"))
    size = next(iter(result["bases"].values()))["parameters"]

    text = (
        f"Does a model train better on it? Loss of models of {size / 1e6:.0f} million parameters at positions 8k to "
        "16k of unseen documents, after training on a selection from a pool with a quarter of junk, beside a random "
        f"selection (nats): LADM {shift(loss['LADM'])}, the middle of gzip ratios {shift(loss['gzip middle 60 %'])}, "
        f"long minus short loss {shift(loss['long minus short loss'])}, junk left out by file type "
        f"{shift(loss['oracle'])}, ladm-nano 0.1.0 {shift(loss['LADM 0.1.0'])}; {loss['LADM']['runs']} runs each. On "
        f"short documents LADM's is {shift(short['LADM'])}."
    )
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def summary_larger(result: Result) -> str:
    """The same of the repeat on a larger model."""
    loss, size = result["measures"]["loss"], next(iter(result["bases"].values()))["parameters"]
    tested = {(test["arm"], test["against"]): test for test in loss["tests"]}

    arms = loss["arms"]
    text = (
        f"With {size / 1e6:.0f} million parameters: LADM {shift(arms['LADM'])}, the middle of gzip ratios "
        f"{shift(arms['gzip middle 60 %'])}, LADM beside it {shift(tested['LADM', 'gzip middle 60 %'])}; "
        f"{arms['LADM']['runs']} runs each. This tells what junk costs small models, little of long-range dependency, "
        "and nothing of models of useful size: [plan, tables, reasons](docs/evidence.md)."
    )
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def shift(entry: dict[str, Any]) -> str:
    """A difference in a sentence."""
    return f"{entry['difference']:+.3f} ({span(entry['interval'])})"


def runs(result: Result) -> str:
    rows = []
    for arm, done in result["runs"].items():
        by_base = {base: ", ".join(run.split()[-1] for run in done if run.startswith(f"base {base},"))
                   for base in result["bases"]}  # fmt: skip
        rows.append([arm, *by_base.values()])
    return grid(["arm", *(f"seeds of base {base}" for base in result["bases"])], rows)


def stage_0(result: Result) -> str:
    found = result["stage_0"]
    if not found:
        return ""
    verdict = "passed" if found["passed"] else "not passed"
    planted = "planted" in result["plan"]
    who = "Splices are above the documents" if planted else "Junk is above the oracle"
    ratio, good, bad = found["ratio"], found["runs"]["oracle"], found["runs"]["junk"]
    text = (
        f"{who} by {found['difference']:.4f} nats, {ratio:.{0 if ratio >= 10 else 1}f} times the spread of seeds "
        f"({found['spread_of_seeds']:.4f}, {len(good)} runs each): {verdict}."
    )
    if planted:
        above, base = sum(map(operator.gt, bad, good)), next(iter(result["bases"].values()))
        text = (
            f"The base gains {base['gain']:.3f} nats by more than 1k of context. {text} The sign is the same in "
            f"{above} of {len(bad)} runs."
        )
    if "detectable_difference" in found:
        text += f" Smallest difference to random found with a power of 80 %: {found['detectable_difference']:.3f} nats."
    return text


def splices(result: Result) -> str:
    """The share of splices in the choice of every arm of a planted pool."""
    if "planted" not in result["plan"]:
        return ""
    shares = ", ".join(f"{arm} {chosen['not_text']:.0%}" for arm, chosen in result["selections"].items())
    return f"Splices among the texts chosen, of the tokens: {shares}."


def measure(name: str, digits: int = 3) -> Callable[[Result], str]:
    """The table of one measure, with its share of the gap where it is the primary one."""

    def table(result: Result) -> str:
        found, primary, rows = result["measures"][name], name == "loss", []
        for arm, entry in found["arms"].items():
            row = [arm, f"{entry['mean']:.{digits}f}"]
            if "difference" in entry:
                row += [f"{entry['difference']:+.{digits}f} ({span(entry['interval'], digits)})", str(entry["runs"])]
                if primary:
                    row.append(span(entry["interval_by_source"], digits))
                    share = entry.get("share_of_gap")
                    low, high = entry.get("share_of_gap_interval", (0, 0))
                    row.append("" if share is None else f"{share:.2f} ({low:.2f} to {high:.2f})")
            else:
                row += [""] * (4 if primary else 2)
            rows.append(row)
        titles = ["arm", f"mean, {found['runs_of_all_arms']} runs", "difference to random", "runs"]
        return grid(titles + (["interval by source", "share of the gap to the oracle"] if primary else []), rows)

    return table


def tests(result: Result) -> str:
    return _tests(result["measures"]["loss"]["tests"])


def tests_over_common_runs(result: Result) -> str:
    return _tests(result["tests_over_common_runs"])


def _tests(found: list[dict[str, Any]]) -> str:
    rows = [[*_compared(test), f"{test['p']:.4f}", f"{test['p_holm']:.4f}"] for test in found]
    return grid([*COMPARED, "p", "p, Holm"], rows)


def not_planned(result: Result) -> str:
    return grid(COMPARED, [_compared(entry) for entry in result["measures"]["loss"]["not_planned"]])


COMPARED = ["arm", "against", "difference", "interval by source", "runs with a lower loss"]


def _compared(entry: dict[str, Any]) -> list[str]:
    lower = sum(value < 0 for value in entry["by_run"])
    return [entry["arm"], entry["against"], f"{entry['difference']:+.3f} ({span(entry['interval'])})",
            span(entry["interval_by_source"]), f"{lower} of {entry['runs']}"]  # fmt: skip


def domains(result: Result) -> str:
    found = {arm: e["by_domain"] for arm, e in result["measures"]["loss"]["arms"].items() if "by_domain" in e}
    names = list(next(iter(found.values())))
    rows = [[arm, *(f"{by_domain[name]:+.3f}" for name in names)] for arm, by_domain in found.items()]
    return grid(["arm", *names], rows)


def probes(result: Result) -> str:
    kinds = list(next(iter(result["probes"].values())))
    rows = [[arm, *(f"{hits[kind]:.2f}" for kind in kinds)] for arm, hits in result["probes"].items()]
    return grid(["arm", *kinds], rows)


def choices(result: Result) -> str:
    rows = []
    for arm, entry in result["selections"].items():
        types = ", ".join(f"{name} {value:.0%}" for name, value in list(entry["not_text_types"].items())[:4])
        rows.append([arm, str(entry["documents"]), f"{entry['tokens'] / 1e6:.2f}", f"{entry['median_length']:,}",
                     f"{entry['not_text']:.0%}", types, f"{entry['repeated']:.0%}", f"{entry['mean_gzip_ratio']:.1f}",
                     f"{entry['effective_sources']:.0f}"])  # fmt: skip
    titles = ["arm", "documents", "million tokens", "median length", "junk by type", "its types", "repeated",
              "gzip ratio", "effective sources"]  # fmt: skip
    return grid(titles, rows)


def junk_by_domain(result: Result) -> str:
    names = sorted({name for entry in result["selections"].values() for name in entry["not_text_by_domain"]})
    rows = [[arm, *(f"{entry['not_text_by_domain'].get(name, 0):.0%}" for name in names)]
            for arm, entry in result["selections"].items()]  # fmt: skip
    return grid(["arm", *names], rows)


def largest_domain(result: Result) -> str:
    """Of the domain that has most tokens."""
    rows, name = [], ""
    for arm, entry in result["selections"].items():
        found = entry["largest_domain"]
        name = found["name"]
        types = ", ".join(f"{kind} {value:.0%}" for kind, value in list(found["file_types"].items())[:3])
        rows.append([arm, f"{found['tests']:.0%}", types, f"{found['effective_file_types']:.0f}",
                     f"{found['effective_sources']:.0f}"])  # fmt: skip
    return grid([f"arm: its {name}", "tests", "most frequent types", "effective types", "effective sources"], rows)


def vocabulary(result: Result) -> str:
    names = list(next(iter(result["selections"].values()))["vocabulary"])
    rows = []
    for arm, entry in result["selections"].items():
        values = [entry["vocabulary"][name] for name in names]
        rows.append([arm, *(f"{value:.2f}" for value in [*values, sum(values) / len(values)])])
    return grid(["arm", *names, "mean"], rows)


def matrix(name: str, form: str) -> Callable[[Result], str]:
    def table(result: Result) -> str:
        found = result[name]
        rows = [[one, *(format(found[one].get(other, float("nan")), form) for other in found)] for one in found]
        return grid(["", *found], rows)

    return table


def bill(result: Result) -> str:
    found = result["bill"]
    rows = [[f"scoring the pool, {name}", f"{entry['seconds']:.0f} s"] for name, entry in found["scores"].items()]
    rows += [[f"a run's training, median of {found['runs']}", f"{found['median_training_seconds']:.0f} s"]]
    rows += [["training of a base", f"{entry['seconds']:.0f} s"] for entry in list(result["bases"].values())[:1]]
    devices = ", ".join(sorted({entry["device"] for entry in found["scores"].values()}))
    return grid([f"{found['pool_tokens'] / 1e6:.0f} million tokens in the pool, {devices}", "time"], rows)


def span(values: list[float], digits: int = 3) -> str:
    low, high = values
    return f"{low:+.{digits}f} to {high:+.{digits}f}"


def grid(titles: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(cells) + " |" for cells in [titles, ["---"] * len(titles), *rows]]
    return "\n".join(lines)


TABLES: dict[str, Callable[[Result], str]] = {
    "effect_runs": runs,
    "effect_stage_0": stage_0,
    "effect_loss": measure("loss"),
    "effect_tests": tests,
    "effect_tests_common": tests_over_common_runs,
    "effect_not_planned": not_planned,
    "effect_domains": domains,
    "effect_gain": measure("gain", 4),
    "effect_probes": measure("probes"),
    "effect_probe_kinds": probes,
    "effect_short": measure("short"),
    "effect_choices": choices,
    "effect_splices": splices,
    "effect_junk": junk_by_domain,
    "effect_code": largest_domain,
    "effect_vocabulary": vocabulary,
    "effect_overlap": matrix("overlap", ".2f"),
    "effect_ranks": matrix("rank_correlation", "+.2f"),
    "effect_bill": bill,
}
# Tables of the choices, and those that there are before a run of the arms.
OF_SELECTIONS = ("effect_choices", "effect_splices", "effect_junk", "effect_code", "effect_vocabulary",
                 "effect_overlap")  # fmt: skip
BEFORE_ARMS = ("effect_runs", "effect_stage_0", *OF_SELECTIONS, "effect_ranks", "effect_bill")


def draw(result: Result, path: Path) -> None:
    """Paired differences to random by arm: each run, the mean and its interval."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    arms = {arm: entry for arm, entry in result["measures"]["loss"]["arms"].items() if "difference" in entry}
    figure, axes = plt.subplots(figsize=(7.5, 0.5 * len(arms) + 1.2), constrained_layout=True)
    for y, entry in enumerate(arms.values()):
        axes.plot(entry["interval"], [y, y], color="tab:blue", linewidth=2)
        axes.plot(entry["difference"], y, "o", color="tab:blue")
        axes.plot(entry["by_run"], [y + 0.25] * entry["runs"], "|", color="0.4", markersize=7)
        axes.annotate(f"{entry['difference']:+.3f}", (entry["difference"], y), (0, 6), textcoords="offset points",
                      ha="center", fontsize=8)  # fmt: skip
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(arms)), [f"{arm} ({entry['runs']} runs)" for arm, entry in arms.items()])
    axes.set_ylim(len(arms) - 0.4, -0.7)
    axes.set_xlabel("loss at positions 8k to 16k, difference to random (nats; left is better)")
    figure.savefig(path, dpi=150)
    plt.close(figure)
