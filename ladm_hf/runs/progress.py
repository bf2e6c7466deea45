"""How far a run is: a bar for a terminal, lines for a log, and the status of any run, alive or dead."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TextIO

from tqdm.auto import tqdm

from ladm_hf.data.score_columns import FIRST_PASS_ONLY
from ladm_hf.errors import RunError
from ladm_hf.runs.estimate import Pace, pace
from ladm_hf.runs.open import lock_of, output_at
from ladm_hf.runs.output import FIRST_PASS
from ladm_hf.text import count, duration, one_line

# Seconds between two lines in a log: the first soon, then at longer and longer intervals.
FIRST_LINE = 10.0
LAST_INTERVAL = 300.0
# Kinds of errors that a status shows.
SHOWN_ERRORS = 5
_REASONS = {
    "too_short": "too short, see the column ladm_num_tokens: a document needs 2 l + 4 l d_afs + 1 tokens, 2,305 at the "
    "default --span-length l and --d-afs",
    "empty": "the text is empty",
    "null": "the text is null",
    FIRST_PASS_ONLY: "they did not survive the first pass: they repeat themselves (ladm_repetition), or --cascade-keep "
    "is too little",
}


@dataclass(frozen=True)
class RunStatus:
    """The state of a run.

    Attributes:
        state (`str`): `"running"`, `"finished"`, or `"stopped"`, which the same command resumes.
        chunks_done, chunks (`int`): finished chunks and all of them.
        fraction (`float`): share of the estimated tokens in finished chunks and in the rows done of running ones.
        rows, tokens (`int`): rows finished, and tokens scored in them.
        statuses (`dict[str, int]`): finished rows by `ladm_status`; errors count as one.
        errors (`dict[str, int]`): finished rows by the text of their error, the most frequent first. Errors that differ
            in their numbers alone count as one, shown by the first.
        tokens_per_second (`float`): of the running launch, all ranks together; else of the finished chunks.
        seconds_left (`float`, *optional*): estimate, `None` where nothing tells.
        ranks (`dict[int, dict]`): the last report of each rank.
        owner (`str`): process and host of the running launch.
        command (`str`): what started the run last.
        first_pass (`bool`): whether all of this is of the first of two passes, and the second has not begun.
    """

    state: str
    chunks_done: int
    chunks: int
    fraction: float
    rows: int
    tokens: int
    statuses: dict[str, int]
    errors: dict[str, int]
    tokens_per_second: float
    seconds_left: float | None
    ranks: dict[int, dict[str, Any]] = field(repr=False)
    owner: str = ""
    command: str = ""
    first_pass: bool = False

    @property
    def num_scored(self) -> int:
        """Finished rows that have a score."""
        return self.statuses.get("ok", 0)

    def why_nothing_was_scored(self) -> str:
        """One line for a run that ended without a score."""
        if not self.rows:
            return "nothing was scored: the input has no row"
        name, number = max(self.statuses.items(), key=lambda item: item[1])
        reason = next(iter(self.errors)) if name == "error" else _REASONS.get(name, name)
        return f"nothing was scored: none of {self.rows:,} rows has a score. Most frequent, {number:,} rows: {reason}"

    def __str__(self) -> str:
        state = "finished, but nothing was scored" if self.state == "finished" and not self.num_scored else self.state
        state = f"first of two passes, {state}" if self.first_pass else state
        lines = [
            f"{state}: {100 * self.fraction:.1f} %, {self.chunks_done:,} of {self.chunks:,} chunks, "
            f"{self.rows:,} rows, {count(self.tokens)} tokens"
        ]
        if self.tokens_per_second:
            left = f", {duration(self.seconds_left)} left" if self.seconds_left and self.state != "finished" else ""
            lines.append(f"speed: {count(self.tokens_per_second)} tokens/s{left}")
        if self.statuses:
            lines.append("rows: " + ", ".join(f"{number:,} {name}" for name, number in self.statuses.items()))
        lines += [f"  {number:,} rows: {one_line(error, 300)}" for error, number in self.errors.items()][:SHOWN_ERRORS]
        if len(self.errors) > SHOWN_ERRORS:
            lines.append(f"  and {len(self.errors) - SHOWN_ERRORS:,} other errors, in the column ladm_status")
        if self.state == "running":
            lines.append(f"held by {self.owner}")
        now = time.time()
        for rank, report in self.ranks.items():
            seen = duration(max(0.0, now - report.get("time", now)))
            lines.append(
                f"rank {rank} ({report.get('host')}, process {report.get('pid')}): {report.get('state')}, "
                f"{report.get('chunks', 0)} chunks, seen {seen} ago"
            )
        if self.state == "stopped" and self.command:
            lines.append(f"to resume: {self.command}")
        return "\n".join(lines)


def run_status(output_dir: str | os.PathLike[str], *, storage_options: Mapping[str, Any] | None = None) -> RunStatus:
    """The state of the run in a folder or at a URL, whoever runs it.

    Args:
        output_dir (`str` or path): the folder or URL given to [`score_dataset`].
        storage_options (mapping, *optional*): of the file system of a URL, see [`score_dataset`].

    Raises:
        RunError: there is no run.
        StorageError: there is no such bucket; the store refuses or stays silent.
    """
    output = output_at(output_dir, storage_options)
    run = output.load()
    first = f"{os.fspath(output_dir).rstrip('/')}/{FIRST_PASS}"
    if run is None and output_at(first, storage_options).exists():
        found_first = run_status(first, storage_options=storage_options)
        return dataclasses.replace(found_first, first_pass=True, state=found_first.state.replace("finished", "stopped"))
    if run is None:
        output.storage.check()
        raise RunError(f"no run in {output.name}: it has no run.json")
    lock = lock_of(output)
    records = output.records(run)
    complete = len(records) == run.num_chunks and output.is_published(run)
    # a launch that shares a finished run has nothing left to do but to see that
    alive = lock.is_alive() and not (complete and output.shared)
    reports = output.ranks()
    found = pace(run.costs, records, lock.active() if alive else ())
    fraction = min(1.0, found.done / max(1.0, sum(run.costs)))
    rate = found.tokens_per_second
    if not alive and records:
        rate = sum(r["tokens"] for r in records.values()) / max(1e-9, sum(r["seconds"] for r in records.values()))
    statuses: collections.Counter[str] = collections.Counter()
    errors = ErrorCounts()
    for record in records.values():
        statuses.update(record["statuses"])
        errors.update(record.get("errors", {}))
    return RunStatus(
        state="running" if alive else "finished" if complete else "stopped",
        chunks_done=len(records),
        chunks=run.num_chunks,
        fraction=1.0 if complete else fraction,
        rows=sum(record["rows"] for record in records.values()),
        tokens=sum(record["tokens"] for record in records.values()),
        statuses=dict(statuses),
        errors=errors.most_common(),
        tokens_per_second=rate,
        seconds_left=found.seconds_left,
        ranks=reports,
        owner=str(lock.owner()) if alive else "",
        command=run.command,
    )


class ErrorCounts:
    """Counts errors by their text, those that differ in their numbers alone as one."""

    def __init__(self) -> None:
        self._first: dict[str, str] = {}
        self._counts: collections.Counter[str] = collections.Counter()

    def update(self, errors: Mapping[str, int]) -> None:
        for text, number in errors.items():
            kind = re.sub(r"\d[\d,.]*", "#", text)
            self._first.setdefault(kind, text)
            self._counts[kind] += number

    def most_common(self, limit: int | None = None) -> dict[str, int]:
        """Counts by the first text of each kind, the most frequent first."""
        return {self._first[kind]: number for kind, number in self._counts.most_common(limit)}


class ProgressBar:
    """The bar of a whole run, on rank 0; in a log, a line now and then.

    Args:
        total (`float`): estimated tokens of the run.
        show (`bool`, *optional*): `None` shows it, as a bar on a terminal and as lines elsewhere.
        stream (text stream, *optional*): defaults to standard error.
    """

    def __init__(self, total: float, show: bool | None = None, stream: TextIO | None = None) -> None:
        self.total = max(1.0, total)
        # None where the process was started with it closed
        self.stream = stream or sys.stderr
        self.show = show is not False and self.stream is not None
        self.interval = FIRST_LINE
        self.last = time.monotonic()
        self.bar: tqdm[Any] | None = None
        if self.show and self.stream.isatty():
            self.bar = tqdm(
                total=round(self.total),
                unit="tok",
                unit_scale=True,
                desc="LADM",
                file=self.stream,
                bar_format="{desc} {percentage:3.0f} %|{bar}| {postfix}",
            )

    def update(self, pace: Pace, chunks: str, *, now: bool = False) -> None:
        """Shows a pace, and the chunks in words."""
        left = "" if pace.seconds_left is None else f", {duration(pace.seconds_left)} left"
        shown = f"{chunks}, {count(pace.tokens_per_second)} tokens/s{left}"
        if self.bar is not None:
            self.bar.n = min(round(pace.done), round(self.total))
            with self._ignoring_the_terminal():
                self.bar.set_postfix_str(shown)
        elif self.show and (now or time.monotonic() - self.last >= self.interval):
            self.say(f"{100 * min(1.0, pace.done / self.total):.1f} %, {shown}")
            self.last = time.monotonic()
            self.interval = min(LAST_INTERVAL, 2 * self.interval)

    def say(self, message: str) -> None:
        """Shows a line."""
        with self._ignoring_the_terminal():
            if self.bar is not None:
                self.bar.write(f"ladm: {message}", file=self.stream)
            elif self.show:
                print(f"ladm: {message}", file=self.stream, flush=True)

    def close(self) -> None:
        if self.bar is not None:
            with self._ignoring_the_terminal():
                self.bar.close()

    @contextlib.contextmanager
    def _ignoring_the_terminal(self) -> Iterator[None]:
        """A terminal that is gone, or cannot show a character, does not stop a run."""
        try:
            yield
        except (OSError, ValueError):
            self.show, self.bar = False, None
