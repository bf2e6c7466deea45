"""Micro-batches for the Trainer: a curriculum of window lengths at a constant number of tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ladm_hf.training.windows import WindowDataset


class Curriculum(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Item `i` is micro-batch `i`: `b` windows as [`WindowDataset`] gives them, stacked, with `b T` constant.

    Args:
        stages (sequence of ([`WindowDataset`], `int`)): the windows of each stage and its micro-batches.
        batch_tokens (`int`): tokens of a micro-batch; at least one window goes into each.
    """

    def __init__(self, stages: Sequence[tuple[WindowDataset, int]], batch_tokens: int) -> None:
        self.stages = stages
        self.batch_tokens = batch_tokens

    def __len__(self) -> int:
        return sum(batches for _, batches in self.stages)

    @property
    def num_tokens(self) -> int:
        """Tokens of all micro-batches."""
        return sum(batches * self._size(windows) * windows.length for windows, batches in self.stages)

    def _size(self, windows: WindowDataset) -> int:
        return max(1, self.batch_tokens // windows.length)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        place = index
        for windows, batches in self.stages:
            if place < batches:
                size = self._size(windows)
                rows = [windows[place * size + row] for row in range(size)]
                return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
            place -= batches
        raise IndexError(index)
