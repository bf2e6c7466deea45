"""Which files make the splits of a Hub data set, or of a folder with a card, as `load_dataset` sees them."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec

from ladm_hf.data.content import register_compressions
from ladm_hf.data.data_files import DataFiles, format_of
from ladm_hf.data.hub import LOG_IN, access_refused
from ladm_hf.errors import InputError
from ladm_hf.text import one_line

if TYPE_CHECKING:
    from datasets import IterableDataset

logger = logging.getLogger(__name__)

_HUB_REVISION = re.compile(r"hf://datasets/[^@]+@([^/]+)/")
# The formats whose files are read where they lie.
_FORMATS = {"parquet", "json"}


def has_configs(folder: Path) -> bool:
    """Whether a data set card beside the files says which files make which split."""
    card = folder / "README.md"
    return card.is_file() and re.search(r"^configs:", card.read_text("utf-8", "replace"), re.MULTILINE) is not None


def splits_of_repository(
    path: str, name: str | None, revision: str | None
) -> tuple[dict[str, IterableDataset | DataFiles], dict[str, str | None] | None]:
    """The splits of a Hub data set, or of a folder with a card: their files where they lie, or a stream of their rows
    where the format is neither parquet nor JSON; and the `id` and `revision` of a Hub data set.

    Args:
        path (`str`): Hub id, or folder.
        name, revision (`str`, *optional*): configuration; branch, tag or commit.

    Raises:
        InputError: there is no such data set, or its card does not lead to files.
    """
    is_folder = os.path.isdir(path)
    try:
        try:
            splits, first = _by_builder(path, name, revision)
        except (ValueError, TypeError, KeyError) as error:
            # a card that names features of another version says all the same which files make which split
            splits, first = _by_configs(path, name, revision)
            logger.warning("the card of %s is read for its files alone: %s", path, str(error).partition(". ")[0])
    except InputError:
        raise
    except Exception as error:  # the loader raises whatever a card, the Hub's client and the format's reader raise
        cause = f"{type(error).__name__}: {one_line(str(error), 500)}"
        if is_folder:
            raise InputError(f"the data set card of {path} does not lead to its files: {cause}") from error
        if refused := access_refused(error, f"the data set {path!r}"):
            raise InputError(refused) from error
        raise InputError(
            f"{path!r} is neither a path here nor a data set that the Hub gives: {cause}. Check the name, its --name "
            f"and --revision and the network; for private or gated data, {LOG_IN}."
        ) from error
    at = _HUB_REVISION.match(first)
    hub = None if is_folder else {"id": path, "revision": at[1] if at else revision}
    return {split: _files(urls) if isinstance(urls, list) else urls for split, urls in splits.items()}, hub


def _by_builder(path: str, name: str | None, revision: str | None) -> tuple[dict[str, Any], str]:
    """URLs of the files of each split, or streams, and the URL of one file."""
    from datasets import load_dataset, load_dataset_builder

    builder = load_dataset_builder(path, name, revision=revision)
    urls, first = _urls(builder.config.data_files or {})
    if first and {kind.__name__.lower() for kind in type(builder).__mro__} & _FORMATS:
        return urls, first
    register_compressions()
    streams = load_dataset(path, name, revision=revision, streaming=True)
    return {str(split): rows for split, rows in streams.items()}, first


def _by_configs(path: str, name: str | None, revision: str | None) -> tuple[dict[str, Any], str]:
    """[`_by_builder`] by what the card says of its configurations alone."""
    from datasets.data_files import DataFilesDict, get_data_patterns, sanitize_patterns
    from datasets.utils.metadata import MetadataConfigs
    from huggingface_hub import DatasetCard, hf_hub_download

    is_folder = os.path.isdir(path)
    base = str(Path(path).resolve()) if is_folder else f"hf://datasets/{path}@{revision or 'main'}"
    card = f"{path}/README.md"
    if not is_folder:
        card = hf_hub_download(path, "README.md", repo_type="dataset", revision=revision)
    configs = MetadataConfigs.from_dataset_card_data(DatasetCard.load(card).data)
    chosen = name or configs.get_default_config_name() or (next(iter(configs)) if len(configs) == 1 else None)
    if configs and chosen not in configs:
        wanted = "several configurations" if chosen is None else f"no configuration {chosen!r}"
        raise InputError(f"{path} has {wanted}: name one of {', '.join(configs)} with --name (name=)")
    given = (configs[chosen] if chosen is not None else {}).get("data_files")
    patterns = get_data_patterns(base) if given is None else sanitize_patterns(given)
    return _urls(DataFilesDict.from_patterns(patterns, base_path=base))


def _urls(found: Mapping[Any, Sequence[Any]]) -> tuple[dict[str, Any], str]:
    urls = {str(split): [str(url) for url in files] for split, files in found.items()}
    return urls, next((url for files in urls.values() for url in files), "")


def _files(urls: list[str]) -> DataFiles:
    fs, _ = fsspec.url_to_fs(urls[0])
    known = format_of(urls[0]) or ("parquet", {})
    return DataFiles(fs, tuple(fs._strip_protocol(url) for url in urls), *known)
