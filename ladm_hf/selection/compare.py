"""`compare()`: how far signals agree: rank correlations, and the overlap of what each would select.

    correlation(a, b) = Spearman's rank correlation of the two columns
    overlap(a, b)     = 2 |A and B| / (|A| + |B|)    A, B: the documents that `select` keeps by a and by b

over all documents that have all signals, by domain, by length band, and by both. The overlap is Dice's coefficient; of
two selections at random it is about the share of the pool that the budget is.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa

from ladm_hf.arrays import Bools, Floats, Ints
from ladm_hf.data.columns import nested_type
from ladm_hf.data.rows import AnyRows
from ladm_hf.data.score_columns import NUM_TOKENS, REPETITION, SCORE
from ladm_hf.errors import ConfigError, InputError
from ladm_hf.selection.bands import length_band
from ladm_hf.selection.comparison import Agreement, Comparison, Disagreement
from ladm_hf.selection.options import COMPARED, MAX_REPETITION, budget_of, checked_options, parse_budget
from ladm_hf.selection.pool import Pool, joined
from ladm_hf.selection.ranking import STRATEGIES, divide, rank
from ladm_hf.selection.read import METADATA, by_columns, open_pool, read_pool
from ladm_hf.selection.result import Selection
from ladm_hf.selection.signals import BLEND, PERCENTILE, parse_score
from ladm_hf.stats import correlation_by_group

# Signals of which less is better, unless told otherwise.
LOWER_FIRST = (
    "ladm_repetition", "ladm_duplicate_lines", "ladm_duplicate_paragraphs", "ladm_compression", "ladm_token_loss",
)  # fmt: skip


def compare(
    scored: Any,
    signals: Sequence[str] | Mapping[str, float] | None = None,
    *,
    budget_tokens: int | str = COMPARED,
    by: str | None = "domain",
    length_bands: Sequence[int] | str | None = "auto",
    max_repetition: float | str | None = MAX_REPETITION,
    tokens: str = "scored",
    split: str | None = None,
    text_column: str = "text",
) -> Comparison:
    """How far signals agree: rank correlations, overlap of their selections, and where they disagree most.

    Args:
        scored (`Dataset`, `pa.Table` or path): as in [`select`].
        signals (sequence of `str` or mapping, *optional*):
            At least two numeric columns; those of `ladm score` where none are given. Of repetition, compression and
            loss less is taken to be better; `"column=-1"` or `{"column": -1}` says so of another one, `1` the opposite.
        budget_tokens (`int` or `str`, *optional*, defaults to `"25%"`): tokens that each signal selects, or the share
            of those compared.
        by (`str`, *optional*, defaults to `"domain"`): column of the domain; `None` for one.
        length_bands (`str` or sequence of `int`, *optional*, defaults to `"auto"`): bands to tell apart, half octaves
            or the token counts between them; `"off"` for none.
        max_repetition (`float`, *optional*, defaults to `0.4`): as in [`select`].
        tokens, split: as in [`select`].
        text_column (`str`, *optional*, defaults to `"text"`): column of the texts of documents disagreed about.

    Raises:
        ConfigError: an option has a value that cannot work.
        ColumnError: a column is missing or has the wrong type.
        InputError: the data cannot be opened, or hold no two signals with values.
    """
    options = checked_options(
        strategy="exact", budget_tokens=budget_tokens, length_bands=length_bands, max_repetition=max_repetition
    )
    named = None if signals is None else directions(signals)
    rows = open_pool(scored, split=split, signal=next(iter(named or [SCORE])))
    named = _by_columns(rows.schema, named, signals) if named else default_signals(rows.schema)
    limit = options["max_repetition"]
    pool = read_pool(
        rows, by=by, tokens=tokens, score=next(iter(named)), signals=list(named),
        max_repetition=None if limit == "off" else limit,
    )  # fmt: skip
    return compare_pool(
        pool,
        named,
        budget=options["budget_tokens"],
        length_bands=options["length_bands"],
        text=_reader(rows, text_column),
    )


def directions(signals: Sequence[str] | Mapping[str, float]) -> dict[str, int]:
    """1 for each signal of which more is better, -1 for less; from names, or with weights as in a blend.

    Raises:
        ConfigError: there is no signal, or a weight is 0 or no number.
    """
    if isinstance(signals, str) or not signals:
        raise ConfigError(f"signals must be columns, got {signals!r}")
    if not isinstance(signals, Mapping):
        pairs = [part if "=" in part else f"{part}={_usual(part)}" for part in map(str, signals)]
        return directions(parse_score([*pairs]))
    weights = parse_score(signals)
    assert isinstance(weights, dict)
    return _signs(weights)


def _by_columns(schema: pa.Schema, named: Mapping[str, int], signals: Any) -> dict[str, int]:
    """Directions by columns: the usual one of the column, where only a name was given."""
    plain = set() if isinstance(signals, Mapping) else {str(name) for name in signals}
    ways = by_columns(schema, {name: (name in plain, way) for name, way in named.items()}, "signals")
    return {column: _usual(column) if is_plain else way for column, (is_plain, way) in ways.items()}


def _usual(name: str) -> int:
    """The direction of a signal of which nothing else is said."""
    return -1 if name in LOWER_FIRST else 1


def _signs(weights: Mapping[str, float]) -> dict[str, int]:
    return {name: 1 if weight > 0 else -1 for name, weight in weights.items()}


def default_signals(schema: pa.Schema) -> dict[str, int]:
    """The columns of numbers that scoring added, `ladm_...`, also inside `metadata`."""
    metadata = nested_type(schema, METADATA)
    inside = list(metadata) if metadata is not None and pa.types.is_struct(metadata) else []
    numbers = (pa.types.is_integer, pa.types.is_floating, pa.types.is_null)
    names = [field.name for field in [*schema, *inside] if any(test(field.type) for test in numbers)]
    found = [name for name in names if name.startswith("ladm_") and name not in (NUM_TOKENS, PERCENTILE, BLEND)]
    return {name: _usual(name) for name in found}


def _reader(rows: AnyRows, column: str) -> Callable[[int], str | None]:
    def text(row: int) -> str | None:
        value = rows.value(row, column)
        return value if isinstance(value, str) else None

    return text


def compare_selection(selection: Selection, text_column: str = "text") -> Comparison | None:
    """Compares the signals of the whole pool of a selection, at its budget.

    Args:
        selection ([`Selection`]): kept and dropped rows.
        text_column (`str`, *optional*, defaults to `"text"`): column of the texts.

    Returns:
        [`Comparison`], the column ranked by first; `None` where there is nothing to compare: no signal but the score
        and the repetition that every data set has.
    """
    parts = (selection.selected_rows, selection.dropped_rows)
    score, keep = selection.options["score"], selection.options.get("keep")
    named = _signs({score: 1} if isinstance(score, str) else score)
    there = [name for name in default_signals(parts[0].schema) if name in default_signals(parts[1].schema)]
    for name in [*there, *(keep or ())]:
        named.setdefault(name, _usual(name))
    named.pop(PERCENTILE, None)
    if set(named) <= {SCORE, REPETITION}:
        return None
    limit = selection.options["max_repetition"]
    pools = [
        read_pool(
            rows, by=selection.by, tokens=selection.tokens, score=next(iter(named)), signals=list(named),
            max_repetition=None if limit == "off" else limit,
        )
        for rows in parts
    ]  # fmt: skip
    kept = len(parts[0])

    def text(row: int) -> str | None:
        value = parts[0].value(row, text_column) if row < kept else parts[1].value(row - kept, text_column)
        return value if isinstance(value, str) else None

    budget = selection.budget_tokens or selection.selected_tokens or parse_budget(COMPARED)
    try:
        return compare_pool(
            joined(*pools), named, budget=budget, length_bands=selection.options["length_bands"], text=text
        )
    except InputError:
        return None


def compare_pool(
    pool: Pool,
    signals: Mapping[str, int],
    *,
    budget: int | Fraction,
    length_bands: int | list[int] | str,
    text: Callable[[int], str | None],
) -> Comparison:
    """Compares the signals of a pool that has been read; the arguments are those of [`compare`], checked."""
    before = dataclasses.replace(pool, score=np.zeros(len(pool.score))).eligible
    used = {name: way for name, way in signals.items() if np.isfinite(pool.signals[name][before]).any()}
    if len(used) < 2:
        raise InputError(
            f"compare needs two signals with values, found {', '.join(used) or 'none'}: score the data with further "
            "ones (ladm score --signals) or name columns of numbers with --signal"
        )
    complete = np.logical_and.reduce([np.isfinite(pool.signals[name]) for name in used])
    pool = dataclasses.replace(pool, score=np.where(complete, 0.0, np.nan))
    rows = np.flatnonzero(pool.eligible)
    if not len(rows):
        raise InputError(f"no document has a value in all of {', '.join(used)}: name fewer signals")
    pool_tokens = int(pool.tokens[rows].sum())
    budget_tokens = budget_of(budget, pool_tokens)
    values = {name: pool.signals[name][rows] for name in used}
    percentiles, kept = {}, {}
    for name, way in used.items():
        percentile, mask = _selected(pool, way * pool.signals[name], budget_tokens, length_bands)
        percentiles[name], kept[name] = percentile[rows], mask[rows]
    return Comparison(
        signals=used,
        documents=len(rows),
        left_out=int(before.sum()) - len(rows),
        unused=[name for name in signals if name not in used],
        budget_tokens=budget_tokens,
        pool_tokens=pool_tokens,
        agreements=list(_agreements(pool, rows, values, kept, length_bands)),
        disagreements=list(_disagreements(pool, rows, values, percentiles, text)),
    )


def _selected(pool: Pool, score: Floats, budget: int, bands: int | list[int] | str) -> tuple[Floats, Bools]:
    """The percentile of each row by a score, and what `select` keeps by it."""
    score = np.where(pool.eligible, score, np.nan)
    pool = dataclasses.replace(pool, score=score)
    options = checked_options(strategy="exact", budget_tokens=budget, length_bands=bands)
    percentile = pool.percentiles(score, bands)
    budgets = divide(budget, options["shares"], pool)
    ranking = rank(pool, percentile=percentile, length_bands=bands, ties=None, budgets=budgets)
    kept = np.zeros(len(score), dtype=bool)
    kept[STRATEGIES["exact"](ranking, options, budgets)[0]] = True
    return percentile, kept


def _agreements(
    pool: Pool, rows: Ints, values: Mapping[str, Floats], kept: Mapping[str, Bools], bands: int | list[int] | str
) -> Iterator[Agreement]:
    code, tokens = pool.code[rows], pool.tokens[rows]
    domains: list[str | None] = list(pool.domains)
    band, num_bands = length_band(np.zeros_like(code), tokens, 1, bands)
    everything = np.zeros_like(code)
    # groups, and the domain and band of each: all, by domain, by band, by both
    scopes: list[tuple[Ints, list[tuple[str | None, int | None]]]] = [(everything, [(None, None)])]
    if len(domains) > 1:
        scopes.append((code, [(domain, None) for domain in domains]))
    if num_bands > 1:
        scopes.append((band, [(None, b) for b in range(num_bands)]))
    if len(scopes) == 3:
        scopes.append((code * num_bands + band, list(itertools.product(domains, range(num_bands)))))
    for group, names in scopes:
        size = len(names)
        counts = np.bincount(group, minlength=size)
        shortest, longest = np.full(size, np.iinfo(np.int64).max), np.zeros(size, dtype=np.int64)
        np.minimum.at(shortest, group, tokens)
        np.maximum.at(longest, group, tokens)
        pairs = {(a, b): _of_pair(values, kept, a, b, group, size) for a, b in itertools.combinations(values, 2)}
        for g in np.flatnonzero(counts).tolist():
            domain, number = names[g]
            lengths = (None, None) if number is None else (int(shortest[g]), int(longest[g]))
            for (a, b), (correlation, overlap) in pairs.items():
                yield Agreement(
                    domain=domain, band=number, min_tokens=lengths[0], max_tokens=lengths[1], a=a, b=b,
                    documents=int(counts[g]), correlation=_defined(correlation[g]), overlap=_defined(overlap[g]),
                )  # fmt: skip


def _of_pair(
    values: Mapping[str, Floats], kept: Mapping[str, Bools], a: str, b: str, group: Ints, size: int
) -> tuple[Floats, Floats]:
    """`[size]` each, the correlation and the overlap of two signals in every group."""
    both, either = (
        np.bincount(group, weights, minlength=size) for weights in (kept[a] & kept[b], kept[a] * 1.0 + kept[b])
    )
    overlap = np.divide(2 * both, either, out=np.full(size, np.nan), where=either > 0)
    return correlation_by_group(values[a], values[b], group, size), overlap


def _defined(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _disagreements(
    pool: Pool,
    rows: Ints,
    values: Mapping[str, Floats],
    percentiles: Mapping[str, Floats],
    text: Callable[[int], str | None],
) -> Iterator[Disagreement]:
    """For the first signal and each other one: the document highest by the one against the other, both ways."""
    first, *others = values
    for other in others:
        for a, b in ((first, other), (other, first)):
            at = int(np.argmax(percentiles[a] - percentiles[b]))
            if percentiles[a][at] <= percentiles[b][at]:
                continue
            row = int(rows[at])
            yield Disagreement(
                a=a, b=b, row=row, domain=pool.domains[pool.code[row]], tokens=int(pool.tokens[row]),
                percentile_a=float(percentiles[a][at]), percentile_b=float(percentiles[b][at]),
                value_a=float(values[a][at]), value_b=float(values[b][at]), text=text(row),
            )  # fmt: skip
