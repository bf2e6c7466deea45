"""`Comparison`: how far signals agree, pair by pair and group by group, and the documents that they disagree about."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ladm_hf.arrays import Floats
from ladm_hf.text import aligned, counted, one_line


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Two signals in one group of documents.

    Attributes:
        domain (`str`, *optional*): its domain; `None` for all.
        min_tokens, max_tokens (`int`, *optional*): shortest and longest document of its length band; `None` for all
            lengths.
        band (`int`, *optional*): number of the length band, from 0 for the shortest.
        a, b (`str`): the signals.
        documents (`int`): documents of the group that have all signals.
        correlation (`float`, *optional*): rank correlation of the columns as they are, in -1..1; `None` for fewer than
            3 documents or where all are alike.
        overlap (`float`, *optional*): Dice's coefficient of the documents that each keeps, in 0..1; `None` where
            neither keeps one.
    """

    domain: str | None
    band: int | None
    min_tokens: int | None
    max_tokens: int | None
    a: str
    b: str
    documents: int
    correlation: float | None
    overlap: float | None

    @property
    def group(self) -> str:
        """The group in words: all documents, a domain or a length band."""
        lengths = None if self.band is None else f"{self.min_tokens:,} to {self.max_tokens:,} tokens"
        parts = [None if self.domain is None else one_line(self.domain, 60), lengths]
        return ", ".join(part for part in parts if part is not None) or "all"


@dataclass(frozen=True, kw_only=True)
class Disagreement:
    """A document that one signal ranks high and another low.

    Attributes:
        a, b (`str`): the signal that ranks it high, and the one that ranks it low.
        row (`int`): its row; of a selection, those kept come first.
        domain (`str`), tokens (`int`): of the document.
        percentile_a, percentile_b (`float`): its percentiles among documents of like length of its domain, 0 to 100,
            100 being the first that the signal selects.
        value_a, value_b (`float`): its values.
        text (`str`, *optional*): its text, where the data have it.
    """

    a: str
    b: str
    row: int
    domain: str
    tokens: int
    percentile_a: float
    percentile_b: float
    value_a: float
    value_b: float
    text: str | None = None

    def lines(self) -> list[str]:
        """The document in a line or two."""
        lines = [
            f"  row {self.row:,}, {one_line(self.domain, 40)}, {self.tokens:,} tokens: {self.a} {self.value_a:.4g} "
            f"(percentile {self.percentile_a:.0f}), {self.b} {self.value_b:.4g} (percentile {self.percentile_b:.0f})"
        ]
        return lines if self.text is None else [*lines, f"    {one_line(self.text[:400], 110)}"]


@dataclass(frozen=True)
class Comparison:
    """How far signals agree.

    Attributes:
        signals (`dict[str, int]`): columns, 1 for those of which more is better, -1 for less.
        documents (`int`): documents compared: those with a finite value of every signal.
        left_out (`int`): documents that were scored and lack a signal.
        unused (`list[str]`): columns without any value, left out.
        budget_tokens (`int`): tokens that each signal selects.
        pool_tokens (`int`): tokens of the documents compared.
        agreements (`list[Agreement]`): all pairs, over all documents, then by domain, by length band, and by both.
        disagreements (`list[Disagreement]`): for the first signal and each other one, the documents that they disagree
            about most.
    """

    signals: dict[str, int]
    documents: int
    left_out: int
    unused: list[str]
    budget_tokens: int
    pool_tokens: int
    agreements: list[Agreement]
    disagreements: list[Disagreement]

    def matrix(self, name: str) -> Floats:
        """`[S, S]`, `"correlation"` or `"overlap"` of all documents, NaN where it is not defined; 1 on the diagonal."""
        found = np.eye(len(self.signals))
        place = {signal: n for n, signal in enumerate(self.signals)}
        for pair in self.agreements:
            if pair.domain is None and pair.band is None:
                value = getattr(pair, name)
                i, j = place[pair.a], place[pair.b]
                found[i, j] = found[j, i] = np.nan if value is None else value
        return found

    @property
    def share(self) -> float:
        """The budget as a share of the pool, about what two selections at random have in common."""
        return self.budget_tokens / max(1, self.pool_tokens)

    def notes(self) -> list[str]:
        """What was compared, in sentences."""
        notes = [f"{counted(self.documents, 'document')} with a value of all {len(self.signals)} signals."]
        if self.left_out:
            lack = "lacks a signal and is" if self.left_out == 1 else "lack a signal and are"
            notes.append(f"{counted(self.left_out, 'document')} {lack} left out.")
        if self.unused:
            notes.append(f"Without any value, and left out: {', '.join(self.unused)}.")
        lowest = ", ".join(name for name, way in self.signals.items() if way < 0)
        except_for = f"; of {lowest} the lowest" if lowest else ""
        notes.append(
            f"Each signal selects {self.budget_tokens:,} of {self.pool_tokens:,} tokens ({100 * self.share:.0f} %), "
            f"the highest values among documents of like length of each domain{except_for}."
        )
        return notes

    def summary(self) -> str:
        """Both matrices, the first signal by domain and length, and the documents disagreed about, for a terminal."""
        lines = self.notes()
        lines += ["", *self._matrix_lines("Rank correlation", "correlation", "{:+.2f}")]
        lines += ["", *self._matrix_lines("Overlap of selections", "overlap", "{:.0%}")]
        first, *others = self.signals
        rows = [[f"With {first}", "documents", *others]]
        for pairs in self.of_first():
            cells = (f"{_text(pair.correlation, '{:+.2f}')}  {_text(pair.overlap, '{:.0%}'):>4}" for pair in pairs)
            rows.append([pairs[0].group, f"{pairs[0].documents:,}", *cells])
        lines += ["", *aligned(rows), "", "Where they disagree most (percentile 100: the first that a signal selects):"]
        return "\n".join([*lines, *(line for each in self.disagreements for line in each.lines())])

    def _matrix_lines(self, title: str, name: str, form: str) -> list[str]:
        """The lower half of a matrix, its columns by number."""
        values, size = self.matrix(name), len(self.signals)
        rows = [[title, *(str(n + 1) for n in range(size))]]
        for n, signal in enumerate(self.signals):
            cells = [_text(value, form) for value in values[n, : n + 1]]
            rows.append([f"{n + 1} {signal}", *cells, *[""] * (size - n - 1)])
        return aligned(rows)

    def of_first(self) -> list[list[Agreement]]:
        """The first signal with each other one: over all documents, then by domain, then by length band."""
        first = next(iter(self.signals))
        found: dict[tuple[str | None, int | None], list[Agreement]] = {}
        for pair in self.agreements:
            if pair.a == first and None in (pair.domain, pair.band):
                found.setdefault((pair.domain, pair.band), []).append(pair)
        return list(found.values())

    def table(self) -> pa.Table:
        """The agreements as a table, one row each."""
        return pa.Table.from_pylist([dataclasses.asdict(pair) for pair in self.agreements], schema=_SCHEMA)


def _text(value: float | None, form: str) -> str:
    return "–" if value is None or not np.isfinite(value) else form.format(value)


_SCHEMA = pa.schema(
    [
        ("domain", pa.string()), ("band", pa.int64()), ("min_tokens", pa.int64()), ("max_tokens", pa.int64()),
        ("a", pa.string()), ("b", pa.string()), ("documents", pa.int64()), ("correlation", pa.float64()),
        ("overlap", pa.float64()),
    ]
)  # fmt: skip
