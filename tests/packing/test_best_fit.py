"""Best-fit-decreasing bins."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ladm_hf.packing.best_fit import best_fit

SIZES = st.lists(st.integers(1, 50), max_size=80)


def literal(lengths: list[int], capacity: int) -> list[list[int]]:
    """Best-fit decreasing as it is told: look at every bin."""
    bins: list[list[int]] = []
    for item in sorted(range(len(lengths)), key=lambda item: (-lengths[item], item)):
        left = [capacity - sum(lengths[i] for i in each) for each in bins]
        fitting = [(space, number) for number, space in enumerate(left) if space >= lengths[item]]
        if fitting:
            bins[min(fitting)[1]].append(item)
        else:
            bins.append([item])
    return bins


@given(SIZES)
@settings(max_examples=200, deadline=None)
def test_the_bins_are_those_of_a_search_over_all_bins(lengths: list[int]) -> None:
    assert best_fit(lengths, 50) == literal(lengths, 50)


@given(SIZES)
@settings(max_examples=200, deadline=None)
def test_every_item_is_in_one_bin_and_bins_are_not_overfull(lengths: list[int]) -> None:
    bins = best_fit(lengths, 50)
    assert sorted(item for each in bins for item in each) == list(range(len(lengths)))
    assert all(sum(lengths[item] for item in each) <= 50 for each in bins)
    # no two bins could have been one
    assert len(bins) <= 1 or sum(lengths) > 25 * len(bins)


def test_bins_are_nearly_full_where_short_items_abound() -> None:
    lengths = np.exp(np.random.default_rng(0).uniform(np.log(16), np.log(4096), 20_000)).astype(int).tolist()
    assert 1 - sum(lengths) / (4096 * len(best_fit(lengths, 4096))) < 0.001


@pytest.mark.parametrize("length", [0, 51])
def test_an_item_that_fits_no_bin_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match=f"item 1 has size {length}"):
        best_fit([3, length], 50)
