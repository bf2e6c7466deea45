from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ladm_hf.training.contrasts import Comparison
from ladm_hf.training.heads import HeadScores
from ladm_hf.training.search import WEIGHTS, Choice, Search, objective

# 8 natural windows, 8 splices and 8 tables.
NATURAL, SPLICES, TABLES = (np.arange(start, start + 8) for start in (0, 8, 16))
QUESTIONS = {"2 pieces": "splices", "table": "degenerate"}
COMPARED = [Comparison("2 pieces", NATURAL, SPLICES, False), Comparison("table", NATURAL, TABLES, False)]


def head(natural: float, splice: float, table: float, seed: int, noise: float = 0.2) -> np.ndarray:
    """`CDS / CDS_even` of a head whose logarithm is so high for each kind, with noise."""
    middle = np.repeat([natural, splice, table], 8)
    return np.exp(middle + noise * np.random.default_rng(seed).uniform(-1, 1, 24))


def search(*heads: np.ndarray, with_sigma: tuple[np.ndarray, ...] = ()) -> Search:
    ratios = np.stack(heads, axis=1)
    sigma = np.stack(with_sigma, axis=1) if with_sigma else np.ones_like(ratios)
    names = tuple((0, place) for place in range(len(heads)))
    read = HeadScores(names, {"no_std": ratios, None: sigma}, {None: np.ones(24)})
    draws = np.random.default_rng(0).multinomial(24, np.full(24, 1 / 24), 100).astype(float)
    return Search(read, COMPARED, QUESTIONS, draws)


def test_the_objective_is_the_mean_over_questions_and_the_lowest_kind() -> None:
    figures = {"a": np.array([0.9, 0.5]), "b": np.array([0.7, 0.5]), "c": np.array([0.4, 1.0])}
    found = objective(figures, {"a": "splices", "b": "splices", "c": "order"})
    assert found == pytest.approx([0.75 * (0.8 + 0.4) / 2 + 0.25 * 0.4, 0.75 * 0.75 + 0.25 * 0.5])


def test_heads_that_answer_one_question_each_are_taken_together() -> None:
    # alone each loses the other question, and one shouts ten times louder
    noise = [head(0, 0, 0, seed) for seed in range(5)]
    loud, quiet = head(0, -9, 4, 10), head(0, 0.4, -2, 11)
    choice, single = search(*noise, loud, quiet).choose(4, ("no_std", None))
    assert set(choice.weights) == {5, 6}
    assert choice.ablation == "no_std"
    assert choice.objective == 1.0
    assert set(choice.weights.values()) <= set(WEIGHTS)
    assert choice.weights[6] > choice.weights[5]
    assert len(single.weights) == 1
    assert single.objective < 0.8


def test_no_head_is_added_that_does_not_help() -> None:
    good = head(1, 0, 0, 0)
    choice, single = search(head(0, 0, 0, 1), good, good, head(0, 0, 0, 2)).choose(4, ("no_std",))
    assert choice.weights in ({1: 1.0}, {2: 1.0})
    assert choice == single


def test_the_factor_that_helps_is_kept() -> None:
    flat = head(0, 0, 0, 1)
    choice, _ = search(flat, flat, with_sigma=(flat, head(1, 0, 0, 3))).choose(2, ("no_std", None))
    assert choice == Choice({1: 1.0}, None, 1.0)


def test_no_more_heads_than_asked_for() -> None:
    heads = [head(0.2, 0, 0, seed, noise=1.0) for seed in range(8)]
    for most in (1, 2, 3):
        choice, single = search(*heads).choose(most, ("no_std",))
        assert len(choice.weights) <= most
        assert choice.objective >= single.objective


def test_the_present_choice_is_a_start_that_is_never_made_worse() -> None:
    heads = [head(0.3, 0, 0.2, seed, noise=1.0) for seed in range(6)]
    found = search(*heads)
    weights = {0: 1.0, 2: 0.05, 3: 0.5, 5: 0.2}
    scores = Choice(weights, "no_std", 0.0).scores(found.read)
    own = Choice(weights, "no_std", float(found.objectives(scores[:, None])[0]))
    assert found.choose(4, ("no_std",), own)[0].objective >= own.objective
    # with fewer heads allowed it is no start
    assert len(found.choose(2, ("no_std",), own)[0].weights) <= 2


def test_ratios_of_zero_have_a_score() -> None:
    choice, _ = search(np.zeros(24), head(1, 0, 0, 1)).choose(2, ("no_std",))
    assert choice.weights == {1: 1.0}
    assert np.isfinite(Choice({0: 1.0}, "no_std", 0.0).scores(search(np.zeros(24)).read)).all()


def test_what_chance_may_give_adds_no_head_and_gives_no_choice_up() -> None:
    added = 0
    for seed in range(10):
        # one head knows most; the others know nothing, but some of many seem to
        heads = [head(0.6, 0, 0, 100 * seed, noise=1.0), *(head(0, 0, 0, 100 * seed + i, 1.0) for i in range(1, 30))]
        found = search(*heads)
        choice, _ = found.choose(4, ("no_std",))
        added += len(choice.weights) - 1
        own = replace(choice, weights={0: 1.0, 1: 0.05})
        own = replace(own, objective=float(found.objectives(own.scores(found.read)[:, None])[0]))
        kept = found.choose(4, ("no_std",), own)[0]
        assert kept == own or found._is_better(kept, own)
    assert added < 8
