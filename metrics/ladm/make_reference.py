"""Makes `reference.json`: LADM scores of natural and of spliced documents, which the app shows beside a score.

    python make_reference.py

The documents are those of `ladm demo`, made of Python's standard library, so that anyone can make them again; at 8,192
tokens the two give the same numbers. Natural and spliced ones are cut to the same number of tokens, because the score
depends on it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
from pathlib import Path

from ladm_hf import LadmScorer, __version__
from ladm_hf.checks.demo import WINDOW_CHARS, demo_documents

MODEL = "ladm-nano"
LENGTHS = (4096, 8192, 16384)
DOCUMENTS = 12
# Of the window of the demonstration.
WINDOW_TOKENS = 8192


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("reference.json"))
    output = parser.parse_args().output
    groups = []
    scorer = LadmScorer(MODEL, device="cpu", dtype="float32")
    for length in LENGTHS:
        cut = scorer.with_config(dataclasses.replace(scorer.config, max_length=length))
        rows = demo_documents(DOCUMENTS, window_chars=WINDOW_CHARS * length // WINDOW_TOKENS)
        found = cut.score_texts(rows["text"])
        scores = {
            kind: [round(score.score, 5) for score, its in zip(found, rows["kind"], strict=True) if its == kind]
            for kind in ("natural", "spliced")
        }
        groups.append({"num_tokens": length} | scores)
        print(length, {kind: sum(rows) / len(rows) for kind, rows in scores.items()}, flush=True)
    reference = {
        "model": MODEL,
        "documents": f"Python {platform.python_version()}, standard library",
        "ladm_hf": __version__,
        "groups": groups,
    }
    output.write_text(json.dumps(reference, indent=1) + "\n")


if __name__ == "__main__":
    main()
