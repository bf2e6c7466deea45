from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from ladm_hf.training.contrasts import NEEDED, Comparison, Contrast, comparisons, contrasts, kind_figures
from ladm_hf.training.degenerate import KINDS
from ladm_hf.training.documents import TokenizedDocument
from ladm_hf.training.tokenizer import train_tokenizer

NAMES = [f"{a}{b}lan" for a in "BDFGHK" for b in "abc"]
LENGTH = 1024


def story(number: int, days: int = 200) -> str:
    """Prose whose names return and no sentence of which is like another, in paragraphs."""
    mine = NAMES[number % 3 :: 3]
    lines = [f"On day {number}.{day}, said {mine[day % 6]}, it rained on {mine[day % 5]}." for day in range(days)]
    return "\n\n".join(" ".join(lines[start : start + 3]) for start in range(0, days, 3))


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([story(0), story(1)], vocab_size=500)


@pytest.fixture(scope="module")
def documents(tokenizer) -> list[TokenizedDocument]:
    def document(number: int, text: str, **values: str) -> TokenizedDocument:
        ids = np.array(tokenizer(text)["input_ids"], np.int32)
        return TokenizedDocument(ids, key=str(number), num_chars=len(text), **values)

    long = [document(i, story(i), domain=f"d{i % 2}", source=f"s{i % 8}", kind="long") for i in range(16)]
    short = [document(20 + i, story(i, 6), domain="d0", source=f"t{i}", kind="short") for i in range(16)]
    table = [document(40, "\n".join(f"{i},{7 * i}" for i in range(600)), domain="csv", kind="degenerate")]
    return [*long, *short, *table]


@pytest.fixture(scope="module")
def windows(documents, tokenizer) -> list[Contrast]:
    return contrasts(documents, tokenizer, LENGTH, count=8, seed=3)


def by_kind(windows: list[Contrast]) -> dict[str, list[Contrast]]:
    found: dict[str, list[Contrast]] = {}
    for window in windows:
        found.setdefault(window.kind, []).append(window)
    return found


def test_every_kind_is_there_and_every_window_whole(windows) -> None:
    kinds = by_kind(windows)
    assert set(NEEDED) | {f"{kind}, generated" for kind in KINDS} | {"csv, given", "natural"} == set(kinds)
    assert {window.ids.shape for window in windows} == {(LENGTH,)}
    assert len(kinds["natural"]) == len(kinds["2 pieces"]) == 8
    assert {w.question for w in windows} == {"", "splices", "degenerate", "order", "dependency"}


def test_another_seed_gives_other_windows_and_the_same_seed_the_same(documents, tokenizer, windows) -> None:
    again, other = (contrasts(documents, tokenizer, LENGTH, count=8, seed=seed) for seed in (3, 4))
    assert all(np.array_equal(a.ids, b.ids) and a.kind == b.kind for a, b in zip(again, windows, strict=True))
    tables = [by_kind(found)["table, generated"] for found in (windows, other)]
    assert not any(np.array_equal(a.ids, b.ids) for a in tables[0] for b in tables[1])


def test_changed_windows_are_changed_in_the_way_they_say(documents, tokenizer, windows) -> None:
    def words(ids) -> list[str]:
        return re.findall(r"\w+", tokenizer.decode(ids))

    half = LENGTH // 2
    for window in windows:
        if window.base is None:
            continue
        base = windows[window.base]
        assert base.kind == "natural"
        assert (window.domain, window.unit) == (base.domain, base.unit)
        assert not np.array_equal(window.ids, base.ids)
        if window.question == "order":
            assert len(set(words(window.ids)) ^ set(words(base.ids))) <= 4
        else:
            assert np.array_equal(window.ids[:half], base.ids[:half])
        if window.kind == "second half renamed":
            before, after = (set(words(w.ids[half + 8 : -8])) & set(NAMES) for w in (base, window))
            assert len(before) >= 5
            assert not before & after
        if window.kind == "second half of the same source":
            second = window.ids[half:].tobytes()
            found = [d for d in documents if second in d.ids.astype(np.int32).tobytes()]
            assert f"{found[0].domain}/{found[0].source}" == base.unit


def test_what_documents_do_not_allow_is_left_out(documents, tokenizer) -> None:
    alone = [replace(document, domain="all", source=document.key) for document in documents if document.kind == "long"]
    kinds = set(by_kind(contrasts(alone, tokenizer, LENGTH, count=4)))
    assert set(NEEDED) - kinds == {
        "joined short documents",
        "4 pieces of any domain",
        "second half of the same source",
    }
    assert contrasts(alone, tokenizer, 8192) == []
    rng = np.random.default_rng(0)
    noise = [TokenizedDocument(rng.integers(3, 90, 900).astype(np.int32), source=str(i), key=str(i)) for i in range(4)]
    assert "sentences shuffled" not in by_kind(contrasts(noise, tokenizer, LENGTH, count=4))


def test_degenerate_documents_serve_as_nothing_else(documents, tokenizer, windows) -> None:
    table = documents[-1].ids.astype(np.int32).tobytes()
    for window in windows:
        assert (window.kind == "csv, given") == (window.ids.tobytes() in table)


def test_windows_are_compared_with_those_of_their_length_and_domain_or_with_themselves() -> None:
    def window(kind: str, domain: str, length: int = 4, base: int | None = None) -> Contrast:
        return Contrast("", kind, domain, "", np.zeros(length, np.int32), base)

    windows = [
        window("natural", "a"), window("natural", "b"), window("natural", "a", 8), window("2 pieces", "a"),
        window("2 pieces", "c"), window("table", ""), window("renamed", "a", 8, 2), window("renamed", "b", 4, 1),
        window("natural", "a"), window("2 pieces", "a"),
    ]  # fmt: skip
    found = [(c.kind, c.natural.tolist(), c.others.tolist(), c.paired) for c in comparisons(windows, range(8))]
    assert found == [
        ("2 pieces", [0], [3], False),
        ("table", [0], [5], False),
        ("table", [1], [5], False),
        ("renamed", [2, 1], [6, 7], True),
    ]
    assert [c.others.tolist() for c in comparisons(windows, range(8, 10))] == [[9]]


def test_figures_are_areas_and_shares_of_pairs_and_weights_are_repetitions() -> None:
    scores = np.array([[3.0, 0.0], [1.0, 1.0], [2.0, 2.0], [1.0, 9.0]])
    area = Comparison("area", np.array([0, 1]), np.array([2, 3]), False)
    pairs = Comparison("pairs", np.array([0, 1]), np.array([2, 3]), True)
    found = kind_figures([area, pairs], scores)
    assert found["area"].tolist() == [(1 + 1 + 0 + 0.5) / 4, 0.0]
    assert found["pairs"].tolist() == [(1 + 0.5) / 2, 0.0]
    # one row twice and one not at all; then nothing that could be compared
    weights = np.array([[2.0, 1.0, 1.0, 0.0], [1.0, 1.0, 0.0, 0.0]])
    again = kind_figures([Comparison("area", np.array([0, 1, 2]), np.array([3]), False)], scores[[0, 0, 1, 2]])
    found = kind_figures([area, pairs], scores, weights)
    assert found["area"][0] == pytest.approx(again["area"])
    assert np.isnan(found["area"][1]).all()
    assert found["pairs"] == pytest.approx(np.array([[(2 * 1 + 0.5) / 3, 0.0], [(1 + 0.5) / 2, 0.0]]))
    # the mean over lengths and domains
    other = replace(area, natural=np.array([3]), others=np.array([3]))
    assert kind_figures([area, other], scores)["area"][0] == pytest.approx((0.625 + 0.5) / 2)
