"""What is about to be published, as files: parquet of each split, figures, and a manifest of everything with its hash.

The same input gives the same bytes, so that a second run recognises what the first one left on the Hub.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ladm_hf.data.data_files import PACK_FILE, SELECTION_FILE, DataFiles
from ladm_hf.data.open import find_splits, source_of
from ladm_hf.data.results import place_in, read_record
from ladm_hf.data.rows import AnyRows, DatasetRows, refuse_stream, rows_of_source
from ladm_hf.data.run_record import RunRecord, run_facts, run_of
from ladm_hf.data.shards import SHARD_BYTES, SHARD_NAME, shard_names
from ladm_hf.errors import ConfigError, InputError, MissingExtraError
from ladm_hf.packing.record import PackRecord
from ladm_hf.publishing.card_block import Figure
from ladm_hf.publishing.limits import FOLDER_FILES
from ladm_hf.text import local_name, redacted, without_places
from ladm_hf.version import __version__

if TYPE_CHECKING:
    from datasets import DatasetInfo

    from ladm_hf.selection.result import Selection

logger = logging.getLogger(__name__)

MANIFEST = "ladm_manifest.json"
ASSETS = "assets"
_SPLIT = re.compile(r"\w+(\.\w+)*")
_CONFIG = re.compile(r"[\w.-]+")
# Files downloaded at the same time.
_DOWNLOADS = 4
# Stands for hashes in a manifest of which only the size is wanted.
_NOT_HASHED = ("0" * 64, "0" * 40)


@dataclass(frozen=True)
class Bundle:
    """Files to publish.

    Attributes:
        files (`dict[str, Path]`): path in the repository -> local file, without the README.
        info (`DatasetInfo`): features, rows and bytes of the splits.
        config_name (`str`): configuration they belong to.
        figures (`tuple[Figure, ...]`): the images among the files.
        selection (`Selection`, *optional*), run (`dict`): what the card tells about their making.
        sizes (`dict[str, int]`): bytes of each file.
    """

    files: dict[str, Path]
    info: DatasetInfo
    config_name: str
    figures: tuple[Figure, ...] = ()
    selection: Selection | None = None
    run: Mapping[str, Any] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    _hashes: dict[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """Names this content: the first 16 digits of the manifest's sha256."""
        return self.hashes(MANIFEST)[0][:16]

    @property
    def num_rows(self) -> int:
        return sum(split.num_examples for split in self.info.splits.values())

    @property
    def data_dir(self) -> str:
        return "data" if self.config_name == "default" else self.config_name

    def data_files(self, split: str) -> list[Path]:
        prefix = f"{self.data_dir}/{split}-"
        return [file for path, file in sorted(self.files.items()) if path.startswith(prefix)]

    def hashes(self, path: str) -> tuple[str, str]:
        """sha256 and git object id of a file, read when first asked for; the manifest's needs those of all others."""
        if path not in self._hashes:
            if path == MANIFEST:
                for other in self.files:
                    if other != MANIFEST:
                        self.hashes(other)
                self.files[MANIFEST].write_text(_manifest(self), encoding="utf-8")
            self._hashes[path] = content_hashes(_blocks(self.files[path]), self.files[path].stat().st_size)
        return self._hashes[path]

    def is_in(self, path: str, tree: Mapping[str, Any]) -> bool:
        """Whether a file of ours is among the files on the Hub, [`Repository.tree`], with the same content."""
        return (
            path in tree and file_size(tree[path]) == self.sizes[path] and _same_content(tree[path], self.hashes(path))
        )

    def stale(self, path: str, old_manifest: Mapping[str, Any]) -> bool:
        """Whether a file on the Hub is an older version of what is published: a shard of one of the splits, or a
        figure of the last time."""
        if path in self.files:
            return False
        folder, _, name = path.rpartition("/")
        shard = SHARD_NAME.fullmatch(name)
        if folder == self.data_dir and shard:
            return shard["split"] in (self.info.splits or {})
        return folder == ASSETS and path in old_manifest.get("files", {})


def make_bundle(
    source: Any,
    work: Path,
    *,
    config_name: str = "default",
    run: RunRecord | Mapping[str, Any] | None = None,
    source_dataset: str | None = None,
    figures: Sequence[tuple[Path, str, str]] | None = None,
    shard_bytes: int = SHARD_BYTES,
    token: str | None = None,
    check: Callable[[Mapping[str, int]], None] = lambda sizes: None,
) -> Bundle:
    """Lays out `source` as files; new ones are written into the folder `work`.

    Args:
        source: a [`Selection`] or the folder or URL of one, that of `ladm pack` (parquet), or whatever can be scored,
            see [`find_splits`]: that of `ladm score`, parquet, JSON lines, a folder of `save_to_disk`, a
            `Dataset`, a `DatasetDict`, a Hub id.
        work (`Path`): an empty folder.
        config_name (`str`, *optional*, defaults to `"default"`): configuration of the published rows.
        run ([`RunRecord`] or mapping, *optional*): how the rows were scored; defaults to the folder's or the
            selection's `run.json`.
        source_dataset (`str`, *optional*): Hub id of the dataset that was scored; defaults to the one that
            `run` names.
        figures (sequence of `(file, alt, caption)`, *optional*): images for the card; `None` draws a selection's.
        shard_bytes (`int`, *optional*): about the most bytes of one parquet file, before compression.
        token (`str`, *optional*): access token, to be blacked out wherever it got into `run`.
        check (callable, *optional*): gets the bytes of each data file, by its path, before any of them is read.

    Raises:
        InputError: there is no row to publish, or the source is of another kind.
        ConfigError: a split or configuration has a name that the Hub does not take.
    """
    if not _CONFIG.fullmatch(config_name) or config_name in ("data", ASSETS):
        raise ConfigError(
            f"config_name={config_name!r} cannot name a folder of data: use letters, digits, '_', '-', '.'"
        )
    parts, selection, found_run = _opened(source)
    facts = redacted(_with_source(run_facts(run or found_run), source_dataset), token)
    if facts.get("command"):
        facts["command"] = without_places(facts["command"])
    data_dir = "data" if config_name == "default" else config_name
    files: dict[str, Path] = {}
    for split, part in parts.items():
        if not _SPLIT.fullmatch(split):
            raise ConfigError(f"split {split!r} cannot be published: use letters, digits, '_' and '.' in between")
        if not isinstance(part, DataFiles):
            files.update(_in_repository(data_dir, split, part.write(work / data_dir, split, shard_bytes)))
    as_they_are: dict[str, tuple[DataFiles, str]] = {}
    sizes: dict[str, int] = {}
    for split, part in parts.items():
        if isinstance(part, DataFiles):
            found = _in_repository(data_dir, split, part.paths)
            as_they_are.update({path: (part, file) for path, file in found.items()})
            sizes.update(zip(found, part.fs.sizes(list(part.paths)), strict=True))
    check({path: file.stat().st_size for path, file in files.items()} | sizes)
    with ThreadPoolExecutor(_DOWNLOADS) as pool:
        local = pool.map(lambda path: as_they_are[path][0].copy_here(as_they_are[path][1], work / path), as_they_are)
        files.update(zip(as_they_are, local, strict=True))
    info = _parquet_info(files, list(parts))
    shown = []
    for file, alt, caption in _drawn(selection, work) if figures is None else figures:
        files[f"{ASSETS}/{file.name}"] = file
        shown.append(Figure(f"{ASSETS}/{file.name}", alt, caption))
    bundle = Bundle(files, info, config_name, tuple(shown), _without_places(selection), facts)
    if not bundle.num_rows:
        raise InputError("there is nothing to publish: no split has a row")
    bundle.sizes.update({path: file.stat().st_size for path, file in files.items()})
    bundle.files[MANIFEST] = work / MANIFEST
    bundle.sizes[MANIFEST] = len(_manifest(bundle).encode())
    return bundle


def _in_repository(folder: str, split: str, files: Sequence[Any]) -> dict[str, Any]:
    """The files of a split by their paths in the repository."""
    return {f"{folder}/{name}": file for name, file in zip(shard_names(split, len(files)), files, strict=True)}


def _without_places(selection: Selection | None) -> Selection | None:
    """The selection as others may see it: where it lies on this machine means nothing to them."""
    if selection is None:
        return None
    pool, folder = (value and local_name(value) for value in (selection.pool, selection.folder))
    return replace(selection, pool=pool, folder=folder)


def _with_source(run: Mapping[str, Any], source: str | None) -> dict[str, Any]:
    """The run record with the id of the source dataset, if it is known from anywhere."""
    named = run.get("dataset")
    record = dict(named) if isinstance(named, Mapping) else {"id": named} if named else {}
    if source:
        record = {**(record if record.get("id") == source else {}), "id": source}
    return {**run, **({"dataset": record} if record else {})}


def _opened(
    source: Any,
) -> tuple[dict[str, DataFiles | AnyRows], Selection | None, RunRecord | dict[str, Any] | None]:
    """Splits (each rows, or parquet files to publish as they are), the selection, and the run record."""
    from datasets import Dataset

    from ladm_hf.selection.result import Selection

    if isinstance(source, Selection):
        return {"train": source.selected_rows}, source, source.run
    selection = None if read_record(source, SELECTION_FILE) is None else Selection.load(source)
    refuse_stream(source)
    run = (selection and selection.run) or _packing(source) or run_of(source)
    parts: dict[str, DataFiles | AnyRows] = {}
    for name, split in find_splits(source if selection is None else place_in(source, "data")).items():
        if isinstance(split.content, Dataset):
            parts[name] = DatasetRows(split.content)
        elif isinstance(split.content, DataFiles) and _as_they_are(split.content, split.name, run or selection):
            parts[name] = split.content
        else:
            parts[name] = rows_of_source(source_of(split), ("ladm_score", "metadata.ladm_score"))
    return parts, selection, run


def _as_they_are(files: DataFiles, name: str, record: Any) -> bool:
    """Whether the files of a split can be published without being written again: on this machine, or of a result of
    ours elsewhere, all of whose files have the same columns."""
    if not (files.is_local or record) or files.format != "parquet":
        return False
    if len(files.paths) > FOLDER_FILES:
        logger.warning(
            "%s holds %s files, and the Hub takes %s in a folder: their rows are copied into larger files first",
            name, f"{len(files.paths):,}", f"{FOLDER_FILES:,}",
        )  # fmt: skip
        return False
    return True


def _packing(source: Any) -> dict[str, Any] | None:
    """The facts of packed data."""
    if read_record(source, PACK_FILE) is None:
        return None
    record = PackRecord.load(source)
    if record.format != "parquet":
        raise InputError(
            f"{source} holds token files of {record.format}, which the Hub cannot show or load: pack with --format "
            "parquet to publish"
        )
    return record.facts()


def _drawn(selection: Selection | None, work: Path) -> list[tuple[Path, str, str]]:
    """The figures of a selection, as files with what they show."""
    from ladm_hf.report import plots
    from ladm_hf.report.style import to_png

    if selection is None:
        return []
    kinds = [(plots.domain_mix, "Share of each domain in the tokens of the pool and of the documents kept.")]
    if any(row.scored_documents for row in selection.table):
        kinds.insert(0, (plots.score_by_domain, "Scores of each domain; the documents kept are marked."))
        kinds.append((plots.score_against_length, "Score against length, and their correlation over all documents."))
    shown = []
    for draw, caption in kinds:
        try:
            figure = draw(selection)
        except MissingExtraError as error:
            logger.warning("the card gets no figures: %s", error)
            return []
        file = work / f"ladm_{draw.__name__}.png"
        file.write_bytes(to_png(figure))
        shown.append((file, str(figure.get_label()), caption))
    return shown


def _parquet_info(files: Mapping[str, Path], splits: Sequence[str]) -> DatasetInfo:
    """Counts rows and bytes in the files' footers; all files must have the same columns."""
    import pyarrow.parquet as pq
    from datasets import DatasetInfo, Features, SplitDict, SplitInfo

    features, first = None, None
    info = SplitDict()
    for split in splits:
        rows = size = 0
        for path, file in files.items():
            if not path.rpartition("/")[2].startswith(f"{split}-"):
                continue
            footer = pq.read_metadata(file)
            found = Features.from_arrow_schema(pq.read_schema(file))
            if features is None:
                features, first = found, file
            elif found != features:
                raise InputError(f"{file} has other columns than {first}; publish them as different configurations")
            rows += footer.num_rows
            size += sum(footer.row_group(i).total_byte_size for i in range(footer.num_row_groups))
        info[split] = SplitInfo(name=split, num_bytes=size, num_examples=rows)
    download = sum(file.stat().st_size for file in files.values())
    total = sum(split.num_bytes for split in info.values())
    return DatasetInfo(features=features, splits=info, download_size=download, dataset_size=total)


def _manifest(bundle: Bundle) -> str:
    selection = bundle.selection
    record: dict[str, Any] = {
        "format": 1,
        "ladm_hf": __version__,
        "config_name": bundle.config_name,
        "rows": {name: split.num_examples for name, split in bundle.info.splits.items()},
        "files": {
            path: {"size": bundle.sizes[path], "sha256": bundle._hashes.get(path, _NOT_HASHED)[0]}
            for path in sorted(bundle.files)
            if path != MANIFEST
        },
        "run": dict(bundle.run),
    }
    if selection is not None:
        record["selection"] = {
            "strategy": selection.strategy,
            "by": selection.by,
            "budget_tokens": selection.budget_tokens,
            "selected_tokens": selection.selected_tokens,
            "options": selection.options,
            "table": [row.to_dict() for row in selection.table],
        }
    return json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False, default=str) + "\n"


def content_hashes(blocks: Iterator[bytes] | Sequence[bytes], size: int) -> tuple[str, str]:
    """What the Hub names a file by: its sha256 if it is an LFS file, its git object id if it is not."""
    sha256, git = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size)
    for block in blocks:
        sha256.update(block)
        git.update(block)
    return sha256.hexdigest(), git.hexdigest()


def file_size(entry: Any) -> int:
    """Bytes of a file on the Hub."""
    return int(entry.lfs.size if entry.lfs else entry.size)


def _same_content(entry: Any, hashes: tuple[str, str]) -> bool:
    return bool(entry.lfs.sha256 == hashes[0] if entry.lfs else entry.blob_id == hashes[1])


def _blocks(file: Path, size: int = 1 << 20) -> Iterator[bytes]:
    with file.open("rb") as opened:
        while block := opened.read(size):
            yield block
