"""Greedy forward search for heads and their weights, on scores that are read already.

    objective = (1 - r) * mean over questions of the mean over their kinds + r * the lowest kind,    r = 0.25

Every question counts alike, however many kinds it has, and a choice cannot buy three questions with the fourth. The
search starts from each of the best single heads and from the best for each question, adds, one at a time, whichever
head and weight raises the objective most, then tries every other weight for the heads it has. All heads are tried,
with and without sigma. A head is added, and a calculator's present choice given up, only for a gain that is larger
than twice its standard error, of a bootstrap over sources: in few windows some of many heads help by chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ladm_hf.arrays import Floats
from ladm_hf.config import Ablation
from ladm_hf.training.contrasts import Comparison, kind_figures, mean_of_known
from ladm_hf.training.heads import HeadScores

# Share of the lowest kind in the objective.
LOWEST_SHARE = 0.25
WEIGHTS = (0.05, 0.1, 0.2, 0.5, 1.0)
# Another head must raise the objective by this much, and by so many standard errors: it is the best of hundreds.
MIN_GAIN, ERRORS = 0.002, 2.0
# Single heads that the search starts from, beside the best for each question.
BEAM = 4
# Ratios below count as this, as in `document_score`.
FLOOR = 1e-6
# Candidates compared at once.
BLOCK = 512


@dataclass(frozen=True)
class Choice:
    """Heads with their weights, and what they reach.

    Attributes:
        weights (`dict[int, float]`): weight of each head chosen, by its place in [`HeadScores`].
        ablation (`str`, *optional*): the factor of AFS left out.
        objective (`float`): on the windows of the search, so too good by the choice.
    """

    weights: dict[int, float]
    ablation: Ablation | None
    objective: float

    def scores(self, read: HeadScores) -> Floats:
        """The logarithm of the score of every window, `[N]`."""
        columns, weights = list(self.weights), np.array(list(self.weights.values()))
        return np.asarray(logarithms(read, self.ablation)[:, columns] @ weights / weights.sum())


def logarithms(read: HeadScores, ablation: Ablation | None) -> Floats:
    """`log(CDS_h / CDS_even)` of every window and head, `[N, M]`."""
    return np.asarray(np.log(np.maximum(read.ratios[ablation], FLOOR)))


def objective(figures: dict[str, Floats], questions: dict[str, str]) -> Floats:
    """The objective of each candidate.

    Args:
        figures (`dict[str, float64 array [..., C]]`): of each kind, see [`kind_figures`].
        questions (`dict[str, str]`): the question that each kind belongs to.

    Returns:
        `float64` `[..., C]`, in 0..1; NaN where nothing of a question is known.
    """
    lowest = np.fmin.reduce(list(figures.values()))
    means = question_means(figures, questions)
    return np.asarray((1 - LOWEST_SHARE) * np.mean(means, axis=0) + LOWEST_SHARE * lowest)


def question_means(figures: dict[str, Floats], questions: dict[str, str]) -> list[Floats]:
    """The mean over the kinds of each question, of those that are known."""
    groups: dict[str, list[Floats]] = {}
    for kind, values in figures.items():
        groups.setdefault(questions[kind], []).append(values)
    return [mean_of_known(group) for group in groups.values()]


class Search:
    """The search over one calculator's heads.

    Args:
        read ([`HeadScores`]): of all windows.
        compared (sequence of [`Comparison`]): on the windows that the choice may see.
        questions (`dict[str, str]`): the question that each kind belongs to.
        draws (`float64` array `[R, N]`): how often each window counts in each draw of the bootstrap.
    """

    def __init__(
        self, read: HeadScores, compared: Sequence[Comparison], questions: dict[str, str], draws: Floats
    ) -> None:
        self.read = read
        self.compared = compared
        self.questions = questions
        self.draws = draws

    def objectives(self, scores: Floats) -> Floats:
        """The objective of each column of `scores` `[N, C]`."""
        parts = [
            objective(kind_figures(self.compared, scores[:, start : start + BLOCK]), self.questions)
            for start in range(0, scores.shape[1], BLOCK)
        ]
        return np.concatenate(parts)

    def alone(self, ablation: Ablation | None) -> Floats:
        """The objective of each head by itself, `[M]`."""
        return self.objectives(logarithms(self.read, ablation))

    def choose(
        self, max_heads: int, ablations: Sequence[Ablation | None], own: Choice | None = None
    ) -> tuple[Choice, Choice]:
        """The best choice found, and the best single head.

        Args:
            max_heads (`int`): most heads.
            ablations (sequence of `str` or `None`): factors to leave out, each tried.
            own ([`Choice`], *optional*): the calculator's present choice, another start.
        """
        singles = []
        for ablation in ablations:
            figures = kind_figures(self.compared, logarithms(self.read, ablation))
            alone = objective(figures, self.questions)
            first = [*np.argsort(-alone)[:BEAM], *(mean.argmax() for mean in question_means(figures, self.questions))]
            singles += [Choice({head: 1.0}, ablation, float(alone[head])) for head in dict.fromkeys(map(int, first))]
        if own is not None and len(own.weights) > max_heads:
            own = None
        starts = singles if own is None else [own, *singles]
        best = max((self._grow(start, max_heads) for start in starts), key=_value)
        if own is not None and not self._is_better(best, own):
            best = own
        return best, max(singles, key=_value)

    def _is_better(self, new: Choice, old: Choice) -> bool:
        """Whether a gain is larger than what chance may give."""
        scores = np.stack([new.scores(self.read), old.scores(self.read)], axis=1)
        drawn = objective(kind_figures(self.compared, scores, self.draws), self.questions)
        gains = drawn[:, 0] - drawn[:, 1]
        known = gains[np.isfinite(gains)]
        error = float(known.std(ddof=1)) if len(known) > 1 else 0.0
        return new.objective - old.objective >= max(MIN_GAIN, ERRORS * error)

    def _grow(self, choice: Choice, max_heads: int) -> Choice:
        x = logarithms(self.read, choice.ablation)
        choice = self._tuned(choice, x)
        while len(choice.weights) < max_heads:
            total = x[:, list(choice.weights)] @ np.array(list(choice.weights.values()))
            heads = [head for head in range(x.shape[1]) if head not in choice.weights]
            # weight of the heads so far, and of the new one; a first head may turn out to be the lesser of two
            shares = [(1.0, weight) for weight in WEIGHTS]
            if len(choice.weights) == 1:
                shares += [(weight, 1.0) for weight in WEIGHTS[:-1]]
            trials = [(head, *share) for head in heads for share in shares]
            if not trials:
                break
            places, old, new = (np.array(values) for values in zip(*trials, strict=True))
            # the sum of the weights is the same for all windows and moves no comparison
            values = self.objectives(total[:, None] * old + x[:, places] * new)
            best = int(values.argmax())
            head, scale, weight = trials[best]
            weighed = {place: scale * value for place, value in choice.weights.items()} | {head: weight}
            grown = self._tuned(Choice(weighed, choice.ablation, float(values[best])), x)
            if not self._is_better(grown, choice):
                break
            choice = grown
        return choice

    def _tuned(self, choice: Choice, x: Floats) -> Choice:
        """The same heads at the best weights that changing one at a time finds."""
        while len(choice.weights) > 1:
            trials = [{**choice.weights, head: weight} for head in choice.weights for weight in WEIGHTS]
            heads = list(choice.weights)
            values = self.objectives(x[:, heads] @ np.array([[trial[head] for trial in trials] for head in heads]))
            best = int(values.argmax())
            if values[best] <= choice.objective + 1e-9:
                break
            choice = Choice(trials[best], choice.ablation, float(values[best]))
        return choice


def _value(choice: Choice) -> float:
    return choice.objective
