"""The focus map of one document as a figure; it is returned, nothing is written."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ladm_hf.report.style import label_of, matplotlib_module, new_figure, settled, styled
from ladm_hf.text import one_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ladm_hf.scoring.results import FocusMap

# Of focus maps, here and in the app: colour map, colour where there is no pair of spans, and what the axes show. Both
# axes grow with the place in the document.
FOCUS_MAP, NO_PAIR = "cividis", "#EDEDED"
FOCUS_ACROSS, FOCUS_UP = "earlier span starts at token", "later span starts at token"


@styled
def focus_heatmap(focus_map: FocusMap, *, title: str | None = None) -> Figure:
    """Which spans attend to which in one document: PFS by the position of the query span and of the key span.

    Args:
        focus_map ([`FocusMap`]): from `LadmScorer.focus_map`.
        title (`str`, *optional*): defaults to the document's score and length.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    matplotlib = matplotlib_module()
    pfs, starts = focus_map.pfs, focus_map.key_starts
    score = focus_map.score
    query_step = int(focus_map.query_starts[0] - focus_map.query_starts[1]) if len(focus_map.query_starts) > 1 else 0
    key_step = int(starts[0, 0] - starts[0, 1])
    # in one row key spans lie key_step apart, so that each has a column of its own
    image = np.full((len(pfs), -(-score.num_tokens // key_step)), np.nan)
    rows, columns = np.nonzero(starts >= 0)
    image[rows, starts[rows, columns] // key_step] = pfs[rows, columns]
    ceiling = float(np.nanquantile(pfs, 0.99)) or 1.0
    title = title or f"Score {score.score:.4g}, {score.num_tokens:,} tokens"
    figure, axes = new_figure(
        5.2,
        f"Heat map of the pairwise focus score, {one_line(title, 80)}: mean {np.nanmean(pfs):.2g}, highest "
        f"{np.nanmax(pfs):.2g} of {focus_map.span_length}",
    )
    colours = matplotlib.colormaps[FOCUS_MAP].with_extremes(bad=NO_PAIR)
    half = (query_step or focus_map.span_length) / 2
    middles = focus_map.query_starts + focus_map.span_length / 2
    drawn = axes.imshow(
        image,
        cmap=colours,
        vmin=0,
        vmax=ceiling,
        aspect="auto",
        interpolation="nearest",
        extent=(0, image.shape[1] * key_step, middles[-1] - half, middles[0] + half),
    )
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set(xlabel=FOCUS_ACROSS, ylabel=FOCUS_UP)
    axes.set_xlim(0, score.num_tokens)
    axes.set_title(label_of(title, 80))
    bar = figure.colorbar(drawn, ax=axes, extend="max", pad=0.02)
    bar.set_label(f"pairwise focus score (0 to {focus_map.span_length})")
    bar.outline.set_visible(False)
    return settled(figure)
