"""From what a scorer was asked for to what it computes with: the calculator, the options in force, the engine.

    model, revision -> calculator -> configuration, dtype -> engine of a device, tokenizer

Each is found at its first use and kept as long as what it was found by stays.
"""

from __future__ import annotations

import copy
import os
import shlex
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from ladm_hf.calculators.calculator import Calculator, resolve
from ladm_hf.config import LadmConfig
from ladm_hf.data.score_columns import MODEL_SIGNALS
from ladm_hf.errors import BackendError, ConfigError
from ladm_hf.ops import BACKENDS
from ladm_hf.ops.device import turn
from ladm_hf.scoring.encoder import Encoder
from ladm_hf.scoring.engine import Engine, host_threads, prepare_worker
from ladm_hf.scoring.host import HostPart, HostProcesses
from ladm_hf.scoring.precision import FLOAT8, OTHER_DTYPE, auto_dtype, check_float8
from ladm_hf.scoring.rows import COUNTING_THREADS, HostThreads

if TYPE_CHECKING:
    from transformers import PreTrainedModel

DTYPES = ("float32", "float16", "bfloat16", FLOAT8)
DOCUMENT_BACKENDS = ("auto", *BACKENDS)
# Characters and token ids after which processes do the host's part: they take half a second to start.
MUCH_WORK = 4_000_000


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


class _Host(NamedTuple):
    """What does the host's part here, and the same by processes."""

    part: HostPart
    processes: HostProcesses

    @classmethod
    def of(cls, encoder: Encoder | None) -> _Host:
        part = HostPart(encoder)
        return cls(part, HostProcesses(part))


class Loader:
    """The calculator of a scorer, and its engine.

    Args:
        model, revision, config, dtype, backend, device, max_batch_tokens, signals, short_context:
            as for [`LadmScorer`].

    Raises:
        ConfigError: an option is out of range.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | PreTrainedModel | None,
        *,
        revision: str | None,
        config: LadmConfig | None,
        dtype: str | torch.dtype,
        backend: str,
        device: str | torch.device | None,
        max_batch_tokens: int | None,
        signals: tuple[str, ...],
        short_context: int,
    ) -> None:
        dtype = str(dtype).removeprefix("torch.")
        check_option("dtype", dtype, ("auto", *DTYPES))
        if dtype == FLOAT8 and not (model is None or isinstance(model, (str, os.PathLike))):
            raise ConfigError(
                "dtype='float8' needs a calculator that is loaded by name or from a folder: a live model keeps its own"
            )
        check_option("backend", backend, DOCUMENT_BACKENDS)
        if config is not None and not isinstance(config, LadmConfig):
            raise ConfigError(f"config must be a LadmConfig, got {type(config).__name__}")
        if max_batch_tokens is not None and max_batch_tokens < 1:
            raise ConfigError(f"max_batch_tokens must be positive, got {max_batch_tokens}")
        try:
            self.asked_device = None if device is None else str(torch.device(device))
        except RuntimeError as error:
            raise ConfigError(f"device must name a torch device such as 'cpu' or 'cuda:0', got {device!r}") from error
        self.model, self.revision = model, revision
        self.asked_config, self.asked_dtype = config, dtype
        self.backend, self.max_batch_tokens = backend, max_batch_tokens
        self.model_signals = tuple(name for name in signals if name in MODEL_SIGNALS)
        self.short_context = short_context
        # what "auto" stands for where that was settled elsewhere: in the process that sent the scorer, or by a run
        self.settled_dtype: str | None = None
        self._found: _Found | None = None
        self._loaded: _Loaded | None = None
        self._counting = _Host.of(None)
        # with the identity of the calculator whose tokenizer it has
        self._encoding: tuple[str, _Host] | None = None
        self._host_work = 0
        self._threads: tuple[int, HostThreads] | None = None

    @property
    def calculator(self) -> Calculator:
        """The calculator, found but perhaps not yet loaded.

        Raises:
            HubError: the Hub did not give it.
            CalculatorError: the folder is no calculator.
        """
        asked = os.environ.get("LADM_MODEL") if self.model is None else self.model
        # another thread may forget it meanwhile
        found = self._found
        if found is None or (found.model, found.revision) != (asked, self.revision):
            found = self._found = _Found(asked, self.revision, resolve(self.model, self.revision))
        return found.calculator

    def take(self, calculator: Calculator) -> None:
        """Takes the calculator of a live model, whose weights were hashed where it came from."""
        self._found = _Found(self.model, self.revision, calculator)

    def forget_what_can_change(self) -> None:
        """Has a folder or live model hashed again at its next use; a commit cannot have changed."""
        found = self._found
        if found is not None and found.calculator.revision is None:
            self._found = None

    @property
    def config(self) -> LadmConfig:
        """The configuration in force: what was given, the rest the calculator's own, else the paper's."""
        asked = self.asked_config
        return self.calculator.config if asked is None else asked.over(self.calculator.config)

    @property
    def dtype(self) -> str:
        """The dtype in force, `"auto"` resolved."""
        model = self.calculator.model
        if model is not None:
            return str(model.dtype).removeprefix("torch.")
        if self.asked_dtype != "auto":
            return self.asked_dtype
        return self.settled_dtype or auto_dtype(self.calculator, self.device(None))

    def with_auto_dtype(self, dtype: str) -> Loader:
        """The same with `"auto"` taken as `dtype`; nothing is loaded."""
        other = copy.copy(self)
        other.settled_dtype, other._loaded = dtype, None
        return other

    def device(self, rank: int | None) -> str:
        """The device of a worker."""
        if self.calculator.model is not None:
            return str(self.calculator.model.device)
        if self.asked_device not in (None, "cuda"):
            return str(self.asked_device)
        # device_count asks the driver's management library, which leaves later forks able to use CUDA
        gpus = torch.cuda.device_count()
        if self.asked_device == "cuda" and not gpus:
            raise BackendError("device='cuda' was asked for, but no CUDA device is visible: see `ladm env`")
        if gpus:
            return f"cuda:{(rank or 0) % gpus}"
        return "mps" if torch.backends.mps.is_available() else "cpu"

    def check_device(self, rank: int | None, advice: str = OTHER_DTYPE) -> None:
        """Refuses a worker's device that cannot compute in the dtype, as far as is known without the model."""
        if self.dtype == FLOAT8:
            check_float8(self.device(rank), advice)

    def engine(self, rank: int | None) -> Engine:
        """The engine of a worker, loaded where it is not: once whatever threads ask for it."""
        with turn(self, "engine"):
            calculator = self.calculator
            key = _EngineKey(
                calculator.identity,
                self.config,
                self.dtype,
                self.device(rank),
                self.backend,
                self.max_batch_tokens,
                self.model_signals,
                self.short_context,
            )
            if self._loaded is None or self._loaded.key != key:
                prepare_worker()
                self._warn_if_uncalibrated()
                # the old model goes before the new one is loaded
                self._loaded = None
                self._loaded = _Loaded(key, Engine(calculator, *key[1:]))
            return self._loaded.engine

    def host(self, *, texts: bool, by_processes: bool = False) -> HostPart | HostProcesses:
        """What does the host's part, with the calculator's tokenizer where there are texts to encode.

        The tokenizer is loaded once whatever threads ask for it.
        """
        return (self._encoding_host() if texts else self._counting)[by_processes]

    def _encoding_host(self) -> _Host:
        with turn(self, "encoder"):
            calculator = self.calculator
            if self._encoding is None or self._encoding[0] != calculator.identity:
                prepare_worker()
                self._encoding = calculator.identity, _Host.of(Encoder(calculator.load_tokenizer()))
            return self._encoding[1]

    def is_much(self, size: int) -> bool:
        """Whether processes are worth their start, by what was begun so far and `size` more characters or token ids."""
        self._host_work += size
        return self._host_work > MUCH_WORK and host_threads() > 1

    def works_ahead(self, rank: int | None) -> bool:
        """Whether the device computes on its own while the host does something else, as a GPU does."""
        return self.device(rank).startswith("cuda")

    def host_threads(self) -> HostThreads:
        """Threads that do the host's part ahead of a device; a forked process has its own."""
        if self._threads is None or self._threads[0] != os.getpid():
            number = host_threads()
            tokenizing, counting = (
                ThreadPoolExecutor(threads, f"ladm-{name}")
                for name, threads in (("tokenizer", number), ("counter", min(COUNTING_THREADS, number)))
            )
            self._threads = os.getpid(), HostThreads(tokenizing, counting)
        return self._threads[1]

    def _warn_if_uncalibrated(self) -> None:
        asked, calculator = self.asked_config, self.calculator
        if not calculator.uncalibrated or (asked is not None and "heads" in asked.given):
            return
        warnings.warn(
            f"{calculator.name!r} {calculator.uncalibrated}: all of its heads are averaged. "
            f"`{_calibrate_command(calculator)}` chooses a few and weighs them, see docs/training.md; "
            "config=LadmConfig.paper() asks for all of them without this warning",
            UserWarning,
            stacklevel=2,
        )


def check_option(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    """Refuses a value that an option does not have.

    Raises:
        ConfigError: it is none of them.
    """
    if value not in allowed:
        raise ConfigError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")


def _calibrate_command(calculator: Calculator) -> str:
    if calculator.path is None:
        return "ladm calibrate FOLDER"
    # nothing is written into the cache of the Hub
    output = () if calculator.revision is None else ("--output", "calibration")
    return shlex.join(("ladm", "calibrate", calculator.name, *output))
