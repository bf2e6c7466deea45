"""Scores of the first tokens of documents, cut to several lengths: what `dependency.py` and `mixed_pool.py` analyse.

    python benchmarks/score_windows.py documents.parquet --output scores.jsonl                # 8,192 tokens, LADM alone
    python benchmarks/score_windows.py documents.parquet --lengths 8192 32768 --losses --output scores.jsonl

One JSON line for each document and length: `id`, `length` (most tokens read), `tokens` (those read), `document_tokens`,
`scores`, by name. A document that is shorter than a length is scored whole, once. Lines that are there already are not
computed again. The losses are those of `quality.py`, by the calculator's own language model, of windows of full length.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from quality import BATCH_TOKENS, Reader, load

from ladm_hf.calculators.calculator import resolve
from ladm_hf.ops.scores import document_score
from ladm_hf.training.documents import TokenizedDocument

# Windows scored before their lines are written.
PART = 32


def read_scores(path: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """The lines of a file of scores by document and length."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {(line["id"], line["length"]): line for line in map(json.loads, lines)}


def windows(documents: Sequence[TokenizedDocument], lengths: Sequence[int]) -> Iterator[tuple[TokenizedDocument, int]]:
    """Each document at each length that it fills, and whole at the first that it does not."""
    for document in documents:
        for length in sorted(lengths):
            yield document, length
            if len(document.ids) < length:
                break


def score(
    documents: Sequence[TokenizedDocument],
    lengths: Sequence[int],
    models: Sequence[str],
    device: str,
    output: Path,
    losses: bool = False,
) -> None:
    """Appends the lines that are missing to `output`; the first model, `LADM`, also gives the losses."""
    done = read_scores(output)
    named = {"LADM": models[0]} | {Path(model).name: model for model in models[1:]}
    configs = {name: resolve(model).config for name, model in named.items()}
    engines = {name: (load(model, configs[name], device), configs[name]) for name, model in named.items()}
    shortest = max(config.min_tokens for config in configs.values())
    missing = [
        (document, length)
        for document, length in windows(documents, lengths)
        if (document.key, length) not in done and min(length, len(document.ids)) >= shortest
    ]
    # like lengths together, since a batch is padded to its longest
    missing.sort(key=lambda window: (window[1], min(window[1], len(window[0].ids))))
    path = resolve(models[0]).path
    assert path is not None
    reader = Reader(path, device) if losses else None
    size = PART if device == "cpu" else 16 * PART
    for start in range(0, len(missing), size):
        part = missing[start : start + size]
        ids = [np.asarray(document.ids[:length], dtype=np.int64) for document, length in part]
        lines: list[dict[str, Any]] = [
            {"id": document.key, "length": length, "tokens": len(row), "document_tokens": len(document.ids),
             "scores": {}}
            for (document, length), row in zip(part, ids, strict=True)
        ]  # fmt: skip
        for name, (engine, config) in engines.items():
            for rows, found in engine.score_all(ids):
                assert found is not None, "out of memory"
                for row, measured in zip(rows, found, strict=True):
                    lines[row]["scores"][name] = float(document_score(measured.cds, config.weights))
        if reader is not None:
            add_losses(reader, ids, lines)
        with output.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
        print(f"{min(start + size, len(missing)):,} of {len(missing):,} windows", flush=True)


def add_losses(reader: Reader, ids: Sequence[np.ndarray], lines: Sequence[dict[str, Any]]) -> None:
    """Token loss and long minus short loss of the windows that are as long as they were to be."""
    for length in sorted({line["length"] for line in lines}):
        rows = [row for row, line in enumerate(lines) if line["length"] == line["tokens"] == length]
        size = 1 if reader.device == "cpu" else max(1, BATCH_TOKENS // length)
        for start in range(0, len(rows), size):
            batch = torch.from_numpy(np.stack([ids[row] for row in rows[start : start + size]]))
            found = {"token loss": reader.token_loss(batch), "long minus short loss": reader.long_minus_short(batch)}
            for name, values in found.items():
                for row, value in zip(rows[start : start + size], values.tolist(), strict=True):
                    lines[row]["scores"][name] = value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", help="parquet or jsonl files, or a Hub id")
    parser.add_argument("--model", default="ladm-nano", help="calculator: ladm-nano, a folder or a Hub id")
    parser.add_argument("--against", nargs="+", default=[], help="other calculators with the same tokenizer")
    parser.add_argument("--lengths", type=int, nargs="+", default=[8192], help="most tokens read of a document")
    parser.add_argument("--losses", action="store_true", help="also token loss and long minus short loss")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, required=True, help="JSON lines; what it has is kept")
    options = parser.parse_args()
    from ladm_hf.training.documents import load_documents, tokenize_documents

    tokenizer = resolve(options.model).load_tokenizer()
    documents = tokenize_documents(load_documents(options.data), tokenizer)
    models = [options.model, *options.against]
    score(documents, options.lengths, models, options.device, options.output, options.losses)


if __name__ == "__main__":
    main()
