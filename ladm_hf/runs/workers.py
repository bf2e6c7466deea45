"""The workers of a run in an object store, who share it without a lock: signs of life and claims.

    .ladm/ranks/<launch>-<rank>.json      what a worker is doing, written again every [`BEAT`] seconds
    .ladm/claims/00012-000.json           the worker that has taken chunk 12; 00012-001 one that took it over

A worker is dead when its report says that it ended, when its process on this machine is gone, or when its report has
not changed for [`LEASE`] seconds while it was watched. These seconds are counted by the watcher's own monotonic clock,
so that no two clocks are compared.

A claim saves work, it decides nothing: a chunk that two workers finish counts once, see `objects`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil

from ladm_hf.data.run_record import RUN_FILE
from ladm_hf.data.storage import Storage
from ladm_hf.errors import RunLockedError, StorageError
from ladm_hf.runs.output import CLAIMS, RANKS, Say, parse, silent

# Seconds between two signs of life of a worker, and without one after which it is dead.
BEAT = 15.0
LEASE = 90.0
_POLL = 2.0
_CLAIM = re.compile(r"(\d+)-(\d+)\.json")
_ENDED = ("finished", "interrupted", "failed")


class Workers:
    """Who else works on a run, and on what.

    Attributes:
        launch (`str`): name of this launch.

    Args:
        storage ([`Storage`]): of the run.
    """

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.launch = uuid.uuid4().hex[:12]
        self.run_id = ""
        # by worker: the version of its report, and when that was first seen by this process's own clock
        self._seen: dict[str, tuple[str, float]] = {}

    # The right to write, which every launch with the same settings has

    def acquire(self, say: Say = silent) -> None:
        """Nothing: launches do not exclude each other."""

    def check_free(self, say: Say = silent) -> None:
        """Nothing: launches do not exclude each other."""

    def release(self) -> None:
        """Nothing: the last report says that the worker ended."""

    def check_idle(self, say: Say) -> None:
        """Refuses to discard a run that a worker may still be writing, waiting where that is in doubt.

        Raises:
            RunLockedError: a worker is alive.
        """
        self.look()
        waiting = [worker for worker in self._seen if not self.is_dead(worker)]
        if waiting:
            say(f"{len(waiting):,} workers may still be alive: waiting up to {LEASE:.0f} s for a sign of life")
        first = {worker: self._seen[worker][0] for worker in waiting}
        while waiting := [worker for worker in waiting if not self.is_dead(worker)]:
            self.look()
            alive = next((w for w in waiting if w in self._seen and self._seen[w][0] != first[w]), None)
            if alive is not None:
                raise RunLockedError(
                    f"{_shown(self._read(alive))} is writing {self.storage.name}: wait for it or stop it before you "
                    f"discard the run; `ladm score --status {self.storage.name}` shows who works on it"
                )
            time.sleep(min(_POLL, LEASE / 10))

    def is_alive(self) -> bool:
        """Whether somebody works on the run, as far as one look tells."""
        return bool(self.active())

    def owner(self) -> str:
        """Who works on the run, for people."""
        active = self.active()
        others = f" and {len(active) - 1:,} more" if len(active) > 1 else ""
        return f"{_shown(active[0])}{others}" if active else ""

    def active(self) -> list[dict[str, Any]]:
        """The reports of the workers that gave a sign of life within a lease, by the clock of the store."""
        ages = self.storage.ages(RANKS)
        reports = [self._read(_worker(name)) for name, age in ages.items() if age <= LEASE]
        return [report for report in reports if report and not _has_ended(report)]

    def held(self) -> bool:
        """Whether the run is still the one that this launch works on, as far as the store answers."""
        try:
            content = self.storage.read(RUN_FILE)
        except StorageError:
            return True
        return (parse(content) or {}).get("run_id") == self.run_id

    @property
    def loss(self) -> str:
        """Why the work stops where `held` is false."""
        return (
            f"the run in {self.storage.name} was discarded or begun anew by another launch: run the same command again "
            "to work on the new one"
        )

    # Signs of life

    def report(self, worker: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """The report of a worker of this machine, with what tells others that it is alive; and looks at theirs."""
        with contextlib.suppress(StorageError, OSError):
            self.look()
        return {**values, "machine": _machine(), "started": _started(), "beat": uuid.uuid4().hex[:8]}

    def look(self) -> None:
        """Notes which workers gave a sign of life since the last look."""
        now = time.monotonic()
        for name, entry in self.storage.entries(RANKS).items():
            worker = _worker(name)
            if worker not in self._seen or self._seen[worker][0] != entry.version:
                self._seen[worker] = (entry.version, now)

    def is_dead(self, worker: str) -> bool:
        """Whether a worker has ended, or gave no sign of life for a lease."""
        report = self._read(worker)
        if report is None or _has_ended(report):
            return True
        seen = self._seen.setdefault(worker, ("", time.monotonic()))
        return time.monotonic() - seen[1] >= LEASE

    def reports(self) -> dict[str, dict[str, Any]]:
        """The last reports by worker, those of one launch beside each other."""
        found = {_worker(name): self._read(_worker(name)) for name in self.storage.entries(RANKS)}
        known = {worker: report for worker, report in found.items() if report is not None}
        return dict(sorted(known.items(), key=lambda item: (item[1].get("began", 0.0), item[0])))

    def forget_the_dead(self) -> None:
        """Removes the reports of workers that are gone."""
        self.look()
        self.storage.delete([_report(worker) for worker in list(self._seen) if self.is_dead(worker)])

    def _read(self, worker: str) -> dict[str, Any] | None:
        return parse(self.storage.read(_report(worker)))

    # Claims

    def claims(self) -> dict[int, int]:
        """The last claim of each chunk that has one: how often it was taken over."""
        found: dict[int, int] = {}
        for chunk, number in self._claims():
            found[chunk] = max(number, found.get(chunk, 0))
        return found

    def claim(self, chunk: int, number: int, worker: str) -> bool:
        """Takes a chunk; false where another worker has it."""
        return self.storage.create(_claim(chunk, number), json.dumps({"worker": worker}).encode())

    def holder(self, chunk: int, number: int) -> str:
        """The worker that has a claim."""
        return str((parse(self.storage.read(_claim(chunk, number))) or {}).get("worker"))

    def _claims(self) -> Iterator[tuple[int, int]]:
        for name in self.storage.entries(CLAIMS):
            found = _CLAIM.fullmatch(name.rpartition("/")[2])
            if found:
                yield int(found[1]), int(found[2])


def worker_name(launch: str, rank: int) -> str:
    return f"{launch}-{rank:05d}"


def _report(worker: str) -> str:
    return f"{RANKS}/{worker}.json"


def _worker(name: str) -> str:
    return name.rpartition("/")[2].removesuffix(".json")


def _claim(chunk: int, number: int) -> str:
    return f"{CLAIMS}/{chunk:05d}-{number:03d}.json"


def _shown(report: Mapping[str, Any] | None) -> str:
    return f"process {(report or {}).get('pid')} on {(report or {}).get('host')}"


def _has_ended(report: Mapping[str, Any]) -> bool:
    """Whether a report is the last of its worker, or of a process of this machine that is gone."""
    if str(report.get("state")).startswith(_ENDED):
        return True
    if report.get("machine") != _machine():
        return False
    try:
        process = psutil.Process(int(report["pid"]))
        reused = abs(process.create_time() - float(report["started"])) >= 2.0
        return bool(reused or process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True
    except (psutil.Error, KeyError, TypeError, ValueError):
        return False


def _machine() -> str:
    """What tells this machine, and this container on it, from any other."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}-{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        # nothing to go by: only the lease tells
        return f"{socket.gethostname()}-{uuid.uuid4().hex}"


def _started() -> float:
    return float(psutil.Process().create_time())
