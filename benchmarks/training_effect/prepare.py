"""Text to token ids, once: the pool, the data of the bases, short documents, what is held out, and the probes.

What is held out shares no source with the pool or with the data of the bases.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from .file_types import is_text
from .packing import packed
from .plan import Plan
from .planted import plant
from .probes import write_probes
from .scores import load_tokenizer
from .store import Stream, generator, write_json
from .texts import text_columns

Rows = list[dict[str, Any]]
# Documents tokenized at a time.
BATCH = 64


def prepare(plan: Plan, work: Path, pool: Sequence[str], corpus: Sequence[str], held_out: Sequence[str]) -> None:
    tokenizer = load_tokenizer(plan)
    if len(tokenizer) > 2**16:
        name = plan.get("tokenizer", plan["calculator"])
        raise SystemExit(f"{name!r} has {len(tokenizer):,} token ids, of which 65,536 fit")
    seen = {row["source"] for row in read(pool, ["source"])}
    trained = {row["source"] for row in read(corpus, ["source"])}
    overlap = sorted(seen & trained)
    if overlap:
        raise SystemExit(f"the pool and the data of the bases share {overlap[0]!r}: use sources that are apart")
    done = work / "prepared.json"
    if done.exists():
        return
    facts: dict[str, Any] = {"calculator": plan["calculator"], "vocab_size": len(tokenizer)}
    facts["held_out"] = prepare_held_out(plan, work, held_out, seen | trained, tokenizer)
    facts["base"] = prepare_base(plan, work, corpus, tokenizer)
    facts["pool"] = prepare_pool(plan, work, pool, tokenizer)
    if "planted" in plan:
        facts["pool"] = plant(plan, work)
    write_json(done, facts)


def read(files: Sequence[str], columns: Sequence[str]) -> Rows:
    """Rows of parquet files, those columns that each has; in a file with a column `split`, the rows for the report."""
    rows: Rows = []
    for file in files:
        names = pq.read_schema(file).names
        frame = pd.read_parquet(file, columns=[name for name in [*columns, "split"] if name in names])
        if "split" in frame:
            frame = frame[frame["split"] == "report"]
        rows += frame.to_dict("records")
    return rows


def tokenized(rows: Rows, tokenizer: Any, most: int | None = None) -> Iterator[list[int]]:
    for start in range(0, len(rows), BATCH):
        texts = [row["text"] for row in rows[start : start + BATCH]]
        for ids in tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]:
            yield ids[:most]


def prepare_pool(plan: Plan, work: Path, files: Sequence[str], tokenizer: Any) -> dict[str, int]:
    """`pool.u16` and `pool.parquet`: what the arms rank by and do not need a model for."""
    most, streams, parts = plan["pool"]["max_tokens"], [], []
    for file in files:
        rows = read([file], ["id", "domain", "source", "text", "n_chars"])
        frame = pd.DataFrame({name: [row[name] for row in rows] for name in ("id", "domain", "source")})
        texts = [row["text"] for row in rows]
        frame = frame.assign(**text_columns(texts))
        frame["text"] = frame["id"].map(is_text)
        parts.append(frame)
        streams += [np.array(ids, dtype=np.uint16) for ids in tokenized(rows, tokenizer, most)]
    stream = Stream.write(work / "tokens/pool", streams)
    frame = pd.concat(parts, ignore_index=True)
    frame["ladm_num_tokens"] = stream.lengths
    frame.to_parquet(work / "pool.parquet")
    return {"documents": len(frame), "tokens": int(stream.lengths.sum())}


def prepare_base(plan: Plan, work: Path, files: Sequence[str], tokenizer: Any) -> dict[str, int]:
    """`base.u16` and `mix.u16`, short documents of the same data that every arm gets, each with its windows.

    A base of interleaved windows has none of its own, but needs to know what its documents are: `base.json`.
    """
    rng = generator("base")
    rows = read(files, ["id", "domain", "source", "kind", "text", "n_chars"])
    short = [row for row in rows if row["kind"] == "short"]
    long = [row for row in rows if row["kind"] != "short"]
    long = [long[i] for i in rng.permutation(len(long))]
    documents: list[list[int]] = []
    total, most = 0, plan["base"]["unique_tokens"]
    for ids in tokenized([*short, *long], tokenizer):
        if total >= most:
            break
        documents.append(ids[: most - total])
        total += len(documents[-1])
    stream = Stream.write(work / "tokens/base", documents)
    if "length" in plan["base"]:
        packed(stream, np.arange(len(stream)), plan["base"]["length"]).save(work / "windows/base.npz")
    else:
        named = [{name: row[name] for name in ("domain", "source", "kind")} for row in [*short, *long][: len(stream)]]
        write_json(work / "base.json", named)
    shorts = generator("short").permutation(min(len(short), len(stream)))
    budget = plan["extension"]["length"] * plan["extension"]["short_windows"]
    enough = 1 + int(np.searchsorted(np.cumsum(stream.lengths[shorts]), budget * 1.05))
    mix = Stream.write(work / "tokens/mix", [stream[row] for row in np.sort(shorts[:enough])])
    windows = packed(mix, np.arange(len(mix)), plan["extension"]["length"])
    windows.take(np.arange(min(len(windows), plan["extension"]["short_windows"]))).save(work / "windows/mix.npz")
    return {"documents": len(stream), "tokens": total}


def prepare_held_out(plan: Plan, work: Path, files: Sequence[str], taken: set[str], tokenizer: Any) -> dict[str, Any]:
    """`held_out.u16`, `short.u16`, and their ids, domains and sources, and the probes."""
    settings = plan["evaluation"]
    rows = [row for row in read(files, ["id", "domain", "source", "kind", "text"]) if row["source"] not in taken]
    order = generator("held out").permutation(len(rows))
    long = [rows[i] for i in order if rows[i].get("kind") != "short"]
    ids = list(tokenized(long, tokenizer, settings["length"]))
    chosen = chosen_by_domain(long, [len(tokens) >= settings["length"] for tokens in ids], settings)
    stream = Stream.write(work / "tokens/held_out", [ids[i] for i in chosen])
    held = [{name: long[i][name] for name in ("id", "domain", "source")} for i in chosen]
    write_json(work / "held_out.json", held)
    short = [rows[i] for i in order if rows[i].get("kind") == "short"][: settings["short_documents"]]
    Stream.write(work / "tokens/short", list(tokenized(short, tokenizer, settings["short_length"])))
    write_probes(plan, work, stream, [row["domain"] for row in held], tokenizer)
    domains = pd.Series([row["domain"] for row in held]).value_counts().to_dict()
    return {"documents": domains, "sources": len({row["source"] for row in held}), "short": len(short)}


def chosen_by_domain(rows: Rows, long_enough: Sequence[bool], settings: dict[str, Any]) -> list[int]:
    """So many documents of each domain, of as many sources as there are; domains with too few are left out."""
    found: dict[str, dict[str, list[int]]] = {}
    for i, row in enumerate(rows):
        if long_enough[i]:
            found.setdefault(row["domain"], {}).setdefault(row["source"], []).append(i)
    chosen: list[int] = []
    for _, sources in sorted(found.items()):
        turns = [(turn, n, i) for n, members in enumerate(sources.values()) for turn, i in enumerate(members)]
        members = [i for _, _, i in sorted(turns)][: settings["per_domain"]]
        if len(members) >= settings["least_per_domain"]:
            chosen += members
    return chosen
