"""Best-fit-decreasing bin packing: the longest document first, each into the fullest bin that still takes it.

It cuts no document that fits into a bin and fills the gaps that long documents leave with short ones (Ding et al. 2024,
"Fewer Truncations Improve Language Modeling", arXiv 2404.10830).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Divides items among as few bins as best-fit decreasing finds, in `O(n log n)`.

    Of equally long items the first comes first, and of equally full bins the first that was opened is taken, so that
    the same lengths always give the same bins.

    Args:
        lengths (sequence of `int`): size of each item, in `1..capacity`.
        capacity (`int`): size of a bin.

    Returns:
        `list[list[int]]`: the numbers of the items in each bin, the longest first. Every item is in exactly one.

    Raises:
        ValueError: an item is empty or larger than a bin.
    """
    bins: list[list[int]] = []
    # (space left, number of the bin) of the bins that are not full, ascending
    spaces: list[tuple[int, int]] = []
    for item in sorted(range(len(lengths)), key=lambda item: -lengths[item]):
        length = lengths[item]
        if not 0 < length <= capacity:
            raise ValueError(f"item {item} has size {length}, expected 1 to {capacity}")
        place = bisect_left(spaces, (length, -1))
        if place < len(spaces):
            space, number = spaces.pop(place)
            bins[number].append(item)
        else:
            space, number = capacity, len(bins)
            bins.append([item])
        if space > length:
            insort(spaces, (space - length, number))
    return bins
