"""The YAML of a dataset card: what programs read.

What describes the files (`configs`, `dataset_info`, `size_categories`, `ladm`) is ours, lists are united, and
everything else is only filled in where it is missing.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from ladm_hf.data.hub import is_hub_id
from ladm_hf.version import __version__

if TYPE_CHECKING:
    from datasets import DatasetInfo
    from huggingface_hub import DatasetCard

    from ladm_hf.selection.result import Selection

SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B", "1B<n<10B", "10B<n<100B")
CARRIED = ("language", "license", "license_name", "license_link", "language_bcp47", "annotations_creators")
TAGS = ("ladm", "long-context", "data-selection")


def yaml_of(card: DatasetCard | None) -> dict[str, Any]:
    """The values of a README, empty without one."""
    metadata = dict(vars(card.data)) if card else {}
    language = metadata.get("language")
    # YAML reads an unquoted `no`, for Norwegian, as False
    if language is False:
        metadata["language"] = "no"
    elif isinstance(language, list):
        metadata["language"] = ["no" if code is False else code for code in language]
    return metadata


def fill(
    metadata: dict[str, Any],
    source: Mapping[str, Any],
    language: str | Sequence[str] | None,
    license: str | None,
    pretty_name: str | None,
    repo_id: str | None,
) -> None:
    """Adds what the README does not say itself: from our caller, else from the source's card, else by default."""
    for name in CARRIED:
        if not metadata.get(name) and source.get(name):
            metadata[name] = source[name]
    given = {"language": [language] if isinstance(language, str) else language and list(language), "license": license}
    metadata.update({name: value for name, value in given.items() if value})
    if pretty_name or not metadata.get("pretty_name"):
        default = repo_id.split("/")[-1].replace("-", " ").replace("_", " ") if repo_id else "LADM data"
        metadata["pretty_name"] = pretty_name or default
    metadata["task_categories"] = united(metadata.get("task_categories"), ["text-generation"])
    metadata["tags"] = united(metadata.get("tags"), TAGS)


def describe_files(metadata: dict[str, Any], info: DatasetInfo, config_name: str) -> None:
    """`size_categories`, `dataset_info` and `configs`: ours for our configuration, kept for all others."""
    from datasets.info import DatasetInfosDict
    from datasets.utils.metadata import MetadataConfigs
    from huggingface_hub import DatasetCardData

    old = DatasetCardData(**{name: metadata[name] for name in ("dataset_info", "configs") if metadata.get(name)})
    infos = DatasetInfosDict.from_dataset_card_data(old)
    configs = MetadataConfigs.from_dataset_card_data(DatasetCardData(**copy.deepcopy(vars(old))))
    mine = _with_other_splits(info, infos.get(config_name), configs.get(config_name, {}))
    data_dir = "data" if config_name == "default" else config_name
    paths = {item["split"]: item["path"] for item in _data_files(configs.get(config_name, {}))}
    paths.update({split: f"{data_dir}/{split}-*" for split in info.splits or {}})
    others = {name: value for name, value in configs.items() if name != config_name}
    entry = {**configs.get(config_name, {}), "data_files": [{"split": s, "path": p} for s, p in paths.items()]}

    fresh = DatasetCardData()
    fresh["dataset_info"] = old.get("dataset_info")
    DatasetInfosDict({config_name: mine}).to_dataset_card_data(fresh)
    MetadataConfigs({config_name: entry, **others}).to_dataset_card_data(fresh)
    metadata["dataset_info"], metadata["configs"] = fresh["dataset_info"], fresh["configs"]
    rows = sum(
        split.num_examples for each in {**infos, config_name: mine}.values() for split in (each.splits or {}).values()
    )
    metadata["size_categories"] = [SIZES[min(len(SIZES) - 1, max(0, len(str(rows)) - 3))]]


def _data_files(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    files = config.get("data_files")
    return [item for item in files if isinstance(item, dict)] if isinstance(files, list) else []


def _with_other_splits(info: DatasetInfo, old: DatasetInfo | None, config: Mapping[str, Any]) -> DatasetInfo:
    """Keeps the splits of our configuration that are not published now but are still in its files."""
    from datasets import DatasetInfo, SplitDict

    listed = {item["split"] for item in _data_files(config)}
    kept = {name: split for name, split in ((old and old.splits) or {}).items() if name in listed}
    splits = SplitDict()
    for name, split in {**kept, **(info.splits or {})}.items():
        splits[name] = split
    sizes = {}
    for field in ("download_size", "dataset_size"):
        before = getattr(old, field, None) or 0 if kept.keys() - (info.splits or {}).keys() else 0
        sizes[field] = (getattr(info, field) or 0) + before
    return DatasetInfo(features=info.features, splits=splits, **sizes)


def dataset_info(data: Any) -> DatasetInfo:
    """Features, rows and bytes of what is published; bytes of a dataset in memory are those of its Arrow tables."""
    from datasets import Dataset, DatasetDict, DatasetInfo, SplitDict, SplitInfo

    if isinstance(data, DatasetInfo):
        return data
    if isinstance(data, Dataset):
        data = DatasetDict({str(data.split or "train"): data})
    splits = SplitDict()
    for name, part in data.items():
        splits[str(name)] = SplitInfo(name=str(name), num_bytes=part.data.nbytes, num_examples=part.num_rows)
    size = sum(split.num_bytes for split in splits.values())
    return DatasetInfo(
        features=next(iter(data.values())).features, splits=splits, dataset_size=size, download_size=size
    )


def united(old: Any, new: Iterable[str]) -> list[str]:
    """The old values, one or several, and those of the new ones that are not among them."""
    before = [old] if isinstance(old, str) else list(old or [])
    return before + [value for value in new if value not in before]


def hub_source(run: Mapping[str, Any]) -> list[str]:
    """The Hub id of the dataset that was scored, if that is known."""
    source = section(run, "dataset").get("id")
    return [str(source)] if source and is_hub_id(str(source)) else []


def section(run: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A part of `run.json`; a part that is only a name counts as its `id`."""
    value = run.get(name)
    if isinstance(value, Mapping):
        return dict(value)
    return {"id": value} if value is not None else {}


def ladm_record(run: Mapping[str, Any], selection: Selection | None) -> dict[str, Any]:
    """Our own YAML key: what a program needs to tell how the data was made."""
    record: dict[str, Any] = {"version": package_version("ladm_hf")}
    for name in ("model", "config", "dataset", "selection", "packing"):
        if part := {key: value for key, value in section(run, name).items() if value is not None}:
            record[name] = _plain(part)
    if selection is not None:
        names = ("strategy", "by", "tokens", "budget_tokens", "selected_tokens", "percent")
        chosen = {name: getattr(selection, name) for name in names}
        chosen |= {"score": _plain(selection.options["score"]), "keep": _plain(selection.options.get("keep"))}
        record["selection"] = {name: value for name, value in chosen.items() if value is not None}
    return record


def _plain(value: Any) -> Any:
    """JSON-like Python values, for YAML: tuples become lists, NumPy scalars become numbers."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    value = value.item() if hasattr(value, "item") else value
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


@functools.cache
def package_version(package: str) -> str:
    """The version of an installed package, `""` where it is not installed."""
    if package == "ladm_hf":
        return __version__
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
