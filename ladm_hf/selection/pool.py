"""`Pool`: a scored data set, and the few small columns that choosing from it needs, as arrays.

Dataset | table | folder of save_to_disk | parquet file, glob or folder | Hub id
  -> Dataset (never copied: its text stays where it is)
  -> score [N], tokens [N], domain code [N], status [N]
"""

from __future__ import annotations

import glob
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ladm_hf.arrays import Bools, Floats, Ints
from ladm_hf.data.columns import base_column, column, in_row_order, leaf_names, leaves, with_positions
from ladm_hf.errors import ColumnError, InputError

if TYPE_CHECKING:
    from datasets import Dataset

SCORE, NUM_TOKENS, STATUS = "ladm_score", "ladm_num_tokens", "ladm_status"
NO_DOMAIN = "(none)"
WHOLE_POOL = "all"
SELECTION_FILE = "selection.json"

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Pool:
    """A scored data set of `N` rows.

    Attributes:
        dataset (`Dataset`): the rows.
        domains (`list[str]`): names of the domains, sorted.
        code (`int64` array `[N]`): domain of each row, an index into `domains`.
        score (`float64` array `[N]`): NaN where there is none.
        tokens (`int64` array `[N]`): tokens of each row, -1 where that is not known.
        status (`pa.ChunkedArray` `[N]`, *optional*): `ladm_status`; `None` where the data have no such column.
    """

    dataset: Dataset
    domains: list[str]
    code: Ints
    score: Floats
    tokens: Ints
    status: pa.ChunkedArray | None

    @property
    def eligible(self) -> Bools:
        """`[N]`, true where a row has a finite score, a token count and the status `ok`."""
        usable: Bools = np.isfinite(self.score) & (self.tokens >= 0)
        if self.status is not None:
            usable &= pc.fill_null(pc.equal(self.status, "ok"), False).to_numpy()
        return usable


def read_pool(
    scored: Any, *, by: str | None, tokens: str = "scored", score_column: str = SCORE, split: str | None = None
) -> Pool:
    """Opens scored rows and reads the columns that a choice needs.

    Args:
        scored (`Dataset`, `pa.Table` or path): see [`open_scored`].
        by (`str`, *optional*): column of the domain, nested with dots; `None` makes the pool one domain.
        tokens (`str`): `"scored"`, `"document"` or a column, as in [`select`].
        score_column (`str`): column of the score.
        split (`str`, *optional*): split of a `DatasetDict`.

    Raises:
        InputError: the rows cannot be opened.
        ColumnError: a column is missing or has the wrong type.
    """
    dataset = open_scored(scored, split=split)
    codes, domains = _domains(dataset, by)
    score = _numbers(dataset, score_column, pa.float64(), "a score: run `ladm score` on the data first")
    status = column(dataset, STATUS) if STATUS in dataset.column_names else None
    counted = _token_counts(dataset, tokens)
    if counted.null_count < len(counted) and pc.min(counted).as_py() < 0:
        raise ColumnError(f"token counts must not be negative, found {pc.min(counted).as_py()} (tokens={tokens!r})")
    return Pool(
        dataset, domains, codes, pc.fill_null(score, float("nan")).to_numpy(),
        pc.fill_null(counted, -1).to_numpy().astype(np.int64, copy=False), status,
    )  # fmt: skip


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
        elif not path.exists() and _HUB_ID.fullmatch(str(scored)):
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


def _domains(dataset: Dataset, by: str | None) -> tuple[Ints, list[str]]:
    """The domain of each row as a code into the sorted names."""
    if by is None:
        return np.zeros(len(dataset), dtype=np.int64), [WHOLE_POOL]
    dataset, positions = with_positions(dataset)
    values, feature = base_column(dataset, by)
    kind = values.type
    if hasattr(feature, "int2str"):
        names = pa.array(feature.names, pa.string())
        values = pa.chunked_array([names.take(chunk) for chunk in values.chunks], pa.string())
    elif pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        raise ColumnError(
            f"column {by!r} holds {kind}, which cannot name a domain: choose a column of strings or numbers, one of "
            f"{', '.join(leaves(dataset))}"
        )
    encoded = pc.fill_null(values.cast(pa.string()), NO_DOMAIN).dictionary_encode().unify_dictionaries()
    if encoded.num_chunks == 0:
        return np.empty(0, dtype=np.int64), []
    found = encoded.chunk(0).dictionary.to_pylist()
    codes = np.concatenate([chunk.indices.to_numpy(zero_copy_only=False) for chunk in encoded.chunks])
    codes = codes if positions is None else codes[positions]
    # only the names that rows of this data set have, sorted
    present = np.unique(codes)
    ordered = sorted((found[code], code) for code in present.tolist())
    rank = np.zeros(len(found), dtype=np.int64)
    rank[[code for _, code in ordered]] = np.arange(len(ordered))
    return rank[codes], [name for name, _ in ordered]


def _numbers(dataset: Dataset, name: str, kind: pa.DataType, what: str) -> pa.ChunkedArray:
    if name not in leaf_names(dataset):
        raise ColumnError(
            f"no column {name!r} in this data, which should hold {what}; its columns are "
            f"{', '.join(leaves(dataset)) or 'none'}"
        )
    values = column(dataset, name)
    if not (pa.types.is_integer(values.type) or pa.types.is_floating(values.type) or pa.types.is_null(values.type)):
        raise ColumnError(f"column {name!r} holds {values.type}, expected numbers: {what}")
    try:
        return values.cast(kind)
    except pa.ArrowInvalid as error:
        raise ColumnError(f"column {name!r} cannot be read as {kind}: {error}") from error


def _token_counts(dataset: Dataset, tokens: str) -> pa.ChunkedArray:
    if tokens == "scored":
        return _numbers(dataset, NUM_TOKENS, pa.int64(), "the tokens that were scored: run `ladm score` first")
    if tokens != "document":
        return _numbers(dataset, tokens, pa.int64(), "the tokens of each document")
    if "input_ids" not in dataset.column_names:
        raise ColumnError(
            "tokens='document' counts the column 'input_ids', which this data has not: name a column that holds the "
            "tokens of each whole document, or count them as scored with tokens='scored'"
        )
    dataset, positions = with_positions(dataset)
    ids = dataset.data.column("input_ids")
    kind = ids.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        raise ColumnError(f"column 'input_ids' holds {kind}, expected a list of token ids")
    return in_row_order(pc.list_value_length(ids).cast(pa.int64()), positions)


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
