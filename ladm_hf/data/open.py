"""What is at a path or Hub id: rows to score (`open_source`), scored rows (`open_scored`), documents to train on.

path, glob or URL (any fsspec protocol) -> parquet | JSON lines
folder of save_to_disk, Dataset         -> rows of an Arrow table
Hub id                                  -> the repository's parquet or JSON files, read where they lie
IterableDataset                         -> rows of a stream
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from ladm_hf.data.json_lines import JsonLinesSource
from ladm_hf.data.parquet import ParquetSource
from ladm_hf.data.sources import COMPRESSED, DatasetSource, Source, StreamSource
from ladm_hf.errors import InputError

if TYPE_CHECKING:
    from datasets import Dataset

_PARQUET = (".parquet", ".pq")
_JSON = (".jsonl", ".ndjson", ".json")
# Files that mark the folder of a run or a selection.
_RESULTS = ("run.json", "selection.json")
_HUB_URL = re.compile(r"hf://datasets/([\w.-]+/[\w.-]+)(?:@([^/]+))?(?:/|$)")
_HUB_REVISION = re.compile(r"hf://datasets/[^@]+@([^/]+)/")
SELECTION_FILE = "selection.json"
FORMATS = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".jsonl.gz": "json", ".csv": "csv", ".txt": "text"}


def is_hub_id(name: str) -> bool:
    """Whether a name can be that of a repository on the Hub: `owner/name`, by the Hub's own rules."""
    return "/" in name and _is_repo_name(name)


def _is_repo_name(name: str) -> bool:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


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
        # the oldest data sets of the Hub have no owner
        if _is_repo_name(path) and not _kind(path):
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


def load_files(files: Sequence[Path], split: str) -> Dataset:
    """Parquet files as one data set, also where they hold no row, which `load_dataset` does not take."""
    from datasets import Dataset, load_dataset

    if not any(pq.read_metadata(file).num_rows for file in files):
        return Dataset(pq.read_table(files[0]))
    return load_dataset("parquet", data_files={split: [glob.escape(str(file)) for file in files]}, split=split)


def open_scored(scored: Any, *, split: str | None = None) -> Dataset:
    """The rows of a scored data set, wherever they are.

    Args:
        scored (`Dataset`, `DatasetDict`, `pa.Table`, `str` or path):
            The data, a folder of `save_to_disk`, a parquet file, a glob of them, a folder that holds them, or a Hub
            data set (`"user/name"`).
        split (`str`, *optional*): split of a `DatasetDict`; needed where there are several.

    Raises:
        InputError: nothing is there, or nothing that can be read.
    """
    from datasets import Dataset, DatasetDict, load_from_disk

    if isinstance(scored, pa.Table):
        return _from_table(scored)
    if isinstance(scored, (str, os.PathLike)):
        path = Path(scored).expanduser()
        if (path / SELECTION_FILE).is_file():
            raise InputError(
                f"{path} is a selection, not a scored pool: give the pool it was made from, or {path / 'data'} to "
                "select again among the rows it kept"
            )
        if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
            scored = load_from_disk(str(path))
        elif not path.exists() and is_hub_id(str(scored)):
            scored = _from_hub(str(scored), split)
        else:
            return read_parquet(_parquet_files(path))
    if isinstance(scored, DatasetDict):
        names = list(scored)
        split = names[0] if split is None and len(names) == 1 else split
        if split not in names:
            wanted = "there are several splits" if split is None else f"there is no split {split!r}"
            raise InputError(f"{wanted}: name one of {', '.join(names)} with --split (split=)")
        scored = scored[split]
    if not isinstance(scored, Dataset):
        raise InputError(
            f"expected a datasets.Dataset, a pyarrow.Table or a path, found {type(scored).__name__}. A stream must be "
            "written first: score it with `ladm score` and give the folder it wrote."
        )
    return scored


def _from_table(table: pa.Table) -> Dataset:
    """A table as a data set, without a copy and without the pass over it that a fingerprint of its content takes."""
    from datasets import Dataset
    from datasets.fingerprint import generate_random_fingerprint
    from datasets.table import InMemoryTable

    return Dataset(InMemoryTable(table), fingerprint=generate_random_fingerprint())


def _from_hub(repo_id: str, split: str | None) -> Any:
    from datasets import load_dataset

    try:
        return load_dataset(repo_id, split=split)
    except Exception as error:  # the loader raises whatever the Hub's client and the format's reader raise
        raise InputError(
            f"{repo_id!r} is neither a path here nor a data set that the Hub gives: {type(error).__name__}: {error}. "
            "Check the name, the split, the network, and `hf auth login` for private or gated data."
        ) from error


def read_parquet(files: list[str]) -> Dataset:
    """The rows of parquet files of one schema, which may have no rows at all.

    Raises:
        InputError: a file cannot be read, or the files differ in their columns.
    """
    from datasets import Dataset
    from datasets.exceptions import DatasetGenerationError

    rows = 0
    for file in files:
        try:
            rows += pq.read_metadata(file).num_rows
        except (pa.ArrowInvalid, OSError) as error:
            raise InputError(f"{file} is not a parquet file that can be read: {error}") from error
    if not rows:
        return _from_table(pq.read_table(files[0]))
    try:
        # these are names of files, whatever characters they hold
        return Dataset.from_parquet([glob.escape(file) for file in files])
    except DatasetGenerationError as error:
        raise InputError(
            f"the parquet files from {files[0]} on cannot be read as one data set: {error.__cause__ or error}"
        ) from error


def _parquet_files(path: Path) -> list[str]:
    """Parquet files at a path, in order; those in hidden folders are left out, and of a run all but its data."""
    if path.is_dir():
        top = path / "data" if (path / "run.json").is_file() else path
        found = list(top.rglob("*.parquet"))
        hidden = [any(part.startswith((".", "__")) for part in file.relative_to(top).parts) for file in found]
        files = sorted(str(file) for file, skip in zip(found, hidden, strict=True) if not skip)
    elif path.is_file():
        files = [str(path)]
    else:
        files = sorted(file for file in glob.glob(str(path), recursive=True) if os.path.isfile(file))
    if not files and (path / "run.json").is_file():
        raise InputError(f"the scoring run in {path} has not finished: give `ladm score` the same arguments to go on")
    if not files:
        raise InputError(
            f"no scored data at {path}: expected a folder of `ladm score` or of save_to_disk, or a parquet file, "
            "a glob or a folder of them"
        )
    return files


def open_documents(data: str | Path | Sequence[str | Path], split: str = "train", streaming: bool = False) -> Any:
    """Documents to train on, as a `Dataset`, or an `IterableDataset` when streaming; see `training.load_documents`."""
    from datasets import load_dataset

    names = [str(data)] if isinstance(data, (str, Path)) else [str(name) for name in data]
    files: list[str] = []
    for name in names:
        path = Path(name).expanduser()
        if path.is_dir():
            files += [str(file) for file in sorted(path.iterdir()) if _format(file.name)]
        elif path.is_file():
            files.append(str(path))
        else:
            files += [file for file in sorted(glob.glob(str(path), recursive=True)) if Path(file).is_file()]
    if not files:
        if len(names) > 1 or _format(names[0]) or not is_hub_id(names[0]):
            raise InputError(
                f"found no documents at {', '.join(names)}: give parquet, jsonl, csv or txt files, a folder of them, "
                "or a Hub id 'owner/name'"
            )
        try:
            return load_dataset(names[0], split=split, streaming=streaming)
        except (OSError, ValueError) as error:
            raise InputError(
                f"{names[0]!r} is no file here, and the Hub did not give it as a data set: {error}. Check the name, "
                "the network and, if it is private, `hf auth login`"
            ) from error
    formats = {_format(file) for file in files}
    if len(formats) != 1 or not (found := formats.pop()):
        raise InputError(f"the files must all be of one format ({', '.join(FORMATS)}), found {', '.join(files[:3])}")
    return load_dataset(found, data_files=files, split="train", streaming=streaming)


def _format(name: str) -> str | None:
    return next((kind for ending, kind in FORMATS.items() if name.endswith(ending)), None)
