"""Fills the tables of README, docs and model card from the results beside this script: none of it is typed by hand.

python benchmarks/readme.py            # rewrites what stands between the table markers of README, docs and card
python benchmarks/readme.py --check    # fails where these and the results differ
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from quality import markdown as render_quality
from table import render as render_gpu
from table import render_attention, render_float8, render_nano, render_shapes
from training_effect.report import TABLES as EFFECT_TABLES
from training_effect.report import summary as effect_summary
from training_effect.report import summary_larger as effect_summary_larger

from ladm_hf.training.figures import Figure, Row
from ladm_hf.training.figures import markdown as render_calibration

HERE = Path(__file__).parent
ROOT = HERE.parent
CARD = ROOT / "ladm_hf" / "calculators" / "ladm_nano" / "README.md"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), CARD]


def cpu(result: dict[str, Any]) -> str:
    """Seconds, ratios and memory of one pass on a CPU, the default dtype beside float32."""
    lengths = sorted({row["tokens"] for row in result["rows"]})
    variants = dict.fromkeys(row["variant"] for row in result["rows"])
    cells = {(row["variant"], row["tokens"]): row for row in result["rows"]}
    threads = "1 thread" if result["threads"] == 1 else f"{result['threads']} threads"
    lines = [
        f"`{result['model']}` on {result['processor']}, {threads}, one document; default {result['default']}. "
        "Time, beside float32 in the same run, and peak memory over the loaded model's:",
        "",
        "| tokens | " + " | ".join(f"{length:,}" for length in lengths) + " |",
        "|---" * (len(lengths) + 1) + "|",
    ]
    for variant in variants:
        row = [cells[variant, length] for length in lengths]
        values = [f"{c['seconds']:.2f} s ({c['ratio']:.2f}x), {c['memory_mib']:.0f} MiB" for c in row]
        lines.append(f"| {variant} | " + " | ".join(values) + " |")
    return "\n".join(lines)


def precision(result: dict[str, Any]) -> str:
    """How far one dtype moves scores, ranks and a selection beside another."""
    exact, other = result.get("dtypes", ("float32", "bfloat16"))
    shortest, longest = result["tokens"]
    kept = result["selected_by_both"] / result["selected"]
    how = ""
    if other == "float8":
        # see the benchmark
        how = ", emulated on a CPU," if result["device"] == "cpu" else f" on one {result['device']}"
    return (
        f"{other}{how} against {exact} on {result['documents']} documents of {shortest:,} to {longest:,} tokens: "
        f"rank correlation {result['rank_correlation']:.4f}, {kept:.0%} of the best quarter the same, scores moved by "
        f"{result['median_difference']:.2%} in the median and {result['largest_difference']:.1%} at most "
        "(`benchmarks/precision.py`)."
    )


def batches(result: dict[str, Any]) -> str:
    """How far a score moves with its batch mates and with the dtype."""
    lines = ["| dtype | largest move with other batch mates | largest distance from float32 |", "|---|---|---|"]
    for row in result["rows"]:
        lines.append(f"| {row['dtype']} | {row['spread']:.0e} | {row['distance_from_float32']:.0e} |")
    return "\n".join(lines)


def runner(result: dict[str, Any]) -> str:
    """What the runner costs beside the scoring."""
    overhead, scaling, resume = result["overhead"], result["scaling"], result["resume"]
    pairs = zip(overhead["runner_seconds"], overhead["bare_seconds"], strict=True)
    ratios = [run / bare - 1 for run, bare in pairs]
    rows = {
        f"the runner beside a bare loop of the same scorer: {overhead['documents']} documents of 6,000 words, "
        f"median of {len(ratios)} pairs": f"{overhead['overhead']:+.1%} ({min(ratios):+.1%} to {max(ratios):+.1%})",
        f"two processes on two cores against one on one, {scaling['documents']} such documents": (
            f"{scaling['speedup']:.2f} times as fast"
        ),
        f"what a launch adds to scoring the last of {resume['chunks']:,} chunks": f"{resume['overhead_seconds']:.2f} s",
    } | {
        f"peak memory for {int(count):,} rows, short and long": f"{peak:.2f} GiB"
        for count, peak in result["memory"]["peak_gib"].items()
    }
    lines = [f"| `benchmarks/runner.py`, {result['cores']} cores, ladm-nano | |", "|---|---|"]
    return "\n".join(lines + [f"| {name} | {value} |" for name, value in rows.items()])


def soak(result: dict[str, Any]) -> str:
    """What a run that was killed again and again came to."""
    worlds = ", ".join(str(kill["world"]) for kill in result["kills"])
    return _killed(result, "soak.py", "", f"{worlds} processes", result["last_world"])


def object_storage(result: dict[str, Any]) -> str:
    """What a run in a store that was killed again and again, with failing requests, came to."""
    launches = ", ".join(str(kill["launches"]) for kill in result["kills"])
    where = {"s3": "an S3 server", "bucket": "a bucket of a server with the Hub's protocols"}[result["store"]]
    return _killed(
        result,
        "object_storage.py soak",
        f" on {where} of which {result['faults']:.0%} of the requests fail (503, connection dropped, answer lost)",
        f"{launches} independent launches, each with an empty disk and a clock up to two minutes off",
        result["last_launches"],
    )


def _killed(result: dict[str, Any], script: str, where: str, launches: str, last: int) -> str:
    assert result["equal_to_the_bit"]
    return (
        f"`benchmarks/{script}`: a run over {result['documents']:,} documents{where}, killed {len(result['kills'])} "
        f"times at random moments ({launches}) and ended with {last}, gave the rows of an uninterrupted one, in order, "
        "scores equal to the bit."
    )


def object_storage_overhead(result: dict[str, Any]) -> str:
    """Seconds of a chunk in a folder and in S3 behind a delay, by its size and the speed of the device."""
    lines = [
        f"| `benchmarks/object_storage.py overhead`, {1000 * result['delay']:.0f} ms a request, {result['cores']} "
        "cores | a chunk into a folder | into S3 | added | a launch adds |",
        "|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        folder, store = (statistics.median(row[f"{kind}_seconds"]) for kind in ("folder", "store"))
        lines.append(
            f"| chunks of {row['chunk_tokens'] / 1e6:g}M tokens, {row['tokens_per_second'] / 1e6:g}M tokens/s "
            f"| {folder:.2f} s | {store:.2f} s | {row['overhead']:+.1%} | {row['launch_seconds']:.1f} s |"
        )
    note = (
        "The device takes its time for the tokens and leaves the processor alone, as a GPU does; both are done in "
        "turns, with the same documents. A chunk has about 4M tokens unless `--chunks` or the size of the run make it "
        "smaller."
    )
    return "\n".join([*lines, "", note])


# Whole costs and budgets of a cascade that are shown.
CASCADE_COSTS = (0.1, 0.25)
CASCADE_BUDGETS = (0.05, 0.1, 0.25)


def cascade(results: list[dict[str, Any]]) -> str:
    """Recall of a selection by an expensive score where a cheap one chose what is read."""
    head = " | ".join(f"recall at a budget of {budget:.1%}" for budget in CASCADE_BUDGETS)
    lines = [
        f"| heads of the second | first reads | costs | both cost | goes on | {head} |",
        "|---" * (5 + len(CASCADE_BUDGETS)) + "|",
    ]
    for result in results:
        heads = "all, the paper's form" if result["second_paper"] else "its own"
        for costs in result["costs"]:
            start = f"{heads} | {result['first_max_length']:,} | {costs['cost_of_first']:.1%}"
            for row in (row for row in costs["rows"] if row["cost"] in CASCADE_COSTS):
                found = {of["budget"]: of for of in row["budgets"]}
                cells = " | ".join(_recall(found[budget]) for budget in CASCADE_BUDGETS)
                lines.append(f"| {start} | {row['cost']:.0%} | {row['survive']:.0%} | {cells} |")
    result = results[0]
    documents = {of["budget"]: of["documents"] for of in result["costs"][0]["rows"][0]["budgets"]}
    numbers = ", ".join(f"{documents[budget]} at {budget:.1%}" for budget in CASCADE_BUDGETS)
    correlations = []
    for other in results:
        low, high = other["rank_correlation_interval"]
        heads = f"{'all' if other['second_paper'] else 'own'} heads, {other['first_max_length']:,} tokens"
        correlations.append(f"{other['rank_correlation']:+.2f} ({low:+.2f} to {high:+.2f}; {heads})")
    domain = ", ranked as one domain" if result["one_domain"] else ""
    note = (
        f"{result['documents']} documents of {result['max_length']:,} tokens{domain}, of which the "
        f"selection by the second score has {numbers}; times of {result['costs'][0]['device']} "
        f"(`benchmarks/cascade.py`). Rank correlation of the second score with the first: {', '.join(correlations)}."
    )
    return "\n".join([*lines, "", note])


def _recall(found: dict[str, Any]) -> str:
    if found["recall"] is None:
        return ""
    low, high = found["interval"]
    return f"{found['recall']:.0%} ({low:.0%} to {high:.0%})"


def text_to_score(result: dict[str, Any]) -> str:
    """What the host does for a token, and how many cores feed one GPU."""
    lines = [
        "| the host's part (`benchmarks/text_to_score.py`, ladm-nano's tokenizer, one core) | ns a token |",
        "|---|---|",
    ]
    lines += [f"| {name} | {value:,.0f} |" for name, value in result["stages"].items()]
    # a run on a GPU always has threads ahead
    per_core = max(row["tokens_per_core_second"] for row in result["run"] if row["threads"])
    h100, h200 = (
        json.loads((HERE / "results" / f"{gpu}.json").read_text(encoding="utf-8")) for gpu in ("h100", "h200")
    )
    engines = {
        "ladm-nano (8,192 tokens, H100)": h100["nano"]["calibrated"]["tokens_per_second"],
        "a 1.1B model (32,768 tokens, H200)": h200["steady_float16"]["tokens_per_second"],
    }
    lines += [
        "",
        f"A whole run with threads ahead, parquet to parquet, whose engine costs nothing: {per_core:,.0f} tokens a "
        f"second of one core ({result['documents']:,} documents, {result['tokens']:,} tokens, {result['cores']} cores)."
        " So what keeps one GPU busy is at least",
        "",
        "    cores = the engine's tokens a second / the host's tokens a second of a core",
        "",
    ]
    lines += [
        f"- {name}: {engine:,.0f} / {per_core:,.0f} = {engine / per_core:.1f} cores" for name, engine in engines.items()
    ]
    return "\n".join(lines)


def whole_runs(results: dict[str, dict[str, Any]]) -> str:
    """Tokens a second from parquet to parquet on GPUs, beside those of the engine alone on the same token ids."""
    lines = [
        "Thousand tokens a second, documents of about 8k tokens, and the share of the engine's rate "
        "(`benchmarks/text_to_score.py`):",
        "",
        "| model | GPUs | cores | the engine alone | from token ids | from text | cores busy, from text |",
        "|---|---|---|---|---|---|---|",
    ]
    gains, on_one = [], {}
    for result in results.values():
        model, found, gpus, number = (result[key] for key in ("model", "device", "processes", "documents"))
        each = result["tokens"] / number / 1000
        ids, text = (found[name]["documents_per_second"] * each for name in ("from_token_ids", "from_text"))
        alone, busy = found["engine_alone"] * gpus * each, found["from_text"]["busy_cores"] * gpus
        lines.append(
            f"| {model} | {gpus} {result['gpu'].split()[1]} | {result['cores']} | {alone:,.0f} | "
            f"{ids:,.0f} ({ids / alone:.0%}) | {text:,.0f} ({text / alone:.0%}) | {busy:.1f} |"
        )
        if gpus == 1:
            on_one[model] = ids, text
        elif model in on_one:
            ids, text = ids / on_one[model][0], text / on_one[model][1]
            gains += ["", f"{model}, {gpus} GPUs beside one: {ids:.2f} times from token ids, {text:.2f} from text."]
    return "\n".join(lines + gains)


def repetition(result: dict[str, Any]) -> str:
    """What the limit finds of documents that were made to repeat themselves, and what it drops of natural ones."""

    def counts(cells: list[str]) -> list[tuple[int, int]]:
        return [tuple(map(int, cell.split(" of "))) for cell in cells]  # type: ignore[misc]

    domains = result["domains"]
    lines = [f"| dropped above {result['limit']} | documents | lowest and highest share of a domain |", "|---|---|---|"]
    kinds = {
        "twice": "made: the whole text twice", "half": "made: one half twice",
        "one": "made: one paragraph up to half of it",
        "paragraphs": "made: every paragraph twice, the second time elsewhere",
    }  # fmt: skip
    rows = {label: [entry["repeats"][kind] for entry in domains.values()] for kind, label in kinds.items()}
    for kind in ("long", "short", "joined"):
        label = "natural: short ones joined" if kind == "joined" else f"natural: {kind}"
        rows[label] = [entry["natural"][kind] for entry in domains.values() if kind in entry["natural"]]
    for label, cells in rows.items():
        found = counts(cells)
        shares = [some / many for some, many in found if many]
        total = f"{sum(some for some, _ in found):,} of {sum(many for _, many in found):,}"
        lines.append(f"| {label} | {total} | {min(shares):.1%} to {max(shares):.1%} |")
    return "\n".join(lines)


# How the calculators that ladm-nano is the average of are called in the results.
SEED = "last stage, seed "


def natural(result: dict[str, Any], seeds: bool = False) -> str:
    """Both halves, order, names and the pool, by score, or of what ladm-nano is the average of."""
    pairs = {
        "sentences shuffled": "shuffled sentences",
        "paragraphs shuffled": "shuffled paragraphs",
        "second half renamed": "renamed second half",
        "second half of another of the source": "second half of the same source",
    }
    lines = [
        "| score | splices | degenerate | both | LADM is ahead by | " + " | ".join(pairs) + " | junk kept |",
        "|---|---|---|---|---|" + "---|" * (len(pairs) + 1),
    ]
    for place, (name, entry) in enumerate(result["scores"].items()):
        if place and name.startswith(SEED) != seeds:
            continue
        cells = [f"{entry['pairs'][kind]['share']:.2f}" for kind in pairs.values()]
        low, high = entry["both halves"]["first_is_ahead_by"]
        lines.append(
            f"| {name} | {_with_interval(entry['splices'])} | {_with_interval(entry['degenerate'])} | "
            f"{_with_interval(entry['both halves'])} | {f'{low:+.3f} to {high:+.3f}' if place else ''} | "
            f"{' | '.join(cells)} | {entry['pool']['junk']:.1%} |"
        )
    return "\n".join(lines)


def natural_areas(result: dict[str, Any]) -> str:
    """Each setting, domain and sort: LADM beside the long-minus-short loss."""
    scores = result["scores"]
    rival = "long minus short loss"
    lines = [f"| | LADM | {rival} |", "|---|---|---|"]
    for name, area in scores["LADM"]["areas"].items():
        if name not in ("splices", "degenerate", "both halves"):
            lines.append(f"| {name} | {area:.2f} | {scores[rival]['areas'][name]:.2f} |")
    return "\n".join(lines)


def natural_cuts(result: dict[str, Any]) -> str:
    """The mean score of the same documents cut to several lengths."""
    cuts = result["scores"]["LADM"]["cut to"]
    old = result["scores"]["ladm-nano 0.1.0"]["cut to"]
    lines = ["| tokens | " + " | ".join(cuts) + " |", "|---" * (len(cuts) + 1) + "|"]
    for name, row in (("ladm-nano", cuts), ("ladm-nano 0.1.0", old)):
        lines.append(f"| {name} | " + " | ".join(f"{score:.2f}" for score in row.values()) + " |")
    return "\n".join(lines)


def natural_dev(result: dict[str, Any]) -> str:
    """Splices, order and names on the development split, by calculator."""
    lines = ["| score | splices | LADM is ahead by | sentences shuffled | paragraphs shuffled | second half renamed | "
             "second half of another of the source |", "|---|---|---|---|---|---|---|"]  # fmt: skip
    kinds = ("shuffled sentences", "shuffled paragraphs", "renamed second half", "second half of the same source")
    for place, (name, entry) in enumerate(result["scores"].items()):
        if name.startswith(SEED):
            continue
        low, high = entry["splices"]["first_is_ahead_by"]
        cells = [f"{entry['pairs'][kind]['share']:.2f}" for kind in kinds]
        ahead = f"{low:+.3f} to {high:+.3f}" if place else ""
        lines.append(f"| {name} | {_with_interval(entry['splices'])} | {ahead} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _with_interval(area: dict[str, Any]) -> str:
    low, high = area["interval"]
    return f"{area['auc']:.3f} ({low:.3f} to {high:.3f})"


def length(result: dict[str, Any]) -> str:
    """What is left of length in simulated domains, by size and way."""
    rows = result["rows"]
    ways = list(dict.fromkeys(row["way"] for row in rows))
    lines = ["| documents of a domain | largest correlation of `ladm_percentile` and length | "
             + " | ".join(f"outside, by {way}" for way in ways) + " |", "|---" * (2 + len(ways)) + "|"]  # fmt: skip
    for size in dict.fromkeys(row["documents"] for row in rows):
        mine = {row["way"]: row for row in rows if row["documents"] == size}
        cells = [f"{mine[way]['outside']:.1%}" for way in ways]
        lines.append(f"| {size} | {mine[ways[0]]['percentile']:.2f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def dependency(result: dict[str, Any]) -> str:
    """Rank correlation with far uses by domain, at the length that has most windows, and the mean at every length."""
    lengths = result["lengths"]
    most = max(lengths, key=lambda length: lengths[length]["windows"])
    shares = lengths[most]["share"]
    names = list(shares["mean over domains"])
    lines = [f"| first {int(most):,} tokens | documents | median share | the share against splices | "
             + " | ".join(names) + " |", "|---" * (len(names) + 4) + "|"]  # fmt: skip
    for domain, entry in shares["domains"].items():
        cells = " | ".join(_rho(entry["scores"][name]) for name in names)
        area = lengths[most]["splices"][domain]
        lines.append(f"| {domain} | {entry['documents']} | {entry['median']:.2f} | {area:.2f} | {cells} |")
    for length, found in lengths.items():
        if mean := found["share"].get("mean over domains"):
            cells = " | ".join(_rho(mean[name]) if name in mean else "" for name in names)
            count = sum(entry["documents"] for entry in found["share"]["domains"].values())
            area = sum(map(found["splices"].get, found["share"]["domains"])) / len(found["share"]["domains"])
            lines.append(f"| mean over domains, {int(length):,} tokens | {count} | | {area:.2f} | {cells} |")
    for length, found in lengths.items():
        if mean := found["per_1000_tokens"].get("mean over domains"):
            cells = " | ".join(_rho(mean[name]) if name in mean else "" for name in names)
            lines.append(f"| mean, of the number of far uses, {int(length):,} tokens | | | | {cells} |")
    return "\n".join(lines)


def _rho(entry: dict[str, Any]) -> str:
    low, high = entry["interval"]
    return f"{entry['rho']:+.2f} ({low:+.2f} to {high:+.2f})"


def mixed_pool(result: dict[str, Any]) -> str:
    """Junk in the best quarter, by domain."""
    readings = {name: result["whole"][name] for name in ("by domain", "any junk")}
    lines = ["| best quarter of | junk found there | junk of all sorts |", "|---|---|---|"]
    for domain in [*sorted(set(readings["by domain"]) - {"all"}), "all"]:
        cells = " | ".join(_junk(reading[domain]) for reading in readings.values())
        lines.append(f"| {'all domains, each by itself' if domain == 'all' else domain} | {cells} |")
    return "\n".join([*lines, f"| all domains ranked as one | | {_junk(result['whole']['together']['all'])} |"])


def mixed_pool_scores(result: dict[str, Any]) -> str:
    """Junk in the best quarter by every score, of the same first tokens."""
    names = {
        "together": "ranked as one",
        "by domain": "by domain, junk found there",
        "any junk": "by domain, all sorts",
    }
    lines = ["| score | " + " | ".join(names.values()) + " |", "|---" * 4 + "|"]
    for score, readings in result["compared"].items():
        lines.append(f"| {score} | " + " | ".join(_junk(readings[name]["all"]) for name in names) + " |")
    return "\n".join(lines)


def _junk(entry: dict[str, Any]) -> str:
    low, high = entry["interval"]
    return f"{entry['junk']:.1%} ({low:.1%} to {high:.1%})"


def kept_and_length(result: dict[str, Any]) -> str:
    """Rank correlations with length of the score and of being kept, by domain."""
    budgets = list(next(iter(result["length"].values()))["kept"])
    lines = ["| domain | documents | score | " + " | ".join(f"{budget} kept" for budget in budgets) + " |",
             "|---" * (len(budgets) + 3) + "|"]  # fmt: skip
    for domain, entry in result["length"].items():
        cells = ["" if value is None else f"{value:+.2f}" for value in (entry["score"], *entry["kept"].values())]
        lines.append(f"| {domain} | {entry['documents']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def gpu_summary(result: dict[str, Any]) -> str:
    """Of the GPU's results: what was measured on what, and the steady state."""
    lines = render_gpu(result).strip().splitlines()
    card = lines[0].partition(", seconds a document")[0]
    return "\n".join([f"On a GPU ({card}):", "", *(line for line in lines if line.startswith("- Steady state"))])


def lexical(result: dict[str, Any]) -> str:
    """What words alone tell of the second half of another document of the source."""
    lines = [f"| by words alone, {result['pairs']} pairs | natural above changed |", "|---|---|"]
    lines += [f"| {name} | {row['share']:.2f} |" for name, row in result["measures"].items()]
    return "\n".join(lines)


def calibration(result: dict[str, Any], kinds: Sequence[str] = ("order", "dependency")) -> str:
    """What `ladm calibrate` found by question, and by the kinds of some questions."""
    record = result["calibration"]
    rows = [
        Row(**{name: Figure(**value) if isinstance(value, dict) else value for name, value in row.items()})
        for row in record["figures"]
        if not row["kind"] or row["question"] in kinds
    ]
    chosen = record["chosen_on"]
    lengths = " and ".join(f"{length:,}" for length in chosen["lengths"])
    head = (
        f"{chosen['documents']} documents and {chosen['degenerate_documents']} degenerate files of {chosen['sources']} "
        f"sources, {chosen['windows']:,} windows of {lengths} tokens:"
    )
    return f"{head}\n\n{render_calibration(rows, tuple(record['best_head']))}"


def signals(result: dict[str, Any]) -> str:
    """What each signal adds to the score alone."""
    lengths = sorted({row["tokens"] for row in result["rows"]})
    lines = [
        f"`{result['model']}`, {result['dtype']}, {result['device']}, seconds of {result['time']} time a document from "
        "text to columns, beside the score alone in the same run (short context 4,096):",
        "",
        "| tokens | " + " | ".join(f"{length:,}" for length in lengths) + " |",
        "|---" * (len(lengths) + 1) + "|",
    ]
    for variant in dict.fromkeys(row["variant"] for row in result["rows"]):
        rows = [row for row in result["rows"] if row["variant"] == variant]
        cells = [f"{row['seconds']:.3g} s ({row['ratio']:.3g}x)" for row in rows]
        lines.append(f"| {variant} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def packing(result: dict[str, Any]) -> str:
    """Padding by range of lengths."""
    small, large = result["buffers"]

    def part(share: float) -> str:
        return f"{share:g}" if share >= 1 else f"1/{1 / share:.0f}"

    lines = [
        f"{result['documents']:,} documents of log-uniform lengths, sequences of {result['length']:,} tokens; padding:",
        "",
        "| documents, in sequences | best fit alone "
        f"| `ladm pack`, buffer of {small} sequences | buffer of {large:,} | any packing at least |",
        "|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        cells = [f"{row[name]:.2%}" for name in ("best_fit", f"buffer_{small}", f"buffer_{large}", "bound")]
        lines.append(f"| {part(row['low'])} to {part(row['high'])} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def which_tool(result: dict[str, Any]) -> str:
    """What each signal finds, and what it costs beside the score alone."""
    costs = json.loads((HERE / "results" / "signals-cpu.json").read_text(encoding="utf-8"))
    tokens = max(row["tokens"] for row in costs["rows"])
    ratios = {row["variant"]: row["ratio"] for row in costs["rows"] if row["tokens"] == tokens}
    # what has to be run for each score of the other file
    needs = {
        "LADM": "score alone",
        "long minus short loss": "with context_gain and key_token_share",
        "token loss": "with token_loss",
        "gzip band": "with text statistics",
        "long minus short loss and gzip band": "with context_gain and key_token_share",
    }
    lines = [
        f"| score | splices | degenerate | junk kept | cost, {tokens:,} tokens on a CPU |",
        "|---|---|---|---|---|",
    ]
    for name, variant in needs.items():
        entry = result["scores"][name]
        lines.append(
            f"| {name} | {entry['splices']['auc']:.2f} | {entry['degenerate']['auc']:.2f} | "
            f"{entry['pool']['junk']:.1%} | {ratios[variant]:.2f}x |"
        )
    return "\n".join(lines)


def families_summary(result: dict[str, Any]) -> str:
    """How many families are scored, and how many of them by the fused forward pass."""
    rows = [row for row in result["families"] if "scored" in row]
    fused = sum(row["fused"] for row in rows)
    return (
        f"Of the {len(result['families'])} types of causal language models in transformers {result['transformers']}, "
        f"each built small, {len(rows)} are scored, on a GPU {fused} of them over the fused forward pass: "
        "[layers, head sizes, contexts and kernels](docs/models.md#families)."
    )


def measured_ratios() -> dict[str, list[str]]:
    """Measured times of ours over the better plain forward pass by family, with the shape that was measured."""
    whole = json.loads((HERE / "results" / "h200.json").read_text(encoding="utf-8"))["seconds"]
    longest = str(32_768)
    plain = min(whole[name][longest] for name in ("plain_flash", "plain_cudnn"))
    found = {"llama": {"TinyLlama-1.1B": whole["engine"][longest] / plain}}
    shapes = HERE / "results" / "shapes.json"
    if shapes.exists():
        for name, row in json.loads(shapes.read_text(encoding="utf-8"))["shapes"].items():
            if row.get("ratio"):
                found.setdefault(row["model_type"], {})[name] = row["ratio"]
    return {family: [f"{ratio:.2f} ({name})" for name, ratio in rows.items()] for family, rows in found.items()}


def families(result: dict[str, Any]) -> str:
    """Families that are scored, with their layers; those that are refused, by reason; those that were not built."""
    rows, ratios = result["families"], measured_ratios()
    lines = [f"transformers {result['transformers']}, {result['layers']} layers, {result['tokens']} random tokens.", "",
             "| family | layers | left out | head size | context | forward | attention | ratio | difference |",
             "|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for row in rows:
        if "scored" in row:
            reasons = Counter(re.sub(r" of \d+ tokens", "", reason) for reason in row["left_out"].values())
            left_out = ", ".join(f"{count}: {reason}" for reason, count in reasons.items())
            cells = [
                f"`{row['model_type']}`",
                f"{len(row['scored'])} of {len(row['scored']) + len(row['left_out'])}",
                left_out,
                *(f"{row[key]:,}" if key in row else "" for key in ("head_size", "context")),
                "fused" if row["fused"] else "",
                row.get("attention", "" if row["plain"] else "PyTorch"),
                ", ".join(ratios.get(row["model_type"], [])),
                f"{row['difference']:.0e}" if "difference" in row else "",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    refused: dict[str, list[str]] = {}
    for row in rows:
        if "refused" in row:
            reason = re.sub(rf"model type '{row['model_type']}'|this '{row['model_type']}' model", "it", row["refused"])
            refused.setdefault(re.sub(r" \(.*\)", "", reason), []).append(f"`{row['model_type']}`")
    lines += ["", "Refused, with the reason:", ""]
    lines += [f"- {reason}: {', '.join(names)}." for reason, names in refused.items()]
    rest = ", ".join(f"`{row['model_type']}`" for row in rows if "not_built" in row)
    return "\n".join([*lines, "", f"Not measured, for want of a configuration that is small and quick: {rest}."])


TABLES: dict[str, tuple[str, Callable[[Any], str]]] = {
    "cpu": ("cpu.json", cpu),
    "precision": ("precision.json", precision),
    "batches": ("batch_invariance.json", batches),
    "cascade": ("cascade.json", cascade),
    "cascade_calculator": ("cascade-calculator.json", partial(calibration, kinds=())),
    "repetition": ("repetition.json", repetition),
    "repetition_report": ("repetition-report.json", repetition),
    "text_to_score": ("text_to_score.json", text_to_score),
    "whole_runs": ("text_to_score-gpu.json", whole_runs),
    "runner": ("runner.json", runner),
    "soak": ("soak.json", soak),
    "object_storage": ("object_storage_soak_s3.json", object_storage),
    "object_storage_bucket": ("object_storage_soak_bucket.json", object_storage),
    "object_storage_overhead": ("object_storage_overhead.json", object_storage_overhead),
    "quality": ("quality.json", render_quality),
    "natural": ("natural.json", natural),
    "natural_seeds": ("natural.json", partial(natural, seeds=True)),
    "natural_areas": ("natural.json", natural_areas),
    "natural_cuts": ("natural.json", natural_cuts),
    "natural_dev": ("natural-dev.json", natural_dev),
    "dependency": ("dependency.json", dependency),
    "mixed_pool": ("mixed_pool.json", mixed_pool),
    "mixed_pool_scores": ("mixed_pool.json", mixed_pool_scores),
    "kept_and_length": ("mixed_pool.json", kept_and_length),
    "length": ("length.json", length),
    "lexical": ("lexical.json", lexical),
    "calibration": ("calibration.json", calibration),
    "signals_cpu": ("signals-cpu.json", signals),
    "signals_gpu": ("signals-gpu.json", signals),
    "packing": ("packing.json", packing),
    "which_tool": ("natural.json", which_tool),
    "families": ("families.json", families),
    "families_summary": ("families.json", families_summary),
    "gpu": ("h200.json", render_gpu),
    "gpu_nano": ("h100.json", render_nano),
    "gpu_summary": ("h200.json", gpu_summary),
    "shapes": ("shapes.json", render_shapes),
    "attention": ("attention.json", render_attention),
    "float8": ("float8.json", render_float8),
    "precision_float8": ("precision-float8.json", precision),
    "effect_summary": ("training_effect.json", effect_summary),
    "effect_summary_larger": ("training_effect_40m.json", effect_summary_larger),
    **{
        name.replace("effect", f"effect{study}"): (f"training_effect{study}.json", table)
        for study in ("", "_40m", "_planted")
        for name, table in EFFECT_TABLES.items()
    },
}


def filled(text: str) -> str:
    """A page with every table made anew."""

    def table(match: re.Match[str]) -> str:
        file, render = TABLES[match[1]]
        path = HERE / "results" / file
        # nothing yet, where nothing was measured
        body = f"{render(json.loads(path.read_text(encoding='utf-8'))).strip()}\n" if path.exists() else ""
        return f"<!-- table: {match[1]} -->\n{body}<!-- /table -->"

    return re.sub(r"<!-- table: (\w+) -->\n.*?<!-- /table -->", table, text, flags=re.S)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        new = filled(text)
        if options.check and new != text:
            raise SystemExit(f"{page.name} and benchmarks/results differ: run python benchmarks/readme.py")
        page.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
