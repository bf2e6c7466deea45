"""Documents into packed sequences: nothing lost, nothing doubled, little padding, bounded memory."""

from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DataCollatorWithFlattening

from ladm_hf.errors import ConfigError
from ladm_hf.packing.sequences import PackedSequence, pack_sequences

LENGTH = 32
DOCUMENTS = st.lists(st.integers(0, 100), max_size=60)


def numbered(lengths: list[int]) -> list[np.ndarray]:
    """Documents in which every token is another one."""
    ends = np.cumsum([0, *lengths])
    return [np.arange(start, stop, dtype=np.int32) for start, stop in itertools.pairwise(ends)]


def parts(sequence: PackedSequence) -> list[np.ndarray]:
    return np.split(sequence.input_ids, np.cumsum(sequence.seq_lengths)[:-1])


@given(DOCUMENTS, st.sampled_from([64, 200, 2000, 1 << 20]), st.integers(0, 5))
@settings(max_examples=200, deadline=None)
def test_every_token_is_in_one_sequence(lengths: list[int], buffer_tokens: int, seed: int) -> None:
    packed = list(pack_sequences(numbered(lengths), LENGTH, buffer_tokens=buffer_tokens, seed=seed))
    tokens = [token for sequence in packed for token in sequence.input_ids.tolist()]
    assert sorted(tokens) == list(range(sum(lengths)))
    for sequence in packed:
        assert 0 < len(sequence.input_ids) == sum(sequence.seq_lengths) <= LENGTH


@given(DOCUMENTS, st.sampled_from([64, 2000]))
@settings(max_examples=200, deadline=None)
def test_only_documents_longer_than_a_sequence_are_cut(lengths: list[int], buffer_tokens: int) -> None:
    expected = [
        document[start : start + LENGTH].tolist()
        for document in numbered(lengths)
        for start in range(0, len(document), LENGTH)
    ]
    found = [
        part.tolist()
        for sequence in pack_sequences(numbered(lengths), LENGTH, buffer_tokens=buffer_tokens)
        for part in parts(sequence)
    ]
    assert sorted(found) == expected


@pytest.mark.parametrize("length", [1024, 8192])
@pytest.mark.parametrize("longest", [1, 4])
def test_padding_is_under_one_percent_of_log_uniform_lengths(length: int, longest: int) -> None:
    draw = np.random.default_rng(longest).uniform(np.log(length / 64), np.log(longest * length), 6000)
    documents = (np.zeros(size, np.int32) for size in np.exp(draw).astype(int))
    packed = list(pack_sequences(documents, length, buffer_tokens=128 * length))
    assert 1 - sum(len(sequence.input_ids) for sequence in packed) / (length * len(packed)) < 0.01


def test_the_same_seed_gives_the_same_sequences_and_another_seed_another_order() -> None:
    documents = numbered(np.random.default_rng(0).integers(1, 60, 300).tolist())

    def packed(seed: int) -> list[list[int]]:
        return [s.input_ids.tolist() for s in pack_sequences(documents, LENGTH, buffer_tokens=3000, seed=seed)]

    assert packed(3) == packed(3)
    assert packed(3) != packed(4)
    assert sorted(packed(3)) == sorted(packed(4))


def test_memory_is_that_of_the_buffer_not_of_the_data() -> None:
    def peak(count: int) -> int:
        tracemalloc.start()
        documents = (np.zeros(1 + 7919 * n % 3000, np.int32) for n in range(count))
        sequences = sum(1 for _ in pack_sequences(documents, 1024, buffer_tokens=1 << 16))
        assert sequences > count
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(800)
    assert peak(8000) < 1.2 * peak(800)


def test_a_book_is_streamed_too_and_its_rest_does_not_keep_it_in_memory() -> None:
    def books() -> Iterator[np.ndarray]:
        for _ in range(20):
            yield np.zeros((1 << 20) + 3, np.int32)

    tracemalloc.start()
    rests = [
        sequence for sequence in pack_sequences(books(), 4096, buffer_tokens=1 << 14) if sequence.seq_lengths[0] == 3
    ]
    assert tracemalloc.get_traced_memory()[1] < 3 * (4 << 20)
    tracemalloc.stop()
    assert [sequence.seq_lengths for sequence in rests] == [(3,) * 20]


def test_positions_and_labels_are_those_of_the_flattening_collator() -> None:
    documents = numbered([5, 1, 9, 3])
    (packed,) = pack_sequences(documents, LENGTH)
    expected = DataCollatorWithFlattening(return_flash_attn_kwargs=True)(
        [{"input_ids": part.tolist()} for part in parts(packed)]
    )
    for name, values in (
        ("input_ids", packed.input_ids),
        ("position_ids", packed.position_ids),
        ("labels", packed.labels),
    ):
        assert torch.equal(expected[name][0], torch.tensor(values).long()), name
    assert expected["cu_seq_lens_q"].tolist() == packed.cu_seqlens.tolist()


def test_padding_is_a_document_of_its_own_that_is_not_learnt() -> None:
    (packed,) = pack_sequences([[7, 8, 9]], LENGTH)
    full = packed.padded(5, pad_token_id=2)
    assert full.input_ids.tolist() == [7, 8, 9, 2, 2]
    assert full.labels.tolist() == [-100, 8, 9, -100, -100]
    assert full.position_ids.tolist() == [0, 1, 2, 0, 1]
    assert full.seq_lengths == (3, 2)
    assert packed.padded(3, pad_token_id=2) is packed


@pytest.mark.parametrize(("length", "buffer_tokens"), [(0, 100), (64, 127)])
def test_options_that_cannot_work_are_refused(length: int, buffer_tokens: int) -> None:
    with pytest.raises(ConfigError, match=f"^(length|buffer_tokens).*{length}"):
        next(pack_sequences([[1]], length, buffer_tokens=buffer_tokens))
