"""A prefix of an object store, over fsspec: a [`Storage`] by requests that may fail, be throttled or lose their answer.

Every verb is repeated while the store is busy or silent, for [`RETRY_SECONDS`] at most, with exponential backoff and
full jitter. A repeated `create` that finds its own content has succeeded before: the answer was lost.

Where a store has a conditional put (S3, Google Cloud Storage, Azure), `create` uses it. Others, such as the buckets of
the Hub, are asked before the put and after it.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from ladm_hf.data.file_systems import BUCKET_PARTS, condition_of, entry_of, open_file_system, secrets_in, time_of
from ladm_hf.data.hub import without_upload_bars
from ladm_hf.data.storage import Entry, LocalFolder, Storage, is_url
from ladm_hf.data.store_errors import CHECK_ACCESS, EXISTS, is_transient, status_of
from ladm_hf.errors import StorageError
from ladm_hf.text import one_line, without_credentials

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Seconds that a request is repeated for; one to a store that has never answered, which may not be there at all.
RETRY_SECONDS = 300.0
FIRST_RETRY_SECONDS = 20.0
FIRST_WAIT, LONGEST_WAIT = 0.2, 20.0
# Requests at the same time.
PARALLEL = 16


class ObjectStore:
    """The objects below a URL.

    Args:
        url (`str`): of any protocol that fsspec knows.
        options (mapping): of its file system, beside fsspec's configuration.

    Raises:
        MissingExtraError, ConfigError: see [`storage_at`].
    """

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        self._secrets = sorted(secrets_in(options), key=len, reverse=True)
        self.name = self._shown(url.rstrip("/"))
        self._open = functools.partial(open_file_system, url, dict(options), self.name)
        self._first, root = self._open()
        self._protocol = url.partition("://")[0]
        self._local = threading.local()
        self.root = root.rstrip("/")
        self._answered = False
        self._exclusive: bool | None = None

    @property
    def fs(self) -> Any:
        """The file system: of each thread its own, where its listings are not made for several threads."""
        if self._first.async_impl:
            return self._first
        if not hasattr(self._local, "fs"):
            self._local.fs, _ = self._open()
        return self._local.fs

    @property
    def exclusive(self) -> bool:
        if self._exclusive is None and not condition_of(self._first):
            self._exclusive = False
        return self._exclusive is not False

    # Verbs

    def check(self) -> None:
        parts = BUCKET_PARTS.get(self._protocol)
        if parts is None:
            return
        bucket = "/".join(self.root.split("/")[:parts])

        def look() -> None:
            try:
                self._fresh("").info(bucket)
            except PermissionError:
                # who may read below a prefix need not be let see the bucket
                return

        self._send("read", look)

    def read(self, name: str) -> bytes | None:
        def read() -> bytes | None:
            try:
                content: bytes = self._fresh(name).cat_file(self._path(name))
            except FileNotFoundError:
                return None
            return content

        return self._send(f"read {name}", read)

    def put(self, name: str, content: bytes, *, retry: bool = True) -> None:
        self._send(f"write {name}", lambda: self.fs.pipe_file(self._path(name), content), retry=retry)

    def create(self, name: str, content: bytes) -> bool:
        if not self.exclusive:
            return self._create_by_looking(name, content)
        try:
            self._send(f"create {name}", lambda: self._put_new(name, content), conditional=True)
        except _Exists:
            return self.read(name) == content
        if self._exclusive is None:
            self._exclusive = self._refuses_a_second(name, content)
        return self._exclusive or self.read(name) == content

    def _put_new(self, name: str, content: bytes) -> None:
        self.fs.pipe_file(self._path(name), content, **condition_of(self._first))

    def _refuses_a_second(self, name: str, content: bytes) -> bool:
        """Whether the store minds the condition, which some take without a word."""
        try:
            self._send(f"create {name}", lambda: self._put_new(name, content), conditional=True)
        except _Exists:
            return True
        return False

    def _create_by_looking(self, name: str, content: bytes) -> bool:
        there = self.read(name)
        if there is None:
            self.put(name, content)
            there = self.read(name)
        return there == content

    def upload(self, file: Path, name: str) -> Entry:
        self._send(f"write {name}", lambda: self.fs.put_file(str(file), self._path(name)))
        return self._written(name, file.stat().st_size)

    def copy(self, name: str, target: str) -> None:
        self._send(f"write {target}", lambda: self._fresh(name).cp_file(self._path(name), self._path(target)))

    def download(self, name: str, file: Path) -> None:
        self._send(f"read {name}", lambda: self._fresh(name).get_file(self._path(name), str(file)))

    def entry(self, name: str) -> Entry | None:
        def look() -> Entry | None:
            try:
                return entry_of(self._fresh(name).info(self._path(name)))
            except FileNotFoundError:
                return None

        return self._send(f"look at {name}", look)

    def entries(self, prefix: str) -> dict[str, Entry]:
        def look() -> dict[str, Any]:
            try:
                found: dict[str, Any] = self._fresh(prefix).find(self._path(prefix), detail=True)
            except FileNotFoundError:
                return {}
            return found

        start = len(self.root) + 1
        found = self._send(f"list {prefix}", look).items()
        return {path[start:]: entry_of(info) for path, info in found if info.get("type") != "directory"}

    def delete(self, names: Iterable[str]) -> None:
        def remove(name: str) -> None:
            try:
                self.fs.rm_file(self._path(name))
            except FileNotFoundError:
                return

        with ThreadPoolExecutor(PARALLEL) as pool:
            list(pool.map(lambda name: self._send(f"delete {name}", functools.partial(remove, name)), names))

    def ages(self, prefix: str) -> dict[str, float]:
        probe = f"{prefix}/clock-{uuid.uuid4().hex}"
        start = len(self.root) + 1
        try:
            self.put(probe, b"clock", retry=False)
            found = self._send(f"list {prefix}", lambda: self._fresh(prefix).find(self._path(prefix), detail=True))
        except (StorageError, FileNotFoundError):
            return {}
        finally:
            with contextlib.suppress(StorageError):
                self.delete([probe])
        times = {path[start:]: time_of(info) for path, info in found.items()}
        now = times.pop(probe, None)
        if now is None:
            return {}
        return {name: max(0.0, (now - written).total_seconds()) for name, written in times.items() if written}

    def urls(self, names: Iterable[str]) -> list[str]:
        """What readers of fsspec URLs take for these objects."""
        return [self._first.unstrip_protocol(self._path(name)) for name in names]

    # Requests

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}" if name else self.root

    def _fresh(self, name: str) -> Any:
        """The file system, without the listings that it kept of where an object lies."""
        self.fs.invalidate_cache(self._path(name))
        return self.fs

    def _written(self, name: str, size: int) -> Entry:
        entry = self.entry(name)
        if entry is None or entry.size != size:
            found = "nothing" if entry is None else f"{entry.size:,} bytes"
            raise StorageError(f"{self.name} holds {found} as {name} after {size:,} bytes were written: try again")
        return entry

    def _send(self, what: str, send: Callable[[], T], *, retry: bool = True, conditional: bool = False) -> T:
        """What a request returns, repeated while the store cannot answer.

        Raises:
            _Exists: a conditional put met an object.
            StorageError: the store refuses or stays silent.
        """
        began = time.monotonic()
        for attempt in range(1_000):
            try:
                with without_upload_bars() if self._protocol == "hf" else contextlib.nullcontext():
                    answer = send()
            except Exception as error:
                if conditional and (isinstance(error, FileExistsError) or status_of(error) == EXISTS):
                    self._exclusive, self._answered = self.exclusive, True
                    raise _Exists from error
                limit = RETRY_SECONDS if self._answered else FIRST_RETRY_SECONDS
                wait = min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(attempt, 10)) * random.random()
                # huggingface_hub looks up a folder that another client has made since it listed the one above
                if not is_transient(error) and not (self._protocol == "hf" and isinstance(error, KeyError)):
                    raise StorageError(self._refusal(what, error)) from None
                if not retry or time.monotonic() - began + wait > limit:
                    raise StorageError(self._silence(what, error, time.monotonic() - began)) from None
                logger.info("%s: cannot %s yet (%s), again in %.1f s", self.name, what, self._reason(error), wait)
                time.sleep(wait)
            else:
                self._answered = True
                return answer
        raise AssertionError("the time for tries is limited")

    def _refusal(self, what: str, error: Exception) -> str:
        reason = self._reason(error)
        if isinstance(error, FileNotFoundError):
            return (
                f"cannot {what} in {self.name}: there is no such bucket ({reason}): create it, correct the URL, or "
                "check that the credentials may see it"
            )
        if isinstance(error, PermissionError) or status_of(error) in (401, 403) or "credentials" in reason.lower():
            return f"cannot {what} in {self.name}: access is refused ({reason}): {CHECK_ACCESS} or storage_options"
        return f"cannot {what} in {self.name}: {reason}"

    def _silence(self, what: str, error: Exception, seconds: float) -> str:
        advice = "run the same command again" if self._answered else "check the URL, the endpoint and the network"
        return (
            f"cannot {what} in {self.name}: the store did not answer for {seconds:.0f} s ({self._reason(error)}). "
            f"Finished chunks are kept: {advice}."
        )

    def _reason(self, error: Exception) -> str:
        return one_line(self._shown(f"{type(error).__name__}: {error}"), 300)

    def _shown(self, text: str) -> str:
        return without_credentials(text, self._secrets)


def storage_at(path: str | os.PathLike[str], options: Mapping[str, Any] | None = None) -> Storage:
    """The storage at a path or a URL of any protocol that fsspec knows.

    Args:
        path (`str` or path): a folder, or a URL.
        options (mapping, *optional*): of the file system of a URL, such as `endpoint_url`; beside what fsspec finds in
            its configuration (`~/.config/fsspec`, `FSSPEC_S3_ENDPOINT_URL`, ...).

    Raises:
        MissingExtraError: the package for the protocol is not installed.
        ConfigError: there is no such protocol, or the options do not suit it.
    """
    text = os.fspath(path)
    if not is_url(text):
        return LocalFolder(Path(text))
    if text.startswith("file://"):
        parts = urlsplit(text)
        return LocalFolder(Path(unquote(parts.netloc + parts.path)), without_credentials(text.rstrip("/")))
    return ObjectStore(text, options or {})


class _Exists(Exception):  # noqa: N818
    """There is an object of that name already."""
