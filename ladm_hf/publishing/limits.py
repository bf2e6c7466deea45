"""What the Hub takes of a data set and what the plan of its owner adds, checked before anything is hashed or sent.

The numbers are those of the Hub's documentation, all here, with source and date. What the Hub itself would refuse is
refused; what it only advises against, or bills, is a line.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from ladm_hf.errors import PublishError
from ladm_hf.publishing.account import Account
from ladm_hf.text import byte_count, counted

# The pages storage-limits and datasets-viewer-configure, as of 23 June 2026.
SOURCE = "https://huggingface.co/docs/hub/storage-limits"
GB, TB = 10**9, 10**12
# The Hub takes no more.
FILE_BYTES, FOLDER_FILES = 500 * GB, 10_000
# The Hub advises against more.
LARGE_FILE_BYTES, COMMIT_FILES = 200 * GB, 100


@dataclass(frozen=True)
class Plan:
    """What a plan includes.

    Attributes:
        title (`str`): for people.
        private_bytes, public_bytes (`int`, *optional*): storage; `None` where no number is published.
        seat_bytes (`int`): how much each seat adds to both.
        billed (`bool`): whether more private storage is billed; it is refused otherwise.
        viewer (`bool`): whether the viewer shows private data sets.
    """

    title: str
    private_bytes: int | None
    public_bytes: int | None
    seat_bytes: int = 0
    billed: bool = True
    viewer: bool = True

    def storage(self, private: bool, seats: int | None) -> int | None:
        """Bytes included, `None` where that is not known."""
        base = self.private_bytes if private else self.public_bytes
        if base is None or (self.seat_bytes and not seats):
            return None
        return base + self.seat_bytes * (seats or 0)

    def storage_words(self, private: bool, seats: int | None) -> str:
        """The storage included, for people."""
        if (included := self.storage(private, seats)) is not None:
            return byte_count(included)
        base = self.private_bytes if private else self.public_bytes
        if base is None:
            return "no number published"
        return " and ".join(filter(None, (byte_count(base) if base else "", f"{byte_count(self.seat_bytes)} a seat")))


PLANS = {
    "free": Plan("free", 100 * GB, None, billed=False, viewer=False),
    "pro": Plan("PRO", TB, 10 * TB),
    "team": Plan("Team", 0, 12 * TB, TB),
    "enterprise": Plan("Enterprise", 0, 200 * TB, TB),
    "plus": Plan("Enterprise Plus", 0, 200 * TB, TB),
    "academia": Plan("Academia Hub", None, None),
}


def check_limits(
    sizes: Mapping[str, int], account: Account, private: bool, on_hub: Callable[[], Mapping[str, int]]
) -> list[str]:
    """What the plan of an account means for files that [`check_files`] lets pass.

    Args:
        sizes (`dict[str, int]`): bytes of each file to publish, by its path in the repository.
        account ([`Account`]): of the owner of the repository.
        private (`bool`): whether it is private.
        on_hub (callable): bytes of each file that the repository holds already; called where that decides.

    Returns:
        Lines for people: what is published, what the plan includes, and warnings.

    Raises:
        PublishError: the Hub would not take it.
    """
    plan = PLANS.get(account.plan or "")
    included = plan and plan.private_bytes
    if private and plan and not plan.billed and account.is_certain and sum(sizes.values()) > (included or 0):
        # a file of the same size at the same path counts as there already
        there = on_hub()
        added = sum(size for path, size in sizes.items() if there.get(path) != size)
        if added > (included or 0):
            raise PublishError(
                f"{byte_count(added)} would be added to the private storage of {account.name}, whose {plan.title} plan "
                f"has {byte_count(included or 0)} ({SOURCE}): publish less, or with --public (private=False), or under "
                "an account with a larger plan"
            )
    return [*_facts(sizes, account, plan, private), *(f"warning: {each}" for each in _warnings(sizes))]


def check_files(sizes: Mapping[str, int]) -> None:
    """Refuses files that no account can publish.

    Raises:
        PublishError: one is too large, or a folder holds too many.
    """
    path, largest = max(sizes.items(), key=lambda item: item[1])
    if largest > FILE_BYTES:
        raise PublishError(
            f"{path} would have {byte_count(largest)}, and the Hub takes no file above {byte_count(FILE_BYTES)} "
            f"({SOURCE}): write the rows as several files"
        )
    folder, files = Counter(path.rpartition("/")[0] for path in sizes).most_common(1)[0]
    if files > FOLDER_FILES:
        raise PublishError(
            f"{folder} would hold {files:,} files, and the Hub takes {FOLDER_FILES:,} in a folder ({SOURCE}): write "
            "larger ones (shard_bytes=), or publish parts, each with its own --config-name (config_name=)"
        )


def _facts(sizes: Mapping[str, int], account: Account, plan: Plan | None, private: bool) -> Iterator[str]:
    total = sum(sizes.values())
    # card and manifest come on top
    commits = -(-(len(sizes) + 2) // COMMIT_FILES)
    split = "one commit" if commits == 1 else f"{commits:,} commits of up to {COMMIT_FILES} files, the card in the last"
    yield f"to publish: {counted(len(sizes), 'data file')}, {byte_count(total)}, in {split}"
    if plan is None:
        yield f"the plan of {account.name} is not known ({account.reason}): its storage is not checked"
        return
    title = f"{account.name} has the {plan.title} plan" if account.is_certain else f"{account.name} shows no paid plan"
    storage = f"{'private' if private else 'public'} storage: {plan.storage_words(private, account.seats)}"
    used = account.private_used if private else None
    if used is not None:
        storage += f", {byte_count(used)} of it used"
    viewer = f"; the viewer {'shows' if plan.viewer else 'does not show'} private data sets" if private else ""
    yield f"{title}; {storage}{viewer}"
    included = plan.storage(private, account.seats)
    if included is not None and (used or 0) + total > included:
        rest = "what is beyond it is billed" if private and plan.billed else "the Hub may refuse what is beyond it"
        yield f"warning: these {byte_count(total)} may go beyond this storage: {rest} ({SOURCE})"


def _warnings(sizes: Mapping[str, int]) -> Iterator[str]:
    large = [path for path, size in sizes.items() if size > LARGE_FILE_BYTES]
    if large:
        more = f" and {len(large) - 1:,} more files" if large[1:] else ""
        yield f"{large[0]}{more} above {byte_count(LARGE_FILE_BYTES)}: the Hub advises smaller files ({SOURCE})"
