"""Lines made from templates: the words of a document, the fields of a record, and the patterns that they fill.

`templates.txt` beside this module holds lists of words and templates, and says how a template is filled.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from importlib.resources import files
from random import Random
from typing import Any

# The number of a record -> its value.
Field = Callable[[int], str]
# Onsets, vowels and codas of made-up words; `_` is none.
SCRIPTS = {
    "latin": (
        "b c d f g h j k l m n p r s t v w z br ch cl cr dr fl gr pl sh st th tr",
        "a e i o u ai ea io ou",
        "_ _ _ n r s t l m x nd st ck",
    ),
    "accented": (
        "b c č d f g h ł k m n ñ p r ř s š t v z ž pr tr",
        "a á e é ê è ë i í o ó ö ø u ü ű y å ã",
        "_ n r ß m",
    ),
    "cyrillic": ("б в г д ж з к л м н п р с т ф х ц ч ш пр ст тр", "а е и о у ы ю я", "_ _ н р с т л й м ть"),
    "greek": ("β γ δ ζ θ κ λ μ ν ξ π ρ σ τ φ χ ψ", "α ε η ι ο υ ω ά έ ή ί ό ου", "_ _ ν ς ρ"),
    "kana": (
        "_",
        "あ い う え お か き く け こ さ し す た ち つ て と な に の は ま も や ら り る れ を 日 本 語 東 時",
        "_ ん",
    ),
}
LETTERS = "abcdefghijklmnopqrstuvwxyz"
_BASE64 = LETTERS.upper() + LETTERS + "0123456789+/"


@functools.cache
def tables() -> dict[str, tuple[str, ...]]:
    """The words and templates of `templates.txt` by section."""
    text = files("ladm_hf.training").joinpath("templates.txt").read_text(encoding="utf-8")
    sections = (section.split("\n", 1) for section in text.split("\n== ")[1:])
    return {
        name: tuple(body.split()) if "\n--\n" not in body else tuple(body.rstrip("\n").split("\n--\n"))
        for name, body in sections
    }


class Style:
    """What one document keeps throughout: its words, the case of its names and its clock."""

    def __init__(self, random: Random, script: str = "latin") -> None:
        self.random = random
        onsets, vowels, codas = (part.replace("_", "").split(" ") for part in SCRIPTS[script])
        onsets = random.sample(onsets, k=(len(onsets) + 1) // 2)

        def made_up() -> str:
            syllables = (
                random.choice(onsets) + random.choice(vowels) for _ in range(random.choice((1, 2, 2, 3, 3, 4)))
            )
            return "".join(syllables) + random.choice(codas)

        words = [made_up() for _ in range(random.choice((15, 60, 250, 1200)))]
        if script == "latin":
            for real in (tables()["english"], tables()["programming"]):
                words += random.sample(real, k=int(len(real) * random.choice((0, 0.2, 1))))
        self.words = random.sample(words, k=len(words))
        self.skew = random.uniform(1, 3)
        self.case = random.choice(("snake", "snake", "camel", "pascal", "kebab", "upper", "dot", "plain"))
        self.start = random.uniform(4e8, 1.9e9)
        self.step = 10 ** random.uniform(-1, 5)

    def pick(self, items: Sequence[Any], skew: float) -> Any:
        """One of the items, the first the most frequent."""
        return items[int(len(items) * self.random.random() ** skew)]

    def word(self) -> str:
        return str(self.pick(self.words, self.skew))

    def phrase(self, low: int, high: int) -> str:
        return " ".join(self.word() for _ in range(self.random.randint(low, high)))

    def name(self) -> str:
        """An identifier of one to three words."""
        parts = [self.word() for _ in range(self.random.choice((1, 2, 2, 3)))]
        if self.case in ("camel", "pascal"):
            joined = "".join(part.capitalize() for part in parts)
            return joined if self.case == "pascal" else joined[:1].lower() + joined[1:]
        joined = {"kebab": "-", "dot": ".", "plain": ""}.get(self.case, "_").join(parts)
        return joined.upper() if self.case == "upper" else joined

    def sentence(self) -> str:
        """Words of the document between the most common ones of English."""
        common = tables()["english"][:60]
        words = [self.word() if self.random.random() < 0.6 else self.random.choice(common) for _ in range(22)]
        return " ".join(words[: self.random.randint(4, 22)]).capitalize() + "."

    def text(self, most: int) -> str:
        return " ".join(self.sentence() for _ in range(self.random.randint(1, most)))


# Fields: a style -> the values of one column or slot


def _integer(style: Style) -> Field:
    top = int(10 ** style.random.uniform(0.5, 8))
    form = style.random.choice(("{}", "{}", "{}", "{:,}", "{:06d}", "{:>8}"))
    return lambda row: form.format(style.random.randrange(top))


def _decimal(style: Style) -> Field:
    mean, form = 10 ** style.random.uniform(-2, 5), f"{{:.{style.random.randint(1, 8)}{style.random.choice('fffe')}}}"
    spread, sign = mean * style.random.uniform(0.01, 1), style.random.choice((1, 1, -1))
    return lambda row: form.format(sign * style.random.gauss(mean, spread))


def _walk(style: Style) -> Field:
    """A series whose next value lies near the last."""
    places, step, start = style.random.randint(0, 5), 10 ** style.random.uniform(-2, 1), style.random.uniform(0, 1000)
    state = itertools.accumulate(itertools.chain([start], (style.random.gauss(0, step) for _ in itertools.count())))
    return lambda row: f"{next(state):.{places}f}"


def _counter(style: Style) -> Field:
    start, step = style.random.choice((0, 1, style.random.randrange(100_000))), style.random.choice((1, 1, 1, 2, 10))
    form = style.random.choice(("{}", "{}", "{:04d}", "{:5d}", "{:#x}"))
    return lambda row: form.format(start + step * row)


def _time(style: Style, forms: str, coarsest: float, ordered: float) -> Field:
    form, step = style.random.choice(tables()[forms]), min(style.step * coarsest, 86_400 * 30)
    in_order = style.random.random() < ordered

    def value(row: int) -> str:
        seconds = style.start + step * (row % 50_000 + style.random.random()) if in_order else style.start
        seconds *= 1 if in_order else style.random.uniform(0.5, 1.1)
        return str(int(seconds)) if form == "%s" else datetime.fromtimestamp(seconds, UTC).strftime(form)

    return value


def _choice(style: Style) -> Field:
    """One of a few labels."""
    label = template(style, f"{{{style.random.choice(('word', 'name', 'code', 'NAME', 'phrase'))}}}")
    values, skew = [label(0) for _ in range(style.random.choice((2, 3, 5, 12, 40)))], style.random.uniform(1, 3)
    return lambda row: str(style.pick(values, skew))


def _characters(style: Style, alphabet: str, low: int, high: int) -> Field:
    """Random characters of an alphabet, as many in every value."""
    length = style.random.randint(low, high)
    return lambda row: "".join(style.random.choices(alphabet, k=length))


def _compound(style: Style, patterns: Sequence[str]) -> Field:
    return template(style, style.random.choice(patterns))


def _path(style: Style) -> Field:
    depths = [style.random.randint(1, 5) for _ in range(style.random.choice((3, 30)))]
    folders = ["/".join(style.name() for _ in range(depth)) for depth in depths]
    endings = style.random.sample((".py", ".c", ".h", ".js", ".txt", ".json", ".so", ".cpp", ".html", "", ".png"), k=3)
    lead = style.random.choice(("/", "", "./", "/usr/", "C:/", "src/"))
    return lambda row: f"{lead}{style.random.choice(folders)}/{style.name()}{style.random.choice(endings)}"


def _truth(style: Style) -> Field:
    pair = style.random.choice((("true", "false"), ("Y", "N"), ("0", "1"), ("", "x")))
    return lambda row: str(style.random.choice(pair))


_DIGITS = "0123456789"
_CHARACTERS = {
    "hex": (f"{_DIGITS}abcdef", 2, 16),
    "digest": (f"{_DIGITS}abcdef", 32, 64),
    "bits": ("01", 4, 32),
    "key": (_BASE64, 16, 60),
    "code": (LETTERS.upper() + _DIGITS, 2, 10),
    "digit": (_DIGITS, 1, 1),
    "small": (_DIGITS, 1, 3),
}
# Fields that are templates themselves, one of several by document.
_COMPOUND = {
    "real": ("{small}.{small}", "{decimal}", "-{small}.{digit}", "{walk}"),
    "address": ("{small}.{small}.{small}.{small}", "10.0.{digit}.{small}", "{hex}:{hex}::{digit}"),
    "version": ("{digit}.{small}.{digit}", "{digit}.{digit}", "{digit}.{small}-{=word}{digit}"),
    "mail": ("{word}@{=word}.com", "{word}.{word}@{word}.org", "{Title} <{word}@{=word}.net>"),
    "link": ("https://{=word}.com/{name}/{integer}", "http://{word}.org/{word}", "/{word}?{=word}={integer}"),
    "uuid": ("{hex}-{hex}-{hex}-{hex}",),
    "quantity": ("{real} {choice}", "{small}%", "${integer}", "{integer} ms", "{small}kB"),
}
FIELDS: dict[str, Callable[[Style], Field]] = {
    "integer": _integer,
    "decimal": _decimal,
    "walk": _walk,
    "counter": _counter,
    "choice": _choice,
    "path": _path,
    "truth": _truth,
    "stamp": partial(_time, forms="stamps", coarsest=1, ordered=1.0),
    "date": partial(_time, forms="dates", coarsest=86_400, ordered=0.6),
    "word": lambda style: lambda row: style.word(),
    "name": lambda style: lambda row: style.name(),
    "title": lambda style: lambda row: style.phrase(1, 4).title(),
    "phrase": lambda style: lambda row: style.phrase(1, 6),
    "sentence": lambda style: lambda row: style.sentence(),
    "text": lambda style: lambda row: style.text(4),
    **{kind: partial(_characters, alphabet=chars, low=a, high=b) for kind, (chars, a, b) in _CHARACTERS.items()},
    **{kind: partial(_compound, patterns=patterns) for kind, patterns in _COMPOUND.items()},
}
VALUES = tuple(kind for kind in FIELDS if kind not in ("text", "digit", "truth", "sentence"))


def template(style: Style, pattern: str) -> Field:
    """Fills a pattern, as `templates.txt` tells."""
    literals = re.split(r"\{=?\w+(?:\.\w+)?\}", pattern)
    fields: list[tuple[str, Field, Callable[[str], str]]] = []
    for fixed, kind, label in re.findall(r"\{(=?)(\w+)(?:\.(\w+))?\}", pattern):
        field = FIELDS[kind.lower()](style)
        if fixed:
            field = partial(lambda value, row: value, field(0))
        case = str.upper if kind.isupper() else _capital if kind[0].isupper() else str
        fields.append((label or f"-{len(fields)}", field, case))

    def fill(row: int) -> str:
        known: dict[str, str] = {}
        text = literals[0]
        for (label, field, case), literal in zip(fields, literals[1:], strict=True):
            if label not in known:
                known[label] = field(row)
            text += case(known[label]) + literal
        return text

    return fill


def _capital(value: str) -> str:
    return value[:1].upper() + value[1:]


def records(style: Style, patterns: Sequence[str], repeat: float) -> Iterator[str]:
    """Records of several templates, the first the most frequent; one template may come several times in a row."""
    skew, fills = style.random.uniform(1, 3), [template(style, pattern) for pattern in patterns]
    current = fills[0]
    for row in itertools.count():
        if style.random.random() >= repeat:
            current = style.pick(fills, skew)
        yield current(row) + "\n"


def sentence_pattern(style: Style) -> str:
    """A sentence of fixed words with a few fields in it."""
    words = style.phrase(3, 20).split(" ")
    for _ in range(style.random.randint(1, 4)):
        words.insert(style.random.randrange(1, len(words) + 1), f"{{{style.random.choice(VALUES)}}}")
    return " ".join(words)
