"""What a score must rank below a natural window: the windows by which heads are chosen, and how they are compared.

| question | kinds | compared with |
|---|---|---|
| splices | 2, 4 or 8 stretches of documents of one domain; 4 of any domain; joined short documents | natural windows |
| degenerate | each sort of random generator (see `ladm_hf.training.degenerate`); documents of kind `"degenerate"` | natural windows |
| order | a natural window with its sentences, paragraphs or stretches shuffled | the window itself |
| dependency | its second half with other names, or from another document of its source | the window itself |

The figure of a kind is the probability that the natural window scores higher, ties counted half: the area under the ROC
curve, averaged over lengths and domains of the natural windows, or the share of pairs. 0.5 is chance.
"""  # noqa: E501

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ladm_hf.arrays import Floats, Ints
from ladm_hf.training.degenerate import KINDS, degenerate_text
from ladm_hf.training.documents import DEGENERATE, TokenizedDocument
from ladm_hf.training.labelled import labelled_windows
from ladm_hf.training.perturbations import MIN_UNITS, Unit, identifiers, names_of, renamed, shuffled, split_units
from ladm_hf.training.windows import FEWEST_NAMES, Ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NATURAL = "natural"
QUESTIONS = ("splices", "degenerate", "order", "dependency")
PIECES = (2, 4, 8, 0)
# What documents need for each kind that not all of them allow.
NEEDED = {
    "2 pieces": "2 documents of one domain, each half a window long",
    "4 pieces": "4 documents of one domain, each a quarter of a window long",
    "8 pieces": "8 documents of one domain, each an eighth of a window long",
    "joined short documents": "short documents: under a quarter of a window, or of kind 'short'",
    "4 pieces of any domain": "two domains",
    "sentences shuffled": "six sentences in a window",
    "paragraphs shuffled": "six paragraphs in a window",
    "stretches shuffled": "six stretches of 400 characters in a window",
    "second half renamed": "five names that occur in both halves of a window",
    "second half of the same source": "two documents of one source, by the column 'source'",
}
SHUFFLED: dict[Unit, str] = {"sentence": "sentences", "paragraph": "paragraphs", "stretch": "stretches"}


@dataclass(frozen=True)
class Contrast:
    """A window of the test, natural or not.

    Attributes:
        question (`str`): one of `QUESTIONS`, empty for a natural window.
        kind (`str`): `"natural"`, or the row of the table above.
        domain (`str`): of its documents; empty for what belongs to none.
        unit (`str`): what intervals draw as a whole: the source of its (first) document.
        ids (`int32` array `[T]`): its tokens.
        base (`int`, *optional*): place in the list of the natural window that it is a changed copy of.
    """

    question: str
    kind: str
    domain: str
    unit: str
    ids: Ids
    base: int | None = None


@dataclass(frozen=True)
class Comparison:
    """Rows of natural windows and of what they are compared with; in pairs, the first with the first and so on."""

    kind: str
    natural: Ints
    others: Ints
    paired: bool


def contrasts(
    documents: Sequence[TokenizedDocument],
    tokenizer: PreTrainedTokenizerBase,
    length: int,
    count: int = 24,
    seed: int = 0,
) -> list[Contrast]:
    """Natural windows of one length, and of each kind what should score below them.

    Args:
        documents (sequence of [`TokenizedDocument`]): never seen in training.
        tokenizer: of the documents.
        length (`int`): tokens of a window, `T`.
        count (`int`, *optional*, defaults to `24`): about so many natural windows, spread evenly over the domains, as
            many of each kind of splice, and an eighth of each sort of degenerate text.
        seed (`int`, *optional*, defaults to `0`): another seed gives other windows.
    """
    natural = [document for document in documents if document.kind != DEGENERATE]
    units = _units(natural)
    rng = np.random.default_rng((seed, length))
    domains = {document.domain for document in natural if len(document.ids) >= length}
    per_domain = max(2, -(-count // max(len(domains), 1)))
    found: list[Contrast] = []
    bases: list[tuple[int, int]] = []
    for window in labelled_windows(natural, length, PIECES, per_domain, seed):
        first = window.documents[0]
        if window.pieces == 1:
            bases.append((len(found), first))
        question, kind = ("", NATURAL) if window.pieces == 1 else ("splices", _splice_name(window.pieces))
        found.append(Contrast(question, kind, window.domain, units[first], window.ids))
    if not found:
        return []
    if len(domains) > 1:
        found += _mixed(natural, units, length, count, rng)
    found += _degenerate([d for d in documents if d.kind == DEGENERATE], tokenizer, length, max(2, count // 8), rng)
    texts = [_decode(tokenizer, found[row].ids) for row, _ in bases]
    for place, (row, index) in enumerate(bases):
        other = texts[(place + 1) % len(texts)]
        for question, kind, ids in _changed(found[row].ids, texts[place], other, natural, index, tokenizer, rng):
            found.append(Contrast(question, kind, found[row].domain, found[row].unit, ids, row))
    return found


def comparisons(windows: Sequence[Contrast], among: range) -> list[Comparison]:
    """Which windows are compared with which, of those at the places `among`."""
    rows: dict[tuple[str, int, str], list[int]] = {}
    for row in among:
        window = windows[row]
        rows.setdefault((window.kind, len(window.ids), window.domain), []).append(row)
    natural = {(length, domain): members for (kind, length, domain), members in rows.items() if kind == NATURAL}
    pairs: dict[str, list[tuple[int, int]]] = {}
    found = []
    for (kind, length, domain), members in rows.items():
        if kind == NATURAL:
            continue
        if windows[members[0]].base is not None:
            pairs.setdefault(kind, []).extend((windows[row].base or 0, row) for row in members)
            continue
        for (size, name), high in natural.items():
            if size == length and domain in ("", name):
                found.append(Comparison(kind, np.array(high), np.array(members), False))
    for kind, couples in pairs.items():
        bases, changed = np.array(couples).T
        found.append(Comparison(kind, bases, changed, True))
    return found


def kind_figures(compared: Sequence[Comparison], scores: Floats, weights: Floats | None = None) -> dict[str, Floats]:
    """The figure of each kind.

    Args:
        compared (sequence of [`Comparison`]): see [`comparisons`].
        scores (`float64` array `[N, C]`): `C` scores of every window.
        weights (`float64` array `[R, N]`, *optional*): how often each window counts, in each of `R` draws.

    Returns:
        For each kind `float64` `[C]`, or `[R, C]` with weights, in 0..1; NaN where no window counts.
    """
    figures: dict[str, list[Floats]] = {}
    for comparison in compared:
        high, low = scores[comparison.natural], scores[comparison.others]
        wins = _wins(high, low) if comparison.paired else _wins(high[:, None], low[None])
        if weights is None:
            value = wins.reshape(-1, scores.shape[1]).mean(0)
        else:
            first, second = weights[:, comparison.natural], weights[:, comparison.others]
            if comparison.paired:
                total, count = first @ wins, first.sum(1)
            else:
                total, count = (
                    np.einsum("rn,nmc,rm->rc", first, wins, second, optimize=True),
                    first.sum(1) * second.sum(1),
                )
            value = np.divide(total, count[:, None], out=np.full_like(total, np.nan), where=count[:, None] > 0)
        figures.setdefault(comparison.kind, []).append(value)
    return {kind: mean_of_known(values) for kind, values in figures.items()}


def source_draws(windows: Sequence[Contrast], compared: Sequence[Comparison], rounds: int) -> Floats:
    """How often each window counts where the sources that are compared are drawn again, `[rounds, N]`: a bootstrap."""
    rows = sorted({row for c in compared for row in (*c.natural.tolist(), *c.others.tolist())})
    units = {unit: place for place, unit in enumerate(dict.fromkeys(windows[row].unit for row in rows))}
    place = [units[windows[row].unit] for row in rows]
    times = np.zeros((rounds, len(windows)))
    drawn = np.random.default_rng(0).multinomial(len(units), np.full(len(units), 1 / len(units)), rounds)
    times[:, rows] = drawn[:, place]
    return times


def mean_of_known(values: Sequence[Floats]) -> Floats:
    """The mean of arrays of one shape, place by place, of what is not NaN."""
    stacked = np.stack(values)
    known = np.isfinite(stacked)
    total, counts = np.where(known, stacked, 0.0).sum(0), known.sum(0)
    mean: Floats = np.divide(total, counts, out=np.full_like(total, np.nan), where=counts > 0)
    return mean


def _wins(high: Floats, low: Floats) -> Floats:
    return np.asarray((high > low) + 0.5 * (high == low))


def _units(documents: Sequence[TokenizedDocument]) -> list[str]:
    """What intervals draw as a whole: the source of a document, or the document where its domain has one source."""
    sources: dict[str, set[str]] = {}
    for document in documents:
        sources.setdefault(document.domain, set()).add(document.source)
    return [f"{d.domain}/{d.source if len(sources[d.domain]) > 1 else d.key}" for d in documents]


def _splice_name(pieces: int) -> str:
    return f"{pieces} pieces" if pieces else "joined short documents"


def _decode(tokenizer: PreTrainedTokenizerBase, ids: Ids) -> str:
    return str(tokenizer.decode(ids.tolist(), clean_up_tokenization_spaces=False))


def _encode(tokenizer: PreTrainedTokenizerBase, text: str) -> Ids:
    return np.array(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"], dtype=np.int32)


def _mixed(
    documents: Sequence[TokenizedDocument], units: Sequence[str], length: int, count: int, rng: np.random.Generator
) -> Iterator[Contrast]:
    """Splices of four documents of any domain."""
    size = -(-length // 4)
    usable = [index for index, document in enumerate(documents) if len(document.ids) >= size]
    for _ in range(count if len(usable) >= 4 else 0):
        pieces = []
        chosen = rng.choice(usable, 4, replace=False).tolist()
        for index in chosen:
            start = int(rng.integers(len(documents[index].ids) - size + 1))
            pieces.append(documents[index].ids[start : start + size])
        ids = np.concatenate(pieces)[:length].astype(np.int32)
        yield Contrast("splices", "4 pieces of any domain", "", units[chosen[0]], ids)


def _degenerate(
    documents: Sequence[TokenizedDocument],
    tokenizer: PreTrainedTokenizerBase,
    length: int,
    count: int,
    rng: np.random.Generator,
) -> Iterator[Contrast]:
    """Windows of every generator, and of the documents that are marked so."""
    for kind in KINDS:
        for number in range(count):
            chars, state = 4 * length, rng.bit_generator.state
            while len(ids := _encode(tokenizer, degenerate_text(kind, chars, rng))) < length:
                # the same document, further
                rng.bit_generator.state = state
                chars *= 2
            yield Contrast("degenerate", f"{kind}, generated", "", f"{kind} {number}", ids[:length])
    by_domain: dict[str, list[TokenizedDocument]] = {}
    for index in rng.permutation(len(documents)).tolist():
        if len(documents[index].ids) >= length:
            by_domain.setdefault(documents[index].domain, []).append(documents[index])
    for domain, members in sorted(by_domain.items()):
        for document in members[: 4 * count]:
            start = int(rng.integers(len(document.ids) - length + 1))
            ids = np.asarray(document.ids[start : start + length], dtype=np.int32)
            name = "degenerate" if domain == "all" else domain
            yield Contrast("degenerate", f"{name}, given", "", f"{domain}/{document.source}", ids)


def _changed(
    ids: Ids,
    text: str,
    other: str,
    documents: Sequence[TokenizedDocument],
    index: int,
    tokenizer: PreTrainedTokenizerBase,
    rng: np.random.Generator,
) -> Iterator[tuple[str, str, Ids]]:
    """A natural window changed in each way that it allows: `(question, kind, ids)`."""
    length, half = len(ids), len(ids) // 2
    for unit, plural in SHUFFLED.items():
        # a text of fewer would be cut into stretches, which is another kind
        if len(split_units(text, unit)[0]) >= MIN_UNITS:
            yield "order", f"{plural} shuffled", np.resize(_encode(tokenizer, shuffled(text, unit, rng)), length)
    parts = [_decode(tokenizer, ids[:half]), _decode(tokenizer, ids[half:])]
    names = names_of(text)
    if len(identifiers(parts[0]) & identifiers(parts[1]) & set(names)) >= FEWEST_NAMES:
        second = np.resize(_encode(tokenizer, renamed(parts[1], names, rng, names_of(other))), length - half)
        yield "dependency", "second half renamed", np.concatenate([ids[:half], second])
    document = documents[index]
    same = [d for d in documents if d.source == document.source and d is not document and len(d.ids) >= length - half]
    if same:
        chosen = same[int(rng.integers(len(same)))]
        start = int(rng.integers(len(chosen.ids) - (length - half) + 1))
        second = np.asarray(chosen.ids[start : start + length - half], dtype=np.int32)
        yield "dependency", "second half of the same source", np.concatenate([ids[:half], second])
