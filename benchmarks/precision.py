"""What a dtype does to scores, ranks and selections: the same documents scored in two of them.

    python benchmarks/precision.py documents.parquet     # bfloat16 on a CPU; needs a text column
    python benchmarks/precision.py documents.parquet --device cuda:0 --dtypes bfloat16 float8 \\
        --output benchmarks/results/precision-float8.json

Documents are cut to lengths between 4,096 and 16,384 tokens, log-uniform, each within its own. Beside the rank
correlation stands the share of the best quarter that both types choose, and how far scores move. On a CPU float8 is
emulated: inputs and weights of linear layers are rounded to float8, a scale for each row, and multiplied in float32.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from ladm_hf import LadmScorer, __version__
from ladm_hf.scoring.precision import FLOAT8
from ladm_hf.stats import spearman

RESULTS = Path(__file__).parent / "results"
SHORTEST, LONGEST, SHARE = 4096, 16384, 0.25
# The largest number of float8 (e4m3).
LARGEST = 448.0


def documents(path: Path, count: int, scorer: LadmScorer) -> list[Any]:
    """Token ids of `count` documents drawn without replacement."""
    tokenizer = scorer._load(None).tokenizer
    texts = pq.read_table(path, columns=["text"])["text"]
    generator = np.random.default_rng(0)
    found: list[Any] = []
    for row in generator.permutation(len(texts)).tolist():
        # six characters a token are enough for the longest cut
        ids = tokenizer(texts[row].as_py()[: 6 * LONGEST], verbose=False)["input_ids"]
        if len(ids) >= SHORTEST:
            length = np.exp(generator.uniform(np.log(SHORTEST), np.log(min(len(ids), LONGEST))))
            found.append(ids[: int(length)])
        if len(found) == count:
            return found
    raise SystemExit(f"{path} has only {len(found)} documents of {SHORTEST:,} tokens")


def scorer_in(dtype: str, model: str, device: str) -> LadmScorer:
    """A scorer in a dtype, in which float8 is emulated on a CPU."""
    if dtype != FLOAT8 or device != "cpu":
        return LadmScorer(model, device=device, dtype=dtype)
    scorer = LadmScorer(model, device=device, dtype="bfloat16")
    for module in scorer._load(None).model.modules():
        if isinstance(module, nn.Linear):
            module.forward = partial(float8_linear, module)  # type: ignore[method-assign]
    return scorer


def float8_linear(linear: nn.Linear, x: Tensor) -> Tensor:
    """A linear layer whose inputs and weights are rounded to float8; its output is rounded as that of the kernel."""
    found = nn.functional.linear(float8_rows(x), float8_rows(linear.weight)).to(linear.weight.dtype)
    return found if linear.bias is None else found + linear.bias


def float8_rows(x: Tensor) -> Tensor:
    """Rows rounded to float8, each by its own scale, in float32: what `ladm_hf.ops.float8` multiplies."""
    x = x.float()
    scales = x.abs().amax(-1, keepdim=True).clamp(min=1e-12) / LARGEST
    return (x / scales).to(torch.float8_e4m3fn).float() * scales


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("documents", type=Path)
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--model", default="ladm-nano")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtypes", nargs=2, default=("float32", "bfloat16"), help="the exact one and the other")
    parser.add_argument("--output", type=Path, default=RESULTS / "precision.json")
    options = parser.parse_args()
    scorers = [scorer_in(dtype, options.model, options.device) for dtype in options.dtypes]
    ids = documents(options.documents, options.count, scorers[0])
    exact, half = (np.array([score.score for score in scorer.score_input_ids(ids)]) for scorer in scorers)
    best = round(SHARE * len(ids))
    chosen = [set(np.argsort(-scores)[:best].tolist()) for scores in (exact, half)]
    moves = np.abs(half / exact - 1)
    result = {
        "ladm_hf": __version__,
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if options.device.startswith("cuda") else options.device,
        "dtypes": list(options.dtypes),
        "model": options.model,
        "documents": len(ids),
        "tokens": [min(map(len, ids)), max(map(len, ids))],
        "rank_correlation": spearman(exact, half),
        "selected": best,
        "selected_by_both": len(chosen[0] & chosen[1]),
        "largest_difference": float(moves.max()),
        "median_difference": float(np.median(moves)),
    }
    print(json.dumps(result, indent=1))
    options.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
