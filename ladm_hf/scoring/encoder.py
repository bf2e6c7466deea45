"""Texts into token ids, without the places of the tokens in the text, which cost half of the time and nobody reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ladm_hf.arrays import Ints

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# What a tokenizer that is more than its library's may cut in another way; its special tokens are tried with it.
_SAMPLE = "The ship's log, 1873: naïve façades, 12.5 km of 港口 and привет\n\n\tdef f(x): return x**2  # ok 🙂 "


class Encoder:
    """A tokenizer for what scoring asks of it: the token ids of each text. Threads may share it.

    One whose library gives the same ids is pickled as that library's, for a process that need not import transformers.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): of a calculator.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._unknown, self._unknown_token = tokenizer.unk_token_id, tokenizer.unk_token
        self._special = tokenizer.all_special_ids
        self._library = tokenizer.backend_tokenizer if _gives_ids_alone(tokenizer) else None
        self._tokenizer = tokenizer

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) if self._library is None else vars(self) | {"_tokenizer": None}

    def __call__(self, texts: list[str]) -> list[Ints | str]:
        """Token ids of each text. A text that the tokenizer refuses gets a status and leaves the others alone."""
        try:
            return [self._known(np.asarray(ids, dtype=np.int64)) for ids in self._ids(texts)]
        except Exception as error:  # tokenizer backends raise whatever they like on text that is no valid Unicode
            if len(texts) == 1:
                return [f"error: the tokenizer refused the text ({type(error).__name__}: {error})"]
            return [row for text in texts for row in self([text])]

    def _ids(self, texts: list[str]) -> list[list[int]]:
        if self._library is not None:
            encoded = self._library.encode_batch_fast(texts, add_special_tokens=True)
            return [encoding.ids for encoding in encoded]
        found: list[list[int]] = self._tokenizer(texts, verbose=False)["input_ids"]
        return found

    def _known(self, ids: Ints) -> Ints | str:
        """The token ids of a text, or the status of one of which the tokenizer knows nothing."""
        if self._unknown is None or not (ids == self._unknown).any():
            return ids
        if np.isin(ids, self._special).all():
            return f"error: the tokenizer knows no word of this text: all of its tokens are {self._unknown_token!r}"
        return ids


def _gives_ids_alone(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer's library, asked for ids alone, gives those that the tokenizer gives."""
    from transformers import PreTrainedTokenizerFast

    sample = _SAMPLE + " ".join(map(str, tokenizer.all_special_tokens))
    # after this call the library neither cuts nor pads, whatever its file says
    expected = tokenizer([sample, "", "a b"], verbose=False)["input_ids"]
    backend = getattr(tokenizer, "backend_tokenizer", None)
    # a tokenizer that does more to a text than its library is asked itself
    own = any(
        getattr(type(tokenizer), name, None) is not getattr(PreTrainedTokenizerFast, name)
        for name in ("__call__", "_encode_plus")
    )
    if own or backend is None or not hasattr(backend, "encode_batch_fast"):
        return False
    found = backend.encode_batch_fast([sample, "", "a b"], add_special_tokens=True)
    return [encoding.ids for encoding in found] == list(expected)
