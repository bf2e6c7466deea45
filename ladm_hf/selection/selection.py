"""`select()`: the best documents of every domain, to a token budget that holds.

Within each domain, documents are ranked by their percentile among those of like length (see `percentile`), the higher
first, what is equal by score and then by row number, and

    exact        keep the longest beginning of the ranking whose tokens fit the domain's part of the budget, so that the
                 budget is never passed and each domain stays under its part by less than one document. Bands given by
                 hand each have a part; what a band leaves goes to the next shorter one
    percent      keep `int(n p 0.01)` of the domain's `n` documents, one `p` for all domains: the smallest whole
                 percent with which all domains together pass the budget, which it thus overshoots (the paper's rule)
    top-k        keep the k highest of each domain
    bottom-k     keep the k lowest of each domain
    threshold    keep every document whose score is at least `min_score`
    temperature  draw without replacement, the chance of a document being proportional to `exp(z / temperature)`, with
                 `z` its score, or `ln(p / (100 - p))` where documents are ranked by percentile `p`, in standard
                 deviations from the mean of its domain and band; then fill the budget as `exact` does

By default `exact` and `temperature` compare documents of like length, so that they prefer no length; the others rank by
score and keep what their name says, and how far they prefer a length is measured.
Rows without a score are never kept, nor are, unless told otherwise, documents that repeat themselves: those whose
`ladm_repetition` is above `max_repetition` leave the pool before it is ranked, and so does what lies outside a range of
`keep`. No row is rescored: another budget costs seconds.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ladm_hf.arrays import Floats
from ladm_hf.data.run_record import run_of
from ladm_hf.data.score_columns import SCORE
from ladm_hf.selection.notes import notes_of
from ladm_hf.selection.options import (
    DIVIDES_BUDGET,
    MAX_REPETITION,
    Shares,
    Strategy,
    bands_used,
    budget_of,
    checked_options,
)
from ladm_hf.selection.pool import Pool
from ladm_hf.selection.ranking import STRATEGIES, divide, rank
from ladm_hf.selection.read import by_columns, find_column, open_pool, read_pool
from ladm_hf.selection.reasons import reasons_of
from ladm_hf.selection.result import Selection
from ladm_hf.selection.signals import BLEND, PERCENTILE, Keep, Score, columns_of
from ladm_hf.selection.split import split_rows, with_column
from ladm_hf.selection.table import band_table, domain_table
from ladm_hf.text import without_credentials

if TYPE_CHECKING:
    from datasets import Dataset


def select(
    scored: Any,
    *,
    score: Score = SCORE,
    keep: Keep | None = None,
    budget_tokens: int | str | None = None,
    by: str | None = "domain",
    strategy: Strategy = "exact",
    shares: Shares | None = None,
    k: int | None = None,
    min_score: float | None = None,
    min_percentile: float | None = None,
    temperature: float | None = None,
    seed: int = 0,
    length_bands: int | Sequence[int] | str | None = "auto",
    max_repetition: float | str | None = MAX_REPETITION,
    tokens: str = "scored",
    ties: str | None = None,
    split: str | None = None,
) -> Selection:
    """Chooses the best documents of every domain.

    Args:
        scored (`Dataset`, `pa.Table` or path):
            Rows with `ladm_score`, `ladm_num_tokens` and `ladm_status`, also inside `metadata`, where datatrove writes
            them: whatever can be scored, such as the folder of `ladm score`, parquet, JSON lines, compressed or not, a
            folder of `save_to_disk`, a Hub data set (`"user/name"`), or rows in memory. Of files only the columns that
            the choice needs are read, then the rows to write.
        score (`str`, mapping or sequence of `str`, *optional*, defaults to `"ladm_score"`):
            What to rank by: a numeric column, higher is better, or a blend of columns by their weights,
            `{"ladm_score": 1, "ladm_token_loss": -1}`, where a weight below 0 means that lower is better; also as
            `["ladm_score=1", "ladm_token_loss=-1"]`. A blend is the weighted mean of the percentiles of its columns
            within domain and length band, 0 to 100; it becomes the column `ladm_blend`. A document without a finite
            value in one of the columns has no score, as one whose `ladm_status` is not `ok`.
        keep (mapping or sequence of `str`, *optional*):
            Ranges of numeric columns, `{"ladm_compression": ("20%", "80%"), "ladm_token_loss": (None, 3.5)}` or
            `["ladm_compression=20%:80%", "ladm_token_loss=:3.5"]`: a bound in percent is that quantile of the column
            within the domain, over the documents that have a score and do not repeat themselves, linear between
            neighbours; another bound is a value, and `None` an open end. Bounds are inclusive. Documents outside leave
            the pool before it is ranked, with the reason `below_range: COLUMN`, `above_range: COLUMN` or, without a
            finite value, `no_value: COLUMN`.
        budget_tokens (`int` or `str`, *optional*):
            Tokens to keep, as a number or as people write it (`"100M"`, `"1e9"`, `"32768*32*1024"`), or as a share of
            the tokens of all scored documents, repeated ones included (`"25%"`); needed by `exact`, `percent` and
            `temperature`.
        by (`str`, *optional*, defaults to `"domain"`):
            Column of the domain, nested with dots (`"meta.pile_set_name"`). `None` ranks the whole pool as one.
        strategy (`str`, *optional*, defaults to `"exact"`):
            `"exact"`, `"percent"` (the paper's), `"top-k"`, `"bottom-k"`, `"threshold"` or `"temperature"`.
        shares (`str` or mapping, *optional*, defaults to `"proportional"`):
            How `exact` and `temperature` divide the budget: `"proportional"` to the tokens of each domain's scored
            documents, `"equal"`, or `{domain: weight}`, where a domain left out gets nothing. What a small domain
            cannot fill goes to the others, in proportion to their shares.
        k (`int`, *optional*): documents of each domain that `top-k` and `bottom-k` keep.
        min_score (`float`, *optional*): lowest score that `threshold` keeps.
        min_percentile (`float`, *optional*): instead, the lowest percentile within domain and length band that
            `threshold` keeps, 0 to 100.
        temperature (`float`, *optional*, defaults to `1.0`):
            For `temperature`: near 0 it keeps the best, as `exact` does; the larger, the nearer to chance.
        seed (`int`, *optional*, defaults to `0`): of the sampling.
        length_bands (`str`, `int` or sequence of `int`, *optional*, defaults to `"auto"`):
            Compare documents of like length, so that no length is preferred whichever way the score goes with it.
            `"auto"`: the strategies that divide a budget (`exact` and `temperature`) rank a domain by percentile among
            neighbours in length, the column `ladm_percentile`; the others rank by score. A number: so many bands of
            about equally many documents each. Token counts that divide the bands (`[8192, 16384]`, `"8k,16k"`), or the
            bands themselves (`"0:8k,8k:32k,32k:"`); `k` is 1,000. `None` or `"off"`: no bands. Of bands given by hand
            each has its part of the domain's budget, in proportion to its tokens; those too narrow for their part are
            united with a neighbour, which `strata` and `notes` say. The option `k` counts for each band.
        max_repetition (`float`, *optional*, defaults to `0.4`):
            Documents with a larger `ladm_repetition` are dropped before the ranking: those that come twice, or of which
            a large part does. `None` or `"off"` keeps them. Data scored by version 0.1.0 have no such column: nothing
            is dropped, and a note says so.
        tokens (`str`, *optional*, defaults to `"scored"`):
            Tokens counted: `"scored"` (`ladm_num_tokens`, which leaves out what was truncated), `"document"` (the
            length of `input_ids`, as the published code counts) or the name of a column of counts.
        ties (`str`, *optional*):
            Column that orders documents of equal score, before the row number: with an id that is unique, the same
            documents are kept whatever the order of the rows.
        split (`str`, *optional*): split of a `DatasetDict`.

    Returns:
        [`Selection`]. Its rows refer to the pool's and copy no text. They have one more column, `ladm_percentile`: the
        percentile of the score within domain and length band, see [`add_percentile`], NaN for rows not ranked.

    Raises:
        ConfigError: an option is missing, out of range or does not belong to the strategy.
        ColumnError: a column is missing or has the wrong type.
        InputError: the data cannot be opened.
    """
    options = checked_options(
        strategy=strategy, budget_tokens=budget_tokens, shares=shares, k=k, min_score=min_score,
        min_percentile=min_percentile, temperature=temperature, seed=seed, length_bands=length_bands,
        max_repetition=max_repetition, score=score, keep=keep,
    )  # fmt: skip
    run = run_of(scored)
    pool, options = _pool(scored, options, by=by, tokens=tokens, split=split, ties=ties)
    ties = None if ties is None else find_column(pool.rows.schema, ties)
    percentile = pool.percentiles(pool.score, options["length_bands"])
    if options["budget_tokens"] is not None:
        options["budget_tokens"] = budget_of(options["budget_tokens"], int(pool.tokens[pool.scored].sum()))
    strategy, budget = options["strategy"], options["budget_tokens"]
    bands = bands_used(options)
    budgets = divide(budget, options["shares"], pool) if strategy in DIVIDES_BUDGET else None
    ranking = rank(
        pool, percentile=percentile, length_bands=bands, ties=ties, ascending=strategy == "bottom-k", budgets=budgets
    )
    chosen, percent = STRATEGIES[strategy](ranking, options, budgets)
    kept = np.zeros(len(pool.score), dtype=bool)
    kept[chosen] = True
    selected, dropped = split_rows(
        pool, kept, _added(pool, percentile, options), reasons_of(pool, kept, options, budgets)
    )
    table = domain_table(pool, ranking, kept, budgets)
    options |= {"by": by, "tokens": tokens, "ties": ties, "split": split}
    selection = Selection(
        selected_rows=selected,
        dropped_rows=dropped,
        table=table,
        strata=[] if bands == "off" else band_table(pool, ranking, kept, budgets, bands),
        threshold={row.domain: row.threshold for row in table if row.threshold is not None},
        shortfall=max(0, (budget or 0) - sum(row.selected_tokens for row in table)),
        strategy=strategy,
        budget_tokens=budget,
        by=by,
        tokens=tokens,
        percent=percent,
        options={name: value for name, value in options.items() if value is not None},
        run=run,
        pool=without_credentials(os.fspath(scored)) if isinstance(scored, (str, os.PathLike)) else None,
    )
    selection.notes.extend(notes_of(selection))
    return selection


def _added(pool: Pool, percentile: Floats, options: Mapping[str, Any]) -> dict[str, pa.Array]:
    """The columns that a selection adds to all rows."""
    added = {}
    # what is ranked by the column of an earlier selection keeps that
    if options["score"] != PERCENTILE:
        added[PERCENTILE] = pa.array(percentile)
    if not isinstance(options["score"], str):
        added[BLEND] = pa.array(np.where(pool.eligible, pool.score, np.nan))
    return added


def add_percentile(
    scored: Any,
    *,
    score: Score = SCORE,
    keep: Keep | None = None,
    by: str | None = "domain",
    length_bands: int | Sequence[int] | str | None = "auto",
    max_repetition: float | str | None = MAX_REPETITION,
    tokens: str = "scored",
    split: str | None = None,
) -> Dataset:
    """All rows with a column `ladm_percentile`: the rank of each document within its domain and length band.

    `percentile = 100 (documents below + (documents equal, itself included) / 2) / documents`, the percentile rank of
    `scipy.stats.percentileofscore(kind="mean")`. 90 means: better than nine in ten documents of like length of its
    domain, whatever the calculator's scale is there. [`select`] writes the same column.

    Args:
        scored, score, keep, by, length_bands, max_repetition, tokens, split: as in [`select`].

    Returns:
        `Dataset`, in the order of the rows, with `ladm_percentile` (`float64`, 0 to 100; NaN for rows that are not
        ranked: without a score, outside a range, or repeating themselves) and, where `score` is a blend, `ladm_blend`.
        A column of that name is replaced. Of files, all columns are read into the temporary folder.

    Raises:
        ConfigError, ColumnError, InputError: as [`select`].
    """
    options = checked_options(
        strategy="top-k", k=1, length_bands=length_bands, max_repetition=max_repetition, score=score, keep=keep
    )
    pool, options = _pool(scored, options, by=by, tokens=tokens, split=split)
    dataset = pool.rows.dataset()
    for name, values in _added(pool, pool.percentiles(pool.score, options["length_bands"]), options).items():
        dataset = with_column(dataset, name, values)
    return dataset


def _pool(
    scored: Any, options: Mapping[str, Any], *, by: str | None, tokens: str, split: str | None, ties: str | None = None
) -> tuple[Pool, dict[str, Any]]:
    """The rows of some data, with what is ranked and what lies outside; the options, with signals by their columns."""
    score, keep = options["score"], options["keep"]
    rows = open_pool(scored, split=split, signal=columns_of(score, keep)[0])
    if isinstance(score, str):
        (score,) = by_columns(rows.schema, {score: 1}, "score")
    else:
        score = by_columns(rows.schema, score, "score")
    options = {**options, "score": score, "keep": keep and by_columns(rows.schema, keep, "keep")}
    columns = columns_of(score, options["keep"])
    limit = options["max_repetition"]
    pool = read_pool(
        rows,
        by=by,
        tokens=tokens,
        score=score,
        signals=columns,
        also=() if ties is None else (find_column(rows.schema, ties),),
        max_repetition=None if limit == "off" else limit,
    )
    return pool.within(options["keep"]).blended(score, options["length_bands"]), options
