"""One publication: its files are uploaded first, then committed on top of the head that was looked at.

That is one commit, or several where there are more files than a commit should have: data first, then what is deleted,
then card and manifest in the last, which alone makes the publication.

When the answer to a commit is lost, nobody knows whether it happened; so before every try we look at the head, and only
if the content is not there do we commit again. A commit that arrives late finds another parent (`parent_commit`) and is
refused by the Hub.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ladm_hf.data.hub import access_refused, is_hub_id
from ladm_hf.errors import PublishError
from ladm_hf.publishing.bundle import MANIFEST, Bundle
from ladm_hf.publishing.card import build_card, card_diff
from ladm_hf.publishing.limits import COMMIT_FILES
from ladm_hf.publishing.repository import Repository
from ladm_hf.publishing.retry import hub_retries

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo

logger = logging.getLogger(__name__)

README = "README.md"
# Files uploaded at a time: what is done is not sent again if a later one fails.
_UPLOAD_TOGETHER = 16
# Bytes a second below which a Xet upload counts as stuck.
SLOWEST_UPLOAD = 250_000


@dataclass(frozen=True)
class Change:
    """A file of the repository that becomes another one: a file of this machine, bytes, or nothing."""

    path: str
    content: Path | bytes | None


@dataclass
class Publication:
    """One publish: what goes where, and how far it has come."""

    repo: Repository
    bundle: Bundle
    private: bool
    revision: str
    create_pr: bool
    tag: str | None
    message: str
    card_options: dict[str, Any]
    commit_oid: str | None = None
    uploaded: bool = False
    asked_to_commit: bool = False
    part_committed: bool = False
    source_card: str | None = None

    def state(self) -> str:
        """What the Hub holds, as a sentence."""
        if self.commit_oid:
            return f"The data is on the Hub, in commit {self.commit_oid} of {self.repo.id}; what came after it failed."
        if self.part_committed:
            return f"A part of the files is committed to {self.repo.id}; the others and the card are missing."
        if self.asked_to_commit:
            return "The commit may or may not have happened; the next run finds out and does not repeat it."
        if self.uploaded:
            return "Nothing was committed; what was uploaded is kept by the Hub and not sent again."
        return "Nothing was uploaded or committed."

    def publish(self) -> CommitInfo:
        from huggingface_hub import CommitInfo

        with hub_retries(self.repo.retry):
            self.source_card = self._read_source_card()
            self._check_visibility(self.repo.get_or_create(lambda: self.repo.info(None), self._create_repo))
            if self.create_pr:
                self.revision = f"refs/pr/{self._pull_request()}"
            elif self.revision != "main":
                self.repo.get_or_create(lambda: self.repo.info(self.revision), self._create_branch)
            if self.tag:
                self._check_tag()
            self.commit_oid = self._commit()
            if self.tag:
                self._put_tag(self.commit_oid)
        url = f"{self.repo.api.endpoint}/datasets/{self.repo.id}"
        number = self.revision.removeprefix("refs/pr/")
        return CommitInfo(
            commit_url=f"{url}/commit/{self.commit_oid}",
            commit_message=self.message,
            commit_description=self._description(),
            oid=self.commit_oid,
            pr_url=f"{url}/discussions/{number}" if self.create_pr else None,
        )

    def preview(self) -> str:
        """The files with their sizes, and the card's diff against the Hub's; only reads."""
        from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

        tree: dict[str, Any] = {}
        head: Any = None
        with hub_retries(self.repo.few_tries):
            self.source_card = self._read_source_card()
            try:
                head = self.repo.info(None if self.create_pr else self.revision)
                tree = self.repo.tree(head.sha)
            except (RepositoryNotFoundError, RevisionNotFoundError):
                pass
            old = self.repo.download(README, head.sha) if README in tree else ""
            manifest = self._old_manifest(tree, head.sha if head else "")
        where = "new" if head is None else "private" if head.private else "public"
        card = self._card(old)
        lines = [f"{self.repo.id} ({where} repository; to be {'private' if self.private else 'public'})", ""]
        # a file is read only where one of its size is there; the manifest names them all
        same = {path for path in self.bundle.files if path != MANIFEST and self.bundle.is_in(path, tree)}
        if len(same) == len(self.bundle.files) - 1 and self.bundle.is_in(MANIFEST, tree):
            same.add(MANIFEST)
        for path in sorted(self.bundle.files):
            mark = "same" if path in same else "change" if path in tree else "add"
            lines.append(f"  {mark:<7} {self.bundle.sizes[path]:>15,} bytes  {path}")
        lines += [f"  delete  {'':>15}        {path}" for path in tree if self.bundle.stale(path, manifest)]
        lines.append(
            f"  {'same' if old == card else 'change' if old else 'add':<7} {len(card.encode()):>15,} bytes  {README}"
        )
        return "\n".join(lines) + "\n\n" + card_diff(old, card)

    # Repository, branch, pull request, tag

    def _create_repo(self) -> None:
        # "It exists already" may come without the address that huggingface_hub expects; we look ourselves anyway.
        with suppress(KeyError):
            self.repo.api.create_repo(self.repo.id, repo_type="dataset", private=self.private, exist_ok=True)

    def _create_branch(self) -> None:
        self.repo.api.create_branch(self.repo.id, repo_type="dataset", branch=self.revision, exist_ok=True)

    def _check_visibility(self, info: Any) -> None:
        if bool(info.private) != self.private:
            raise PublishError(
                f"{self.repo.id} is {'public' if self.private else 'private'} already, but was to be "
                f"{'private' if self.private else 'public'}: "
                + ("pass private=False (--public)" if self.private else "leave out private=False (--public)")
                + ", or change its visibility in its settings"
            )

    def _pull_request(self) -> int:
        """The number of our pull request: the one that an interrupted run left, else a new one."""
        title = f"{self.message[:160].strip()} [{self.bundle.id}]"
        for attempt in range(self.repo.retry.tries):
            for found in self.repo.api.get_repo_discussions(self.repo.id, repo_type="dataset"):
                if found.is_pull_request and found.status in ("open", "draft") and found.title == title:
                    return int(found.num)
            try:
                description = f"{self._description()}\n\nOpened by `ladm publish`."
                opened = self.repo.api.create_pull_request(
                    self.repo.id, title, repo_type="dataset", description=description
                )
                return int(opened.num)
            except Exception as error:
                self.repo.wait_if_it_may_pass(error, attempt, "opening a pull request")
        raise AssertionError("pause() ends the last try")

    def _check_tag(self) -> None:
        """Refuses, before anything is uploaded, a tag that is on other content."""
        from huggingface_hub.errors import RevisionNotFoundError

        try:
            tagged = self.repo.info(self.tag)
        except RevisionNotFoundError:
            return
        if self._changes(tagged.sha):
            raise PublishError(
                f"tag {self.tag!r} of {self.repo.id} is on other content, commit {tagged.sha}: choose another tag"
            )

    def _put_tag(self, oid: str) -> None:
        def get() -> str:
            return str(self.repo.info(self.tag).sha)

        def create() -> None:
            self.repo.api.create_tag(self.repo.id, tag=self.tag, revision=oid, repo_type="dataset", exist_ok=True)

        found = self.repo.get_or_create(get, create)
        if found != oid:
            raise PublishError(
                f"tag {self.tag!r} of {self.repo.id} is on commit {found}, not on {oid}: choose another tag"
            )

    # The commit

    def _commit(self) -> str:
        """Commits what is not there yet; returns the commit that holds the data."""
        while True:
            oid, is_last = self._commit_part()
            if is_last:
                return oid
            self.part_committed = True

    def _commit_part(self) -> tuple[str, bool]:
        """One commit of as many files as a commit should have, and whether nothing is left."""
        first_head = None
        for attempt in range(self.repo.retry.tries):
            head = str(self.repo.info(self.revision).sha)
            first_head = first_head or head
            mine = self._mine(since=first_head) if self.asked_to_commit else None
            changes = [] if mine else self._changes(head)
            if not changes:
                return mine or self._mine() or head, True
            is_last = len(changes) <= COMMIT_FILES
            # card and manifest stay together
            part = changes if is_last else changes[: min(COMMIT_FILES, len(changes) - 2)]
            asked_before = self.asked_to_commit
            try:
                operations = [self._operation(change) for change in part]
                self._upload([each for each in operations if hasattr(each, "upload_info")])
                self.asked_to_commit = True
                commit = self.repo.api.create_commit(
                    self.repo.id,
                    operations,
                    repo_type="dataset",
                    revision=self.revision,
                    parent_commit=head,
                    commit_message=self.message if is_last else f"{self.message} (part)",
                    commit_description=self._description() if is_last else f"part of {self._description()}",
                )
                return str(commit.oid), is_last
            except Exception as error:
                if access_refused(error, self.repo.id):
                    # an answer: this try committed nothing
                    self.asked_to_commit = asked_before
                self.repo.wait_if_it_may_pass(error, attempt, "the commit")
        raise AssertionError("pause() ends the last try")

    def _description(self) -> str:
        return f"ladm-publication: {self.bundle.id}"

    def _mine(self, since: str | None = None) -> str | None:
        """The newest commit of the branch that made this publication, if it is newer than `since`."""
        for commit in self.repo.api.list_repo_commits(self.repo.id, repo_type="dataset", revision=self.revision):
            if commit.commit_id == since:
                return None
            if self._description() in f"{commit.title}\n{commit.message}".splitlines():
                return str(commit.commit_id)
        return None

    def _changes(self, head: str) -> list[Change]:
        """What turns the tree at `head` into what we publish, card and manifest last; empty if it is that already."""
        # writes the manifest
        self.bundle.hashes(MANIFEST)
        tree = self.repo.tree(head)
        old = self.repo.download(README, head) if README in tree else ""
        card = self._card(old)
        manifest = self._old_manifest(tree, head)
        new = [path for path in sorted(self.bundle.files) if not self.bundle.is_in(path, tree)]
        changes = [Change(path, self.bundle.files[path]) for path in new if path != MANIFEST]
        changes += [Change(path, None) for path in tree if self.bundle.stale(path, manifest)]
        changes += [Change(README, card.encode())] if card != old else []
        changes += [Change(MANIFEST, self.bundle.files[MANIFEST])] if MANIFEST in new else []
        return changes

    def _operation(self, change: Change) -> Any:
        """A change as the Hub's client takes it, made anew for each try: upload modes are those of one head."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        if change.content is None:
            return CommitOperationDelete(change.path)
        return CommitOperationAdd(
            change.path, change.content if isinstance(change.content, bytes) else str(change.content)
        )

    def _upload(self, additions: list[Any]) -> None:
        """Sends the content of large files; a file that the Hub has already is not sent."""
        retry = self.repo.few_tries
        for start in range(0, len(additions), _UPLOAD_TOGETHER):
            together = additions[start : start + _UPLOAD_TOGETHER]
            for attempt in range(retry.tries):
                try:
                    with self._xet_watched(sum(each.upload_info.size for each in together)):
                        self.repo.api.preupload_lfs_files(
                            self.repo.id, together, repo_type="dataset", revision=self.revision, free_memory=False
                        )
                    self.uploaded = self.uploaded or any(each._upload_mode == "lfs" for each in together)
                    break
                except Exception as error:
                    self.repo.stop_if_final(error)
                    retry.pause(attempt, "uploading", self.repo.brief(error))

    @contextmanager
    def _xet_watched(self, size: int) -> Iterator[None]:
        """Ends a Xet upload of `size` bytes that takes far too long; `hf_xet` waits for some answers without limit."""
        try:
            from huggingface_hub.utils._xet import abort_xet_session
        except ImportError:
            yield
            return
        watchdog = threading.Timer(5 * self.repo.retry.timeout + size / SLOWEST_UPLOAD, abort_xet_session)
        watchdog.daemon = True
        watchdog.start()
        try:
            yield
        finally:
            watchdog.cancel()

    def _old_manifest(self, tree: Mapping[str, Any], revision: str) -> dict[str, Any]:
        if MANIFEST not in tree:
            return {}
        try:
            manifest = json.loads(self.repo.download(MANIFEST, revision))
        except ValueError:
            return {}
        return manifest if isinstance(manifest, dict) else {}

    # The card

    def _card(self, old: str) -> str:
        card = build_card(
            self.bundle.run,
            self.bundle.selection,
            data=self.bundle.info,
            repo_id=self.repo.id,
            config_name=self.bundle.config_name,
            source_card=self.source_card,
            existing=old or None,
            figures=self.bundle.figures,
            **self.card_options,
        )
        return str(card).replace(self.repo.api.token, "hf_***") if self.repo.api.token else str(card)

    def _read_source_card(self) -> str | None:
        """The README of the source dataset: language and licence come from there."""
        source = (self.bundle.run.get("dataset") or {}).get("id")
        if not source:
            if not self.card_options.get("license"):
                logger.warning(
                    "the source dataset is not known, so no licence is carried over: give --source or --license "
                    "(source_dataset=, license=)"
                )
            return None
        if not is_hub_id(str(source)):
            return None
        from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, RepositoryNotFoundError

        try:
            return Repository(self.repo.api, str(source), self.repo.retry).download(README, "main")
        except (EntryNotFoundError, GatedRepoError, RepositoryNotFoundError) as error:
            logger.warning(
                "the card of %s could not be read (%s): its language and licence are not carried over; give them",
                source,
                type(error).__name__,
            )
            return None
