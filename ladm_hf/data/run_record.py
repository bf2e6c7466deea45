"""`run.json`: what a run scored, with what, in which chunks."""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from ladm_hf.data.sources import Source, Survey
from ladm_hf.errors import InputError, ResumeError
from ladm_hf.version import __version__

RUN_FILE = "run.json"
FORMAT = 1


def new_run(source: Source, survey: Survey, identity: dict[str, Any], edges: list[int]) -> dict[str, Any]:
    """The record of a run that begins.

    Args:
        source ([`Source`]), survey ([`Survey`]): what is scored.
        identity (`dict`): what determines the scores, each by a name for people.
        edges (`list[int]`): where the chunks begin and end, in units of the source.
    """
    run = {
        "format": FORMAT,
        "ladm_hf": __version__,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "input": source.name,
        "hub": source.hub,
        "split": identity["split"],
        "identity": identity,
        "unit": source.unit,
        "edges": edges,
        "run_id": run_id(identity, edges),
        "costs": np.diff(np.interp(edges, survey.positions, survey.cost)).tolist(),
        "schema": survey.schema.serialize().to_pybytes().hex(),
        "layout": survey.layout,
    }
    if identity["scores_only"]:
        run["row_starts"] = source.row_starts(edges)
    return run


def load_run(file: Path) -> dict[str, Any]:
    """What a `run.json` holds.

    Raises:
        ResumeError: it is no `run.json` of ours.
    """
    try:
        run = json.loads(file.read_text(encoding="utf-8"))
        if run["format"] != FORMAT:
            raise ResumeError(f"{file} has format {run['format']}, this version writes {FORMAT}: use --restart")
    except (ValueError, KeyError, TypeError) as error:
        raise ResumeError(f"{file} cannot be read ({error}): restore it, or begin anew with --restart") from error
    assert isinstance(run, dict)
    return run


def num_chunks(run: dict[str, Any]) -> int:
    """Chunks that a run is divided into."""
    return len(run["edges"]) - 1


def run_id(identity: dict[str, Any], edges: list[int]) -> str:
    """What the records of a run's chunks name it by."""
    return xxhash.xxh3_128_hexdigest(json.dumps([identity, edges], sort_keys=True).encode())


def run_facts(run: Mapping[str, Any]) -> dict[str, Any]:
    """What a reader wants to know of a `run.json`: `dataset`, `model`, `config`, `versions` and `command`.

    A record that has these already is taken as it is.
    """
    identity = run.get("identity")
    if not isinstance(identity, Mapping):
        return dict(run)
    # only the run knows whether `my/pool` was a data set of the Hub or a path; a path gives its last part, and no id
    hub = run.get("hub") or {}
    name = str(run.get("input") or identity.get("data") or "").rstrip("/").rpartition("/")[2]
    dataset = {
        "id": hub.get("id"), "name": None if hub else name or None,
        "revision": hub.get("revision") or identity.get("revision"), "split": run.get("split"),
        "fingerprint": identity.get("data"),
    }  # fmt: skip
    config = {name.removeprefix("config."): value for name, value in identity.items() if name.startswith("config.")}
    facts = {
        "dataset": {key: value for key, value in dataset.items() if value is not None},
        "model": {"id": identity.get("model"), "dtype": identity.get("dtype")},
        "config": {key: value for key, value in config.items() if value is not None},
        "versions": {"ladm_hf": run.get("ladm_hf")},
        "command": run.get("command"),
    }
    return {key: value for key, value in facts.items() if value}


def read_run(folder: Path) -> dict[str, Any]:
    """The `run.json` that `ladm score` leaves in its output folder, empty if there is none."""
    try:
        run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise InputError(f"{folder / 'run.json'} is not valid JSON: {error}") from error
    return run if isinstance(run, dict) else {}


def run_of(scored: Any) -> dict[str, Any] | None:
    """The `run.json` that a scoring run left in its folder."""
    if not isinstance(scored, (str, os.PathLike)) or not (Path(scored) / "run.json").is_file():
        return None
    try:
        record = json.loads((Path(scored) / "run.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{Path(scored) / 'run.json'} is not valid JSON: {error}") from error
    return record if isinstance(record, dict) else None
