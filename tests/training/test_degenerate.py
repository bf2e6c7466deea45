"""Random degenerate text: reproducible, of the length asked for, and of great variety."""

from __future__ import annotations

import gzip
import json
import re
from random import Random

import numpy as np
import pytest

from ladm_hf.errors import ConfigError
from ladm_hf.training.degenerate import KINDS, degenerate_text
from ladm_hf.training.templates import FIELDS, Style, tables, template

NUM_CHARS = 12_000


def documents(kind: str, count: int, num_chars: int = NUM_CHARS) -> list[str]:
    return [degenerate_text(kind, num_chars, np.random.default_rng([7, seed])) for seed in range(count)]


def compressed(text: str) -> float:
    data = text.encode()
    return len(gzip.compress(data)) / len(data)


@pytest.mark.parametrize("kind", KINDS)
def test_one_state_of_the_generator_gives_one_text(kind: str) -> None:
    first, second = np.random.default_rng(3), np.random.default_rng(3)
    assert degenerate_text(kind, 3000, first) == degenerate_text(kind, 3000, second)
    # the generator has moved on
    assert degenerate_text(kind, 3000, first) != degenerate_text(kind, 3000, np.random.default_rng(3))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_chars", [1, 997, 40_000])
def test_a_text_has_the_length_asked_for(kind: str, num_chars: int) -> None:
    text = degenerate_text(kind, num_chars, np.random.default_rng(0))
    assert len(text) == num_chars
    assert text.encode().decode() == text


@pytest.mark.parametrize("kind", KINDS)
def test_no_two_documents_of_a_kind_share_their_lines(kind: str) -> None:
    lines = [
        {line for line in re.split(r"[\n;]", text) if len(line) > 30 and not line.startswith("<?xml")}
        for text in documents(kind, 12)
    ]
    for i, some in enumerate(lines):
        for others in lines[:i]:
            assert len(some & others) <= 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_is_regular_but_not_always_alike(kind: str) -> None:
    ratios = [compressed(text) for text in documents(kind, 16)]
    # prose of this length compresses to about 0.45
    assert np.median(ratios) < 0.55
    assert max(ratios) < 0.85
    assert max(ratios) / min(ratios) > 1.2


def test_kinds_differ_in_the_characters_they_use() -> None:
    def profile(kind: str) -> np.ndarray:
        text = "".join(documents(kind, 8, 4000))
        counts = np.bincount(np.frombuffer(text.encode("latin-1", "replace"), np.uint8), minlength=256)
        return counts / counts.sum()

    profiles = [profile(kind) for kind in KINDS]
    for i, some in enumerate(profiles):
        for other in profiles[:i]:
            assert np.abs(some - other).sum() > 0.1


def test_some_json_is_one_object_a_line() -> None:
    texts = documents("json", 20)
    lines = [text.split("\n")[:-1] for text in texts if text.startswith('{"id"')]
    assert lines
    for line in lines[0]:
        assert isinstance(json.loads(line), dict)


def test_every_template_fills_every_field() -> None:
    fields = {match.lower() for entries in tables().values() for entry in entries for match in slots(entry)}
    assert fields - {"a", "b"} <= set(FIELDS)
    for kind in KINDS:
        for text in documents(kind, 6, 2000):
            assert not re.search(r"\{=\w+\}", text)


def slots(entry: str) -> list[str]:
    return re.findall(r"\{=?(\w+)(?:\.\w+)?\}", entry)


def test_labels_hold_for_a_record_and_equals_signs_for_the_document() -> None:
    fill = template(Style(Random(0)), "{integer.1} {integer.1} {integer} {=integer}|{word.2} {Word.2} {WORD.2}")
    lines = [fill(row) for row in range(20)]
    numbers, words = zip(*(line.split("|") for line in lines), strict=True)
    once, again, other, fixed = zip(*(part.split() for part in numbers), strict=True)
    assert once == again != other
    assert len(set(once)) > 1
    assert len(set(fixed)) == 1
    for low, title, upper in (part.split() for part in words):
        assert (low[0].upper() + low[1:], low.upper()) == (title, upper)


@pytest.mark.parametrize(("kind", "num_chars"), [("poem", 10), ("log", 0)])
def test_an_unknown_kind_and_no_length_are_refused(kind: str, num_chars: int) -> None:
    with pytest.raises(ConfigError, match=r"poem.*|num_chars must be at least 1"):
        degenerate_text(kind, num_chars, np.random.default_rng(0))
