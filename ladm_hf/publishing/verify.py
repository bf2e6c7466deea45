"""Reading back: what the Hub shows at a commit is compared with what was meant."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

from ladm_hf.data.columns import to_rows
from ladm_hf.data.temporary import temporary_folder
from ladm_hf.errors import PublishError
from ladm_hf.publishing.bundle import Bundle
from ladm_hf.publishing.repository import Repository
from ladm_hf.publishing.retry import hub_retries

# Up to this many bytes all rows are read back; of more, the first rows of each split.
READ_BACK_WHOLE = 256_000_000
READ_BACK_ROWS = 100


def check_commit(repo: Repository, oid: str, bundle: Bundle, private: bool) -> None:
    """Compares what the Hub shows at a commit with what was meant.

    Raises:
        PublishError: it shows something else.
    """
    retry = repo.few_tries
    with hub_retries(repo.retry):
        for attempt in range(retry.tries):
            try:
                problem = next(_differences(repo, oid, bundle, private), None)
            except Exception as error:
                repo.stop_if_final(error)
                problem = f"it cannot be read ({repo.brief(error)})"
            if problem is None:
                return
            if attempt + 1 == retry.tries:
                raise PublishError(f"reading back {repo.id}@{oid}: {problem}")
            retry.pause(attempt, f"reading back {repo.id}", problem)


def _differences(repo: Repository, oid: str, bundle: Bundle, private: bool) -> Iterator[str]:
    if bool(repo.info(oid).private) != private:
        yield f"it is {'public' if private else 'private'}"
    tree = repo.tree(oid)
    for path in bundle.files:
        if not bundle.is_in(path, tree):
            yield f"{path} is {'another file' if path in tree else 'missing'}"
    if "README.md" not in tree:
        yield "the card is missing"
    with temporary_folder("ladm-read-back-") as cache:
        yield from _row_differences(repo, oid, bundle, str(cache))


def _row_differences(repo: Repository, oid: str, bundle: Bundle, cache: str) -> Iterator[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import load_dataset

    whole = bundle.info.dataset_size <= READ_BACK_WHOLE
    # a folder here of the same name would be loaded in its place
    name = f"hf://datasets/{repo.id}" if Path(repo.id).is_dir() else repo.id
    loaded = load_dataset(
        name, bundle.config_name, revision=oid, token=repo.api.token, cache_dir=cache, streaming=not whole
    )
    for split, info in bundle.info.splits.items():
        if split not in loaded:
            yield f"split {split} does not load"
            continue
        back = loaded[split].with_format("arrow").iter(READ_BACK_ROWS)
        theirs = (row for table in back for row in to_rows(table))
        files = bundle.data_files(split)
        batches = (batch for file in files for batch in pq.ParquetFile(file).iter_batches(READ_BACK_ROWS))
        ours = (row for batch in batches for row in to_rows(pa.Table.from_batches([batch])))
        count = info.num_examples + 1 if whole else READ_BACK_ROWS
        pairs = itertools.zip_longest(itertools.islice(ours, count), itertools.islice(theirs, count))
        # As text, so that NaN equals NaN.
        for number, (row, other) in enumerate(pairs):
            if repr(row) != repr(other):
                yield f"row {number} of split {split} differs"
                break
