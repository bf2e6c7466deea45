"""What changes a score: `LadmConfig`, and nothing that changes only speed.

The symbols are the paper's (Chen et al., ACL 2025, arXiv 2503.02502): `l` is `span_length`, and `d_afs` and `d_cds`
are strides in spans, between the key spans and between the query spans.
"""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ladm_hf.errors import ConfigError

Ablation = Literal["no_std", "no_length_weight"]
Overflow = Literal["truncate", "windows"]

# Query spans nearer than this many key strides to the start of the document are left out, as in the published code.
MIN_KEY_SPANS = 4


class _Unset:
    """The default of every option: to be taken from the calculator."""

    def __repr__(self) -> str:
        return "<the calculator's>"


UNSET: Any = _Unset()
# What an option is where neither the user nor the calculator sets it: the paper's.
PAPER: dict[str, Any] = {
    "span_length": 128,
    "d_afs": 4,
    "d_cds": 4,
    "ablation": None,
    "max_length": 32768,
    "overflow": "truncate",
    "heads": None,
    "weights": None,
}


@dataclass(frozen=True, kw_only=True)
class LadmConfig:
    """The geometry and the factors of the score. Frozen, validated, and serialisable.

    An option that is left out is taken from the calculator's own `ladm_config.json` where it has one, and is the
    paper's otherwise: `LadmConfig(max_length=8192)` changes the length and keeps the calibration. The paper's score
    over all heads is asked for by name, `LadmConfig.paper()`.

    Args:
        span_length (`int`, *optional*, the paper's is `128`):
            Tokens in a span, `l`.
        d_afs (`int`, *optional*, the paper's is `4`):
            Stride between the key spans of one query span, in spans.
        d_cds (`int`, *optional*, the paper's is `4`):
            Stride between query spans, in spans.
        ablation (`str`, *optional*, the paper's is `None`):
            `None` is the paper's score; `"no_std"` drops the standard deviation from AFS, `"no_length_weight"` drops
            both length factors.
        max_length (`int`, *optional*, the paper's is `32768`):
            Longest piece that is scored at once, in tokens.
        overflow (`str`, *optional*, the paper's is `"truncate"`):
            What happens to a document longer than `max_length`: `"truncate"` scores its first `max_length` tokens, as
            the paper does; `"windows"` scores consecutive windows of `max_length` tokens and takes their mean
            weighted by tokens. A last window too short to have a score is left out.
        heads (sequence of `(layer, head)`, *optional*, the paper's is `None`):
            The attention heads that count, both numbered from 0. `None` means all heads of every layer with full
            attention. The score is the mean over the layers named here of each layer's score over its heads.
        weights (sequence of `float`, *optional*, the paper's is `None`):
            One positive weight for each of `heads`, in their order. The score is then the weighted geometric mean of
            the heads' scores, each relative to a head that attends evenly to all earlier tokens:
            `prod_h (CDS_h / CDS_even) ** (w_h / sum(w))`, see `ladm_hf.ops.scores`. `None` is the mean of the paper.

    Attributes:
        given (`frozenset[str]`): names of the options that were given, rather than left to the calculator.

    Raises:
        ConfigError: an option is out of range; the message names it.
    """

    span_length: int = UNSET
    d_afs: int = UNSET
    d_cds: int = UNSET
    ablation: Ablation | None = UNSET
    max_length: int = UNSET
    overflow: Overflow = UNSET
    heads: tuple[tuple[int, int], ...] | None = UNSET
    weights: tuple[float, ...] | None = UNSET
    given: frozenset[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "given", frozenset(name for name in PAPER if getattr(self, name) is not UNSET))
        for name, default in PAPER.items():
            if name not in self.given:
                object.__setattr__(self, name, default)
        for name in ("span_length", "d_afs", "d_cds", "max_length"):
            object.__setattr__(self, name, _positive_int(name, getattr(self, name)))
        if self.span_length < 2:
            raise ConfigError(f"span_length must be at least 2 tokens, got {self.span_length}")
        _one_of("ablation", self.ablation, (None, "no_std", "no_length_weight"))
        _one_of("overflow", self.overflow, ("truncate", "windows"))
        if self.max_length < self.min_tokens:
            raise ConfigError(
                f"max_length={self.max_length} leaves no document long enough to score: with span_length="
                f"{self.span_length} and d_afs={self.d_afs} the shortest has {self.min_tokens} tokens"
            )
        heads, weights = self.heads, self.weights
        if weights is not None:
            heads, weights = _weighted_heads(heads, weights)
        object.__setattr__(self, "heads", None if heads is None else _head_pairs(heads))
        object.__setattr__(self, "weights", weights)

    @classmethod
    def paper(cls, **options: Any) -> LadmConfig:
        """The paper's score, all heads and all factors, whatever the calculator's own configuration says.

        Args:
            options: options that differ from the paper's.
        """
        return cls(**{**PAPER, **options})

    def over(self, defaults: LadmConfig) -> LadmConfig:
        """This configuration with what it leaves out taken from another; every option is then given.

        New heads without weights are averaged: the weights of other heads say nothing about them.
        """
        values = {name: getattr(self if name in self.given else defaults, name) for name in PAPER}
        if "heads" in self.given and "weights" not in self.given:
            values["weights"] = None
        return LadmConfig(**values)

    @property
    def min_tokens(self) -> int:
        """Tokens of the shortest document that has a score: `2 l + 4 l d_afs + 1`, 2,305 at the defaults."""
        return 2 * self.span_length + MIN_KEY_SPANS * self.span_length * self.d_afs + 1

    def to_dict(self) -> dict[str, Any]:
        """The options as plain JSON values (`heads` as a list of lists)."""
        values = {name: getattr(self, name) for name in PAPER}
        if self.heads is not None:
            values["heads"] = [list(pair) for pair in self.heads]
        if self.weights is None:
            # an option that version 0.1.0 did not know
            del values["weights"]
        else:
            values["weights"] = list(self.weights)
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LadmConfig:
        """The inverse of [`to_dict`]; options left out keep their defaults.

        Raises:
            ConfigError: an option is unknown or out of range.
        """
        unknown = sorted(set(values) - set(PAPER))
        if unknown:
            raise ConfigError(f"unknown option {unknown[0]!r}; known options are {', '.join(PAPER)}")
        return cls(**values)

    @classmethod
    def from_json_file(cls, path: str | Path) -> LadmConfig:
        """Reads a `ladm_config.json`. Its `calibration` entry, if any, is a record for people and is not read.

        Raises:
            ConfigError: the file cannot be read or is not a JSON object of known options.
        """
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"cannot read the configuration {path}: {error.strerror or error}") from error
        except ValueError as error:
            raise ConfigError(f"{path} is not valid JSON: {error}") from error
        if not isinstance(values, dict):
            raise ConfigError(f"{path} must hold a JSON object, found {type(values).__name__}")
        values.pop("calibration", None)
        try:
            return cls.from_dict(values)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error


def _positive_int(name: str, value: Any) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if isinstance(value, bool) or number < 1:
        raise ConfigError(f"{name} must be a positive integer, got {value!r}")
    return number


def _one_of(name: str, value: Any, allowed: tuple[Any, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")


def _head_pairs(heads: Iterable[Any]) -> tuple[tuple[int, int], ...]:
    try:
        pairs = sorted({(operator.index(layer), operator.index(head)) for layer, head in heads})
    except (TypeError, ValueError) as error:
        raise ConfigError(f"heads must be a sequence of (layer, head) pairs of integers, got {heads!r}") from error
    if not pairs:
        raise ConfigError("heads must name at least one (layer, head) pair; None means all heads")
    if any(layer < 0 or head < 0 for layer, head in pairs):
        raise ConfigError(f"heads are numbered from 0, got {pairs[0]}")
    return tuple(pairs)


def _weighted_heads(heads: Any, weights: Iterable[Any]) -> tuple[tuple[tuple[int, int], ...], tuple[float, ...]]:
    """Heads in order, each with its weight."""
    if heads is None:
        raise ConfigError("weights need heads: name the (layer, head) pair that each weight is for")
    pairs = [tuple(pair) for pair in heads]
    try:
        values = [float(weight) for weight in weights]
    except (TypeError, ValueError) as error:
        raise ConfigError(f"weights must be a sequence of numbers, got {weights!r}") from error
    if len(values) != len(pairs) or len(set(pairs)) != len(pairs):
        raise ConfigError(f"weights must be one for each of {len(set(pairs))} different heads, got {len(values)}")
    if not all(math.isfinite(value) and value > 0 for value in values):
        raise ConfigError(f"weights must be positive, got {values}")
    order = sorted(range(len(pairs)), key=pairs.__getitem__)
    return _head_pairs(pairs[i] for i in order), tuple(values[i] for i in order)
