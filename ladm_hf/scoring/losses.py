"""Next-token losses of a document with all of its context and with a short one, and the signals made of them.

With `long(n)` the loss of token `n` (nats, natural logarithm) given all tokens before it, and `short(n)` its loss given
the `S` to `S + S/4` tokens before it (`S` = `short_context`):

    token_loss        mean of long(n) over all tokens but the first
    context_gain      sum of exp(-long(n)) (short(n) - long(n)) over the tokens n >= S, divided by all tokens
    key_token_share   share of the tokens n >= S with short(n) - long(n) > 2 and long(n) < 2

`context_gain` is the score of LongFilter (Deng et al. 2025, arXiv 2510.25804, equation 7): the mean over all tokens of
the term of the divergence between the predictions with long and with short context that belongs to the token that
follows; of the first `S` tokens, whose contexts are the same, it is 0. The key tokens are those of LongPPL
(Fang et al. 2024, arXiv 2410.23771): long-short difference above 2, long-context likelihood above -2.

Short contexts are those of LongPPL's code: windows of `S + S/4` tokens, one every `S/4` (there 4,096 and 1,024), of
which the first `S` are context and the losses of the others count. So every token beyond the first `S` costs five in
short windows. A document of at most `S` tokens has neither gain nor share: NaN. LongFilter defines the short context as
the `S` tokens before each token, reads overlapping chunks for it, too, and does not say how far they overlap; its `S`
is 4,096, its long context at most 65,536 tokens, its model Llama 3.1 8B.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ladm_hf.arrays import Ints
from ladm_hf.errors import UnsupportedModelError
from ladm_hf.text import one_line

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Thresholds of LongPPL: of the difference of log-likelihoods, and of the loss with long context.
KEY_DIFFERENCE, KEY_LOSS = 2.0, 2.0
# Logits held at once, on a CPU and elsewhere: `[t, V]` of some positions, never of a whole document.
CPU_LOGITS, DEVICE_LOGITS = 1 << 22, 1 << 26
# The fewest rows of a product with the head. Kernels for fewer share the sums out by the number of threads, which must
# not change a loss.
MIN_ROWS = 64
# Tokens of the trial, and how far its logits may be off, relative to the largest.
TRIAL_TOKENS, TRIAL_TOLERANCE = 8, 2e-2


def short_windows(length: int, short_context: int) -> list[tuple[int, int]]:
    """First token and end of each short window of a document of `length` tokens."""
    stride = max(1, short_context // 4)
    return [(start, min(start + short_context + stride, length)) for start in range(0, length - short_context, stride)]


def loss_signals(long: Tensor, short: Tensor) -> Tensor:
    """Mean loss, gain and share of key tokens of a document.

    Args:
        long (`Tensor` `[T - 1]`): loss of each token but the first, with all of its context.
        short (`Tensor` `[N]`): loss of each of the last `N` tokens with a short context, `N` = 0 where there are none.

    Returns:
        `Tensor` `[3]`: `token_loss`, `context_gain` and `key_token_share`, the last two NaN without short contexts.
    """
    late = long[len(long) - len(short) :]
    gain = short - late
    key = (gain > KEY_DIFFERENCE) & (late < KEY_LOSS)
    # the mean of nothing is NaN
    share = key.float().mean()
    total = (gain * (-late).exp()).sum() / (len(long) + 1)
    return torch.stack([long.mean(), total if len(short) else share, share])


def short_losses(
    head: LanguageModelHead,
    documents: Sequence[Ints],
    short_context: int | None,
    tokens: int,
    forward: Callable[[list[Ints]], tuple[Tensor, Tensor]],
) -> list[Tensor]:
    """Losses with a short context, of the tokens that have a longer one.

    Args:
        head ([`LanguageModelHead`]): of the model.
        documents (sequence of `int` arrays): token ids.
        short_context (`int`, *optional*): `None` gives no losses.
        tokens (`int`): most padded tokens in a batch of windows; one window at least.
        forward (callable): gives padded token ids `[B, T]` and last hidden states `[B, T, C]` of a batch.

    Returns:
        One `Tensor` `[max(0, T - short_context)]` for each document.
    """
    parts = [[torch.empty(0, device=head.model.device)] for _ in documents]
    if short_context is None:
        return [part for (part,) in parts]
    pieces = [
        (i, ids[start:stop])
        for i, ids in enumerate(documents)
        for start, stop in short_windows(len(ids), short_context)
    ]
    size = max(1, tokens // max((len(piece) for _, piece in pieces), default=1))
    for start in range(0, len(pieces), size):
        batch = pieces[start : start + size]
        padded, hidden = forward([piece for _, piece in batch])
        for row, ids, (i, piece) in zip(hidden, padded, batch, strict=True):
            parts[i].append(head.losses(row[: len(piece)], ids[: len(piece)], short_context))
    return [torch.cat(part) for part in parts]


class LanguageModelHead:
    """What a model does after its last layer: hidden states -> logits -> losses, some positions at a time.

    Args:
        model (`PreTrainedModel`): a causal language model with its head, in evaluation mode.
        signals (`str`): what needs the head, for errors.

    Raises:
        UnsupportedModelError: the model has no head, or its logits are not a function of its last hidden states.
    """

    def __init__(self, model: PreTrainedModel, signals: str) -> None:
        self.model = model
        if model.get_output_embeddings() is None or model.base_model is model:
            raise UnsupportedModelError(
                f"{signals} need a language model head, and this {model.config.model_type!r} model has none: give a "
                "causal language model with its head, or leave these signals out"
            )
        try:
            error = self._trial()
        except (TypeError, ValueError, AttributeError, RuntimeError) as failure:
            if isinstance(failure, torch.OutOfMemoryError):
                raise
            raise self._unsupported(signals, f"{type(failure).__name__}: {one_line(str(failure), 200)}") from failure
        if not error <= TRIAL_TOLERANCE:
            raise self._unsupported(signals, f"they are off by {error:.1e} on a trial")

    def _unsupported(self, signals: str, reason: str) -> UnsupportedModelError:
        return UnsupportedModelError(
            f"{signals} need the logits of each hidden state, which this {self.model.config.model_type!r} model does "
            f"not give ({reason}): leave these signals out"
        )

    @torch.inference_mode()
    def _trial(self) -> float:
        """How far logits of hidden states are from the model's own on a few tokens, relative to the largest."""
        ids = torch.arange(TRIAL_TOKENS, device=self.model.device)[None]
        options = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False, "return_dict": True}
        self._output = self.model.base_model(**options)
        expected = self.model(**options).logits.float()
        error = (self._logits(self._output.last_hidden_state).float() - expected).abs().max() / expected.abs().max()
        self._output = dataclasses.replace(self._output, last_hidden_state=None)
        return float(error)

    def _logits(self, hidden: Tensor) -> Tensor:
        """`[1, t, V]`, by the model's own forward pass with these hidden states in the place of its layers."""
        output = dataclasses.replace(self._output, last_hidden_state=hidden)
        with _replaced_forward(self.model.base_model, lambda *_, **__: output):
            logits: Tensor = self.model(inputs_embeds=hidden, use_cache=False, return_dict=True).logits
        return logits

    def losses(self, hidden: Tensor, input_ids: Tensor, first: int = 1) -> Tensor:
        """The loss of each token from `first` on.

        Args:
            hidden (`Tensor` `[T, C]`): last hidden states of a document.
            input_ids (`Tensor` `[T]`): its tokens.
            first (`int`, *optional*, defaults to `1`): the first token that counts.

        Returns:
            `Tensor` `[T - first]`, fp32.
        """
        budget = CPU_LOGITS if hidden.device.type == "cpu" else DEVICE_LOGITS
        step = max(1, budget // self.model.get_output_embeddings().weight.shape[0])
        parts = []
        for start in range(first, len(input_ids), step):
            targets = input_ids[start : start + step]
            rows = hidden[start - 1 : start - 1 + len(targets)]
            rows = nn.functional.pad(rows, (0, 0, 0, max(0, MIN_ROWS - len(rows))))
            logits = self._logits(rows[None])[0, : len(targets)]
            parts.append(nn.functional.cross_entropy(logits.float(), targets, reduction="none"))
        return torch.cat(parts)


@contextlib.contextmanager
def _replaced_forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Gives a module another forward pass, and its own back."""
    own = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
        if own is not None:
            module.forward = own
