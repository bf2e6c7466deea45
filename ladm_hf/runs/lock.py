"""One launch at a time: the lock of a run's folder, and telling a dead launch from a live one."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import filelock
import psutil

from ladm_hf.data.files import storage_errors, write_atomically
from ladm_hf.errors import RunLockedError
from ladm_hf.runs.folder import RunFolder

# Seconds between two signs of life of a launch, and without one after which a launch on another host is dead.
HEARTBEAT = 5.0
LEASE = 60.0
# Seconds that a launch on this host is given to notice that its launcher has died.
GRACE = 5.0


class RunLock:
    """The right to write a run's folder, held by one launch at a time.

    The lock file names host, process and start time, and its modification time is the last sign of life. A launch on
    this host is dead when its process is; one on another host when it gave no sign for [`LEASE`] seconds, by the file
    system's own clock.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.path = folder.hidden / "lock"
        self.launch = uuid.uuid4().hex[:12]

    def acquire(self, say: Callable[[str], None] = lambda message: None) -> None:
        """Takes the lock, waiting where a dead launch cannot be told from a live one yet.

        Raises:
            RunLockedError: another launch is alive.
        """
        with storage_errors(self.folder.path, "the lock"):
            self.folder.hidden.mkdir(parents=True, exist_ok=True)
            began = time.monotonic()
            first = self._last_beat()
            told = False
            while True:
                with self._guard():
                    owner = self.owner()
                    patience = 0.0 if owner is None else self._patience(owner)
                    if patience == 0.0:
                        self._take()
                        return
                beats = patience > GRACE and self._last_beat() != first
                if beats or time.monotonic() - began >= patience:
                    raise RunLockedError(
                        f"another launch is writing {self.folder.path}: {describe_owner(owner)}. Wait for it or stop "
                        f"it; `ladm score --status {self.folder.path}` shows how far it is."
                    )
                if not told and patience > GRACE:
                    say(f"{describe_owner(owner)} may have died: waiting up to {patience:.0f} s for a sign of life")
                    told = True
                time.sleep(0.25)

    def owner(self) -> dict[str, Any] | None:
        """The launch in the lock file."""
        try:
            owner = json.loads(self.path.read_text(encoding="utf-8"))
            return owner if isinstance(owner, dict) and "pid" in owner else None
        except (OSError, ValueError):
            return None

    def is_alive(self) -> bool:
        """Whether a launch that may be alive holds the lock."""
        owner = self.owner()
        return owner is not None and self._patience(owner) > 0.0

    def held(self) -> bool:
        """Whether this launch still has it."""
        owner = self.owner()
        return owner is not None and owner.get("launch") == self.launch

    def beat(self) -> None:
        """Gives a sign of life. It needs no space on the disk."""
        with contextlib.suppress(OSError):
            os.utime(self.path)

    def release(self) -> None:
        if not self.held():
            return
        with self._guard():
            if self.held():
                self.path.unlink(missing_ok=True)

    def _take(self) -> None:
        me = psutil.Process()
        owner = {"host": socket.gethostname(), "pid": me.pid, "started": me.create_time(), "launch": self.launch}
        write_atomically(self.path, json.dumps(owner))

    def _last_beat(self) -> float:
        try:
            return self.path.stat().st_mtime
        except OSError:
            return 0.0

    def _patience(self, owner: dict[str, Any]) -> float:
        """Seconds to wait for the end of a launch: 0 where it is dead."""
        if owner.get("host") == socket.gethostname():
            try:
                alive = abs(psutil.Process(owner["pid"]).create_time() - owner["started"]) < 2.0
            except (psutil.NoSuchProcess, KeyError):
                alive = False
            except psutil.AccessDenied:
                alive = True
            return GRACE if alive else 0.0
        quiet = self._now() - self._last_beat()
        return 0.0 if quiet > LEASE else LEASE + 2 * HEARTBEAT

    def _now(self) -> float:
        """The time by the clock of the folder's file system; by this host's for those who may only read there."""
        probe = self.path.with_name(f"clock.tmp-{uuid.uuid4().hex}")
        try:
            probe.touch()
            return probe.stat().st_mtime
        except OSError:
            return time.time()
        finally:
            with contextlib.suppress(OSError):
                probe.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        """Keeps two launches from judging the lock at the same moment."""
        with filelock.FileLock(self.path.with_name("lock.guard")):
            yield


def describe_owner(owner: dict[str, Any] | None) -> str:
    if owner is None:
        return "a launch"
    return f"process {owner.get('pid')} on {owner.get('host')}"
