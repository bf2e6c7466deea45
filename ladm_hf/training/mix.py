"""How often a calculator in training sees each kind of window, and how windows of several documents are made."""

from __future__ import annotations

from dataclasses import dataclass, fields

from ladm_hf.errors import ConfigError

KINDS = ("natural", "interleaved", "spliced", "joined", "shuffled", "renamed", "degenerate")
PROBABILITIES = ("same_domain", "same_source", "separated", "flattened", "generated")


@dataclass(frozen=True, kw_only=True)
class WindowMix:
    """How training windows are made. Shares need not sum to 1.

    Args:
        natural, interleaved, spliced, joined, shuffled, renamed, degenerate (`float`): shares of the kinds. A kind for
            which no document serves falls back to interleaved. The last three need the tokenizer.
        min_documents, max_documents (`int`): documents of an interleaved or spliced window; `k` is drawn with weight
            `1 / (k - 1) ** 1.5`.
        min_chunk, max_chunk (`int`): tokens of the chunks of an interleaved window, drawn log-uniformly.
        same_domain (`float`): probability that all documents of a window come from one domain.
        same_source (`float`): probability that they come from one source, where it has enough of them.
        separated (`float`): probability that a spliced or joined window has the separator between its documents.
        flattened (`float`): probability that a natural window loses its line breaks, so that these alone tell nothing;
            without effect where there is no tokenizer.
        generated (`float`): share of degenerate windows from random generators; the rest are of documents of kind
            `"degenerate"`, where there are any.
    """

    natural: float = 0.25
    interleaved: float = 0.4
    spliced: float = 0.25
    joined: float = 0.1
    shuffled: float = 0.0
    renamed: float = 0.0
    degenerate: float = 0.0
    min_documents: int = 2
    max_documents: int = 8
    min_chunk: int = 90
    max_chunk: int = 1260
    same_domain: float = 0.85
    same_source: float = 0.3
    separated: float = 0.25
    flattened: float = 0.1
    generated: float = 0.4

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value < 0:
                raise ConfigError(f"{field.name} must not be negative, got {value}")
            if field.name in PROBABILITIES and value > 1:
                raise ConfigError(f"{field.name} is a probability and must not be above 1, got {value}")
        if sum(getattr(self, kind) for kind in KINDS) <= 0:
            raise ConfigError(f"at least one of the shares {', '.join(KINDS)} must be positive")
        if not 2 <= self.min_documents <= self.max_documents:
            raise ConfigError(
                f"min_documents and max_documents must satisfy 2 <= min <= max, got {self.min_documents} and "
                f"{self.max_documents}"
            )
        if not 1 <= self.min_chunk <= self.max_chunk:
            raise ConfigError(
                f"min_chunk and max_chunk must satisfy 1 <= min <= max, got {self.min_chunk} and {self.max_chunk}"
            )
