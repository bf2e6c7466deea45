"""The folder of a selection, or its URL: `data/`, `dropped/` and, last, `selection.json`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import fsspec

from ladm_hf.data.data_files import SELECTION_FILE
from ladm_hf.data.object_store import storage_at
from ladm_hf.data.parquet import ParquetSource
from ladm_hf.data.results import check_free as check_place
from ladm_hf.data.results import new_result, result_at
from ladm_hf.data.rows import AnyRows, rows_of_source
from ladm_hf.data.run_record import RunRecord
from ladm_hf.data.score_columns import SCORE
from ladm_hf.data.storage import Storage, is_url
from ladm_hf.errors import InputError
from ladm_hf.selection.signals import score_column
from ladm_hf.selection.table import BandTally, DomainTally
from ladm_hf.version import __version__

_FORMAT = 1


@dataclass(frozen=True)
class Saved:
    """What the folder of a selection holds.

    Attributes:
        folder (`str`): where it is, without credentials.
        selected_rows, dropped_rows ([`SourceRows`]): the rows of `data/` and of `dropped/`.
        table, strata (`list`): the tables by domain and by length band.
        options (`dict`): the arguments of [`select`].
        run ([`RunRecord`], *optional*): the scoring run.
        values (`dict`): all of `selection.json`.
    """

    folder: str
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
) -> None:
    """Writes beside what is there, then puts it in place.

    Args:
        folder (`str` or path): where to, a folder or a URL; its other files are left alone.
        selected, dropped ([`DatasetRows`] or [`SourceRows`]): the rows.
        values (mapping): what `selection.json` holds.
        without (sequence of `str`): columns that the dropped rows are written without.
        overwrite (`bool`): replace a selection that the folder holds.

    Raises:
        InputError: the folder holds a selection, or other data under one of those names, or cannot be written.
    """
    check_free(folder, overwrite=overwrite)
    text = json.dumps({"format": _FORMAT, "ladm_hf_version": __version__, **values}, indent=2, ensure_ascii=False)
    storage = result_at(folder, "select")
    try:
        with new_result(storage, ".selection-") as result:
            result.add("data", selected.parts, "train")
            result.add("dropped", lambda work: dropped.parts(work, without=without), "dropped")
            result.finish(SELECTION_FILE, text + "\n")
    except OSError as error:
        raise InputError(f"the selection cannot be written to {storage.name}: {error}") from error


def read_folder(folder: str | os.PathLike[str]) -> Saved:
    """Reads what [`write_folder`] wrote, also that of version 0.1.0.

    Raises:
        InputError: it is not such a folder, or a part of it is missing.
    """
    storage = storage_at(folder) if is_url(folder) else result_at(folder, "select")
    values = _values(storage)
    # version 0.1.0 had no bands unless they were asked for, no rule against repetition, and another name for the score
    options = dict(values["options"])
    old = {"length_bands": "off", "max_repetition": "off", "score": options.pop("score_column", SCORE)}
    options |= {name: value for name, value in old.items() if name not in options}
    rows: dict[str, AnyRows] = {}
    for name in ("data", "dropped"):
        files = [each for each in sorted(storage.entries(name)) if each.endswith(".parquet") and each.count("/") == 1]
        if not files:
            raise InputError(f"{storage.name}/{name} holds no parquet file: select again")
        fs, _, paths = fsspec.get_fs_token_paths(storage.urls(files), expand=False)
        # what was listed in this process before may have been written since
        fs.invalidate_cache()
        rows[name] = rows_of_source(ParquetSource(fs, paths, storage.name), (score_column(options["score"]),))
    return Saved(
        folder=storage.name,
        selected_rows=rows["data"],
        dropped_rows=rows["dropped"],
        table=[DomainTally.from_dict(row) for row in values["table"]],
        strata=[BandTally.from_dict(row) for row in values["strata"]],
        options=options,
        run=RunRecord.from_dict(values["run"], f"{storage.name}/{SELECTION_FILE}") if values.get("run") else None,
        values=values,
    )


def _values(storage: Storage) -> dict[str, Any]:
    name, content = f"{storage.name}/{SELECTION_FILE}", storage.read(SELECTION_FILE)
    if content is None:
        raise InputError(
            f"{storage.name} holds no {SELECTION_FILE}: expected a folder or URL written by `ladm select` "
            "(Selection.save)"
        )
    try:
        values = json.loads(content)
    except ValueError as error:
        raise InputError(f"{name} is not valid JSON: {error}; select again") from error
    if not isinstance(values, dict) or values.get("format") != _FORMAT:
        raise InputError(f"{name} is not in format {_FORMAT}, the one this version reads: select again")
    return values


def check_free(folder: str | os.PathLike[str], *, overwrite: bool = False) -> str:
    """Refuses a folder or URL that a selection must not be written to.

    Args:
        folder (`str` or path): where to.
        overwrite (`bool`, *optional*, defaults to `False`): take one that holds a selection.

    Returns:
        `str`: what would be replaced, in words; empty where nothing would.

    Raises:
        InputError: it holds a selection, or other data under one of a selection's names.
        ConfigError: it is a repository of the Hub.
    """
    storage = result_at(folder, "select")
    content = check_place(storage, SELECTION_FILE, ("data", "dropped"), "a selection")
    if content is None:
        return ""
    try:
        values = json.loads(content)
        budget = f" to a budget of {values['budget_tokens']:,} tokens" if values["budget_tokens"] else ""
        what = f"a selection by {values['strategy']}{budget} that keeps {values['selected_tokens']:,} tokens"
    except (ValueError, KeyError, TypeError):
        what = "a selection that cannot be read"
    if storage.entry("report/index.html") is not None:
        what += "; the report beside it describes that one"
    if not overwrite:
        raise InputError(
            f"{storage.name} holds {what}: choose another folder, or replace it with --overwrite (overwrite=True)"
        )
    return what
