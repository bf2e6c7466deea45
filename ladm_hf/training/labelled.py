"""Windows that are known to be natural or spliced: the test by which heads are chosen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import xxhash

from ladm_hf.training.documents import DEGENERATE, TokenizedDocument
from ladm_hf.training.windows import Ids

Piece = tuple[int, int, int]


@dataclass(frozen=True)
class LabelledWindow:
    """A window of the test that tells natural documents from splices.

    Attributes:
        ids (`int32` array `[T]`): its tokens.
        domain (`str`): domain of all of its documents.
        pieces (`int`): 1 for a natural window, `k` for a splice of `k`, 0 for joined short documents.
        documents (`tuple[int, ...]`): indices of its documents.
        num_chars (`int`): characters of its documents, in proportion to the tokens taken.
    """

    ids: Ids
    domain: str
    pieces: int
    documents: tuple[int, ...]
    num_chars: int


def labelled_windows(
    documents: Sequence[TokenizedDocument],
    length: int,
    pieces: Iterable[int],
    per_domain: int = 24,
    seed: int = 0,
    is_short: Callable[[TokenizedDocument], bool] | None = None,
) -> list[LabelledWindow]:
    """Natural windows, and splices of the same domains to tell them from.

    Natural windows are spread over the documents of a domain: one of each before a second of any, without overlap. A
    splice has one stretch of `T / k` tokens from each of `k` different documents of a domain. A domain that cannot
    give two natural windows, or `k` documents, is left out of the setting.

    Args:
        documents (sequence of [`TokenizedDocument`]): never seen in training. Those of kind `"degenerate"` are left
            out.
        length (`int`): tokens of a window, `T`.
        pieces (iterable of `int`): for each `k` at least 2, splices of `k`; for 0, short documents joined.
        per_domain (`int`, *optional*, defaults to `24`): most windows of each kind in a domain.
        seed (`int`, *optional*, defaults to `0`): another seed gives other windows.
        is_short (callable, *optional*): which documents are joined; by default those of kind `"short"`, or under a
            quarter of a window where there is no kind.

    Returns:
        The windows, natural ones first in each domain.
    """
    short = is_short or (
        lambda document: document.kind == "short" if document.kind else len(document.ids) < length // 4
    )
    domains: dict[str, list[int]] = {}
    for index, document in enumerate(documents):
        if document.kind != DEGENERATE:
            domains.setdefault(document.domain, []).append(index)
    windows: list[LabelledWindow] = []
    for domain in sorted(domains):
        rng = np.random.default_rng((seed, length, xxhash.xxh3_64_intdigest(domain.encode())))
        long = [index for index in domains[domain] if len(documents[index].ids) >= length]
        natural = _spread(documents, long, length, per_domain, rng)
        if len(natural) < 2:
            continue
        windows += [_labelled(documents, domain, 1, [piece]) for piece in natural]
        joinable = [index for index in domains[domain] if short(documents[index]) and len(documents[index].ids)]
        for k in pieces:
            if k == 0:
                made = _join(documents, joinable, length, per_domain, rng)
            else:
                made = _splice(documents, domains[domain], length, k, min(per_domain, 2 * len(natural)), rng)
            windows += [_labelled(documents, domain, k, window) for window in made]
    return windows


def _spread(
    documents: Sequence[TokenizedDocument], long: list[int], length: int, count: int, rng: np.random.Generator
) -> list[Piece]:
    slots: list[tuple[int, float, Piece]] = []
    for index in long:
        room = len(documents[index].ids) // length
        offset = int(rng.integers(len(documents[index].ids) - room * length + 1))
        for turn, slot in enumerate(rng.permutation(room).tolist()):
            start = offset + slot * length
            slots.append((turn, rng.random(), (index, start, start + length)))
    return [piece for _, _, piece in sorted(slots)[:count]]


def _splice(
    documents: Sequence[TokenizedDocument],
    candidates: list[int],
    length: int,
    k: int,
    count: int,
    rng: np.random.Generator,
) -> list[list[Piece]]:
    sizes = [length // k + (1 if piece < length % k else 0) for piece in range(k)]
    usable = [index for index in candidates if len(documents[index].ids) >= sizes[0]]
    if len(usable) < k:
        return []
    windows = []
    for _ in range(count):
        window = []
        for index, size in zip(rng.choice(usable, k, replace=False).tolist(), sizes, strict=True):
            start = int(rng.integers(len(documents[index].ids) - size + 1))
            window.append((index, start, start + size))
        windows.append(window)
    return windows


def _join(
    documents: Sequence[TokenizedDocument], shorts: list[int], length: int, count: int, rng: np.random.Generator
) -> list[list[Piece]]:
    windows: list[list[Piece]] = []
    total = sum(len(documents[index].ids) for index in shorts)
    # every window is different documents; what remains of the last is too short for another
    order = rng.permutation(shorts).tolist()
    for _ in range(min(count, total // length)):
        window: list[Piece] = []
        missing = length
        while missing and order:
            index = order.pop()
            size = min(len(documents[index].ids), missing)
            window.append((index, 0, size))
            missing -= size
        if missing:
            break
        windows.append(window)
    return windows


def _labelled(documents: Sequence[TokenizedDocument], domain: str, k: int, pieces: list[Piece]) -> LabelledWindow:
    ids = np.concatenate([documents[index].ids[start:stop] for index, start, stop in pieces]).astype(np.int32)
    chars = sum(
        documents[index].num_chars * (stop - start) / len(documents[index].ids) for index, start, stop in pieces
    )
    return LabelledWindow(ids, domain, k, tuple(index for index, _, _ in pieces), round(chars))
