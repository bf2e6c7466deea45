"""How many natural documents does the rule against repetition drop, and how many that repeat themselves does it find?

    python benchmarks/repetition.py train-*.parquet --output benchmarks/results/repetition.json

Natural documents are those of the files, and short ones of a domain joined. Of some of each domain copies are made that
repeat themselves, each also with words changed in what comes again:

- twice: the whole text two times;
- half: the text, and then its first half again;
- paragraphs: every paragraph two times, the second time elsewhere;
- many: half of the paragraphs two times;
- one: a paragraph so often that it makes up half of the text.

A document counts as dropped where its `ladm_repetition` is above the `--limit`. The counts of token ids are those of
the same documents, read by ladm-nano's tokenizer without their text. Columns of the parquet: text, and domain, kind,
source where known. Times are the least of several runs on this machine.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from ladm_hf.calculators.calculator import resolve
from ladm_hf.scoring.repetition import repetition
from ladm_hf.selection.options import MAX_REPETITION

RESULTS = Path(__file__).parent / "results"
EDITS = (0.0, 0.01, 0.02, 0.05)
JOINED_CHARS = 28_000
MOST_CHARS = 400_000
# Lengths to which documents are cut before parts of them are repeated.
LENGTHS = (2_000, 8_000, 28_000, 100_000)
EACH = 60


def edited(text: str, share: float, rng: random.Random) -> str:
    """A text with a share of its words spelt backwards."""
    return " ".join(word[::-1] + "x" if rng.random() < share else word for word in text.split(" ")) if share else text


def repeats(text: str, share: float, rng: random.Random) -> dict[str, str]:
    """The text repeating itself in several ways, with edits in what comes again."""
    paragraphs = [part for part in text.split("\n\n") if part.strip()] or [text]
    again = [edited(part, share, rng) for part in paragraphs]
    shuffled = rng.sample(again, len(again))
    one = max(paragraphs, key=len)[:1000]
    return {
        "twice": f"{text}\n\n{edited(text, share, rng)}",
        "half": f"{text}\n\n{edited(text[: len(text) // 2], share, rng)}",
        "paragraphs": "\n\n".join([*paragraphs, *shuffled]),
        "many": "\n\n".join([*paragraphs, *shuffled[: (len(again) + 1) // 2]]),
        "one": "\n\n".join([text, *(edited(one, share, rng) for _ in range(len(text) // len(one) + 1))]),
    }


def natural(rows: list[dict[str, Any]], rng: random.Random) -> dict[str, dict[str, list[str]]]:
    """Texts by domain and kind, with short documents of a domain joined as a kind of their own."""
    found: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        found[row.get("domain") or "all"][row.get("kind") or "all"].append(row["text"][:MOST_CHARS])
    for kinds in found.values():
        short, joined = rng.sample(kinds.get("short", []), len(kinds.get("short", []))), ""
        for text in short:
            joined += text + "\n\n"
            if len(joined) > JOINED_CHARS:
                kinds["joined"].append(joined)
                joined = ""
    return found


def counts(values: list[float], limit: float) -> str:
    return f"{int(np.sum(np.array(values) > limit))} of {len(values)}"


def measure_domain(kinds: dict[str, list[str]], limit: float, tokenizer: Any, rng: random.Random) -> dict[str, Any]:
    """Natural documents dropped and repeats found, of one domain."""

    def of_ids(text: str) -> float:
        return repetition(np.asarray(tokenizer(text, verbose=False)["input_ids"]))

    result: dict[str, Any] = {
        "natural": {kind: counts([*map(repetition, texts)], limit) for kind, texts in kinds.items()}
    }
    texts = [text for kind in ("long", "short", "all") for text in kinds.get(kind, []) if len(text) >= 1000]
    chosen = [text[: rng.choice(LENGTHS)] for text in rng.sample(texts, min(EACH, len(texts)))]
    found: dict[str, list[float]] = defaultdict(list)
    ids: dict[str, list[float]] = defaultdict(list)
    for text in chosen:
        for share in EDITS:
            for name, again in repeats(text, share, rng).items():
                found[f"{name}, {share:.0%} of the words changed" if share else name].append(repetition(again))
                if not share:
                    ids[name].append(of_ids(again))
    result["natural ids"] = counts([of_ids(text) for text in rng.sample(texts, min(EACH, len(texts)))], limit)
    result["repeats"] = {name: counts(values, limit) for name, values in found.items()}
    result["repeats ids"] = {name: counts(values, limit) for name, values in ids.items()}
    return result


def milliseconds(text: str) -> dict[str, float]:
    """Time of the statistic by characters of the text."""
    found = {}
    for num_chars in (8_000, 32_000, 200_000):
        times = []
        for _ in range(20):
            start = time.perf_counter()
            repetition(text[:num_chars])
            times.append(time.perf_counter() - start)
        found[f"{num_chars} characters"] = round(min(times) * 1e3, 3)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path, help="parquet files of documents")
    parser.add_argument("--limit", type=float, default=MAX_REPETITION)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS / "repetition.json")
    arguments = parser.parse_args()
    rows = [row for file in arguments.files for row in pq.read_table(file).to_pylist()]
    rng = random.Random(arguments.seed)
    tokenizer = resolve("ladm-nano", None).load_tokenizer()
    domains = {}
    for name, kinds in sorted(natural(rows, rng).items()):
        domains[name] = measure_domain(kinds, arguments.limit, tokenizer, rng)
        print(name, domains[name]["natural"], domains[name]["repeats"], flush=True)
    long = max((row["text"] for row in rows), key=len)
    record = {
        "benchmark": "repetition", "files": [file.name for file in arguments.files], "limit": arguments.limit,
        "seed": arguments.seed, "milliseconds": milliseconds(long), "domains": domains,
    }  # fmt: skip
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(record["milliseconds"])


if __name__ == "__main__":
    main()
