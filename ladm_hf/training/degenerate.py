"""Random degenerate text: tables, logs, JSON, generated code and the like, for training and for calibration.

Such text is worth no place in a training set, yet every span of it looks like every other, so that a score of
dependency which was never shown any ranks it first. Nothing here comes from a corpus: words are made up or come from
two short lists, and what a document keeps throughout (its words, columns, formats, templates) is drawn before its first
line.
"""

from __future__ import annotations

import base64
import itertools
import json
import re
from collections.abc import Callable, Iterator
from functools import partial
from random import Random
from typing import Any

import numpy as np

from ladm_hf.errors import ConfigError
from ladm_hf.training.templates import (
    FIELDS,
    LETTERS,
    SCRIPTS,
    VALUES,
    Field,
    Style,
    records,
    sentence_pattern,
    tables,
    template,
)

# A kind is a function from a style to the pieces of a document without end.


def _of_table(style: Style, name: str, most: int) -> Iterator[str]:
    """Records of a few templates of one section."""
    chosen = style.random.sample(tables()[name], k=style.random.randint(1, most))
    return records(style, chosen, style.random.choice((0, 0.7, 0.95)))


def _columns(style: Style) -> list[Field]:
    """Fields of a row, some of which are missing at times."""
    number = style.random.choice(("integer", "decimal", "walk", "real"))
    few = ((number,), (number, number, "choice"), ("word", "title", number), ("choice", "integer", "code"))
    kinds = style.random.choice((VALUES, *few))
    missing = style.random.choice(("", "NA", "-", "null", "0", "?", "NaN"))

    def column() -> Field:
        field, rate = FIELDS[style.random.choice(kinds)](style), style.random.choice((0, 0, 0, 0.1, 0.6))
        return lambda row: missing if style.random.random() < rate else field(row)

    key = [FIELDS[style.random.choice(("counter", "date", "stamp", "title", "code"))](style)]
    count = style.random.randint(1, style.random.choice((3, 8, 20)))
    return key * style.random.choice((0, 1, 1)) + [column() for _ in range(count)]


def _table(style: Style) -> Iterator[str]:
    columns = _columns(style)
    layout = style.random.choice(("csv", "csv", "csv", "tsv", "fixed", "fixed", "pipe"))
    separators = {
        "csv": style.random.choice((",", ",", ";", "|", ", ")),
        "tsv": "\t",
        "fixed": " " * style.random.randint(1, 3),
    }
    separator = separators.get(layout, " | ")
    widths = [max(4, *(len(column(row)) for row in range(9))) for column in columns]
    quoted, right = style.random.random() < 0.2, style.random.random() < 0.6

    def line(cells: list[str]) -> str:
        if layout in ("fixed", "pipe"):
            cells = [
                cell.rjust(width) if right else cell.ljust(width) for cell, width in zip(cells, widths, strict=True)
            ]
        elif layout == "csv":
            cells = [f'"{cell}"' if quoted or separator in cell else cell for cell in cells]
        return f"| {separator.join(cells)} |\n" if layout == "pipe" else separator.join(cells) + "\n"

    if style.random.random() < 0.3:
        yield from (f"{style.random.choice('#!%;')} {style.sentence()}\n" for _ in range(style.random.randint(1, 5)))
    if style.random.random() < 0.8:
        yield line([style.name() for _ in columns])
    if layout == "pipe":
        yield line(["-" * width for width in widths])
    yield from (line([column(row) for column in columns]) for row in itertools.count())


def _log(style: Style) -> Iterator[str]:
    head = style.random.choice((*tables()["log_heads"], ""))
    messages = [sentence_pattern(style) for _ in range(style.random.choice((0, 3, 12, 40)))]
    messages += style.random.sample(tables()["log_lines"], k=style.random.randint(1, 6))
    style.random.shuffle(messages)
    # indented lines go on from the line before
    lines = [message if message.startswith("  ") else f"{head} {message}".strip() for message in messages]
    return records(style, lines, style.random.choice((0, 0.5)))


def _json_value(style: Style, depth: int) -> Callable[[int], Any]:
    """A maker of values of one random shape."""
    shape = style.random.choice(("object", "array", "leaf", "leaf") if depth else ("leaf",))
    if shape == "object":
        members = {style.name(): _json_value(style, depth - 1) for _ in range(style.random.randint(1, 7))}
        rate = style.random.choice((0, 0, 0.3))
        return lambda row: {key: make(row) for key, make in members.items() if style.random.random() >= rate}
    if shape == "array":
        item, most = _json_value(style, depth - 1), style.random.choice((2, 3, 10))
        return lambda row: [item(row) for _ in range(style.random.randint(1, most))]
    if style.random.random() < 0.4:
        scale, places = 10 ** style.random.uniform(0, 6), style.random.choice((0, 1, 4, 12))
        return lambda row: (
            round(style.random.gauss(0, scale), places) if places else style.random.randrange(int(scale) + 1)
        )
    if style.random.random() < 0.15:
        return lambda row: style.random.choice((True, False, None))
    return FIELDS[style.random.choice((*VALUES, "sentence", "text"))](style)


def _map_feature(style: Style) -> Callable[[int], Any]:
    """Polygons of a map, as GeoJSON has them."""
    centre = style.random.uniform(-180, 180), style.random.uniform(-90, 90)
    places, label, size = style.random.randint(2, 14), _json_value(style, 1), style.random.choice((3, 20, 400))

    def make(row: int) -> Any:
        ring = [[round(axis + style.random.gauss(0, 0.2), places) for axis in centre] for _ in range(size)]
        geometry = {"type": "Polygon", "coordinates": [ring]}
        return {"type": "Feature", "properties": {"id": row, "data": label(row)}, "geometry": geometry}

    return make


def _json(style: Style) -> Iterator[str]:
    """A long array, an object by key, an object a line, or a map."""
    layout, indent = style.random.choice(("array", "keys", "lines", "map")), style.random.choice((None, 1, 2, 4))
    make = _map_feature(style) if layout == "map" else _json_value(style, style.random.randint(1, 4))
    if layout == "lines":
        for row in itertools.count():
            yield json.dumps({"id": row, style.words[0]: make(row)}, ensure_ascii=False) + "\n"
    kind = style.random.choice(("name", "uuid", "code", "path", "counter"))
    key = template(style, f'"{{{kind}}}": ' if layout == "keys" else "")
    yield {"keys": "{\n", "map": '{"type": "FeatureCollection", "features": [\n'}.get(layout, "[\n")
    for row in itertools.count():
        yield key(row) + json.dumps(make(row), indent=indent, ensure_ascii=False) + ",\n"


def _xml(style: Style) -> Iterator[str]:
    """Elements of a few shapes, or the shapes of a drawing."""

    def element(depth: int) -> str:
        tag, margin = style.name(), "  " * (4 - depth)
        values = style.random.choices(VALUES, k=style.random.choice((1, 1, 2, 4)))
        start = tag + "".join(f' {style.name()}="{{{value}}}"' for value in values[1:])
        if not depth or style.random.random() < 0.3:
            return f"{margin}<{start}>{{{values[0]}}}</{tag}>\n"
        inner = "".join(element(depth - 1) for _ in range(style.random.randint(1, 5)))
        return f"{margin}<{start}>\n{inner}{margin}</{tag}>\n"

    if style.random.random() < 0.25:
        yield '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 900 900">\n'
        yield from records(style, style.random.sample(tables()["shapes"], k=2), 0.5)
    yield f'<?xml version="1.0" encoding="UTF-8"?>\n<{style.name()}>\n'
    elements = [element(style.random.randint(0, 3)).rstrip("\n") for _ in range(style.random.randint(1, 4))]
    yield from records(style, elements, 0)


def _list(style: Style) -> Iterator[str]:
    """Words or names, one a line or many, in order or not."""
    entry = template(style, style.random.choice(tables()["list"]))
    separator, ordered = style.random.choice(("\n", "\n", "\n", ", ", " ", "|")), style.random.random() < 0.5
    for start in itertools.count(0, 400):
        block = [entry(start + row) for row in range(400)]
        yield from (item + separator for item in (sorted(block) if ordered else block))


def _minified(style: Style) -> Iterator[str]:
    """Scripts of short names and style sheets, both without white space."""
    letters = LETTERS + "ABCDEFG_$"
    names = [*letters, *(a + b for a in letters for b in letters)][: style.random.choice((20, 60, 500))]
    expressions = style.random.sample(tables()["expressions"], k=style.random.randint(6, 20))
    statements = style.random.sample(tables()["statements"], k=style.random.randint(3, 12))
    if style.random.random() < 0.2:
        statements = style.random.sample(tables()["rules"], k=3)
    deepest = style.random.randint(1, 4)

    def part(mark: str, depth: int) -> str:
        if mark == "@":
            nested = depth > 0 and style.random.random() < 0.8
            return fill(style.random.choice(expressions if nested else tables()["leaves"]), depth - 1)
        if mark == "~":
            return str(style.pick(names, 1.5))
        return str(style.random.randrange(300)) if mark == "#" else style.name() if mark == "%" else style.word()

    def fill(pattern: str, depth: int) -> str:
        return re.sub("[@~%^#]", lambda mark: part(mark[0], depth), pattern)

    while True:
        yield fill(style.random.choice(statements), style.random.randint(0, deepest))


def _blob(style: Style) -> Iterator[str]:
    """Bytes and numbers as text: hexadecimal, base64, dumps with addresses, sequences, arrays, armoured blocks."""
    width, repeat = style.random.choice((16, 32, 60, 64, 76, 4000)), style.random.choice((0, 0, 0.3, 0.9))
    alphabet = style.random.choice(("ACGT", "acgtn", "ACDEFGHIKLMNPQRSTVWY", "01", ".#", "0123456789"))
    number = FIELDS[style.random.choice(("integer", "decimal", "small", "real", "hex"))](style)
    per_line, separator = style.random.choice((1, 4, 8, 20)), style.random.choice((" ", ","))
    title = template(style, ">{=word}|{code}|{phrase}")
    begin, end = (f"-----{word} {style.name().upper()}-----" for word in ("BEGIN", "END"))
    lines: dict[str, Callable[[int, bytes], str]] = {
        "hex": lambda row, data: data.hex(),
        "base64": lambda row, data: base64.b64encode(data).decode(),
        "dump": lambda row, data: f"{row * 16:08x}  {data[:8].hex(' ')}  {data[8:16].hex(' ')}  |{_shown(data[:16])}|",
        "letters": lambda row, data: (
            "".join(alphabet[byte % len(alphabet)] for byte in data) if row % 30 else title(row)
        ),
        "numbers": lambda row, data: separator.join(number(row) for _ in range(per_line)),
        "bytes": lambda row, data: "  " + ", ".join(f"0x{byte:02x}" for byte in data[:12]) + ",",
        "armour": lambda row, data: base64.b64encode(data[:48]).decode() if row % 20 else f"{end}\n{begin}",
    }
    line, data = lines[style.random.choice(list(lines))], style.random.randbytes(width)
    for row in itertools.count():
        data = data if style.random.random() < repeat else style.random.randbytes(width)
        yield line(row, data) + "\n"


def _shown(data: bytes) -> str:
    return "".join(chr(byte) if 32 < byte < 127 else "." for byte in data)


def _templated(style: Style) -> Iterator[str]:
    """Sentences with varying fields: notices, form letters, the weather of every day."""
    count, end = style.random.choice((1, 2, 4, 10)), style.random.choice(("\n", " ", "\n\n"))
    block = [template(style, sentence_pattern(style).capitalize() + "." + end) for _ in range(count)]
    ordered = style.random.random() < 0.6
    for row in itertools.count():
        yield from (fill(row) for fill in (block if ordered else style.random.choices(block, k=count)))
        yield "\n" * (end == " ")


def _repeated(style: Style) -> Iterator[str]:
    """A few paragraphs of prose again and again, now and then with a word changed."""
    paragraphs = [style.text(12) for _ in range(style.random.choice((1, 3, 8, 25)))]
    changes, ordered = style.random.choice((0, 0, 0.02, 0.1)), style.random.random() < 0.5
    while True:
        for text in paragraphs if ordered else style.random.choices(paragraphs, k=len(paragraphs)):
            yield (
                " ".join(style.word() if style.random.random() < changes else word for word in text.split(" ")) + "\n\n"
            )


def _translation(style: Style) -> Iterator[str]:
    """A catalogue of messages: the words of one script, then of another."""
    other, longest = Style(style.random, style.random.choice(list(SCRIPTS))), style.random.choice((3, 8, 20))
    frame = template(style, style.random.choice(tables()["translation"]).replace("{a}", "\0").replace("{b}", "\1"))
    for row in itertools.count():
        message, translated = style.phrase(1, longest).capitalize(), other.phrase(1, longest).capitalize()
        yield frame(row).replace("\0", message).replace("\1", translated) + "\n"


_WRITERS: dict[str, Callable[[Style], Iterator[str]]] = {
    "table": _table, "log": _log, "json": _json, "xml": _xml, "list": _list, "minified": _minified, "blob": _blob,
    "templated": _templated, "repeated": _repeated, "translation": _translation,
    "config": partial(_of_table, name="config", most=4), "generated": partial(_of_table, name="generated", most=3),
    "changelog": partial(_of_table, name="changelog", most=4), "expected": partial(_of_table, name="expected", most=4),
    "index": partial(_of_table, name="index", most=3),
}  # fmt: skip
KINDS = tuple(_WRITERS)


def degenerate_text(kind: str, num_chars: int, rng: np.random.Generator) -> str:
    """One random document of a degenerate kind.

    Args:
        kind (`str`): one of `KINDS`.
        num_chars (`int`): characters of the text, at least 1; its last line is cut there.
        rng (`numpy.random.Generator`): where all randomness comes from; one state gives one text.

    Returns:
        `str` of exactly `num_chars` characters.

    Raises:
        ConfigError: the kind is not known, or `num_chars` is not positive.
    """
    if kind not in _WRITERS:
        raise ConfigError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    if num_chars < 1:
        raise ConfigError(f"num_chars must be at least 1, got {num_chars}")
    pieces: list[str] = []
    missing = num_chars
    for piece in _WRITERS[kind](Style(Random(int(rng.integers(2**63))))):
        pieces.append(piece)
        missing -= len(piece)
        if missing <= 0:
            break
    return "".join(pieces)[:num_chars]
