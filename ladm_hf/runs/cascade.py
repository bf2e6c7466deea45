"""Scoring in two passes: a small calculator reads everything, a larger one what the first ranks highest.

    OUTPUT/first_pass    a run of its own: number, domain and first score of every row
    survivors            the best of each domain by `select`, among documents of like length, to a share of its tokens
    OUTPUT               every row in its place; without a score where it did not survive

Both runs have the same chunks, so that a chunk of the second reads that of the first beside its rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from ladm_hf.arrays import Bools
from ladm_hf.calculators.token_ids import tokenizer_fingerprint
from ladm_hf.data.columns import column, root_column
from ladm_hf.data.open import from_table
from ladm_hf.data.run_record import RunRecord
from ladm_hf.data.score_columns import (
    FIRST_PASS_ONLY,
    FIRST_SCORE,
    NUM_TOKENS,
    REPETITION,
    SCORE,
    STATUS,
    TEXT_SIGNALS,
)
from ladm_hf.errors import CalculatorError, ConfigError, InputError
from ladm_hf.runs.output import Output
from ladm_hf.selection.options import parse_budget
from ladm_hf.selection.read import find_column
from ladm_hf.selection.selection import select

if TYPE_CHECKING:
    from ladm_hf.scoring.scorer import LadmScorer

# Of the first run's identity, what is of its folder alone or the second has itself.
_OF_THE_RUN = ("split", "scores_only", "columns", "limit", "data", "num_chunks")


@dataclass(frozen=True)
class Cascade:
    """The first pass of a scoring in two passes.

    Attributes:
        scorer ([`LadmScorer`]): what scores everything first, such as `LadmScorer("ladm-nano")`. With a smaller
            `max_length` than the second it reads, and `keep` counts, less of each document.
        keep (`str` or `int`): what goes on to the second pass: a share of the tokens of each domain (`"20%"`), or
            tokens, divided among the domains in proportion (`"1B"`).
        by (`str`, *optional*, defaults to `"domain"`): column of the domain, nested with dots; `None` ranks all
            documents as one domain.

    Raises:
        ConfigError: `keep` is neither a share nor a number of tokens.
    """

    scorer: LadmScorer
    keep: str | int
    by: str | None = "domain"

    def __post_init__(self) -> None:
        parse_budget(self.keep)

    @property
    def identity(self) -> dict[str, Any]:
        """What says which rows of the first pass go on, by names for people."""
        return {"cascade.keep": str(self.keep), "cascade.by": self.by}

    def scorer_beside(self, second: LadmScorer) -> LadmScorer:
        """The scorer of the first pass, with the text signals that the second has: all rows are to have them.

        Raises:
            ConfigError: it reads other columns or treats errors otherwise than the second.
        """
        names = ("text_column", "input_ids_column", "on_error")
        for name in names:
            if getattr(self.scorer, name) != getattr(second, name):
                raise ConfigError(
                    f"both scorers of a cascade must read the same rows: {name} is {getattr(self.scorer, name)!r} in "
                    f"the first and {getattr(second, name)!r} in the second"
                )
        return self.scorer.with_signals([name for name in second.signals if name in TEXT_SIGNALS])

    def columns(self, schema: pa.Schema) -> list[str]:
        """Columns of the input that the first pass has to keep."""
        return domain_columns(schema, self.by)

    def survivors(self, output: Output, most_tokens: int) -> tuple[Bools, tuple[float, ...]]:
        """What goes on of a finished first pass.

        Args:
            output ([`Output`]): the first pass.
            most_tokens (`int`): tokens beyond which a document costs the second pass no more.

        Returns:
            `bool` array `[N]`, the rows that go on; and estimated tokens of each chunk in the second pass.
        """
        run = output.load()
        assert run is not None
        parts = []
        for chunk in range(run.num_chunks):
            with output.local_chunk(run, chunk) as file:
                parts.append(pq.ParquetFile(file).read())
        table = pa.concat_tables(parts)
        survives = np.zeros(table.num_rows, dtype=bool)
        if pc.any(pc.equal(table[STATUS], "ok")).as_py():
            selection = select(from_table(table), budget_tokens=self.keep, by=self.by)
            survives[column(selection.selected_rows.columns(["index"]), "index").to_numpy()] = True
        costs = 1.0 + survives[table["index"].to_numpy()] * np.minimum(table[NUM_TOKENS].to_numpy(), most_tokens)
        ends = np.cumsum([part.num_rows for part in parts])
        return survives, tuple(float(chunk.sum()) for chunk in np.split(costs, ends[:-1]))


def domain_columns(schema: pa.Schema, by: str | None) -> list[str]:
    """The column of the domain, at the top of the schema; none where all documents are one.

    Raises:
        ConfigError: there is no such column.
    """
    if by is None:
        return []
    name = root_column(schema, find_column(schema, by))
    if name not in schema.names:
        raise ConfigError(
            f"no column {by!r} in this data; its columns are {', '.join(map(repr, schema.names))}. Name the column of "
            "the domain with --cascade-by (Cascade(by=)), or '' (by=None) for one domain"
        )
    return [name]


@dataclass(frozen=True)
class FirstPass:
    """A finished first pass, for the second.

    Attributes:
        output ([`Output`]): where it was written.
        run ([`RunRecord`]): its record.
        survives (`bool` array `[N]`): rows that go on.
        costs (`tuple[float, ...]`): estimated tokens of each chunk in the second pass.
        identity (mapping): what determines all of it, by names for people.
    """

    output: Output
    run: RunRecord
    survives: Bools
    costs: tuple[float, ...]
    identity: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, output: Output, cascade: Cascade, survives: Bools, costs: tuple[float, ...]) -> FirstPass:
        run = output.load()
        assert run is not None
        first = {f"cascade.{name}": value for name, value in run.identity.items() if name not in _OF_THE_RUN}
        survivors = xxhash.xxh3_128_hexdigest(np.packbits(survives).tobytes())
        return cls(output, run, survives, costs, {**first, **cascade.identity, "cascade.survivors": survivors})

    def check_data(self, fingerprint: str) -> None:
        """Refuses data that changed since the first pass read them.

        Raises:
            InputError: they did.
        """
        if fingerprint != self.run.identity.get("data"):
            raise InputError(
                f"the data changed since the first pass in {self.output.name} read them: run the same command again "
                "with --restart (restart=True)"
            )

    def chunk(self, chunk: int) -> pa.Table:
        """The score columns of a chunk's rows, and whether each goes on (`survives`)."""
        with self.output.local_chunk(self.run, chunk) as file:
            table = pq.ParquetFile(file).read(["index", *self.run.score_columns])
        survives = self.survives[table["index"].to_numpy()]
        return table.append_column("survives", pa.array(survives))


def both_passes(first: pa.Table, second: Mapping[str, Any]) -> dict[str, Any]:
    """The score columns of some rows, by name: of those that survived the second pass's, of the others the first's.

    Args:
        first (`pa.Table`): of [`FirstPass.chunk`], `[N]`.
        second (mapping): score columns of the rows that survive.
    """
    survives = first["survives"].to_numpy()
    status = np.array(first[STATUS].to_pylist(), dtype=object)
    status[(status == "ok") & ~survives] = FIRST_PASS_ONLY
    merged: dict[str, Any] = {STATUS: status}
    for name, values in second.items():
        if name != STATUS:
            known = name in (NUM_TOKENS, REPETITION, *(f"ladm_{signal}" for signal in TEXT_SIGNALS))
            merged[name] = first[name].to_numpy().copy() if known else np.full(len(survives), np.nan)
        merged[name][survives] = values
    merged[STATUS] = merged[STATUS].tolist()
    return {**merged, FIRST_SCORE: pc.fill_null(first[SCORE], float("nan")).to_numpy()}


def check_same_tokenizer(first: LadmScorer, second: LadmScorer) -> None:
    """Refuses token ids for two calculators whose tokenizers give other ids: those of another score like noise.

    Raises:
        InputError: they do.
    """
    try:
        prints = [tokenizer_fingerprint(scorer.calculator.load_tokenizer()) for scorer in (first, second)]
    except CalculatorError:
        # a calculator without a tokenizer is there for token ids alone: nothing tells whose
        return
    if prints[0] != prints[1]:
        raise InputError(
            f"the data holds token ids, and the tokenizers of {first.calculator.name!r} and {second.calculator.name!r} "
            "give different ones: score text in a cascade, or take two calculators of one tokenizer"
        )
