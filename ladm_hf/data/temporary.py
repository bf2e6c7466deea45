"""Temporary folders, which a killed command leaves behind and the next one removes.

    PREFIX<host>-<process>-<random>

A folder is abandoned when its process on this host is gone; one of another host, when nothing in it has changed for a
day.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from ladm_hf.data.files import storage_errors

ABANDONED_SECONDS = 86_400.0


@contextlib.contextmanager
def temporary_folder(prefix: str, parent: Path | None = None) -> Iterator[Path]:
    """A new folder for the time of a `with` block, after abandoned ones of the same prefix are removed.

    Args:
        prefix (`str`): beginning of its name.
        parent (`Path`, *optional*): where; defaults to the system's folder for temporary files.
    """
    parent = parent or Path(tempfile.gettempdir())
    remove_abandoned(prefix, parent)
    with storage_errors(parent, "a temporary folder"):
        path = Path(tempfile.mkdtemp(prefix=f"{prefix}{socket.gethostname()}-{os.getpid()}-", dir=parent))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def remove_abandoned(prefix: str, parent: Path) -> None:
    """Removes the folders that killed commands left in `parent`."""
    with contextlib.suppress(OSError):
        for entry in list(os.scandir(parent)):
            mine = entry.name.startswith(prefix) and entry.is_dir(follow_symlinks=False) and _is_ours(entry)
            if mine and _is_abandoned(Path(entry.path), entry.name.removeprefix(prefix)):
                shutil.rmtree(entry.path, ignore_errors=True)


def _is_ours(entry: os.DirEntry[str]) -> bool:
    """Whether this user made it: the system's folder is everybody's."""
    return not hasattr(os, "getuid") or entry.stat(follow_symlinks=False).st_uid == os.getuid()


def _is_abandoned(folder: Path, name: str) -> bool:
    import psutil

    found = re.fullmatch(r"(?P<host>.*)-(?P<process>\d+)-\w+", name)
    changed = max((path.stat().st_mtime for path in (folder, *folder.rglob("*")) if path.exists()), default=0.0)
    if found is None or found["host"] != socket.gethostname():
        return time.time() - changed > ABANDONED_SECONDS
    try:
        # a process that began later has but the number of the one that is gone
        return bool(psutil.Process(int(found["process"])).create_time() > changed)
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:
        return False
