"""Pictures of training and calibration; they need matplotlib, the extra `plot`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ladm_hf.errors import MissingExtraError
from ladm_hf.training.calibration import Calibration
from ladm_hf.training.windows import VIEWS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, RED, GREY = "#0072B2", "#D55E00", "#959595"


def plot_losses(history: list[dict[str, float]], path: Path) -> None:
    """Draws the logged losses over the steps; does nothing where matplotlib is not installed, or nothing was logged."""
    if not history:
        return
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    labels = {"lm_loss": "language model loss (nats)"}
    labels |= {
        f"{view}_loss": f"{view} loss (nats above entropy)" for view in (v.removesuffix("_labels") for v in VIEWS)
    }
    names = [name for name in labels if any(name in line for line in history)]
    figure = Figure(figsize=(4.5 * len(names), 3.2), layout="constrained")
    for axes, name in zip(np.atleast_1d(figure.subplots(1, len(names))), names, strict=True):
        axes.plot([line["step"] for line in history], [line[name] for line in history], color=BLUE)
        axes.set(xlabel="step", ylabel=labels[name])
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def plot_calibration(calibration: Calibration) -> Figure:
    """Every head by itself on the left, with the chosen ones framed; on the right what the choice reaches by kind.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError(
            "figures need matplotlib, which is not installed: pip install 'ladm-hf[plot]'"
        ) from error
    rows = [row for row in reversed(calibration.rows) if row.kind or not row.question]
    figure = Figure(figsize=(11, max(3.5, 0.24 * len(rows) + 1)), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.4))
    _draw_heads(left, calibration)
    for place, row in enumerate(rows):
        right.plot([row.chosen.low, row.chosen.high], [place, place], color=BLUE, linewidth=2)
        right.plot(row.all_heads.value, place, "o", color=GREY, markersize=5)
        right.plot(row.chosen.value, place, "o", color=BLUE, markersize=6)
    right.plot([], [], "o", color=BLUE, label="chosen heads, 95 % interval")
    right.plot([], [], "o", color=GREY, label="all heads (paper)")
    right.axvline(0.5, color=GREY, linewidth=0.8, linestyle=":")
    right.set(xlim=(0, 1.01), xlabel="probability that the natural window scores higher")
    right.set_yticks(range(len(rows)), [row.kind or "objective" for row in rows])
    right.set_title("on sources that no choice has seen", fontsize=10)
    right.legend(loc="lower left", fontsize=8, frameon=False)
    right.spines[["top", "right"]].set_visible(False)
    return figure


def _draw_heads(axes: Any, calibration: Calibration) -> None:
    places = [tuple(map(int, re.findall(r"\d+", name))) for name in calibration.heads]
    layers = sorted({layer for layer, _ in places})
    grid = np.full((len(layers), max(head for _, head in places) + 1), np.nan)
    for (layer, head), value in zip(places, calibration.heads.values(), strict=True):
        grid[layers.index(layer), head] = value
    image = axes.imshow(grid, cmap="viridis", aspect="auto", origin="lower", vmin=0, vmax=1)
    for layer, head in calibration.config.heads or ():
        frame = {"fill": False, "edgecolor": RED, "linewidth": 2}
        axes.add_patch(_rectangle((head - 0.5, layers.index(layer) - 0.5), **frame))
    axes.set(xlabel="head", ylabel="layer")
    axes.set_yticks(range(len(layers)), layers)
    axes.set_title("objective of each head by itself", fontsize=10)
    axes.figure.colorbar(image, ax=axes, shrink=0.7)


def _rectangle(corner: tuple[float, float], **options: Any) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle(corner, 1, 1, **options)
