"""A data-set repository of the Hub: what it holds, and which of its failures may pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from ladm_hf.data.hub import chain
from ladm_hf.errors import LadmError
from ladm_hf.publishing.retry import BUSY, RetryPolicy, transport_errors
from ladm_hf.text import redacted

T = TypeVar("T")
# Tries for steps that have retries of their own inside.
_OUTER_TRIES = 3


@dataclass(frozen=True)
class Repository:
    """One data-set repository.

    Attributes:
        api (`HfApi`): the Hub's client, with the token.
        id (`str`): `user/name`.
        retry ([`RetryPolicy`]): time limits and retries.
    """

    api: Any
    id: str
    retry: RetryPolicy

    @property
    def few_tries(self) -> RetryPolicy:
        """The policy of steps that have retries of their own inside."""
        return replace(self.retry, tries=min(_OUTER_TRIES, self.retry.tries))

    def info(self, revision: str | None) -> Any:
        """What the Hub says of a branch, tag or commit; of `main` for `None`."""
        return self.api.repo_info(self.id, repo_type="dataset", revision=revision)

    def get_or_create(self, get: Callable[[], T], create: Callable[[], Any]) -> T:
        """Something on the Hub, created where it does not exist."""
        from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

        for attempt in range(self.retry.tries):
            try:
                return get()
            except (RepositoryNotFoundError, RevisionNotFoundError) as error:
                if attempt:
                    self.retry.pause(attempt, self.id, f"not there after it was created ({type(error).__name__})")
            create()
        raise AssertionError("pause() ends the last try")

    def tree(self, revision: str) -> dict[str, Any]:
        """The files at a commit: path -> entry with `blob_id` and, for LFS files, `lfs.sha256`."""
        entries = self.api.list_repo_tree(self.id, repo_type="dataset", revision=revision, recursive=True)
        return {entry.path: entry for entry in entries if hasattr(entry, "blob_id")}

    def download(self, path: str, revision: str) -> str:
        """The text of a small file at a commit."""
        from huggingface_hub import get_session, hf_hub_url
        from huggingface_hub.utils import hf_raise_for_status  # type: ignore[attr-defined]

        url = hf_hub_url(self.id, path, repo_type="dataset", revision=revision)
        headers = {"authorization": f"Bearer {self.api.token}"} if self.api.token else {}
        response = get_session().get(url, headers=headers)
        hf_raise_for_status(response)
        return bytes(response.content).decode("utf-8")

    def stop_if_final(self, error: Exception) -> None:
        """Lets an error out that another try would not change."""
        for each in chain(error):
            status = getattr(getattr(each, "response", None), "status_code", None)
            if isinstance(each, LadmError) or (status is not None and status not in BUSY):
                raise error

    def wait_if_it_may_pass(self, error: Exception, attempt: int, what: str) -> None:
        """Waits before another try of `what`, or lets the error out."""
        self.stop_if_final(error)
        response = getattr(error, "response", None)
        if response is None and not isinstance(error, transport_errors()):
            raise error
        self.retry.pause(attempt, what, self.brief(error), getattr(response, "headers", None))

    def brief(self, error: BaseException) -> str:
        """What went wrong first, in one line without the token."""
        status = getattr(getattr(error, "response", None), "status_code", None)
        root = list(chain(error))[-1]
        text = f"the Hub answered {status}" if status else f"{type(root).__name__}: {root}"
        return str(redacted(" ".join(text.split())[:300], self.api.token))
