"""Long documents with short ones in between, at a share of the tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ladm_hf.packing.sequences import TokenIds


@dataclass
class Counts:
    """What was taken of a data set: documents, their tokens, and documents longer than a sequence."""

    documents: int = 0
    tokens: int = 0
    cut: int = 0

    def add(self, document: TokenIds, length: int) -> None:
        self.documents += 1
        self.tokens += len(document)
        self.cut += len(document) > length


class Mixture:
    """All documents of one data set, and after each as many of another as hold the latter's share of the tokens.

    The share is that of all tokens so far: it holds from the beginning to the end, to within one document.

    Args:
        selected (iterable of token ids): the documents that are all taken.
        short (iterable of token ids, *optional*): the documents that are taken as needed.
        share (`float`): the part of all tokens that is to be of `short`, in `0..1` without 1.
        length (`int`): tokens of a sequence, to count the documents that are cut.

    Attributes:
        selected_counts, short_counts ([`Counts`]): what was taken so far.
        used_up (`bool`): whether `short` ended before its share was reached.
    """

    def __init__(
        self, selected: Iterable[TokenIds], short: Iterable[TokenIds] | None, share: float, length: int
    ) -> None:
        self._selected, self._short, self._share, self._length = selected, short, share, length
        self.selected_counts, self.short_counts = Counts(), Counts()
        self.used_up = False

    def __iter__(self) -> Iterator[TokenIds]:
        short = iter(self._short) if self._short is not None else None
        for document in self._selected:
            self.selected_counts.add(document, self._length)
            yield document
            while short is not None and self._is_behind():
                following = next(short, None)
                if following is None:
                    short, self.used_up = None, True
                    break
                self.short_counts.add(following, self._length)
                yield following

    def _is_behind(self) -> bool:
        tokens = self.selected_counts.tokens + self.short_counts.tokens
        return self.short_counts.tokens < self._share * tokens
