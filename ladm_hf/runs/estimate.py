"""How long will it take? From a sample before the work, and from what the ranks have done during it.

Work is counted in estimated tokens, the costs of a run's chunks: `seconds left = cost left / (cost done / seconds)`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ladm_hf.data.columns import BYTES_PER_TOKEN, document_roots, documents_of, lengths, pick
from ladm_hf.text import count, duration

if TYPE_CHECKING:
    import pyarrow as pa

    from ladm_hf.data.sources import Source
    from ladm_hf.scoring.scorer import LadmScorer

# Estimated tokens of the first sample, and seconds that a sample must take to tell the speed.
SAMPLE_TOKENS = 32_768
SAMPLE_SECONDS = 2.0
SAMPLES = 4


@dataclass(frozen=True)
class Pace:
    """How far a run is and how fast.

    Attributes:
        done (`float`): estimated tokens in finished chunks and in the finished rows of running ones.
        tokens_per_second (`float`): tokens scored by the running launch, all ranks together.
        seconds_left (`float`, *optional*): `None` while nothing is done.
    """

    done: float
    tokens_per_second: float
    seconds_left: float | None


def pace(costs: Sequence[float], finished: Collection[int], reports: Collection[Mapping[str, Any]]) -> Pace:
    """The pace of a running launch.

    Args:
        costs (sequence of `float`): estimated tokens of each chunk.
        finished (collection of `int`): finished chunks, also those of earlier launches.
        reports (collection of mappings): the last report of each rank of this launch.
    """
    done = sum(costs[chunk] for chunk in finished)
    done += sum(report.get("cost", 0.0) for report in reports if report.get("chunk") not in finished)
    seconds = max((report["time"] - report["began"] for report in reports), default=0.0)
    if seconds <= 0.0:
        return Pace(done, 0.0, None)
    rate = sum(report["tokens"] for report in reports) / seconds
    left = seconds_left(max(0.0, sum(costs) - done), sum(report["done"] for report in reports), seconds)
    return Pace(done, rate, left)


def seconds_left(left: float, done: float, seconds: float) -> float | None:
    """Seconds for work that is left, where some work took some seconds; `None` where nothing is done."""
    return left * seconds / done if done else None


@dataclass(frozen=True)
class Estimate:
    """What scoring will take, by a sample.

    Attributes:
        documents (`int`), tokens (`int`): of the work that is left.
        tokens_per_second (`float`): of one process, without loading the model.
        seconds (`float`): for all processes.
        processes (`int`): that share the work.
    """

    documents: int
    tokens: int
    tokens_per_second: float
    seconds: float
    processes: int = 1

    def part(self, share: float) -> Estimate:
        """What a share of the tokens will take, of documents of the same lengths."""
        return replace(
            self,
            documents=round(share * self.documents),
            tokens=round(share * self.tokens),
            seconds=share * self.seconds,
        )

    def __str__(self) -> str:
        shared = f" by {self.processes} processes" if self.processes > 1 else ""
        return (
            f"about {self.documents:,} documents, {count(self.tokens)} tokens: {duration(self.seconds)}{shared} at "
            f"{count(self.tokens_per_second)} tokens/s each, measured on a sample"
        )


def estimate(
    source: Source,
    scorer: LadmScorer,
    column: str,
    schema: pa.Schema,
    edges: Sequence[int],
    costs: Sequence[float],
    *,
    done: Collection[int] = (),
    processes: int = 1,
    rank: int = 0,
) -> Estimate | None:
    """Scores a few documents of several chunks, without keeping their scores, and extrapolates.

    Args:
        source ([`Source`]), column (`str`), schema (`pa.Schema`): the data, already scanned.
        scorer ([`LadmScorer`]): is loaded first, which does not count.
        edges, costs (sequences): the chunks and their estimated tokens.
        done (collection of `int`, *optional*): chunks that are finished.
        processes (`int`, *optional*): that will share the work.
        rank (`int`, *optional*): local rank of this process.

    Returns:
        `None` where no chunk is left or no sampled document has a token.
    """
    todo = [chunk for chunk in range(len(costs)) if chunk not in done and edges[chunk + 1] > edges[chunk]]
    if not todo:
        return None
    roots = document_roots(schema, column)
    budget, rows, tokens, cost = SAMPLE_TOKENS, 0, 0, 0.0
    timed_cost = timed_tokens = seconds = 0.0
    for chunk in [todo[0], *(todo[n * (len(todo) - 1) // max(1, SAMPLES - 1)] for n in range(SAMPLES))]:
        found, estimated = _sample(source, edges[chunk], edges[chunk + 1], roots, column, budget, scorer)
        if not rows:
            # loads the model, and prepares kernels where there are some
            scorer({column: found}, rank=rank)
        began = time.monotonic()
        counts = scorer({column: found}, rank=rank)["ladm_num_tokens"]
        took = time.monotonic() - began
        scored = int(np.sum(counts))
        rows, tokens, cost = rows + len(found), tokens + scored, cost + estimated
        timed_cost, timed_tokens, seconds = timed_cost + estimated, timed_tokens + scored, seconds + took
        if took < SAMPLE_SECONDS / SAMPLES:
            # too little to tell the speed of a device that takes large batches
            budget *= 4
            timed_cost, timed_tokens, seconds = estimated, float(scored), took
        elif seconds > SAMPLE_SECONDS:
            break
    left = sum(costs[chunk] for chunk in todo)
    if not tokens or not seconds:
        return None
    whole = edges[-1] == sum(edges[chunk + 1] - edges[chunk] for chunk in todo)
    return Estimate(
        documents=edges[-1] if whole and source.unit == "rows" else round(left * rows / cost),
        tokens=round(left * tokens / cost),
        tokens_per_second=timed_tokens / seconds,
        seconds=(seconds_left(left, timed_cost, seconds) or 0.0) / min(processes, len(todo)),
        processes=processes,
    )


def _sample(
    source: Source, start: int, stop: int, roots: list[str], column: str, budget: float, scorer: LadmScorer
) -> tuple[list[Any], float]:
    """The first documents of a chunk, of about `budget` estimated tokens, and their estimated tokens."""
    found: list[Any] = []
    cost = 0.0
    # the cost of JSON lines is that of whole lines
    whole_lines = source.unit == "bytes"
    for rows in source.read(start, stop, None if whole_lines else roots):
        if whole_lines:
            lines = (json.dumps(row, ensure_ascii=False, default=str) for row in rows.table.to_pylist())
            sizes = np.array([len(line.encode()) / BYTES_PER_TOKEN for line in lines])
        else:
            sizes = lengths(pick(rows.table, column))
        costs = np.cumsum(1 + np.minimum(sizes, most_tokens(scorer)))
        number = int(np.searchsorted(costs, budget - cost)) + 1
        found += documents_of(rows.table.slice(0, number), column)
        cost += float(costs[min(number, len(costs)) - 1])
        if cost >= budget:
            break
    return found, cost


def most_tokens(scorer: LadmScorer) -> int:
    """Tokens beyond which a document costs no more."""
    return scorer.config.max_length if scorer.config.overflow == "truncate" else sys.maxsize
