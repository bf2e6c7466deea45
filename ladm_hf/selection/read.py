"""Scored rows, and the few small columns that choosing from them needs, read into a [`Pool`].

anything that can be scored (see `data/open`) -> rows, which stay where they are
                                              -> signals [N], tokens [N], domain code [N], status [N], repetition [N]
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ladm_hf.arrays import Floats, Ints
from ladm_hf.data.columns import (
    base_column,
    column,
    in_row_order,
    is_list,
    leaves,
    leaves_of,
    may_hold_json,
    nested_type,
    to_objects,
    with_positions,
)
from ladm_hf.data.data_files import SELECTION_FILE
from ladm_hf.data.rows import AnyRows, lengths_name, open_rows, refuse_selection, refuse_stream
from ladm_hf.data.score_columns import NUM_TOKENS, REPETITION, SCORE, SIGNALS, STATUS
from ladm_hf.errors import ColumnError, ConfigError
from ladm_hf.selection.pool import Pool
from ladm_hf.selection.signals import columns_of

if TYPE_CHECKING:
    from datasets import Dataset

# Where datatrove keeps everything but the text.
METADATA = "metadata"
NO_DOMAIN = "(none)"
WHOLE_POOL = "all"


def open_pool(scored: Any, *, split: str | None = None, signal: str = SCORE) -> AnyRows:
    """Scored rows, wherever they are: whatever can be scored, see [`find_splits`]; `signal` is one of their columns.

    Raises:
        InputError: nothing is there, nothing that can be read, or a selection.
        ColumnError: there is no column of scores.
    """
    refuse_selection(scored, SELECTION_FILE)
    refuse_stream(scored)
    return open_rows(scored, split=split, marks=(signal, f"{METADATA}.{signal}"))


def read_pool(
    rows: AnyRows,
    *,
    by: str | None,
    tokens: str = "scored",
    score: str | Mapping[str, float] = SCORE,
    signals: Sequence[str] = (),
    also: Sequence[str] = (),
    max_repetition: float | None = None,
) -> Pool:
    """Reads the columns of some rows that a choice needs.

    A column that is not there is looked for in `metadata`, where datatrove keeps all but the text.

    Args:
        rows ([`DatasetRows`] or [`SourceRows`]): the rows.
        by (`str`, *optional*): column of the domain, nested with dots; `None` makes the pool one domain.
        tokens (`str`): `"scored"`, `"document"` or a column, as in [`select`].
        score (`str` or mapping): column to rank by, or weights of the columns of a blend. A row that lacks one of these
            has no score.
        signals (sequence of `str`): further columns of numbers.
        also (sequence of `str`): further columns that `dataset` must have.
        max_repetition (`float`, *optional*): largest `ladm_repetition` allowed.

    Raises:
        ColumnError: a column is missing or has the wrong type.
    """
    schema = rows.schema
    status_name = find_column(schema, STATUS)
    numeric = {name: find_column(schema, name) for name in dict.fromkeys([*columns_of(score, None), *signals])}
    counts = find_column(schema, NUM_TOKENS if tokens == "scored" else tokens)
    domain = None if by is None else find_column(schema, by)
    again = find_column(schema, REPETITION)
    names = [*numeric.values(), status_name, again, *([] if domain is None else [domain]), *also]
    for name, found in numeric.items():
        _check(schema, found, "a score: run `ladm score` on the data first" if name == SCORE else "numbers")
    if tokens != "document":
        _check(schema, counts, "the tokens that were scored" if tokens == "scored" else "tokens")
        names.append(counts)
    if domain is not None:
        _check(schema, domain, hint="; name the column of the domain with --by (by=), or '' (by=None) for one domain")
    dataset = rows.columns(names, ["input_ids"] if tokens == "document" and _has_lists(schema) else [])
    codes, domains = _domains(dataset, domain)
    values = {
        name: pc.fill_null(_numbers(dataset, found, pa.float64(), "a score"), float("nan")).to_numpy()
        for name, found in numeric.items()
    }
    status = column(dataset, status_name) if _there(schema, status_name) else None
    repeated = None
    if max_repetition is not None and _there(schema, again):
        repetition = _numbers(dataset, again, pa.float64(), "how much a document repeats itself")
        # a row without text has none, and is no repeat
        repeated = pc.fill_null(pc.greater(repetition, max_repetition), False).to_numpy()
    counted = _token_counts(dataset, counts)
    if counted.null_count < len(counted) and pc.min(counted).as_py() < 0:
        raise ColumnError(f"token counts must not be negative, found {pc.min(counted).as_py()} (tokens={tokens!r})")
    return Pool(
        rows, dataset, domains, codes, _score(values, score),
        pc.fill_null(counted, -1).to_numpy().astype(np.int64, copy=False), _with_problems(status, rows), repeated,
        values,
    )  # fmt: skip


def _score(values: Mapping[str, Floats], score: str | Mapping[str, float]) -> Floats:
    """The column ranked by; of a blend, which is made once it is known what it ranks, only where there is one."""
    if isinstance(score, str):
        return values[score]
    there = np.logical_and.reduce([np.isfinite(values[name]) for name in score])
    return np.where(there, 0.0, np.nan)


def find_column(schema: pa.Schema, name: str) -> str:
    """The column of that name, else the one of that name in `metadata`, else the name as it is.

    A signal may be named as `LadmScorer(signals=...)` names it, without the `ladm_` of its column.
    """
    names = [name, f"ladm_{name}"] if name in SIGNALS else [name]
    candidates = [candidate for known in names for candidate in (known, f"{METADATA}.{known}")]
    return next((candidate for candidate in candidates if _there(schema, candidate)), name)


def by_columns(schema: pa.Schema, named: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Values by the columns of signals, of which some were named without their `ladm_`.

    Raises:
        ConfigError: a signal is named both ways.
    """
    found: dict[str, Any] = {}
    for name, value in named.items():
        is_short = name in SIGNALS and find_column(schema, name).endswith(f"ladm_{name}")
        column = f"ladm_{name}" if is_short else name
        if column in found:
            raise ConfigError(f"{what} names a column twice: {', '.join(named)}")
        found[column] = value
    return found


def _there(schema: pa.Schema, name: str) -> bool:
    """Whether there is such a column, or a text above it that may be a JSON object."""
    if name in schema.names or nested_type(schema, name) is not None:
        return True
    above = (name.rsplit(".", n)[0] for n in range(1, 1 + name.count(".")))
    kinds = [schema.field(up).type if up in schema.names else nested_type(schema, up) for up in above]
    return any(kind is not None and may_hold_json(kind) for kind in kinds)


def _check(schema: pa.Schema, name: str, what: str = "", hint: str = "") -> None:
    if not _there(schema, name):
        raise ColumnError(
            f"no column {name!r} in this data{what and f', which should hold {what}'}; its columns are "
            f"{', '.join(leaves_of(schema)) or 'none'}{hint}"
        )


def _has_lists(schema: pa.Schema) -> bool:
    kind = nested_type(schema, "input_ids")
    return kind is not None and is_list(kind)


def _with_problems(status: pa.ChunkedArray | None, rows: AnyRows) -> pa.ChunkedArray | None:
    """The statuses, those of rows that could not be read being the reason."""
    problems = rows.problems()
    if not problems or status is None:
        return status
    told = np.full(len(status), None, dtype=object)
    told[list(problems)] = list(problems.values())
    return pa.chunked_array([pc.coalesce(status.combine_chunks().cast(pa.string()), pa.array(told, pa.string()))])


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
    try:
        if pa.types.is_nested(kind):
            raise pa.ArrowInvalid(str(kind))
        # bytes are names where they are valid UTF-8
        texts = values.cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ColumnError(
            f"column {by!r} holds {kind}, which cannot name a domain: choose one of strings or numbers; the columns "
            f"are {', '.join(leaves(dataset))}"
        ) from error
    encoded = pc.fill_null(texts, NO_DOMAIN).dictionary_encode().unify_dictionaries()
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
    values = column(dataset, name)
    if name not in dataset.column_names and (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
        # numbers inside JSON text
        with contextlib.suppress(pa.ArrowInvalid):
            values = values.cast(pa.float64())
    if not (pa.types.is_integer(values.type) or pa.types.is_floating(values.type) or pa.types.is_null(values.type)):
        raise ColumnError(f"column {name!r} holds {values.type}, expected numbers: {what}")
    try:
        return values.cast(kind)
    except pa.ArrowInvalid as error:
        raise ColumnError(f"column {name!r} cannot be read as {kind}: {error}") from error


def _token_counts(dataset: Dataset, tokens: str) -> pa.ChunkedArray:
    if tokens != "document":
        return _numbers(dataset, tokens, pa.int64(), "the tokens of each document")
    counted = lengths_name("input_ids")
    if counted in dataset.column_names:
        return dataset.data.column(counted)
    if "input_ids" not in dataset.column_names:
        raise ColumnError(
            "tokens='document' counts the column 'input_ids', which this data has not: name a column that holds the "
            "tokens of each whole document, or count them as scored with tokens='scored'"
        )
    dataset, positions = with_positions(dataset)
    ids = dataset.data.column("input_ids")
    kind = ids.type
    if not is_list(kind):
        raise ColumnError(f"column 'input_ids' holds {kind}, expected a list of token ids")
    return in_row_order(pc.list_value_length(ids).cast(pa.int64()), positions)
