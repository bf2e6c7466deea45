"""Windows of tokens with a document label for every token: the data of training.

Four kinds, each `T` tokens long:

- natural: one stretch of one document;
- interleaved: chunks of several documents shuffled together, the order inside each document kept, so that the only way
  to predict well is to look far back for the same document;
- spliced: one stretch each of several documents, one after another;
- joined: whole short documents, one after another.

A window of training is a function of `(seed, index)` alone, so any rank may make any window and a run resumes at the
exact one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import torch

from ladm_hf.arrays import Bools, Ints
from ladm_hf.errors import ConfigError, InputError
from ladm_hf.training.documents import TokenizedDocument

Ids = npt.NDArray[np.int32]
KINDS = ("natural", "interleaved", "spliced", "joined")


@dataclass(frozen=True, kw_only=True)
class WindowMix:
    """How training windows are made. Shares need not sum to 1.

    Args:
        natural, interleaved, spliced, joined (`float`): shares of the four kinds. A kind for which no document serves
            falls back to interleaved.
        min_documents, max_documents (`int`): documents of an interleaved or spliced window.
        min_chunk, max_chunk (`int`): tokens of the chunks of an interleaved window, drawn log-uniformly.
        same_domain (`float`): probability that all documents of a window come from one domain.
        same_source (`float`): probability that they come from one source, where it has enough of them.
        separated (`float`): probability that a spliced or joined window has the separator between its documents.
        renamed (`float`): share of windows in which every document swaps part of the vocabulary, each in its own way:
            a document must then be recognised by its use of words, not by the words, which keeps a small corpus from
            being learnt by heart.
    """

    natural: float = 0.25
    interleaved: float = 0.4
    spliced: float = 0.25
    joined: float = 0.1
    min_documents: int = 2
    max_documents: int = 8
    min_chunk: int = 90
    max_chunk: int = 1260
    same_domain: float = 0.85
    same_source: float = 0.3
    separated: float = 0.25
    renamed: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value < 0:
                raise ConfigError(f"{field.name} must not be negative, got {value}")
        if sum(getattr(self, kind) for kind in KINDS) <= 0:
            raise ConfigError("at least one of the shares natural, interleaved, spliced and joined must be positive")
        if not 2 <= self.min_documents <= self.max_documents:
            raise ConfigError(
                f"min_documents and max_documents must satisfy 2 <= min <= max, got {self.min_documents} and "
                f"{self.max_documents}"
            )
        if not 1 <= self.min_chunk <= self.max_chunk:
            raise ConfigError(
                f"min_chunk and max_chunk must satisfy 1 <= min <= max, got {self.min_chunk} and {self.max_chunk}"
            )


@dataclass(frozen=True)
class Window:
    """`ids` `[T]` and the label of the document that each token comes from, `[T]`, from 0 in order of appearance."""

    kind: str
    ids: Ids
    labels: Ids


class WindowDataset(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Training windows by index: `{"input_ids": [T], "document_labels": [T]}`.

    Args:
        documents (sequence of [`TokenizedDocument`]): where the windows come from.
        length (`int`): tokens of a window, `T`.
        num_windows (`int`): length of the data set.
        mix ([`WindowMix`], *optional*): how windows are made.
        seed (`int`, *optional*, defaults to `0`): another seed gives other windows.
        vocab_size (`int`, *optional*): needed for `renamed`.
        separator (`int`, *optional*): token between documents, where there is one.

    Raises:
        InputError: there are fewer than two documents, or only natural windows are asked for and none is long enough.
    """

    def __init__(
        self,
        documents: Sequence[TokenizedDocument],
        length: int,
        num_windows: int,
        mix: WindowMix | None = None,
        seed: int = 0,
        vocab_size: int | None = None,
        separator: int | None = None,
    ) -> None:
        self.mix = mix or WindowMix()
        self.length = length
        self.num_windows = num_windows
        self.seed = seed
        self.vocab_size = vocab_size
        self.separator = separator
        self.documents = [document for document in documents if len(document.ids) >= self.mix.min_chunk]
        if len(self.documents) < 2:
            raise InputError(
                f"windows need at least 2 documents of {self.mix.min_chunk} tokens or more, found {len(self.documents)}"
            )
        if self.mix.renamed and not vocab_size:
            raise ConfigError("renamed needs vocab_size")
        sizes = np.array([len(document.ids) for document in self.documents])
        self._all = _Pool(np.arange(len(sizes)), sizes)
        self._domains = _pools([document.domain for document in self.documents], sizes)
        self._sources = _pools([document.source for document in self.documents], sizes)
        self._long = _pools([document.domain for document in self.documents], sizes, sizes >= length)
        if not self._long and not (self.mix.interleaved or self.mix.spliced or self.mix.joined):
            raise InputError(
                f"only natural windows are asked for, but the longest document has {sizes.max():,} tokens and a window "
                f"{length:,}: give longer documents or shorter windows"
            )
        self._short = _pools([document.domain for document in self.documents], sizes, sizes < length // 4)
        self._shares = np.array([getattr(self.mix, kind) for kind in KINDS]) / sum(
            getattr(self.mix, kind) for kind in KINDS
        )

    def __len__(self) -> int:
        return self.num_windows

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        window = self.window(index)
        return {
            "input_ids": torch.from_numpy(window.ids.astype(np.int64)),
            "document_labels": torch.from_numpy(window.labels.astype(np.int64)),
        }

    def window(self, index: int) -> Window:
        """The window of that index."""
        rng = np.random.default_rng((self.seed, index))
        kind = KINDS[int(rng.choice(len(KINDS), p=self._shares))]
        pieces: Iterator[tuple[int, int, int]]
        if kind == "natural" and self._long:
            document = _pick(self._long, rng).draw(rng)
            start = int(rng.integers(len(self.documents[document].ids) - self.length + 1))
            pieces = iter([(document, start, start + self.length)])
        elif kind == "spliced":
            pieces = self._spliced(rng)
        elif kind == "joined" and any(len(pool) > 1 for pool in self._short.values()):
            pieces = self._joined(rng)
        else:
            kind, pieces = "interleaved", self._interleaved(rng)
        separator = self.separator if kind in ("spliced", "joined") and rng.random() < self.mix.separated else None
        ids, labels = self._assemble(pieces, separator)
        if rng.random() < self.mix.renamed:
            ids = self._rename(ids, labels, rng)
        return Window(kind, ids, labels)

    def _assemble(self, pieces: Iterator[tuple[int, int, int]], separator: int | None) -> tuple[Ids, Ids]:
        ids, labels = np.empty(self.length, np.int32), np.empty(self.length, np.int32)
        names: dict[int, int] = {}
        filled = 0
        for document, start, stop in pieces:
            label = names.setdefault(document, len(names))
            if separator is not None and filled:
                ids[filled], labels[filled] = separator, label
                filled += 1
            stop = min(stop, start + self.length - filled)
            ids[filled : filled + stop - start] = self.documents[document].ids[start:stop]
            labels[filled : filled + stop - start] = label
            filled += stop - start
            if filled >= self.length:
                break
        return ids, labels

    def _related(self, rng: np.random.Generator) -> _Pool:
        """Documents to mix: of one source, of one domain, or any."""
        draw = rng.random()
        if draw < self.mix.same_source:
            pool = self._sources[self.documents[self._all.draw(rng)].source]
            if len(pool) > 1:
                return pool
        if draw < self.mix.same_domain:
            pool = _pick(self._domains, rng)
            if len(pool) > 1:
                return pool
        return self._all

    def _several(self, rng: np.random.Generator) -> tuple[_Pool, list[int]]:
        pool = self._related(rng)
        count = int(rng.integers(self.mix.min_documents, self.mix.max_documents + 1))
        return pool, pool.distinct(rng, count)

    def _spliced(self, rng: np.random.Generator) -> Iterator[tuple[int, int, int]]:
        pool, chosen = self._several(rng)
        share = np.full(len(chosen), 1 / len(chosen)) if rng.random() < 0.5 else rng.dirichlet(np.full(len(chosen), 3))
        for document, size in zip(chosen, np.ceil(share * self.length).astype(int).tolist(), strict=True):
            yield self._stretch(document, size, rng)
        # what short documents left over
        while True:
            chosen.append(self._unused(pool, chosen, rng))
            yield self._stretch(chosen[-1], self.length // self.mix.max_documents, rng)

    def _joined(self, rng: np.random.Generator) -> Iterator[tuple[int, int, int]]:
        pool = _pick({name: pool for name, pool in self._short.items() if len(pool) > 1}, rng)
        while True:
            for document in pool.distinct(rng, len(pool)):
                yield document, 0, len(self.documents[document].ids)

    def _interleaved(self, rng: np.random.Generator) -> Iterator[tuple[int, int, int]]:
        pool, chosen = self._several(rng)
        # [document, next token] of those under way
        cursors = [[document, self._stretch(document, self.length, rng)[1]] for document in chosen]
        previous = -1
        while True:
            turn = int(rng.integers(len(cursors)))
            if turn == previous:
                turn = (turn + 1) % len(cursors)
            previous = turn
            document, start = cursors[turn]
            low, high = np.log(self.mix.min_chunk), np.log(self.mix.max_chunk + 1)
            stop = min(start + int(np.exp(rng.uniform(low, high))), len(self.documents[document].ids))
            if stop - start >= self.mix.min_chunk:
                yield document, start, stop
                cursors[turn][1] = stop
            if stop == len(self.documents[document].ids):
                chosen.append(self._unused(pool, chosen, rng))
                cursors[turn] = [chosen[-1], self._stretch(chosen[-1], self.length, rng)[1]]

    def _unused(self, pool: _Pool, used: list[int], rng: np.random.Generator) -> int:
        """A document that the window has not had, as far as there is one."""
        for candidates in (pool, self._all):
            for _ in range(8):
                document = candidates.draw(rng)
                if document not in used:
                    return document
        return document

    def _stretch(self, document: int, size: int, rng: np.random.Generator) -> tuple[int, int, int]:
        """At most `size` tokens of a document, from a random place."""
        total = len(self.documents[document].ids)
        start = int(rng.integers(max(total - size, 0) + 1))
        return document, start, min(start + size, total)

    def _rename(self, ids: Ids, labels: Ids, rng: np.random.Generator) -> Ids:
        """Permutes a random tenth of the vocabulary in each document; the most frequent tokens of the window stay."""
        assert self.vocab_size is not None
        counts = np.bincount(ids, minlength=self.vocab_size)
        rare = np.flatnonzero(counts <= max(len(ids) // 200, 1))
        renamed = ids.copy()
        for label in range(int(labels.max()) + 1):
            subset = rng.choice(rare, len(rare) // 10, replace=False)
            table = np.arange(self.vocab_size, dtype=np.int32)
            table[subset] = rng.permutation(subset)
            mask = labels == label
            renamed[mask] = table[ids[mask]]
        return renamed


class _Pool:
    """Documents to draw from: long ones oftener than short ones, though less than in proportion."""

    def __init__(self, members: Ints, sizes: Ints) -> None:
        self.members = members
        self.tokens = int(sizes.sum())
        self.weights = sizes**0.75 / (sizes**0.75).sum()
        self._cumulative = self.weights.cumsum()

    def __len__(self) -> int:
        return len(self.members)

    def draw(self, rng: np.random.Generator) -> int:
        place = int(np.searchsorted(self._cumulative, rng.random(), side="right"))
        return int(self.members[min(place, len(self) - 1)])

    def distinct(self, rng: np.random.Generator, count: int) -> list[int]:
        """At most `count` different members, in random order."""
        # the largest of exponential draws at these rates are a weighted sample without replacement
        order = np.argsort(rng.exponential(size=len(self)) / self.weights)
        return [int(member) for member in self.members[order[: max(count, 1)]]]


def _pools(names: Sequence[str], sizes: Ints, keep: Bools | None = None) -> dict[str, _Pool]:
    groups: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        if keep is None or keep[index]:
            groups.setdefault(name, []).append(index)
    return {name: _Pool(np.array(members), sizes[members]) for name, members in groups.items()}


def _pick(pools: dict[str, _Pool], rng: np.random.Generator) -> _Pool:
    """One pool, drawn by the root of its tokens: small domains are seen more often than in proportion."""
    names = sorted(pools)
    weights = np.sqrt([float(pools[name].tokens) for name in names])
    return pools[names[int(rng.choice(len(names), p=weights / weights.sum()))]]
