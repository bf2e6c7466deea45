"""Forced-choice probes: a far context, and continuations of which one is true. The model answers by likelihood.

key to value   eight passwords lie in a natural document; one is asked for at the end, the others are wrong
two hops       who lives with whom, and who lives where; where somebody lives takes both
copying        the first half of an earlier passage comes again; the wrong ones are second halves of other passages
continuation   a passage from further on in the same document, against passages of others of its domain
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .plan import Plan
from .store import Ints, Stream, generator, write_json

NAMES = (
    "Alice Arthur Bella Boris Clara David Edith Ellen Felix Frank Grace Harry Helen Henry James Jane Julia Laura Lewis "
    "Lucy Maria Martha Oscar Peter Philip Robert Rose Samuel Sarah Simon Thomas Walter"
).split()
WORDS = (
    "apple bottle bridge button candle castle copper cotton curtain danger engine feather finger garden hammer island "
    "jacket kitchen ladder lemon market mirror needle orange pepper pillow pocket rabbit ribbon river saddle window"
).split()
CITIES = (
    "Athens Berlin Boston Bristol Cairo Chicago Dublin Florence Geneva Havana Lisbon London Madrid Moscow Naples Paris "
    "Prague Rome Venice Vienna"
).split()
KINDS = ("key to value", "two hops", "copying", "continuation")


@dataclass(frozen=True)
class Probe:
    """`choices[0]` is the true one."""

    kind: str
    context: list[int]
    choices: list[list[int]]


def write_probes(plan: Plan, work: Path, held_out: Stream, domains: Sequence[str], tokenizer: Any) -> None:
    """`probes.npz`: contexts `[P, C]`, choices `[P, K, L]` padded with -1, and `probes.json`, the kind of each."""
    probes = build_probes(plan, held_out, domains, tokenizer)
    longest = max(len(choice) for probe in probes for choice in probe.choices)
    shape = (len(probes), plan["evaluation"]["probe_choices"], longest)
    choices = np.full(shape, -1, dtype=np.int32)
    for i, probe in enumerate(probes):
        for k, choice in enumerate(probe.choices):
            choices[i, k, : len(choice)] = choice
    contexts = np.array([probe.context for probe in probes], dtype=np.uint16)
    np.savez_compressed(work / "probes.npz", contexts=contexts, choices=choices)
    write_json(work / "probes.json", [probe.kind for probe in probes])


def build_probes(plan: Plan, held_out: Stream, domains: Sequence[str], tokenizer: Any) -> list[Probe]:
    settings = plan["evaluation"]
    size, wrong = settings["probe_context"], settings["probe_choices"] - 1

    def encode(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    probes = []
    for kind in KINDS:
        for number in range(settings["probes"]):
            rng = generator("probe", kind, number)
            row = int(rng.integers(len(held_out)))
            ids = held_out[row].astype(np.int64)
            if kind == "copying":
                probes.append(copying(ids[:size], size // (2 << number % 3), wrong, rng))
            elif kind == "continuation":
                others = [i for i, domain in enumerate(domains) if domain == domains[row] and i != row]
                drawn = rng.choice(others, wrong, replace=len(others) < wrong)
                documents = [ids, *(held_out[int(i)].astype(np.int64) for i in drawn)]
                probes.append(continuation(documents, size))
            else:
                facts, question, choices = statements(kind, wrong, rng)
                probes.append(asked(kind, ids, size, [encode(fact) for fact in facts], encode(question),
                                    [encode(choice) for choice in choices], rng))  # fmt: skip
    return probes


def statements(kind: str, wrong: int, rng: np.random.Generator) -> tuple[list[str], str, list[str]]:
    """Sentences to hide, the beginning of one that follows from them, and ways to end it."""
    if kind == "key to value":
        names, words = rng.permutation(NAMES)[:8], rng.permutation(WORDS)[:8]
        facts = [f"\n\nThe password of {name} is {word}.\n\n" for name, word in zip(names, words, strict=True)]
        question, answers = f"\n\nThe password of {names[0]} is", words
    else:
        names, cities = rng.permutation(NAMES)[:8], rng.permutation(CITIES)[:4]
        pairs = zip(names[:4], names[4:], cities, strict=True)
        facts = [
            fact
            for one, other, city in pairs
            for fact in (f"\n\n{one} lives with {other}.\n\n", f"\n\n{other} lives in {city}.\n\n")
        ]
        question, answers = f"\n\n{names[0]} lives in", cities
    return facts, question, [f" {answer}." for answer in answers[: wrong + 1]]


def asked(
    kind: str,
    ids: Ints,
    size: int,
    facts: Sequence[list[int]],
    question: list[int],
    choices: list[list[int]],
    rng: np.random.Generator,
) -> Probe:
    """Facts in any order at even distances in a document, and the question at its end."""
    room = size - len(question) - sum(map(len, facts))
    cuts = np.linspace(0, room, len(facts) + 2).astype(int)[1:-1]
    context, before = [], 0
    for cut, place in zip(cuts.tolist(), rng.permutation(len(facts)).tolist(), strict=True):
        context += [*ids[before:cut].tolist(), *facts[place]]
        before = cut
    context += [*ids[before:room].tolist(), *question]
    return Probe(kind, context, choices)


def copying(ids: Ints, distance: int, wrong: int, rng: np.random.Generator, half: int = 16) -> Probe:
    """A passage that begins `distance` tokens before it comes again."""
    half = min(half, len(ids) // 16)
    end = len(ids) - half
    start = max(0, end - distance)
    places = rng.permutation(np.arange(0, end - 2 * half, 2 * half))
    others = [place for place in places.tolist() if abs(place - start) >= 2 * half][:wrong]
    choices = [ids[place + half : place + 2 * half].tolist() for place in (start, *others)]
    return Probe("copying", [*ids[:end].tolist(), *ids[start : start + half].tolist()], choices)


def continuation(documents: Sequence[Ints], size: int, length: int = 64) -> Probe:
    """What stands an eighth of the context beyond it, here and in others."""
    length = min(length, size // 16)
    start = size + size // 8
    choices = [ids[start : start + length].tolist() for ids in documents]
    return Probe("continuation", documents[0][:size].tolist(), choices)
