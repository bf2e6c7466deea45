"""`publish()`: data, card, figures and manifest in one commit that happens once, whatever the network does.

Everything is uploaded first, then committed on top of the head that was looked at (`parent_commit`). When the answer to
a commit is lost, nobody knows whether it happened; so before every try we look at the head, and only if the content is
not there do we commit again. A commit that arrives late finds another parent and is refused by the Hub. At the end the
commit is read back.
"""

from __future__ import annotations

import itertools
import json
import logging
import re
import shlex
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from ladm_hf.bundle import MANIFEST, SHARD_BYTES, Bundle, make_bundle, redacted
from ladm_hf.card import build_card, card_diff
from ladm_hf.errors import ConfigError, HubUnavailableError, LadmError, PublishError
from ladm_hf.patience import BUSY, Patience, patient_hub, transport_errors
from ladm_hf.ranks import is_first_rank

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo

logger = logging.getLogger(__name__)
T = TypeVar("T")

README = "README.md"
# Up to this many bytes all rows are read back; of more, the first rows of each split.
READ_BACK_WHOLE = 256_000_000
READ_BACK_ROWS = 100
_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9_][\w.-]*")
# Files uploaded at a time: what is done is not sent again if a later one fails.
_UPLOAD_TOGETHER = 16
# Bytes a second below which a Xet upload counts as stuck.
SLOWEST_UPLOAD = 250_000
# Tries for steps that have retries of their own inside.
_OUTER_TRIES = 3


def publish(
    source: Any,
    repo_id: str,
    *,
    private: bool = True,
    revision: str | None = None,
    create_pr: bool = False,
    tag: str | None = None,
    config_name: str = "default",
    commit_message: str | None = None,
    run: Mapping[str, Any] | None = None,
    source_dataset: str | None = None,
    language: str | Sequence[str] | None = None,
    license: str | None = None,
    pretty_name: str | None = None,
    figures: Sequence[tuple[Path, str, str]] | None = None,
    command: str | None = None,
    token: str | None = None,
    read_back: bool = True,
    patience: Patience | None = None,
    shard_bytes: int = SHARD_BYTES,
    dry_run: bool = False,
) -> CommitInfo | None:
    """Publishes a data set with its card, in one commit, and reads it back.

    Calling it again with the same input changes nothing on the Hub; calling it after an interruption finishes the job
    without sending again what is there already.

    Args:
        source (`Dataset`, `DatasetDict`, [`Selection`] or path):
            What to publish; a path is a folder of `ladm score`, `ladm select` or `save_to_disk`, or with parquet files.
        repo_id (`str`):
            `user/name` of the data set on the Hub; it is created if it does not exist.
        private (`bool`, *optional*, defaults to `True`):
            Visibility. An existing repository of the other visibility is refused, not changed.
        revision (`str`, *optional*):
            Branch to commit to, created from `main` if need be. Defaults to `main`.
        create_pr (`bool`, *optional*, defaults to `False`):
            Open a pull request (or continue the one that an interrupted call left) instead of committing to a branch.
        tag (`str`, *optional*):
            Tag to put on the commit. A tag that is on another commit is refused.
        config_name (`str`, *optional*, defaults to `"default"`):
            Configuration of the rows; other configurations of the repository are kept.
        commit_message (`str`, *optional*): first line of the commit.
        run (mapping, *optional*): how the rows were scored; defaults to the `run.json` found with them.
        source_dataset (`str`, *optional*):
            Hub id of the data set that was scored, whose language and licence are carried over; defaults to the one
            that `run` names.
        language, license, pretty_name (`str`, *optional*): YAML values of the card that win over all others.
        figures (sequence of `(file, alt, caption)`, *optional*):
            Images for the card. `None` draws those of a selection, if matplotlib is there.
        command (`str`, *optional*): shell commands that make the data again, for the card.
        token (`str`, *optional*): access token; defaults to `HF_TOKEN` or the one of `hf auth login`.
        read_back (`bool`, *optional*, defaults to `True`):
            Check visibility, hashes and `load_dataset` afterwards.
        patience ([`Patience`], *optional*): time limits and retries.
        shard_bytes (`int`, *optional*): about the most bytes of one parquet file, before compression.
        dry_run (`bool`, *optional*, defaults to `False`):
            Print the files, their sizes and the changes to the card, and publish nothing.

    Returns:
        `CommitInfo` of the commit that holds the data; `None` after a dry run. In a process that is not the first of
        several, as `torchrun` or `mpirun` start them, nothing happens and `None` is returned.

    Raises:
        PublishError: it did not work; the message says what the Hub holds now and what finishes the job.
        InputError, ConfigError: there is nothing to publish, or a name cannot be.
    """
    if not is_first_rank():
        return None
    from huggingface_hub import HfApi, get_token

    if not _REPO_ID.fullmatch(repo_id):
        raise ConfigError(f"repo_id must be 'user/name', got {repo_id!r}")
    if revision and create_pr:
        raise ConfigError("create_pr opens a pull request on main: leave revision out, or commit to the branch itself")
    token = token or get_token()
    again = _command(
        source, repo_id, private=private, create_pr=create_pr, revision=revision, tag=tag,
        config_name="" if config_name == "default" else config_name, message=commit_message, source=source_dataset,
        language=language, license=license, pretty_name=pretty_name,
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="ladm-publish-") as work:
        bundle = make_bundle(
            source, Path(work), config_name=config_name, run=run, source_dataset=source_dataset, figures=figures,
            shard_bytes=shard_bytes, token=token,
        )  # fmt: skip
        publication = _Publication(
            api=HfApi(token=token),
            bundle=bundle,
            repo_id=repo_id,
            private=private,
            revision=revision or "main",
            create_pr=create_pr,
            tag=tag,
            message=commit_message or f"Publish {bundle.num_rows:,} rows with LADM",
            card_options={
                "language": language, "license": license, "pretty_name": pretty_name,
                "command": redacted(command, token),
            },
            patience=patience or Patience(),
        )  # fmt: skip
        with _explained(publication, again):
            if dry_run:
                sys.stdout.write(publication.preview())
                return None
            commit = publication.publish()
            if read_back:
                publication.read_back(commit.oid)
            return commit


class _explained:  # noqa: N801 - reads as a verb
    """Turns whatever went wrong into one error that says what the Hub holds now and what finishes the job.

    The token is in no message: where a server echoed it, its own error is not even kept as the cause.
    """

    def __init__(self, publication: _Publication, again: str) -> None:
        self.publication, self.again = publication, again

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, _: Any) -> None:
        if isinstance(error, Exception):
            self._raise(error)

    def _raise(self, error: Exception) -> NoReturn:
        token = self.publication.api.token
        chain = list(_chain(error))
        told = next((each for each in chain if isinstance(each, LadmError)), error)
        message = str(redacted(" ".join(str(told).split()), token)) or type(told).__name__
        # A refusal says itself what to do; the same call again would be refused again.
        refused = type(told) is PublishError and self.publication.commit_oid is None
        text = f"{message}. {self.publication.state()}" + ("" if refused else f" To finish: {self.again}")
        failure = HubUnavailableError if isinstance(told, HubUnavailableError) else PublishError
        leaks = token and any(token in str(each) for each in chain)
        raise failure(text) from (None if leaks else error)


@dataclass
class _Publication:
    """One publish: what goes where, and how far it has come."""

    api: Any
    bundle: Bundle
    repo_id: str
    private: bool
    revision: str
    create_pr: bool
    tag: str | None
    message: str
    card_options: dict[str, Any]
    patience: Patience
    commit_oid: str | None = None
    asked_to_commit: bool = False
    source_card: str | None = None
    operations: dict[str, Any] = field(default_factory=dict)

    def state(self) -> str:
        """What the Hub holds, as a sentence."""
        if self.commit_oid:
            return f"The data is on the Hub, in commit {self.commit_oid} of {self.repo_id}; what came after it failed."
        if self.asked_to_commit:
            return "The commit may or may not have happened; the next run finds out and does not repeat it."
        return "Nothing was committed; what was uploaded is kept by the Hub and not sent again."

    # --- the whole course

    def publish(self) -> CommitInfo:
        from huggingface_hub import CommitInfo

        with patient_hub(self.patience):
            self.source_card = self._read_source_card()
            self._check_visibility(self._there(lambda: self._info(None), self._create_repo))
            if self.create_pr:
                self.revision = f"refs/pr/{self._pull_request()}"
            elif self.revision != "main":
                self._there(lambda: self._info(self.revision), self._create_branch)
            if self.tag:
                self._check_tag()
            self.commit_oid = self._commit()
            if self.tag:
                self._put_tag(self.commit_oid)
        url = f"{self.api.endpoint}/datasets/{self.repo_id}"
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
        with patient_hub(replace(self.patience, tries=min(_OUTER_TRIES, self.patience.tries))):
            self.source_card = self._read_source_card()
            try:
                head = self._info(None if self.create_pr else self.revision)
                tree = self._tree(head.sha)
            except (RepositoryNotFoundError, RevisionNotFoundError):
                pass
            old = self._download(README, head.sha) if README in tree else ""
            manifest = self._old_manifest(tree, head.sha if head else "")
        where = "new" if head is None else "private" if head.private else "public"
        card = self._card(old)
        lines = [f"{self.repo_id} ({where} repository; to be {'private' if self.private else 'public'})", ""]
        for path in sorted(self.bundle.files):
            mark = "same" if self._is_there(path, tree) else "change" if path in tree else "add"
            lines.append(f"  {mark:<7} {self.bundle.sizes[path]:>15,} bytes  {path}")
        lines += [f"  delete  {'':>15}        {path}" for path in tree if self.bundle.stale(path, manifest)]
        lines.append(
            f"  {'same' if old == card else 'change' if old else 'add':<7} {len(card.encode()):>15,} bytes  {README}"
        )
        return "\n".join(lines) + "\n\n" + card_diff(old, card)

    # --- repository, branch, pull request, tag

    def _info(self, revision: str | None) -> Any:
        return self.api.repo_info(self.repo_id, repo_type="dataset", revision=revision)

    def _there(self, look: Callable[[], T], make: Callable[[], Any]) -> T:
        """Looks for something on the Hub, and makes it until it is there."""
        from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

        for attempt in range(self.patience.tries):
            try:
                return look()
            except (RepositoryNotFoundError, RevisionNotFoundError) as error:
                if attempt:
                    self.patience.pause(
                        attempt, self.repo_id, f"not there after it was created ({type(error).__name__})"
                    )
            make()
        raise AssertionError("pause() ends the last try")

    def _create_repo(self) -> None:
        # "It exists already" may come without the address that huggingface_hub expects; we look ourselves anyway.
        with suppress(KeyError):
            self.api.create_repo(self.repo_id, repo_type="dataset", private=self.private, exist_ok=True)

    def _create_branch(self) -> None:
        self.api.create_branch(self.repo_id, repo_type="dataset", branch=self.revision, exist_ok=True)

    def _check_visibility(self, info: Any) -> None:
        if bool(info.private) != self.private:
            raise PublishError(
                f"{self.repo_id} is {'public' if self.private else 'private'} already, but was to be "
                f"{'private' if self.private else 'public'}: "
                + ("pass private=False (--public)" if self.private else "leave out private=False (--public)")
                + ", or change its visibility in its settings"
            )

    def _pull_request(self) -> int:
        """The number of our pull request: the one that an interrupted run left, else a new one."""
        title = f"{self.message[:160].strip()} [{self.bundle.id}]"
        for attempt in range(self.patience.tries):
            for found in self.api.get_repo_discussions(self.repo_id, repo_type="dataset"):
                if found.is_pull_request and found.status in ("open", "draft") and found.title == title:
                    return int(found.num)
            try:
                description = f"{self._description()}\n\nOpened by `ladm publish`."
                return int(
                    self.api.create_pull_request(self.repo_id, title, repo_type="dataset", description=description).num
                )
            except Exception as error:
                self._wait_if_it_may_pass(error, attempt, "opening a pull request")
        raise AssertionError("pause() ends the last try")

    def _check_tag(self) -> None:
        """Refuses, before anything is uploaded, a tag that is on other content."""
        from huggingface_hub.errors import RevisionNotFoundError

        try:
            tagged = self._info(self.tag)
        except RevisionNotFoundError:
            return
        if self._changes(tagged.sha):
            raise PublishError(
                f"tag {self.tag!r} of {self.repo_id} is on other content, commit {tagged.sha}: choose another tag"
            )

    def _put_tag(self, oid: str) -> None:
        def look() -> str:
            return str(self._info(self.tag).sha)

        def make() -> None:
            self.api.create_tag(self.repo_id, tag=self.tag, revision=oid, repo_type="dataset", exist_ok=True)

        found = self._there(look, make)
        if found != oid:
            raise PublishError(
                f"tag {self.tag!r} of {self.repo_id} is on commit {found}, not on {oid}: choose another tag"
            )

    # --- the commit

    def _commit(self) -> str:
        """Commits what is not there yet; returns the commit that holds the data."""
        first_head = None
        for attempt in range(self.patience.tries):
            head = str(self._info(self.revision).sha)
            first_head = first_head or head
            mine = self._mine(since=first_head) if self.asked_to_commit else None
            changes = None if mine else self._changes(head)
            if not changes:
                return mine or self._mine() or head
            try:
                self._upload([change for change in changes if hasattr(change, "upload_info")])
                self.asked_to_commit = True
                commit = self.api.create_commit(
                    self.repo_id, changes, repo_type="dataset", revision=self.revision, parent_commit=head,
                    commit_message=self.message, commit_description=self._description(),
                )  # fmt: skip
                return str(commit.oid)
            except Exception as error:
                # Upload modes were asked for another head; ask again.
                self.operations.clear()
                self._wait_if_it_may_pass(error, attempt, "the commit")
        raise AssertionError("pause() ends the last try")

    def _description(self) -> str:
        return f"ladm-publication: {self.bundle.id}"

    def _mine(self, since: str | None = None) -> str | None:
        """The newest commit of the branch that made this publication, if it is newer than `since`."""
        for commit in self.api.list_repo_commits(self.repo_id, repo_type="dataset", revision=self.revision):
            if commit.commit_id == since:
                return None
            if self._description() in f"{commit.title}\n{commit.message}".splitlines():
                return str(commit.commit_id)
        return None

    def _changes(self, head: str) -> list[Any]:
        """The operations that turn the tree at `head` into what we publish; empty if it is that already."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        tree = self._tree(head)
        old = self._download(README, head) if README in tree else ""
        card = self._card(old)
        changes = []
        for path, file in sorted(self.bundle.files.items()):
            if not self._is_there(path, tree):
                if path not in self.operations:
                    self.operations[path] = CommitOperationAdd(path, str(file))
                changes.append(self.operations[path])
        if card != old:
            changes.append(CommitOperationAdd(README, card.encode()))
        manifest = self._old_manifest(tree, head)
        changes += [CommitOperationDelete(path) for path in tree if self.bundle.stale(path, manifest)]
        return changes

    def _upload(self, additions: list[Any]) -> None:
        """Sends the content of large files; a file that the Hub has already is not sent."""
        patience = replace(self.patience, tries=min(_OUTER_TRIES, self.patience.tries))
        for start in range(0, len(additions), _UPLOAD_TOGETHER):
            together = additions[start : start + _UPLOAD_TOGETHER]
            for attempt in range(patience.tries):
                try:
                    with self._xet_watched(sum(each.upload_info.size for each in together)):
                        self.api.preupload_lfs_files(
                            self.repo_id, together, repo_type="dataset", revision=self.revision, free_memory=False
                        )
                    break
                except Exception as error:
                    self._stop_if_final(error)
                    patience.pause(attempt, "uploading", self._brief(error))

    @contextmanager
    def _xet_watched(self, size: int) -> Iterator[None]:
        """Ends a Xet upload of `size` bytes that takes unreasonably long; `hf_xet` waits for some answers for ever."""
        try:
            from huggingface_hub.utils._xet import abort_xet_session
        except ImportError:
            yield
            return
        watchdog = threading.Timer(5 * self.patience.timeout + size / SLOWEST_UPLOAD, abort_xet_session)
        watchdog.daemon = True
        watchdog.start()
        try:
            yield
        finally:
            watchdog.cancel()

    def _tree(self, revision: str) -> dict[str, Any]:
        """The files at a commit: path -> entry with `blob_id` and, for LFS files, `lfs.sha256`."""
        entries = self.api.list_repo_tree(self.repo_id, repo_type="dataset", revision=revision, recursive=True)
        return {entry.path: entry for entry in entries if hasattr(entry, "blob_id")}

    def _is_there(self, path: str, tree: Mapping[str, Any]) -> bool:
        return path in tree and _same_content(tree[path], self.bundle.hashes[path])

    def _old_manifest(self, tree: Mapping[str, Any], revision: str) -> dict[str, Any]:
        if MANIFEST not in tree or self._is_there(MANIFEST, tree):
            return {}
        try:
            manifest = json.loads(self._download(MANIFEST, revision))
        except ValueError:
            return {}
        return manifest if isinstance(manifest, dict) else {}

    def _download(self, path: str, revision: str, repo_id: str | None = None) -> str:
        """The text of a small file at a commit."""
        from huggingface_hub import get_session, hf_hub_url
        from huggingface_hub.utils import hf_raise_for_status  # type: ignore[attr-defined]

        url = hf_hub_url(repo_id or self.repo_id, path, repo_type="dataset", revision=revision)
        headers = {"authorization": f"Bearer {self.api.token}"} if self.api.token else {}
        response = get_session().get(url, headers=headers)
        hf_raise_for_status(response)
        return bytes(response.content).decode("utf-8")

    # --- the card

    def _card(self, old: str) -> str:
        card = build_card(
            self.bundle.run, self.bundle.selection, data=self.bundle.info, repo_id=self.repo_id,
            config_name=self.bundle.config_name, source_card=self.source_card, existing=old or None,
            figures=self.bundle.figures, **self.card_options,
        )  # fmt: skip
        return str(card).replace(self.api.token, "hf_***") if self.api.token else str(card)

    def _read_source_card(self) -> str | None:
        """The README of the source data set: language and licence come from there."""
        source = (self.bundle.run.get("dataset") or {}).get("id")
        if not source:
            if not self.card_options.get("license"):
                logger.warning("the source data set is not known, so no licence is carried over: name either of them")
            return None
        if not _REPO_ID.fullmatch(str(source)):
            return None
        from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, RepositoryNotFoundError

        try:
            return self._download(README, "main", str(source))
        except (EntryNotFoundError, GatedRepoError, RepositoryNotFoundError) as error:
            logger.warning(
                "the card of %s could not be read (%s): its language and licence are not carried over; give them",
                source, type(error).__name__,
            )  # fmt: skip
            return None

    # --- failures

    def _stop_if_final(self, error: Exception) -> None:
        """Lets an error out that another try would not change."""
        for each in _chain(error):
            status = getattr(getattr(each, "response", None), "status_code", None)
            if isinstance(each, LadmError) or (status is not None and status not in BUSY):
                raise error

    def _wait_if_it_may_pass(self, error: Exception, attempt: int, what: str) -> None:
        self._stop_if_final(error)
        response = getattr(error, "response", None)
        if response is None and not isinstance(error, transport_errors()):
            raise error
        self.patience.pause(attempt, what, self._brief(error), getattr(response, "headers", None))

    def _brief(self, error: BaseException) -> str:
        """What went wrong first, in one line without the token."""
        status = getattr(getattr(error, "response", None), "status_code", None)
        root = list(_chain(error))[-1]
        text = f"the Hub answered {status}" if status else f"{type(root).__name__}: {root}"
        return str(redacted(" ".join(text.split())[:300], self.api.token))

    # --- reading back

    def read_back(self, oid: str) -> None:
        """Compares what the Hub shows at a commit with what was meant."""
        patience = replace(self.patience, tries=min(_OUTER_TRIES, self.patience.tries))
        with patient_hub(self.patience):
            for attempt in range(patience.tries):
                try:
                    problem = next(self._differences(oid), None)
                except Exception as error:
                    self._stop_if_final(error)
                    problem = f"it cannot be read ({self._brief(error)})"
                if problem is None:
                    return
                if attempt + 1 == patience.tries:
                    raise PublishError(f"reading back {self.repo_id}@{oid}: {problem}")
                patience.pause(attempt, f"reading back {self.repo_id}", problem)

    def _differences(self, oid: str) -> Iterator[str]:
        if bool(self._info(oid).private) != self.private:
            yield f"it is {'public' if self.private else 'private'}"
        tree = self._tree(oid)
        for path in self.bundle.files:
            if not self._is_there(path, tree):
                yield f"{path} is {'another file' if path in tree else 'missing'}"
        if README not in tree:
            yield "the card is missing"
        with tempfile.TemporaryDirectory(prefix="ladm-read-back-") as cache:
            yield from self._row_differences(oid, cache)

    def _row_differences(self, oid: str, cache: str) -> Iterator[str]:
        import pyarrow.parquet as pq
        from datasets import load_dataset

        whole = self.bundle.info.dataset_size <= READ_BACK_WHOLE
        # a folder here of the same name would be loaded in its place
        name = f"hf://datasets/{self.repo_id}" if Path(self.repo_id).is_dir() else self.repo_id
        loaded = load_dataset(
            name, self.bundle.config_name, revision=oid, token=self.api.token, cache_dir=cache, streaming=not whole
        )
        for split, info in self.bundle.info.splits.items():
            if split not in loaded:
                yield f"split {split} does not load"
                continue
            back = loaded[split].with_format("arrow").iter(READ_BACK_ROWS)
            theirs = (row for table in back for row in table.to_pylist())
            files = self.bundle.data_files(split)
            batches = (batch for file in files for batch in pq.ParquetFile(file).iter_batches(READ_BACK_ROWS))
            ours = (row for batch in batches for row in batch.to_pylist())
            count = info.num_examples + 1 if whole else READ_BACK_ROWS
            pairs = itertools.zip_longest(itertools.islice(ours, count), itertools.islice(theirs, count))
            # As text, so that NaN equals NaN.
            for number, (row, other) in enumerate(pairs):
                if repr(row) != repr(other):
                    yield f"row {number} of split {split} differs"
                    break


def _same_content(entry: Any, hashes: tuple[str, str]) -> bool:
    return bool(entry.lfs.sha256 == hashes[0] if entry.lfs else entry.blob_id == hashes[1])


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and what it came from."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def _command(folder: Any, repo_id: str, *, private: bool, create_pr: bool, **options: Any) -> str:
    """What a user types to finish an interrupted publish."""
    if not isinstance(folder, (str, Path)):
        return "call publish() again with the same arguments"
    words = ["ladm", "publish", str(folder), repo_id]
    words += [] if private else ["--public"]
    words += ["--pr"] if create_pr else []
    for name, value in options.items():
        for each in value if isinstance(value, (list, tuple)) else [value]:
            words += [f"--{name.replace('_', '-')}", str(each)] if each else []
    return shlex.join(words)
