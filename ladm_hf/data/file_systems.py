"""What differs between the file systems of fsspec: how they are opened, put a new object and describe one."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from ladm_hf.data.storage import Entry
from ladm_hf.errors import ConfigError, MissingExtraError
from ladm_hf.text import one_line, without_credentials

# How many parts of a path name the bucket.
BUCKET_PARTS = {"s3": 1, "s3a": 1, "gs": 1, "gcs": 1, "az": 1, "abfs": 1, "abfss": 1, "hf": 3}
# Names of a secret among the options of a file system.
_SECRET = ("secret", "key", "token", "password", "sas", "credential")
# Fields of fsspec's `info()` that are a checksum of the content, and those that change with a write.
_CHECKSUMS = ("md5Hash", "xet_hash", "ETag", "content_md5", "blob_id")
_VERSIONS = (
    "generation", "etag", "LastModified", "updated", "last_modified", "uploaded_at", "mtime", "modified", "created",
)  # fmt: skip


def open_file_system(url: str, options: dict[str, Any], shown: str) -> tuple[Any, str]:
    """The file system of a URL, and the path there.

    Args:
        url (`str`): of any protocol that fsspec knows.
        options (`dict`): of the file system.
        shown (`str`): the URL for people.

    Raises:
        MissingExtraError: the package for the protocol is not installed.
        ConfigError: there is no such protocol, or the options do not suit it.
    """
    import fsspec
    from fsspec.registry import known_implementations

    protocol = url.partition("://")[0]
    try:
        # a listing that was kept would hide what others write
        return fsspec.url_to_fs(url, **{"use_listings_cache": False, **options})  # type: ignore[no-any-return]
    except ImportError as error:
        package = str(known_implementations.get(protocol, {}).get("class", protocol)).partition(".")[0]
        raise MissingExtraError(f"{shown} needs the package {package}: pip install {package}") from error
    except (ValueError, TypeError) as error:
        reason = one_line(without_credentials(str(error), secrets_in(options)), 200)
        raise ConfigError(f"cannot open {shown}: {reason}") from None


def condition_of(fs: Any) -> dict[str, Any]:
    """The option of a conditional put; none where the store has no such put."""
    kind = type(fs)
    put = getattr(kind, "_pipe_file", None) or kind.pipe_file
    # what fsspec offers where a store has none looks first and writes then
    if put.__qualname__.split(".")[0] in ("AbstractFileSystem", "AsyncFileSystem"):
        return {}
    options = inspect.signature(put).parameters
    return {"mode": "create"} if "mode" in options else {"overwrite": False} if "overwrite" in options else {}


def secrets_in(options: Any) -> list[str]:
    """The values of options that nobody else may read."""
    found = []
    for name, value in options.items() if isinstance(options, Mapping) else ():
        if isinstance(value, Mapping):
            found += secrets_in(value)
        elif isinstance(value, str) and len(value) > 3 and any(part in str(name).lower() for part in _SECRET):
            found.append(value)
    return found


def entry_of(info: Mapping[str, Any]) -> Entry:
    """An object by what fsspec tells of it."""
    checksum = next((str(info[name]) for name in _CHECKSUMS if info.get(name)), None)
    md5 = (info.get("content_settings") or {}).get("content_md5")
    if md5:
        checksum = bytes(md5).hex()
    versions = [str(info[name]) for name in _VERSIONS if info.get(name)]
    return Entry(int(info.get("size") or 0), checksum, "/".join([*([checksum] if checksum else []), *versions]))


def time_of(info: Mapping[str, Any]) -> datetime | None:
    """When an object was written, by the clock of the store."""
    for name in ("uploaded_at", "LastModified", "updated", "last_modified", "modified", "created"):
        value = info.get(name)
        if isinstance(value, str):
            value = datetime.fromisoformat(value.replace("Z", "+00:00"))
        if isinstance(value, datetime):
            return value
    return None
