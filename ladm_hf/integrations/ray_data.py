"""Ray Data: `dataset.map_batches(RowScorer, ...)` on any number of GPUs.

    ray.data.read_parquet("pool/").map_batches(
        RowScorer, fn_constructor_kwargs={"model": "ladm-nano"}, concurrency=8, num_gpus=1, batch_size=256
    ).write_parquet("scored/")

Ray replaces a batch by what the callable returns, so [`RowScorer`] returns the rows with their scores.
`LadmScorer` itself gives the scores alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ladm_hf.scoring.scorer import LadmScorer


class RowScorer(LadmScorer):
    """A [`LadmScorer`] whose calls return the rows of the batch too; it takes the same arguments."""

    def __call__(self, batch: Mapping[str, Any] | Sequence[Any], rank: int | None = None) -> dict[str, Any]:
        """The columns of the batch and the score columns.

        Args:
            batch (mapping of columns): rows, as Ray hands them over.
            rank (`int`, *optional*): leave it to Ray, which shows each actor only its own GPU.
        """
        scores = super().__call__(batch, rank)
        return {**batch, **scores} if isinstance(batch, Mapping) else scores
