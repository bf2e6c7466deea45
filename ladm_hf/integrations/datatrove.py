"""datatrove: `LadmStep`, a pipeline step that writes the score of each document into its metadata.

    LocalPipelineExecutor([JsonlReader("pool/"), LadmStep(LadmScorer()), JsonlWriter("scored/")], tasks=64).run()

datatrove's readers leave rows without a text out, and its writers leave empty values and columns out that the first row
lacks. [`RowReader`] and [`RowWriter`] keep every row and column of parquet files, as `ladm score` does.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from ladm_hf.data.score_columns import score_columns, with_score_columns
from ladm_hf.errors import BackendError, ColumnError, ConfigError
from ladm_hf.scoring.scorer import LadmScorer

try:
    from datatrove.data import Document
    from datatrove.pipeline.base import PipelineStep
    from datatrove.pipeline.readers import ParquetReader
    from datatrove.pipeline.writers import ParquetWriter
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
            data (iterable of `Document`): the documents. One whose metadata say that its text is null, as those of
                [`RowReader`] do, gets the status `null`.
            rank (`int`): number of the task. It picks the GPU where the process sees several; several workers of one
                process do better with one GPU visible to each.
            world_size (`int`): how many tasks there are.
        """
        documents = iter(data)
        while batch := list(itertools.islice(documents, self.batch_size)):
            with self.track_time(unit="batch"):
                # a bare list is a batch of texts
                scores = self.scorer([self._text(document) for document in batch], rank)
            # plain Python values, which every writer takes
            columns = [np.asarray(column).tolist() for column in scores.values()]
            for document, *values in zip(batch, *columns, strict=True):
                document.metadata.update(zip(scores, values, strict=True))
                self.stat_update(document.metadata["ladm_status"].split(":")[0])
                self.update_doc_stats(document)
                yield document

    def _text(self, document: Any) -> str | None:
        null = document.metadata.get(self.scorer.text_column, "") is None
        return None if null and not document.text else document.text


class RowReader(ParquetReader):  # type: ignore[misc]
    """A `ParquetReader` that makes a document of every row, without a text too, with all columns in its metadata.

    Args:
        args, kwargs: those of `ParquetReader`; it takes no `adapter`.
    """

    name = "LADM rows"

    def get_document_from_dict(self, data: dict[str, Any], source_file: str, id_in_file: int | str) -> Any:
        """The document of a row; a text that is null is empty in the document and null in its metadata."""
        if self.text_key not in data:
            raise ColumnError(f"{source_file} has no column {self.text_key!r}, only {list(data)}: name it by text_key")
        identity = data.get(self.id_key)
        return Document(
            text=data[self.text_key] or "",
            id=f"{source_file}/{id_in_file}" if identity is None else str(identity),
            metadata=data,
        )


class RowWriter(ParquetWriter):  # type: ignore[misc]
    """A `ParquetWriter` of the metadata of documents as columns: those of [`RowReader`] and the scores.

    Args:
        output_folder (`str` or `DataFolder`): one file for each task that has rows.
        schema (`pa.Schema`): columns of the rows; one that a row lacks is null.
        scorer ([`LadmScorer`]): what scores them.
        kwargs: further arguments of `ParquetWriter`.

    Raises:
        ColumnError: `schema` has a column of scores already, or a row has a column that is not in it.
    """

    name = "LADM rows"

    def __init__(self, output_folder: Any, schema: pa.Schema, scorer: LadmScorer, **kwargs: Any) -> None:
        schema = with_score_columns(schema, score_columns(scorer.signals))
        # a file that is split would not sort by its name into the order of the rows
        super().__init__(output_folder, schema=schema, **{"max_file_size": -1, **kwargs}, adapter=_columns)


def _columns(writer: RowWriter, document: Any) -> dict[str, Any]:
    others = document.metadata.keys() - set(writer.schema.names)
    if others:
        raise ColumnError(f"document {document.id} has a column {min(others)!r} that the schema lacks: add it there")
    return dict(document.metadata)
