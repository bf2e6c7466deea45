"""Text from data made harmless, for Markdown, a terminal or a log, and numbers for people.

No name in a card can become a table, a link or HTML, and no access token leaves the machine.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import Any

_ENTITIES = {char: f"&#{ord(char)};" for char in "&<>\"'|`{}$:@\\"}
_BACKSLASHED = set("*_[]()#+!~^=-")
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{16,}")


def cell(value: Any, longest: int = 120) -> str:
    """Text from data as one inert piece of Markdown, for a table cell or a sentence."""
    text = re.sub(r"\s+", " ", str(value)).strip()
    return escape(text if len(text) <= longest else text[: longest - 1] + "…")


def escape(text: str) -> str:
    """No character keeps a meaning in Markdown, HTML or a template; control and direction marks are dropped."""
    shown = []
    for char in re.sub(r"\s+", " ", text):
        category = unicodedata.category(char)
        # The joiner U+200D stays: it holds emoji together.
        if category in ("Cc", "Cs", "Co") or (category == "Cf" and char != "\u200d"):
            continue
        shown.append(_ENTITIES.get(char) or (f"\\{char}" if char in _BACKSLASHED else char))
    return "".join(shown)


def fence(code: str, language: str) -> str:
    """A code block that its content cannot close."""
    longest = max((len(run) for run in re.findall(r"`+", code)), default=0)
    marks = "`" * max(3, longest + 1)
    return f"{marks}{language}\n{code.strip()}\n{marks}"


def redacted(value: Any, token: str | None) -> Any:
    """A JSON-like value without access tokens: neither the given one nor anything that looks like one."""
    if isinstance(value, Mapping):
        return {redacted(str(key), token): redacted(item, token) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [redacted(item, token) for item in value]
    if isinstance(value, str):
        return _TOKEN.sub("hf_***", value.replace(token, "hf_***") if token else value)
    return value


def count(number: float) -> str:
    """A number of tokens for people: 8.2k, 3.1M."""
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.1f}{unit}"
    return f"{number:.0f}"


def duration(seconds: float | None) -> str:
    """A duration for people: 12 s, 3 min, 2 h 05 min, 3 d 4 h."""
    if seconds is None:
        return "?"
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def one_line(text: str, limit: int) -> str:
    """A text from the data on one line of at most `limit` characters, control characters shown as spaces."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
