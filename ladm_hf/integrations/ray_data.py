"""Ray Data: `dataset.map_batches(RowScorer, ...)` on any number of GPUs.

    ray.data.read_parquet("pool/").map_batches(
        RowScorer, fn_constructor_kwargs={"model": "ladm-nano"}, concurrency=8, num_gpus=1, batch_size=256,
        batch_format="pyarrow",
    ).write_parquet("scored/")

Ray replaces a batch by what the callable returns, so [`RowScorer`] returns the rows with their scores, in each of Ray's
batch formats; of these, NumPy's, the default, rounds integers above 2^53 in a column that has nulls. The scores alone
are what `LadmScorer` gives. In a cluster of unlike machines name `dtype`, which each actor otherwise settles for its
own.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from ladm_hf.errors import ColumnError
from ladm_hf.scoring.inputs import column_names
from ladm_hf.scoring.scorer import LadmScorer


class RowScorer(LadmScorer):
    """A [`LadmScorer`] whose calls return the rows of the batch too; it takes the same arguments."""

    def __call__(self, batch: Any, rank: int | None = None) -> Any:
        """The columns of the batch, as they are, and the score columns.

        Args:
            batch (mapping of columns, `pa.Table` or `DataFrame`): rows, as Ray hands them over.
            rank (`int`, *optional*): leave it to Ray, which shows each actor only its own GPU.

        Returns:
            A `DataFrame` for a `DataFrame`, else a dictionary of columns; the scores alone for a list of documents.

        Raises:
            ColumnError: the batch has no column of documents, or a column of scores already.
        """
        names = column_names(batch)
        taken = [name for name in self.features if name in (names or ())]
        if taken:
            raise ColumnError(f"the batch has a column {taken[0]!r} already: drop or rename it before it is scored")
        scores = super().__call__(batch, rank)
        if names is None:
            return scores
        if isinstance(batch, pd.DataFrame):
            return batch.assign(**scores)
        return {name: batch[name] for name in names} | scores
