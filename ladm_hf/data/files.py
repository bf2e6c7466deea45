"""Files that are there whole or not at all, their hashes, and the errors of a full disk."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import xxhash

from ladm_hf.errors import StorageError

# The options of the command that made a result, beside it.
OPTIONS_FILE = "options.yaml"
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


def hash_file(path: Path) -> str:
    """xxh3 of a file's bytes."""
    digest = xxhash.xxh3_128()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def temporary_beside(path: Path) -> Path:
    """A name beside a file for what is to replace it, of this thread alone."""
    return path.with_name(f"{path.name}.tmp-{os.getpid()}-{threading.get_ident()}")


def write_atomically(path: Path, content: str | bytes, *, sync: bool = True) -> None:
    """Writes a small file so that it is there whole or not at all."""
    temporary = temporary_beside(path)
    try:
        with open(temporary, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def storage_errors(path: Path, what: str) -> Iterator[None]:
    """Turns the errors of a full or read-only file system into one that says how to continue."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_SPACE or "No space left" in str(error) or "quota exceeded" in str(error).lower():
            raise StorageError(
                f"no space left in {path}, while writing {what}. Finished chunks are kept and nothing half-written is "
                "left: free some space and run the same command again."
            ) from error
        raise StorageError(
            f"cannot write {what} in {path}: {error}. What is finished is kept: see to the disk and run the same "
            "command again."
        ) from error


def sync_folder(path: Path) -> None:
    """Makes a rename survive a power cut, where the file system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
