"""The options of a selection: checked, and read as people write them (`"100M"`, `"0:8k,8k:16k"`, `"law=2"`).

What ranks and what is in range, `score` and `keep`, is read by `signals`.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, Literal, cast

import numpy as np

from ladm_hf.data.score_columns import SCORE
from ladm_hf.errors import ConfigError
from ladm_hf.selection.signals import parse_keep, parse_score

Strategy = Literal["exact", "percent", "top-k", "bottom-k", "threshold", "temperature"]
Shares = Literal["proportional", "equal"] | Mapping[str, float]

# What each strategy needs beside the scores.
NEEDS = {
    "exact": ("budget_tokens",),
    "percent": ("budget_tokens",),
    "top-k": ("k",),
    "bottom-k": ("k",),
    "threshold": ("min_score",),
    "temperature": ("budget_tokens", "temperature"),
}
DIVIDES_BUDGET = ("exact", "temperature")
# The largest `ladm_repetition` kept unless told otherwise; benchmarks/repetition.py shows what it finds.
MAX_REPETITION = 0.4
# What each signal selects in `compare`, unless told otherwise.
COMPARED = "25%"


def checked_options(
    *,
    strategy: Any,
    budget_tokens: Any = None,
    shares: Any = None,
    k: Any = None,
    min_score: Any = None,
    min_percentile: Any = None,
    temperature: Any = None,
    seed: Any = 0,
    length_bands: Any = "auto",
    max_repetition: Any = MAX_REPETITION,
    score: Any = SCORE,
    keep: Any = None,
) -> dict[str, Any]:
    """The options of a selection as plain values, those that do not apply as `None`.

    Raises:
        ConfigError: one is missing, out of range, or does not belong to the strategy.
    """
    name = str(strategy).replace("_", "-")
    if name not in NEEDS:
        raise ConfigError(f"strategy must be one of {', '.join(map(repr, NEEDS))}, got {strategy!r}")
    if name == "temperature" and temperature is None:
        temperature = 1.0
    needs = NEEDS[name] if min_percentile is None or name != "threshold" else ("min_percentile",)
    given = {
        "budget_tokens": budget_tokens, "k": k, "min_score": min_score, "min_percentile": min_percentile,
        "temperature": temperature,
    }  # fmt: skip
    for option, value in given.items():
        if option in needs and value is None:
            alternative = " or min_percentile" if option == "min_score" else ""
            raise ConfigError(f"strategy {name!r} needs {option}{alternative}")
        if option not in needs and value is not None:
            raise ConfigError(f"strategy {name!r} takes {' and '.join(needs)}, not {option}")
    if shares is not None and name not in DIVIDES_BUDGET:
        raise ConfigError(f"strategy {name!r} takes no shares: only {' and '.join(DIVIDES_BUDGET)} divide a budget")
    return {
        "strategy": name,
        "budget_tokens": None if budget_tokens is None else parse_budget(budget_tokens),
        "shares": _checked_shares(shares) if name in DIVIDES_BUDGET else None,
        "k": None if k is None else _whole("k", k, 1),
        "min_score": None if min_score is None else _finite("min_score", min_score),
        "min_percentile": None if min_percentile is None else _percentile(min_percentile),
        "temperature": None if temperature is None else _finite("temperature", temperature, positive=True),
        "seed": _whole("seed", seed, 0) if name == "temperature" else None,
        "length_bands": _checked_bands(length_bands),
        "max_repetition": _checked_repetition(max_repetition),
        "score": parse_score(score),
        "keep": parse_keep(keep),
    }


def bands_used(options: Mapping[str, Any]) -> int | list[int] | str:
    """The bands of checked options: `"auto"` stands for `"off"` where no token budget is divided, and the name of the
    strategy says what is kept."""
    bands: int | list[int] | str = options["length_bands"]
    return "off" if bands == "auto" and options["strategy"] not in DIVIDES_BUDGET else bands


def _checked_repetition(limit: Any) -> float | str:
    if limit is None or limit == "off":
        return "off"
    try:
        number = math.nan if isinstance(limit, bool) else float(limit)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number <= 1:
        raise ConfigError(f"max_repetition must be a number from 0 to 1, or off, got {limit!r}")
    return number


def _whole(option: str, value: Any, least: int) -> int:
    try:
        # 1e9 is how people write a budget
        integral = isinstance(value, (float, np.floating)) and float(value).is_integer()
        number = int(value) if integral else operator.index(value)
    except (TypeError, ValueError, OverflowError):
        number = least - 1
    if isinstance(value, bool) or number < least:
        raise ConfigError(f"{option} must be a whole number, at least {least}, got {value!r}")
    return number


def _finite(option: str, value: Any, *, positive: bool = False) -> float:
    try:
        number = math.nan if isinstance(value, (bool, str)) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number) or (positive and number <= 0):
        raise ConfigError(f"{option} must be a {'positive ' if positive else ''}finite number, got {value!r}")
    return number


def _percentile(value: Any) -> float:
    number = _finite("min_percentile", value)
    if not 0 <= number <= 100:
        raise ConfigError(f"min_percentile must be from 0 to 100, got {value!r}")
    return number


def _checked_shares(shares: Any) -> str | dict[str, float]:
    if shares is None or shares in ("proportional", "equal"):
        return shares or "proportional"
    if not isinstance(shares, Mapping):
        raise ConfigError(f"shares must be 'proportional', 'equal' or {{domain: weight}}, got {shares!r}")
    weights = {str(name): _finite(f"the share of {name!r}", weight) for name, weight in shares.items()}
    if any(weight < 0 for weight in weights.values()) or not any(weights.values()):
        raise ConfigError(f"shares must be weights of at least 0, one of them above 0, got {dict(shares)!r}")
    return weights


def _checked_bands(bands: Any) -> int | list[int] | str:
    if bands is None or bands is False:
        return "off"
    if isinstance(bands, str):
        return parse_bands(bands)
    if not isinstance(bands, Sequence):
        return _whole("length_bands", bands, 1)
    return _increasing([_whole("each of length_bands", edge, 1) for edge in bands], bands)


def _increasing(edges: list[int], given: Any) -> list[int]:
    if not edges or edges != sorted(set(edges)):
        raise ConfigError(f"length_bands must be token counts that increase, got {given!r}")
    return edges


def parse_budget(budget: Any) -> int | Fraction:
    """Reads a token budget: what [`parse_tokens`] reads, a whole number, or `"25%"`.

    Returns:
        Tokens; or as a `Fraction`, above 0 and at most 1, a share of the pool's, see [`budget_of`].

    Raises:
        ConfigError: it is none of these.
    """
    if not isinstance(budget, str):
        return _whole("budget_tokens", budget, 1)
    percent = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*%", budget.strip())
    if percent is None:
        return parse_tokens(budget)
    share = Fraction(percent[1]) / 100
    if not 0 < share <= 1:
        raise ConfigError(f"a budget in percent must be above 0 and at most 100, got {budget!r}")
    return share


def budget_of(budget: int | Fraction, pool_tokens: int) -> int:
    """The tokens of a budget that may be a share of the pool's."""
    return budget if isinstance(budget, int) else max(1, int(budget * pool_tokens))


def share_of(budget: Any, pool_tokens: float) -> float:
    """The part of a pool's tokens that a budget is, in 0..1."""
    return min(1.0, budget_of(parse_budget(budget), int(pool_tokens)) / max(1.0, pool_tokens))


def parse_tokens(text: str) -> int:
    """Reads a token budget: `1073741824`, `1_000_000`, `1e9`, `500M`, `1.5B`, `32768*32*1024`.

    `k`, `M`, `B` (or `G`) and `T` are powers of 1,000.

    Raises:
        ConfigError: it is no such number, or not a whole one.
    """
    total = Fraction(1)
    for factor in text.replace("_", "").replace(",", "").split("*"):
        found = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)(?:e\+?(\d{1,2}))?([kmbgt]?)", factor.strip().lower())
        if found is None:
            raise ConfigError(
                f"a token budget is a number such as 1073741824, 1e9, 500M or 32768*32*1024, got {text!r}"
            )
        number, exponent, suffix = found.groups()
        total *= Fraction(number) * 10 ** int(exponent or 0) * _SUFFIXES[suffix]
    if total.denominator != 1 or total < 1:
        raise ConfigError(f"a token budget must be a whole number of at least 1, got {text!r}")
    return int(total)


def parse_shares(shares: Sequence[str] | None) -> Shares | None:
    """Reads `["equal"]`, `["proportional"]` or `["FreeLaw=2", "Github=1"]`.

    Raises:
        ConfigError: one is neither.
    """
    if not shares:
        return None
    if len(shares) == 1 and shares[0] in ("proportional", "equal"):
        return cast(Shares, shares[0])
    weights = {}
    for share in shares:
        # a domain's name may hold an equals sign
        name, sign, weight = share.rpartition("=")
        try:
            weights[name] = float(weight)
        except ValueError:
            sign = ""
        if not sign:
            raise ConfigError(f"a share is proportional, equal or DOMAIN=WEIGHT, got {share!r}")
    return weights


def parse_bands(text: str) -> int | list[int] | str:
    """Reads length bands: `auto`, `off`, `4` (that many), `8192,16384` or `8k,` (the token counts between them), or
    `0:8k,8k:32k,32k:` (the bands themselves, one after the other; what lies outside is a band of its own).

    Raises:
        ConfigError: it is none of these, or the bands leave a gap or overlap.
    """
    wanted = text.strip().lower()
    if wanted in ("auto", "off", "none"):
        return "off" if wanted == "none" else wanted
    try:
        if ":" in wanted:
            return _increasing(_edges_of_ranges(wanted), text)
        if wanted.isdecimal() and int(wanted):
            return int(wanted)
        if "," not in wanted:
            raise ConfigError("one token count needs a comma, else it would be a number of bands")
        return _increasing([parse_tokens(number) for number in wanted.removesuffix(",").split(",")], text)
    except ConfigError as error:
        raise ConfigError(
            "length bands are auto, off, their number (4), the token counts between them (8192,16384 or 8192,) or "
            f"ranges that join up (0:8k,8k:32k,32k:), got {text!r}"
        ) from error


def _edges_of_ranges(text: str) -> list[int]:
    edges: list[int] = []
    ranges = [part.partition(":") for part in text.removesuffix(",").split(",")]
    for n, (first, colon, last) in enumerate(ranges):
        low, high = _bound(first), _bound(last)
        if not colon or (n and low != edges[-1]) or (high <= low if high else n < len(ranges) - 1):
            raise ConfigError("the ranges do not join up")
        edges += [low, high]
    return sorted(set(edges) - {0})


def _bound(text: str) -> int:
    """A token count; 0 for an open end."""
    return 0 if text.strip() in ("", "0") else parse_tokens(text)


_SUFFIXES = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "g": 10**9, "t": 10**12}
