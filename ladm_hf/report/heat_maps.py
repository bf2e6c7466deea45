"""Focus maps of the best and the worst document, by the calculator and configuration that scored the data.

One document has one score on a page: a map whose calculator gives another score than the data's is not drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from ladm_hf.config import PAPER, LadmConfig
from ladm_hf.errors import LadmError
from ladm_hf.report.focus_plot import focus_heatmap

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ladm_hf.data.run_record import RunRecord
    from ladm_hf.scoring.scorer import LadmScorer

# A focus map made by the calculator that scored the data repeats the score to about this.
SAME_SCORE = 0.01


class ScoredText(Protocol):
    """A document that the page shows."""

    @property
    def rank(self) -> str: ...
    @property
    def score(self) -> str: ...
    @property
    def text(self) -> str | None: ...
    @property
    def value(self) -> float: ...


def scorer_of_run(run: RunRecord | None, model: str | None = None) -> LadmScorer:
    """The scorer that made the scores of a run: its calculator, revision, configuration and dtype.

    Args:
        run ([`RunRecord`], *optional*): the run; `None`, where the data do not say, means the bundled calculator.
        model (`str`, *optional*): the calculator by another name or place than the run knows it by.

    Raises:
        LadmError: the calculator cannot be found, or is not the one of the run.
    """
    from ladm_hf.calculators.calculator import DEFAULT
    from ladm_hf.scoring.scorer import LadmScorer

    if run is None:
        return LadmScorer(model or DEFAULT)
    identity = str(run.identity.get("model") or "")
    name, _, commit = identity.rpartition("@")
    known = run.calculator or name or None
    revision = (run.calculator_revision or commit or None) if known and model in (None, known) and name else None
    scorer = LadmScorer(
        model or known or DEFAULT,
        revision=revision,
        config=LadmConfig.from_dict({**PAPER, **run.config}),
        dtype=str(run.identity.get("dtype") or "auto"),
    )
    if identity and scorer.calculator.identity != identity:
        raise LadmError(
            f"the data were scored by {run.model['id']} ({identity}), and {model or known or DEFAULT} is "
            f"{scorer.calculator.identity}: name the calculator with --model"
        )
    return scorer


def draw_heat_maps(
    scorer: LadmScorer | None, documents: Sequence[ScoredText]
) -> tuple[list[tuple[Figure, dict[str, Any]]], str]:
    """Focus maps of the best and the worst document that has a text, or why there are none.

    Returns:
        Figures, each with its `name`, `title` and `caption`, and a sentence about those that could not be drawn.
    """
    if scorer is None:
        return (
            [],
            "No calculator was given for focus maps: report(..., scorer=LadmScorer()) or `ladm report` draws them.",
        )
    texts = [document for document in documents if document.text]
    if not texts:
        return [], "There is no text here to draw focus maps of."
    maps, problems = [], []
    for name, document in {"best": texts[0], "worst": texts[-1]}.items():
        try:
            focus_map = scorer.focus_map(document.text or "")
        except LadmError as error:
            problems.append(f"No focus map of the {name} document: {error}")
            continue
        here = focus_map.score.score
        if abs(here - document.value) > SAME_SCORE * abs(document.value):
            problems.append(
                f"No focus map of the {name} document: its score in the data, {document.score}, comes from another "
                f"calculator, configuration or text than those of {scorer.calculator.name} here."
            )
            continue
        title = f"{name.capitalize()} document: score {document.score}, {focus_map.score.num_tokens:,} tokens"
        caption = (
            f"{document.rank}. How much each query span attends to each distant span before it; the score is made of "
            "this. Colours end at the 99th percentile."
        )
        figure = focus_heatmap(focus_map, title=title)
        maps.append((figure, {"name": f"focus_{name}", "title": title, "caption": caption}))
        if len(texts) == 1:
            break
    return maps, " ".join(problems)
