"""`select()`: the best documents of every domain, to a token budget that holds.

Within each domain, and there within bands of like length (see `bands`), documents are ranked by score, the higher first
and ties by row number, and

    exact        keep the longest beginning of the ranking whose tokens fit the band's part of the budget. What a band
                 leaves goes to the next shorter one, so that the budget is never passed and each domain stays under its
                 part by less than one document
    percent      keep `int(n p 0.01)` of the domain's `n` documents, one `p` for all domains: the smallest whole
                 percent with which all domains together pass the budget, which it thus overshoots (the paper's rule)
    top-k        keep the k highest of each domain
    bottom-k     keep the k lowest of each domain
    threshold    keep every document whose score is at least `min_score`
    temperature  draw without replacement, the chance of a document being proportional to `exp(z / temperature)`, with
                 `z` its score in standard deviations from the mean of its domain and band; then fill the budget as
                 `exact` does

By default `exact` and `temperature` rank within bands of half an octave, so that they prefer no length; the others keep
what their name says, and how far they prefer a length is measured.
Rows without a score are never kept, nor are, unless told otherwise, documents that repeat themselves: those whose
`ladm_repetition` is above `max_repetition` leave the pool before it is ranked. No row is rescored: another budget costs
seconds.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ladm_hf.arrays import Bools
from ladm_hf.data.columns import with_positions
from ladm_hf.data.rows import AnyRows, DatasetRows, SourceRows
from ladm_hf.data.run_record import run_of
from ladm_hf.selection.notes import notes_of
from ladm_hf.selection.options import DIVIDES_BUDGET, MAX_REPETITION, Shares, Strategy, bands_used, checked_options
from ladm_hf.selection.pool import SCORE, Pool, find_column, open_pool, read_pool
from ladm_hf.selection.ranking import STRATEGIES, Budgets, divide, rank
from ladm_hf.selection.result import DROP_REASON, DROP_REASONS, Selection
from ladm_hf.selection.table import band_table, domain_table

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["DROP_REASON", "DROP_REASONS", "Selection", "select"]
# Why a strategy leaves a document that has a score.
_LEFT_OUT = {
    "exact": "below_cut",
    "percent": "below_cut",
    "top-k": "below_cut",
    "bottom-k": "above_cut",
    "threshold": "below_cut",
    "temperature": "not_drawn",
}


def select(
    scored: Any,
    *,
    budget_tokens: int | str | None = None,
    by: str | None = "domain",
    strategy: Strategy = "exact",
    shares: Shares | None = None,
    k: int | None = None,
    min_score: float | None = None,
    temperature: float | None = None,
    seed: int = 0,
    length_bands: int | Sequence[int] | str | None = "auto",
    max_repetition: float | str | None = MAX_REPETITION,
    tokens: str = "scored",
    ties: str | None = None,
    score_column: str = SCORE,
    split: str | None = None,
) -> Selection:
    """Chooses the best documents of every domain.

    Args:
        scored (`Dataset`, `pa.Table` or path):
            Rows with `ladm_score`, `ladm_num_tokens` and `ladm_status`, also inside `metadata`, where datatrove writes
            them: whatever can be scored, such as the folder of `ladm score`, parquet, JSON lines, compressed or not, a
            folder of `save_to_disk`, a Hub data set (`"user/name"`), or rows in memory. Of files only the columns that
            the choice needs are read, then the rows to write.
        budget_tokens (`int` or `str`, *optional*):
            Tokens to keep, as a number or as people write it (`"100M"`, `"1e9"`, `"32768*32*1024"`); needed by `exact`,
            `percent` and `temperature`.
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
        temperature (`float`, *optional*, defaults to `1.0`):
            For `temperature`: near 0 it keeps the best, as `exact` does; the larger, the nearer to chance.
        seed (`int`, *optional*, defaults to `0`): of the sampling.
        length_bands (`str`, `int` or sequence of `int`, *optional*, defaults to `"auto"`):
            Rank within domain and length band, so that no length is preferred whichever way the score goes with it.
            `"auto"`: half octaves from the shortest scored document on, for the strategies that divide a budget
            (`exact` and `temperature`); the others do what their name says. A number: so many bands of about equally
            many documents each. Token counts that divide the bands (`[8192, 16384]`, `"8k,16k"`), or the bands
            themselves (`"0:8k,8k:32k,32k:"`); `k` is 1,000. `None` or `"off"`: no bands. A domain's budget is divided
            in proportion to its bands' tokens; bands too narrow for their part are united with a neighbour, which
            `strata` and `notes` say. The option `k` counts for each band.
        max_repetition (`float`, *optional*, defaults to `0.3`):
            Documents with a larger `ladm_repetition` are dropped before the ranking: those that come twice, or of which
            a large part does. `None` or `"off"` keeps them. Data scored by version 0.1.0 have no such column: nothing
            is dropped, and a note says so.
        tokens (`str`, *optional*, defaults to `"scored"`):
            Tokens counted: `"scored"` (`ladm_num_tokens`, which leaves out what was truncated), `"document"` (the
            length of `input_ids`, as the published code counts) or the name of a column of counts.
        ties (`str`, *optional*):
            Column that orders documents of equal score, before the row number: with an id that is unique, the same
            documents are kept whatever the order of the rows.
        score_column (`str`, *optional*, defaults to `"ladm_score"`): column to rank by, higher is better.
        split (`str`, *optional*): split of a `DatasetDict`.

    Returns:
        [`Selection`]. Its rows refer to the pool's and copy no text.

    Raises:
        ConfigError: an option is missing, out of range or does not belong to the strategy.
        ColumnError: a column is missing or has the wrong type.
        InputError: the data cannot be opened.
    """
    options = checked_options(
        strategy=strategy, budget_tokens=budget_tokens, shares=shares, k=k, min_score=min_score,
        temperature=temperature, seed=seed, length_bands=length_bands, max_repetition=max_repetition,
    )  # fmt: skip
    run = run_of(scored)
    rows = open_pool(scored, split=split, score_column=score_column)
    ties = None if ties is None else find_column(rows.schema, ties)
    pool = read_pool(
        rows, by=by, tokens=tokens, score_column=score_column, also=() if ties is None else (ties,),
        max_repetition=None if options["max_repetition"] == "off" else options["max_repetition"],
    )  # fmt: skip
    strategy, budget = options["strategy"], options["budget_tokens"]
    bands = bands_used(options)
    budgets = divide(budget, options["shares"], pool) if strategy in DIVIDES_BUDGET else None
    ranking = rank(pool, length_bands=bands, ties=ties, ascending=strategy == "bottom-k", budgets=budgets)
    chosen, percent = STRATEGIES[strategy](ranking, options, budgets)
    kept = np.zeros(len(pool.score), dtype=bool)
    kept[chosen] = True
    selected, dropped = _split(pool, kept, strategy, budgets)
    table = domain_table(pool, ranking, kept, budgets)
    options |= {"by": by, "tokens": tokens, "ties": ties, "score_column": score_column, "split": split}
    selection = Selection(
        selected_rows=selected,
        dropped_rows=dropped,
        table=table,
        strata=[] if bands == "off" else band_table(pool, ranking, kept, budgets),
        threshold={row.domain: row.threshold for row in table if row.threshold is not None},
        shortfall=max(0, (budget or 0) - sum(row.selected_tokens for row in table)),
        strategy=strategy,
        budget_tokens=budget,
        by=by,
        tokens=tokens,
        percent=percent,
        options={name: value for name, value in options.items() if value is not None},
        run=run,
        pool=os.fspath(scored) if isinstance(scored, (str, os.PathLike)) else None,
    )
    selection.notes.extend(notes_of(selection))
    return selection


def _split(pool: Pool, kept: Bools, strategy: str, budgets: Budgets | None) -> tuple[AnyRows, AnyRows]:
    """The rows kept and the rows dropped, as views of the pool or to be read from its files."""
    found = _reasons(pool, kept, strategy, budgets)
    if isinstance(pool.rows, SourceRows):
        extra = pa.table({DROP_REASON: found.filter(pa.array(~kept))})
        return pool.rows.part(kept, without=[DROP_REASON]), pool.rows.part(~kept, extra)
    dataset = pool.rows.dataset()
    if DROP_REASON in dataset.column_names:
        dataset = dataset.remove_columns(DROP_REASON)
    reasons = _with_column(dataset, DROP_REASON, found)
    return DatasetRows(dataset.select(np.flatnonzero(kept))), DatasetRows(reasons.select(np.flatnonzero(~kept)))


def _reasons(pool: Pool, kept: Bools, strategy: str, budgets: Budgets | None) -> pa.Array:
    """Why each row was dropped, null where it was kept."""
    names = ["no_score", "no_status", "no_token_count", _LEFT_OUT[strategy], "no_share", "repeated"]
    code = np.where(np.isfinite(pool.score), np.where(pool.tokens < 0, 2, 1), 0)
    code[pool.eligible] = 3
    if pool.repeated is not None:
        code[pool.scored & pool.repeated] = 5
    if budgets is not None:
        without = np.array([share == 0 for share in budgets.share], dtype=bool)
        code[pool.eligible & without[pool.code]] = 4
    reasons = pa.array(names).take(pa.array(code, mask=kept))
    if pool.status is None:
        return reasons
    bad = pc.fill_null(pc.not_equal(pool.status, "ok"), False)
    return pc.if_else(bad, pool.status.cast(pa.string()), pa.chunked_array([reasons])).combine_chunks()


def _with_column(dataset: Dataset, name: str, values: pa.Array) -> Dataset:
    """The data set with one more column, its other columns not copied even where it is a view of other rows."""
    from datasets import Dataset

    dataset, positions = with_positions(dataset)
    if positions is None:
        return dataset.add_column(name, values)
    if len(np.unique(positions)) < len(positions):
        # a row that occurs twice can be both kept and dropped: there is no one value to put beside it
        return dataset.flatten_indices().add_column(name, values)
    source = np.full(dataset.data.num_rows, -1, dtype=np.int64)
    source[positions] = np.arange(len(positions))
    fingerprint = getattr(dataset, "_fingerprint", None)
    beneath = Dataset(dataset.data, info=dataset.info.copy(), split=dataset.split, fingerprint=fingerprint)
    return beneath.add_column(name, values.take(pa.array(source, mask=source < 0))).select(positions)
