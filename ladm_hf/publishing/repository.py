"""A data-set repository of the Hub: what it holds, and which of its failures may pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from ladm_hf.errors import LadmError
from ladm_hf.publishing.retry import BUSY, Patience, transport_errors
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
        patience ([`Patience`]): time limits and retries.
    """

    api: Any
    id: str
    patience: Patience

    @property
    def few_tries(self) -> Patience:
        """Patience for steps that have retries of their own inside."""
        return replace(self.patience, tries=min(_OUTER_TRIES, self.patience.tries))

    def info(self, revision: str | None) -> Any:
        """What the Hub says of a branch, tag or commit; of `main` for `None`."""
        return self.api.repo_info(self.id, repo_type="dataset", revision=revision)

    def there(self, look: Callable[[], T], make: Callable[[], Any]) -> T:
        """Looks for something on the Hub, and makes it until it is there."""
        from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

        for attempt in range(self.patience.tries):
            try:
                return look()
            except (RepositoryNotFoundError, RevisionNotFoundError) as error:
                if attempt:
                    self.patience.pause(attempt, self.id, f"not there after it was created ({type(error).__name__})")
            make()
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
        self.patience.pause(attempt, what, self.brief(error), getattr(response, "headers", None))

    def brief(self, error: BaseException) -> str:
        """What went wrong first, in one line without the token."""
        status = getattr(getattr(error, "response", None), "status_code", None)
        root = list(chain(error))[-1]
        text = f"the Hub answered {status}" if status else f"{type(root).__name__}: {root}"
        return str(redacted(" ".join(text.split())[:300], self.api.token))


def chain(error: BaseException) -> Iterator[BaseException]:
    """An error and what it came from."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__
