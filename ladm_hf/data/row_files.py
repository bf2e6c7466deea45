"""Files read as a stream of rows that are Python objects: CSV, and JSON files that hold one array.

CSV knows texts alone. A column is one of numbers where that writes every value as it stands, so that 007, 1.10, NA,
null and large identifiers beside empty cells stay what they are; only an empty cell is null.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd

from ladm_hf.data.content import (
    compression_in,
    is_json_array,
    open_unpacked,
    other_encoding,
    read_unpacked_head,
    reading,
)
from ladm_hf.data.data_files import DataFiles
from ladm_hf.errors import InputError

# Rows of a CSV file parsed at once.
_CSV_ROWS = 1024
_INTEGER = re.compile(r"0|-?[1-9]\d{0,17}")

Row = dict[str, Any]


def row_reader(files: DataFiles) -> Callable[[DataFiles], Iterator[Row]] | None:
    """What reads the rows of the files, `None` where they are of another format."""
    if files.format == "csv":
        return csv_rows
    return array_rows if files.format == "json" and _holds_array(files, files.paths[0]) else None


def array_rows(files: DataFiles) -> Iterator[Row]:
    """The objects of the arrays, each file held in memory whole.

    Raises:
        InputError: a file holds something else.
    """
    for path in files.paths:
        if not _holds_array(files, path):
            raise InputError(f"{path} holds no JSON array, as {files.paths[0]} does: give the files separately")
        compression = compression_in(files.fs, path)
        with reading(path, compression), open_unpacked(files.fs, path, compression) as handle:
            content = handle.read()
        try:
            values = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path} is no valid JSON: {error}") from error
        for n, value in enumerate(values):
            if not isinstance(value, dict):
                raise InputError(
                    f"{path} holds an array of which item {n:,} is a {type(value).__name__}: expected objects, whose "
                    "keys are columns"
                )
            yield value


def _holds_array(files: DataFiles, path: str) -> bool:
    return is_json_array(read_unpacked_head(files.fs, path))


def csv_rows(files: DataFiles) -> Iterator[Row]:
    """The rows of the files; a column that a file lacks is left out of its rows.

    Raises:
        InputError: a file is no table.
    """
    types = _csv_types(files)
    for path in files.paths:
        for frame in _csv_frames(files, path):
            values = {
                name: [None if cell is None else types[name](cell) for cell in frame[name].tolist()]
                for name in map(str, frame)
            }
            yield from (dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True))


def _csv_types(files: DataFiles) -> dict[str, Callable[[str], Any]]:
    """For each column what makes values of its cells: numbers, where that writes all of them as they are."""
    types: dict[str, Callable[[str], Any]] = {}
    for path in files.paths:
        for frame in _csv_frames(files, path):
            for name in map(str, frame):
                if types.setdefault(name, _number) is _number:
                    cells = (cell for cell in frame[name].tolist() if cell is not None)
                    types[name] = _number if all(map(_is_number, cells)) else str
    return types


def _is_number(cell: str) -> bool:
    """Whether a cell is a number as Python writes it, an integer of 64 bits at most."""
    if _INTEGER.fullmatch(cell):
        return True
    try:
        return repr(float(cell)) == cell
    except ValueError:
        return False


def _number(cell: str) -> int | float:
    return int(cell) if _INTEGER.fullmatch(cell) else float(cell)


def _csv_frames(files: DataFiles, path: str) -> Iterator[pd.DataFrame]:
    """The cells of a file as texts, `None` where they are empty."""
    compression = compression_in(files.fs, path)
    options: dict[str, Any] = {"sep": files.options.get("sep", ","), "dtype": str, "na_filter": False}
    try:
        with reading(path, compression), open_unpacked(files.fs, path, compression) as handle:
            names = pd.read_csv(handle, header=None, nrows=1, **options).iloc[0].tolist()
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise InputError(f"{path} has {names.count(twice)} columns named {twice!r}: rename or remove all but one")
        _check_separator(path, names, options["sep"])
        with (
            reading(path, compression),
            open_unpacked(files.fs, path, compression) as handle,
            # pandas takes rows that are longer than the header for ones with an index, or cuts them with a warning
            warnings.catch_warnings(action="error", category=pd.errors.ParserWarning),
            pd.read_csv(handle, index_col=False, chunksize=_CSV_ROWS, **options) as frames,
        ):
            for frame in frames:
                yield frame.astype(object).where(frame != "", None)
    except UnicodeDecodeError as error:
        remedy = other_encoding(files.fs, path)
        raise InputError(f"{path} cannot be read as a table of text in UTF-8 ({error}): {remedy}") from error
    except (pd.errors.ParserError, pd.errors.ParserWarning, pd.errors.EmptyDataError) as error:
        raise InputError(f"{path} cannot be read as a table of text in UTF-8: {error}") from error


def _check_separator(path: str, names: list[str], separator: str) -> None:
    """Refuses a table whose only column is a row of names with another separator between them."""
    other = next((sign for sign in (";", "\t", "|") if len(names) == 1 and sign in names[0]), None)
    if other is not None:
        remedy = "name it .tsv" if other == "\t" else "write it with commas"
        raise InputError(
            f"{path} has one column, {names[0]!r}: its cells seem to be separated by {other!r}, not {separator!r}: "
            f"{remedy}"
        )
