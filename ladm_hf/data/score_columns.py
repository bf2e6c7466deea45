"""The columns that scoring adds to a dataset: four always, one for each signal that is asked for, and in a cascade the
score of its first pass.

A signal `name` stands in the column `ladm_name`. Text signals are statistics of the text alone; the others come from
the calculator's forward pass. Formulas and sources are in `ladm_hf.scoring.text_signals`,
`ladm_hf.scoring.losses` and `ladm_hf.ops.distant`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pyarrow as pa

from ladm_hf.errors import ColumnError, ConfigError

SCORE, NUM_TOKENS, STATUS, REPETITION = "ladm_score", "ladm_num_tokens", "ladm_status", "ladm_repetition"
# The score of a cascade's first pass, and the status of a row that has no other.
FIRST_SCORE, FIRST_PASS_ONLY = "ladm_first_score", "first_pass_only"
# Every text signal and what it is, for people.
TEXT_SIGNALS = {
    "compression": "size of the text over its size when compressed by gzip, NaN if it has no text",
    "duplicate_lines": "share of the lines that repeat an earlier one, in 0..1, NaN if it has no text",
    "duplicate_paragraphs": "share of the paragraphs that repeat an earlier one, in 0..1, NaN if it has no text",
}
# Those that compare the loss with long context to that with a short one, those that need the model's head, those of the
# first layer's attention, and all that come from the model.
GAIN_SIGNALS = {
    "context_gain": "what context beyond `short_context` tokens adds to predicting a token, in nats (LongFilter)",
    "key_token_share": "share of the tokens that only such context makes likely, in 0..1 (LongPPL)",
}
LOSS_SIGNALS = {"token_loss": "mean loss of a token, in nats", **GAIN_SIGNALS}
DISTANT_SIGNALS = {
    "distant_attention": "attention of the first layer to text at least a quarter of the document back (LongAttn)",
    "distant_uniformity": "how evenly that attention is spread, at most 0 (LongAttn)",
}
MODEL_SIGNALS = {**LOSS_SIGNALS, **DISTANT_SIGNALS}
SIGNALS = {**TEXT_SIGNALS, **MODEL_SIGNALS}
MEANINGS = {
    SCORE: "contextual dependency score (CDS) of the document, NaN if it has none",
    NUM_TOKENS: "tokens that were scored, as the calculator's tokenizer counts",
    STATUS: "`ok`, `too_short`, `empty`, `null`, `error: ...` or, in a cascade, `first_pass_only`",
    REPETITION: "how much the document repeats itself, in 0..1, NaN if it has no text",
    **{f"ladm_{name}": meaning for name, meaning in SIGNALS.items()},
    FIRST_SCORE: "score of the first pass of a cascade, by its own calculator; it compares with no ladm_score",
}
# Every column that scoring may add, in the order in which they stand.
SCORE_FIELDS = tuple(
    pa.field(name, {NUM_TOKENS: pa.int32(), STATUS: pa.string()}.get(name, pa.float64())) for name in MEANINGS
)


def score_columns(signals: Iterable[str] = (), cascade: bool = False) -> tuple[str, ...]:
    """Names of the columns that scoring adds: the four, one for each signal, and that of a cascade's first pass."""
    columns = (SCORE, NUM_TOKENS, STATUS, REPETITION, *(f"ladm_{name}" for name in signals))
    return (*columns, FIRST_SCORE) if cascade else columns


def checked_signals(signals: str | Iterable[str] | None) -> tuple[str, ...]:
    """Signals in the order of their columns, from names or one text of names with commas.

    `"repetition"` may be named and adds nothing: its column is always there.

    Raises:
        ConfigError: they are no names, or there is no signal of one.
    """
    try:
        named = signals.split(",") if isinstance(signals, str) else list(signals or ())
    except TypeError as error:
        raise ConfigError(f"signals must be names of signals, got {signals!r}") from error
    asked = {str(name).strip() for name in named} - {"", "repetition"}
    unknown = sorted(asked - set(SIGNALS))
    if unknown:
        raise ConfigError(f"signals has no {unknown[0]!r}: choose some of {', '.join(SIGNALS)}")
    return tuple(name for name in SIGNALS if name in asked)


def with_score_columns(schema: pa.Schema, names: Sequence[str]) -> pa.Schema:
    """The columns of rows and those that scoring adds to them, with the features that `datasets` reads from a file.

    Args:
        schema (`pa.Schema`): columns of the rows.
        names (sequence of `str`): the columns that scoring adds.

    Raises:
        ColumnError: the rows have a column of scores already.
    """
    taken = [name for name in names if name in schema.names]
    if taken:
        raise ColumnError(
            f"the data has a column {taken[0]!r} already: remove or rename it, or write the scores alone with "
            "--scores-only (scores_only=True)"
        )
    fields = [field for field in SCORE_FIELDS if field.name in names]
    metadata = dict(schema.metadata or {})
    if b"huggingface" in metadata:
        from datasets import Features

        added = Features.from_arrow_schema(pa.schema(fields))
        features = Features({**Features.from_arrow_schema(schema), **added})
        metadata.update(features.arrow_schema.metadata)
    return pa.schema([*schema, *fields], metadata=metadata)
