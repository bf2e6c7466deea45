from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from ladm_hf.errors import ConfigError, InputError
from ladm_hf.training.documents import TokenizedDocument, held_out, source_units
from ladm_hf.training.labelled import labelled_windows
from ladm_hf.training.mix import WindowMix
from ladm_hf.training.tokenizer import train_tokenizer
from ladm_hf.training.windows import FEWEST_NAMES, NO_TEXT, UNKNOWN, WindowDataset

STRIDE = 100_000


def corpus(count: int = 24, tokens: int = 6000, short: int = 12) -> list[TokenizedDocument]:
    """Documents whose every token tells its document and its place."""
    sizes = [tokens] * count + [150] * short
    return [
        TokenizedDocument(
            (i * STRIDE + np.arange(size)).astype(np.int32),
            domain=f"domain {i % 2}",
            source=f"source {i % 6}",
            kind="long" if size == tokens else "short",
            key=f"document {i}",
            num_chars=4 * size,
        )
        for i, size in enumerate(sizes)
    ]


@pytest.mark.parametrize("kind", ["natural", "interleaved", "spliced", "joined"])
def test_labels_name_the_document_of_every_token_and_its_order_is_kept(kind) -> None:
    shares = dict.fromkeys(("natural", "interleaved", "spliced", "joined"), 0.0) | {kind: 1.0}
    windows = WindowDataset(corpus(), 2048, 20, WindowMix(**shares, separated=0.0, max_chunk=300), seed=3)
    for index in range(20):
        window = windows.window(index)
        assert window.kind == kind
        assert window.ids.shape == window.document_labels.shape == (2048,)
        owners, places = window.ids // STRIDE, window.ids % STRIDE
        pairs = set(zip(window.document_labels.tolist(), owners.tolist(), strict=True))
        assert len(pairs) == len({label for label, _ in pairs}) == len({owner for _, owner in pairs})
        if kind != "joined":
            for owner in set(owners.tolist()):
                assert (np.diff(places[owners == owner]) > 0).all()
        runs = 1 + int((np.diff(window.document_labels) != 0).sum())
        if kind == "natural":
            assert runs == 1
        elif kind == "interleaved":
            assert runs > len(pairs) > 1
        else:
            assert runs >= len(pairs) > 1


def test_a_window_depends_on_seed_and_index_alone() -> None:
    first, second = (WindowDataset(corpus(), 1024, 50, seed=1) for _ in range(2))
    order = [7, 3, 7, 49]
    expected = {index: first.window(index).ids for index in sorted(set(order))}
    for index in order:
        assert (second.window(index).ids == expected[index]).all()
    other = WindowDataset(corpus(), 1024, 50, seed=2)
    assert any((other.window(index).ids != expected[index]).any() for index in expected)
    item = first[3]
    assert item["input_ids"].tolist() == expected[3].tolist()
    assert len(first) == 50


def test_separators_stand_between_documents() -> None:
    mix = WindowMix(natural=0, interleaved=0, spliced=1, joined=0, separated=1.0)
    window = WindowDataset(corpus(), 2048, 1, mix, separator=-5).window(0)
    at = np.flatnonzero(window.ids == -5)
    assert len(at) == int((np.diff(window.document_labels) != 0).sum()) > 0
    assert (window.document_labels[at] != window.document_labels[at - 1]).all()


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([story(0), story(1)], vocab_size=400)


def story(number: int) -> str:
    """Prose in which every document has two names of its own, and no sentence is like another."""
    first, second = (f"{letter}{'abcdefghij'[number]}lan" for letter in "BD")
    return "\n\n".join(
        f"On day {day}, said {first}, nothing happened. They met {second} at noon near house {day * 7 % 97}!"
        for day in range(400)
    )


@pytest.fixture(scope="module")
def stories(tokenizer) -> list[TokenizedDocument]:
    texts = [story(number) for number in range(6)]
    documents = [
        TokenizedDocument(
            np.array(tokenizer(text)["input_ids"], np.int32), source=f"s{i}", key=str(i), num_chars=len(text)
        )
        for i, text in enumerate(texts)
    ]
    table = tokenizer("\n".join(f"{row},{row * 7}" for row in range(900)))["input_ids"]
    return [*documents, TokenizedDocument(np.array(table, np.int32), kind="degenerate", key="table")]


def only(kind: str, **options: float) -> WindowMix:
    shares = dict.fromkeys(("natural", "interleaved", "spliced", "joined"), 0.0)
    return WindowMix(**shares | {kind: 1.0} | options)


def unlabelled(values) -> bool:
    return set(values.tolist()) == {UNKNOWN}


def test_shuffled_windows_have_their_units_in_another_order(stories, tokenizer) -> None:
    windows = WindowDataset(stories, 2048, 12, only("shuffled"), seed=2, tokenizer=tokenizer)
    for index in range(12):
        item = windows[index]
        assert item["input_ids"].shape == (2048,)
        assert unlabelled(item["document_labels"])
        assert unlabelled(item["quality_labels"])
        assert set(item["text_labels"].tolist()) == set(item["order_labels"].tolist()) == {NO_TEXT}
        assert item["is_language"] == 0
        days = [int(day) for day in re.findall(r"day (\d+)", tokenizer.decode(item["input_ids"]))]
        assert days != sorted(days)
    again = WindowDataset(stories, 2048, 12, only("shuffled"), seed=2, tokenizer=tokenizer)
    assert torch.equal(again[7]["input_ids"], windows[7]["input_ids"])


def test_renamed_windows_change_the_names_of_one_half_or_of_both(tokenizer) -> None:
    names = [f"{a}{b}lan" for a in "BDFG" for b in "abc"]
    text = " ".join(f"Once, said {names[i % 12]}, it rained in town {i}." for i in range(900))
    ids = np.array(tokenizer(text)["input_ids"], np.int32)
    documents = [TokenizedDocument(ids, source=str(i), key=str(i)) for i in range(3)]
    windows = WindowDataset(documents, 2048, 30, only("renamed"), tokenizer=tokenizer)
    two = 0
    for index in range(30):
        window = windows.window(index)
        halves = [tokenizer.decode(part) for part in np.split(window.ids, 2)]
        mentions = [re.findall(r"said (\w+),", half) for half in halves]
        kept = [sum(name in names for name in half) / len(half) for half in mentions]
        labels = [set(part.tolist()) for part in np.split(window.document_labels, 2)]
        assert labels[0] == {0}
        assert (window.text_labels == window.document_labels).all()
        replaced = len(names) - min(len(set(half) & set(names)) for half in mentions)
        # two documents where one half keeps its names, unless hardly any is replaced in the other
        assert min(kept) < 0.9
        assert (labels[1] == {1}) == (max(kept) == 1.0 and replaced >= FEWEST_NAMES)
        two += labels[1] == {1}
    assert 10 < two < 28


def test_names_of_one_half_alone_do_not_make_a_renamed_window_two_documents(tokenizer) -> None:
    halves = [[f"{a}{b}lan" for a in letters for b in "abc"] for letters in ("BDFG", "HKLM")]
    text = " ".join(f"Once, said {names[i % 12]}, it rained in town {i}." for names in halves for i in range(60))
    ids = np.array(tokenizer(text)["input_ids"], np.int32)
    length = len(ids) // 256 * 256
    documents = [TokenizedDocument(ids[:length], source=str(i), key=str(i)) for i in range(2)]
    windows = WindowDataset(documents, length, 20, only("renamed"), tokenizer=tokenizer)
    for index in range(20):
        window = windows.window(index)
        assert not np.array_equal(window.ids, documents[0].ids)
        assert set(window.document_labels.tolist()) == {0}


def test_degenerate_windows_are_found_or_generated(stories, tokenizer) -> None:
    for generated in (0.0, 1.0):
        windows = WindowDataset(stories, 2048, 8, only("degenerate", generated=generated), tokenizer=tokenizer)
        texts = [tokenizer.decode(windows.window(index).ids) for index in range(8)]
        found = [re.fullmatch(r"[\d,\n]+", text) is not None for text in texts]
        assert all(found) if not generated else sum(found) < 4
        item = windows[0]
        assert unlabelled(item["document_labels"])
        assert unlabelled(item["order_labels"])
        assert set(item["text_labels"].tolist()) == set(item["quality_labels"].tolist()) == {NO_TEXT}
        assert item["is_language"] == 0


def test_degenerate_documents_are_in_no_other_window(stories, tokenizer) -> None:
    table = stories[-1].ids
    windows = WindowDataset(stories, 1024, 40, WindowMix(flattened=0.0), tokenizer=tokenizer)
    shown = tokenizer.decode(table[:40])
    assert not any(shown in tokenizer.decode(windows.window(index).ids) for index in range(40))
    assert labelled_windows([*stories[-1:] * 8], 512, [2]) == []


def test_flattened_windows_have_no_line_breaks(stories, tokenizer) -> None:
    for flattened in (0.0, 1.0):
        windows = WindowDataset(stories, 2048, 6, only("natural", flattened=flattened), tokenizer=tokenizer)
        texts = [tokenizer.decode(windows.window(index).ids) for index in range(6)]
        assert ["\n" in text for text in texts] == [not flattened] * 6
        days = [[int(day) for day in re.findall(r"day (\d+),", text)] for text in texts]
        assert all(found == sorted(found) for found in days)


def test_chunks_out_of_turn_are_neither_text_nor_disorder() -> None:
    item = WindowDataset(corpus(), 1024, 1, only("interleaved"))[0]
    assert len(set(item["document_labels"].tolist())) > 1
    assert all(unlabelled(item[name]) for name in ("text_labels", "order_labels", "quality_labels"))
    assert item["is_language"] == 1


def test_two_documents_are_commoner_than_many() -> None:
    windows = WindowDataset(corpus(short=0), 1024, 300, only("spliced"), seed=1)
    counts = np.bincount([int(windows.window(index).document_labels.max()) + 1 for index in range(300)], minlength=9)
    assert 110 < counts[2] < 210
    assert counts[2] > 2 * counts[3] > 0
    assert counts[6:].sum() > 0


def test_windows_of_one_source_and_of_one_domain() -> None:
    documents = corpus(short=0)
    one_source = WindowMix(natural=0, interleaved=1, spliced=0, joined=0, same_source=1.0)
    one_domain = WindowMix(natural=0, interleaved=1, spliced=0, joined=0, same_source=0.0, same_domain=1.0)
    for index in range(10):
        owners = set((WindowDataset(documents, 1024, 10, one_source).window(index).ids // STRIDE).tolist())
        assert len({documents[owner].source for owner in owners}) == 1
        owners = set((WindowDataset(documents, 1024, 10, one_domain).window(index).ids // STRIDE).tolist())
        assert len({documents[owner].domain for owner in owners}) == 1


def test_kinds_that_no_document_serves_fall_back_to_interleaved() -> None:
    documents = [TokenizedDocument(np.arange(600, dtype=np.int32), key=str(i)) for i in range(4)]
    windows = WindowDataset(documents, 1024, 4, WindowMix(natural=1, interleaved=0, spliced=0, joined=1))
    assert {windows.window(index).kind for index in range(4)} == {"interleaved"}


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="flattened is a probability and must not be above 1, got 1.5"):
        WindowMix(flattened=1.5)
    with pytest.raises(ConfigError, match="natural must not be negative"):
        WindowMix(natural=-1)
    with pytest.raises(ConfigError, match="at least one of the shares"):
        WindowMix(natural=0, interleaved=0, spliced=0, joined=0)
    with pytest.raises(ConfigError, match="min_documents"):
        WindowMix(min_documents=1)
    with pytest.raises(ConfigError, match="min_chunk"):
        WindowMix(min_chunk=10, max_chunk=5)
    with pytest.raises(InputError, match="at least 2 documents"):
        WindowDataset(corpus(1, short=0), 1024, 1)
    with pytest.raises(InputError, match="only natural windows"):
        WindowDataset(corpus(), 8192, 1, WindowMix(natural=1, interleaved=0, spliced=0, joined=0))
    for kind in ("shuffled", "renamed", "degenerate"):
        with pytest.raises(ConfigError, match="tokenizer"):
            WindowDataset(corpus(), 1024, 1, WindowMix(**{kind: 0.5}))


def test_sources_are_set_aside_whole_and_whatever_the_order() -> None:
    documents = [
        TokenizedDocument(np.arange(5, dtype=np.int32), "d", f"source {i % 10}", key=f"{i}") for i in range(40)
    ]
    apart = held_out(documents, 0.2)
    names = {document.source for document, out in zip(documents, apart, strict=True) if out}
    assert len(names) == 2
    assert all((document.source in names) == out for document, out in zip(documents, apart, strict=True))
    assert held_out(documents[::-1], 0.2).tolist() == apart[::-1].tolist()
    assert {document.source for document, out in zip(documents, held_out(documents, 0.2, seed=5), strict=True) if out}
    assert not held_out(documents, 0.0).any()


def test_domains_of_few_sources_are_divided_by_document() -> None:
    documents = [TokenizedDocument(np.arange(i + 3, dtype=np.int32), "d", "one source") for i in range(10)]
    assert len(set(source_units(documents))) == 10
    assert held_out(documents, 0.3).sum() == 3


def test_labelled_windows() -> None:
    documents = corpus(count=20, tokens=5000, short=80)
    windows = labelled_windows(documents, 2048, [2, 3, 0], per_domain=6)
    kinds = [window.pieces for window in windows]
    assert {1, 2, 3, 0} == set(kinds)
    for window in windows:
        owners = window.ids // STRIDE
        assert len(window.ids) == 2048
        assert {documents[owner].domain for owner in set(owners.tolist())} == {window.domain}
        assert tuple(dict.fromkeys(owners.tolist())) == window.documents
        assert abs(window.num_chars - 4 * 2048) < 20
        assert len(window.documents) == (window.pieces or len(window.documents))
        if window.pieces == 0:
            assert {documents[owner].kind for owner in window.documents} == {"short"}
            assert len(window.documents) == 14
    starts = [(window.documents[0], int(window.ids[0])) for window in windows if window.pieces == 1]
    assert len(starts) == len(set(starts)) == 12
    # one window of each document before a second of any
    assert len({owner for owner, _ in starts}) == 12
    again = labelled_windows(documents, 2048, [2, 3, 0], per_domain=6)
    assert all((a.ids == b.ids).all() for a, b in zip(windows, again, strict=True))


def test_domains_that_cannot_serve_a_setting_are_left_out_of_it() -> None:
    documents = corpus(count=6, tokens=5000, short=0)
    assert {window.pieces for window in labelled_windows(documents, 2048, [3, 4, 0])} == {1, 3}
    assert labelled_windows(documents, 8192, [2]) == []
