"""What pages are made of: figures as part of a page, openings of documents, and templates."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ladm_hf.report.style import to_png
from ladm_hf.text import shortened
from ladm_hf.version import __version__

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OPENING_CHARS = 500


@dataclass(frozen=True)
class Picture:
    """A drawn figure, as file and as part of the page."""

    name: str
    title: str
    caption: str
    png: bytes
    alt: str

    @property
    def src(self) -> str:
        return "data:image/png;base64," + base64.b64encode(self.png).decode("ascii")


def draw(figure: Figure, name: str, title: str, caption: str) -> Picture:
    return Picture(name, title, caption, to_png(figure), str(figure.get_label()))


def opening(text: str) -> str:
    """The beginning of a text, characters that a page cannot show replaced."""
    start = text.strip()[: OPENING_CHARS + 1].replace("\r\n", "\n")
    return shortened("".join(c if c.isprintable() or c in "\n\t" else " " for c in start), OPENING_CHARS)


def render(template: str, **values: Any) -> str:
    """A template of this folder with its values, which are escaped."""
    import jinja2

    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.get_template(template).render(version=__version__, **values)
