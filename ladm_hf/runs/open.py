"""The output at a path or a URL, and the right to write it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ladm_hf.data.object_store import storage_at
from ladm_hf.data.results import refuse_repository
from ladm_hf.data.storage import is_url
from ladm_hf.errors import ConfigError
from ladm_hf.runs.folder import RunFolder
from ladm_hf.runs.lock import RunLock
from ladm_hf.runs.objects import RunObjects
from ladm_hf.runs.output import Lock, Output


def output_at(path: str | os.PathLike[str], options: Mapping[str, Any] | None = None) -> Output:
    """The output at a path or URL.

    Args:
        path (`str` or path): a folder, or a URL of any protocol that fsspec knows.
        options (mapping, *optional*): of the file system of a URL, see [`storage_at`].

    Raises:
        ConfigError, MissingExtraError: nothing can be written there.
    """
    if is_url(path):
        refuse_repository(path, "score")
        return RunObjects(storage_at(path, options))
    if options:
        raise ConfigError(f"storage_options are for URLs, and {os.fspath(path)!r} is a folder: leave them out")
    return RunFolder(path)


def lock_of(output: Output) -> Lock:
    """The right to write an output, for one launch."""
    return output.workers if isinstance(output, RunObjects) else RunLock(output)  # type: ignore[arg-type]
