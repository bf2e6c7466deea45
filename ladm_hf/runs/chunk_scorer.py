"""One chunk, scored into a parquet file: its rows in parts that take some seconds each."""

from __future__ import annotations

import collections
import functools
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ladm_hf.data.columns import document_column, document_roots, documents_of, lengths, pick
from ladm_hf.data.run_record import RunRecord
from ladm_hf.data.score_columns import SCORE_FIELDS
from ladm_hf.data.sources import Rows, Source
from ladm_hf.data.writer import GroupWriter
from ladm_hf.errors import InputError, RowError
from ladm_hf.runs.cascade import FirstPass, both_passes
from ladm_hf.runs.chunks import output_schema
from ladm_hf.runs.estimate import most_tokens
from ladm_hf.runs.monitor import Heartbeat
from ladm_hf.runs.plan import document_columns
from ladm_hf.runs.progress import ErrorCounts
from ladm_hf.scoring.begun import Begun
from ladm_hf.scoring.scorer import LadmScorer

# Rows go to the scorer in parts: of so many estimated tokens at first, beside a device that works on its own of some
# batches, more where that takes less than some seconds.
FIRST_PART_TOKENS, FIRST_DEVICE_PART_TOKENS = 32_768, 524_288
PART_SECONDS = 5.0
# Kinds of errors that the record of a chunk counts, the most frequent ones.
KEPT_ERRORS = 100


class Part(NamedTuple):
    """Rows that go to the scorer together.

    Attributes:
        rows ([`Rows`]): the rows.
        cost (`float`): their estimated tokens.
        limit (`int`, *optional*): estimated tokens at which they were cut; `None` where the rows ended before.
        score ([`Begun`]): gives their score columns by name.
    """

    rows: Rows
    cost: float
    limit: int | None
    score: Begun[dict[str, Any]]


class ChunkScorer:
    """Scores the chunks that one rank takes.

    Args:
        run ([`RunRecord`]): the run.
        source ([`Source`]): its data.
        scorer ([`LadmScorer`]): of this pass.
        first ([`FirstPass`], *optional*): the pass before this one.
        kept (sequence of `str`): columns of the source that stand beside scores alone.
        heart ([`Heartbeat`]): is told how far the work is, and ends it where the run is lost.
        scratch (`Path`): the folder that errors of the disk are told of.
    """

    def __init__(
        self,
        run: RunRecord,
        source: Source,
        scorer: LadmScorer,
        first: FirstPass | None,
        kept: Sequence[str],
        heart: Heartbeat,
        scratch: Path,
    ) -> None:
        self.run, self.source, self.scorer, self.first = run, source, scorer, first
        self.kept, self.heart, self.scratch, self.ranks = kept, heart, scratch, heart.ranks
        self.column = document_column(run.schema, document_columns(scorer))
        self.schema = output_schema(run.schema, run.scores_only, run.score_columns, kept)
        self.part_tokens = FIRST_DEVICE_PART_TOKENS if self.works_ahead() else FIRST_PART_TOKENS
        # parts that are not scored yet
        self._begun: set[Begun[dict[str, Any]]] = set()
        # of the chunk scored last
        self._writer: GroupWriter | None = None

    def works_ahead(self) -> bool:
        """Whether a thread reads and tokenises while a device scores; never for a scorer with a call of its own."""
        return type(self.scorer).__call__ is LadmScorer.__call__ and self.scorer.works_ahead(self.ranks.local)

    def start(self, item: Any) -> bool:
        """Has the device begin with a part, which goes on while the rows before it are finished; `False` for others."""
        if not isinstance(item, Part):
            return False
        item.score.start()
        return True

    def score(self, chunk: int, parts: Iterator[Part], path: Path) -> dict[str, Any]:
        """Scores the parts of a chunk into a parquet file; [`ChunkScorer.take_writer`] gives what finishes it."""
        began = time.monotonic()
        rows = tokens = 0
        statuses: collections.Counter[str] = collections.Counter()
        errors = ErrorCounts()
        writer = self._writer = GroupWriter(path, self.schema, self.scratch)
        try:
            for part in parts:
                self.heart.check()
                table = part.rows.table
                scores = self._score_columns(part, f"chunk {chunk}, rows from {rows} on")
                if part.limit == self.part_tokens and part.score.seconds < PART_SECONDS:
                    self.part_tokens *= 2
                if self.run.scores_only:
                    assert self.run.row_starts is not None
                    first = self.run.row_starts[chunk] + rows
                    columns = [pa.array(np.arange(first, first + table.num_rows))]
                    columns += [table[name] for name in self.kept if name != "index"]
                else:
                    columns = table.columns
                writer.write(pa.table([*columns, *scores], schema=self.schema))
                ok = pc.equal(scores[2], "ok")
                scored = pc.sum(pc.filter(scores[1], ok)).as_py() or 0
                rows += table.num_rows
                tokens += scored
                texts = scores[2].to_pylist()
                statuses.update(status.split(":")[0] for status in texts)
                errors.update(collections.Counter(status for status in texts if status.startswith("error")))
                self.heart.advance(scored, part.cost)
        except BaseException:
            self.take_writer().close()
            raise
        return {
            "rows": rows,
            "tokens": tokens,
            "statuses": statuses,
            "errors": errors.most_common(KEPT_ERRORS),
            "seconds": time.monotonic() - began,
            "rank": self.ranks.index,
            "host": socket.gethostname(),
        }

    def parts(self, chunk: int) -> Iterator[Part]:
        """The rows of a chunk in parts that take some seconds each."""
        columns = None
        if self.run.scores_only:
            columns = list(dict.fromkeys([*document_roots(self.run.schema, self.column), *self.kept]))
        first = None if self.first is None else self.first.chunk(chunk)
        start, stop = self.run.edges[chunk : chunk + 2]
        done = 0
        for found in self._read(start, stop, columns):
            tokens = np.minimum(lengths(pick(found.table, self.column)), most_tokens(self.scorer))
            mine = None if first is None else first.slice(done, found.table.num_rows)
            costs = 1 + (tokens if mine is None else tokens * mine["survives"].to_numpy())
            low = 0
            while low < len(costs):
                limit = self.part_tokens
                high = low + max(1, int(np.searchsorted(np.cumsum(costs[low:]), limit, "right")))
                rows = found.slice(low, high)
                score = self._begin(rows, None if mine is None else mine.slice(low, high - low))
                yield Part(rows, float(costs[low:high].sum()), limit if high < len(costs) else None, score)
                low = high
            done += found.table.num_rows

    def take_writer(self) -> GroupWriter:
        """The file of the chunk scored last, for another to finish: nobody need wait for its compression."""
        writer, self._writer = self._writer, None
        assert writer is not None
        return writer

    def close(self) -> None:
        """Has threads leave out what they do for parts that nobody will score, and lets go of a file left behind."""
        while self._begun:
            self._begun.pop().cancel()
        if self._writer is not None:
            self.take_writer().close()

    def _begin(self, rows: Rows, first: pa.Table | None) -> Begun[dict[str, Any]]:
        """What scores some rows, whose texts are being tokenised already where that is done ahead."""
        texts = documents_of(rows.table, self.column)
        for row in rows.problems:
            texts[row] = None
        if first is not None:
            texts = [text for text, survives in zip(texts, first["survives"].to_pylist(), strict=True) if survives]
        batch = {self.column: texts}
        if self.works_ahead():
            score = self.scorer.begin(batch, self.ranks.local)
        else:
            score = Begun(functools.partial(self.scorer, batch, rank=self.ranks.local))
        if first is not None:
            score = score.then(functools.partial(both_passes, first))
        self._begun.add(score)
        return score

    def _read(self, start: int, stop: int, columns: list[str] | None) -> Iterator[Rows]:
        try:
            yield from self.source.read(start, stop, columns)
        except (OSError, pa.ArrowException) as error:
            raise InputError(
                f"cannot read {self.source.unit} {start:,} to {stop:,} of {self.source.name}: "
                f"{type(error).__name__}: {error}"
            ) from error

    def _score_columns(self, part: Part, where: str) -> list[pa.Array]:
        """The score columns of some rows."""
        problems = part.rows.problems
        try:
            if problems and self.scorer.on_error == "raise":
                row = min(problems)
                raise RowError(f"row {row}: {problems[row]}. With on_error='status' such rows get NaN.")
            found = part.score()
            self._begun.discard(part.score)
        except RowError as error:
            raise RowError(f"in {where}: {error}") from error
        found["ladm_status"] = [problems.get(row, status) for row, status in enumerate(found["ladm_status"])]
        fields = [field for field in SCORE_FIELDS if field.name in self.run.score_columns]
        return [pa.array(found[field.name], field.type) for field in fields]
