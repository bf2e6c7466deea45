"""Names of the Hub's repositories, and what a refusal of the Hub means, in words that say what to do."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from ladm_hf.text import one_line

# How many threads are sending without bars, and whether there will be bars again after the last.
_lock = threading.Lock()
_senders = 0
_had_bars = False

LOG_IN = "log in with `hf auth login` or set HF_TOKEN"


def is_hub_id(name: str) -> bool:
    """Whether a name can be that of a repository on the Hub: `owner/name`, by the Hub's own rules."""
    return "/" in name and is_repo_name(name)


def is_repo_name(name: str) -> bool:
    """Whether a name can be that of a repository on the Hub, with an owner or, as the oldest are, without."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    # older clients of the Hub let letters of any alphabet pass
    if not name.isascii():
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def access_refused(error: BaseException, what: str) -> str | None:
    """What to do where the Hub answered 401 or 403; `None` for any other error.

    Args:
        error (exception): what a client of the Hub raised, with the errors that it came from.
        what (`str`): the repository, for people.
    """
    from huggingface_hub.errors import GatedRepoError

    if any(isinstance(each, GatedRepoError) for each in chain(error)):
        return f"{what} is gated: accept its terms on its page of the Hub, then {LOG_IN}"
    statuses = [getattr(getattr(each, "response", None), "status_code", None) for each in chain(error)]
    if 401 in statuses:
        from huggingface_hub import get_token

        reason = "does not accept the token" if get_token() else "wants to know who you are"
        return f"the Hub {reason} (401) for {what}: {LOG_IN}; check the name of the repository, too"
    if 403 in statuses:
        said = " ".join(str(getattr(each, "server_message", None) or "") for each in chain(error)).strip()
        if "storage" in said.lower():
            return f"the Hub takes no more data for {what} (403): {one_line(said, 300)}"
        return f"the Hub refuses access to {what} (403): {LOG_IN}, with a token that has the right to it"
    return None


@contextlib.contextmanager
def without_upload_bars() -> Iterator[None]:
    """Without `huggingface_hub`'s bars for each upload, unless HF_HUB_DISABLE_PROGRESS_BARS asks for them; for the time
    of a `with` block, in any number of threads at once."""
    from huggingface_hub import constants
    from huggingface_hub.utils import (  # type: ignore[attr-defined]
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    global _senders, _had_bars
    with _lock:
        _senders += 1
        if _senders == 1:
            _had_bars = constants.HF_HUB_DISABLE_PROGRESS_BARS is None and not are_progress_bars_disabled()
            if _had_bars:
                disable_progress_bars()
    try:
        yield
    finally:
        with _lock:
            _senders -= 1
            if _senders == 0 and _had_bars:
                enable_progress_bars()


def chain(error: BaseException) -> Iterator[BaseException]:
    """An error and what it came from."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__
