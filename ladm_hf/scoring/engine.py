"""A calculator loaded on one device: token ids -> PFS -> CDS by layer, with signals of the same forward pass beside it;
and what a worker process needs before that."""

from __future__ import annotations

import contextlib
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from ladm_hf.arrays import Floats, Ints
from ladm_hf.calculators.calculator import Calculator
from ladm_hf.config import LadmConfig
from ladm_hf.data.score_columns import DISTANT_SIGNALS, GAIN_SIGNALS, LOSS_SIGNALS, MODEL_SIGNALS
from ladm_hf.errors import BackendError, CalculatorError, ConfigError
from ladm_hf.ops import choose_backend
from ladm_hf.ops.device import one_thread, sent_to, turn
from ladm_hf.ops.scores import contextual_dependency_score, even_score
from ladm_hf.ops.spans import SpanGrid
from ladm_hf.scoring.attention import scoring_attention
from ladm_hf.scoring.batching import TokenBudget
from ladm_hf.scoring.decoder import DecoderForward, modules_of
from ladm_hf.scoring.layers import LayerPlan, check_reach, chosen_heads, layer_plan
from ladm_hf.scoring.losses import LanguageModelHead, loss_signals, short_losses
from ladm_hf.scoring.precision import FLOAT8, check_float8, keep_sums_in_float32
from ladm_hf.scoring.recorder import ForwardDone, NoRecorder, Recorder, SignalRecorder, SpanRecorder
from ladm_hf.scoring.trial import decoder_forward, float8_forward

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Padded tokens in a batch on an accelerator whose free memory is not known, and the most that is ever tried. On a CPU
# every document runs alone: batching gains nothing there.
DEVICE_BATCH_TOKENS = 131_072
MAX_BATCH_TOKENS = 262_144
# Share of the free memory that a batch may take, and the tokens of the batch whose memory is measured.
MEMORY_SHARE, MEMORY_TRIAL_TOKENS = 0.5, 8192
# On CUDA lengths are padded to one of this many steps in each octave (at most 1/32 more): the attention kernel
# prepares itself for each new shape.
STEPS_PER_OCTAVE = 32
# Batches that a GPU has before it while the host finishes others: of a batch or two it is done before many rows are.
BATCHES_IN_FLIGHT = 2
# More threads than this only wait for each other's Python.
MAX_HOST_THREADS = 32
_IMPORTED_IN = os.getpid()


class Measured(NamedTuple):
    """What one forward pass says of a document.

    Attributes:
        cds (`float64` array `[L]`): CDS by layer; with weights, `CDS / CDS_even` by head.
        signals (`float64` array `[N]`): the engine's signals, in their order.
    """

    cds: Floats
    signals: Floats


class Engine:
    """A loaded calculator on one device.

    Args:
        calculator ([`Calculator`]), config ([`LadmConfig`]), dtype, device, backend (`str`), max_batch_tokens (`int`):
            as for [`LadmScorer`], resolved.
        signals (sequence of `str`, *optional*): the signals of the model that are wanted.
        short_context (`int`, *optional*): tokens of the short context, see `ladm_hf.scoring.losses`.
    """

    def __init__(
        self,
        calculator: Calculator,
        config: LadmConfig,
        dtype: str,
        device: str,
        backend: str,
        max_batch_tokens: int | None,
        signals: tuple[str, ...] = (),
        short_context: int = 1,
    ) -> None:
        self.signals = tuple(name for name in MODEL_SIGNALS if name in signals)
        self.short_context = short_context if set(signals) & set(GAIN_SIGNALS) else None
        if self.short_context is not None and self.short_context >= config.max_length:
            raise ConfigError(
                f"short_context={short_context} leaves no token with a longer context at max_length="
                f"{config.max_length}: give a smaller short_context"
            )
        head_for = ", ".join(name for name in self.signals if name in LOSS_SIGNALS)
        self.calculator = calculator
        self.config = config
        self.dtype = dtype
        try:
            if dtype == FLOAT8:
                check_float8(device)
            self.model = calculator.load_model("bfloat16" if dtype == FLOAT8 else dtype, device, head_for)
        except BackendError:
            raise
        except (AssertionError, RuntimeError) as error:
            if "re-initialize CUDA in forked" in str(error):
                raise BackendError(
                    "CUDA was used before this worker was forked, so the worker cannot use it. Spawn workers instead: "
                    "import multiprocess; multiprocess.set_start_method('spawn') before map(..., num_proc=...)"
                ) from error
            raise BackendError(f"device {device!r} cannot be used here ({error}); see `ladm env`") from error
        # tried by the model's own attention, which wants queries, keys and values of one dtype
        with _evaluating(self.model):
            self._head = LanguageModelHead(self.model, head_for) if head_for else None
        if dtype == "bfloat16" and calculator.model is None and self.model.device.type == "cpu":
            keep_sums_in_float32(self.model)
        self.span_focus = choose_backend(backend, self.model.device)
        self.model_type: str = self.model.config.model_type
        with _evaluating(self.model), scoring_attention(self.model):
            self.plan: LayerPlan = layer_plan(self.model)
        self.vocab_size: int = self.model.get_input_embeddings().weight.shape[0]
        self.layers, self.heads = chosen_heads(self.plan, config, self.model_type)
        self._asynchronous: bool = self.model.device.type == "cuda"
        # where the rotary embedding depends on the longest of a batch, every document runs alone
        self._alone = _rotates_by_length(self.model)
        self._pads = self._asynchronous and not self._alone
        with _evaluating(self.model):
            self._fast: DecoderForward | None = self._read_forward()
        self.budget = TokenBudget(1 if self._alone else max_batch_tokens or self._default_batch_tokens())
        self._tokenizer: PreTrainedTokenizerBase | None = None

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        if self._tokenizer is None:
            self._tokenizer = self.calculator.load_tokenizer()
        return self._tokenizer

    @property
    def forward_pass(self) -> str:
        """Which forward pass runs, for people: `"fast"` or `"model"`."""
        return "model" if self._fast is None else "fast"

    def pfs(self, documents: list[Ints]) -> tuple[SpanGrid, torch.Tensor]:
        """PFS of a batch by layer, averaged over heads, or by weighted head, fp64 on the CPU: `[L, B, R, S]`."""
        grid, pfs, _ = self._start(documents)
        return grid, pfs()

    def score(self, documents: list[Ints]) -> list[Floats]:
        """CDS by layer of each document, `[L]` each; with weights, `CDS / CDS_even` by head."""
        return [found.cds for found in self.measure(documents)]

    def measure(self, documents: list[Ints]) -> list[Measured]:
        """CDS by layer and signals of each document, all in one batch."""
        return self._start_score(documents)()

    def score_all(self, documents: list[Ints]) -> Iterator[tuple[list[int], list[Measured] | None]]:
        """Scores documents in batches under the token budget.

        While a GPU computes some batches the host finishes the one before and prepares the next.

        Yields:
            `(indices, CDS by layer and signals of each)`, with `None` where a single document does not fit in memory.
        """
        running: deque[tuple[list[int], Callable[[], list[Measured]] | None]] = deque()
        for started in self.start_all(documents):
            running.append(started)
            while len(running) > self.in_flight:
                batch, scores = running.popleft()
                yield batch, None if scores is None else scores()
        for batch, scores in running:
            yield batch, None if scores is None else scores()

    def start_all(self, documents: list[Ints]) -> Iterator[tuple[list[int], Callable[[], list[Measured]] | None]]:
        """Starts documents in batches under the token budget; the caller sees to it that not too many are in flight.

        Yields:
            `(indices, what waits for their scores)`, with `None` where a single document does not fit in memory.
        """

        def start(batch: list[int]) -> Callable[[], list[Measured]]:
            chosen = [documents[i] for i in batch]
            if self._asynchronous:
                return self._start_score(chosen)
            # all of it here, where running out of memory is dealt with
            results = self.measure(chosen)
            return lambda: results

        return self.budget.run([self._padded_length(len(document)) for document in documents], start)

    @property
    def in_flight(self) -> int:
        """Batches that may be started and not waited for when the next one is started."""
        return BATCHES_IN_FLIGHT if self._asynchronous else 0

    def _start_score(self, documents: list[Ints]) -> Callable[[], list[Measured]]:
        """Starts a batch; the function returned waits for its scores."""
        # Where a GPU computes, what is left for the host is small. On a CPU other threads may be scoring, too, and the
        # number of threads is also theirs.
        threads: Callable[[], contextlib.AbstractContextManager[None]]
        threads = one_thread if self._asynchronous else contextlib.nullcontext
        with threads():
            grid, pfs, signals = self._start(documents)

        def finish() -> list[Measured]:
            with threads():
                return [*map(Measured, self.cds(grid, pfs()).T.numpy(), signals().numpy())]

        return finish

    def cds(self, grid: SpanGrid, pfs: torch.Tensor) -> torch.Tensor:
        """What [`score`] gives, from PFS: `[L, B]`."""
        cds = contextual_dependency_score(pfs, grid, self.config.ablation)
        return cds if self.config.weights is None else cds / even_score(grid, self.config.ablation)

    @torch.inference_mode()
    def run(self, documents: list[Ints], recorder: SpanRecorder) -> torch.Tensor | None:
        """Starts the forward pass of a batch, up to the last layer that the recorder wants or to the end.

        Returns:
            The last hidden states `[B, T, C]` where the pass goes on to its end.

        Raises:
            NoFullAttentionError: no layer sees the longest document whole.
            CalculatorError: a layer that the recorder wants was not reached.
        """
        check_reach(self.plan, max(map(len, documents)), self.model_type)
        hidden = self._forward(self._padded(documents), recorder)
        absent = [layer for layer in recorder.layers if layer not in recorder.pfs]
        if absent:
            raise CalculatorError(
                f"layer {absent[0]} of this {self.model_type!r} model was not reached in the forward pass"
            )
        return hidden

    def _padded(self, documents: list[Ints]) -> torch.Tensor:
        """Token ids on the device, `[B, T]`, with zeros on the right."""
        longest = max(map(len, documents))
        # padding must not lead beyond what the model can take
        bounds = [bound for bound in (self.plan.positions, self.plan.reach) if bound is not None]
        width = max(longest, min([self._padded_length(longest), *bounds]))
        padded = np.zeros((len(documents), width), dtype=np.int64)
        for row, ids in zip(padded, documents, strict=True):
            row[: len(ids)] = ids
        return sent_to(self.model.device, torch.from_numpy(padded))

    @torch.inference_mode()
    def _start(self, documents: list[Ints]) -> tuple[SpanGrid, Callable[[], torch.Tensor], Callable[[], torch.Tensor]]:
        """Starts the forward pass of a batch; the functions returned wait for its PFS and signals `[B, N]`."""
        grid = SpanGrid([len(ids) for ids in documents], self.config)
        by_head = self.config.weights is not None
        if not self.signals:
            recorder = SpanRecorder(grid, self.layers, self.heads, self.span_focus, by_head)
            self.run(documents, recorder)
            none = torch.empty(len(documents), 0, dtype=torch.float64)
            return grid, self._on_host([recorder.pfs[layer] for layer in self.layers]), lambda: none
        recorder = SignalRecorder(
            grid, self.layers, self.heads, self.span_focus, by_head,
            distant_layer=self.plan.scored[0] if set(self.signals) & set(DISTANT_SIGNALS) else None,
            uniformity="distant_uniformity" in self.signals,
            padded=self._padded_length,
            to_the_end=self._head is not None,
        )  # fmt: skip
        # the hidden states are handed over, so that they can be let go
        signals = self._signals(documents, recorder, self.run(documents, recorder))
        return grid, self._on_host([recorder.pfs[layer] for layer in self.layers]), self._on_host([signals])

    def _signals(self, documents: list[Ints], recorder: SignalRecorder, hidden: torch.Tensor | None) -> torch.Tensor:
        """The signals of a batch, `[B, N]` on the device."""
        found: dict[str, torch.Tensor] = {}
        if recorder.distant is not None:
            found["distant_attention"], found["distant_uniformity"] = recorder.distant.T
        if self._head is not None:
            assert hidden is not None
            with _evaluating(self.model):
                on_device = [sent_to(self.model.device, torch.from_numpy(ids.astype(np.int64))) for ids in documents]
                long = [self._head.losses(row[: len(ids)], ids) for row, ids in zip(hidden, on_device, strict=True)]
                # a batch of short windows has no more tokens than the long pass had
                tokens = 1 if self._alone else hidden.shape[0] * hidden.shape[1]
                del hidden
                short = short_losses(self._head, documents, self.short_context, tokens, self._last_hidden_states)
            losses = torch.stack([loss_signals(*pair) for pair in zip(long, short, strict=True)])
            found |= dict(zip(LOSS_SIGNALS, losses.T, strict=True))
        return torch.stack([found[name] for name in self.signals], 1)

    def _last_hidden_states(self, documents: list[Ints]) -> tuple[torch.Tensor, torch.Tensor]:
        """Padded token ids `[B, T]` and hidden states `[B, T, C]` of a batch, nothing recorded."""
        padded = self._padded(documents)
        hidden = self._forward(padded, NoRecorder())
        assert hidden is not None
        return padded, hidden

    def _on_host(self, tensors: list[torch.Tensor]) -> Callable[[], torch.Tensor]:
        """Brings tensors, one after another, to the host; the function returned waits for them, in fp64."""
        if not self._asynchronous:
            found = torch.cat([tensor.cpu().double() for tensor in tensors])
            return lambda: found
        on_device = torch.cat(tensors)
        on_host = torch.empty(on_device.shape, dtype=on_device.dtype, pin_memory=True)
        on_host.copy_(on_device, non_blocking=True)
        done = torch.cuda.Event()
        done.record(torch.cuda.current_stream(on_device.device))

        def wait() -> torch.Tensor:
            done.synchronize()
            return on_host.double()

        return wait

    def _forward(self, input_ids: torch.Tensor, recorder: Recorder) -> torch.Tensor | None:
        """The forward pass, up to the last layer that the recorder wants, or to the last hidden states."""
        with _evaluating(self.model):
            if self._alone:
                _forget_longest(self.model)
            if self._fast is not None and not self._fast.is_current():
                # a live model has been changed under us
                self._fast = self._read_forward()
            if self._fast is not None:
                return self._fast(input_ids, recorder)
            with scoring_attention(self.model), contextlib.suppress(ForwardDone):
                # Causal attention with padding on the right needs no padding mask: no document sees beyond its end. The
                # mask of ones says that nothing is packed either; without it transformers 4.57 builds one of T x T.
                mask = torch.ones_like(input_ids)
                model = self.model.base_model if recorder.to_the_end else self.model
                output = model(input_ids=input_ids, attention_mask=mask, use_cache=False, ladm_recorder=recorder)
                return output.last_hidden_state if recorder.to_the_end else None
        return None

    def _read_forward(self) -> DecoderForward | None:
        """The fast forward pass of the model as it is now."""
        return (float8_forward if self.dtype == FLOAT8 else decoder_forward)(self.model, self.plan)

    def _padded_length(self, length: int) -> int:
        """The length that a document is padded to."""
        if not self._pads:
            return length
        step = max(1, (1 << (length.bit_length() - 1)) // STEPS_PER_OCTAVE)
        return -(-length // step) * step

    def _default_batch_tokens(self) -> int:
        """Ints of a batch that take a share of the free memory, by the measured memory of a small one."""
        device = self.model.device
        if device.type != "cuda":
            return 1 if device.type == "cpu" else DEVICE_BATCH_TOKENS
        length = min(MEMORY_TRIAL_TOKENS, self.config.max_length, self.plan.reach or MEMORY_TRIAL_TOKENS)
        if length < self.config.min_tokens:
            return DEVICE_BATCH_TOKENS
        free, _ = torch.cuda.mem_get_info(device)
        free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        try:
            self.pfs([np.zeros(length, dtype=np.int64)])
        except torch.OutOfMemoryError:
            return 1
        used = max(1, torch.cuda.max_memory_allocated(device) - before)
        return max(1, min(MAX_BATCH_TOKENS, int(MEMORY_SHARE * free / used * length)))


@contextlib.contextmanager
def _evaluating(model: PreTrainedModel) -> Iterator[None]:
    """Puts a model into evaluation mode and each of its modules back, for one thread at a time.

    Its attention and parts of its forward pass are switched meanwhile, which threads must not do at once.
    """
    with turn(model):
        training = [module for module in modules_of(model) if module.training]
        if training:
            model.eval()
        try:
            yield
        finally:
            for module in training:
                module.training = True


def _rotates_by_length(model: PreTrainedModel) -> bool:
    """Whether the rotary embedding of a position depends on the length of the batch, which padding would change."""
    kinds = " ".join(str(getattr(module, "rope_type", "")) for module in model.modules())
    return "dynamic" in kinds or "longrope" in kinds


def _forget_longest(model: PreTrainedModel) -> None:
    """Undoes what a dynamic rotary embedding keeps of the longest document so far."""
    for module in model.modules():
        for name in [name for name in vars(module) if name.endswith("max_seq_len_cached")]:
            prefix = name.removesuffix("max_seq_len_cached")
            original = getattr(module, f"{prefix}original_inv_freq", None)
            if original is not None:
                setattr(module, f"{prefix}inv_freq", original.clone())
            setattr(module, name, getattr(module, "original_max_seq_len", getattr(module, name)))


def prepare_worker() -> None:
    """Keeps a worker process from hanging or fighting over cores.

    A process forked after its parent used torch's threads deadlocks in its first parallel region, so a worker runs on
    one thread; the same holds tokenizers back.
    """
    forked = os.getpid() != _IMPORTED_IN
    if forked or _is_worker_process():
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        if forked or "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(1)


def host_threads() -> int:
    """Threads that do the host's part for one device: the cores of this process's share of the machine."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    # workers of `map` do not say how many they are; on a machine with GPUs there is mostly one for each
    beside = torch.cuda.device_count() if _is_worker_process() else 1
    return max(1, min(MAX_HOST_THREADS, cores // max(beside, int(os.environ.get("LOCAL_WORLD_SIZE") or 1))))


def _is_worker_process() -> bool:
    modules = (sys.modules.get(name) for name in ("multiprocess.process", "multiprocessing.process"))
    return any(module is not None and module.parent_process() is not None for module in modules)
