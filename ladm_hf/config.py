"""What changes a score: `LadmConfig`, and nothing that changes only speed.

The symbols are the paper's (Chen et al., ACL 2025, arXiv 2503.02502): `l` is `span_length`, and `d_afs` and `d_cds`
are strides in spans, between the key spans and between the query spans.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from ladm_hf.errors import ConfigError

Ablation = Literal["no_std", "no_length_weight"]
Overflow = Literal["truncate", "windows"]

# Query spans nearer than this many key strides to the start of the document are left out, as in the published code.
MIN_KEY_SPANS = 4


@dataclass(frozen=True, kw_only=True)
class LadmConfig:
    """The geometry and the factors of the score. Frozen, validated, and serialisable.

    Args:
        span_length (`int`, *optional*, defaults to `128`):
            Tokens in a span, `l`.
        d_afs (`int`, *optional*, defaults to `4`):
            Stride between the key spans of one query span, in spans.
        d_cds (`int`, *optional*, defaults to `4`):
            Stride between query spans, in spans.
        ablation (`str`, *optional*):
            `None` is the paper's score; `"no_std"` drops the standard deviation from AFS, `"no_length_weight"` drops
            both length factors.
        max_length (`int`, *optional*, defaults to `32768`):
            Longest piece that is scored at once, in tokens.
        overflow (`str`, *optional*, defaults to `"truncate"`):
            What happens to a document longer than `max_length`: `"truncate"` scores its first `max_length` tokens, as
            the paper does; `"windows"` scores consecutive windows of `max_length` tokens and takes their mean
            weighted by tokens. A last window too short to have a score is left out.
        heads (sequence of `(layer, head)`, *optional*):
            The attention heads that count, both numbered from 0. `None` means all heads of every layer with full
            attention. The score is the mean over the layers named here of each layer's score over its heads.

    Raises:
        ConfigError: an option is out of range; the message names it.
    """

    span_length: int = 128
    d_afs: int = 4
    d_cds: int = 4
    ablation: Ablation | None = None
    max_length: int = 32768
    overflow: Overflow = "truncate"
    heads: tuple[tuple[int, int], ...] | None = None

    def __post_init__(self) -> None:
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
        if self.heads is not None:
            object.__setattr__(self, "heads", _head_pairs(self.heads))

    @property
    def min_tokens(self) -> int:
        """Tokens of the shortest document that has a score: `2 l + 4 l d_afs + 1`, 2,305 at the defaults."""
        return 2 * self.span_length + MIN_KEY_SPANS * self.span_length * self.d_afs + 1

    def to_dict(self) -> dict[str, Any]:
        """The options as plain JSON values (`heads` as a list of lists)."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        if self.heads is not None:
            values["heads"] = [list(pair) for pair in self.heads]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LadmConfig:
        """The inverse of [`to_dict`]; options left out keep their defaults.

        Raises:
            ConfigError: an option is unknown or out of range.
        """
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ConfigError(f"unknown option {unknown[0]!r}; known options are {', '.join(known)}")
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
