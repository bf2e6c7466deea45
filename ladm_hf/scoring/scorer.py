"""`LadmScorer`: documents -> LADM scores, as one callable for `datasets.map`.

    row {text} -> input_ids -> windows -> batches -> forward pass with a SpanRecorder -> CDS by layer -> score

A scorer pickles without its model and hashes by what determines the numbers (schema version, configuration, model
identity, dtype, columns), so `datasets` finds its cache again in another process and workers load the model themselves.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from datasets import Features

from ladm_hf.calculators.calculator import DEFAULT, Calculator, resolve
from ladm_hf.config import LadmConfig
from ladm_hf.data.score_columns import (
    GAIN_SIGNALS,
    MODEL_SIGNALS,
    SCORE_FIELDS,
    TEXT_SIGNALS,
    checked_signals,
    score_columns,
)
from ladm_hf.errors import BackendError, ConfigError, InputError, RowError
from ladm_hf.ops import BACKENDS
from ladm_hf.ops.scores import document_score
from ladm_hf.scoring.encoder import Encoder
from ladm_hf.scoring.engine import Engine, host_threads, prepare_worker
from ladm_hf.scoring.inputs import Tokens, all_rows, checked_ids, read_batch
from ladm_hf.scoring.journal import Finished, Journal, with_journal
from ladm_hf.scoring.precision import auto_dtype
from ladm_hf.scoring.repetition import repetition
from ladm_hf.scoring.results import DocumentScore, FocusMap
from ladm_hf.scoring.rows import (
    TOKENIZE_CHARS,
    Counted,
    begin_scoring,
    counted,
    score_rows,
    status_of,
    with_statistics,
)
from ladm_hf.scoring.text_signals import text_signals

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Raised when the same inputs give other numbers than before: a part of every fingerprint.
SCHEMA_VERSION = 1
# Characters scored on a CPU before the journal keeps them; elsewhere as many as are tokenised at once.
JOURNAL_CHARS = 65_536
# The published short context of LongPPL.
SHORT_CONTEXT = 4096
DTYPES = ("float32", "float16", "bfloat16")
DOCUMENT_BACKENDS = ("auto", *BACKENDS)
OnError = Literal["status", "raise"]


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


class _Options(NamedTuple):
    """What was asked for, before the calculator is known."""

    model: Any
    revision: str | None
    config: LadmConfig | None
    dtype: str


class _Found(NamedTuple):
    """A calculator, and what it was looked up by."""

    model: Any
    revision: str | None
    calculator: Calculator


class _EngineKey(NamedTuple):
    """What makes another engine necessary."""

    calculator: str
    config: LadmConfig
    dtype: str
    device: str
    backend: str
    max_batch_tokens: int | None
    signals: tuple[str, ...]
    short_context: int


class _Loaded(NamedTuple):
    """An engine, and what it was loaded for."""

    key: _EngineKey
    engine: Engine


class LadmScorer:
    """Scores documents by the attention of a calculator.

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
            `"float32"`, `"float16"`, `"bfloat16"`, or `"auto"`: float16 on an accelerator, the published code's; on a
            CPU bfloat16 where the weights were saved in it and the processor multiplies it faster (AMX or
            AVX512-BF16), else float32. It is a part of
            the identity as what it came to, so that runs and caches never mix two types; name one to have the same on
            every machine. On a CPU Llama-like models in bfloat16 keep their residual stream, norms and the score's
            queries and keys in float32. A live model keeps its own.
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
        dtype = str(dtype).removeprefix("torch.")
        _check_option("dtype", dtype, ("auto", *DTYPES))
        _check_option("backend", backend, DOCUMENT_BACKENDS)
        _check_option("on_error", on_error, ("status", "raise"))
        if config is not None and not isinstance(config, LadmConfig):
            raise ConfigError(f"config must be a LadmConfig, got {type(config).__name__}")
        if max_batch_tokens is not None and max_batch_tokens < 1:
            raise ConfigError(f"max_batch_tokens must be positive, got {max_batch_tokens}")
        if text_column is None and input_ids_column is None:
            raise ConfigError("text_column and input_ids_column are both None: there is nothing to read")
        self.text_column = text_column
        self.input_ids_column = input_ids_column
        self.on_error: OnError = on_error
        self.signals = checked_signals(signals)
        if isinstance(short_context, bool) or not isinstance(short_context, int) or short_context < 1:
            raise ConfigError(f"short_context must be a positive number of tokens, got {short_context!r}")
        self.short_context = short_context
        self._options = _Options(model, revision, config, dtype)
        # what "auto" stands for where that was settled elsewhere: in the process that sent this scorer, or by a run
        self._settled_dtype: str | None = None
        self._backend = backend
        try:
            self._device = None if device is None else str(torch.device(device))
        except RuntimeError as error:
            raise ConfigError(f"device must name a torch device such as 'cpu' or 'cuda:0', got {device!r}") from error
        self._max_batch_tokens = max_batch_tokens
        self._journal_folder = None if journal is None else os.fspath(journal)
        self._journal: Journal | None = None
        self._found: _Found | None = None
        self._loaded: _Loaded | None = None
        self._encoder_of: tuple[str, Encoder] | None = None
        self._encoding = threading.Lock()
        self._threads: tuple[int, ThreadPoolExecutor] | None = None

    # What determines the numbers

    @property
    def calculator(self) -> Calculator:
        """The calculator, found but perhaps not yet loaded.

        Raises:
            HubError: the Hub did not give it.
            CalculatorError: the folder is no calculator.
        """
        model, revision = self._options.model, self._options.revision
        asked = os.environ.get("LADM_MODEL") if model is None else model
        if self._found is None or (self._found.model, self._found.revision) != (asked, revision):
            self._found = _Found(asked, revision, resolve(model, revision))
        return self._found.calculator

    @property
    def config(self) -> LadmConfig:
        """The configuration in force: what was given, the rest the calculator's own, else the paper's."""
        asked = self._options.config
        return self.calculator.config if asked is None else asked.over(self.calculator.config)

    @property
    def dtype(self) -> str:
        """The dtype in force, `"auto"` resolved."""
        model, asked = self.calculator.model, self._options.dtype
        if model is not None:
            return str(model.dtype).removeprefix("torch.")
        if asked != "auto":
            return asked
        return self._settled_dtype or auto_dtype(self.calculator, self._default_device(None))

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

    def __reduce__(self) -> tuple[Any, ...]:
        self._forget_what_can_change()
        return _rebuild, (type(self), _Runtime(self, self.dtype), tuple(self.identity))

    def _forget_what_can_change(self) -> None:
        """Has a folder or live model hashed again at its next use; a commit cannot have changed."""
        if self._found is not None and self._found.calculator.revision is None:
            self._found = None

    def __repr__(self) -> str:
        model = self._options.model
        if model is None:
            return f"{type(self).__name__}($LADM_MODEL or {DEFAULT})"
        return f"{type(self).__name__}({os.fspath(model) if isinstance(model, (str, os.PathLike)) else type(model)!r})"

    def with_config(self, config: LadmConfig) -> LadmScorer:
        """The same scorer with another configuration; nothing is loaded."""
        runtime = _Runtime(self, self._settled_dtype)
        runtime.options["config"] = config
        return _rebuild(type(self), runtime)

    def with_signals(self, signals: Iterable[str]) -> LadmScorer:
        """The same scorer with other signals; nothing is loaded."""
        runtime = _Runtime(self, self._settled_dtype)
        runtime.options["signals"] = signals
        return _rebuild(type(self), runtime)

    def with_auto_dtype(self, dtype: str) -> LadmScorer:
        """The same scorer with `"auto"` taken as `dtype`; a dtype that was named, or a live model's, stays.

        Args:
            dtype (`str`): `"float32"`, `"float16"` or `"bfloat16"`, as [`LadmScorer.dtype`] of another machine.
        """
        _check_option("dtype", dtype, DTYPES)
        # copy.copy would pickle, which settles the dtype, and a subclass may have other arguments
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__, _settled_dtype=dtype, _loaded=None)
        return other

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

    def begin(self, batch: Any, rank: int | None = None) -> Callable[[], dict[str, Any]]:
        """Begins a call: the function returned scores the batch and gives what the call gives.

        Where [`LadmScorer.works_ahead`] says so, threads tokenise the batch meanwhile, so that a device need not wait
        for the tokenizer if the next batch is begun before the one at hand is scored. Else nothing happens before the
        function is called.
        """
        column, rows = read_batch(batch, self.text_column, self.input_ids_column)
        if column != self.text_column:
            rows = [checked_ids(row) for row in rows]
        if self._journal_folder is not None:
            return lambda: self._columns(self._score_journalled(column, rows, rank))
        scored = self._begin(column, rows, rank, False, self.on_error)
        return lambda: self._columns(scored())

    def works_ahead(self, rank: int | None = None) -> bool:
        """Whether the device computes on its own while the host does something else, as a GPU does."""
        return self._journal_folder is None and self._default_device(rank).startswith("cuda")

    def _columns(self, scores: list[DocumentScore]) -> dict[str, Any]:
        """Scores as columns."""
        return {
            "ladm_score": np.array([score.score for score in scores], dtype=np.float64),
            "ladm_num_tokens": np.array([score.num_tokens for score in scores], dtype=np.int32),
            "ladm_status": [score.status for score in scores],
            "ladm_repetition": np.array([score.repetition for score in scores], dtype=np.float64),
            **{
                f"ladm_{name}": np.array([score.signals[name] for score in scores], dtype=np.float64)
                for name in self.signals
            },
        }

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
        return self._begin(self.text_column or "text", all_rows(texts), rank, progress, self.on_error, True)()

    def score_input_ids(self, input_ids: Iterable[Any], *, progress: bool | None = None) -> list[DocumentScore]:
        """Scores sequences of token ids (lists, arrays or tensors of integers).

        Args:
            input_ids (iterable of sequences of `int`): the documents. Anything else gets a status.
            progress (`bool`, *optional*): `None` shows a bar on a terminal when the work takes more than 2 s.

        Returns:
            One [`DocumentScore`] for each sequence, in order.
        """
        column, rows = self.input_ids_column or "input_ids", [checked_ids(ids) for ids in all_rows(input_ids)]
        return self._begin(column, rows, None, progress, self.on_error, False)()

    def focus_map(self, document: str | Sequence[int]) -> FocusMap:
        """The PFS of one document over its spans, averaged over the heads and layers that count.

        Args:
            document (`str` or sequence of `int`): a text or its token ids; only the first `max_length` tokens count.

        Raises:
            RowError: the document has no score; the message gives its status.
        """
        engine, offsets = self._load(None), None
        if isinstance(document, str):
            encoded = engine.tokenizer(document, verbose=False, return_offsets_mapping=engine.tokenizer.is_fast)
            ids = np.asarray(encoded["input_ids"], dtype=np.int64)[: self.config.max_length]
            if "offset_mapping" in encoded:
                offsets = np.asarray(encoded["offset_mapping"], dtype=np.int64).reshape(-1, 2)[: len(ids)]
            row: Tokens | str = ids if document.strip() else "empty"
        else:
            row = checked_ids(document)
            row = row if isinstance(row, str) else row[: self.config.max_length]
        status = row if isinstance(row, str) else status_of(row, engine)
        if isinstance(row, str) or status != "ok":
            raise RowError(
                f"this document has no focus map: {status} (at least {self.config.min_tokens} tokens are needed)"
            )
        grid, pfs = engine.pfs([row])
        layers = engine.cds(grid, pfs)[:, 0].numpy()
        starts = np.full(grid.shape, -1, dtype=np.int64)
        for r, _, count in grid.query_spans(0):
            starts[r, :count] = grid.key_starts(0, r)
        mean = np.where(grid.present[0], pfs.mean(0)[0].numpy(), np.nan).astype(np.float32)
        again = repetition(document if isinstance(document, str) else row)
        total = document_score(layers, self.config.weights)
        score = DocumentScore(total, len(row), "ok", tuple(layers.tolist()), again)
        return FocusMap(mean, grid.query_starts[0], starts, grid.span_length, offsets, score)

    @property
    def _model_signals(self) -> tuple[str, ...]:
        return tuple(name for name in self.signals if name in MODEL_SIGNALS)

    # Rows

    def _begin(
        self,
        column: str,
        rows: list[Any],
        rank: int | None,
        progress: bool | None,
        on_error: OnError,
        are_texts: bool | None = None,
    ) -> Callable[[], list[DocumentScore]]:
        """Begins to score texts, or what `checked_ids` gave; by default the column tells which they are."""
        are_texts = column == self.text_column if are_texts is None else are_texts
        if not are_texts:
            self._warn_of_text_signals()
        encode = (lambda texts: self._encoder()(texts)) if are_texts else None

        def score(ids: list[Tokens | str], first: int) -> list[DocumentScore]:
            def check(i: int, status: str) -> None:
                _check_status(first + i, column, status, on_error)

            return score_rows(ids, lambda: self._load(rank), check, progress)

        def count(some: list[Any]) -> Counted:
            return counted(some, encode, self._statistics)

        return begin_scoring(rows, count, score, self._host_threads() if self.works_ahead(rank) else None)

    def _score_journalled(self, column: str, rows: list[Any], rank: int | None) -> list[DocumentScore]:
        """Scores rows that the journal does not hold yet, and keeps them as they finish."""
        self._forget_what_can_change()
        identity = self.identity.of_a_document
        if self._journal is None or self._journal.identity != identity:
            self._journal = Journal(self._journal_folder or "", identity, len(self._model_signals))

        def score(group: list[Any]) -> list[Finished]:
            # bad rows are named by their place in the whole batch, so the parts of it must not raise
            scores = self._begin(column, group, rank, False, "status")()
            return [
                Finished(s.score, s.num_tokens, s.status, tuple(s.signals[name] for name in self._model_signals))
                for s in scores
            ]

        limit = JOURNAL_CHARS if self._default_device(rank) == "cpu" else TOKENIZE_CHARS
        if column != self.text_column:
            limit //= 4
        scores = [
            DocumentScore(*found[:3], signals=dict(zip(self._model_signals, found.signals, strict=True)))
            for found in with_journal(self._journal, rows, limit, score)
        ]
        for i, found in enumerate(scores):
            _check_status(i, column, found.status, self.on_error)
        # counted again rather than kept: it costs less than the journal's own hash
        documents = rows if column == self.text_column else [None if isinstance(row, str) else row for row in rows]
        return with_statistics(scores, map(self._statistics, documents))

    def _warn_of_text_signals(self) -> None:
        without = [name for name in self.signals if name in TEXT_SIGNALS]
        if without:
            warnings.warn(
                f"the signals {', '.join(without)} are statistics of a text, and these rows hold token ids: they are "
                "NaN. Give a text column beside the token ids, or leave these signals out",
                UserWarning,
                stacklevel=2,
            )

    def _statistics(self, document: Any) -> tuple[float, Mapping[str, float]]:
        """What is counted of a text or of token ids, beside the score."""
        return repetition(document), text_signals(document, self.signals)

    def _encoder(self) -> Encoder:
        """The calculator's tokenizer, loaded once whatever threads ask for it."""
        with self._encoding:
            calculator = self.calculator
            if self._encoder_of is None or self._encoder_of[0] != calculator.identity:
                prepare_worker()
                self._encoder_of = calculator.identity, Encoder(calculator.load_tokenizer())
            return self._encoder_of[1]

    def _host_threads(self) -> ThreadPoolExecutor:
        """Threads that tokenise ahead of a device; a forked process has its own."""
        if self._threads is None or self._threads[0] != os.getpid():
            self._threads = os.getpid(), ThreadPoolExecutor(host_threads(), "ladm-tokenizer")
        return self._threads[1]

    # The model

    def _default_device(self, rank: int | None) -> str:
        if self.calculator.model is not None:
            return str(self.calculator.model.device)
        if self._device not in (None, "cuda"):
            return str(self._device)
        # device_count asks the driver's management library, which leaves later forks able to use CUDA
        gpus = torch.cuda.device_count()
        if self._device == "cuda" and not gpus:
            raise BackendError("device='cuda' was asked for, but no CUDA device is visible: see `ladm env`")
        if gpus:
            return f"cuda:{(rank or 0) % gpus}"
        return "mps" if torch.backends.mps.is_available() else "cpu"

    def _load(self, rank: int | None) -> Engine:
        calculator = self.calculator
        key = _EngineKey(
            calculator.identity,
            self.config,
            self.dtype,
            self._default_device(rank),
            self._backend,
            self._max_batch_tokens,
            self._model_signals,
            self.short_context,
        )
        if self._loaded is None or self._loaded.key != key:
            prepare_worker()
            self._warn_if_uncalibrated()
            # the old model goes before the new one is loaded
            self._loaded = None
            engine = Engine(calculator, *key[1:])
            self._loaded = _Loaded(key, engine)
        return self._loaded.engine

    def _warn_if_uncalibrated(self) -> None:
        asked, calculator = self._options.config, self.calculator
        if not calculator.uncalibrated or (asked is not None and "heads" in asked.given):
            return
        warnings.warn(
            f"{calculator.name!r} {calculator.uncalibrated}: all of its heads are averaged. "
            f"`{self._calibrate_command()}` chooses a few and weighs them, see docs/training.md; "
            "config=LadmConfig.paper() asks for all of them without this warning",
            UserWarning,
            stacklevel=2,
        )

    def _calibrate_command(self) -> str:
        name = self.calculator.name
        if self.calculator.path is None:
            return "ladm calibrate FOLDER"
        # nothing is written into the cache of the Hub
        output = () if self.calculator.revision is None else ("--output", "calibration")
        return shlex.join(("ladm", "calibrate", name, *output))


class _Runtime:
    """What a worker needs beside the identity to rebuild a scorer. It travels in a pickle but is not hashed."""

    def __init__(self, scorer: LadmScorer, settled_dtype: str | None) -> None:
        calculator = scorer.calculator
        self.settled_dtype = settled_dtype
        self.calculator = calculator if calculator.model is not None else None
        self.model = None if calculator.model is not None else calculator.name
        self.options: dict[str, Any] = {
            "revision": calculator.revision,
            "config": scorer.config,
            "dtype": scorer._options.dtype,
            "text_column": scorer.text_column,
            "input_ids_column": scorer.input_ids_column,
            "on_error": scorer.on_error,
            "backend": scorer._backend,
            "device": scorer._device,
            "max_batch_tokens": scorer._max_batch_tokens,
            "journal": scorer._journal_folder,
            "signals": scorer.signals,
            "short_context": scorer.short_context,
        }


def _hash_runtime(pickler: Any, runtime: _Runtime) -> None:
    """How `datasets` hashes a `_Runtime`: as a constant."""
    pickler.save_reduce(str, ("ladm runtime",), obj=runtime)


# A private name; without it `datasets` hashes the runtime too, and a scorer on another device misses its cache.
with contextlib.suppress(ImportError):
    from datasets.utils._dill import pklregister

    pklregister(_Runtime)(_hash_runtime)


def _rebuild(cls: type[LadmScorer], runtime: _Runtime, identity: tuple[Any, ...] | None = None) -> LadmScorer:
    model = runtime.model if runtime.calculator is None else runtime.calculator.model
    scorer = cls(model, **runtime.options)
    scorer._settled_dtype = runtime.settled_dtype
    if runtime.calculator is not None:
        # its weights were hashed where it came from
        scorer._found = _Found(model, None, runtime.calculator)
    return scorer


def _check_status(row: int, column: str, status: str, on_error: OnError) -> None:
    if on_error == "raise" and status != "ok":
        raise RowError(
            f"row {row} of this batch, column {column!r}: {status}. With on_error='status' such rows get NaN."
        )


def _check_option(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")


ladm_score = LadmScorer(None)
