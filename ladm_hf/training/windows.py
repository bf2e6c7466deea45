"""Windows of tokens with labels for every token: the data of training.

Kinds, each `T` tokens long:

- natural: one stretch of one document;
- interleaved: chunks of several documents shuffled together, the order inside each document kept, so that the only way
  to predict well is to look far back for the same document;
- spliced: one stretch each of several documents, one after another;
- joined: whole short documents, one after another;
- shuffled: a natural window whose sentences, lines, paragraphs, stretches or words are in random order;
- renamed: a natural window with the names of one half replaced, or of both halves alike;
- degenerate: tables, logs, lists, blobs and their like, found or made by random generators.

Two labels stand at every token, one for each question that heads may learn to answer: `document_labels`, from which
document a token comes, and `text_labels`, the same with `NO_TEXT` where the text is degenerate or out of order. Queries
labelled `UNKNOWN` teach nothing. `order_labels` and `quality_labels` are the text labels with one of the two reasons
left out: what is degenerate is `UNKNOWN` to the former, what is out of order to the latter.

A window of training is a function of `(seed, index)` alone, so any rank may make any window and a run resumes at the
exact one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from ladm_hf.errors import ConfigError, InputError
from ladm_hf.training.degenerate import KINDS as DEGENERATE_KINDS
from ladm_hf.training.degenerate import degenerate_text
from ladm_hf.training.documents import DEGENERATE, TokenizedDocument
from ladm_hf.training.mix import KINDS, WindowMix
from ladm_hf.training.perturbations import UNITS, identifiers, names_of, renamed, shuffled
from ladm_hf.training.pools import Pool, pick, pools_by

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Ids = npt.NDArray[np.int32]
# What a head of the supervised layers may learn: which earlier tokens are of one label with its own.
VIEWS = ("document_labels", "text_labels", "order_labels", "quality_labels")
# Labels of tokens that belong to no text, and of those whose queries teach nothing.
NO_TEXT, UNKNOWN = -1, -100
# How often each of UNITS is what is shuffled.
UNIT_SHARES = (0.35, 0.1, 0.35, 0.15, 0.05)
# With fewer names of both halves replaced than this, a renamed window is still one document.
FEWEST_NAMES = 5


@dataclass(frozen=True)
class Window:
    """Tokens and their labels, `[T]` each; documents are numbered from 0 in order of appearance."""

    kind: str
    ids: Ids
    document_labels: Ids
    text_labels: Ids


class WindowDataset(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Training windows by index: `{"input_ids": [T], "is_language": [], ...}` and the labels of `VIEWS`, `[T]` each.

    `is_language` is 0 for what a language model should not learn to predict: shuffled and degenerate windows.

    Args:
        documents (sequence of [`TokenizedDocument`]): where the windows come from. Those of kind `"degenerate"` serve
            for degenerate windows alone.
        length (`int`): tokens of a window, `T`.
        num_windows (`int`): length of the data set.
        mix ([`WindowMix`], *optional*): how windows are made.
        seed (`int`, *optional*, defaults to `0`): another seed gives other windows.
        tokenizer (*optional*): of the documents; needed for shuffled, renamed and degenerate windows, which are made
            of text.
        separator (`int`, *optional*): token between documents, where there is one.

    Raises:
        ConfigError: a kind of window that is made of text is asked for, and there is no tokenizer.
        InputError: there are fewer than two documents, or only windows of one long document are asked for and none is
            long enough.
    """

    def __init__(
        self,
        documents: Sequence[TokenizedDocument],
        length: int,
        num_windows: int,
        mix: WindowMix | None = None,
        seed: int = 0,
        tokenizer: PreTrainedTokenizerBase | None = None,
        separator: int | None = None,
    ) -> None:
        self.mix = mix or WindowMix()
        self.length = length
        self.num_windows = num_windows
        self.seed = seed
        self.tokenizer = tokenizer
        self.separator = separator
        usable = [document for document in documents if len(document.ids) >= self.mix.min_chunk]
        self.documents = [document for document in usable if document.kind != DEGENERATE]
        self.degenerate = [document for document in usable if document.kind == DEGENERATE]
        if len(self.documents) < 2:
            raise InputError(
                f"windows need at least 2 documents of {self.mix.min_chunk} tokens or more, found {len(self.documents)}"
            )
        if tokenizer is None and self.mix.shuffled + self.mix.renamed + self.mix.degenerate > 0:
            raise ConfigError("shuffled, renamed and degenerate windows need the tokenizer")
        sizes = np.array([len(document.ids) for document in self.documents])
        domains = [document.domain for document in self.documents]
        self._all = Pool(np.arange(len(sizes)), sizes)
        self._domains = pools_by(domains, sizes)
        self._sources = pools_by([document.source for document in self.documents], sizes)
        self._long = pools_by(domains, sizes, sizes >= length)
        self._short = pools_by(domains, sizes, sizes < length // 4)
        found = np.array([len(document.ids) for document in self.degenerate])
        self._found = pools_by([document.domain for document in self.degenerate], found)
        of_one = self.mix.natural + self.mix.shuffled + self.mix.renamed
        if of_one and not self._long and not (self.mix.interleaved or self.mix.spliced or self.mix.joined):
            raise InputError(
                f"only natural windows are asked for, but the longest document has {sizes.max():,} tokens and a window "
                f"{length:,}: give longer documents or shorter windows"
            )
        shares = np.array([getattr(self.mix, kind) for kind in KINDS])
        self._shares = shares / shares.sum()
        self._counts = np.arange(self.mix.min_documents, self.mix.max_documents + 1)
        self._count_shares = (self._counts - 1) ** -1.5 / ((self._counts - 1) ** -1.5).sum()

    def __len__(self) -> int:
        return self.num_windows

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        window = self.window(index)
        unknown = np.full_like(window.text_labels, UNKNOWN)
        arrays = {
            "input_ids": window.ids,
            "is_language": np.array(window.kind not in ("shuffled", "degenerate")),
            "document_labels": window.document_labels,
            "text_labels": window.text_labels,
            "order_labels": unknown if window.kind == "degenerate" else window.text_labels,
            "quality_labels": unknown if window.kind == "shuffled" else window.text_labels,
        }
        return {name: torch.from_numpy(array.astype(np.int64)) for name, array in arrays.items()}

    def window(self, index: int) -> Window:
        """The window of that index."""
        rng = np.random.default_rng((self.seed, index))
        kind = KINDS[int(rng.choice(len(KINDS), p=self._shares))]
        if kind in ("natural", "shuffled", "renamed") and not self._long:
            kind = "interleaved"
        if kind == "joined" and not any(len(pool) > 1 for pool in self._short.values()):
            kind = "interleaved"
        whole = {
            "natural": self._natural, "shuffled": self._shuffled, "renamed": self._renamed,
            "degenerate": self._degenerate,
        }  # fmt: skip
        if kind in whole:
            return whole[kind](rng)
        pieces = {"spliced": self._spliced, "joined": self._joined, "interleaved": self._interleaved}[kind](rng)
        separator = self.separator if kind != "interleaved" and rng.random() < self.mix.separated else None
        ids, labels = self._assemble(pieces, separator)
        # chunks out of turn are no running text, and no disorder either
        return Window(kind, ids, labels, np.full_like(labels, UNKNOWN) if kind == "interleaved" else labels)

    def _stretch_of_long(self, rng: np.random.Generator, length: int) -> Ids:
        document = pick(self._long, rng).draw(rng)
        ids = self.documents[document].ids
        start = int(rng.integers(max(len(ids) - length, 0) + 1))
        return ids[start : start + length]

    def _text(self, ids: Ids) -> str:
        assert self.tokenizer is not None
        return str(self.tokenizer.decode(ids.tolist(), clean_up_tokenization_spaces=False))

    def _ids(self, text: str) -> Ids:
        assert self.tokenizer is not None
        return np.array(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"], dtype=np.int32)

    def _labels(self, label: int) -> Ids:
        return np.full(self.length, label, np.int32)

    def _natural(self, rng: np.random.Generator) -> Window:
        labels = self._labels(0)
        if self.tokenizer is not None and rng.random() < self.mix.flattened:
            text = self._text(self._stretch_of_long(rng, self.length + self.length // 8))
            ids = self._ids(" ".join(text.split()))[: self.length]
            if len(ids) == self.length:
                return Window("natural", ids, labels, labels)
        return Window("natural", self._stretch_of_long(rng, self.length), labels, labels)

    def _shuffled(self, rng: np.random.Generator) -> Window:
        text = self._text(self._stretch_of_long(rng, self.length + self.length // 16))
        unit = UNITS[int(rng.choice(len(UNITS), p=UNIT_SHARES))]
        gap = " " if unit in ("sentence", "word") and rng.random() < 0.5 else None
        # a text that comes out shorter begins again
        ids = np.resize(self._ids(shuffled(text, unit, rng, gap)), self.length)
        return Window("shuffled", ids, self._labels(UNKNOWN), self._labels(NO_TEXT))

    def _renamed(self, rng: np.random.Generator) -> Window:
        half = self.length // 2
        window = self._stretch_of_long(rng, self.length)
        parts = [self._text(window[:half]), self._text(window[half:])]
        share = rng.choice([0.6, 0.8, 1.0])
        present = names_of("".join(parts))
        names = [name for name in present if rng.random() < share]
        # a name of one half alone binds nothing to the other
        shared = identifiers(parts[0]) & identifiers(parts[1]) & set(names)
        others = [name for name in names_of(self._text(self._stretch_of_long(rng, half))) if name not in present]
        # both halves alike, so that an odd name alone tells nothing
        chosen = ((0,), (1,), (0, 1))[int(rng.choice(3, p=[0.15, 0.5, 0.35]))]
        seed = int(rng.integers(1 << 31))
        for part in chosen:
            parts[part] = renamed(parts[part], names, np.random.default_rng(seed), others)
        ids = np.concatenate([np.resize(self._ids(part), half) for part in parts])
        two = len(chosen) == 1 and len(shared) >= FEWEST_NAMES
        labels = np.repeat(np.array([0, int(two)], np.int32), half)
        return Window("renamed", ids, labels, labels)

    def _degenerate(self, rng: np.random.Generator) -> Window:
        if not self._found or rng.random() < self.mix.generated:
            kind = DEGENERATE_KINDS[int(rng.integers(len(DEGENERATE_KINDS)))]
            ids = np.resize(self._ids(degenerate_text(kind, 4 * self.length, rng)), self.length)
        else:
            pool = pick(self._found, rng)
            ids = np.empty(0, np.int32)
            while len(ids) < self.length:
                found = self.degenerate[pool.draw(rng)].ids
                missing = self.length - len(ids)
                start = int(rng.integers(max(len(found) - missing, 0) + 1))
                ids = np.concatenate([ids, found[start : start + missing]])
        return Window("degenerate", ids, self._labels(UNKNOWN), self._labels(NO_TEXT))

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

    def _related(self, rng: np.random.Generator) -> Pool:
        """Documents to mix: of one source, of one domain, or any."""
        draw = rng.random()
        if draw < self.mix.same_source:
            pool = self._sources[self.documents[self._all.draw(rng)].source]
            if len(pool) > 1:
                return pool
        if draw < self.mix.same_domain:
            pool = pick(self._domains, rng)
            if len(pool) > 1:
                return pool
        return self._all

    def _several(self, rng: np.random.Generator) -> tuple[Pool, list[int]]:
        pool = self._related(rng)
        count = int(rng.choice(self._counts, p=self._count_shares))
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
        pool = pick({name: pool for name, pool in self._short.items() if len(pool) > 1}, rng)
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

    def _unused(self, pool: Pool, used: list[int], rng: np.random.Generator) -> int:
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
