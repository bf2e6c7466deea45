"""`Pool`: scored rows as arrays, and which can be kept: those scored, not repeating themselves and in all ranges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ladm_hf.arrays import Bools, Floats, Ints
from ladm_hf.data.rows import AnyRows
from ladm_hf.selection.percentile import blend, percentiles_of_rows
from ladm_hf.selection.signals import outside_ranges

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Pool:
    """`N` scored rows.

    Attributes:
        rows ([`DatasetRows`] or [`SourceRows`]): the rows.
        dataset (`Dataset`): their small columns at least.
        domains (`list[str]`): names of the domains, sorted.
        code (`int64` array `[N]`): domain of each row, an index into `domains`.
        score (`float64` array `[N]`): what is ranked, higher is better; NaN where there is none.
        tokens (`int64` array `[N]`): tokens of each row, -1 where that is not known.
        status (`pa.ChunkedArray` `[N]`, *optional*): `ladm_status`; `None` where the data has no such column.
        repeated (`bool` array `[N]`, *optional*): true where a row repeats itself more than is allowed; `None` where
            any repetition is allowed, or the data does not say.
        signals (`dict` of `str` to `float64` arrays `[N]`): the columns that score and ranges read, NaN where a row has
            no value.
        outside (`int64` array `[N]`, *optional*): an index into `range_reasons`, -1 for a row in all ranges; `None`
            where there are no ranges.
        range_reasons (`list[str]`): why a row is outside.
    """

    rows: AnyRows
    dataset: Dataset
    domains: list[str]
    code: Ints
    score: Floats
    tokens: Ints
    status: pa.ChunkedArray | None
    repeated: Bools | None
    signals: dict[str, Floats]
    outside: Ints | None = None
    range_reasons: Sequence[str] = ()

    @property
    def scored(self) -> Bools:
        """`[N]`, true where a row has a finite score, a token count and the status `ok`."""
        usable: Bools = np.isfinite(self.score) & (self.tokens >= 0)
        if self.status is not None:
            usable &= pc.fill_null(pc.equal(self.status, "ok"), False).to_numpy()
        return usable

    @property
    def eligible(self) -> Bools:
        """`[N]`, true where a row is scored, does not repeat itself too much and lies in all ranges."""
        eligible = self.scored
        if self.repeated is not None:
            eligible &= ~self.repeated
        if self.outside is not None:
            eligible &= self.outside < 0
        return eligible

    def within(self, keep: Mapping[str, Any] | None) -> Pool:
        """The pool with what lies outside some ranges told from the rest."""
        if not keep:
            return self
        found = outside_ranges(self.signals, keep, self.code, self.eligible, len(self.domains))
        return replace(self, outside=found[0], range_reasons=found[1])

    def percentiles(self, values: Floats, bands: int | list[int] | str) -> Floats:
        """`[N]`, the percentile of each eligible row within domain and length band, NaN for the others."""
        return percentiles_of_rows(values, self.eligible, self.code, self.tokens, len(self.domains), bands)

    def blended(self, score: str | Mapping[str, float], bands: int | list[int] | str) -> Pool:
        """The pool scored by a blend of percentiles, where that is what documents are ranked by."""
        if isinstance(score, str):
            return self
        ranked = {name: self.percentiles(self.signals[name], bands) for name in score}
        # a row that is not ranked keeps its mark of having all columns
        return replace(self, score=np.where(self.eligible, blend(ranked, score), self.score))


def joined(a: Pool, b: Pool) -> Pool:
    """The rows of two pools, those of the first one first; rows and data set are those of the first."""
    domains = sorted({*a.domains, *b.domains})
    place = {name: n for n, name in enumerate(domains)}
    code = [np.array([place[name] for name in pool.domains], dtype=np.int64)[pool.code] for pool in (a, b)]
    status = None
    if a.status is not None and b.status is not None:
        status = pa.chunked_array([*a.status.cast(pa.string()).chunks, *b.status.cast(pa.string()).chunks], pa.string())
    repeated = None if a.repeated is None or b.repeated is None else np.concatenate([a.repeated, b.repeated])
    return Pool(
        a.rows, a.dataset, domains, np.concatenate(code), np.concatenate([a.score, b.score]),
        np.concatenate([a.tokens, b.tokens]), status, repeated,
        {name: np.concatenate([a.signals[name], b.signals[name]]) for name in a.signals},
    )  # fmt: skip
