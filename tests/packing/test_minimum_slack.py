"""Minimum-bin-slack packing: every item once, bins as full as they can be, less padding where best fit leaves gaps."""

from __future__ import annotations

import itertools
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ladm_hf.packing import minimum_slack as module
from ladm_hf.packing.best_fit import best_fit
from ladm_hf.packing.minimum_slack import minimum_slack
from ladm_hf.packing.sequences import pack_sequences


@given(st.lists(st.integers(1, 50), max_size=80), st.integers(0, 5))
@settings(max_examples=200, deadline=None)
def test_every_item_is_in_one_bin_and_bins_are_not_overfull(lengths: list[int], slack: int) -> None:
    bins = minimum_slack(lengths, 50, slack)
    assert sorted(item for each in bins for item in each) == list(range(len(lengths)))
    assert all(sum(lengths[item] for item in each) <= 50 for each in bins)
    assert all(
        [lengths[item] for item in each] == sorted((lengths[item] for item in each), reverse=True) for each in bins
    )
    assert bins == minimum_slack(lengths, 50, slack)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=9))
@settings(max_examples=100, deadline=None)
def test_no_combination_fills_a_bin_better(lengths: list[int]) -> None:
    left = list(lengths)
    for each in minimum_slack(lengths, 50, 0):
        sizes = [lengths[item] for item in each]
        assert sizes[0] == max(left)
        left.remove(sizes[0])
        sums = (sum(some) for count in range(len(left) + 1) for some in itertools.combinations(left, count))
        assert sum(sizes[1:]) == max(total for total in sums if total <= 50 - sizes[0])
        for size in sizes[1:]:
            left.remove(size)


def test_the_search_is_bounded_and_a_bin_of_very_many_items_is_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    many = 3 * sys.getrecursionlimit()
    assert [len(each) for each in minimum_slack([1] * (2 * many), many, 0)] == [many, many]
    lengths = [7, 5, 4, 4, 3, 3]
    assert minimum_slack(lengths, 13, 0) == [[0, 4, 5], [1, 2, 3]]
    monkeypatch.setattr(module, "COMBINATIONS", 1)
    assert minimum_slack(lengths, 13, 0) == [[0, 1], [2, 3, 4], [5]]


@pytest.mark.parametrize(("low", "high"), [(16, 2), (16, 4), (8, 2), (8, 4), (10, 5)])
@pytest.mark.parametrize("buffer", [64, 1024])
def test_padding_is_about_one_percent_of_narrow_ranges_of_lengths_too(low: int, high: int, buffer: int) -> None:
    length, rng = 4096, np.random.default_rng(low + high)
    sizes = np.exp(rng.uniform(np.log(length / low), np.log(length / high), 4000)).astype(int).tolist()
    packed = list(pack_sequences((np.zeros(size, np.int32) for size in sizes), length, buffer_tokens=buffer * length))
    padding = 1 - sum(sizes) / (length * len(packed))
    assert padding < 0.0125
    assert padding < 0.7 * (1 - sum(sizes) / (length * len(best_fit(sizes, length))))


@given(st.lists(st.integers(1, 70), max_size=60))
@settings(max_examples=100, deadline=None)
def test_packing_never_takes_more_sequences_than_best_fit(lengths: list[int]) -> None:
    pieces = [min(32, size - start) for size in lengths for start in range(0, size, 32)]
    packed = list(pack_sequences((np.zeros(size, np.int32) for size in lengths), 32))
    assert len(packed) <= len(best_fit(pieces, 32))
