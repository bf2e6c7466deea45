"""One launch at a time: the lock of a run's folder, and telling a dead launch from a live one.

    .ladm/lock          an [`Owner`] as JSON; its modification time is the last sign of life
    .ladm/lock.guard    locked while the lock is taken

A launch on this host is dead when its process is. One on another host is dead when it gives no sign of life while it
is watched: for [`LEASE`] seconds, or for [`GRACE`] where by the file system's clock the last one is older than a lease.

`filelock.SoftFileLease` is a lock of this kind. It frees the lock of a dead launch by exchanging two names in one
step, which NFS and SMB refuse, so that a killed run could not be resumed on the file systems that several hosts share.
It also takes the lock from a process that is suspended, always waits the whole lease for another host, and tells a
reader who holds the lock but not whether that launch is alive.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import filelock
import psutil

from ladm_hf.data.files import storage_errors, write_atomically
from ladm_hf.data.storage import file_system_time
from ladm_hf.errors import RunLockedError
from ladm_hf.runs.folder import RunFolder

# Seconds between two signs of life of a launch, and without one after which a launch on another host is dead.
HEARTBEAT = 1.0
LEASE = 60.0
# Seconds that a launch on this host is given to notice that its launcher has died, and one on another host to show that
# only the clocks differ.
GRACE = 5.0
_POLL = 0.25

State = Literal["alive", "dead", "orphan", "unknown"]


@dataclass(frozen=True)
class Owner:
    """The launch that a lock file names.

    Attributes:
        host (`str`), pid (`int`): where its first rank runs.
        started (`float`): when that process began, in seconds since the epoch.
        launch (`str`): name of the launch.
        launcher (`int`, *optional*): the `torchrun` process above it, without which it ends.
        namespace (`int`, *optional*): what `pid` is counted in; containers with one host name may each have their own.
    """

    host: str
    pid: int
    started: float
    launch: str = ""
    launcher: int | None = None
    namespace: int | None = None

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"

    @property
    def is_local(self) -> bool:
        """Whether its process can be looked at from here."""
        return self.host == socket.gethostname() and self.namespace in (None, _namespace())

    def state(self) -> State:
        """What its process tells, where that can be looked at from here."""
        if not self.is_local:
            return "unknown"
        try:
            process = psutil.Process(self.pid)
            reused = abs(process.create_time() - self.started) >= 2.0
            if reused or process.status() == psutil.STATUS_ZOMBIE:
                return "dead"
            return "orphan" if self.launcher not in (None, process.ppid()) else "alive"
        except psutil.NoSuchProcess:
            return "dead"
        except psutil.AccessDenied:
            return "alive"


class RunLock:
    """The right to write a run's folder, held by one launch at a time."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.path = folder.hidden / "lock"
        self.launch = uuid.uuid4().hex[:12]
        self._released = threading.Event()

    def acquire(self, say: Callable[[str], None] = lambda message: None) -> None:
        """Takes the lock, waiting where a dead launch cannot be told from a live one yet, and gives signs of life from
        then on.

        Raises:
            RunLockedError: another launch is alive.
        """
        with storage_errors(self.folder.path, "the lock"):
            self.folder.hidden.mkdir(parents=True, exist_ok=True)
            for state, owner in self._watch(say):
                if state == "alive":
                    raise self._refusal(owner)
                with self._guard():
                    # unless another launch took it meanwhile
                    if state == "dead" and self.owner() == owner:
                        self._take()
                        return

    def check_free(self, say: Callable[[str], None] = lambda message: None) -> None:
        """Raises what [`acquire`] would, and takes nothing."""
        for state, owner in self._watch(say):
            if state == "alive":
                raise self._refusal(owner)
            if state == "dead":
                return

    def owner(self) -> Owner | None:
        """The launch in the lock file."""
        try:
            return _parse(self.path.read_bytes())
        except OSError:
            return None

    def is_alive(self) -> bool:
        """Whether a launch that may be alive holds the lock."""
        owner = self.owner()
        if owner is None or owner.state() == "dead":
            return False
        return owner.is_local or not self._is_quiet()

    def active(self) -> list[dict[str, Any]]:
        """The last reports of the ranks of the launch that holds the lock."""
        return list(self.folder.ranks().values())

    @property
    def loss(self) -> str:
        """Why the work stops where the lock is no longer held."""
        return (
            f"another launch has taken over {self.folder.path}, since this one gave no sign of life for long. "
            "Nothing is lost; let the other one go on."
        )

    def held(self) -> bool:
        """Whether this launch still has it, as far as the file system answers."""
        try:
            owner = _parse(self.path.read_bytes())
        except OSError as error:
            return not isinstance(error, FileNotFoundError)
        return owner is not None and owner.launch == self.launch

    def release(self) -> None:
        self._released.set()
        if not self.held():
            return
        with self._guard():
            if self.held():
                self.path.unlink(missing_ok=True)

    def _watch(self, say: Callable[[str], None]) -> Iterator[tuple[State, Owner | None]]:
        """The owner and whether it lives, again and again until that is no longer in doubt; "dead" where there is none.

        No launch on another host is dead before it has been watched for a while, in case the two clocks differ.
        """
        watched, beat, since, limit = None, 0.0, 0.0, 0.0
        while True:
            owner = self.owner()
            state = "dead" if owner is None else owner.state()
            if owner is not None and state in ("unknown", "orphan"):
                now, last = time.monotonic(), self._last_beat()
                if owner != watched:
                    watched, beat, since = owner, last, now
                    limit = GRACE if state == "orphan" or self._is_quiet() else LEASE
                    if state == "unknown":
                        say(f"{owner} may have died: waiting up to {limit:.0f} s for a sign of life")
                if state == "unknown" and last != beat:
                    state = "alive"
                elif now - since >= limit:
                    state = "dead" if state == "unknown" else "alive"
            yield state, owner
            time.sleep(_POLL)

    def _is_quiet(self) -> bool:
        """Whether the last sign of life is old by the clock of the file system."""
        return file_system_time(self.path.parent) - self._last_beat() > LEASE

    def _refusal(self, owner: Owner | None) -> RunLockedError:
        return RunLockedError(
            f"another launch is writing {self.folder.path}: {owner}. Wait for it or stop it; "
            f"`ladm score --status {self.folder.path}` shows how far it is."
        )

    def _take(self) -> None:
        me = psutil.Process()
        launcher = me.ppid() if "TORCHELASTIC_RUN_ID" in os.environ else None
        owner = Owner(socket.gethostname(), me.pid, me.create_time(), self.launch, launcher, _namespace())
        write_atomically(self.path, json.dumps(asdict(owner)))
        self._released.clear()
        threading.Thread(target=self._beat, name="ladm-lock", daemon=True).start()

    def _beat(self) -> None:
        """Gives signs of life, which need no space on the disk, until the lock is released or another launch has it."""
        while not self._released.wait(HEARTBEAT) and self.held():
            with contextlib.suppress(OSError):
                os.utime(self.path)

    def _last_beat(self) -> float:
        try:
            return self.path.stat().st_mtime
        except OSError:
            return 0.0

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        """Keeps two launches from judging the lock at the same moment."""
        with filelock.FileLock(self.path.with_name("lock.guard")):
            yield


def _parse(content: bytes) -> Owner | None:
    try:
        found = json.loads(content)
        return Owner(**{name: found[name] for name in Owner.__dataclass_fields__ if name in found})
    except (ValueError, TypeError):
        return None


def _namespace() -> int | None:
    """The namespace of this process's number, where there is such a thing."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return None
