from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest

from ladm_hf.training.perturbations import UNITS, is_code, made_up, names_of, renamed, shuffled, split_units

PROSE = "\n\n".join(
    f"Paragraph {i} begins when Margaret met Edmund. Then, said {name} quietly, the old house burned!\nA new line here."
    for i, name in enumerate(["Margaret", "Edmund"] * 10)
)
PROGRAM = "".join(
    f"def read_table_{i}(path, columns):\n    table = open_file(path)\n    return [table[name] for name in columns]\n\n"
    for i in range(12)
)


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("text", [PROSE, PROGRAM, "", "  \n\n", "\n\nOne. Two.\n", "x" * 3000])
def test_units_and_gaps_are_the_text_again(text, unit) -> None:
    units, gaps = split_units(text, unit)
    assert len(gaps) == len(units) - 1
    assert units[0] + "".join(gap + piece for gap, piece in zip(gaps, units[1:], strict=True)) == text


def test_units_are_what_they_are_called() -> None:
    text = "First one. Second one! “Third?” Fourth.\nA line\n\nA paragraph"
    assert split_units(text, "sentence")[0][:3] == ["First one.", "Second one!", "“Third?”"]
    assert split_units(text, "line")[0][1:] == ["A line", "A paragraph"]
    assert split_units(text, "paragraph")[0][1:] == ["A paragraph"]
    assert split_units(text, "word")[0] == text.split()
    stretches = split_units(PROSE, "stretch")[0]
    assert all(390 < len(piece) < 420 for piece in stretches[:-1])
    assert all(piece[0].isspace() for piece in stretches[1:])


@pytest.mark.parametrize("unit", UNITS)
def test_shuffling_changes_the_order_and_nothing_else(unit) -> None:
    mixed = shuffled(PROSE, unit, np.random.default_rng(0))
    assert mixed != PROSE
    assert Counter(mixed) == Counter(PROSE)
    if unit != "stretch":
        assert Counter(split_units(mixed, unit)[0]) == Counter(split_units(PROSE, unit)[0])
    assert mixed == shuffled(PROSE, unit, np.random.default_rng(0))
    assert mixed != shuffled(PROSE, unit, np.random.default_rng(1))


def test_shuffled_units_stay_whole_and_stand_apart_by_the_gap() -> None:
    sentences = split_units(PROSE, "sentence")[0]
    mixed = shuffled(PROSE, "sentence", np.random.default_rng(0), gap=" | ")
    assert Counter(mixed.split(" | ")) == Counter(sentences)


def test_a_text_of_few_units_is_cut_into_stretches() -> None:
    text = " ".join(f"word{i}" for i in range(1000))
    mixed = shuffled(text, "paragraph", np.random.default_rng(0))
    assert mixed != text
    assert Counter(re.findall(r"word\d+", mixed)) == Counter(text.split())
    assert shuffled("too short", "line", np.random.default_rng(0)) == "too short"
    assert shuffled("", "line", np.random.default_rng(0)) == ""


def test_names_are_identifiers_of_programs_and_proper_names_of_prose() -> None:
    assert is_code(PROGRAM)
    assert not is_code(PROSE)
    assert not is_code("")
    found = names_of(PROGRAM)
    assert {"table", "columns", "path", "open_file"} <= set(found)
    assert not {"def", "return", "for", "read_table_3"} & set(found)
    assert sorted(names_of(PROSE)) == ["Edmund", "Margaret"]


def test_renaming_replaces_every_mention_alike_and_nothing_else() -> None:
    names = names_of(PROGRAM)
    for seed in range(12):
        changed = renamed(PROGRAM, names, np.random.default_rng(seed), ["other_name", "another_one", "third"])
        old, new = (re.findall(r"\w+|\W+", text) for text in (PROGRAM, changed))
        table = dict(zip(old, new, strict=True))
        # a function, and one that maps no two names to one
        assert set(zip(old, new, strict=True)) == set(table.items())
        assert len(set(table.values())) == len(table)
        assert {name for name in table if table[name] != name} == set(names)


def test_parts_of_a_document_can_be_renamed_alike() -> None:
    names = names_of(PROSE)
    half = len(PROSE) // 2 - (len(PROSE) // 2) % 97
    half = PROSE.index("\n\n", half)
    whole = renamed(PROSE, names, np.random.default_rng(5))
    parts = [renamed(part, names, np.random.default_rng(5)) for part in (PROSE[:half], PROSE[half:])]
    assert "".join(parts) == whole != PROSE


def test_no_names_leave_the_text_as_it_is() -> None:
    assert renamed(PROSE, [], np.random.default_rng(0), ["Other"]) == PROSE


def test_made_up_names_keep_case_and_underscores() -> None:
    rng = np.random.default_rng(0)
    for name, pattern in (
        ("snake_case", r"[a-z]+_[a-z]+"),
        ("CamelCase", r"[A-Z][a-z]+[A-Z][a-z]+"),
        ("_PRIVATE_2", r"_[A-Z]+_2"),
        ("Anna", r"[A-Z][a-z]+"),
    ):
        for _ in range(5):
            assert re.fullmatch(pattern, made_up(name, rng))
