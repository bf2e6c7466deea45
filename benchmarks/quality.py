"""Does a score tell natural long documents from splices? A calculator's LADM scores beside other scores, with time.

    python benchmarks/quality.py documents.parquet                     # ladm-nano; writes results/quality.json and .png
    python benchmarks/quality.py documents.parquet --model my-calculator --output results/mine.json
    python benchmarks/quality.py documents.parquet --against my-calculator --only-calibrated   # both of them
    python benchmarks/quality.py documents.parquet --only "gzip ratio"    # adds this row to the result that there is

Natural windows of `T` tokens against windows spliced of `k` stretches of different documents of the same domain, and
against short documents joined. The figure of merit is the probability that a natural window scores above a splice (the
area under the ROC curve, 0.5 for chance), mean over domains, with a 95 % bootstrap interval over documents. Every score
is computed on the same windows by the same model. Columns of the parquet: text, and domain, kind, source where known.

The other scores, each with the sign that its authors give it:

- token loss: minus the mean loss of a token;
- long minus short loss: how much a token's loss falls when its context grows from T/8..T/4 to all that comes before it
  (LongFilter, arXiv 2510.25804, without its weight: the probability of the token given the long context);
- delta perplexity: relative fall of a span's perplexity when an earlier span is put before it, plus their distance,
  times how few spans help (ProLong, arXiv 2405.17915), on a sample of spans;
- first-layer distant attention: attention mass of the first layer beyond T/4 (LongAttn, arXiv 2502.16860), the signal
  `distant_attention`;
- length: characters of the window; gzip ratio: the signal `compression`.

`--against` adds other calculators with the same tokenizer, each by its own configuration. `--only` takes windows, seed
and settings from the result that it adds to, and adds nothing unless the row `length` comes out the same on them. How
far LADM is ahead of an added row is known only where LADM is scored again (`--only "LADM, calibrated heads" ...`): its
row is added where the result has none, else it must come out the same. An added row has no time, since the others may
have been timed elsewhere.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import AutoModelForCausalLM

from ladm_hf import LadmConfig, __version__
from ladm_hf.calculators.calculator import resolve
from ladm_hf.ops.scores import document_score
from ladm_hf.scoring.engine import Engine
from ladm_hf.scoring.losses import LanguageModelHead
from ladm_hf.scoring.text_signals import compression
from ladm_hf.stats import area_under_curve
from ladm_hf.training.documents import TokenizedDocument
from ladm_hf.training.heads import read_heads
from ladm_hf.training.labelled import LabelledWindow, labelled_windows

RESULTS = Path(__file__).parent / "results"
SETTINGS = [(length, k) for length in (4096, 8192, 16384) for k in (2, 4, 8, 0)]
# The settings that the README quotes.
HEADLINE = [(8192, 2), (8192, 4), (8192, 8), (8192, 0), (16384, 2), (16384, 8)]
BATCH_TOKENS = 65_536
SPAN = 128
Scores = np.ndarray
CALIBRATED = "LADM, calibrated heads"
# The row that shows whether windows are the same, and how far LADM may be off on another device.
SAME_WINDOWS, SAME_AREA = "length", 5e-3


class Reader:
    """A causal language model and its losses."""

    def __init__(self, folder: Path, device: str) -> None:
        self.device = device
        dtype = torch.float32 if device == "cpu" else torch.bfloat16
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, use_safetensors=True).to(device).eval()
        self.head = LanguageModelHead(self.model, "the losses of this benchmark")

    @torch.inference_mode()
    def losses(self, ids: torch.Tensor) -> torch.Tensor:
        """Loss of every token but the first, `[B, T - 1]`."""
        ids = ids.to(self.device)
        hidden = self.model.base_model(input_ids=ids, use_cache=False).last_hidden_state
        return torch.stack([self.head.losses(*row) for row in zip(hidden, ids, strict=True)])

    def token_loss(self, ids: torch.Tensor) -> Scores:
        return -self.losses(ids).mean(1).cpu().numpy()

    def long_minus_short(self, ids: torch.Tensor) -> Scores:
        batch, length = ids.shape
        step = length // 8
        full = self.losses(ids)
        chunks = ids.unfold(1, 2 * step, step)
        short = self.losses(chunks.flatten(0, 1)).unflatten(0, (batch, -1))[..., step - 1 :]
        # the second half of chunk c predicts tokens (c + 1) step .. (c + 2) step
        long = full[:, step - 1 :].unfold(1, step, step)
        return (short - long).mean((1, 2)).cpu().numpy()

    def delta_perplexity(self, ids: torch.Tensor, later: int = 12, earlier: int = 8) -> Scores:
        spans = ids.shape[1] // SPAN
        rng = np.random.default_rng(0)
        results = []
        for row in ids:
            pieces = row[: spans * SPAN].view(spans, SPAN)
            js = rng.choice(np.arange(spans // 4, spans), min(later, spans - spans // 4), replace=False)
            pairs = [(int(j), int(i)) for j in js for i in rng.choice(j, min(earlier, j), replace=False)]
            alone = self.losses(pieces[js]).mean(1).exp().cpu().numpy()
            after = torch.stack([torch.cat([pieces[i], pieces[j]]) for j, i in pairs])
            given = self.losses(after)[:, SPAN:].mean(1).exp().cpu().numpy()
            total = 0.0
            for place, j in enumerate(js.tolist()):
                mine = [n for n, (later_span, _) in enumerate(pairs) if later_span == j]
                strength = (alone[place] - given[mine]) / alone[place]
                distance = np.array([(j - pairs[n][1]) / spans for n in mine])
                share = np.exp(strength - strength.max())
                share /= share.sum()
                specificity = 1 + (share * np.log(share)).sum() / np.log(max(len(mine), 2))
                total += float((((strength + distance) * specificity) * (strength > 0)).mean())
            results.append(total / len(js))
        return np.array(results)


def compare(
    folder: Path,
    tokenizer: Any,
    windows: Sequence[LabelledWindow],
    device: str,
    calibrated: LadmConfig,
    only_calibrated: bool = False,
    against: Sequence[str] = (),
) -> tuple[dict[str, Scores], dict[str, float]]:
    """Every score of every window, and seconds per window of 8,192 tokens (or of the longest there are)."""
    engine = load(folder, LadmConfig.paper(), device)
    calculators = {CALIBRATED: load(folder, calibrated, device)}
    for other in against:
        calculators[f"LADM, {Path(other).name}"] = load(other, resolve(other).config, device)
    scores = {name: score_all(calculator, windows) for name, calculator in calculators.items()}
    timed: dict[str, Callable[[torch.Tensor], Any]] = {
        name: partial(score_rows, calculator) for name, calculator in calculators.items()
    }
    if only_calibrated:
        return scores, timings(timed, windows, device)
    together = read_heads(engine, [window.ids for window in windows], progress=True).all_heads
    scores |= {
        "LADM, all heads (paper)": together[None],
        "LADM, all heads, no_std": together["no_std"],
        "LADM, all heads, no_length_weight": together["no_length_weight"],
    }

    others = other_scores(folder, tokenizer, device)
    for name, score in others.items():
        start = time.perf_counter()
        scores[name] = over_batches(score, windows, device)
        print(f"{name}: {time.perf_counter() - start:.1f} s", flush=True)
    timed |= {"LADM, all heads (paper)": partial(score_rows, engine), **others}
    seconds = timings(timed, windows, device)
    for name in ("LADM, all heads, no_std", "LADM, all heads, no_length_weight"):
        seconds[name] = seconds["LADM, all heads (paper)"]
    return scores, seconds


def other_scores(folder: Path, tokenizer: Any, device: str) -> dict[str, Callable[[torch.Tensor], Scores]]:
    """The scores that are not LADM's, of windows `[B, T]`."""
    reader = Reader(folder, device)
    # a head of the first layer that can be scored, with which the forward pass ends
    layer = load(folder, LadmConfig.paper(), device).plan.scored[0]
    distant = load(folder, LadmConfig.paper(heads=((layer, 0),)), device, ("distant_attention",))

    def text(ids: torch.Tensor) -> list[str]:
        return tokenizer.batch_decode(ids.tolist())

    return {
        "token loss": reader.token_loss,
        "long minus short loss": reader.long_minus_short,
        "delta perplexity": reader.delta_perplexity,
        "first-layer distant attention": lambda ids: np.array(
            [found.signals[0] for found in distant.measure(list(ids.numpy()))]
        ),
        "length": lambda ids: np.array([len(row) for row in text(ids)], dtype=float),
        "gzip ratio": lambda ids: np.array([compression(row) for row in text(ids)]),
    }


def load(folder: str | Path, config: LadmConfig, device: str, signals: tuple[str, ...] = ()) -> Engine:
    dtype = "float32" if device == "cpu" else "float16"
    return Engine(resolve(folder), config, dtype, device, "auto", None, signals)


def score_all(engine: Engine, windows: Sequence[LabelledWindow]) -> Scores:
    """The document score of every window, as the scorer gives it."""
    scores = np.empty(len(windows))
    for batch, found in engine.score_all([window.ids for window in windows]):
        assert found is not None, "out of memory"
        scores[batch] = [document_score(one.cds, engine.config.weights) for one in found]
    return scores


def setting_areas(windows: Sequence[LabelledWindow], scores: Scores) -> dict[tuple[tuple[int, int], str], float]:
    """Area under the curve of each setting and domain that has both natural windows and splices."""
    groups: dict[tuple[int, str], dict[int, list[float]]] = {}
    for window, score in zip(windows, scores.tolist(), strict=True):
        groups.setdefault((len(window.ids), window.domain), {}).setdefault(window.pieces, []).append(score)
    return {
        ((length, k), domain): area_under_curve(kinds[1], spliced)
        for (length, domain), kinds in sorted(groups.items())
        for k, spliced in sorted(kinds.items())
        if k != 1 and 1 in kinds
    }


def score_rows(engine: Engine, ids: torch.Tensor) -> list[np.ndarray]:
    return engine.score(list(ids.numpy()))


def timings(
    scores: dict[str, Callable[[torch.Tensor], Any]], windows: Sequence[LabelledWindow], device: str
) -> dict[str, float]:
    """Seconds per window of 8,192 tokens, or of the longest there are."""
    lengths = [len(window.ids) for window in windows]
    length = 8192 if 8192 in lengths else max(lengths)
    sample = [window for window in windows if len(window.ids) == length][: 4 if device == "cpu" else 16]
    seconds = {}
    for name, score in scores.items():
        # on a GPU kernels prepare themselves for every shape
        over_batches(score, sample[: 1 if device == "cpu" else None], device)
        start = time.perf_counter()
        over_batches(score, sample, device)
        seconds[name] = (time.perf_counter() - start) / len(sample)
    return seconds


def over_batches(score: Callable[[torch.Tensor], Any], windows: Sequence[LabelledWindow], device: str) -> Scores:
    results = np.empty(len(windows), dtype=object)
    for length in sorted({len(window.ids) for window in windows}):
        rows = [row for row, window in enumerate(windows) if len(window.ids) == length]
        size = 1 if device == "cpu" else max(1, BATCH_TOKENS // length)
        for start in range(0, len(rows), size):
            batch = rows[start : start + size]
            ids = torch.from_numpy(np.stack([windows[row].ids for row in batch]).astype(np.int64))
            for row, value in zip(batch, score(ids), strict=True):
                results[row] = value
    return results if len(windows) and np.ndim(results[0]) else results.astype(float)


def bootstrap(
    windows: Sequence[LabelledWindow], scores: dict[str, Scores], rounds: int, settings: Sequence[tuple[int, int]]
) -> dict[str, dict[str, Any]]:
    """Area under the curve by setting, over all settings and over the headline, each with a 95 % interval.

    Natural windows are drawn again by document, splices one by one; all scores share the draws, so that the interval
    of a difference is one of pairs.
    """
    rng = np.random.default_rng(0)
    draws: dict[str, dict[tuple[int, int], list[np.ndarray]]] = {name: {} for name in scores}
    points: dict[str, dict[tuple[int, int], list[float]]] = {name: {} for name in scores}
    domains = sorted({window.domain for window in windows})
    for length, k in settings:
        for domain in domains:
            mine = [i for i, w in enumerate(windows) if len(w.ids) == length and w.domain == domain]
            natural = [i for i in mine if windows[i].pieces == 1]
            spliced = [i for i in mine if windows[i].pieces == k]
            if not natural or not spliced:
                continue
            names = [windows[i].documents[0] for i in natural]
            groups = {name: n for n, name in enumerate(dict.fromkeys(names))}
            drawn = rng.multinomial(len(groups), np.full(len(groups), 1 / len(groups)), rounds)
            weights = drawn[:, [groups[name] for name in names]].astype(float)
            weights /= weights.sum(1, keepdims=True)
            others = rng.multinomial(len(spliced), np.full(len(spliced), 1 / len(spliced)), rounds) / len(spliced)
            for name, values in scores.items():
                high, low = values[natural][:, None], values[spliced][None]
                wins = (high > low) + 0.5 * (high == low)
                points[name].setdefault((length, k), []).append(float(wins.mean()))
                draws[name].setdefault((length, k), []).append(np.einsum("bn,ns,bs->b", weights, wins, others))

    def mean(name: str, there: Sequence[tuple[int, int]]) -> tuple[float, np.ndarray]:
        point = float(np.mean([np.mean(points[name][setting]) for setting in there]))
        return point, np.mean([np.mean(draws[name][setting], axis=0) for setting in there], axis=0)

    def summary(name: str, chosen: Sequence[tuple[int, int]]) -> dict[str, Any] | None:
        there = [setting for setting in chosen if setting in points[name]]
        if not there:
            return None
        point, sample = mean(name, there)
        low, high = np.percentile(sample, [2.5, 97.5]).tolist()
        # how far the first score is ahead, on the same draws
        first, reference = mean(next(iter(scores)), there)
        behind, ahead = np.percentile(reference - sample, [2.5, 97.5]).tolist()
        return {
            "auc": round(point, 4),
            "low": round(low, 4),
            "high": round(high, 4),
            "behind_first": {"auc": round(first - point, 4), "low": round(behind, 4), "high": round(ahead, 4)},
        }

    return {
        name: {
            **{label(setting): summary(name, [setting]) for setting in settings if setting in points[name]},
            "headline": summary(name, HEADLINE),
            "all": summary(name, settings),
        }
        for name in scores
    }


def label(setting: tuple[int, int]) -> str:
    return f"{setting[0]:,} joined" if setting[1] == 0 else f"{setting[0]:,} x {setting[1]}"


def markdown(result: dict[str, Any]) -> str:
    """The table of README and model card: every score on the settings that the README quotes."""
    names = [label(setting) for setting in HEADLINE if label(setting) in next(iter(result["methods"].values()))]
    measured = CALIBRATED in result["methods"]
    columns = ["score", "mean", *(["LADM is ahead by"] if measured else []), *names, "s / document"]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for place, (name, row) in enumerate(result["methods"].items()):
        mean = row["headline"] or row["all"]
        cells = [name, interval(mean)]
        if measured:
            cells.append(interval(mean["behind_first"], "+.3f") if place and "behind_first" in mean else "")
        cells += [f"{row[setting]['auc']:.2f}" for setting in names]
        cells.append(f"{row['seconds']:.3g}" if "seconds" in row else "")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def settings_markdown(result: dict[str, Any]) -> str:
    """Every setting, with the score that comes closest to the first one there."""
    (_, first), *others = result["methods"].items()
    lines = ["| setting | LADM | best of the others | | LADM is ahead by |", "|---|---|---|---|---|"]
    for key in [*settings_of(first), "all"]:
        rival, row = max(others, key=lambda other: other[1][key]["auc"])
        ahead = interval(row[key]["behind_first"], "+.3f") if "behind_first" in row[key] else ""
        shown = "mean of all" if key == "all" else key
        lines.append(f"| {shown} | {interval(first[key])} | {rival} | {row[key]['auc']:.3f} | {ahead} |")
    return "\n".join(lines) + "\n"


def domains_markdown(result: dict[str, Any]) -> str:
    """Every domain: the first score by length, its weakest setting, and the best of the others."""
    (_, first), *others = result["methods"].items()
    lengths = list(result["windows"])
    lines = [
        "| domain | documents | mean | " + " | ".join(lengths) + " | weakest setting | best of the others |",
        "|---|---|---|" + "---|" * (len(lengths) + 2),
    ]
    for domain, areas in first["domains"].items():
        by_length = [[area for name, area in areas.items() if name.split(" ")[0] == length] for length in lengths]
        cells = [f"{np.mean(found):.2f}" if found else "" for found in by_length]
        weakest = min(areas, key=lambda name: areas[name])
        rivals = {name: float(np.mean(list(row["domains"][domain].values()))) for name, row in others}
        rival = max(rivals, key=lambda name: rivals[name])
        lines.append(
            f"| {domain} | {result['documents'][domain]} | {np.mean(list(areas.values())):.2f} | {' | '.join(cells)} | "
            f"{weakest}: {areas[weakest]:.2f} | {rival}: {rivals[rival]:.2f} |"
        )
    return "\n".join(lines) + "\n"


def settings_of(row: dict[str, Any]) -> list[str]:
    """The settings that a score was measured at."""
    return [name for name in row if name not in ("headline", "all", "seconds", "domains", "device")]


def interval(estimate: dict[str, float], shown: str = ".3f") -> str:
    return f"{estimate['auc']:{shown}} ({estimate['low']:{shown}} to {estimate['high']:{shown}})"


def figure(result: dict[str, Any], path: Path) -> None:
    from matplotlib.figure import Figure

    rows = sorted(result["methods"].items(), key=lambda item: (item[1]["headline"] or item[1]["all"])["auc"])
    drawing = Figure(figsize=(7.5, 3.8), layout="constrained")
    axes = drawing.subplots()
    for place, (name, row) in enumerate(rows):
        mean = row["headline"] or row["all"]
        colour = "#1f6f8b" if name.startswith("LADM") else "#8a8a8a"
        axes.plot([mean["low"], mean["high"]], [place, place], color=colour, linewidth=2)
        axes.plot(mean["auc"], place, "o", color=colour)
        axes.annotate(f"{mean['auc']:.2f}", (mean["high"], place), (5, 0), textcoords="offset points", va="center")
    axes.axvline(0.5, color="#bbbbbb", linewidth=1, linestyle="--")
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.set(xlabel="probability that a natural document scores above a splice", xlim=(None, 1.03))
    axes.spines[["top", "right"]].set_visible(False)
    drawing.savefig(path, dpi=150)


def run(
    documents: Sequence[TokenizedDocument],
    tokenizer: Any,
    folder: Path,
    device: str,
    *,
    per_domain: int = 24,
    seed: int = 0,
    rounds: int = 1000,
    settings: Sequence[tuple[int, int]] = SETTINGS,
    only_calibrated: bool = False,
    against: Sequence[str] = (),
) -> dict[str, Any]:
    """The whole comparison as a dictionary for JSON."""
    windows = make_windows(documents, settings, per_domain, seed)
    calibrated = resolve(folder).config
    scores, seconds = compare(folder, tokenizer, windows, device, calibrated, only_calibrated, against)
    methods = bootstrap(windows, scores, rounds, settings)
    for name, row in methods.items():
        row["seconds"] = round(seconds[name], 5)
        row["domains"] = by_domain(setting_areas(windows, scores[name]))
    return {
        "ladm_hf": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": device_name(device),
        "config": calibrated.to_dict(),
        "seed": seed,
        "per_domain": per_domain,
        **counts(windows),
        "methods": methods,
    }


def add(
    recorded: dict[str, Any],
    documents: Sequence[TokenizedDocument],
    tokenizer: Any,
    folder: Path,
    device: str,
    names: Sequence[str],
    rounds: int = 1000,
) -> dict[str, Any]:
    """A result with the rows of some scores added or measured again, on the windows of the result."""
    config = resolve(folder).config
    if recorded["config"] != config.to_dict():
        raise SystemExit("the result is of a calculator with another configuration: nothing is added to it")
    settings = [setting_of(name) for name in settings_of(next(iter(recorded["methods"].values())))]
    windows = make_windows(documents, settings, recorded["per_domain"], recorded["seed"])
    functions = other_scores(folder, tokenizer, device)
    if unknown := sorted(set(names) - {CALIBRATED, *functions}):
        raise SystemExit(f"no score {unknown[0]!r}: choose some of {', '.join((CALIBRATED, *functions))}")
    if counts(windows) != {name: recorded[name] for name in ("windows", "documents")}:
        raise SystemExit("these documents give other windows than those of the result: nothing is added to it")
    scores = {SAME_WINDOWS: over_batches(functions[SAME_WINDOWS], windows, device)}
    methods = bootstrap(windows, scores, rounds, settings)
    check_same(recorded["methods"].get(SAME_WINDOWS), methods[SAME_WINDOWS], SAME_WINDOWS, 0.0)
    # the first is what the others are compared with
    scores = {CALIBRATED: score_all(load(folder, config, device), windows)} if CALIBRATED in names else {}
    scores |= {name: over_batches(functions[name], windows, device) for name in names if name != CALIBRATED}
    methods = bootstrap(windows, scores, rounds, settings)
    if CALIBRATED in methods and CALIBRATED in recorded["methods"]:
        check_same(recorded["methods"][CALIBRATED], methods.pop(CALIBRATED), CALIBRATED, SAME_AREA)
    for name, row in methods.items():
        if CALIBRATED not in scores:
            for estimate in filter(None, row.values()):
                del estimate["behind_first"]
        row |= {"domains": by_domain(setting_areas(windows, scores[name])), "device": device_name(device)}
    # LADM stays the first, as the tables take it to be
    first = {CALIBRATED: methods[CALIBRATED]} if CALIBRATED in methods else {}
    return recorded | {"methods": first | recorded["methods"] | methods}


def check_same(before: dict[str, Any] | None, now: dict[str, Any], name: str, tolerance: float) -> None:
    """Refuses windows on which a row comes out otherwise than it was recorded."""
    if before is None:
        raise SystemExit(f"the result has no row {name!r}, which would show that these windows are its own")
    for key in (*settings_of(before), "all"):
        if not abs(before[key]["auc"] - now[key]["auc"]) <= tolerance:
            raise SystemExit(
                f"{name!r} at {key} was {before[key]['auc']} and is {now[key]['auc']} here: these are other windows or "
                "another calculator, and nothing is added"
            )


def make_windows(
    documents: Sequence[TokenizedDocument], settings: Sequence[tuple[int, int]], per_domain: int, seed: int
) -> list[LabelledWindow]:
    windows: list[LabelledWindow] = []
    for length in sorted({length for length, _ in settings}):
        windows += labelled_windows(documents, length, [k for size, k in settings if size == length], per_domain, seed)
    if not setting_areas(windows, np.zeros(len(windows))):
        raise SystemExit("no domain of these documents has two natural windows and the documents to splice")
    return windows


def counts(windows: Sequence[LabelledWindow]) -> dict[str, Any]:
    """Windows by length, and documents that the natural windows of a domain come from."""
    return {
        "windows": {
            f"{length:,}": {
                "natural": sum(1 for w in windows if len(w.ids) == length and w.pieces == 1),
                "spliced": sum(1 for w in windows if len(w.ids) == length and w.pieces != 1),
            }
            for length in sorted({len(w.ids) for w in windows})
        },
        "documents": {
            domain: len({w.documents for w in windows if w.domain == domain and w.pieces == 1})
            for domain in sorted({w.domain for w in windows})
        },
    }


def by_domain(areas: dict[tuple[tuple[int, int], str], float]) -> dict[str, dict[str, float]]:
    """Areas of each domain by setting."""
    return {
        domain: {label(setting): round(area, 3) for (setting, d), area in areas.items() if d == domain}
        for domain in sorted({d for _, d in areas})
    }


def device_name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else device


def setting_of(name: str) -> tuple[int, int]:
    """The setting of a [`label`]."""
    length, _, pieces = name.replace(",", "").partition(" ")
    return int(length), 0 if pieces == "joined" else int(pieces.removeprefix("x "))


def setting(text: str) -> tuple[int, int]:
    length, _, pieces = text.partition("x")
    return int(length), int(pieces)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", help="parquet or jsonl files, or a Hub id")
    parser.add_argument("--model", default="ladm-nano", help="calculator: ladm-nano, a folder or a Hub id")
    parser.add_argument("--settings", type=setting, nargs="+", default=SETTINGS, help="T x k, as 8192x2; k = 0 joins")
    parser.add_argument("--per-domain", type=int, default=24, help="most windows of a kind in a domain")
    parser.add_argument("--rounds", type=int, default=1000, help="bootstrap rounds")
    parser.add_argument("--against", nargs="+", default=[], help="other calculators with the same tokenizer")
    parser.add_argument("--only-calibrated", action="store_true", help="leave out all other scores")
    parser.add_argument("--only", nargs="+", metavar="SCORE", help="add the rows of these scores to --output")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, default=RESULTS / "quality.json")
    options = parser.parse_args()
    from ladm_hf.training.documents import load_documents, tokenize_documents

    calculator = resolve(options.model)
    assert calculator.path is not None
    tokenizer = calculator.load_tokenizer()
    for other in options.against:
        if resolve(other).load_tokenizer().get_vocab() != tokenizer.get_vocab():
            raise SystemExit(f"{other} has another tokenizer than {options.model}: their windows cannot be the same")
    documents = tokenize_documents(load_documents(options.data), tokenizer)
    if options.only:
        recorded = json.loads(options.output.read_text(encoding="utf-8"))
        result = add(recorded, documents, tokenizer, calculator.path, options.device, options.only, options.rounds)
    else:
        result = run(
            documents,
            tokenizer,
            calculator.path,
            options.device,
            per_domain=options.per_domain,
            seed=options.seed,
            rounds=options.rounds,
            settings=options.settings,
            only_calibrated=options.only_calibrated,
            against=options.against,
        )
        result["model"] = Path(options.model).name
        result["against"] = {Path(other).name: resolve(other).config.to_dict() for other in options.against}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    figure(result, options.output.with_suffix(".png"))
    print(markdown(result))
    # these two compare LADM with the others
    if CALIBRATED in result["methods"] and len(result["methods"]) > 1:
        print(settings_markdown(result), domains_markdown(result), sep="\n")


if __name__ == "__main__":
    main()
