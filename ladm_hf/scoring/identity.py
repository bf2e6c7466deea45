"""What determines the columns that a scorer adds: the key of `datasets`' caches, of runs and of journals."""

from __future__ import annotations

from typing import Any, NamedTuple

from ladm_hf.data.score_columns import MODEL_SIGNALS

# Raised when the same inputs give other numbers than before: a part of every fingerprint.
SCHEMA_VERSION = 1


class Identity(NamedTuple):
    """What determines the columns that a scorer adds. As a plain tuple it is hashed by `datasets`.

    Attributes:
        kind (`str`): `"ladm"`.
        schema_version (`int`): raised when the same inputs give other numbers than before.
        config (`tuple`): name and `repr` of each option of the configuration in force, by name.
        calculator (`str`): [`Calculator`]'s own identity.
        dtype (`str`): of the weights.
        text_column, input_ids_column, on_error: the options of the scorer.
        repetition (`int`): raised when the same text gives another `ladm_repetition` than before.
        signals (`tuple[str, ...]`): signals that stand beside the score.
        short_context (`int`, *optional*): tokens of the short context, where a signal has one.
    """

    kind: str
    schema_version: int
    config: tuple[tuple[str, str], ...]
    calculator: str
    dtype: str
    text_column: str | None
    input_ids_column: str | None
    on_error: str
    repetition: int = 2
    signals: tuple[str, ...] = ()
    short_context: int | None = None

    @property
    def of_a_document(self) -> tuple[Any, ...]:
        """What determines the score of a document, whatever column it stands in; its `repr` names a journal."""
        # signals of a text are counted anew
        signals = tuple(name for name in self.signals if name in MODEL_SIGNALS)
        return (*self[:5], signals, self.short_context) if signals else tuple(self[:5])
