"""Encoder: the ids that the tokenizer itself gives, whichever way they are asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from ladm_hf.calculators.calculator import resolve
from ladm_hf.scoring.encoder import Encoder

TEXTS = [
    "The ship left the harbour at dawn. " * 40,
    "naïve façades\r\n\r\n  12.5 km\u00a0of 港口 🙂 e\u0301 \x00",
    "a </s> b <s>",
    " ",
    "",
    "x" * 5000,
]


def library(model: Any) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", tokenizer.token_to_id("<s>")), ("</s>", 2)]
    )
    # as a file may ask for, and transformers undoes
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=9)
    return tokenizer


def word_level() -> PreTrainedTokenizerFast:
    words = ["<unk>", "<s>", "</s>", "the", "ship", "left", "a", "b", "x", "."]
    model = models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unk>")
    return PreTrainedTokenizerFast(
        tokenizer_object=library(model), unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


class Shouting(PreTrainedTokenizerFast):
    """A tokenizer that is more than its library's."""

    def _encode_plus(self, text: Any, **options: Any) -> Any:
        return super()._encode_plus([part.replace("ship", "a b") for part in text], **options)


@pytest.mark.parametrize("kind", ["ladm-nano", "words", "own"])
def test_ids_are_those_of_the_tokenizer(kind: str) -> None:
    if kind == "own":
        tokenizer: Any = Shouting(tokenizer_object=word_level().backend_tokenizer, bos_token="<s>", eos_token="</s>")
    else:
        tokenizer = resolve("ladm-nano").load_tokenizer() if kind == "ladm-nano" else word_level()
    expected = tokenizer(TEXTS, verbose=False)["input_ids"]
    encoder = Encoder(tokenizer)
    assert (encoder._library is not None) == (kind != "own")
    for found, ids in zip(encoder(TEXTS), expected, strict=True):
        if not isinstance(found, str):
            np.testing.assert_array_equal(found, ids)
            assert found.dtype == np.int64
    if kind == "ladm-nano":
        assert not any(isinstance(found, str) for found in encoder(TEXTS))


def test_a_text_that_is_refused_leaves_the_others_alone() -> None:
    good, bad = Encoder(resolve("ladm-nano").load_tokenizer())([TEXTS[0], "a\ud800b"])
    assert len(good) > 100
    assert str(bad).startswith("error: the tokenizer refused the text (TypeError: ")
