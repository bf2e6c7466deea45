"""Minimum-bin-slack packing: one bin after the other, the longest item left and those that fill its gap best.

Best fit takes one item at a time, and where lengths differ little it leaves gaps that are just too small for another.
Here a search among combinations finds items that fill the gap together (Gupta and Ho 1999, "A new heuristic algorithm
for the one-dimensional bin-packing problem", Production Planning & Control 10).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

# Combinations that are tried for a bin.
COMBINATIONS = 500


def minimum_slack(lengths: Sequence[int], capacity: int, slack: int) -> list[list[int]]:
    """Divides items among bins, each filled by the best of a bounded number of combinations.

    Combinations are tried with their longest items first, the same for the same lengths; of equally long items the
    first is taken first.

    Args:
        lengths (sequence of `int`): size of each item, in `1..capacity`.
        capacity (`int`): size of a bin.
        slack (`int`): space that may stay empty in a bin without a further search.

    Returns:
        `list[list[int]]`: the numbers of the items in each bin, the longest first. Every item is in exactly one.
    """
    items: dict[int, list[int]] = {}
    for item in range(len(lengths) - 1, -1, -1):
        items.setdefault(lengths[item], []).append(item)
    sizes = sorted(items)
    counts = [len(items[size]) for size in sizes]
    bins: list[list[int]] = []
    while sizes:
        chosen = [len(sizes) - 1, *_filling(sizes, counts, capacity - sizes[-1], slack)]
        bins.append([items[sizes[place]].pop() for place in chosen])
        # in descending order, so that the places of the others stay
        for place in dict.fromkeys(chosen):
            counts[place] = len(items[sizes[place]])
            if not counts[place]:
                del sizes[place], counts[place]
    return bins


def _filling(sizes: list[int], counts: list[int], gap: int, slack: int) -> list[int]:
    """Places in `sizes`, descending, of items that fill a gap; one of the largest size is taken already."""
    left = [*counts[:-1], counts[-1] - 1]
    best: list[int] = []
    smallest, path, highest = gap + 1, list[int](), len(sizes) - 1
    for _ in range(COMBINATIONS):
        # on from here, the longest item that fits first
        place = min(bisect_right(sizes, gap) - 1, highest)
        while place >= 0:
            if left[place]:
                left[place] -= 1
                path.append(place)
                gap -= sizes[place]
                place = min(bisect_right(sizes, gap) - 1, place)
            else:
                place -= 1
        if gap < smallest:
            smallest, best = gap, list(path)
        if smallest <= slack or not path:
            break
        # without the last item, and with two in its place: one shorter item would fill less
        last = path.pop()
        left[last] += 1
        gap += sizes[last]
        highest = min(last, bisect_right(sizes, gap - sizes[0])) - 1
    return best
