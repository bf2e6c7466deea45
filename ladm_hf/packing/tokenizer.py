"""The tokenizer of the model that will be trained: text to token ids, and what stands between documents."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np

from ladm_hf.errors import ConfigError
from ladm_hf.packing.sequences import TokenIds

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SpecialTokens: TypeAlias = Literal["eos", "bos", "bos+eos", "none"]


@dataclass(frozen=True)
class TargetTokenizer:
    """A tokenizer, and the special tokens that it puts around each document.

    Attributes:
        tokenizer (`PreTrainedTokenizerBase`): as loaded.
        name (`str`): as it was asked for; of a folder only its last part.
        revision (`str`, *optional*): its commit on the Hub.
        special_tokens (`str`): `"eos"`, `"bos"`, `"bos+eos"` or `"none"`.
        fingerprint (`str`): a hash of the vocabulary and of how it cuts text.
        before, after (`tuple[int, ...]`): token ids put before and after each document.
        template (pair of `tuple[int, ...]`): token ids that the tokenizer itself puts before and after a text.
    """

    tokenizer: PreTrainedTokenizerBase = field(repr=False)
    name: str
    revision: str | None
    special_tokens: SpecialTokens
    fingerprint: str
    before: tuple[int, ...]
    after: tuple[int, ...]
    template: tuple[tuple[int, ...], tuple[int, ...]]

    @cached_property
    def vocab_size(self) -> int:
        """Number of token ids, with those added to the vocabulary."""
        return max(len(self.tokenizer), max(self.tokenizer.get_vocab().values(), default=0) + 1)

    @property
    def pad_token_id(self) -> int:
        """The token that fills a sequence: that of padding, else of the end of a text, else 0. It is never learnt."""
        found = (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id, 0)
        return int(next(token for token in found if token is not None))

    def tokenize(self, texts: list[str]) -> list[TokenIds | str]:
        """Token ids of each text, without special tokens, or why the tokenizer refused it."""
        try:
            found = self.tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)
            return [np.array(ids, dtype=np.int32) for ids in found["input_ids"]]
        except Exception as error:  # tokenizer backends raise whatever they like on text that is no valid Unicode
            if len(texts) == 1:
                return [f"refused by the tokenizer ({type(error).__name__})"]
            return [row for text in texts for row in self.tokenize([text])]

    def bare(self, ids: TokenIds) -> TokenIds:
        """Token ids without the special tokens that the tokenizer puts around a text by itself."""
        before, after = self.template
        if before and tuple(ids[: len(before)]) == before:
            ids = ids[len(before) :]
        if after and tuple(ids[-len(after) :]) == after:
            ids = ids[: -len(after)]
        return ids

    def framed(self, ids: TokenIds) -> TokenIds:
        """Token ids of a document with the special tokens asked for."""
        return np.concatenate([self.before, ids, self.after], dtype=np.int32, casting="unsafe")

    def to_dict(self) -> dict[str, Any]:
        """What a record keeps: names, fingerprint and the ids of special tokens."""
        values = {
            "name": self.name,
            "revision": self.revision,
            "fingerprint": self.fingerprint,
            "vocab_size": self.vocab_size,
            "bos_token_id": self.tokenizer.bos_token_id,
            "eos_token": self.tokenizer.eos_token,
            "eos_token_id": self.tokenizer.eos_token_id,
            "pad_token_id": self.pad_token_id,
        }
        return {key: value for key, value in values.items() if value is not None}


def find_tokenizer(
    tokenizer: str | os.PathLike[str] | PreTrainedTokenizerBase,
    *,
    revision: str | None = None,
    special_tokens: SpecialTokens = "eos",
) -> TargetTokenizer:
    """The tokenizer of a model, of which no weights are downloaded.

    Args:
        tokenizer (`str`, path or `PreTrainedTokenizerBase`): Hub id, folder or `"ladm-nano"`, or one that is loaded.
        revision (`str`, *optional*): branch, tag or commit of a Hub id.
        special_tokens (`str`, *optional*, defaults to `"eos"`): see [`pack`].

    Raises:
        ConfigError: it has no token for the beginning or end of a text, which `special_tokens` asks for.
        CalculatorError: there is no tokenizer, or the Hub did not give it.
    """
    from ladm_hf.calculators.token_ids import tokenizer_fingerprint

    if special_tokens not in get_args(SpecialTokens):
        raise ConfigError(f"special_tokens must be one of {', '.join(get_args(SpecialTokens))}, got {special_tokens!r}")
    loaded, name, commit = _loaded(tokenizer, revision)
    # of a folder only the last part: its place on this machine means nothing to others
    shown = Path(name).name if os.path.isabs(name) else name
    wanted = special_tokens.split("+")
    ends: dict[str, tuple[int, ...]] = {"bos": (), "eos": ()}
    for end in ends:
        if end in wanted:
            token = getattr(loaded, f"{end}_token_id")
            if token is None:
                raise ConfigError(
                    f"the tokenizer of {shown!r} has no {end.upper()} token, which special_tokens={special_tokens!r} "
                    "puts around documents: choose another value of --special-tokens"
                )
            ends[end] = (token,)
    return TargetTokenizer(
        tokenizer=loaded, name=shown, revision=commit, special_tokens=special_tokens,
        fingerprint=tokenizer_fingerprint(loaded), before=ends["bos"], after=ends["eos"], template=_template(loaded),
    )  # fmt: skip


def _loaded(tokenizer: Any, revision: str | None) -> tuple[PreTrainedTokenizerBase, str, str | None]:
    from ladm_hf.calculators.calculator import BUNDLED
    from ladm_hf.calculators.hub import download_tokenizer
    from ladm_hf.calculators.loading import load_tokenizer

    if not isinstance(tokenizer, (str, os.PathLike)):
        if not callable(tokenizer) or not hasattr(tokenizer, "get_vocab"):
            raise ConfigError(
                f"tokenizer must be a Hub id, a folder or a tokenizer of transformers, got {type(tokenizer).__name__}"
            )
        return tokenizer, str(getattr(tokenizer, "name_or_path", "")) or type(tokenizer).__name__, None
    name = os.fspath(tokenizer)
    path = BUNDLED.get(name, Path(name).expanduser())
    if path.is_dir():
        if revision is not None:
            raise ConfigError(f"tokenizer_revision={revision!r} goes with a Hub id, but {name!r} is a local folder")
        return load_tokenizer(path, name), name, None
    path = download_tokenizer(name, revision)
    return load_tokenizer(path, name), name, path.name


def _template(tokenizer: PreTrainedTokenizerBase) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What a tokenizer puts before and after a text."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    for start in range(len(whole) - len(bare) + 1):
        if whole[start : start + len(bare)] == bare:
            return tuple(whole[:start]), tuple(whole[start + len(bare) :])
    return (), ()
