"""`select()`: the best documents of every domain, to a token budget that holds.

Within each domain documents are ranked by score, the higher first and ties by row number, and

    exact        keep the longest beginning of the ranking whose tokens fit the domain's part of the budget, so that
                 the budget is never passed and each domain stays under its part by less than one document
    percent      keep `int(n p 0.01)` of the domain's `n` documents, one `p` for all domains: the smallest whole
                 percent with which all domains together pass the budget, which it thus overshoots (the paper's rule)
    top-k        keep the k highest of each domain
    bottom-k     keep the k lowest of each domain
    threshold    keep every document whose score is at least `min_score`
    temperature  draw without replacement, the chance of a document being proportional to `exp(z / temperature)`, with
                 `z` its score in standard deviations from the mean of its domain; then fill the budget as `exact` does

Rows without a score are never kept, and no row is rescored: another budget costs seconds.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ladm_hf.arrays import Bools
from ladm_hf.data.columns import column, with_positions
from ladm_hf.data.open import SELECTION_FILE, read_parquet
from ladm_hf.data.run_record import RunRecord, run_of
from ladm_hf.data.shards import write_parquet
from ladm_hf.errors import ConfigError, InputError
from ladm_hf.selection.options import DIVIDES_BUDGET, Shares, Strategy, checked_options
from ladm_hf.selection.pool import SCORE, Pool, read_pool
from ladm_hf.selection.ranking import STRATEGIES, Budgets, divide, rank, tally
from ladm_hf.text import one_line
from ladm_hf.version import __version__

if TYPE_CHECKING:
    from datasets import Dataset

DROP_REASON = "ladm_drop_reason"
# Why a strategy leaves a document that has a score.
_LEFT_OUT = {
    "exact": "below_cut",
    "percent": "below_cut",
    "top-k": "below_cut",
    "bottom-k": "above_cut",
    "threshold": "below_cut",
    "temperature": "not_drawn",
}
DROP_REASONS = {
    "below_cut": "ranked below the last document kept in its domain",
    "above_cut": "ranked above the last document kept in its domain",
    "not_drawn": "not drawn by the sampling",
    "no_share": "its domain has no share of the budget",
    "no_score": "has no finite score, though its status names no cause",
    "no_status": "has a score but no status",
    "no_token_count": "has a score but no token count",
    "too_short": "too short to be scored",
    "empty": "an empty text",
    "null": "no text at all",
}
_FORMAT = 1
_LONG_BYTES = 1000


@dataclass(frozen=True, eq=False)
class Selection:
    """What was kept, what was not and why.

    Attributes:
        selected (`Dataset`): the rows kept, all columns, in the order of the pool.
        dropped (`Dataset`): the other rows, with a column `ladm_drop_reason`: one of `DROP_REASONS`, or the row's own
            `ladm_status`.
        table (`list[dict]`): one record for each domain, sorted by name: `domain`, `documents` and `tokens` (the
            whole pool's), `scored_documents` and `scored_tokens` (those that could be kept), `share` (of the budget,
            before any redistribution), `budget_tokens` (after it), `selected_documents`, `selected_tokens`,
            `shortfall_tokens` (of its share that the domain could not fill and others got), `threshold`,
            `mean_score`, `mean_selected_score`. Values that do not apply are `None`.
        strata (`list[dict]`): the same by length band, with `min_tokens` and `max_tokens`; empty without bands.
        threshold (`dict[str, float]`): lowest score kept in each domain; domains that kept nothing are left out.
        shortfall (`int`): tokens by which the selection stays under the budget; 0 where it passes it or there is none.
        strategy (`str`): how it was chosen.
        budget_tokens (`int`, *optional*): tokens asked for.
        by (`str`, *optional*): column of the domain.
        tokens (`str`): what was counted: `"scored"`, `"document"` or the name of a column.
        percent (`int`, *optional*): the percent that the strategy `percent` arrived at.
        options (`dict`): the arguments of [`select`] that give this selection again.
        notes (`list[str]`): what a reader should know, in sentences.
        run ([`RunRecord`], *optional*): the `run.json` of the scoring run, where the pool was its folder.
    """

    selected: Dataset
    dropped: Dataset
    table: list[dict[str, Any]]
    strata: list[dict[str, Any]]
    threshold: dict[str, float]
    shortfall: int
    strategy: str
    budget_tokens: int | None
    by: str | None
    tokens: str
    percent: int | None = None
    options: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    run: RunRecord | None = None

    @property
    def selected_tokens(self) -> int:
        """Tokens of the rows kept, counted as `tokens` says."""
        return sum(record["selected_tokens"] for record in self.table)

    @property
    def tokens_counted(self) -> str:
        """What a token count here means, as half a sentence."""
        if self.tokens == "scored":
            return "tokens counted as scored (a truncated document counts only the part that was scored)"
        if self.tokens == "document":
            return "tokens counted over the whole document (length of `input_ids`)"
        return f"tokens counted by the column `{self.tokens}`"

    def frame(self) -> pa.Table:
        """The small columns of the whole pool, for figures and statistics.

        Returns:
            `pa.Table` with `domain` (dictionary of strings), `score` (`float64`, NaN where there is none), `tokens`
            (`int64`, -1 where not known), `kept` (`bool`) and `reason` (`string`, null where kept); the rows kept
            come first.
        """
        score_column = self.options.get("score_column", SCORE)
        parts = []
        for dataset, kept in ((self.selected, True), (self.dropped, False)):
            pool = read_pool(dataset, by=self.by, tokens=self.tokens, score_column=score_column)
            reason = pa.nulls(len(dataset), pa.string()) if kept else column(dataset, DROP_REASON)
            parts.append(
                pa.table(
                    {
                        "domain": pa.DictionaryArray.from_arrays(pa.array(pool.code, pa.int32()), pool.domains or [""]),
                        "score": pool.score,
                        "tokens": pool.tokens,
                        "kept": np.full(len(dataset), kept),
                        "reason": reason,
                    }
                )
            )
        return pa.concat_tables(parts).unify_dictionaries()

    def reasons(self) -> dict[str, int]:
        """How many rows were dropped for each reason, the most frequent first."""
        counts = pc.value_counts(column(self.dropped, DROP_REASON)).to_pylist()
        return {c["values"]: c["counts"] for c in sorted(counts, key=lambda c: (-c["counts"], c["values"]))}

    def summary(self) -> str:
        """The table by domain and the notes, as text for a terminal."""
        rows = [("domain", "documents", "tokens", "kept", "kept tokens", "budget", "cut")]
        for record in self.table:
            cut = record["threshold"]
            budget = record["budget_tokens"]
            rows.append(
                (
                    one_line(record["domain"], 40), f"{record['documents']:,}", f"{record['tokens']:,}",
                    f"{record['selected_documents']:,}", f"{record['selected_tokens']:,}",
                    "" if budget is None else f"{budget:,}", "" if cut is None else f"{cut:.5g}",
                )
            )  # fmt: skip
        total = [sum(record[name] for record in self.table) for name in _COUNTS]
        budget = "" if self.budget_tokens is None else f"{self.budget_tokens:,}"
        rows.append(("total", f"{total[0]:,}", f"{total[1]:,}", f"{total[2]:,}", f"{total[3]:,}", budget, ""))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = []
        for row in rows:
            first, *rest = (
                cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            )
            lines.append("  ".join([first, *rest]).rstrip())
        return "\n".join([*lines, "", *self.notes])

    def save(self, folder: str | os.PathLike[str], *, dropped: Literal["all", "scores"] = "all") -> Path:
        """Writes the selection to a folder that `load_dataset`, [`Selection.load`], `ladm report` and `ladm publish`
        read.

        The folder gets `data/train-*.parquet` (the rows kept), `dropped/dropped-*.parquet` and, last,
        `selection.json`. An earlier selection there is replaced; other files are left alone.

        Args:
            folder (`str` or path): where to.
            dropped (`str`, *optional*, defaults to `"all"`):
                `"scores"` leaves out the dropped rows' long columns (texts longer than 1,000 characters on average,
                lists, and whatever holds them), which the pool still has.

        Raises:
            InputError: the folder holds other data under one of those names.
        """
        if dropped not in ("all", "scores"):
            raise ConfigError(f"dropped must be 'all' or 'scores', got {dropped!r}")
        folder = Path(folder).expanduser()
        if not (folder / SELECTION_FILE).exists():
            for name in ("data", "dropped"):
                if (folder / name).exists():
                    raise InputError(
                        f"{folder / name} is there already and was not written by a selection: choose another folder"
                    )
        try:
            self._write(folder, dropped)
        except OSError as error:
            raise InputError(f"the selection cannot be written to {folder}: {error}") from error
        return folder

    def _write(self, folder: Path, dropped: str) -> None:
        """Writes beside what is there, then puts it in place."""
        folder.mkdir(parents=True, exist_ok=True)
        rest = self.dropped if dropped == "all" else _without_long_columns(self.dropped, self._needed_columns())
        with tempfile.TemporaryDirectory(prefix=".selection-", dir=folder) as temporary:
            work = Path(temporary)
            write_parquet(self.selected, work / "data", "train")
            write_parquet(rest, work / "dropped", "dropped")
            (work / SELECTION_FILE).write_text(self._to_json(), encoding="utf-8")
            for name in ("data", "dropped"):
                if (folder / name).exists():
                    shutil.rmtree(folder / name)
                os.replace(work / name, folder / name)
            os.replace(work / SELECTION_FILE, folder / SELECTION_FILE)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Selection:
        """Reads a folder that [`Selection.save`] wrote.

        Raises:
            InputError: it is not such a folder, or a part of it is missing.
        """
        folder = Path(folder).expanduser()
        try:
            values = json.loads((folder / SELECTION_FILE).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise InputError(
                f"{folder} holds no {SELECTION_FILE}: expected a folder written by `ladm select` (Selection.save)"
            ) from error
        except ValueError as error:
            raise InputError(f"{folder / SELECTION_FILE} is not valid JSON: {error}; select again") from error
        if not isinstance(values, dict) or values.get("format") != _FORMAT:
            raise InputError(
                f"{folder / SELECTION_FILE} is not in format {_FORMAT}, the one this version reads: select again"
            )
        rows = {}
        for name in ("data", "dropped"):
            files = sorted(str(file) for file in (folder / name).glob("*.parquet"))
            if not files:
                raise InputError(f"{folder / name} holds no parquet file: select again")
            rows[name] = read_parquet(files)
        fields = {key: values[key] for key in _SAVED_FIELDS}
        run = RunRecord.from_dict(values["run"], folder / SELECTION_FILE) if values.get("run") else None
        return cls(selected=rows["data"], dropped=rows["dropped"], run=run, **fields)

    def _to_json(self) -> str:
        values = {"format": _FORMAT, "ladm_hf_version": __version__, "selected_tokens": self.selected_tokens}
        values |= {name: getattr(self, name) for name in _SAVED_FIELDS}
        values["run"] = None if self.run is None else self.run.to_dict()
        return json.dumps(values, indent=2, ensure_ascii=False) + "\n"

    def _needed_columns(self) -> set[str]:
        """First parts of the columns that `frame` reads."""
        counts = "input_ids" if self.tokens == "document" else self.tokens
        names = [self.by or "", counts, self.options.get("score_column", SCORE), DROP_REASON]
        return {name.split(".")[0] for name in names} | set(names)


_SAVED_FIELDS = (
    "strategy", "budget_tokens", "by", "tokens", "percent", "shortfall", "threshold", "options", "notes", "table",
    "strata",
)  # fmt: skip
_COUNTS = ("documents", "tokens", "selected_documents", "selected_tokens")


def select(
    scored: Any,
    *,
    budget_tokens: int | None = None,
    by: str | None = "domain",
    strategy: Strategy = "exact",
    shares: Shares | None = None,
    k: int | None = None,
    min_score: float | None = None,
    temperature: float | None = None,
    seed: int = 0,
    length_bands: int | Sequence[int] | None = None,
    tokens: str = "scored",
    ties: str | None = None,
    score_column: str = SCORE,
    split: str | None = None,
) -> Selection:
    """Chooses the best documents of every domain.

    Args:
        scored (`Dataset`, `pa.Table` or path):
            Rows with `ladm_score`, `ladm_num_tokens` and `ladm_status`: in memory, a folder of `save_to_disk` or of
            `ladm score`, a parquet file, glob or folder, or a Hub data set (`"user/name"`).
        budget_tokens (`int`, *optional*):
            Tokens to keep; needed by `exact`, `percent` and `temperature`.
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
        length_bands (`int` or sequence of `int`, *optional*):
            Rank within domain and length band, since the score grows with length: a number of bands of about equally
            many documents each, or the token counts that divide them (`[8192, 16384]`). A domain's budget is divided
            in proportion to its bands' tokens, and `k` counts for each band.
        tokens (`str`, *optional*, defaults to `"scored"`):
            Tokens counted: `"scored"` (`ladm_num_tokens`, which leaves out what was truncated), `"document"` (the
            length of `input_ids`, as the published code counts) or the name of a column of counts.
        ties (`str`, *optional*):
            Column that orders documents of equal score, before the row number: with an id that is unique, the same
            documents are kept whatever the order of the rows.
        score_column (`str`, *optional*, defaults to `"ladm_score"`): column to rank by, higher is better.
        split (`str`, *optional*): split of a `DatasetDict`.

    Returns:
        [`Selection`]. Its data sets refer to the pool's rows and copy no text.

    Raises:
        ConfigError: an option is missing, out of range or does not belong to the strategy.
        ColumnError: a column is missing or has the wrong type.
        InputError: the data cannot be opened.
    """
    options = checked_options(
        strategy=strategy, budget_tokens=budget_tokens, shares=shares, k=k, min_score=min_score,
        temperature=temperature, seed=seed, length_bands=length_bands,
    )  # fmt: skip
    run = run_of(scored)
    pool = read_pool(scored, by=by, tokens=tokens, score_column=score_column, split=split)
    strategy, budget = options["strategy"], options["budget_tokens"]
    ranking = rank(pool, length_bands=options["length_bands"], ties=ties, ascending=strategy == "bottom-k")
    budgets = divide(budget, options["shares"], pool.domains, ranking) if strategy in DIVIDES_BUDGET else None
    rows, percent = STRATEGIES[strategy](ranking, options, budgets)
    kept = np.zeros(len(pool.score), dtype=bool)
    kept[rows] = True
    selected, dropped = _split(pool, kept, strategy, budgets)
    table = tally(pool, ranking, kept, budgets)
    options |= {"by": by, "tokens": tokens, "ties": ties, "score_column": score_column, "split": split}
    selection = Selection(
        selected=selected,
        dropped=dropped,
        table=table,
        strata=tally(pool, ranking, kept, budgets, by_band=True) if options["length_bands"] else [],
        threshold={record["domain"]: record["threshold"] for record in table if record["threshold"] is not None},
        shortfall=max(0, (budget or 0) - sum(record["selected_tokens"] for record in table)),
        strategy=strategy,
        budget_tokens=budget,
        by=by,
        tokens=tokens,
        percent=percent,
        options={name: value for name, value in options.items() if value is not None},
        run=run,
    )
    selection.notes.extend(_notes(selection))
    return selection


def _split(pool: Pool, kept: Bools, strategy: str, budgets: Budgets | None) -> tuple[Dataset, Dataset]:
    """The rows kept and the rows dropped, as views of the pool."""
    dataset = pool.dataset
    if DROP_REASON in dataset.column_names:
        dataset = dataset.remove_columns(DROP_REASON)
    reasons = _with_column(dataset, DROP_REASON, _reasons(pool, kept, strategy, budgets))
    return dataset.select(np.flatnonzero(kept)), reasons.select(np.flatnonzero(~kept))


def _reasons(pool: Pool, kept: Bools, strategy: str, budgets: Budgets | None) -> pa.Array:
    """Why each row was dropped, null where it was kept."""
    names = ["no_score", "no_status", "no_token_count", _LEFT_OUT[strategy], "no_share"]
    code = np.where(np.isfinite(pool.score), np.where(pool.tokens < 0, 2, 1), 0)
    code[pool.eligible] = 3
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


def _notes(selection: Selection) -> list[str]:
    """What a reader of the table should know."""
    pool = sum(record["scored_tokens"] for record in selection.table)
    kept, budget = selection.selected_tokens, selection.budget_tokens
    notes = [f"{selection.tokens_counted[:1].upper()}{selection.tokens_counted[1:]}."]
    if not any(record["scored_documents"] for record in selection.table):
        return [*notes, "No document of the pool has a score: nothing could be kept."]
    unscored = sum(record["documents"] - record["scored_documents"] for record in selection.table)
    if unscored:
        notes.append(f"{unscored:,} documents have no score and were not candidates.")
    if budget is None:
        return notes
    if budget >= pool and kept == pool:
        notes.append(
            f"The budget of {budget:,} tokens is not smaller than the pool's {pool:,} scored tokens: every scored "
            f"document is kept, {budget - pool:,} tokens short of the budget."
        )
    elif selection.percent is not None:
        notes.append(
            f"The smallest whole percent of each domain that passes the budget is {selection.percent} %: "
            f"{kept:,} tokens, {kept - budget:,} over the budget."
        )
    elif all(
        record["selected_documents"] == record["scored_documents"] for record in selection.table if record["share"]
    ):
        return [
            *notes,
            f"Every scored document of the domains that have a share is kept, {budget - kept:,} tokens short of the "
            f"budget of {budget:,}.",
        ]
    else:
        group = "domain and length band" if selection.strata else "domain"
        notes.append(f"{kept:,} of {budget:,} tokens are used; the next document of each {group} would not fit.")
    small = [record for record in selection.table if record["shortfall_tokens"]]
    if small and kept < pool:
        names = ", ".join(one_line(record["domain"], 40) for record in small[:5]) + (", ..." if len(small) > 5 else "")
        notes.append(
            f"{sum(record['shortfall_tokens'] for record in small):,} tokens that {names} could not fill went to the "
            "other domains."
        )
    return notes


def _without_long_columns(dataset: Dataset, needed: set[str]) -> Dataset:
    long = [
        field.name
        for field in dataset.data.schema
        if field.name not in needed
        and (
            pa.types.is_nested(field.type)
            or dataset.data.column(field.name).nbytes > _LONG_BYTES * max(1, dataset.data.num_rows)
        )
    ]
    return dataset.remove_columns(long)
