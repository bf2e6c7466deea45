"""Where prepared documents are written: a new folder, whose `data/` appears at once, or an object store.

URL/.ladm/prepare.json      what is being prepared; only the same may go on after a kill
URL/.ladm/data/             files that are there, copied to data/ together at the end
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import pyarrow.parquet as pq
import xxhash

from ladm_hf.data.files import storage_errors
from ladm_hf.data.object_store import PARALLEL, storage_at
from ladm_hf.data.results import refuse_repository
from ladm_hf.data.storage import LocalFolder, Storage, is_url
from ladm_hf.data.temporary import remove_abandoned, temporary_folder
from ladm_hf.errors import RunError
from ladm_hf.runs.output import PENDING

# How folders of unfinished work are called.
TEMPORARY = ".prepare-"
MARK = ".ladm/prepare.json"


class Prepared(Protocol):
    """What both kinds of output are asked for.

    Attributes:
        storage ([`Storage`]): where the result lies.
    """

    @property
    def storage(self) -> Storage: ...
    def check_new(self) -> None: ...
    def begun(self, identity: Any, names: Sequence[str]) -> AbstractContextManager[None]: ...
    def file(self, name: str) -> AbstractContextManager[Path]: ...
    def num_rows(self) -> int: ...
    def files(self) -> AbstractContextManager[list[Path]]: ...


class PreparedFolder:
    """A new folder.

    Args:
        storage ([`LocalFolder`]): the folder.
    """

    def __init__(self, storage: LocalFolder) -> None:
        self.storage = storage
        self.path = storage.path
        self._work = self.path

    def check_new(self) -> None:
        """Refuses a folder that holds something."""
        remove_abandoned(TEMPORARY, self.path)
        if self.path.exists() and any(self.path.iterdir()):
            raise RunError(f"{self.path} is not empty: choose a new folder")

    @contextlib.contextmanager
    def begun(self, identity: Any, names: Sequence[str]) -> Iterator[None]:
        """Files of these names written within a `with` block are `data/` after it."""
        with storage_errors(self.path, "the result"):
            self.path.mkdir(parents=True, exist_ok=True)
        with temporary_folder(TEMPORARY, self.path) as work:
            self._work = work / "data"
            self._work.mkdir()
            yield
            with storage_errors(self.path, "the result"):
                os.rename(self._work, self.path / "data")

    @contextlib.contextmanager
    def file(self, name: str) -> Iterator[Path]:
        """Where to write a file."""
        yield self._work / name

    def num_rows(self) -> int:
        """Rows of the result."""
        return sum(pq.read_metadata(file).num_rows for file in (self.path / "data").iterdir())

    @contextlib.contextmanager
    def files(self) -> Iterator[list[Path]]:
        """The files of the result, in order."""
        yield sorted((self.path / "data").iterdir())


class PreparedObjects:
    """A prefix of an object store.

    Args:
        url (`str`), options (mapping, *optional*): see [`storage_at`].
    """

    def __init__(self, url: str, options: Mapping[str, Any] | None) -> None:
        self._place = (url, options)
        self.storage: Storage = storage_at(url, options)
        self._names: list[str] = []

    def __reduce__(self) -> Any:
        # connections do not go to another process
        return type(self), self._place

    def check_new(self) -> None:
        """Refuses a prefix that holds something else than unfinished work."""
        entries = self.storage.entries("")
        if entries and MARK not in entries:
            raise RunError(f"{self.storage.name} is not empty: choose a new folder")

    @contextlib.contextmanager
    def begun(self, identity: Any, names: Sequence[str]) -> Iterator[None]:
        """Files of these names written within a `with` block are in `data/` after it."""
        mark = json.dumps({"identity": xxhash.xxh3_128_hexdigest(repr(identity).encode())}).encode()
        if not self.storage.create(MARK, mark) and self.storage.read(MARK) != mark:
            raise RunError(
                f"{self.storage.name} holds the unfinished work of `ladm prepare` with other data or options: choose a "
                "new folder, or remove it"
            )
        yield
        with ThreadPoolExecutor(PARALLEL) as pool:
            list(pool.map(lambda name: self.storage.copy(f"{PENDING}/{name}", f"data/{name}"), names))
        self._names = sorted(names)
        self.storage.delete([f"{PENDING}/{name}" for name in names])
        self.storage.delete([MARK])

    @contextlib.contextmanager
    def file(self, name: str) -> Iterator[Path]:
        """Where to write a file of this machine, which is uploaded after the `with` block."""
        with temporary_folder("ladm-prepare-") as folder:
            yield folder / name
            self.storage.upload(folder / name, f"{PENDING}/{name}")

    def num_rows(self) -> int:
        """Rows of the result."""
        with self.files() as files:
            return sum(pq.read_metadata(file).num_rows for file in files)

    @contextlib.contextmanager
    def files(self) -> Iterator[list[Path]]:
        """Copies of the files of the result, in order, for the time of a `with` block."""
        with temporary_folder("ladm-prepare-") as folder:
            files = [folder / name for name in self._names]
            with ThreadPoolExecutor(PARALLEL) as pool:
                list(pool.map(lambda file: self.storage.download(f"data/{file.name}", file), files))
            yield files


def prepared_at(path: str | os.PathLike[str], options: Mapping[str, Any] | None = None) -> Prepared:
    """The output of `ladm prepare` at a path or URL."""
    refuse_repository(path, "prepare")
    return PreparedObjects(os.fspath(path), options) if is_url(path) else PreparedFolder(LocalFolder(Path(path)))
