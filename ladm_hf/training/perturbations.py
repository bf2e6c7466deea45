"""Text that keeps its words and loses what binds it: units in another order, names that no longer return.

    shuffled:  sentences, lines, paragraphs, stretches or words of a text in random order
    renamed:   names or identifiers replaced by others, each the same way throughout the text

Both are functions of the text and a NumPy generator alone. They make the windows that a calculator learns to tell from
natural ones, and the minimal pairs of the quality benchmark.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import numpy as np

Unit = Literal["sentence", "line", "paragraph", "stretch", "word"]
UNITS: tuple[Unit, ...] = ("sentence", "line", "paragraph", "stretch", "word")
# Fewer units than this are no order to lose: a text without them is cut into stretches instead.
MIN_UNITS = 6
STRETCH_CHARS = 400

_BREAKS = {
    "sentence": re.compile(r"(?<=[.!?])(\s+)|(?<=[.!?][\"')\]”’])(\s+)"),
    "line": re.compile(r"(\n+)"),
    "paragraph": re.compile(r"(\n[ \t]*\n\s*)"),
    "word": re.compile(r"(\s+)"),
}
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{2,}")
_NAME = re.compile(r"(?<=[a-z,;] )[A-Z][a-z]{2,}")
_SYMBOLS = re.compile(r"[{}();=<>\[\]_]")
# More of these characters than this share make a text a program.
_CODE_SHARE = 0.025
_KEYWORDS = frozenset(
    "abstract alignas alignof and any array as assert async await auto bool boolean break byte case catch char class "
    "const continue debug def default define defer del delete dict do double dyn elif else elseif end endif enum "
    "error except export extends extern false file final finally float fn for foreach from func function global go "
    "goto if ifdef ifndef impl implements import in include inline instanceof int interface is lambda let list local "
    "long loop map match mod module move mut namespace new nil none None not null nullptr object of or override "
    "package pass print private protected pub public raise range ref register require return self Self set short "
    "signed sizeof static str string String struct super switch template then this throw throws trait true True "
    "False try type typedef typename typeof uint undefined union unless unsafe unsigned until use using val var "
    "vector virtual void volatile when where while with yield the The that This for are was not and".split()
)
_ONSETS = "b br c ch d dr f fl g gr h j k l m n p pr qu r s sh st t th tr v w z".split()
_VOWELS = "a e i o u ai ea ie oo ou".split()
_CODAS = ["", "", "", "l", "m", "n", "r", "s", "t", "x"]


def split_units(text: str, unit: Unit) -> tuple[list[str], list[str]]:
    """Units of a text and what stands between them: `units[0] + gaps[0] + units[1] + ...` is the text again.

    Args:
        text (`str`): any text.
        unit (`str`): `"sentence"`, `"line"`, `"paragraph"`, `"stretch"` (of 400 characters, cut at white space) or
            `"word"`.
    """
    if unit == "stretch":
        inner = {_next_space(text, start) for start in range(STRETCH_CHARS, len(text), STRETCH_CHARS)}
        units = [text[start:stop] for start, stop in pairwise(sorted({0, *inner, len(text)}))]
        return units or [text], [""] * max(len(units) - 1, 0)
    units, gaps, start = [], [], 0
    for found in _BREAKS[unit].finditer(text):
        # white space at either end belongs to the unit there
        if found.start() > start and found.end() < len(text):
            units.append(text[start : found.start()])
            gaps.append(found.group())
            start = found.end()
    return [*units, text[start:]], gaps


def _next_space(text: str, start: int) -> int:
    found = re.search(r"\s", text[start : start + 200])
    return start + found.start() if found else start


def shuffled(text: str, unit: Unit, rng: np.random.Generator, gap: str | None = None) -> str:
    """The text with its units in random order.

    Args:
        text (`str`): any text.
        unit (`str`): see [`split_units`]. A text of fewer than six of them is cut into stretches.
        rng (`numpy.random.Generator`): of the order.
        gap (`str`, *optional*): what to put between units; by default what stood between them, in its own order.
    """
    units, gaps = split_units(text, unit)
    if len(units) < MIN_UNITS:
        units, gaps = split_units(text, "stretch")
    first, *rest = (units[index] for index in rng.permutation(len(units)).tolist())
    between = gaps if gap is None else [gap] * len(gaps)
    return str(first) + "".join(space + piece for space, piece in zip(between, rest, strict=True))


def is_code(text: str) -> bool:
    """Whether a text looks like a program: the share of brackets, `=`, `;` and `_` among its characters."""
    sample = text[:20_000]
    return len(_SYMBOLS.findall(sample)) > _CODE_SHARE * max(len(sample), 1)


def names_of(text: str) -> list[str]:
    """Names that return in a text, most frequent first: identifiers of a program, proper names of prose."""
    if is_code(text):
        found = Counter(word for word in _IDENTIFIER.findall(text) if word not in _KEYWORDS)
    else:
        found = Counter(_NAME.findall(text))
        words = set(re.findall(r"\b[a-z]{3,}\b", text))
        found = Counter({name: count for name, count in found.items() if name.lower() not in words})
    return [name for name, count in found.most_common() if count > 1]


def identifiers(text: str) -> set[str]:
    """What `renamed` may replace in a text: its identifiers, and the words of prose that could be names."""
    return set(_IDENTIFIER.findall(text))


def renamed(text: str, names: Sequence[str], rng: np.random.Generator, others: Sequence[str] = ()) -> str:
    """The text with each of these names replaced by a name of its own, the same wherever it occurs.

    The new names depend on `names`, `others` and the generator alone, so that parts of one document can be renamed
    alike.

    Args:
        text (`str`): any text.
        names (sequence of `str`): what to replace, see [`names_of`].
        rng (`numpy.random.Generator`): of the new names.
        others (sequence of `str`, *optional*): names of another document, which half of the draws use, as far as they
            reach. Other new names are made up, in the case and with the underscores of the old ones; in a tenth of the
            draws identifiers become a letter and a number, as decompilers name them.
    """
    used = set(names)
    spare = [name for name in dict.fromkeys(others) if name not in used]
    rng.shuffle(spare)
    style = rng.random()
    table: dict[str, str] = {}
    for name in names:
        if spare and style < 0.5:
            new = spare.pop()
        elif style > 0.9 and ("_" in name or name.islower()):
            new = f"{'abcdefgv'[int(rng.integers(8))]}{int(rng.integers(1000))}"
        else:
            new = made_up(name, rng)
        while new in used:
            new += _VOWELS[int(rng.integers(5))]
        used.add(new)
        table[name] = new
    return _IDENTIFIER.sub(lambda found: table.get(found.group(), found.group()), text)


def made_up(name: str, rng: np.random.Generator) -> str:
    """A pronounceable word in the case, and with the underscores and inner capitals, of a name."""
    parts = re.findall(r"_+|[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+", name) or [name]
    return "".join(_made_up_part(part, rng) for part in parts)


def _made_up_part(part: str, rng: np.random.Generator) -> str:
    if part[0] == "_" or part[0].isdigit():
        return part
    count = 1 if len(part) < 4 else 2 if len(part) < 8 else 3
    pick = rng.random((count, 3))
    word = "".join(
        _ONSETS[int(a * len(_ONSETS))] + _VOWELS[int(b * len(_VOWELS))] + _CODAS[int(c * len(_CODAS))]
        for a, b, c in pick.tolist()
    )
    if part.isupper():
        return word.upper()
    return word.capitalize() if part[0].isupper() else word
