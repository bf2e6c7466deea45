"""Figures of scores and selections. Each function returns a `matplotlib` figure and writes nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ladm_hf.arrays import Floats, Ints
from ladm_hf.data.score_columns import SCORE
from ladm_hf.errors import ConfigError
from ladm_hf.report.style import (
    CUT,
    GROUP,
    INK,
    KEPT,
    POOL,
    add_legend,
    label_of,
    matplotlib_module,
    new_figure,
    settled,
    styled,
)
from ladm_hf.selection.result import Selection
from ladm_hf.selection.signals import score_words
from ladm_hf.stats import correlation_with_length
from ladm_hf.text import one_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_ROWS = 24
MAX_POINTS = 4000
# Below this many scores each one is also drawn as a tick.
RUG = 60
# Cuts are drawn where they part kept documents from dropped ones.
_HAS_CUT = ("exact", "percent", "top-k", "threshold")


@styled
def score_distribution(
    scores: Mapping[str, Sequence[float] | Floats],
    *,
    kept: Mapping[str, Sequence[float] | Floats] | None = None,
    cuts: Mapping[str, float] | None = None,
    title: str = "Score distribution",
    xlabel: str = "LADM score",
) -> Figure:
    """How the scores of each group are distributed: one histogram a row, scaled to its own height.

    Args:
        scores (mapping of `str` to scores): the groups, drawn from top to bottom. Scores that are not finite are
            left out.
        kept (mapping of `str` to scores, *optional*): those of each group that were kept, drawn over the others.
        cuts (mapping of `str` to `float`, *optional*): a score of each group to mark, such as the lowest kept.
        title (`str`, *optional*): title of the figure.
        xlabel (`str`, *optional*): what a score is.

    Raises:
        ConfigError: there are no scores.
        MissingExtraError: matplotlib is not installed.
    """
    cuts = cuts or {}
    groups = {name: _finite(values) for name, values in scores.items()}
    if not any(len(values) for values in groups.values()):
        raise ConfigError("there is no finite score to draw")
    everything = [values for values in groups.values() if len(values)]
    low, high = min(map(np.min, everything)), max(map(np.max, everything))
    pad = (high - low) * 0.02 or abs(high) * 0.05 or 1.0
    bins = int(np.clip(2 * max(map(len, everything)) ** 0.5, 16, 64))
    edges = np.linspace(low - pad, high + pad, bins + 1)
    alt = f"{title}: " + "; ".join(
        f"{one_line(name, 40)} median {np.median(values):.3g}"
        if len(values)
        else f"{one_line(name, 40)} without scores"
        for name, values in groups.items()
    )
    figure, axes = new_figure(1.5 + 0.5 * len(groups), alt)
    for row, (name, values) in enumerate(groups.items()):
        base = -float(row)
        heights = np.histogram(values, edges)[0]
        scale = 0.82 / max(1, heights.max())
        _ridge(axes, edges, heights * scale, base, POOL if kept else GROUP, "pool" if kept else None)
        if kept:
            chosen = _finite(kept.get(name, ()))
            _ridge(axes, edges, np.histogram(chosen, edges)[0] * scale, base, KEPT, "kept")
        if len(values) <= RUG:
            axes.plot(values, np.full(len(values), base - 0.06), "|", color=INK, markersize=5, markeredgewidth=0.8)
        if name in cuts:
            axes.plot([cuts[name]] * 2, [base - 0.06, base + 0.9], color=CUT, linewidth=2, label="cut")
        elif not kept and len(values):
            axes.plot([np.median(values)] * 2, [base, base + 0.86], color=INK, linewidth=1.5, label="median")
    axes.set_yticks([0.35 - row for row in range(len(groups))], [_counted(n, len(v)) for n, v in groups.items()])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set(xlabel=xlabel, ylim=(-len(groups) + 0.75, 1.0), xlim=(edges[0], edges[-1]))
    axes.set_title(title)
    add_legend(figure, axes)
    return settled(figure)


def _counted(name: str, count: int) -> str:
    return f"{label_of(name)}\n{count:,} documents" if count != 1 else f"{label_of(name)}\n1 document"


def _finite(values: Sequence[float] | Floats) -> Floats:
    array = np.asarray(values, dtype=np.float64).ravel()
    finite: Floats = array[np.isfinite(array)]
    return finite


def _ridge(axes: Any, edges: Floats, heights: Floats, base: float, colour: str, label: str | None) -> None:
    axes.stairs(base + heights, edges, baseline=base, fill=True, color=colour, linewidth=0, label=label)


def score_by_domain(selection: Selection) -> Figure:
    """Distribution of the scores of each domain, with the part kept and the cut.

    Args:
        selection ([`Selection`]): the 24 domains with the most scored documents are drawn.

    Raises:
        ConfigError: no document has a score.
        MissingExtraError: matplotlib is not installed.
    """
    frame = _scored(selection.frame())
    records = [row for row in selection.table if row.scored_documents]
    largest = sorted(records, key=lambda row: -row.scored_documents)[:MAX_ROWS]
    shown = sorted(row.domain for row in largest)
    codes, kept, score = _codes(frame), frame["kept"].to_numpy(), frame["score"].to_numpy()
    index = {name: code for code, name in enumerate(_names(frame))}
    pool = {name: score[codes == index[name]] for name in shown}
    chosen = {name: score[(codes == index[name]) & kept] for name in shown}
    by_percentile = bool(selection.strata) or "min_percentile" in selection.options
    cuts = selection.threshold if selection.strategy in _HAS_CUT and not by_percentile else {}
    title = "Score by domain"
    if len(shown) == MAX_ROWS < len(records):
        title += f" (the {MAX_ROWS} largest of {len(records)})"
    return score_distribution(pool, kept=chosen, cuts=cuts, title=title, xlabel=_score_label(selection))


def _score_label(selection: Selection) -> str:
    """What a score is here, for an axis."""
    score = selection.options["score"]
    if score == SCORE:
        return "LADM score"
    return (
        label_of(score, 40) if isinstance(score, str) else f"blend of percentiles: {label_of(score_words(score), 60)}"
    )


def _scored(frame: pa.Table) -> pa.Table:
    """The rows that have a score and a token count."""
    usable = pc.and_(pc.is_finite(frame["score"]), pc.greater_equal(frame["tokens"], 0))
    return frame.filter(usable).unify_dictionaries()


def _codes(frame: pa.Table) -> npt.NDArray[np.int32]:
    chunks = [chunk.indices.to_numpy(zero_copy_only=False) for chunk in frame["domain"].chunks]
    return np.concatenate(chunks) if chunks else np.empty(0, dtype=np.int32)


def _names(frame: pa.Table) -> list[str]:
    names: list[str] = frame["domain"].chunk(0).dictionary.to_pylist() if frame["domain"].num_chunks else []
    return names


@styled
def domain_mix(selection: Selection) -> Figure:
    """Share of each domain in the tokens of the pool and of the selection.

    Args:
        selection ([`Selection`]): the 24 largest domains are drawn by name, the others together.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    records = sorted(selection.table, key=lambda row: (-row.tokens, row.domain))
    rows = [(row.domain, row.tokens, row.selected_tokens) for row in records]
    if len(rows) > MAX_ROWS:
        others = rows[MAX_ROWS - 1 :]
        rows = rows[: MAX_ROWS - 1]
        rows.append((f"{len(others)} other domains", sum(r[1] for r in others), sum(r[2] for r in others)))
    before = _percentages([row[1] for row in rows])
    after = _percentages([row[2] for row in rows])
    alt = "Domain mix, percent of tokens in the pool and in the selection: " + "; ".join(
        f"{one_line(row[0], 40)} {b:.1f} to {a:.1f}" for row, b, a in zip(rows, before, after, strict=True)
    )
    figure, axes = new_figure(1.5 + 0.5 * max(1, len(rows)), alt)
    positions = -np.arange(len(rows), dtype=np.float64)
    for offset, values, colour, label in ((0.19, before, POOL, "pool"), (-0.19, after, KEPT, "kept")):
        bars = axes.barh(positions + offset, values, height=0.36, color=colour, label=label)
        axes.bar_label(bars, [f"{value:.1f} %" for value in values], padding=3, fontsize=9)
    axes.set_yticks(positions, [label_of(row[0]) for row in rows])
    axes.tick_params(axis="y", length=0)
    axes.set(xlabel="percent of tokens", xlim=(0, max([1.0, *before, *after]) * 1.15))
    axes.set_title("Domain mix before and after")
    add_legend(figure, axes)
    return settled(figure)


def _percentages(values: Sequence[int]) -> list[float]:
    total = sum(values)
    return [100 * value / total if total else 0.0 for value in values]


def length_correlation(selection: Selection) -> dict[str, float]:
    """Rank correlation (Spearman) of score and length over the scored documents of the pool.

    Returns:
        `{"all": ..., "within_domain": ...}`, each in -1..1: over all documents, and the mean of the domains' own,
        weighted by documents. NaN where there are fewer than 3 documents, or all are alike.
    """
    frame = _scored(selection.frame())
    return correlation_with_length(frame["score"].to_numpy(), frame["tokens"].to_numpy(), _codes(frame))


@styled
def score_against_length(selection: Selection) -> Figure:
    """Score against length, kept and dropped apart, with the rank correlation: the length-bias panel.

    Args:
        selection ([`Selection`]): at most 4,000 documents are drawn, the same at each call; the correlation and the
            running median are over all that have a score.

    Raises:
        ConfigError: no document has a score.
        MissingExtraError: matplotlib is not installed.
    """
    frame = _scored(selection.frame())
    if not frame.num_rows:
        raise ConfigError("there is no finite score to draw")
    score, tokens, kept = (frame[name].to_numpy() for name in ("score", "tokens", "kept"))
    rho = correlation_with_length(score, tokens, _codes(frame))
    tokens = np.maximum(tokens, 1)
    figure, axes = new_figure(
        4.6,
        f"Score against length in tokens for {len(score):,} documents: rank correlation {_signed(rho['all'])}, "
        f"within domains {_signed(rho['within_domain'])}",
    )
    shown = np.arange(len(score))
    if len(score) > MAX_POINTS:
        shown = np.sort(np.random.default_rng(0).choice(len(score), MAX_POINTS, replace=False))
    style = {"linestyle": "none", "alpha": 0.6, "markersize": 4, "markeredgewidth": 0, "rasterized": True}
    for mask, colour, marker, label in ((~kept, "#999999", "o", "dropped"), (kept, KEPT, "D", "kept")):
        part = shown[mask[shown]]
        axes.plot(tokens[part], score[part], marker=marker, color=colour, label=label, **style)
    centres, medians = _running_median(tokens, score)
    if len(centres) > 1:
        axes.plot(centres, medians, color=CUT, linewidth=2, label="running median")
    ticker = matplotlib_module().ticker
    if tokens.max() > 4 * tokens.min():
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(ticker.LogLocator(base=2, numticks=9))
        axes.xaxis.set_minor_locator(ticker.NullLocator())
        axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: _short(value)))
    else:
        axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:,.0f}"))
    blended = not isinstance(selection.options["score"], str)
    axes.set(xlabel="length in tokens", ylabel="blend of percentiles" if blended else _score_label(selection))
    axes.set_title(
        f"Score against length: rank correlation {_signed(rho['all'])}, within domains {_signed(rho['within_domain'])}"
    )
    add_legend(figure, axes)
    return settled(figure)


def _running_median(tokens: Ints, score: Floats) -> tuple[list[float], list[float]]:
    """Median length and median score of up to 12 bands of about equally many documents, from short to long."""
    bands = np.array_split(np.argsort(tokens, kind="stable"), min(12, max(1, len(score) // 10)))
    merged: dict[float, list[Floats]] = {}
    for band in bands:
        # many documents truncated to one length fill several bands, which are one point
        merged.setdefault(float(np.median(tokens[band])), []).append(score[band])
    return list(merged), [float(np.median(np.concatenate(parts))) for parts in merged.values()]


def _signed(value: float) -> str:
    return f"{value:+.2f}" if math.isfinite(value) else "not defined"


def _short(tokens: float) -> str:
    """A number of tokens in the space of a tick: 512, 4k, 32k, 1M, in powers of 1,024."""
    for size, unit in ((1 << 20, "M"), (1 << 10, "k")):
        if tokens >= size:
            return f"{tokens / size:.3g}{unit}"
    return f"{tokens:.3g}"
