"""`Selection`: what was kept, what was dropped and why, counted, saved to a folder and loaded from it."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ladm_hf.data.columns import column
from ladm_hf.data.data_files import SELECTION_FILE
from ladm_hf.data.parquet import ParquetSource
from ladm_hf.data.rows import AnyRows, rows_of_source
from ladm_hf.data.run_record import RunRecord
from ladm_hf.data.temporary import temporary_folder
from ladm_hf.errors import ConfigError, InputError
from ladm_hf.selection.pool import SCORE, read_pool
from ladm_hf.selection.table import BandTally, DomainTally
from ladm_hf.text import one_line
from ladm_hf.version import __version__

if TYPE_CHECKING:
    from datasets import Dataset

DROP_REASON = "ladm_drop_reason"
DROP_REASONS = {
    "below_cut": "ranked below the last document kept in its domain",
    "above_cut": "ranked above the last document kept in its domain",
    "not_drawn": "not drawn by the sampling",
    "no_share": "its domain has no share of the budget",
    "repeated": "repeats itself: its ladm_repetition is above max_repetition",
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
        pool (`str`, *optional*): path or Hub id of the scored rows, as it was given.
        folder (`str`, *optional*): the folder it was loaded from.
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
        score_column = self.options.get("score_column", SCORE)
        parts = []
        for rows, kept in ((self.selected_rows, True), (self.dropped_rows, False)):
            also = () if kept else (DROP_REASON,)
            pool = read_pool(rows, by=self.by, tokens=self.tokens, score_column=score_column, also=also)
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
        header = ("domain", "documents", "tokens", "repeated", "kept", "kept tokens", "budget", "cut", "length")
        rows: list[tuple[str, ...]] = [header]
        for row in self.table:
            length = row.kept_length_correlation
            rows.append(
                (
                    one_line(row.domain, 40), f"{row.documents:,}", f"{row.tokens:,}",
                    "" if row.repeated_documents is None else f"{row.repeated_documents:,}",
                    f"{row.selected_documents:,}", f"{row.selected_tokens:,}",
                    "" if row.budget_tokens is None else f"{row.budget_tokens:,}",
                    "" if row.threshold is None else f"{row.threshold:.5g}", "" if length is None else f"{length:+.2f}",
                )
            )  # fmt: skip
        totals = (
            sum(getattr(row, name) or 0 for row in self.table)
            for name in ("documents", "tokens", "repeated_documents", "selected_documents", "selected_tokens")
        )
        budget = "" if self.budget_tokens is None else f"{self.budget_tokens:,}"
        rows.append(("total", *(f"{total:,}" for total in totals), budget, "", ""))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = []
        for cells in rows:
            first, *rest = (
                cell.ljust(w) if i == 0 else cell.rjust(w)
                for i, (cell, w) in enumerate(zip(cells, widths, strict=True))
            )
            lines.append("  ".join([first, *rest]).rstrip())
        return "\n".join([*lines, "", *self.notes])

    def save(
        self, folder: str | os.PathLike[str], *, dropped: Literal["all", "scores"] = "all", overwrite: bool = False
    ) -> Path:
        """Writes the selection to a folder that `load_dataset`, [`Selection.load`], `ladm report` and `ladm publish`
        read.

        The folder gets `data/train-*.parquet` (the rows kept), `dropped/dropped-*.parquet` and, last,
        `selection.json`. Other files are left alone.

        Args:
            folder (`str` or path): where to.
            dropped (`str`, *optional*, defaults to `"all"`):
                `"scores"` leaves out the dropped rows' long columns (texts longer than 1,000 characters on average,
                lists, and whatever holds them), which the pool still has.

            overwrite (`bool`, *optional*, defaults to `False`): replace a selection that the folder holds.

        Raises:
            InputError: the folder holds a selection, or other data under one of those names.
        """
        if dropped not in ("all", "scores"):
            raise ConfigError(f"dropped must be 'all' or 'scores', got {dropped!r}")
        folder = Path(folder).expanduser()
        check_free(folder, overwrite=overwrite)
        try:
            self._write(folder, dropped)
        except OSError as error:
            raise InputError(f"the selection cannot be written to {folder}: {error}") from error
        return folder

    def _write(self, folder: Path, dropped: str) -> None:
        """Writes beside what is there, then puts it in place."""
        folder.mkdir(parents=True, exist_ok=True)
        long = [] if dropped == "all" else self.dropped_rows.long_columns(_LONG_BYTES)
        needed = self._needed_columns()
        without = [name for name in long if name not in needed]
        with temporary_folder(".selection-", folder) as work:
            self.selected_rows.write(work / "data", "train")
            self.dropped_rows.write(work / "dropped", "dropped", without=without)
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
        rows: dict[str, AnyRows] = {}
        for name in ("data", "dropped"):
            files = sorted(str(file) for file in (folder / name).glob("*.parquet"))
            if not files:
                raise InputError(f"{folder / name} holds no parquet file: select again")
            rows[name] = rows_of_source(ParquetSource(fsspec.filesystem("file"), files, str(folder)), (SCORE,))
        fields = {key: values[key] for key in _SAVED_FIELDS}
        # version 0.1.0 had no bands unless they were asked for, and no rule against repetition
        options = values["options"]
        fields["options"] = options | {name: options.get(name, "off") for name in ("length_bands", "max_repetition")}
        fields["table"] = [DomainTally.from_dict(row) for row in values["table"]]
        fields["strata"] = [BandTally.from_dict(row) for row in values["strata"]]
        run = RunRecord.from_dict(values["run"], folder / SELECTION_FILE) if values.get("run") else None
        return cls(
            selected_rows=rows["data"],
            dropped_rows=rows["dropped"],
            run=run,
            pool=values.get("pool"),
            folder=str(folder),
            **fields,
        )

    def _to_json(self) -> str:
        values = {"format": _FORMAT, "ladm_hf_version": __version__, "selected_tokens": self.selected_tokens}
        values |= {name: getattr(self, name) for name in _SAVED_FIELDS}
        for name in ("table", "strata"):
            values[name] = [row.to_dict() for row in getattr(self, name)]
        values["pool"] = self.pool
        values["run"] = None if self.run is None else self.run.to_dict()
        return json.dumps(values, indent=2, ensure_ascii=False) + "\n"

    def _needed_columns(self) -> set[str]:
        """First parts of the columns that `frame` reads."""
        counts = "input_ids" if self.tokens == "document" else self.tokens
        names = [self.by or "", counts, self.options.get("score_column", SCORE), DROP_REASON]
        return {name.split(".")[0] for name in names} | set(names)


def check_free(folder: str | os.PathLike[str], *, overwrite: bool = False) -> str:
    """Refuses a folder that a selection must not be written to.

    Args:
        folder (`str` or path): where to.
        overwrite (`bool`, *optional*, defaults to `False`): take one that holds a selection.

    Returns:
        `str`: what would be replaced, in words; empty where nothing would.

    Raises:
        InputError: the folder holds a selection, or other data under one of a selection's names.
    """
    folder = Path(folder).expanduser()
    if not (folder / SELECTION_FILE).exists():
        for name in ("data", "dropped"):
            if (folder / name).exists():
                raise InputError(
                    f"{folder / name} is there already and was not written by a selection: choose another folder"
                )
        return ""
    try:
        values = json.loads((folder / SELECTION_FILE).read_text(encoding="utf-8"))
        budget = f" to a budget of {values['budget_tokens']:,} tokens" if values["budget_tokens"] else ""
        what = f"a selection by {values['strategy']}{budget} that keeps {values['selected_tokens']:,} tokens"
    except (OSError, ValueError, KeyError, TypeError):
        what = "a selection that cannot be read"
    if (folder / "report" / "index.html").is_file():
        what += "; the report beside it describes that one"
    if not overwrite:
        raise InputError(
            f"{folder} holds {what}: choose another folder, or replace it with --overwrite (overwrite=True)"
        )
    return what


_SAVED_FIELDS = (
    "strategy", "budget_tokens", "by", "tokens", "percent", "shortfall", "threshold", "options", "notes", "table",
    "strata",
)  # fmt: skip
