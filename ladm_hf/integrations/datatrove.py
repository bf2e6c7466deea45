"""datatrove: `LadmStep`, a pipeline step that writes the score of each document into its metadata.

LocalPipelineExecutor([JsonlReader("pool/"), LadmStep(LadmScorer()), JsonlWriter("scored/")], tasks=64).run()
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from ladm_hf.errors import BackendError, ConfigError
from ladm_hf.scoring.scorer import LadmScorer

try:
    from datatrove.pipeline.base import PipelineStep
except ImportError as error:
    raise BackendError("datatrove is not installed: pip install 'ladm-hf[datatrove]'") from error


class LadmStep(PipelineStep):  # type: ignore[misc]
    """Adds the columns of a scorer to the metadata of each document: `ladm_score` and so on.

    Args:
        scorer ([`LadmScorer`], *optional*):
            Defaults to `LadmScorer()`. It needs a `text_column`.
        batch_size (`int`, *optional*, defaults to `64`):
            Documents scored at once.
    """

    name = "LADM score"
    type = "SCORE"

    def __init__(self, scorer: LadmScorer | None = None, batch_size: int = 64) -> None:
        super().__init__()
        self.scorer = scorer or LadmScorer()
        if self.scorer.text_column is None:
            raise ConfigError("a Document of datatrove has a text: LadmStep needs a LadmScorer with a text_column")
        self.batch_size = batch_size

    def run(self, data: Iterable[Any], rank: int = 0, world_size: int = 1) -> Iterator[Any]:
        """Scores the documents of a task and hands them on, in order.

        Args:
            data (iterable of `Document`): the documents.
            rank (`int`): number of the task.
            world_size (`int`): how many tasks there are.
        """
        documents = iter(data)
        while batch := list(itertools.islice(documents, self.batch_size)):
            with self.track_time(unit="batch"):
                # a bare list is a batch of texts
                scores = self.scorer([document.text for document in batch])
            # plain Python values, which every writer takes
            columns = [np.asarray(column).tolist() for column in scores.values()]
            for document, *values in zip(batch, *columns, strict=True):
                document.metadata.update(zip(scores, values, strict=True))
                self.stat_update(document.metadata["ladm_status"].split(":")[0])
                self.update_doc_stats(document)
                yield document
