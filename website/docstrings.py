"""Docstrings in the grammar of the Hugging Face libraries, as Markdown.

    name (`int`, *optional*, defaults to `128`): what it is

becomes an item of a list; [`LadmConfig`] becomes a link to its place in the reference.
"""

from __future__ import annotations

import importlib
import inspect
import re
from typing import Any

import griffe

SECTION = re.compile(r"^(Args|Attributes|Returns|Yields|Raises):\n((?:(?: +[^\n]*)?\n?)*)", re.M)
TITLES = {"Args": "Parameters"}
ITEM = re.compile(r"^(?P<name>[\w.*]+(?:, [\w.*]+)*)(?: \((?P<kind>(?:[^()]|\([^()]*\))*)\))?:(?: |$)")
REFERENCE = re.compile(r"\[`([\w.]+)`\](?![(\[])")


class HuggingFaceDocstrings(griffe.Extension):
    """Rewrites every docstring once it is read."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = markdown(inspect.cleandoc(obj.docstring.value))


def markdown(docstring: str) -> str:
    """A docstring with its sections as lists and its references as links."""
    return REFERENCE.sub(_link, SECTION.sub(_section, docstring + "\n"))


def _section(match: re.Match[str]) -> str:
    """A section as a bold heading and a list, or a paragraph where it has no names."""
    title, body = match[1], inspect.cleandoc("\n" + match[2])
    lines = []
    for line in body.splitlines():
        item = ITEM.match(line) if title not in ("Returns", "Yields") else None
        if item is None:
            lines.append(line)
            continue
        names = ", ".join(f"**`{name}`**" for name in item["name"].split(", "))
        kind = f" ({item['kind']})" if item["kind"] else ""
        lines.append(f"- {names}{kind}:\n    {line[item.end() :]}".rstrip())
    return f"**{TITLES.get(title, title)}**\n\n" + "\n".join(lines) + "\n\n"


def _link(match: re.Match[str]) -> str:
    home = _homes().get(match[1])
    return f"[`{match[1]}`][{home}]" if home else f"`{match[1]}`"


def _homes() -> dict[str, str]:
    """Where each public name is defined."""
    found = {}
    for module in ("ladm_hf.training", "ladm_hf"):
        for name, home in importlib.import_module(module)._HOMES.items():
            found[name] = f"{home if home.startswith('ladm_hf') else f'{module}.{home}'}.{name}"
    from ladm_hf import errors

    return found | {name: f"ladm_hf.errors.{name}" for name, value in vars(errors).items() if isinstance(value, type)}
