"""Where a result is written: a folder of this machine, or a prefix of an object store.

Both offer the same verbs. Names are relative to the root, with slashes. An object is there whole or not at all:

    check()                 raises where there is no such bucket
    read(name)              its bytes, None where there is none
    put(name, content)      writes it, over another of that name
    create(name, content)   writes it unless there is one: True for exactly one of several writers, see `exclusive`
    upload(file, name)      puts a finished file of this machine there
    copy(name, target)      without a detour over this machine, where the store can
    download(name, file)    the other way
    entry(name), entries(prefix)    size, checksum and version; a listing may lag behind what was written
    ages(prefix)            seconds since each object was written, by the clock of the store alone
    delete(names)           those that are there
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ladm_hf.data.files import temporary_beside, write_atomically

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(::[A-Za-z][A-Za-z0-9+.-]*)*://")


@dataclass(frozen=True)
class Entry:
    """What a store tells of an object.

    Attributes:
        size (`int`): bytes.
        checksum (`str`, *optional*): of the content, by the store's own rule; `None` where it gives none.
        version (`str`): changes whenever the object is written.
    """

    size: int
    checksum: str | None
    version: str


class Storage(Protocol):
    """What a folder and an object store both do; see the module.

    Attributes:
        name (`str`): for people: the path or URL, without credentials.
        exclusive (`bool`): whether `create` lets exactly one writer in. Where it is false, two writers in the same
            moment may both be told that they were first, and the last one's content stays.

    Raises:
        StorageError: any verb, where the store refuses or stays silent.
    """

    name: str

    @property
    def exclusive(self) -> bool: ...
    def check(self) -> None: ...
    def read(self, name: str) -> bytes | None: ...
    def put(self, name: str, content: bytes, *, retry: bool = True) -> None: ...
    def create(self, name: str, content: bytes) -> bool: ...
    def upload(self, file: Path, name: str) -> Entry: ...
    def copy(self, name: str, target: str) -> None: ...
    def download(self, name: str, file: Path) -> None: ...
    def entry(self, name: str) -> Entry | None: ...
    def entries(self, prefix: str) -> dict[str, Entry]: ...
    def delete(self, names: Iterable[str]) -> None: ...
    def ages(self, prefix: str) -> dict[str, float]: ...
    def urls(self, names: Iterable[str]) -> list[str]: ...


def is_url(path: Any) -> bool:
    """Whether a path is a URL of fsspec, such as `s3://bucket/prefix`."""
    return isinstance(path, (str, os.PathLike)) and bool(_URL.match(os.fspath(path)))


class LocalFolder:
    """A folder of this machine, or one that its machines share.

    Args:
        path (`Path`): the folder; made when something is written.
        name (`str`, *optional*): for people; defaults to the path.
    """

    exclusive = True

    def __init__(self, path: Path, name: str | None = None) -> None:
        self.path = path.expanduser().absolute()
        self.name = name or str(self.path)

    def check(self) -> None:
        """Nothing: a folder is made when something is written."""

    def read(self, name: str) -> bytes | None:
        try:
            return (self.path / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def put(self, name: str, content: bytes, *, retry: bool = True) -> None:
        (self.path / name).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path / name, content, sync=retry)

    def create(self, name: str, content: bytes) -> bool:
        target = self.path / name
        temporary = temporary_beside(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(content)
            os.link(temporary, target)
        except FileExistsError:
            return False
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
        return True

    def upload(self, file: Path, name: str) -> Entry:
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_beside(target)
        shutil.copyfile(file, temporary)
        os.replace(temporary, target)
        return _entry(target)

    def copy(self, name: str, target: str) -> None:
        self.upload(self.path / name, target)

    def download(self, name: str, file: Path) -> None:
        shutil.copyfile(self.path / name, file)

    def entry(self, name: str) -> Entry | None:
        try:
            return _entry(self.path / name) if (self.path / name).is_file() else None
        except FileNotFoundError:
            return None

    def entries(self, prefix: str) -> dict[str, Entry]:
        found = {}
        for folder, _, files in os.walk(self.path / prefix):
            for file in sorted(files):
                path = Path(folder, file)
                if ".tmp-" not in file:
                    with contextlib.suppress(FileNotFoundError):
                        found[path.relative_to(self.path).as_posix()] = _entry(path)
        return found

    def delete(self, names: Iterable[str]) -> None:
        for name in names:
            (self.path / name).unlink(missing_ok=True)
            # a folder is no object: gone with the last file in it
            with contextlib.suppress(OSError):
                (self.path / name).parent.rmdir()

    def ages(self, prefix: str) -> dict[str, float]:
        now = file_system_time(self.path / prefix)
        written = {name: int(entry.version.partition("-")[0]) / 1e9 for name, entry in self.entries(prefix).items()}
        return {name: max(0.0, now - at) for name, at in written.items()}

    def urls(self, names: Iterable[str]) -> list[str]:
        """What readers of fsspec URLs take for these objects."""
        return [str(self.path / name) for name in names]


def file_system_time(folder: Path) -> float:
    """Seconds since the epoch by the clock of a folder's file system; by this host's for those who may only read."""
    probe = temporary_beside(folder / "clock")
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:
        return time.time()
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)


def _entry(path: Path) -> Entry:
    found = path.stat()
    return Entry(found.st_size, None, f"{found.st_mtime_ns}-{found.st_ino}")
