"""datatrove: `LadmStep`, a pipeline step that writes the score of each document into its metadata.

LocalPipelineExecutor([JsonlReader("pool/"), LadmStep(LadmScorer()), JsonlWriter("scored/")], tasks=64).run()
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from ladm_hf.errors import BackendError, ConfigError
from ladm_hf.scoring.scorer import LadmScorer

try:
    from datatrove.pipeline.base import PipelineStep
except ImportError as error:
    raise BackendError("datatrove is not installed: pip install 'ladm-hf[datatrove]'") from error


class LadmStep(PipelineStep):  # type: ignore[misc]
    """Adds `ladm_score`, `ladm_num_tokens`, `ladm_status` and `ladm_repetition` to the metadata of each document.

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
            for document, *values in zip(batch, *scores.values(), strict=True):
                score, num_tokens, status, repetition = values
                document.metadata.update(
                    ladm_score=float(score),
                    ladm_num_tokens=int(num_tokens),
                    ladm_status=str(status),
                    ladm_repetition=float(repetition),
                )
                self.stat_update(status.split(":")[0])
                self.update_doc_stats(document)
                yield document
