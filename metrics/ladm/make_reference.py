"""Makes `reference.json`: LADM scores of natural and of spliced documents, which the app shows beside a score.

    python make_reference.py

The documents are modules and packages of Python's standard library, so that anyone can make it again. A natural
document is the beginning of one module, or of the modules of one package in path order; a spliced one is made of eight
pieces, each from a random place of another document. Both are cut to the same number of tokens, because the score
depends on it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import random
import sysconfig
from pathlib import Path

from ladm_hf import LadmScorer, __version__

MODEL = "ladm-nano"
LENGTHS = (4096, 8192, 16384)
DOCUMENTS = 24
PIECES = 8
# The calculator's tokenizer takes fewer than four characters of source code for a token.
CHARS_PER_TOKEN = 4
# Tables, not prose or code.
LEFT_OUT = {"test", "tests", "idlelib", "encodings", "pydoc_data", "site-packages", "dist-packages", "__pycache__"}


def library_documents() -> list[str]:
    """The documents, each a module of the standard library or a package's modules joined, in path order."""
    root = Path(sysconfig.get_path("stdlib"))
    groups: dict[str, list[Path]] = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).parts
        if not LEFT_OUT & set(parts) and not parts[0].startswith("_sysconfigdata"):
            groups.setdefault(parts[0], []).append(path)
    return [
        "\n".join(f"# File: {path.relative_to(root)}\n{path.read_text('utf-8', 'replace')}" for path in paths)
        for paths in groups.values()
    ]


def spliced(documents: list[str], num_chars: int, generator: random.Random) -> str:
    """A text of `PIECES` equal pieces, each from a random place of another document."""
    size = num_chars // PIECES
    pieces = []
    for document in generator.sample(documents, PIECES):
        start = generator.randrange(len(document) - size)
        pieces.append(document[start : start + size])
    return "\n\n".join(pieces)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("reference.json"))
    output = parser.parse_args().output
    generator = random.Random(0)
    groups = []
    for length in LENGTHS:
        scorer = LadmScorer(MODEL)
        scorer = LadmScorer(MODEL, config=dataclasses.replace(scorer.config, max_length=length), device="cpu")
        num_chars = length * CHARS_PER_TOKEN
        long = [document for document in library_documents() if len(document) > num_chars]
        chosen = generator.sample(long, min(DOCUMENTS, len(long)))
        texts = {
            "natural": [document[:num_chars] for document in chosen],
            "spliced": [spliced(long, num_chars, generator) for _ in chosen],
        }
        scores = {kind: [score.score for score in scorer.score_texts(rows)] for kind, rows in texts.items()}
        groups.append({"num_tokens": length} | {kind: [round(x, 5) for x in rows] for kind, rows in scores.items()})
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
