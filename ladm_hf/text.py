"""Text from data as Markdown that does nothing: no name in a card can become a table, a link or HTML."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

_ENTITIES = {char: f"&#{ord(char)};" for char in "&<>\"'|`{}$:@\\"}
_BACKSLASHED = set("*_[]()#+!~^=-")


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
