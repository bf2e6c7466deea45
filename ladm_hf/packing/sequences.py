"""Documents into packed sequences, as a stream: packed within a buffer, so that memory does not grow with the data.

    document of T tokens -> pieces of `length` tokens and a rest         only documents longer than a sequence are cut
    pieces -> buffer -> bins -> the fuller sequences leave, shuffled; the pieces of the others wait for more

Every token of every document is in exactly one sequence.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from ladm_hf.errors import ConfigError
from ladm_hf.packing.best_fit import best_fit
from ladm_hf.packing.minimum_slack import minimum_slack

TokenIds: TypeAlias = npt.NDArray[np.int32]

# Label of a token that is not learnt, as in torch's cross entropy.
IGNORED = -100
# The buffer, unless told otherwise: so many tokens, and no less than so many sequences.
BUFFER_TOKENS, BUFFER_SEQUENCES = 1 << 25, 64
# What an array costs beside its tokens, counted in tokens of 4 bytes.
_ARRAY_TOKENS = 32
# A sequence with at most one token of padding in so many is full enough to leave the buffer.
_FULL = 512


@dataclass(frozen=True, eq=False)
class PackedSequence:
    """Documents, or pieces of long ones, one behind the other.

    Attributes:
        input_ids (`int32` array of `[T]`): their tokens.
        seq_lengths (`tuple[int, ...]`): tokens of each of them, of the padding last; they sum to `T`.
        padding (`int`): tokens of padding at the end.
    """

    input_ids: TokenIds
    seq_lengths: tuple[int, ...]
    padding: int = 0

    @property
    def position_ids(self) -> TokenIds:
        """`int32` array of `[T]`: the place of each token in its document, which tells where attention must stop."""
        starts = np.cumsum((0, *self.seq_lengths[:-1]))
        return np.arange(len(self.input_ids), dtype=np.int32) - np.repeat(starts, self.seq_lengths).astype(np.int32)

    @property
    def labels(self) -> TokenIds:
        """`int32` array of `[T]`: the tokens, and -100 for those that nothing before them predicts.

        These are the first of each document, as in `DataCollatorWithFlattening` of transformers, and the padding.
        """
        labels = self.input_ids.copy()
        labels[np.cumsum((0, *self.seq_lengths[:-1]))] = IGNORED
        labels[len(labels) - self.padding :] = IGNORED
        return labels

    @property
    def cu_seqlens(self) -> TokenIds:
        """`int32` array: where the documents begin, and where the last one ends, as FlashAttention takes it."""
        return np.cumsum((0, *self.seq_lengths), dtype=np.int32)

    def padded(self, length: int, pad_token_id: int) -> PackedSequence:
        """The sequence at its full length; the padding is a document of its own, from which nothing is learnt."""
        missing = length - len(self.input_ids)
        if missing == 0:
            return self
        padding = np.full(missing, pad_token_id, np.int32)
        return PackedSequence(np.concatenate([self.input_ids, padding]), (*self.seq_lengths, missing), missing)


def pack_sequences(
    documents: Iterable[Sequence[int] | npt.NDArray[np.integer]],
    length: int,
    *,
    buffer_tokens: int | None = None,
    seed: int = 0,
) -> Iterator[PackedSequence]:
    """Packs documents into sequences of at most `length` tokens.

    A document longer than `length` is cut into pieces of `length`, the last of which is packed as a document is. What
    the buffer holds is packed best-fit decreasing and by minimum bin slack, and the fewer sequences count. When it is
    full, the fuller half of the sequences leaves, and whatever has hardly any padding; the rest is packed again with
    what comes next.

    Args:
        documents (iterable of token ids): one-dimensional; those without a token are passed over.
        length (`int`): most tokens of a sequence.
        buffer_tokens (`int`, *optional*):
            Tokens held at once, 4 bytes each; more give less padding. Defaults to 33.5 million (134 MB), or 64
            sequences if that is more.
        seed (`int`, *optional*, defaults to `0`): of the order in which sequences leave the buffer.

    Yields:
        [`PackedSequence`] without padding. The same documents, options and seed give the same sequences.

    Raises:
        ConfigError: `length` is below 1, or the buffer holds no two sequences.
    """
    if length < 1:
        raise ConfigError(f"length must be at least 1, got {length}")
    buffer_tokens = default_buffer(length) if buffer_tokens is None else buffer_tokens
    if buffer_tokens < 2 * length:
        raise ConfigError(
            f"buffer_tokens={buffer_tokens} holds no two sequences of {length} tokens: give at least twice"
        )
    random = np.random.default_rng(seed)
    held: list[TokenIds] = []
    size = 0
    for document in documents:
        for piece in _pieces(np.asarray(document, dtype=np.int32), length):
            held.append(piece)
            size += len(piece) + _ARRAY_TOKENS
            if size >= buffer_tokens:
                bins = _fullest_first(held, length)
                full = sum(_tokens(held, each) * _FULL >= length * (_FULL - 1) for each in bins)
                leaving = max(-(-len(bins) // 2), full)
                yield from _sequences(held, bins[:leaving], random)
                # in the order they came, not that of their length
                held = [held[item] for item in sorted(item for each in bins[leaving:] for item in each)]
                size = sum(len(piece) + _ARRAY_TOKENS for piece in held)
    yield from _sequences(held, _fullest_first(held, length), random)


def default_buffer(length: int) -> int:
    """Tokens of the buffer, unless told otherwise."""
    return max(BUFFER_TOKENS, BUFFER_SEQUENCES * length)


def _pieces(document: TokenIds, length: int) -> Iterator[TokenIds]:
    for start in range(0, len(document), length):
        piece = document[start : start + length]
        # a view of the rest of a book would keep the book in memory
        yield piece.copy() if len(piece) < len(document) else piece


def _fullest_first(held: list[TokenIds], length: int) -> list[list[int]]:
    lengths = [len(piece) for piece in held]
    bins = best_fit(lengths, length)
    if len(bins) * length - sum(lengths) >= length:
        bins = min(bins, minimum_slack(lengths, length, length // _FULL), key=len)
    return sorted(bins, key=lambda each: -_tokens(held, each))


def _tokens(held: list[TokenIds], items: list[int]) -> int:
    return sum(len(held[item]) for item in items)


def _sequences(held: list[TokenIds], bins: list[list[int]], random: np.random.Generator) -> Iterator[PackedSequence]:
    for number in random.permutation(len(bins)):
        pieces = [held[item] for item in bins[number]]
        yield PackedSequence(np.concatenate(pieces), tuple(len(piece) for piece in pieces))
