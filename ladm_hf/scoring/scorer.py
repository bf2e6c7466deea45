"""`LadmScorer`: documents -> LADM scores, as one callable for `datasets.map`.

    row {text} -> input_ids -> windows -> batches -> forward pass with a SpanRecorder -> CDS by layer -> score

A scorer pickles without its model and hashes by what determines the numbers (schema version, configuration, model
identity, dtype, columns), so `datasets` finds its cache again in another process and workers load the model themselves.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Features

from ladm_hf.calculators.calculator import DEFAULT, Calculator
from ladm_hf.config import LadmConfig
from ladm_hf.data.score_columns import GAIN_SIGNALS, SCORE_FIELDS, checked_signals, score_columns
from ladm_hf.errors import ConfigError, InputError
from ladm_hf.scoring.begun import Begun
from ladm_hf.scoring.call import Call, OnError
from ladm_hf.scoring.engine import Engine
from ladm_hf.scoring.focus_map import focus_map
from ladm_hf.scoring.identity import SCHEMA_VERSION, Identity
from ladm_hf.scoring.inputs import all_rows, checked_ids, read_batch
from ladm_hf.scoring.journal import Journal
from ladm_hf.scoring.loader import DTYPES, Loader, check_option
from ladm_hf.scoring.precision import OTHER_DTYPE
from ladm_hf.scoring.results import DocumentScore, FocusMap, columns
from ladm_hf.scoring.runtime import Runtime

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# The published short context of LongPPL.
SHORT_CONTEXT = 4096


class LadmScorer:
    """Scores documents by the attention of a calculator. Threads may share one: its model takes their batches in turn.

    Args:
        model (`str`, path or `PreTrainedModel`, *optional*, defaults to `"ladm-nano"`):
            The bundled `"ladm-nano"`, a local folder, a Hub id, or a live model, which has the `ladm_config.json` of
            the local folder that it was loaded from as long as it has the folder's weights. `None` means `$LADM_MODEL`,
            else `"ladm-nano"`, looked up at each use.
        revision (`str`, *optional*):
            Branch, tag or commit of a Hub id.
        config ([`LadmConfig`], *optional*):
            What changes the score. Defaults to the calculator's own `ladm_config.json`, else to the paper's, with a
            warning that all heads are averaged.
        text_column (`str`, *optional*, defaults to `"text"`):
            Column of the text, a nested one with dots. It wins over the token ids; `None` ignores it.
        input_ids_column (`str`, *optional*, defaults to `"input_ids"`):
            Column of the token ids, read only where there is no text column. They must come from the calculator's own
            tokenizer: ids of another that fit the vocabulary cannot be told from them, except in files of
            `ladm prepare`, which `score_dataset` checks.
        backend (`str`, *optional*, defaults to `"auto"`):
            `"naive"`, `"chunked"`, `"fused"` (Triton) or `"auto"`, the fastest for the device. It changes nothing
            but speed.
        dtype (`str` or `torch.dtype`, *optional*, defaults to `"auto"`):
            `"float32"`, `"float16"`, `"bfloat16"`, `"float8"`, or `"auto"`: float16 on an accelerator, the published
            code's; on a CPU bfloat16 where the weights were saved in it and the processor multiplies it faster (AMX or
            AVX512-BF16), else float32. It is a part of the identity as what it came to, so that runs and caches never
            mix two types; name one to have the same on every machine. On a CPU Llama-like models in bfloat16 keep their
            residual stream, norms and the score's queries and keys in float32. `"float8"` is for GPUs of capability 8.9
            or newer and models with the fused forward pass: their linear layers multiply in float8 (e4m3, a scale for
            each row), everything else is bfloat16. A live model keeps its own.
        device (`str`, *optional*):
            Defaults to the GPU of the worker's rank where there is one, else MPS, else the CPU.
        max_batch_tokens (`int`, *optional*):
            Padded tokens in a batch. Defaults to one document at a time on a CPU, and on a GPU to what half of its
            free memory holds. It is halved when memory runs out.
        on_error (`str`, *optional*, defaults to `"status"`):
            `"status"` gives a bad row a status and NaN and continues; `"raise"` raises [`RowError`] instead.
        journal (`str` or path, *optional*):
            Folder in which a call keeps finished rows, by the hash of their content, so that an interrupted
            `dataset.map(scorer, batched=True)` does not score them again. It changes neither scores nor fingerprint.
        signals (sequence of `str`, *optional*):
            Other published signals to give beside the score, each in a column `ladm_<name>`. Of the text alone:
            `"compression"`, `"duplicate_lines"`, `"duplicate_paragraphs"` (see `ladm_hf.scoring.text_signals`). Of the
            calculator's losses: `"token_loss"`, `"context_gain"`, `"key_token_share"` (`ladm_hf.scoring.losses`), for
            which the forward pass goes on to the model's head. Of its first layer: `"distant_attention"`,
            `"distant_uniformity"` (`ladm_hf.ops.distant`). One text with commas does too. Signals of the model are NaN
            where the status is not `"ok"`; of a document in windows they are the mean over windows that have them,
            weighted by tokens.
        short_context (`int`, *optional*, defaults to `4096`):
            Tokens of the short context of `"context_gain"` and `"key_token_share"`.

    Raises:
        ConfigError: an option is out of range.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | PreTrainedModel | None = DEFAULT,
        *,
        revision: str | None = None,
        config: LadmConfig | None = None,
        text_column: str | None = "text",
        input_ids_column: str | None = "input_ids",
        backend: str = "auto",
        dtype: str | torch.dtype = "auto",
        device: str | torch.device | None = None,
        max_batch_tokens: int | None = None,
        on_error: OnError = "status",
        journal: str | os.PathLike[str] | None = None,
        signals: str | Iterable[str] = (),
        short_context: int = SHORT_CONTEXT,
    ) -> None:
        check_option("on_error", on_error, ("status", "raise"))
        if text_column is None and input_ids_column is None:
            raise ConfigError("text_column and input_ids_column are both None: there is nothing to read")
        if isinstance(short_context, bool) or not isinstance(short_context, int) or short_context < 1:
            raise ConfigError(f"short_context must be a positive number of tokens, got {short_context!r}")
        self.text_column = text_column
        self.input_ids_column = input_ids_column
        self.on_error: OnError = on_error
        self.signals = checked_signals(signals)
        self.short_context = short_context
        self._loader = Loader(
            model,
            revision=revision,
            config=config,
            dtype=dtype,
            backend=backend,
            device=device,
            max_batch_tokens=max_batch_tokens,
            signals=self.signals,
            short_context=short_context,
        )
        self._journal_folder = None if journal is None else os.fspath(journal)
        self._journal: Journal | None = None

    # What determines the numbers

    @property
    def calculator(self) -> Calculator:
        """The calculator, found but perhaps not yet loaded.

        Raises:
            HubError: the Hub did not give it.
            CalculatorError: the folder is no calculator.
        """
        return self._loader.calculator

    @property
    def config(self) -> LadmConfig:
        """The configuration in force: what was given, the rest the calculator's own, else the paper's."""
        return self._loader.config

    @property
    def dtype(self) -> str:
        """The dtype in force, `"auto"` resolved."""
        return self._loader.dtype

    @property
    def identity(self) -> Identity:
        """What determines the numbers, and so `datasets`' fingerprint: never weights, never the device."""
        config = tuple(sorted((key, repr(value)) for key, value in self.config.to_dict().items()))
        return Identity(
            "ladm",
            SCHEMA_VERSION,
            config,
            self.calculator.identity,
            self.dtype,
            self.text_column,
            self.input_ids_column,
            self.on_error,
            signals=self.signals,
            short_context=self.short_context if set(self.signals) & set(GAIN_SIGNALS) else None,
        )

    @property
    def features(self) -> Features:
        """The columns that a call adds, for `Dataset.map(..., features=)` and streams without known features."""
        names = score_columns(self.signals)
        return Features.from_arrow_schema(pa.schema([field for field in SCORE_FIELDS if field.name in names]))

    @property
    def scored_layers(self) -> tuple[int, ...]:
        """Layers that count, from 0. Loads the model."""
        return self._load(None).layers

    @property
    def skipped_layers(self) -> dict[int, str]:
        """Layers left out because they do not see the whole document, with the reason. Loads the model."""
        return dict(self._load(None).plan.skipped)

    def _load(self, rank: int | None) -> Engine:
        return self._loader.engine(rank)

    # Copies of it, here and in other processes

    def __reduce__(self) -> tuple[Any, ...]:
        self._loader.forget_what_can_change()
        return _rebuild, (type(self), self._runtime(self.dtype), tuple(self.identity))

    def __repr__(self) -> str:
        model = self._loader.model
        if model is None:
            return f"{type(self).__name__}($LADM_MODEL or {DEFAULT})"
        return f"{type(self).__name__}({os.fspath(model) if isinstance(model, (str, os.PathLike)) else type(model)!r})"

    def with_config(self, config: LadmConfig) -> LadmScorer:
        """The same scorer with another configuration; nothing is loaded."""
        return _rebuild(type(self), self._runtime(self._loader.settled_dtype, config=config))

    def with_signals(self, signals: Iterable[str]) -> LadmScorer:
        """The same scorer with other signals; nothing is loaded."""
        return _rebuild(type(self), self._runtime(self._loader.settled_dtype, signals=signals))

    def with_auto_dtype(self, dtype: str) -> LadmScorer:
        """The same scorer with `"auto"` taken as `dtype`; a dtype that was named, or a live model's, stays.

        Args:
            dtype (`str`): `"float32"`, `"float16"` or `"bfloat16"`, as [`LadmScorer.dtype`] of another machine.
        """
        check_option("dtype", dtype, DTYPES)
        # copy.copy would pickle, which settles the dtype, and a subclass may have other arguments
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__, _loader=self._loader.with_auto_dtype(dtype))
        return other

    def _runtime(self, settled_dtype: str | None, **changes: Any) -> Runtime:
        """What makes this scorer again, but for some arguments."""
        options = {
            "config": self.config,
            "text_column": self.text_column,
            "input_ids_column": self.input_ids_column,
            "on_error": self.on_error,
            "journal": self._journal_folder,
            "signals": self.signals,
        }
        return Runtime(self._loader, settled_dtype, options | changes)

    # Scoring

    def __call__(self, batch: Any, rank: int | None = None, *others: Any) -> dict[str, Any]:
        """Scores a batch of rows: `dataset.map(scorer, batched=True)`.

        Args:
            batch (columns by name, or a list of documents):
                A dictionary, `pa.Table`, `DataFrame` or `Dataset`, which needs the text column, or the token-id column
                where there is no text; a name with dots reaches into nested columns (`"meta.text"`). Or the documents
                themselves, as a list, array, `Series` or `dataset["text"]`. `None`, NaN, `pd.NA` and NaT are `"null"`.
            rank (`int`, *optional*):
                Rank of the worker, with `with_rank=True`: it picks the GPU.

        Returns:
            `{"ladm_score": float64 array, "ladm_num_tokens": int32 array, "ladm_status": list[str],
            "ladm_repetition": float64 array}`, each of the batch's length, in its order. The last is how much a row
            with text repeats itself, in 0..1 and whatever its status, NaN where there is no text. A float64 array
            `ladm_<name>` follows for each signal. In the formats of tables (`with_format("pandas")`, `"arrow"`,
            `"polars"`) `map` keeps no column but these: map `with_format(None)`.

        Raises:
            ColumnError: neither column is there, or the call is not batched.
            InputError: one text was given in place of a list, or something beside the batch and the rank.
            RowError: a row is bad and `on_error="raise"`.
        """
        if others or not (rank is None or isinstance(rank, (int, np.integer))):
            raise InputError(
                "a scorer takes a batch and the rank of the worker alone: call map without with_indices, and with no "
                "more than one name in input_columns"
            )
        return self.begin(batch, rank)()

    def begin(self, batch: Any, rank: int | None = None) -> Begun[dict[str, Any]]:
        """Begins a call: what is returned scores the batch when it is called, and gives what the call gives.

        Where [`LadmScorer.works_ahead`] says so, threads tokenise the batch meanwhile, so that a device need not wait
        for the tokenizer if the next batch is begun before the one at hand is scored; nor for anything else if the next
        batch is started (`Begun.start`) before the one at hand is called. Else nothing happens before what is returned
        is called.
        """
        column, rows = read_batch(batch, self.text_column, self.input_ids_column)
        call = self._call(column, are_texts=column == self.text_column, rank=rank, progress=False)
        if not call.are_texts:
            rows = [checked_ids(row) for row in rows]
        if self._journal_folder is not None:
            folder = self._journal_folder
            return Begun(lambda: columns(call.score_journalled(rows, self._journal_in(folder)), self.signals))
        return call.begin(rows).then(lambda scores: columns(scores, self.signals))

    def check_device(self, rank: int | None = None, advice: str = OTHER_DTYPE) -> None:
        """Refuses a device that cannot compute in the dtype; nothing is loaded.

        Args:
            rank (`int`, *optional*): of the worker.
            advice (`str`, *optional*, defaults to another dtype): what to do instead.

        Raises:
            BackendError: the message says what it lacks.
        """
        self._loader.check_device(rank, advice)

    def works_ahead(self, rank: int | None = None) -> bool:
        """Whether the device computes on its own while the host does something else, as a GPU does."""
        return self._journal_folder is None and self._loader.works_ahead(rank)

    def score_texts(
        self, texts: Iterable[str | None], *, rank: int | None = None, progress: bool | None = None
    ) -> list[DocumentScore]:
        """Scores texts.

        Args:
            texts (iterable of `str`): the documents. Anything else gets a status.
            rank (`int`, *optional*): rank of this process on its machine: it picks the GPU.
            progress (`bool`, *optional*): `None` shows a bar on a terminal when the work takes more than 2 s.

        Returns:
            One [`DocumentScore`] for each text, in order.

        Raises:
            InputError: one text was given in place of several.
        """
        call = self._call(self.text_column or "text", are_texts=True, rank=rank, progress=progress)
        return call.begin(all_rows(texts))()

    def score_input_ids(self, input_ids: Iterable[Any], *, progress: bool | None = None) -> list[DocumentScore]:
        """Scores sequences of token ids (lists, arrays or tensors of integers).

        Args:
            input_ids (iterable of sequences of `int`): the documents. Anything else gets a status.
            progress (`bool`, *optional*): `None` shows a bar on a terminal when the work takes more than 2 s.

        Returns:
            One [`DocumentScore`] for each sequence, in order.
        """
        call = self._call(self.input_ids_column or "input_ids", are_texts=False, rank=None, progress=progress)
        return call.begin([checked_ids(ids) for ids in all_rows(input_ids)])()

    def focus_map(self, document: str | Sequence[int]) -> FocusMap:
        """The PFS of one document over its spans, averaged over the heads and layers that count.

        Args:
            document (`str` or sequence of `int`): a text or its token ids; only the first `max_length` tokens count.

        Raises:
            RowError: the document has no score; the message gives its status.
        """
        return focus_map(self._load(None), document)

    def _call(self, column: str, *, are_texts: bool, rank: int | None, progress: bool | None) -> Call:
        return Call(self._loader, column, are_texts, self.signals, self.on_error, rank, progress)

    def _journal_in(self, folder: str) -> Journal:
        """The journal of what determines the scores now."""
        self._loader.forget_what_can_change()
        determines = self.identity.of_a_document
        if self._journal is None or self._journal.identity != determines:
            self._journal = Journal(folder, determines, len(self._loader.model_signals))
        return self._journal


def _rebuild(cls: type[LadmScorer], runtime: Runtime, identity: tuple[Any, ...] | None = None) -> LadmScorer:
    scorer = cls(runtime.model, **runtime.options)
    scorer._loader.settled_dtype = runtime.settled_dtype
    if runtime.calculator is not None:
        scorer._loader.take(runtime.calculator)
    return scorer


ladm_score = LadmScorer(None)
