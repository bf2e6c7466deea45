"""What a run is: its chunks, and the settings that every launch of it must share."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from ladm_hf.calculators.token_ids import check_made_with
from ladm_hf.data.columns import document_column
from ladm_hf.data.run_record import RunRecord
from ladm_hf.data.score_columns import score_columns
from ladm_hf.data.sources import Source
from ladm_hf.errors import ResumeError
from ladm_hf.runs.cascade import Cascade, FirstPass, check_same_tokenizer
from ladm_hf.runs.chunks import balanced_edges, output_schema
from ladm_hf.runs.estimate import most_tokens
from ladm_hf.runs.output import Output
from ladm_hf.scoring.loader import DTYPES
from ladm_hf.scoring.scorer import LadmScorer

FirstOf = tuple[Cascade, LadmScorer] | None


def plan(
    source: Source,
    scorer: LadmScorer,
    identity: dict[str, Any],
    chunks: int | None,
    first: FirstPass | None,
    first_of: FirstOf,
) -> RunRecord:
    """Looks at the data and fixes the chunks.

    Args:
        source ([`Source`]): the data.
        scorer ([`LadmScorer`]): of this pass.
        identity (`dict`): what determines the scores, without the data.
        chunks (`int`, *optional*): how many pieces.
        first ([`FirstPass`], *optional*): the pass before this one.
        first_of (`tuple` of [`Cascade`] and [`LadmScorer`], *optional*): whose first pass this is.
    """
    scan = source.scan(document_columns(scorer), most_tokens(scorer))
    columns = score_columns(scorer.signals, first is not None)
    output_schema(scan.schema, identity["scores_only"], columns, kept_columns(scan.schema, first_of))
    column = document_column(scan.schema, document_columns(scorer))
    if column == scorer.input_ids_column:
        check_made_with(scan.schema.metadata, scorer.calculator, column, source.name)
        if first_of is not None:
            check_same_tokenizer(scorer, first_of[1])
    edges = balanced_edges(scan, chunks) if first is None else first.run.edges
    # a stream is hashed while it is scanned
    identity = {**identity, "data": source.fingerprint()}
    if chunks not in (None, len(edges) - 1):
        # the same call asks for as many again, however few rows there are
        identity["num_chunks"] = chunks
    if first is not None:
        first.check_data(identity["data"])
    calculator = scorer.calculator
    run = RunRecord.new(
        source,
        scan,
        identity,
        edges,
        score_columns=columns,
        calculator=calculator.origin,
        calculator_revision=calculator.revision,
    )
    return run if first is None else dataclasses.replace(run, costs=first.costs)


def kept_columns(schema: pa.Schema, first_of: FirstOf) -> list[str]:
    """Columns of the source that stand beside scores alone: that of the domain, where another pass follows."""
    return [] if first_of is None else first_of[0].columns(schema)


def document_columns(scorer: LadmScorer) -> Sequence[str]:
    """The columns that a document may be in, the first that is there."""
    return [name for name in (scorer.text_column, scorer.input_ids_column) if name is not None]


def scorer_identity(scorer: LadmScorer) -> dict[str, Any]:
    """What determines the scores, each by a name for people."""
    config = {f"config.{name}": value for name, value in scorer.config.to_dict().items()}
    return {
        "model": scorer.calculator.identity,
        "dtype": scorer.dtype,
        **config,
        "text_column": scorer.text_column,
        "input_ids_column": scorer.input_ids_column,
        "schema_version": scorer.identity.schema_version,
        # runs of before there were signals have none
        **({"signals": ",".join(scorer.signals)} if scorer.signals else {}),
        **({"short_context": scorer.identity.short_context} if scorer.identity.short_context else {}),
    }


def check_same(run: RunRecord, identity: dict[str, Any], chunks: int | None, output: Output) -> None:
    """Refuses to resume a run with other settings, and names every difference."""
    before = dict(run.identity)
    asked = before.pop("num_chunks", run.num_chunks)
    if chunks not in (None, asked, run.num_chunks):
        before["num_chunks"], identity = asked, {**identity, "num_chunks": chunks}
    differences = [
        f"  {name}: {before.get(name)!r} there, {identity.get(name)!r} now"
        for name in dict.fromkeys([*before, *identity])
        if before.get(name) != identity.get(name)
    ]
    if differences:
        lines = "\n".join(differences)
        raise ResumeError(
            f"{output.name} holds a run with other settings:\n{lines}\nUse the same settings to resume it, another "
            f"output folder, or --restart (restart=True) to discard its {len(output.records(run)):,} finished chunks."
        )


def check_second_pass(output: Output, given: dict[str, Any], scorer: LadmScorer) -> None:
    """Refuses, before a first pass begins, an output of which the second would be refused.

    Raises:
        ResumeError: it holds a run with other settings, as far as they are known by now.
        RunError: it holds other data.
    """
    run = output.load()
    if run is None:
        output.check_new()
        return
    if run.identity.get("dtype") in DTYPES:
        scorer = scorer.with_auto_dtype(run.identity["dtype"])
    known = {**given, **scorer_identity(scorer)}
    found = {name: value for name, value in run.identity.items() if name in known or not name.startswith("cascade.")}
    found.pop("data", None)
    check_same(dataclasses.replace(run, identity=found), known, None, output)
