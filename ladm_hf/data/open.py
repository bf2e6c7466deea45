"""From a name to a source: `open_source`.

path, glob or URL (any fsspec protocol) -> parquet | JSON lines
folder of save_to_disk, Dataset         -> rows of an Arrow table
Hub id                                  -> the repository's parquet or JSON files, read where they lie
IterableDataset                         -> rows of a stream
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import fsspec

from ladm_hf.data.json_lines import JsonLinesSource
from ladm_hf.data.parquet import ParquetSource
from ladm_hf.data.sources import COMPRESSED, DatasetSource, Source, StreamSource
from ladm_hf.errors import InputError

_PARQUET = (".parquet", ".pq")
_JSON = (".jsonl", ".ndjson", ".json")
# Files that mark the folder of a run or a selection.
_RESULTS = ("run.json", "selection.json")
_HUB_URL = re.compile(r"hf://datasets/([\w.-]+/[\w.-]+)(?:@([^/]+))?(?:/|$)")
_HUB_REVISION = re.compile(r"hf://datasets/[^@]+@([^/]+)/")


def open_source(
    data: Any,
    *,
    split: str | None = None,
    name: str | None = None,
    revision: str | None = None,
) -> Source:
    """Finds the reader for some data.

    Args:
        data (`Dataset`, `IterableDataset`, `DatasetDict`, `str` or path):
            The data, a folder of `save_to_disk`, a path, glob or URL of parquet or JSON lines, or a Hub id.
        split (`str`, *optional*): split of a `DatasetDict` or Hub data set; needed where there are several.
        name (`str`, *optional*): configuration of a Hub data set.
        revision (`str`, *optional*): branch, tag or commit of a Hub data set.

    Raises:
        InputError: nothing is there, or nothing that can be read.
    """
    from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict

    if isinstance(data, (DatasetDict, IterableDatasetDict)):
        data = _one_split(data, split, "this DatasetDict")
    if isinstance(data, Dataset):
        return DatasetSource(data)
    if isinstance(data, IterableDataset):
        return StreamSource(data)
    if isinstance(data, (str, os.PathLike)):
        source = _open_path(os.fspath(data), split, name, revision)
        if url := _HUB_URL.match(os.fspath(data)):
            source.hub = {"id": url[1], "revision": url[2]}
        return source
    raise InputError(f"expected a Dataset, an IterableDataset, a path or a Hub id, found {type(data).__name__}")


def _open_path(path: str, split: str | None, name: str | None, revision: str | None) -> Source:
    local = Path(path).expanduser()
    if "://" not in path and not local.exists() and not any(c in path for c in "*?["):
        if path.count("/") <= 1 and not path.startswith((".", "/", "~")) and not _kind(path):
            source, commit = _open_hub(path, split, name, revision)
            source.hub = {"id": path, "revision": commit or revision}
            return source
        raise InputError(f"no file, folder or glob {path!r} here; a Hub data set is 'owner/name'")
    url = path if "://" in path else str(local)
    try:
        fs, root = fsspec.url_to_fs(url)
        if fs.isdir(root):
            if any(fs.exists(f"{root}/{mark}") for mark in ("state.json", "dataset_dict.json")):
                return _open_saved(url, split)
            paths = _data_files(fs, root, split)
        elif fs.exists(root) or not any(c in root for c in "*?["):
            paths = [root] if fs.isfile(root) else []
        else:
            paths = sorted(found for found in fs.glob(root) if fs.isfile(found))
    except (ImportError, ValueError, OSError) as error:
        raise InputError(f"cannot open {path!r}: {error}") from error
    if not paths:
        raise InputError(f"no parquet or JSON-lines file at {path!r}")
    return _source_of(fs, paths, path)


def _source_of(fs: Any, paths: list[str], name: str) -> Source:
    kinds = {_kind(found) for found in paths}
    if kinds == {"parquet"}:
        return ParquetSource(fs, paths, name)
    if kinds == {"json"}:
        return JsonLinesSource(fs, paths, name)
    odd = next((found for found in paths if not _kind(found)), paths[0])
    raise InputError(
        f"{name!r} is {'a mixture of formats' if len(kinds) > 1 else 'in no known format'} ({odd}): expected "
        f"parquet ({', '.join(_PARQUET)}) or JSON lines ({', '.join(_JSON)}, also {', '.join(COMPRESSED)})"
    )


def _kind(path: str) -> str:
    stem = path.lower()
    for suffix in COMPRESSED:
        stem = stem.removesuffix(suffix)
    if stem.endswith(_JSON):
        return "json"
    return "parquet" if path.lower().endswith(_PARQUET) else ""


def _data_files(fs: Any, root: str, split: str | None) -> list[str]:
    """Data files of a folder: parquet if there is any, else JSON lines; without hidden folders and, below it, the
    folders of runs and selections."""
    files = sorted(fs.find(root))
    folders = {os.path.dirname(file) for file in files if os.path.basename(file) in _RESULTS} - {root.rstrip("/")}
    results = tuple(f"{folder}/" for folder in folders)
    found = []
    for file in files:
        below = file[len(root) :].strip("/").split("/")
        if not file.startswith(results) and not any(part.startswith((".", "__")) for part in below):
            found.append(file)
    data = [file for file in found if _kind(file) == "parquet"] or [
        file for file in found if file.lower().endswith((".jsonl", ".ndjson", *(".jsonl" + c for c in COMPRESSED)))
    ]
    if split is not None:
        data = [file for file in data if os.path.basename(file).startswith((f"{split}-", f"{split}."))]
    return data


def _open_saved(path: str, split: str | None) -> Source:
    from datasets import DatasetDict, load_from_disk

    saved = load_from_disk(path)
    return DatasetSource(_one_split(saved, split, path) if isinstance(saved, DatasetDict) else saved)


def _one_split(splits: Any, split: str | None, what: str) -> Any:
    names = list(splits)
    if split is None and len(names) == 1:
        split = names[0]
    if split not in names:
        wanted = "has several splits" if split is None else f"has no split {split!r}"
        raise InputError(f"{what} {wanted}: name one of {', '.join(names)} with --split (split=)")
    return splits[split]


def _open_hub(repo_id: str, split: str | None, name: str | None, revision: str | None) -> tuple[Source, str | None]:
    """The files of a Hub data set where they lie, and their commit as far as it is known; a data set in another format
    is streamed row by row."""
    from datasets import load_dataset, load_dataset_builder

    try:
        builder = load_dataset_builder(repo_id, name, revision=revision)
        files = builder.config.data_files
        first = next((str(file) for some in (files or {}).values() for file in some), "")
        at = _HUB_REVISION.match(first)
        commit = at and at[1]
        if {kind.__name__ for kind in type(builder).__mro__} & {"Parquet", "Json"} and files:
            paths = [str(file) for file in _one_split(files, split, f"the data set {repo_id!r}")]
            fs, _ = fsspec.url_to_fs(paths[0])
            return _source_of(fs, [fs._strip_protocol(file) for file in paths], repo_id), commit
        streams = load_dataset(repo_id, name, revision=revision, streaming=True)
    except InputError:
        raise
    except Exception as error:  # the loader raises whatever the Hub's client and the format's reader raise
        raise InputError(
            f"{repo_id!r} is neither a path here nor a data set that the Hub gives: {type(error).__name__}: {error}. "
            "Check the name, its --name and --revision, the network, and `hf auth login` for private or gated data."
        ) from error
    return StreamSource(_one_split(streams, split, f"the data set {repo_id!r}")), commit
