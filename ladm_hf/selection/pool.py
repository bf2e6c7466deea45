"""`Pool`: a scored data set, and the few small columns that choosing from it needs, as arrays.

Dataset | table | folder of save_to_disk | parquet file, glob or folder | Hub id
  -> Dataset (never copied: its text stays where it is)
  -> score [N], tokens [N], domain code [N], status [N]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ladm_hf.arrays import Bools, Floats, Ints
from ladm_hf.data.columns import base_column, column, in_row_order, leaf_names, leaves, to_objects, with_positions
from ladm_hf.data.open import open_scored
from ladm_hf.errors import ColumnError

if TYPE_CHECKING:
    from datasets import Dataset

SCORE, NUM_TOKENS, STATUS = "ladm_score", "ladm_num_tokens", "ladm_status"
NO_DOMAIN = "(none)"
WHOLE_POOL = "all"


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
    found = to_objects(encoded.chunk(0).dictionary)
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
