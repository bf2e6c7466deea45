"""Weighted draws of documents: within a pool by length, among pools by the root of their tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ladm_hf.arrays import Bools, Ints


class Pool:
    """Documents to draw from: long ones oftener than short ones, though less than in proportion.

    Args:
        members (`int64` array): which documents.
        sizes (`int64` array): their tokens.
    """

    def __init__(self, members: Ints, sizes: Ints) -> None:
        self.members = members
        self.tokens = int(sizes.sum())
        self.weights = sizes**0.75 / (sizes**0.75).sum()
        self._cumulative = self.weights.cumsum()

    def __len__(self) -> int:
        return len(self.members)

    def draw(self, rng: np.random.Generator) -> int:
        """One member."""
        place = int(np.searchsorted(self._cumulative, rng.random(), side="right"))
        return int(self.members[min(place, len(self) - 1)])

    def distinct(self, rng: np.random.Generator, count: int) -> list[int]:
        """At most `count` different members, in random order."""
        # the largest of exponential draws at these rates are a weighted sample without replacement
        order = np.argsort(rng.exponential(size=len(self)) / self.weights)
        return [int(member) for member in self.members[order[: max(count, 1)]]]


def pools_by(names: Sequence[str], sizes: Ints, keep: Bools | None = None) -> dict[str, Pool]:
    """One pool for each name, of the documents that have it and are to be kept."""
    groups: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        if keep is None or keep[index]:
            groups.setdefault(name, []).append(index)
    return {name: Pool(np.array(members), sizes[members]) for name, members in groups.items()}


def pick(pools: dict[str, Pool], rng: np.random.Generator) -> Pool:
    """One pool, drawn by the root of its tokens: small domains are seen more often than in proportion."""
    names = sorted(pools)
    weights = np.sqrt([float(pools[name].tokens) for name in names])
    return pools[names[int(rng.choice(len(names), p=weights / weights.sum()))]]
