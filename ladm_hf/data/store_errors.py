"""What the errors of object stores mean, whichever client they come from."""

from __future__ import annotations

import errno
from collections.abc import Mapping

from ladm_hf.data.hub import chain

# HTTP statuses of a store that may answer a little later, and of one that has such an object already.
_BUSY = frozenset({408, 409, 423, 425, 429, 500, 502, 503, 504})
EXISTS = 412
_FINAL = (errno.EINVAL, errno.EPERM, errno.EACCES, errno.ENOENT, errno.ENOSYS, errno.ENAMETOOLONG, errno.EROFS)
# What libraries of stores raise where a connection breaks; errors of other libraries are no reason to try again.
_CLIENTS = ("aiohttp", "azure", "google", "httpcore", "httpx", "httpx2", "requests", "urllib3")
CHECK_ACCESS = (
    "check the credentials, by the variables of the store (AWS_PROFILE, HF_TOKEN, ...), fsspec's configuration"
)


def status_of(error: BaseException) -> int | None:
    """The HTTP status that an error of any client of a store came from."""
    for each in chain(error):
        response = getattr(each, "response", None)
        if isinstance(response, Mapping):
            found = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        else:
            found = getattr(response, "status_code", None)
        for status in (found, *(getattr(each, name, None) for name in ("status", "status_code", "code"))):
            if isinstance(status, int) and 100 <= status < 600:
                return status
    return None


def of_client(error: BaseException) -> bool:
    """Whether the client of a store raised an error."""
    return type(error).__module__.partition(".")[0] in (*_CLIENTS, "botocore", "aiobotocore")


def is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed a little later."""
    if isinstance(error, (FileNotFoundError, PermissionError)):
        return False
    status = status_of(error)
    if status is not None:
        return status in _BUSY
    if isinstance(error, (TimeoutError, ConnectionError, EOFError)):
        return True
    if isinstance(error, OSError):
        return error.errno not in _FINAL
    kinds = type(error).__mro__
    if kinds[0].__module__.startswith("botocore"):
        return any(kind.__name__ in ("HTTPClientError", "ConnectionError", "ResponseParserError") for kind in kinds)
    return kinds[0].__module__.partition(".")[0] in _CLIENTS
