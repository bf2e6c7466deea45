"""`Selection`: what was kept, what was dropped and why, counted, saved to a folder and loaded from it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ladm_hf.data.columns import column
from ladm_hf.data.rows import AnyRows
from ladm_hf.data.run_record import RunRecord
from ladm_hf.data.score_columns import NUM_TOKENS, STATUS
from ladm_hf.data.storage import is_url
from ladm_hf.errors import ConfigError
from ladm_hf.selection.folder import read_folder, write_folder
from ladm_hf.selection.read import find_column, read_pool
from ladm_hf.selection.reasons import DROP_REASON
from ladm_hf.selection.signals import columns_of, score_column
from ladm_hf.selection.table import BandTally, DomainTally, table_lines

if TYPE_CHECKING:
    from datasets import Dataset

# Columns longer than this on average are left out of dropped rows saved without their texts.
_LONG_BYTES = 1000


@dataclass(frozen=True, eq=False)
class Selection:
    """What was kept, what was not and why.

    Attributes:
        selected_rows ([`DatasetRows`] or [`SourceRows`]): what `selected` gives as a data set; of a pool of files, not
            read yet.
        dropped_rows ([`DatasetRows`] or [`SourceRows`]): what `dropped` gives as a data set.
        table (`list[DomainTally]`): counts, budget and correlations with length of each domain, sorted by name.
        strata (`list[BandTally]`): counts and budget of each length band of each domain; empty without bands.
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
        pool (`str`, *optional*): path, URL or Hub id of the scored rows, as it was given, without credentials.
        folder (`str`, *optional*): the folder or URL it was loaded from.
    """

    selected_rows: AnyRows
    dropped_rows: AnyRows
    table: list[DomainTally]
    strata: list[BandTally]
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
    pool: str | None = None
    folder: str | None = None

    @cached_property
    def selected(self) -> Dataset:
        """The rows kept, all columns, in the order of the pool. Of a pool of files they are read at first use, into the
        temporary folder."""
        return self.selected_rows.dataset()

    @cached_property
    def dropped(self) -> Dataset:
        """The other rows, with a column `ladm_drop_reason`: one of `DROP_REASONS`, or the row's own `ladm_status`."""
        return self.dropped_rows.dataset()

    @property
    def selected_tokens(self) -> int:
        """Tokens of the rows kept, counted as `tokens` says."""
        return sum(row.selected_tokens for row in self.table)

    @property
    def tokens_counted(self) -> str:
        """What a token count here means, as half a sentence."""
        if self.tokens == "scored":
            return "tokens counted as scored (a truncated document counts only the part that was scored)"
        if self.tokens == "document":
            return "tokens counted over the whole document (length of `input_ids`)"
        return f"tokens counted by the column `{self.tokens}`"

    @property
    def score_column(self) -> str:
        """The column of the rows that holds what they were ranked by."""
        return score_column(self.options["score"])

    def frame(self) -> pa.Table:
        """The small columns of the whole pool, for figures and statistics.

        Returns:
            `pa.Table` with `domain` (dictionary of strings), `score` (`float64`, NaN where there is none), `tokens`
            (`int64`, -1 where not known), `kept` (`bool`) and `reason` (`string`, null where kept); the rows kept
            come first.
        """
        return self._frame

    @cached_property
    def _frame(self) -> pa.Table:
        parts = []
        for rows, kept in ((self.selected_rows, True), (self.dropped_rows, False)):
            also = () if kept else (DROP_REASON,)
            pool = read_pool(rows, by=self.by, tokens=self.tokens, score=self.score_column, also=also)
            reason = pa.nulls(len(pool.score), pa.string()) if kept else column(pool.dataset, DROP_REASON)
            parts.append(
                pa.table(
                    {
                        "domain": pa.DictionaryArray.from_arrays(pa.array(pool.code, pa.int32()), pool.domains or [""]),
                        "score": pool.score,
                        "tokens": pool.tokens,
                        "kept": np.full(len(pool.score), kept),
                        "reason": reason,
                    }
                )
            )
        return pa.concat_tables(parts).unify_dictionaries()

    def reasons(self) -> dict[str, int]:
        """How many rows were dropped for each reason, the most frequent first."""
        counts = pc.value_counts(column(self.dropped_rows.columns([DROP_REASON]), DROP_REASON)).to_pylist()
        return {c["values"]: c["counts"] for c in sorted(counts, key=lambda c: (-c["counts"], c["values"]))}

    def length_correlation(
        self,
        name: Literal[
            "score_length_correlation", "selected_score_length_correlation", "kept_length_correlation"
        ] = "kept_length_correlation",
    ) -> float | None:
        """One of the domains' rank correlations with length, their mean weighted by scored documents.

        Args:
            name (`str`, *optional*): which, see [`DomainTally`]; by default that of being kept and length, near 0 where
                no length was preferred.

        Returns:
            `float` in -1..1, `None` where no domain has one.
        """
        found = [(row.scored_documents, value) for row in self.table if (value := getattr(row, name)) is not None]
        total = sum(weight for weight, _ in found)
        return sum(weight * value for weight, value in found) / total if total else None

    def summary(self) -> str:
        """The table by domain and the notes, as text for a terminal.

        The column `length` is the rank correlation of being kept and length: near 0, no length was preferred.
        """
        return "\n".join([*table_lines(self.table, self.budget_tokens), "", *self.notes])

    def save(
        self, folder: str | os.PathLike[str], *, dropped: Literal["all", "scores"] = "all", overwrite: bool = False
    ) -> Path | str:
        """Writes the selection to a folder, or a URL of any protocol that fsspec knows, that `load_dataset`,
        [`Selection.load`], `ladm report` and `ladm publish` read.

        It gets `data/train-*.parquet` (the rows kept), `dropped/dropped-*.parquet` and, last,
        `selection.json`. Other files are left alone.

        Args:
            folder (`str` or path): where to.
            dropped (`str`, *optional*, defaults to `"all"`):
                `"scores"` leaves out the dropped rows' long columns (texts longer than 1,000 characters on average,
                lists, and whatever holds them), which the pool still has.

            overwrite (`bool`, *optional*, defaults to `False`): replace a selection that the folder holds.

        Returns:
            `Path` of the folder, or the URL.

        Raises:
            InputError: the folder holds a selection, or other data under one of those names.
            StorageError: it cannot be written.
        """
        if dropped not in ("all", "scores"):
            raise ConfigError(f"dropped must be 'all' or 'scores', got {dropped!r}")
        long = [] if dropped == "all" else self.dropped_rows.long_columns(_LONG_BYTES)
        needed = self._needed_columns()
        without = [name for name in long if name not in needed]
        write_folder(
            folder, self.selected_rows, self.dropped_rows, self._values(), without=without, overwrite=overwrite
        )
        return os.fspath(folder) if is_url(folder) else Path(folder).expanduser()

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Selection:
        """Reads what [`Selection.save`] wrote to a folder or URL.

        Raises:
            InputError: it is not such a folder, or a part of it is missing.
        """
        saved = read_folder(folder)
        return cls(
            selected_rows=saved.selected_rows, dropped_rows=saved.dropped_rows, table=saved.table, strata=saved.strata,
            options=saved.options, run=saved.run, pool=saved.values.get("pool"), folder=saved.folder,
            **{name: saved.values[name] for name in _PLAIN_FIELDS},
        )  # fmt: skip

    def _values(self) -> dict[str, Any]:
        """What `selection.json` holds."""
        values: dict[str, Any] = {"selected_tokens": self.selected_tokens}
        values |= {name: getattr(self, name) for name in (*_PLAIN_FIELDS, "options", "pool")}
        for name in ("table", "strata"):
            values[name] = [row.to_dict() for row in getattr(self, name)]
        return values | {"run": None if self.run is None else self.run.to_dict()}

    def _needed_columns(self) -> set[str]:
        """First parts of the columns that `frame` reads."""
        counts = {"document": "input_ids", "scored": NUM_TOKENS}.get(self.tokens, self.tokens)
        signals = columns_of(self.options["score"], self.options.get("keep"))
        names = [self.by or "", counts, *signals, self.score_column, STATUS, DROP_REASON]
        found = [find_column(self.dropped_rows.schema, name) for name in names]
        return {name.split(".")[0] for name in found} | set(found)


_PLAIN_FIELDS = (
    "strategy", "budget_tokens", "by", "tokens", "percent", "shortfall", "threshold", "notes",
)  # fmt: skip
