"""The folder of a selection: `data/`, `dropped/` and, last, `selection.json`."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec

from ladm_hf.data.data_files import SELECTION_FILE
from ladm_hf.data.parquet import ParquetSource
from ladm_hf.data.rows import AnyRows, rows_of_source
from ladm_hf.data.run_record import RunRecord
from ladm_hf.data.score_columns import SCORE
from ladm_hf.data.temporary import temporary_folder
from ladm_hf.errors import InputError
from ladm_hf.selection.signals import score_column
from ladm_hf.selection.table import BandTally, DomainTally
from ladm_hf.version import __version__

_FORMAT = 1


@dataclass(frozen=True)
class Saved:
    """What the folder of a selection holds.

    Attributes:
        folder (`Path`): where it is.
        selected_rows, dropped_rows ([`SourceRows`]): the rows of `data/` and of `dropped/`.
        table, strata (`list`): the tables by domain and by length band.
        options (`dict`): the arguments of [`select`].
        run ([`RunRecord`], *optional*): the scoring run.
        values (`dict`): all of `selection.json`.
    """

    folder: Path
    selected_rows: AnyRows
    dropped_rows: AnyRows
    table: list[DomainTally]
    strata: list[BandTally]
    options: dict[str, Any]
    run: RunRecord | None
    values: Mapping[str, Any]


def write_folder(
    folder: str | os.PathLike[str],
    selected: AnyRows,
    dropped: AnyRows,
    values: Mapping[str, Any],
    *,
    without: Sequence[str] = (),
    overwrite: bool = False,
) -> Path:
    """Writes beside what is there, then puts it in place.

    Args:
        folder (`str` or path): where to; its other files are left alone.
        selected, dropped ([`DatasetRows`] or [`SourceRows`]): the rows.
        values (mapping): what `selection.json` holds.
        without (sequence of `str`): columns that the dropped rows are written without.
        overwrite (`bool`): replace a selection that the folder holds.

    Raises:
        InputError: the folder holds a selection, or other data under one of those names, or cannot be written.
    """
    folder = Path(folder).expanduser()
    check_free(folder, overwrite=overwrite)
    text = json.dumps({"format": _FORMAT, "ladm_hf_version": __version__, **values}, indent=2, ensure_ascii=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with temporary_folder(".selection-", folder) as work:
            selected.write(work / "data", "train")
            dropped.write(work / "dropped", "dropped", without=without)
            (work / SELECTION_FILE).write_text(text + "\n", encoding="utf-8")
            for name in ("data", "dropped"):
                if (folder / name).exists():
                    shutil.rmtree(folder / name)
                os.replace(work / name, folder / name)
            os.replace(work / SELECTION_FILE, folder / SELECTION_FILE)
    except OSError as error:
        raise InputError(f"the selection cannot be written to {folder}: {error}") from error
    return folder


def read_folder(folder: str | os.PathLike[str]) -> Saved:
    """Reads what [`write_folder`] wrote, also that of version 0.1.0.

    Raises:
        InputError: it is not such a folder, or a part of it is missing.
    """
    folder = Path(folder).expanduser()
    values = _values(folder)
    # version 0.1.0 had no bands unless they were asked for, no rule against repetition, and another name for the score
    options = dict(values["options"])
    old = {"length_bands": "off", "max_repetition": "off", "score": options.pop("score_column", SCORE)}
    options |= {name: value for name, value in old.items() if name not in options}
    rows: dict[str, AnyRows] = {}
    for name in ("data", "dropped"):
        files = sorted(str(file) for file in (folder / name).glob("*.parquet"))
        if not files:
            raise InputError(f"{folder / name} holds no parquet file: select again")
        source = ParquetSource(fsspec.filesystem("file"), files, str(folder))
        rows[name] = rows_of_source(source, (score_column(options["score"]),))
    return Saved(
        folder=folder,
        selected_rows=rows["data"],
        dropped_rows=rows["dropped"],
        table=[DomainTally.from_dict(row) for row in values["table"]],
        strata=[BandTally.from_dict(row) for row in values["strata"]],
        options=options,
        run=RunRecord.from_dict(values["run"], folder / SELECTION_FILE) if values.get("run") else None,
        values=values,
    )


def _values(folder: Path) -> dict[str, Any]:
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
    return values


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
