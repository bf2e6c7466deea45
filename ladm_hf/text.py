"""Text from data made harmless, for Markdown, a terminal or a log; numbers and command lines for people.

No name in a card can become a table, a link or HTML, and no access token leaves the machine.
"""

from __future__ import annotations

import inspect
import re
import shlex
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

_ENTITIES = {char: f"&#{ord(char)};" for char in "&<>\"'|`{}$:@\\"}
_BACKSLASHED = set("*_[]()#+!~^=-")
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{16,}")
# What paths of this machine begin with.
_PLACES = ("/", "~", "file://")
# user:password@ of any URL, and anything before the @ of one that has no other use for it
_USER = re.compile(r"(?<=://)[^/@\s:]*:[^/@\s]*@|(?<=https://)[^/@\s]+@|(?<=http://)[^/@\s]+@")
_SIGNED = re.compile(r"(?i)(?<=[?&])([\w.-]*(?:signature|sig|token|secret|password|credential|key|keyid)=)[^&\s'\"<>]+")
# Parameters of public functions whose option has another name.
OPTIONS = {
    "budget_tokens": "--budget", "shares": "--share", "k": "-k", "create_pr": "--pr", "commit_message": "--message",
    "source_dataset": "--source", "licence": "--license",
}  # fmt: skip
# Parameters that are on by default and whose option turns them off under another name.
OPPOSITES = {"private": "--public"}


def cell(value: Any, longest: int = 120) -> str:
    """Text from data as one inert piece of Markdown, for a table cell or a sentence."""
    text = re.sub(r"\s+", " ", str(value)).strip()
    return escape(shortened(text, longest))


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


def without_credentials(text: str, secrets: Iterable[str] = ()) -> str:
    """A text whose URLs have no password, token or signature left.

    Args:
        text (`str`): a URL, or a message with URLs.
        secrets (iterable of `str`, *optional*): further texts to leave out.
    """
    for secret in secrets:
        text = text.replace(secret, "***")
    return _TOKEN.sub("hf_***", _SIGNED.sub(r"\1***", _USER.sub("***@", text)))


def count(number: float) -> str:
    """A number of tokens for people: 8.2k, 3.1M."""
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.1f}{unit}"
    return f"{number:.0f}"


def counted(number: int, noun: str) -> str:
    """A number with its noun: 1 document, 2,300 documents."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def byte_count(number: float) -> str:
    """A number of bytes for people, in powers of 1000: 812 bytes, 12.3 GB."""
    for size, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if number >= size:
            return f"{number / size:,.1f}".removesuffix(".0") + f" {unit}"
    return f"{number:,.0f} bytes"


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
    return shortened(line, limit)


def shortened(text: str, longest: int) -> str:
    """A text of at most `longest` characters, its end marked where it was cut."""
    return text if len(text) <= longest else text[: longest - 1] + "…"


def command_line(
    command: str, function: Callable[..., Any], arguments: Sequence[Any], values: Mapping[str, Any]
) -> str:
    """The command that has the same effect as a call of a function.

    Args:
        command (`str`): name of the command, e.g. `"select"`.
        function (callable): its signature gives the defaults; a value that equals its default is left out.
        arguments (sequence): positional arguments.
        values (mapping): options by the name of the parameter; `None` is the empty string, where the default is not.
    """
    parameters = inspect.signature(function).parameters
    words: list[str] = []
    for name, value in values.items():
        default = parameters[name].default
        if value != default and not (value in (None, [], ()) and not default):
            words += _option(name, value)
    positional = [str(argument) for argument in arguments]
    # a name that begins with a dash is no option after `--`
    if any(argument.startswith("-") for argument in positional):
        return shlex.join(["ladm", command, *words, "--", *positional])
    return shlex.join(["ladm", command, *positional, *words])


def without_places(commands: str) -> str:
    """Command lines in which paths from the root or home of this machine are only the name of their file or folder."""
    return "\n".join(map(_without_places, commands.splitlines()))


def _without_places(line: str) -> str:
    try:
        words = [] if line.startswith("#") else shlex.split(line)
    except ValueError:
        return line
    at = 0
    for word in words:
        quoted = shlex.quote(word)
        found = line.find(quoted, at)
        if found < 0:
            # quoted in another way than ours
            return shlex.join(map(local_name, words))
        shown = shlex.quote(local_name(word))
        line, at = line[:found] + shown + line[found + len(quoted) :], found + len(shown)
    return line


def local_name(path: str) -> str:
    """The last part of a path from the root or home of this machine, with that before it where it says little alone.

    Other paths and URLs stay as they are.
    """
    if not path.startswith(_PLACES):
        return path
    *before, name = [part for part in path.split("/") if part] or [path]
    return f"{before[-1]}/{name}" if before and (name == "data" or set(name) & set("*?[")) else name


def _option(name: str, value: Any) -> Iterator[str]:
    flag = OPTIONS.get(name, f"--{name.replace('_', '-')}")
    if name in OPPOSITES:
        yield OPPOSITES[name]
    elif isinstance(value, bool):
        yield flag if value else flag.replace("--", "--no-", 1)
    elif name == "length_bands" and not isinstance(value, (int, str)):
        # a comma tells one length that divides bands from a number of bands
        yield from (flag, ",".join(map(str, value)) + "," * (len(value) == 1))
    else:
        for each in _each(value):
            yield from (flag, "" if each is None else str(each))


def _each(value: Any) -> Sequence[Any]:
    if isinstance(value, Mapping):
        return [
            f"{name}={range_text(item) if isinstance(item, (list, tuple)) else item}" for name, item in value.items()
        ]
    return value if isinstance(value, (list, tuple)) else [value]


def range_text(bounds: Sequence[Any]) -> str:
    """`[low, high]` as `low:high`, `None` as an open end."""
    return ":".join("" if bound is None else str(bound) for bound in bounds)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The rows of a table as lines of text, the first column to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *rest in rows:
        cells = (cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))
        lines.append("  ".join([first.ljust(widths[0]), *cells]).rstrip())
    return lines
