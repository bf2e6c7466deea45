"""The style of all figures: 7 inches wide, 700 pixels at 100 dots per inch, and legible at that size.

Colours are those of Okabe and Ito or a perceptually even map, which hold for colour-blind readers and in grey. A figure
carries its alternative text: `figure.get_label()`. No global state of matplotlib is touched, and no window is opened.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from ladm_hf.errors import MissingExtraError
from ladm_hf.text import one_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KEPT, POOL, GROUP, CUT, INK, MUTED = "#0072B2", "#C4C4C4", "#56B4E9", "#D55E00", "#222222", "#595959"
WIDTH = 7.0
_STYLE = {
    "font.family": ["DejaVu Sans"],
    "font.size": 10,
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "text.color": INK,
    "text.usetex": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "legend.frameon": False,
}
F = TypeVar("F", bound=Callable[..., Any])


def matplotlib_module() -> Any:
    """`matplotlib`, loaded at first use.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import matplotlib
        import matplotlib.figure
        import matplotlib.font_manager
        import matplotlib.ticker
    except ImportError as error:
        raise MissingExtraError(
            "figures need matplotlib, which is not installed: pip install 'ladm-hf[plot]'"
        ) from error
    return matplotlib


def styled(function: F) -> F:
    """Draws with this module's style, whatever the user's own is, and leaves that as it was."""

    @functools.wraps(function)
    def draw(*args: Any, **kwargs: Any) -> Any:
        matplotlib = matplotlib_module()
        # asking for the backend would choose one, and load pyplot
        plain = {name: matplotlib.rcParamsDefault[name] for name in matplotlib.rcParamsDefault if name != "backend"}
        with matplotlib.rc_context({**plain, **_STYLE}):
            return function(*args, **kwargs)

    return draw  # type: ignore[return-value]


def new_figure(height: float, alt: str) -> tuple[Figure, Any]:
    """A figure with its alternative text, and its axes."""
    figure: Figure = matplotlib_module().figure.Figure(figsize=(WIDTH, height), layout="constrained", dpi=100)
    figure.set_label(alt)
    return figure, figure.add_subplot()


def settled(figure: Figure) -> Figure:
    """Fixes ticks and layout while the style holds, so that saving a figure twice gives the same picture."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    return figure


@functools.cache
def _drawable() -> frozenset[int]:
    """Characters that the font has."""
    fonts = matplotlib_module().font_manager
    return frozenset(fonts.get_font(fonts.findfont("DejaVu Sans")).get_charmap())


def label_of(name: str, limit: int = 26) -> str:
    """A name from the data as matplotlib can draw it: one line, no mathematics, no missing characters."""
    return "".join(c if ord(c) in _drawable() else "\ufffd" for c in one_line(name, limit)).replace("$", r"\$")


def add_legend(figure: Any, axes: Any) -> None:
    """One entry for each label, below the drawing, where it covers nothing."""
    handles, labels = axes.get_legend_handles_labels()
    entries = dict(zip(labels, handles, strict=True))
    if entries:
        figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=len(entries))


@styled
def to_png(figure: Figure, *, dpi: int = 200) -> bytes:
    """A figure as PNG, twice 700 pixels wide by default; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()
