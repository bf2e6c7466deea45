"""Does this package give the scores that the authors published for their 32 toy documents?

The reference scores belong to `UltraRonin/pile-LlamaTokenizerFast-32k-truncated-toy` and the calculator
`UltraRonin/Long-Attn-Calculator`, rows 0 to 31, as rounded by their publication. The smallest gap between neighbours in
rank is 4e-5, so half-precision arithmetic may exchange a few neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ladm_hf.errors import ColumnError, HubError, InputError
from ladm_hf.publishing.retry import RetryPolicy, hub_retries
from ladm_hf.stats import spearman

if TYPE_CHECKING:
    from ladm_hf.scoring.scorer import LadmScorer

MODEL = "UltraRonin/Long-Attn-Calculator"
DATASET = "UltraRonin/pile-LlamaTokenizerFast-32k-truncated-toy"
PUBLISHED = (
    0.22471, 0.22860, 0.18250, 0.20044, 0.20006, 0.14659, 0.16724, 0.22297, 0.21624, 0.21545, 0.14924, 0.18738,
    0.21882, 0.19847, 0.22207, 0.24276, 0.25290, 0.16916, 0.20002, 0.15500, 0.20217, 0.21299, 0.15341, 0.22345,
    0.20651, 0.24133, 0.15793, 0.19613, 0.13442, 0.19109, 0.12489, 0.23389,
)  # fmt: skip
# A rank correlation below this means another order, not rounding.
LEAST_CORRELATION = 0.99


@dataclass(frozen=True)
class Comparison:
    """Our scores beside the reference.

    Attributes:
        scores, reference (`tuple[float, ...]`): by row; a row that we could not score has NaN.
        tolerance (`float`): largest difference that passes.
        model, dataset (`str`): what was scored with what, as resolved.
    """

    scores: tuple[float, ...]
    reference: tuple[float, ...]
    tolerance: float
    model: str
    dataset: str

    @property
    def largest_difference(self) -> float:
        """Largest absolute difference; infinite if a row has no score."""
        return max(math.inf if math.isnan(a) else abs(a - b) for a, b in zip(self.scores, self.reference, strict=True))

    @property
    def rank_correlation(self) -> float:
        """Spearman's, over the rows that have a score; NaN for fewer than two."""
        pairs = [(a, b) for a, b in zip(self.scores, self.reference, strict=True) if not math.isnan(a)]
        return spearman([ours for ours, _ in pairs], [theirs for _, theirs in pairs])

    @property
    def passed(self) -> bool:
        """Whether all scores are within the tolerance and in the same order, but for near ties."""
        in_order = len(self.scores) < 2 or self.rank_correlation >= LEAST_CORRELATION
        return self.largest_difference <= self.tolerance and in_order

    def table(self) -> str:
        """The table, the two figures and the verdict, as text."""
        lines = [f"{self.dataset} scored by {self.model}", "", "row  published      ours  difference"]
        for row, (ours, theirs) in enumerate(zip(self.scores, self.reference, strict=True)):
            lines.append(f"{row:3d}    {theirs:.5f}   {ours:.5f}    {ours - theirs:+.5f}")
        verdict = "PASS" if self.passed else "FAIL"
        lines += [
            "",
            f"largest difference  {self.largest_difference:.5f} (at most {self.tolerance:g})",
            f"rank correlation    {self.rank_correlation:.5f} (at least {LEAST_CORRELATION:g})",
            verdict,
        ]
        return "\n".join(lines)


def reproduce(
    model: str = MODEL,
    dataset: str = DATASET,
    *,
    tolerance: float = 0.001,
    rows: int | None = None,
    device: str | None = None,
    dtype: str = "auto",
    reference: Sequence[float] = PUBLISHED,
    retry: RetryPolicy | None = None,
) -> Comparison:
    """Scores the paper's toy dataset with the paper's calculator and compares with the published scores.

    Args:
        model, dataset (`str`, *optional*): Hub ids; default to the paper's.
        tolerance (`float`, *optional*, defaults to `0.001`): largest difference of a score that passes.
        rows (`int`, *optional*): only the first rows.
        device (`str`, *optional*): as of [`LadmScorer`].
        dtype (`str`, *optional*, defaults to `"auto"`): float16 on an accelerator, the published code's, and float32
            on a CPU: the scores are compared to the third decimal.
        reference (sequence of `float`, *optional*): scores to compare with, row by row.
        retry ([`RetryPolicy`], *optional*): with the Hub.

    Raises:
        HubError, CalculatorError: data or calculator cannot be fetched.
        InputError: the dataset has fewer rows than there are reference scores, or no `input_ids`.
    """
    from ladm_hf.config import LadmConfig
    from ladm_hf.scoring.scorer import LadmScorer

    with hub_retries(retry or RetryPolicy()):
        data = _load(dataset)
        reference = tuple(reference)[:rows]
        if data.num_rows < len(reference):
            raise InputError(
                f"{dataset} has {data.num_rows} rows, expected {len(reference)}: pass rows={data.num_rows}"
            )
        if "input_ids" not in data.column_names:
            raise ColumnError(f"{dataset} has no column 'input_ids', only {', '.join(data.column_names)}")
        # The published scores are of the ids as they are, at the paper's geometry, whatever the calculator says.
        scorer = LadmScorer(model, config=LadmConfig.paper(), text_column=None, device=device, dtype=dtype)
        if scorer.dtype == "bfloat16":
            scorer = scorer.with_auto_dtype("float32")
        scores = _scores(scorer, data, len(reference))
    return Comparison(tuple(scores), reference, tolerance, scorer.calculator.identity, dataset)


def _load(name: str) -> Any:
    from datasets import load_dataset

    try:
        splits = load_dataset(name)
    except Exception as error:
        raise HubError(
            f"{name} cannot be loaded ({type(error).__name__}: {error}); it takes a network and, for a private copy, "
            "HF_TOKEN"
        ) from error
    return splits["train"] if "train" in splits else next(iter(splits.values()))


def _scores(scorer: LadmScorer, data: Any, count: int) -> list[float]:
    scores: list[float] = []
    for start in range(0, count, 4):
        batch = data[start : min(start + 4, count)]
        scores += [document.score for document in scorer.score_input_ids(batch["input_ids"])]
    return scores
