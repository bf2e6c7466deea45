"""Measures of a trained model: losses at far positions, gain over a near context, probes, short documents."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformers import DynamicCache

from .plan import Plan
from .scores import token_losses
from .store import Ints, Stream, read_json

# Tokens of one forward pass.
BATCH_TOKENS = 65_536


@torch.inference_mode()
def measure(plan: Plan, work: Path, model: Any) -> dict[str, Any]:
    """Every measure of one model, by document and by probe."""
    model.set_attn_implementation("sdpa")
    model.eval()
    device = model.device
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        return {
            **far_losses(plan, work, model),
            "short": short_losses(work, model),
            "probes": probe_choices(work, model),
        }


def far_losses(plan: Plan, work: Path, model: Any) -> dict[str, list[float]]:
    """`loss` and `gain`, `[N]`: mean loss of the targets, and how much it is below their loss with a near context."""
    settings = plan["evaluation"]
    (first, last), near = settings["targets"], settings["near"]
    stream = Stream.read(work / "tokens/held_out")
    far, close = [], []
    size = max(1, BATCH_TOKENS // settings["length"])
    for start in range(0, len(stream), size):
        rows = range(start, min(start + size, len(stream)))
        ids = torch.from_numpy(np.stack([stream[row] for row in rows]).astype(np.int64)).to(model.device)
        # the loss at index i is that of token i + 1
        far.append(token_losses(model, ids)[:, first - 1 : last - 1].mean(1))
        # blocks of `near` targets, each after a block of context
        blocks = ids[:, first - near : last].unfold(1, 2 * near, near)
        losses = token_losses(model, blocks.flatten(0, 1))[:, near - 1 :].mean(1)
        close.append(losses.unflatten(0, (len(ids), -1)).mean(1))
    full, short = torch.cat(far), torch.cat(close)
    return {"loss": rounded(full), "gain": rounded(short - full)}


def short_losses(work: Path, model: Any) -> list[float]:
    """Mean loss of each short document."""
    stream = Stream.read(work / "tokens/short")
    means = torch.zeros(len(stream))
    order = np.argsort(stream.lengths, kind="stable")
    for batch in np.array_split(order, max(1, -(-int(stream.lengths.sum()) // BATCH_TOKENS))):
        width = max(2, int(stream.lengths[batch].max()))
        ids = torch.zeros(len(batch), width, dtype=torch.int64)
        for row, document in enumerate(batch):
            ids[row, : len(stream[document])] = torch.from_numpy(stream[document].astype(np.int64))
        # padded on the right, which causal attention does not see
        losses = token_losses(model, ids.to(model.device)).cpu()
        for row, document in enumerate(batch):
            means[document] = losses[row, : max(1, len(stream[document]) - 1)].mean()
    return rounded(means)


def probe_choices(work: Path, model: Any) -> dict[str, list[int]]:
    """By kind, whether the true choice was the likeliest (1) or not (0).

    Of a continuation counts what the context adds to its likelihood, of the others the likelihood itself, by token.
    """
    with np.load(work / "probes.npz") as data:
        contexts, choices = data["contexts"].astype(np.int64), data["choices"].astype(np.int64)
    kinds = read_json(work / "probes.json")
    found: dict[str, list[int]] = {kind: [] for kind in dict.fromkeys(kinds)}
    size = max(1, BATCH_TOKENS // contexts.shape[1])
    for start in range(0, len(contexts), size):
        batch = slice(start, start + size)
        likelihood = choice_likelihood(model, contexts[batch], choices[batch])
        alone = choice_likelihood(model, contexts[batch][:, :1], choices[batch])
        for kind, given, without in zip(kinds[batch], likelihood, alone, strict=True):
            gain = given - without if kind == "continuation" else given
            found[kind].append(int(gain.argmax() == 0))
    return found


def choice_likelihood(model: Any, contexts: Ints, choices: Ints) -> np.ndarray:
    """Mean log-likelihood of a choice's tokens after its context, `[B, K]`; contexts are read once for all choices."""
    device, (count, width) = model.device, choices.shape[1:]
    ids = torch.from_numpy(contexts).to(device)
    cache = DynamicCache(config=model.config)
    # transformers renamed the argument
    kept = {"cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values": cache}
    read = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=True, logits_to_keep=1, **kept)
    cache.batch_repeat_interleave(count)
    tokens = torch.from_numpy(choices).to(device).flatten(0, 1)
    given = tokens.clamp(min=0)
    mask = torch.ones(len(given), ids.shape[1] + width, dtype=torch.int64, device=device)
    later = model(input_ids=given, attention_mask=mask, use_cache=True, **kept).logits
    first = read.logits[:, -1:].repeat_interleave(count, 0)
    predicted = torch.cat([first, later[:, :-1]], 1).float().log_softmax(-1)
    values = predicted.gather(2, given.unsqueeze(2)).squeeze(2)
    counted = tokens >= 0
    means = (values * counted).sum(1) / counted.sum(1)
    return means.unflatten(0, (-1, count)).cpu().numpy()


def rounded(values: torch.Tensor) -> list[float]:
    return [round(value, 5) for value in values.double().cpu().tolist()]


def domain_mean(work: Path, values: list[float]) -> float:
    """Mean over the domains of what is held out."""
    domains = [row["domain"] for row in read_json(work / "held_out.json")]
    return float(pd.Series(values).groupby(domains).mean().mean())
