"""A time limit on every request to the Hub, and retries of every request that is safe to repeat.

`huggingface_hub` waits without limit for a silent server and repeats only some requests. Inside [`hub_retries`] its
shared client gives up on silence after `RetryPolicy.timeout` seconds and repeats all requests but those that would do
something twice: a commit, the opening of a pull request and the start of a job. Their caller must look at what the Hub
holds before it tries again.
"""

from __future__ import annotations

import logging
import random
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from ladm_hf.errors import HubUnavailableError

logger = logging.getLogger(__name__)

BUSY = frozenset({408, 409, 412, 429, 500, 502, 503, 504})
# Repeating these would do something twice.
_ONCE = re.compile(r"/api/(\w+/[^/]+/[^/]+/(commit/[^/]+|discussions)|jobs/[^/]+)$")
# Here 409 is the answer "it exists already", not a conflict that passes.
_CREATES = re.compile(r"/api/(repos/create|\w+/[^/]+/[^/]+/(branch|tag)/[^/]+)$")


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """How often and how long a request to the Hub is tried.

    Args:
        tries (`int`, *optional*, defaults to `8`):
            Times a request is sent before giving up.
        first_wait (`float`, *optional*, defaults to `1.0`):
            Seconds before the second try; each further wait is twice as long, give or take a quarter.
        longest_wait (`float`, *optional*, defaults to `60.0`):
            Longest wait of our own choice, in seconds.
        longest_asked_wait (`float`, *optional*, defaults to `900.0`):
            Longest wait that the Hub may ask for (`RateLimit` or `Retry-After`), in seconds; beyond it we give up.
        timeout (`float`, *optional*, defaults to `120.0`):
            Seconds of silence, to connect or between two packets, after which a request counts as lost.
    """

    tries: int = 8
    first_wait: float = 1.0
    longest_wait: float = 60.0
    longest_asked_wait: float = 900.0
    timeout: float = 120.0

    def wait(self, attempt: int, headers: Mapping[str, str] | None = None) -> float:
        """Seconds to wait after try `attempt` (from 0) failed: what the answer's headers ask, else our own rule."""
        asked = asked_wait(headers or {})
        if asked:
            return asked
        return min(self.longest_wait, self.first_wait * 2.0**attempt) * random.uniform(0.75, 1.25)

    def pause(self, attempt: int, what: str, problem: str, headers: Mapping[str, str] | None = None) -> None:
        """Waits before the next try, or gives up.

        Raises:
            HubUnavailableError: that was the last try, or the Hub asks for too long a wait.
        """
        seconds = self.wait(attempt, headers)
        if attempt + 1 >= self.tries:
            raise HubUnavailableError(f"{what}: {problem}, {self.tries} tries in a row")
        if seconds > self.longest_asked_wait:
            raise HubUnavailableError(f"{what}: {problem}; the Hub asks to come back in {seconds:.0f} s")
        logger.warning("%s: %s; try %d of %d in %.1f s", what, problem, attempt + 2, self.tries, seconds)
        time.sleep(seconds)


def asked_wait(headers: Mapping[str, str]) -> float | None:
    """The seconds a rate-limited or busy Hub asks to wait, from `RateLimit` (`"api";r=0;t=30`) or `Retry-After`."""
    lower = {name.lower(): value for name, value in headers.items()}
    limit = re.search(r"r\s*=\s*0\s*;\s*t\s*=\s*(\d+)", lower.get("ratelimit", ""))
    if limit:
        return float(limit[1])
    after = lower.get("retry-after", "").strip()
    if after.isdigit():
        return float(after)
    try:
        until = parsedate_to_datetime(after)
    except ValueError:
        return None
    until = until if until.tzinfo else until.replace(tzinfo=UTC)
    return max(0.0, (until - datetime.now(UTC)).total_seconds())


def transport_errors() -> tuple[type[Exception], ...]:
    """What the HTTP library under `huggingface_hub` raises when a connection breaks or stays silent."""
    from huggingface_hub import get_session

    for base in type(get_session()).__mro__:
        library = sys.modules[base.__module__.partition(".")[0]]
        for name in ("TransportError", "RequestException"):
            if hasattr(library, name):
                return (getattr(library, name),)
    raise AssertionError("huggingface_hub uses an unknown HTTP library")


@contextmanager
def hub_retries(retry: RetryPolicy) -> Iterator[None]:
    """Gives the client that `huggingface_hub` and `datasets` share a retry policy, for the time of a `with` block.

    The client stays the user's own, with its proxies and certificates.
    """
    from huggingface_hub import get_session

    client: Any = get_session()
    request: Any = client.request
    stream: Any = getattr(client, "stream", None)

    def retried_request(method: str, url: Any, **options: Any) -> Any:
        body: Any = options.get("data")
        start = body.tell() if hasattr(body, "seek") else None

        def send() -> Any:
            if start is not None:
                body.seek(start)
            return request(method, url, **_limited(options, retry.timeout))

        if _is_optional(method, url):
            return request(method, url, **_limited(options, min(retry.timeout, 10.0)))
        return _send_with_retries(retry, method, url, send)

    @contextmanager
    def retried_stream(method: str, url: Any, **options: Any) -> Iterator[Any]:
        with ExitStack() as stack:

            def send() -> Any:
                stack.close()
                return stack.enter_context(stream(method, url, **_limited(options, retry.timeout)))

            yield _send_with_retries(retry, method, url, send)

    before = {name: vars(client)[name] for name in ("request", "stream") if name in vars(client)}
    client.request = retried_request
    if callable(stream):
        client.stream = retried_stream
    try:
        yield
    finally:
        for name in ("request", "stream"):
            vars(client).pop(name, None)
        vars(client).update(before)


def _is_optional(method: str, url: Any) -> bool:
    """`datasets` asks other hosts too, for a download counter or exported files, and does well without an answer."""
    from huggingface_hub import constants

    return method.upper() in ("GET", "HEAD") and urlsplit(str(url)).netloc != urlsplit(constants.ENDPOINT).netloc


def _limited(options: dict[str, Any], limit: float) -> dict[str, Any]:
    asked = options.get("timeout")
    return {**options, "timeout": min(asked, limit) if isinstance(asked, (int, float)) else limit}


def _send_with_retries(retry: RetryPolicy, method: str, url: Any, send: Callable[[], Any]) -> Any:
    """Sends until the answer is one that a repetition would not change."""
    path = urlsplit(str(url)).path
    once = method.upper() == "POST" and bool(_ONCE.search(path))
    settled = {409} if _CREATES.search(path) else set()
    errors = transport_errors()
    for attempt in range(retry.tries):
        headers = None
        try:
            response = send()
        except errors as error:
            if once:
                raise
            problem = f"the connection broke ({type(error).__name__})"
        else:
            if once or response.status_code not in BUSY - settled:
                return response
            problem, headers = f"the Hub answered {response.status_code}", response.headers
        retry.pause(attempt, f"{method.upper()} {path}", problem, headers)
    raise AssertionError("pause() ends the last try")
