"""`DataFiles`: the files of one split, in one format; and which files of a folder make which split.

Splits are found as `datasets.load_dataset` finds them: by `data/{split}-00000-of-00001.*`, else by the names of
folders, else by the names of files, else everything is `train`. Hidden files and, below the folder, the results of runs
and selections are no part of it.
"""

from __future__ import annotations

import contextlib
import glob
import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ladm_hf.data.content import COMPRESSIONS, format_in, register_compressions
from ladm_hf.data.files import OPTIONS_FILE, storage_errors
from ladm_hf.data.object_store import storage_at
from ladm_hf.errors import InputError

logger = logging.getLogger(__name__)

# Files that mark the folder of a run, a selection or packed data.
SELECTION_FILE = "selection.json"
PACK_FILE = "pack.json"
RESULTS = ("run.json", SELECTION_FILE, PACK_FILE)
# Not data, and not worth a word when left out.
_COMPANIONS = (
    *RESULTS,
    OPTIONS_FILE,
    "ladm_manifest.json",
    "LICENSE",
    "README.md",
    "config.json",
    "dataset_info.json",
    "dataset_infos.json",
    "dataset_dict.json",
)
_NAMED = 3


@dataclass(frozen=True)
class DataFiles:
    """Files of one format on one file system.

    Attributes:
        fs (`fsspec.AbstractFileSystem`): where they lie.
        paths (`tuple[str, ...]`): in the order of their rows, without a protocol.
        format (`str`): the module of `datasets` that reads them: `"parquet"`, `"json"`, `"csv"`, `"text"`, ...
        options (`dict`): what that module needs to know, such as the separator of `.tsv`.
    """

    fs: Any
    paths: tuple[str, ...]
    format: str
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def is_local(self) -> bool:
        """Whether the paths are those of this machine."""
        protocol = self.fs.protocol
        return "file" in ((protocol,) if isinstance(protocol, str) else protocol)

    @property
    def urls(self) -> list[str]:
        """The paths as anything that knows fsspec takes them."""
        return list(self.paths) if self.is_local else [self.fs.unstrip_protocol(path) for path in self.paths]

    def copy_here(self, path: str, file: Path) -> Path:
        """One of the files on this machine: itself, or a copy that is made under the given name.

        Raises:
            StorageError: it cannot be read.
        """
        if self.is_local:
            return Path(path)
        folder, _, name = self.fs.unstrip_protocol(path).rpartition("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        with storage_errors(file.parent, "a copy of what is published"):
            storage_at(folder).download(name, file)
        return file


def files_of_folder(fs: Any, root: str) -> dict[str, DataFiles]:
    """The splits of a folder, by name; empty where no file is in a known format. Files left out are logged.

    Raises:
        InputError: the files cannot be divided into splits.
    """
    listed = _listed(fs, root)
    splits = {}
    for split, paths in splits_of(listed, root).items():
        if found := _of_one_format(fs, root, paths):
            splits[split] = found
    used = {path for files in splits.values() for path in files.paths}
    _log_left_out(root, [path for path in listed if _join(root, path) not in used])
    return splits


def splits_of(paths: list[str], where: str) -> dict[str, list[str]]:
    """The splits that relative paths belong to, by name: at least `train`, unless there is no path.

    Raises:
        InputError: a name of a split cannot be one.
    """
    from datasets.data_files import _get_data_files_patterns
    from fsspec.utils import glob_translate

    def resolve(pattern: str) -> list[str]:
        regex = re.compile(glob_translate(pattern))
        found = [path for path in paths if regex.match(path)]
        if not found:
            raise FileNotFoundError(pattern)
        return found

    try:
        patterns = _get_data_files_patterns(resolve)
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise InputError(f"the files of {where} cannot be divided into splits: {error}") from error
    splits = {}
    for split, wanted in patterns.items():
        found: dict[str, None] = {}
        for pattern in wanted:
            # of the patterns of a split, some match nothing
            with contextlib.suppress(FileNotFoundError):
                found.update(dict.fromkeys(resolve(pattern)))
        splits[str(split)] = list(found)
    return splits


def _join(root: str, path: str) -> str:
    return f"{root.rstrip('/')}/{path}"


def _listed(fs: Any, root: str) -> list[str]:
    """Paths below a folder, relative to it and sorted, of what may be data."""
    from datasets.data_files import FILES_TO_IGNORE

    files = [path[len(root) :].strip("/") for path in sorted(fs.find(root))]
    results = tuple(f"{os.path.dirname(path)}/" for path in files if os.path.basename(path) in RESULTS and "/" in path)
    ignored = {*FILES_TO_IGNORE, *_COMPANIONS}
    return [
        path
        for path in files
        if not path.startswith(results)
        and not any(part.startswith(".") for part in path.split("/"))
        and not any(part.startswith("__") for part in path.split("/")[:-1])
        and os.path.basename(path) not in ignored
    ]


def _of_one_format(fs: Any, root: str, paths: list[str]) -> DataFiles | None:
    """The files of the format that most of them have, as `load_dataset` chooses; `None` where none is known."""
    from datasets.load import infer_module_for_data_files_list

    known = [path for path in paths if format_of(path)]
    if not known:
        by_content = {path: format_in(fs, _join(root, path)) for path in paths}
        found = next((name for name in by_content.values() if name), None)
        of_format = [path for path, name in by_content.items() if name == found]
        return DataFiles(fs, tuple(_join(root, path) for path in of_format), found) if found else None
    chosen, options = infer_module_for_data_files_list(known)
    of_format = [path for path in known if format_of(path) == (chosen, options)]
    return DataFiles(fs, tuple(_join(root, path) for path in of_format), str(chosen), dict(options))


def format_of(path: str) -> tuple[str, dict[str, Any]] | None:
    """The module of `datasets` for a file, by the ending of its name before that of a compression, and its options."""
    from datasets.packaged_modules import _EXTENSION_TO_MODULE

    name = os.path.basename(path).lower()
    for ending in COMPRESSIONS:
        name = name.removesuffix(ending)
    ending = ".parquet" if name.endswith(".pq") else os.path.splitext(name)[1]
    found: tuple[str, dict[str, Any]] | None = _EXTENSION_TO_MODULE.get(ending)
    return found


def _log_left_out(root: str, paths: Sequence[str]) -> None:
    if paths:
        more = f" and {len(paths) - _NAMED:,} more" if len(paths) > _NAMED else ""
        logger.warning(
            "left out of %s: %s%s. To read them, give their path or a glob.", root, ", ".join(paths[:_NAMED]), more
        )


def load_with_datasets(files: DataFiles, name: str, *, streaming: bool) -> Any:
    """Files in a format that only `datasets` reads, as a `Dataset` or an `IterableDataset`.

    Raises:
        InputError: they cannot be read; the message begins with `name`.
    """
    from datasets import load_dataset

    register_compressions()
    if files.format == "text":
        logger.warning(
            "each line of %s is a row, as `datasets` reads text: to have a row for each file, write them as JSON lines",
            name,
        )
    urls = {"train": [glob.escape(url) for url in files.urls]}
    try:
        return load_dataset(files.format, data_files=urls, split="train", streaming=streaming, **files.options)
    except Exception as error:  # the loader raises whatever the format's reader raises
        raise InputError(f"{name} cannot be read as {files.format}: {type(error).__name__}: {error}") from error
