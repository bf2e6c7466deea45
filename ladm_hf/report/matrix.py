"""The matrix of signals as a figure: rank correlations below the diagonal, overlaps of selections above it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ladm_hf.report.style import INK, WIDTH, label_of, matplotlib_module, settled, styled
from ladm_hf.selection.comparison import Comparison
from ladm_hf.text import one_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CORRELATIONS, OVERLAPS = "RdBu_r", "Greens"
# The diagonal, and pairs whose value is not defined; height of a cell in inches.
EMPTY, CELL = "#EDEDED", 0.42
# A cell darker or lighter than this, 0 black to 1 white, has white or black figures.
_DARK = 0.55


@styled
def signal_matrix(comparison: Comparison) -> Figure:
    """How far signals agree over all documents: their rank correlation below the diagonal, above it the overlap of what
    they select.

    Args:
        comparison ([`Comparison`]): the signals.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    matplotlib = matplotlib_module()
    names = list(comparison.signals)
    size = len(names)
    correlation, overlap = comparison.matrix("correlation"), comparison.matrix("overlap")
    cells = max(1.2, CELL * size)
    figure: Figure = matplotlib.figure.Figure(figsize=(WIDTH, 1.6 + cells), layout="constrained", dpi=100)
    figure.set_label(
        f"Matrix of {size} signals over {comparison.documents:,} documents: "
        + "; ".join(
            f"{one_line(names[j], 40)} and {one_line(names[i], 40)} correlation {correlation[i, j]:+.2f}, "
            f"overlap {100 * overlap[i, j]:.0f} %"
            for i in range(size)
            for j in range(i)
        )
    )
    grid = figure.add_gridspec(2, 2, height_ratios=[cells, 0.16])
    axes = figure.add_subplot(grid[0, :])
    axes.set_facecolor(EMPTY)
    below, above = np.tril(np.ones((size, size), dtype=bool), -1), np.triu(np.ones((size, size), dtype=bool), 1)
    parts = (
        (correlation, below, CORRELATIONS, -1, "{:+.2f}", "lower left: rank correlation"),
        (overlap, above, OVERLAPS, 0, "{:.0%}", "upper right: overlap"),
    )
    for n, (values, mask, colours, low, form, label) in enumerate(parts):
        shown = np.where(mask, values, np.nan)
        drawn = axes.imshow(shown, cmap=colours, vmin=low, vmax=1, aspect="auto")
        bar = figure.colorbar(drawn, cax=figure.add_subplot(grid[1, n]), orientation="horizontal")
        bar.set_label(label, fontsize=9)
        bar.ax.tick_params(labelsize=8)
        bar.outline.set_visible(False)
        if n:
            bar.ax.xaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0))
        _write(axes, shown, mask, form, drawn)
    marks = [f"{label_of(name)}{'' if way > 0 else ', lowest first'}" for name, way in comparison.signals.items()]
    axes.set_xticks(range(size), [str(n + 1) for n in range(size)])
    axes.set_yticks(range(size), [f"{mark}  {n + 1}" for n, mark in enumerate(marks)])
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return settled(figure)


def _write(axes: Any, shown: Any, mask: Any, form: str, drawn: Any) -> None:
    """The number of each cell, in a colour that can be read on it."""
    for i, j in np.argwhere(mask):
        value = shown[i, j]
        text = form.format(value) if np.isfinite(value) else "–"
        red, green, blue = drawn.cmap(drawn.norm(value))[:3] if np.isfinite(value) else (1.0, 1.0, 1.0)
        light = 0.3 * red + 0.59 * green + 0.11 * blue
        axes.text(j, i, text, ha="center", va="center", fontsize=9, color=INK if light > _DARK else "white")
