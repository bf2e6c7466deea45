"""What a command writes, in a folder or at a URL: files, and last a record, with which the result is whole.

folder            data/ and the like are written beside what is there and put in place by renames
object store      .ladm/parts/...          each file as it is finished, by one put: no disk holds them all
                  .ladm/unfinished.json    there while they are copied to their places inside the store
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from ladm_hf.data.data_files import format_of
from ladm_hf.data.files import storage_errors, write_atomically
from ladm_hf.data.object_store import PARALLEL, storage_at
from ladm_hf.data.shards import shard_names
from ladm_hf.data.storage import LocalFolder, Storage, is_url
from ladm_hf.data.temporary import temporary_folder
from ladm_hf.errors import ConfigError, InputError, StorageError
from ladm_hf.text import without_credentials

UNFINISHED = ".ladm/unfinished.json"
_PARTS = ".ladm/parts"
# Commands whose result is a page, which no card is made for.
_PAGES = ("report", "compare")
_REPOSITORY = re.compile(r"hf://(?!buckets/)(?:datasets/|spaces/|models/)?([^/@]+/[^/@]+)?")
# A function that writes files into a folder and hands on each when it is finished.
Make = Callable[[Path], Iterable[Path]]


class Result(Protocol):
    """A result that is being written."""

    def add(self, folder: str, make: Make, split: str | None = None) -> None:
        """Takes the files of a folder of the result.

        Args:
            folder (`str`): its name.
            make (callable): writes the files.
            split (`str`, *optional*): whose parts they are; without one they keep their names.
        """

    def finish(self, record: str, content: str) -> None:
        """Puts the folders in place of what was there, then writes the record."""


@contextlib.contextmanager
def new_result(storage: Storage, prefix: str) -> Iterator[Result]:
    """A result to write within a `with` block; without [`Result.finish`] nothing of it remains.

    Args:
        storage ([`Storage`]): where, from [`result_at`].
        prefix (`str`): what folders of unfinished work are called.

    Raises:
        StorageError: it cannot be written.
    """
    if isinstance(storage, LocalFolder):
        with storage_errors(Path(storage.name), "the result"):
            storage.path.mkdir(parents=True, exist_ok=True)
        with temporary_folder(prefix, storage.path) as work:
            yield _FolderResult(storage, work)
        return
    with temporary_folder(f"ladm{prefix.replace('.', '-')}") as work:
        result = _StoreResult(storage, work)
        try:
            yield result
        except BaseException:
            result.abandon()
            raise


class _FolderResult:
    def __init__(self, storage: LocalFolder, work: Path) -> None:
        self.storage, self.work = storage, work
        self.folders: list[str] = []

    def add(self, folder: str, make: Make, split: str | None = None) -> None:
        files = list(make(self.work / folder))
        names = [file.name for file in files] if split is None else shard_names(split, len(files))
        for file, name in zip(files, names, strict=True):
            file.rename(file.with_name(name))
        self.folders.append(folder)

    def finish(self, record: str, content: str) -> None:
        path = self.storage.path
        with storage_errors(Path(self.storage.name), "the result"):
            write_atomically(self.work / record, content)
            (path / record).unlink(missing_ok=True)
            for folder in self.folders:
                if (path / folder).exists():
                    shutil.rmtree(path / folder)
                os.replace(self.work / folder, path / folder)
            os.replace(self.work / record, path / record)


class _StoreResult:
    def __init__(self, storage: Storage, work: Path) -> None:
        self.storage, self.work = storage, work
        # where each file goes, by where it is
        self.places: dict[str, str] = {}
        self.folders: list[str] = []
        self.replaces = False
        # of an attempt that was killed
        storage.delete(storage.entries(_PARTS))
        storage.put(UNFINISHED, b"{}")

    def add(self, folder: str, make: Make, split: str | None = None) -> None:
        parts: list[tuple[str, str]] = []
        for file in make(self.work / folder):
            part = f"{_PARTS}/{folder}/{len(parts):05d}"
            self.storage.upload(file, part)
            file.unlink()
            parts.append((part, file.name))
        names = [name for _, name in parts] if split is None else shard_names(split, len(parts))
        self.places.update({part: f"{folder}/{name}" for (part, _), name in zip(parts, names, strict=True)})
        self.folders.append(folder)

    def finish(self, record: str, content: str) -> None:
        self.replaces = True
        self.storage.delete([record])
        for folder in self.folders:
            self.storage.delete(self.storage.entries(folder))
        with ThreadPoolExecutor(PARALLEL) as pool:
            list(pool.map(self.storage.copy, self.places, self.places.values()))
        self.storage.put(record, content.encode())
        self.storage.delete([*self.places, UNFINISHED])

    def abandon(self) -> None:
        """Removes what was written, unless what was there before is gone already."""
        if not self.replaces:
            with contextlib.suppress(StorageError):
                self.storage.delete([*self.storage.entries(_PARTS), UNFINISHED])


def result_at(output: str | os.PathLike[str], command: str) -> Storage:
    """Where a command writes its result: a folder, or a URL of any protocol that fsspec knows.

    Raises:
        ConfigError, MissingExtraError: nothing can be written there, see [`refuse_repository`].
    """
    refuse_repository(output, command)
    if is_url(output):
        return storage_at(output)
    path = Path(output).expanduser()
    return LocalFolder(path, str(path))


def refuse_repository(output: str | os.PathLike[str], command: str | None = None) -> None:
    """Refuses a repository of the Hub as an output: it takes a commit for every file, and not many in an hour.

    Args:
        output (`str` or path): where to.
        command (`str`, *optional*): that writes there, `None` where no command makes a result of it.

    Raises:
        ConfigError: it is one; the message names the two commands that do what is wanted.
    """
    if not is_url(output) or not (found := _REPOSITORY.match(os.fspath(output))):
        return
    repository = found[1] or "OWNER/NAME"
    place = f"hf://buckets/{repository}/output"
    then = f"ladm publish {place} {repository}"
    if command in _PAGES:
        place, then = command, f"hf upload {repository} {command} {command} --repo-type dataset"
    instead = f"give a bucket, such as {place}" if command is None else f"`ladm {command}` into {place}, then `{then}`"
    raise ConfigError(
        f"{without_credentials(os.fspath(output))} is a repository, where every file written is a commit, and the Hub "
        f"limits commits by the hour: {instead}"
    )


def check_free(storage: Storage, record: str, folders: Iterable[str], writer: str) -> bytes | None:
    """The record of the result that a place holds, `None` where it holds none.

    Args:
        storage ([`Storage`]): the place.
        record (`str`), folders (iterable of `str`): names of the result.
        writer (`str`): what writes such results, for people.

    Raises:
        InputError: it holds other data under a name of the result.
    """
    content = storage.read(record)
    if content is not None or storage.read(UNFINISHED) is not None:
        return content
    if isinstance(storage, LocalFolder):
        there = [storage.name] if storage.path.is_file() else []
        there += [f"{storage.name}/{folder}" for folder in folders if (storage.path / folder).exists()]
    else:
        there = [f"{storage.name}/{folder}" for folder in folders if storage.entries(folder)]
    if there:
        raise InputError(f"{there[0]} is there already and was not written by {writer}: choose another folder")
    return None


def write_report(output: str | os.PathLike[str], files: Mapping[str, bytes | str], command: str) -> None:
    """Writes the files of a report; what is there under other names is left alone.

    Raises:
        InputError, StorageError: they cannot be written.
    """
    storage = result_at(output, command)
    try:
        for name, content in files.items():
            storage.put(name, content.encode() if isinstance(content, str) else content)
    except OSError as error:
        raise InputError(f"the report cannot be written to {storage.name}: {error}") from error


def place_in(output: str | os.PathLike[str], name: str = "") -> Path | str:
    """A file of an output, or the output: a path, or a URL as it was given."""
    if not is_url(output):
        return Path(output).expanduser() / name
    return "/".join(filter(None, (os.fspath(output).rstrip("/"), name)))


def read_record(data: Any, record: str) -> bytes | None:
    """The record of a result, given its folder or URL; `None` where there is none, or the data are something else.

    Raises:
        StorageError: the store refuses or stays silent.
    """
    if not isinstance(data, (str, os.PathLike)):
        return None
    if not is_url(data):
        return LocalFolder(Path(data)).read(record)
    url = os.fspath(data)
    # a glob or a file is no result, and a web server has no folders
    if any(char in url for char in "*?[") or format_of(url) or urlsplit(url).scheme in ("http", "https"):
        return None
    return storage_at(url).read(record)
