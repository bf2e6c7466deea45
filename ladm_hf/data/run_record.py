"""`run.json`: what a run scored, with what, in which chunks. One record that every room reads and one file format."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

from ladm_hf.data.files import write_atomically
from ladm_hf.data.object_store import storage_at
from ladm_hf.data.sources import Source, SourceScan
from ladm_hf.data.storage import is_url
from ladm_hf.errors import RunRecordError
from ladm_hf.version import __version__

RUN_FILE = "run.json"
FORMAT = 1
# What the user is told to run where a run was started from Python.
SAME_CALL = "the same call of score_dataset()"


@dataclass(frozen=True)
class RunRecord:
    """A scoring run of `C` chunks, as `run.json` keeps it.

    Attributes:
        input (`str`): the data, for people: a path, URL, Hub id or description.
        split (`str`): split that the result is written as.
        identity (mapping): what determines the scores, each by a name for people: `model` (`id@commit` or
            `content:hash`), `dtype`, `config.*`, `text_column`, `input_ids_column`, `data`, ...
        unit (`str`): `"rows"` or `"bytes"`: what `edges` counts.
        edges (`tuple[int, ...]` of `C + 1`): where the chunks begin and end, ascending from 0.
        costs (`tuple[float, ...]` of `C`): estimated tokens of each chunk.
        schema (`pa.Schema`): columns of the source.
        layout (mapping): JSON values that let another process read the source without scanning it.
        run_id (`str`): what the records of the run's chunks name it by.
        hub (mapping, *optional*): `id` and `revision` of the Hub dataset that was scored.
        row_starts (`tuple[int, ...]` of `C`, *optional*): number of the first row of each chunk, where scores alone
            are written.
        score_columns (`tuple[str, ...]`): columns of the result that scoring adds; the three of version 0.1.0 where
            the file does not say.
        calculator (`str`, *optional*): the calculator by the name or folder it was asked for; not in 0.1.0's files.
        calculator_revision (`str`, *optional*): its commit on the Hub.
        created (`str`): time of the first launch.
        version (`str`): version of this package that made the run.
        command (`str`): what started the run last.
    """

    input: str
    split: str
    identity: Mapping[str, Any]
    unit: str
    edges: tuple[int, ...]
    costs: tuple[float, ...]
    schema: pa.Schema
    layout: Mapping[str, Any]
    run_id: str
    hub: Mapping[str, Any] | None = None
    row_starts: tuple[int, ...] | None = None
    score_columns: tuple[str, ...] = ("ladm_score", "ladm_num_tokens", "ladm_status")
    calculator: str | None = None
    calculator_revision: str | None = None
    created: str = ""
    version: str = ""
    command: str = ""

    @property
    def num_chunks(self) -> int:
        """`C`, the chunks that the run is divided into."""
        return len(self.edges) - 1

    @property
    def scores_only(self) -> bool:
        """Whether the result holds `index` and the score columns alone."""
        return bool(self.identity.get("scores_only"))

    @property
    def config(self) -> dict[str, Any]:
        """The options of the score, as [`LadmConfig.to_dict`] gives them."""
        prefix = "config."
        return {name.removeprefix(prefix): value for name, value in self.identity.items() if name.startswith(prefix)}

    @property
    def model(self) -> dict[str, Any]:
        """The calculator for people: `id`, `revision` or `content`, and `dtype`, as far as they are known."""
        identity = str(self.identity.get("model") or "")
        name, _, commit = identity.rpartition("@")
        # only its last part: a folder's place on this machine means nothing to others
        shown = self.calculator and (Path(self.calculator).name if os.path.isabs(self.calculator) else self.calculator)
        parts = {
            "id": shown or name or identity,
            "revision": self.calculator_revision or commit if name else None,
            "content": identity.removeprefix("content:") if shown and identity.startswith("content:") else None,
            "dtype": self.identity.get("dtype"),
        }
        return {key: value for key, value in parts.items() if value}

    @property
    def dataset(self) -> dict[str, Any]:
        """The source for people: `id` and `revision` on the Hub, or the last part of its path as `name`."""
        hub = self.hub or {}
        # only the run knows whether `my/pool` was a dataset of the Hub or a path
        name = (self.input or str(self.identity.get("data") or "")).rstrip("/").rpartition("/")[2]
        parts = {
            "id": hub.get("id"), "name": None if hub else name or None,
            "revision": hub.get("revision") or self.identity.get("revision"), "split": self.split,
            "fingerprint": self.identity.get("data"),
        }  # fmt: skip
        return {key: value for key, value in parts.items() if value is not None}

    def facts(self) -> dict[str, Any]:
        """What a card shows of the run: `dataset`, `model`, `config`, `versions` and `command`."""
        config = self.config | {"short_context": self.identity.get("short_context")}
        facts = {
            "dataset": self.dataset,
            "model": self.model,
            "config": {key: value for key, value in config.items() if value is not None},
            "versions": {"ladm_hf": self.version} if self.version else {},
            "command": "" if self.command == SAME_CALL else self.command,
        }
        return {key: value for key, value in facts.items() if value}

    @classmethod
    def new(
        cls,
        source: Source,
        scan: SourceScan,
        identity: dict[str, Any],
        edges: Sequence[int],
        *,
        score_columns: Sequence[str],
        calculator: str | None = None,
        calculator_revision: str | None = None,
    ) -> RunRecord:
        """The record of a run that begins.

        Args:
            source ([`Source`]), scan ([`SourceScan`]): what is scored.
            identity (`dict`): what determines the scores, each by a name for people.
            edges (sequence of `int`): where the chunks begin and end, in units of the source.
            score_columns (sequence of `str`): columns that scoring adds.
            calculator, calculator_revision (`str`, *optional*): see [`RunRecord`].
        """
        return cls(
            input=source.name, split=identity["split"], identity=identity, unit=source.unit, edges=tuple(edges),
            costs=tuple(np.diff(np.interp(edges, scan.positions, scan.cost)).tolist()), schema=scan.schema,
            layout=scan.layout, run_id=run_id(identity, edges), hub=source.hub,
            row_starts=tuple(source.row_starts(edges)) if identity["scores_only"] else None,
            score_columns=tuple(score_columns),
            calculator=calculator, calculator_revision=calculator_revision,
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), version=__version__,
        )  # fmt: skip

    @classmethod
    def load(cls, file: Path) -> RunRecord:
        """Reads a `run.json`, also one of version 0.1.0.

        Raises:
            RunRecordError: it is not one that a scoring run wrote, or is damaged.
        """
        try:
            content = file.read_bytes()
        except OSError as error:
            raise RunRecordError(_refusal(file, str(error))) from error
        return cls.from_json(content, file)

    @classmethod
    def from_json(cls, content: bytes, file: Path | str) -> RunRecord:
        """The record that is the content of `file`.

        Raises:
            RunRecordError: it is not one that a scoring run wrote, or is damaged.
        """
        try:
            values = json.loads(content)
        except ValueError as error:
            raise RunRecordError(_refusal(file, str(error))) from error
        return cls.from_dict(values, file)

    @classmethod
    def from_dict(cls, values: Any, file: Path | str) -> RunRecord:
        """The record of the JSON object in `file`.

        Raises:
            RunRecordError: it is not one that a scoring run wrote.
        """
        if not isinstance(values, dict):
            raise RunRecordError(_refusal(file, f"it holds a {type(values).__name__}, no object"))
        if values.get("format") != FORMAT:
            had = f"format {values['format']}" if "format" in values else "no format"
            raise RunRecordError(_refusal(file, f"it has {had}, this version reads format {FORMAT}"))
        names = {field.name: "ladm_hf" if field.name == "version" else field.name for field in dataclasses.fields(cls)}
        found: dict[str, Any] = {field: values[name] for field, name in names.items() if values.get(name) is not None}
        try:
            found["schema"] = pa.ipc.read_schema(pa.py_buffer(bytes.fromhex(found["schema"])))
            for name in ("edges", "costs", "row_starts", "score_columns"):
                if name in found:
                    found[name] = tuple(found[name])
            record = cls(**found)
            chunks = len(record.costs)
            if not isinstance(record.identity, dict) or not isinstance(record.layout, dict):
                raise TypeError("identity and layout must be objects")
            if len(record.edges) != chunks + 1 or list(record.edges) != sorted(record.edges):
                raise ValueError(f"{len(record.edges)} edges do not divide {chunks} chunks")
        except (KeyError, TypeError, ValueError, AttributeError, pa.ArrowException) as error:
            raise RunRecordError(_refusal(file, f"{type(error).__name__}: {error}")) from error
        return record

    def to_dict(self) -> dict[str, Any]:
        """The record as plain JSON values, in the form of `run.json`."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        version = values.pop("version")
        values["schema"] = self.schema.serialize().to_pybytes().hex()
        shown = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
        optional = ("row_starts", "calculator", "calculator_revision")
        shown = {name: value for name, value in shown.items() if name not in optional or value is not None}
        if self.score_columns == RunRecord.score_columns:
            del shown["score_columns"]
        return {"format": FORMAT, "ladm_hf": version, **shown}

    def to_json(self) -> bytes:
        """The content of `run.json`."""
        return json.dumps(self.to_dict(), indent=1).encode()

    def save(self, folder: Path) -> None:
        """Writes `run.json` into a folder, whole or not at all."""
        write_atomically(folder / RUN_FILE, self.to_json())


def _refusal(file: Path | str, reason: str) -> str:
    return (
        f"{file} cannot be read as the record of a scoring run ({reason}): restore it, or start over with "
        "`ladm score --restart`; if it is no run's, move it elsewhere"
    )


def run_id(identity: Mapping[str, Any], edges: Sequence[int]) -> str:
    """What the records of a run's chunks name it by."""
    return xxhash.xxh3_128_hexdigest(json.dumps([dict(identity), list(edges)], sort_keys=True).encode())


def run_of(scored: Any) -> RunRecord | None:
    """The record of the run that wrote a folder, given the folder or its `data`; `None` where no run did.

    Raises:
        RunRecordError: there is a `run.json` that cannot be read.
    """
    if not isinstance(scored, (str, os.PathLike)):
        return None
    if is_url(scored):
        return _run_at(os.fspath(scored).rstrip("/"))
    path = Path(scored).expanduser()
    for folder in (path, path.parent) if path.name == "data" else (path,):
        if (folder / RUN_FILE).is_file():
            return RunRecord.load(folder / RUN_FILE)
    return None


def _run_at(url: str) -> RunRecord | None:
    """The record of the run at a URL."""
    for root in (url, url.rpartition("/")[0]) if url.endswith("/data") else (url,):
        # a glob or a file is no run
        if any(char in root for char in "*?[") or root.endswith((".parquet", ".jsonl")):
            continue
        storage = storage_at(root)
        content = storage.read(RUN_FILE)
        if content is not None:
            return RunRecord.from_json(content, f"{storage.name}/{RUN_FILE}")
    return None


def run_facts(run: RunRecord | Mapping[str, Any] | None) -> dict[str, Any]:
    """What a card shows of a run: of its record, of the content of a `run.json`, or of facts in that form already.

    Raises:
        RunRecordError: it has the form of a `run.json` and cannot be read as one.
    """
    if run is not None and not isinstance(run, RunRecord) and "identity" in run:
        run = RunRecord.from_dict(dict(run), Path(RUN_FILE))
    return run.facts() if isinstance(run, RunRecord) else dict(run or {})
