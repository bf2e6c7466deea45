"""`publish()`: data, card, figures and manifest, committed once, whatever the network does.

A source becomes a `Bundle` of files, a `Publication` uploads and commits them, and `check_commit` compares what the Hub
then shows.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ladm_hf.data.hub import access_refused, chain, is_hub_id
from ladm_hf.data.run_record import RunRecord
from ladm_hf.data.shards import SHARD_BYTES
from ladm_hf.data.temporary import temporary_folder
from ladm_hf.errors import ConfigError, HubUnavailableError, LadmError, PublishError
from ladm_hf.publishing.account import read_account
from ladm_hf.publishing.bundle import file_size, make_bundle
from ladm_hf.publishing.limits import check_files, check_limits
from ladm_hf.publishing.publication import Publication
from ladm_hf.publishing.repository import Repository
from ladm_hf.publishing.retry import RetryPolicy, hub_retries
from ladm_hf.publishing.verify import check_commit
from ladm_hf.ranks import is_first_rank
from ladm_hf.text import command_line, redacted, without_credentials

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo


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
    run: RunRecord | Mapping[str, Any] | None = None,
    source_dataset: str | None = None,
    language: str | Sequence[str] | None = None,
    license: str | None = None,
    pretty_name: str | None = None,
    figures: Sequence[tuple[Path, str, str]] | None = None,
    command: str | None = None,
    token: str | None = None,
    read_back: bool = True,
    retry: RetryPolicy | None = None,
    shard_bytes: int = SHARD_BYTES,
    dry_run: bool = False,
) -> CommitInfo | None:
    """Publishes a dataset with its card and reads it back: in one commit, or, of more than 100 files, in several, the
    card in the last.

    Calling it again with the same input changes nothing on the Hub; calling it after an interruption finishes the job
    without sending again what is there already. Before anything is hashed or sent, the limits of the Hub and of the
    account are checked, and what they mean is printed on standard error.

    Args:
        source (`Dataset`, `DatasetDict`, [`Selection`] or path):
            What to publish; a path is a folder or URL of `ladm score`, `ladm select` or `ladm pack`, a folder of
            `save_to_disk`, or one with parquet files.
        repo_id (`str`):
            `user/name` of the dataset on the Hub; it is created if it does not exist.
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
        run ([`RunRecord`] or mapping, *optional*):
            How the rows were scored; defaults to the `run.json` found with them.
        source_dataset (`str`, *optional*):
            Hub id of the dataset that was scored, whose language and licence are carried over; defaults to the one
            that `run` names.
        language, license, pretty_name (`str`, *optional*): YAML values of the card that win over all others.
        figures (sequence of `(file, alt, caption)`, *optional*):
            Images for the card. `None` draws those of a selection, if matplotlib is there.
        command (`str`, *optional*): shell commands that make the data again, for the card.
        token (`str`, *optional*): access token; defaults to `HF_TOKEN` or the one of `hf auth login`.
        read_back (`bool`, *optional*, defaults to `True`):
            Check visibility, hashes and `load_dataset` afterwards.
        retry ([`RetryPolicy`], *optional*): time limits and retries.
        shard_bytes (`int`, *optional*): about the most bytes of one parquet file, before compression.
        dry_run (`bool`, *optional*, defaults to `False`):
            Print what the limits of the Hub and of the account mean, the files, their sizes and the changes to the
            card, and publish nothing.

    Returns:
        `CommitInfo` of the commit that holds the data; `None` after a dry run. In a process that is not the first of
        several, as `torchrun` or `mpirun` start them, nothing happens and `None` is returned.

    Raises:
        PublishError: the Hub would not take the files, or it did not work; then the message says what the Hub holds
            now and what finishes the job.
        InputError, ConfigError: there is nothing to publish, or a name cannot be.
    """
    if not is_first_rank():
        return None
    from huggingface_hub import HfApi, get_token

    if not is_hub_id(repo_id):
        raise ConfigError(
            f"repo_id must be 'user/name', got {repo_id!r}: each of up to 96 letters, digits, '-', '_' and '.', with "
            "neither '--' nor '..', nor '-' or '.' at an end, nor '.git' at the last"
        )
    if revision and create_pr:
        raise ConfigError("create_pr opens a pull request on main: leave revision out, or commit to the branch itself")
    token = token or get_token()
    again = "call publish() again with the same arguments"
    if isinstance(source, (str, Path)) and run is None and command is None and not figures:
        # fmt: off
        again = command_line("publish", publish, [without_credentials(str(source)), repo_id], {
            "private": private, "create_pr": create_pr, "revision": revision, "tag": tag, "config_name": config_name,
            "commit_message": commit_message, "source_dataset": source_dataset, "language": language,
            "license": license, "pretty_name": pretty_name, "figures": figures is None, "read_back": read_back,
            "dry_run": dry_run,
        })
        # fmt: on
    repo = Repository(HfApi(token=token), repo_id, retry or RetryPolicy())

    def check(sizes: Mapping[str, int]) -> None:
        check_files(sizes)
        lines = check_limits(sizes, read_account(repo, private), private, lambda: _sizes_on_hub(repo, revision))
        stream = sys.stdout if dry_run else sys.stderr
        stream.writelines(f"ladm: {line}\n" for line in lines)
        stream.flush()

    with temporary_folder("ladm-publish-") as work:
        bundle = make_bundle(
            source,
            work,
            config_name=config_name,
            run=run,
            source_dataset=source_dataset,
            figures=figures,
            shard_bytes=shard_bytes,
            token=token,
            check=check,
        )
        publication = Publication(
            repo=repo,
            bundle=bundle,
            private=private,
            revision=revision or "main",
            create_pr=create_pr,
            tag=tag,
            message=commit_message or f"Publish {bundle.num_rows:,} rows with LADM",
            card_options={
                "language": language,
                "license": license,
                "pretty_name": pretty_name,
                "command": redacted(command, token),
            },
        )
        with _publish_errors(publication, again):
            if dry_run:
                sys.stdout.write(publication.preview())
                return None
            commit = publication.publish()
            if read_back:
                check_commit(publication.repo, commit.oid, bundle, private)
            return commit


def _sizes_on_hub(repo: Repository, revision: str | None) -> dict[str, int]:
    """Bytes of each file of a repository, none where it does not exist or cannot be read."""
    with hub_retries(repo.few_tries), contextlib.suppress(Exception):
        return {path: file_size(entry) for path, entry in repo.tree(revision or "main").items()}
    return {}


@contextlib.contextmanager
def _publish_errors(publication: Publication, again: str) -> Iterator[None]:
    """Turns whatever went wrong into one error that says what the Hub holds now and what finishes the job.

    The token is in no message: where a server echoed it, its own error is not even kept as the cause.
    """
    try:
        yield
    except Exception as error:
        token = publication.repo.api.token
        errors = list(chain(error))
        first = next((each for each in errors if isinstance(each, LadmError)), error)
        message = access_refused(error, publication.repo.id) or str(first) or type(first).__name__
        # A refusal says itself what to do; the same call again would be refused again.
        refused = type(first) is PublishError and publication.commit_oid is None
        text = str(redacted(" ".join(message.split()), token)).rstrip(".")
        text = f"{text}. {publication.state()}" + ("" if refused else f" To finish: {again}")
        failure = HubUnavailableError if isinstance(first, HubUnavailableError) else PublishError
        leaks = token and any(token in str(each) for each in errors)
        raise failure(text) from (None if leaks else error)
