"""How far a document's score moves with its batch mates: alone, and padded in batches of several sizes, by dtype.

    python benchmarks/batch_invariance.py     # writes benchmarks/results/batch_invariance.json

Documents are pieces of Python's own library. Beside the spread within a dtype stands the distance of that dtype's
scores from float32, which is larger: keep one dtype for one data set.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from ladm_hf import LadmConfig, LadmScorer, __version__
from ladm_hf.checks.demo import demo_documents

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=12)
    parser.add_argument("--model", default="ladm-nano")
    parser.add_argument("--output", type=Path, default=RESULTS / "batch_invariance.json")
    options = parser.parse_args()
    texts = demo_documents(options.documents // 2)["text"]
    # lengths between about 2,500 and 6,000 tokens, no two alike
    texts = [text[: 11_000 + 1_300 * i] for i, text in enumerate(texts)]
    rows, exact = [], None
    for dtype in ("float32", "bfloat16", "float16"):
        runs = []
        for max_batch_tokens in (1, 8_000, 20_000, 100_000):
            scorer = LadmScorer(
                options.model, config=LadmConfig(max_length=8192), dtype=dtype, max_batch_tokens=max_batch_tokens
            )
            runs.append([score.score for score in scorer.score_texts(texts)])
        scores = np.array(runs)
        exact = scores[0] if exact is None else exact
        rows.append(
            {
                "dtype": dtype,
                "spread": float((np.ptp(scores, axis=0) / scores[0]).max()),
                "distance_from_float32": float(np.abs(scores[0] / exact - 1).max()),
            }
        )
        print(
            "{dtype:<10} spread {spread:.1e}  from float32 {distance_from_float32:.1e}".format(**rows[-1]), flush=True
        )
    result = {
        "ladm_hf": __version__,
        "torch": torch.__version__,
        "device": "cpu" if not torch.cuda.is_available() else torch.cuda.get_device_name(),
        "model": options.model,
        "documents": len(texts),
        "rows": rows,
    }
    options.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
