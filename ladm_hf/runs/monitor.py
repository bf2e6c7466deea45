"""Beside the work of a rank: reports, its log and, on rank 0, the bar of the run."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import socket
import threading
import time
import traceback
from typing import Any

from ladm_hf.data.run_record import RunRecord
from ladm_hf.errors import RunError, StorageError
from ladm_hf.ranks import Ranks
from ladm_hf.runs.estimate import pace
from ladm_hf.runs.output import Lock, Output
from ladm_hf.runs.progress import ProgressBar
from ladm_hf.text import without_credentials

REPORT_SECONDS = 5


class Heartbeat:
    """The thread beside the work: reports, the log of the rank and, on rank 0, the bar."""

    def __init__(
        self,
        output: Output,
        run: RunRecord,
        launch: str,
        ranks: Ranks,
        lock: Lock | None,
        progress: bool | None,
    ) -> None:
        self.thread = threading.Thread(target=self._beat, name="ladm-heartbeat", daemon=True)
        self.output, self.run, self.launch, self.ranks, self.lock = output, run, launch, ranks, lock
        self.total = float(sum(run.costs))
        self.bar = ProgressBar(self.total, progress if ranks.is_main else False)
        self.stopped = threading.Event()
        self.lost = False
        self.began = time.time()
        self.state = "starting"
        self.chunk = -1
        # Of this launch: estimated tokens and scored tokens of finished rows, and of these the chunk at hand.
        self.done, self.tokens, self.chunks, self.cost = 0.0, 0, 0, 0.0
        # scored chunks that are not recorded yet
        self.uploading: set[int] = set()
        self.parent = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None
        self.log(
            f"launch {launch}: rank {ranks.index} of {ranks.world}, process {os.getpid()} on {socket.gethostname()}"
        )

    def start(self) -> None:
        self.report()
        self.thread.start()

    def _beat(self) -> None:
        beats = 0
        while not self.stopped.wait(1.0):
            if self.parent is not None and os.getppid() != self.parent:
                # the launcher was killed, and nobody would ever stop this process
                self.log("the launcher is gone: leaving")
                os._exit(1)
            beats += 1
            if beats % round(self.output.report_seconds or REPORT_SECONDS) == 0:
                self.report()
                if self.lock is not None:
                    self.lost = self.lost or not self.lock.held()
                    if self.bar.show:
                        with contextlib.suppress(StorageError):
                            self.show()

    def check(self) -> None:
        """Stops the work where another launch has taken the run over."""
        if self.lost:
            assert self.lock is not None
            raise RunError(self.lock.loss)

    def look(self) -> None:
        """The same, as it is now."""
        self.lost = self.lost or (self.lock is not None and not self.lock.held())
        self.check()

    def begin_chunk(self, chunk: int) -> None:
        self.chunk, self.cost, self.state = chunk, 0.0, f"at chunk {chunk}"
        self.log(f"chunk {chunk} begun")

    def advance(self, tokens: int, cost: float) -> None:
        cost = min(cost, max(0.0, self.run.costs[self.chunk] - self.cost))
        self.cost += cost
        self.done += cost
        self.tokens += tokens

    def end_chunk(self) -> None:
        """All rows of the chunk at hand are scored."""
        # the rows of a chunk add up to its cost in parts only where it was known row by row
        self.done += max(0.0, self.run.costs[self.chunk] - self.cost)
        self.uploading.add(self.chunk)
        self.chunk, self.cost, self.state = -1, 0.0, "between chunks"

    def record_chunk(self, chunk: int, record: dict[str, Any]) -> None:
        """A scored chunk counts."""
        self.chunks += 1
        self.uploading.discard(chunk)
        self.log(f"chunk {chunk} finished: {json.dumps(record)}")

    def report(self) -> None:
        values = {
            "state": self.state,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "launch": self.launch,
            "began": self.began,
            "chunk": self.chunk,
            "cost": self.cost + sum(self.run.costs[chunk] for chunk in list(self.uploading)),
            "done": self.done,
            "tokens": self.tokens,
            "chunks": self.chunks,
        }
        self.output.report(self.ranks.index, values)

    def show(self, *, now: bool = False) -> None:
        """Brings the bar up to date with all ranks."""
        finished = self.output.finished(self.run)
        costs = self.run.costs
        found = pace(costs, finished, self.lock.active() if self.lock is not None else ())
        self.bar.update(found, f"{len(finished):,}/{len(costs):,} chunks", now=now)

    def log(self, message: str) -> None:
        """A line in the rank's own file. A full disk does not stop it."""
        stamp = datetime.datetime.now().isoformat(sep=" ", timespec="seconds")
        self.output.log(self.ranks.index, f"{stamp} {without_credentials(message)}\n")

    def end(self, error: BaseException | None) -> None:
        self.stopped.set()
        if self.thread.is_alive():
            self.thread.join()
        if error is None:
            self.state = "finished"
        elif isinstance(error, (KeyboardInterrupt, SystemExit)):
            self.state = "interrupted"
        else:
            self.state = without_credentials(f"failed: {type(error).__name__}: {error}")
            self.log("".join(traceback.format_exception(error)).rstrip())
        self.log(self.state.splitlines()[0])
        self.report()
        if error is None and self.ranks.is_main:
            with contextlib.suppress(StorageError):
                self.show(now=True)
        self.bar.close()
