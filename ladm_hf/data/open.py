"""What is at a path or Hub id: [`find_splits`] and [`find_data`] say, and everything that reads data asks them.

path, glob or URL (any fsspec protocol), folder -> DataFiles: parquet, JSON lines, ...
folder of save_to_disk, Dataset, pa.Table       -> Dataset
Hub id                                          -> DataFiles where they lie, or an IterableDataset of another format
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
import pyarrow as pa

from ladm_hf.data.arrow_types import loadable_schemas
from ladm_hf.data.columns import conform
from ladm_hf.data.content import explain, format_in, known_content, read_unpacked_head
from ladm_hf.data.data_files import RESULTS, DataFiles, files_of_folder, format_of, load_with_datasets, splits_of
from ladm_hf.data.hub import is_repo_name
from ladm_hf.data.json_lines import JsonLinesSource
from ladm_hf.data.parquet import ParquetSource
from ladm_hf.data.repositories import has_configs, splits_of_repository
from ladm_hf.data.results import UNFINISHED
from ladm_hf.data.row_files import row_reader
from ladm_hf.data.sources import DatasetSource, Source
from ladm_hf.data.storage import is_url
from ladm_hf.data.store_errors import CHECK_ACCESS, of_client
from ladm_hf.data.streams import StreamSource
from ladm_hf.errors import InputError
from ladm_hf.text import one_line, without_credentials

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

logger = logging.getLogger(__name__)

_MAGIC = "*?["
_HUB_URL = re.compile(r"hf://datasets/([\w.-]+/[\w.-]+)(?:@([^/]+))?(?:/|$)")


@dataclass(frozen=True)
class Split:
    """One split of some data, opened but not read.

    Attributes:
        split (`str`): its name.
        content (`Dataset`, `IterableDataset` or [`DataFiles`]): its rows, or the files that hold them.
        name (`str`): what the data are called, for people.
        hub (`dict`, *optional*): `id` and `revision` of the Hub data set that this is, `None` for any other data.
    """

    split: str
    content: Dataset | IterableDataset | DataFiles
    name: str
    hub: dict[str, str | None] | None = None


def find_data(data: Any, *, split: str | None = None, name: str | None = None, revision: str | None = None) -> Split:
    """One split of what is at a path or Hub id, or is given in memory. Nothing is read but names and footers.

    Args:
        data: see [`find_splits`].
        split (`str`, *optional*): the split; needed where there are several.
        name (`str`, *optional*): configuration of a Hub data set, or of a folder with a card.
        revision (`str`, *optional*): branch, tag or commit of a Hub data set.

    Raises:
        InputError: nothing is there, or nothing that can be read, or the split has to be named.
    """
    splits = find_splits(data, split=split, name=name, revision=revision)
    what = next(iter(splits.values())).name
    chosen: Split = one_split(splits, split, what)
    return chosen


def find_splits(
    data: Any, *, split: str | None = None, name: str | None = None, revision: str | None = None
) -> dict[str, Split]:
    """All splits of what is at a path or Hub id, or is given in memory, by name; one at least.

    Args:
        data (`Dataset`, `IterableDataset`, a dictionary of them, `pa.Table`, `DataFrame`, path, list of paths):
            The data, a folder of `save_to_disk`, a file, glob, URL or folder of parquet, JSON lines or another format
            that `datasets` reads, or a Hub id (`"owner/name"`).
        split (`str`, *optional*): the split that is wanted. A file or glob is one split, whatever it is called, unless
            the names of its files tell splits apart.
        name, revision (`str`, *optional*): see [`find_data`].

    Raises:
        InputError: nothing is there, or nothing that can be read.
    """
    from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict

    if isinstance(data, (DatasetDict, IterableDatasetDict)):
        return {str(part): Split(str(part), rows, "this DatasetDict") for part, rows in data.items()}
    if hasattr(data, "__arrow_c_stream__") and hasattr(data, "columns"):
        data = from_table(_table_of(data))
    if isinstance(data, (Dataset, IterableDataset)):
        own = str(data.split or "train").partition("[")[0]
        return {split or own: Split(split or own, data, "this data set")}
    if isinstance(data, (str, os.PathLike)):
        return _at_path(os.fspath(data), split, name, revision)
    if isinstance(data, Sequence) and data and all(isinstance(part, (str, os.PathLike)) for part in data):
        return _joined([_at_path(os.fspath(part), split, name, revision) for part in data], split)
    raise InputError(
        f"expected a Dataset, an IterableDataset, a DataFrame, a path or a Hub id, found {type(data).__name__}"
    )


def one_split(splits: Mapping[str, Any], split: str | None, what: str) -> Any:
    """The split asked for, or the only one.

    Raises:
        InputError: there is no such split, or there are several and none was named.
    """
    names = list(splits)
    if split is None and len(names) == 1:
        split = names[0]
    if split is None or split not in splits:
        wanted = "has several splits" if split is None else f"has no split {split!r}"
        raise InputError(f"{what} {wanted}: name one of {', '.join(names)} with --split (split=)")
    return splits[split]


def open_source(data: Any, *, split: str | None = None, name: str | None = None, revision: str | None = None) -> Source:
    """The rows of some data, for reading in ranges; for the arguments and errors see [`find_data`]."""
    return source_of(find_data(data, split=split, name=name, revision=revision))


def source_of(found: Split) -> Source:
    """The reader of a split that was found."""
    from datasets import Dataset, IterableDataset

    content = found.content
    source: Source
    if isinstance(content, Dataset):
        return DatasetSource(content)
    if isinstance(content, IterableDataset):
        source = StreamSource(content, None if found.hub is None else found.name)
    elif rows := row_reader(content):
        source = StreamSource(IterableDataset.from_generator(rows, gen_kwargs={"files": content}), found.name)
    elif content.format in READERS:
        source = READERS[content.format](content.fs, list(content.paths), found.name)
    else:
        source = StreamSource(load_with_datasets(content, found.name, streaming=True), found.name)
    source.hub = found.hub
    return source


READERS: dict[str, Any] = {"parquet": ParquetSource, "json": JsonLinesSource}


def _at_path(path: str, split: str | None, name: str | None, revision: str | None) -> dict[str, Split]:
    local = Path(path).expanduser()
    if not is_url(path) and not local.exists() and not any(c in path for c in _MAGIC):
        # the oldest data sets of the Hub have no owner
        if is_repo_name(path) and not format_of(path):
            return _in_repository(path, name, revision)
        raise InputError(f"no file, folder or glob {path!r} here; a Hub data set is 'owner/name'")
    url = path if is_url(path) else str(local)
    at = _HUB_URL.match(path)
    hub = {"id": at[1], "revision": at[2]} if at else None
    try:
        fs, root = fsspec.url_to_fs(url)
        # what was listed in this process before may have been written since
        fs.invalidate_cache()
        if fs.isdir(root):
            return _in_folder(fs, root, url, name, hub)
        if fs.exists(root) or not any(c in root for c in _MAGIC):
            paths = [root] if fs.isfile(root) else []
        else:
            paths = sorted(found for found in fs.glob(root) if fs.isfile(found))
    except InputError:
        raise
    except (ImportError, ValueError, OSError) as error:
        raise InputError(without_credentials(f"cannot open {path!r}: {error}")) from error
    except Exception as error:
        if not of_client(error):
            raise
        reason = one_line(f"{type(error).__name__}: {error}", 300)
        raise InputError(without_credentials(f"cannot open {path!r}: {reason}; {CHECK_ACCESS}")) from error
    path = without_credentials(path)
    if not paths and fs.exists(root):
        raise InputError(f"{path!r} is a pipe or device, but data are read more than once: write them to a file first")
    if not paths:
        raise InputError(f"no parquet or JSON-lines file at {path!r}, nor one in another format: {_EXPECTED}")
    chosen, files = _named_split(paths, split, path)
    return {chosen: Split(chosen, _one_format(fs, files, path), path, hub)}


def _named_split(paths: list[str], split: str | None, name: str) -> tuple[str, list[str]]:
    """Of files that were named one by one or by a glob: all, or those whose names say that they are of a split."""
    if split is None:
        return "train", paths
    root = os.path.commonpath([os.path.dirname(path) for path in paths])
    splits = splits_of([os.path.relpath(path, root) for path in paths], name)
    if split == "train" and split not in splits:
        # what `load_dataset` calls the files that it is given
        return split, paths
    return split, [os.path.join(root, path) for path in one_split(splits, split, repr(name))]


def _one_format(fs: Any, paths: list[str], name: str) -> DataFiles:
    formats: dict[str, tuple[str, dict[str, Any]]] = {}
    for path in paths:
        by_content = None if (by_name := format_of(path)) else format_in(fs, path)
        if by_name is None and by_content is None:
            head = read_unpacked_head(fs, path)
            expected = "" if not head or known_content(head) else f": {_EXPECTED}"
            raise InputError(f"{path} is in no known format; it is {explain(head)}{expected}")
        formats[path] = by_name or (str(by_content), {})
    first, *others = {str(found): found for found in formats.values()}.values()
    if others:
        other = next(path for path, found in formats.items() if found != first)
        raise InputError(f"{name!r} is a mixture of formats ({paths[0]}, {other}): give the files of one format")
    return DataFiles(fs, tuple(paths), first[0], dict(first[1]))


_EXPECTED = (
    "expected parquet (.parquet, .pq), JSON lines (.jsonl, .ndjson, .json) or another format that `datasets` reads "
    "(.csv, .txt, .arrow, ...), as it is or compressed (.gz, .bz2, .xz, .zst, .lz4)"
)


def _joined(parts: list[dict[str, Split]], split: str | None) -> dict[str, Split]:
    """Several paths as one split."""
    found = [one_split(splits, split, next(iter(splits.values())).name) for splits in parts]
    if len(found) == 1:
        return {found[0].split: found[0]}
    names = ", ".join(part.name for part in found[:3])
    files = [part.content for part in found if isinstance(part.content, DataFiles)]
    first = files[0] if len(files) == len(found) else None
    if first is None or any((f.format, f.options, f.fs) != (first.format, first.options, first.fs) for f in files):
        raise InputError(f"the files must all be of one format and in one place, found {names}: give them one by one")
    paths = tuple(path for part in files for path in part.paths)
    chosen = split or found[0].split
    return {chosen: Split(chosen, replace(first, paths=paths), names)}


def _in_folder(fs: Any, root: str, url: str, name: str | None, hub: Any) -> dict[str, Split]:
    if any(fs.exists(f"{root}/{mark}") for mark in ("state.json", "dataset_dict.json")):
        return _saved(url)
    if fs.exists(f"{root}/.ladm/prepare.json"):
        raise InputError(f"`ladm prepare` has not finished {url}: give it the same arguments again")
    if fs.exists(f"{root}/{UNFINISHED}") and not any(fs.exists(f"{root}/{record}") for record in RESULTS):
        raise InputError(f"{without_credentials(url)} is a result that is not finished: give its command again")
    if fs.exists(f"{root}/run.json") and not _is_finished(fs, root):
        raise InputError(
            f"the scoring run in {url} has not finished: give `ladm score` the same arguments to resume it"
        )
    if fs.exists(f"{root}/run.json"):
        # beside it lie logs and a report
        root = f"{root}/data"
    if hub is None and os.path.isdir(root) and (name is not None or has_configs(Path(root))):
        return _in_repository(url, name, None)
    splits = files_of_folder(fs, root)
    if not splits:
        raise InputError(f"no parquet or JSON-lines file at {url!r}, nor one in another format: {_EXPECTED}")
    return {split: Split(split, files, without_credentials(url), hub) for split, files in splits.items()}


def _is_finished(fs: Any, root: str) -> bool:
    """Whether the folder of a run has all of its data; in an object store these appear one by one, and then a mark."""
    unfinished = fs.exists(f"{root}/.ladm/data") and not fs.exists(f"{root}/.ladm/finished.json")
    return not unfinished and bool(fs.exists(f"{root}/data"))


def _in_repository(path: str, name: str | None, revision: str | None) -> dict[str, Split]:
    splits, hub = splits_of_repository(path, name, revision)
    return {split: Split(split, content, path, hub) for split, content in splits.items()}


def _saved(path: str) -> dict[str, Split]:
    from datasets import DatasetDict, load_from_disk

    try:
        saved = load_from_disk(path)
    except Exception as error:  # the loader raises whatever its files make it raise
        raise InputError(
            f"{path} looks like a folder of save_to_disk, but cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    parts = saved if isinstance(saved, DatasetDict) else {str(saved.split or "train"): saved}
    return {str(split): Split(str(split), rows, path) for split, rows in parts.items()}


def _table_of(frame: Any) -> pa.Table:
    """A table of Arrow, or a frame of pandas, polars or another library that hands its columns over as Arrow."""
    try:
        return frame if isinstance(frame, pa.Table) else pa.table(frame)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise InputError(
            f"this {type(frame).__name__} has no form in Arrow: {' '.join(map(str, error.args))}"
        ) from error


def from_table(table: pa.Table, name: str = "the table") -> Dataset:
    """A table as a data set, without a copy and without the pass over it that a fingerprint of its content takes."""
    from datasets import Dataset
    from datasets.fingerprint import generate_random_fingerprint
    from datasets.table import InMemoryTable

    loadable = conform(table, loadable_schemas([table.schema], name)[0], name)
    return Dataset(InMemoryTable(loadable), fingerprint=generate_random_fingerprint())
