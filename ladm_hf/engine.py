"""A calculator loaded on one device: token ids -> PFS -> CDS by layer, and what a worker process needs before that."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from ladm_hf.attention import (
    ForwardDone,
    LayerPlan,
    SpanRecorder,
    check_reach,
    chosen_heads,
    layer_plan,
    scoring_attention,
)
from ladm_hf.batching import TokenBudget
from ladm_hf.calculators import Calculator
from ladm_hf.config import LadmConfig
from ladm_hf.documents import Tokens
from ladm_hf.errors import BackendError, CalculatorError
from ladm_hf.ops import BACKENDS
from ladm_hf.scores import contextual_dependency_score
from ladm_hf.spans import SpanGrid

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Padded tokens in a batch on an accelerator. On a CPU every document runs alone: batching gains nothing there.
DEVICE_BATCH_TOKENS = 131_072
_IMPORTED_IN = os.getpid()


class Engine:
    """A loaded calculator on one device."""

    def __init__(
        self,
        calculator: Calculator,
        config: LadmConfig,
        dtype: str,
        device: str,
        backend: str,
        max_batch_tokens: int | None,
        key: Any,
    ) -> None:
        self.key = key
        self.calculator = calculator
        self.config = config
        self.span_focus = BACKENDS["chunked" if backend == "auto" else backend]
        try:
            self.model = calculator.load_model(dtype, device)
        except RuntimeError as error:
            if "re-initialize CUDA in forked" in str(error):
                raise BackendError(
                    "CUDA was used before this worker was forked, so the worker cannot use it. Spawn workers instead: "
                    "import multiprocess; multiprocess.set_start_method('spawn') before map(..., num_proc=...)"
                ) from error
            raise
        self.model_type: str = self.model.config.model_type
        self.vocab_size: int = self.model.get_input_embeddings().weight.shape[0]
        with scoring_attention(self.model), _evaluating(self.model):
            self.plan: LayerPlan = layer_plan(self.model)
        self.layers, self.heads = chosen_heads(self.plan, config, self.model_type)
        self.budget = TokenBudget(max_batch_tokens or (1 if self.model.device.type == "cpu" else DEVICE_BATCH_TOKENS))
        self._tokenizer: PreTrainedTokenizerBase | None = None

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        if self._tokenizer is None:
            self._tokenizer = self.calculator.load_tokenizer()
        return self._tokenizer

    @torch.inference_mode()
    def pfs(self, documents: list[Tokens]) -> tuple[SpanGrid, torch.Tensor]:
        """PFS of a batch, averaged over heads, fp64 on the CPU: `[L, B, R, S]`."""
        lengths = [len(ids) for ids in documents]
        check_reach(self.plan, max(lengths), self.model_type)
        padded = np.zeros((len(documents), max(lengths)), dtype=np.int64)
        for row, ids in zip(padded, documents, strict=True):
            row[: len(ids)] = ids
        recorder = SpanRecorder(SpanGrid(lengths, self.config), self.layers, self.heads, self.span_focus)
        with scoring_attention(self.model), _evaluating(self.model), contextlib.suppress(ForwardDone):
            # Causal attention with padding on the right needs no padding mask: no document sees beyond its end. The
            # mask of ones says that nothing is packed either; without it transformers 4.57 builds one of T x T.
            inputs = torch.from_numpy(padded).to(self.model.device)
            mask = torch.ones_like(inputs)
            self.model(input_ids=inputs, attention_mask=mask, use_cache=False, ladm_recorder=recorder)
        absent = [layer for layer in self.layers if layer not in recorder.pfs]
        if absent:
            raise CalculatorError(
                f"layer {absent[0]} of this {self.model_type!r} model was not reached in the forward pass"
            )
        return recorder.grid, torch.stack([recorder.pfs[layer].cpu().double() for layer in self.layers])

    def score(self, documents: list[Tokens]) -> list[npt.NDArray[np.float64]]:
        """CDS by layer of each document, `[L]` each."""
        grid, pfs = self.pfs(documents)
        return list(contextual_dependency_score(pfs, grid, self.config.ablation).T.numpy())


@contextlib.contextmanager
def _evaluating(model: PreTrainedModel) -> Iterator[None]:
    """Puts a model into evaluation mode and back."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


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


def _is_worker_process() -> bool:
    modules = (sys.modules.get(name) for name in ("multiprocess.process", "multiprocessing.process"))
    return any(module is not None and module.parent_process() is not None for module in modules)
