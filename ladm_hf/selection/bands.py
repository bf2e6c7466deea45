"""Length bands: documents of like length compete with each other, so that a selection prefers no length.

`"auto"` compares each document with its neighbours in length. The `n` documents of a domain lie in the order of their
lengths, documents of one length all at the middle of theirs, at places `p` from 0 to `n`. They stand in two sets of
bands of `m = clip(ceil(n / 4), 4, 1024)` places, the second half a band behind the first, and what is found in the two
bands of a document is averaged by weights, 1 in sum, that fade from the middle of a band to its ends:

    shift in (0, 1/2):  x = p / m + shift,  band = floor(x),  weight = 1 - 2 |x - band - 1/2|

Bands given by hand part a domain. Its budget is divided over them in proportion to their tokens. A band whose part does
not hold its longest document could keep nothing, so it is united with the next longer one; the longest, which has none,
with the next shorter one. Tables count the documents of `"auto"` in half octaves, `shortest * 2^(i/2)`.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from ladm_hf.arrays import Floats, Ints

BANDS_PER_OCTAVE = 2
# Of "auto": a quarter of the domain to a band, within these bounds. What is left of length: benchmarks/length.py.
BANDS_OF_DOMAIN, FEWEST, MOST = 4, 4, 1024


def neighbourhoods(
    code: Ints, tokens: Ints, num_domains: int, bands: int | list[int] | str
) -> list[tuple[Ints, Floats]]:
    """The groups of like length and domain that each of `E` documents stands in.

    Args:
        code, tokens, num_domains, bands: as in [`length_band`].

    Returns:
        Pairs of group numbers (`int64` array `[E]`) and weights (`float64` array `[E]`), which add up to 1: one pair
        for bands given by hand, two for `"auto"`.
    """
    if bands != "auto" or not len(code):
        band, num_bands = length_band(code, tokens, num_domains, bands)
        return [(code * num_bands + band, np.ones(len(code)))]
    place = pd.Series(tokens).groupby(code).rank().to_numpy() - 0.5
    counts = np.bincount(code, minlength=num_domains)
    size = np.clip(-(-counts // BANDS_OF_DOMAIN), FEWEST, MOST)
    # no domain has more, half a band of shift included
    most = int((counts // size).max()) + 2
    found = []
    for shift in (0.0, 0.5):
        x = place / size[code] + shift
        band = np.floor(x).astype(np.int64)
        found.append((code * most + band, 1 - 2 * np.abs(x - band - 0.5)))
    return found


def length_band(code: Ints, tokens: Ints, num_domains: int, bands: int | list[int] | str) -> tuple[Ints, int]:
    """The length band of each of `E` documents, by its length and domain alone.

    Args:
        code (`int64` array `[E]`): domains.
        tokens (`int64` array `[E]`): lengths.
        num_domains (`int`): `D`.
        bands (`int`, `list[int]` or `str`): how many bands of about equally many documents each domain has, the token
            counts that divide them, `"auto"` or `"off"`.

    Returns:
        Bands (`int64` array `[E]`), from 0 for the shortest, and how many there are at most.
    """
    if bands == "off" or not len(tokens):
        return np.zeros(len(code), dtype=np.int64), 1
    if bands == "auto":
        bands = half_octaves(int(tokens.min()), int(tokens.max()))
    if isinstance(bands, list):
        return np.searchsorted(bands, tokens, side="right").astype(np.int64), len(bands) + 1
    assert isinstance(bands, int)
    order = np.lexsort((tokens, code))
    sorted_code, sorted_tokens = code[order], tokens[order]
    counts = np.bincount(code, minlength=num_domains)
    starts = np.cumsum(counts) - counts
    new = np.ones(len(code), dtype=bool)
    new[1:] = (sorted_code[1:] != sorted_code[:-1]) | (sorted_tokens[1:] != sorted_tokens[:-1])
    # documents of one length share the band of the first of them
    first = np.maximum.accumulate(np.where(new, np.arange(len(code)), 0)) - starts[sorted_code]
    band = np.empty(len(code), dtype=np.int64)
    band[order] = first * bands // counts[sorted_code]
    return band, bands


def half_octaves(shortest: int, longest: int) -> list[int]:
    """Token counts that divide the lengths from `shortest` to `longest` into half octaves."""
    shortest = max(1, shortest)
    steps = range(1, 1 + math.ceil(BANDS_PER_OCTAVE * math.log2(max(1.0, longest / shortest))))
    edges = {math.ceil(shortest * 2 ** (step / BANDS_PER_OCTAVE)) for step in steps}
    return sorted(edge for edge in edges if shortest < edge <= longest)


def united(stratum: Ints, tokens: Ints, num_bands: int, final: list[int], capacity: list[int]) -> tuple[Ints, Ints]:
    """Unites bands that are too narrow for their part of the budget with a neighbour.

    Args:
        stratum (`int64` array `[E]`): `domain * num_bands + band`.
        tokens (`int64` array `[E]`): lengths.
        num_bands (`int`): bands of a domain.
        final, capacity (`list[int]` `[D]`): budget of each domain, and the tokens of its scored documents.

    Returns:
        New strata (`int64` array `[E]`), and for each possible one how many bands with documents it unites (`[G]`).
    """
    size = len(capacity) * num_bands
    longest = np.zeros(size, dtype=np.int64)
    np.maximum.at(longest, stratum, tokens)
    documents = np.bincount(stratum, minlength=size)
    sums = np.bincount(stratum, tokens, minlength=size)
    target = np.arange(size)
    unites = np.zeros(size, dtype=np.int64)
    for domain, whole in enumerate(capacity):
        filled = [g for g in range(domain * num_bands, (domain + 1) * num_bands) if documents[g]]
        groups: list[list[int]] = []
        complete = True
        for g in filled:
            if complete or not final[domain]:
                groups.append([])
            groups[-1].append(g)
            total, most = int(sums[groups[-1]].sum()), int(longest[groups[-1]].max())
            # the part of the budget, final * total / whole, holds the longest document
            complete = final[domain] * total >= most * whole
        if not complete and final[domain] and len(groups) > 1:
            last = groups.pop()
            groups[-1] += last
        for members in groups:
            target[members] = members[0]
            unites[members[0]] = len(members)
    return target[stratum], unites
