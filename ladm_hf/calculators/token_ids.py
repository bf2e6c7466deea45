"""Which tokenizer made some token ids: noted in the metadata of a parquet file, compared before they are scored.

Ids of another tokenizer that fit the vocabulary score like noise, and nothing in the numbers tells. Only data that say
where their ids come from can be checked; `ladm prepare` writes it down.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

import xxhash

from ladm_hf.calculators.calculator import Calculator
from ladm_hf.errors import CalculatorError, InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

KEY = b"ladm_tokenizer"
# What two tokenizers of one vocabulary may cut in other places.
_SAMPLE = "The ship's log, 1873: naïve façades, 12.5 km of 港口 and привет\n\n\tdef f(x): return x**2  # ok 🙂"


def made_with(calculator: Calculator) -> dict[bytes, bytes]:
    """Metadata that says whose tokenizer made the token ids of a table."""
    noted = {"calculator": calculator.origin, "fingerprint": tokenizer_fingerprint(calculator.load_tokenizer())}
    return {KEY: json.dumps(noted).encode()}


def check_made_with(metadata: Mapping[bytes, bytes] | None, calculator: Calculator, column: str, where: str) -> None:
    """Refuses token ids whose metadata name another tokenizer.

    Raises:
        InputError: they were made by a tokenizer that gives other ids than the calculator's.
    """
    noted = json.loads((metadata or {}).get(KEY, b"{}"))
    try:
        if not noted or noted["fingerprint"] == tokenizer_fingerprint(calculator.load_tokenizer()):
            return
    except CalculatorError:
        # a calculator without a tokenizer is there for token ids alone: nothing tells whose
        return
    raise InputError(
        f"the token ids in {column!r} of {where} were made by the tokenizer of {noted['calculator']!r}, which gives "
        f"other ids than that of {calculator.name!r}: score the text instead, prepare it again with --model "
        f"{calculator.name}, or score with --model {noted['calculator']}"
    )


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """A hash of the vocabulary and of how a sample is cut."""
    vocabulary = sorted(tokenizer.get_vocab().items())
    return xxhash.xxh3_128_hexdigest(json.dumps([vocabulary, tokenizer(_SAMPLE)["input_ids"]]).encode())
