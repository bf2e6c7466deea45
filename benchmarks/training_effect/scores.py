"""The pool's scores by each model-based rule, with the seconds that each took: `scores/NAME.npy`, `[N]`, and `.json`.

Needs the pool's tokens alone, so that it can run where its texts are not.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ladm_hf.calculators.calculator import resolve
from ladm_hf.config import LadmConfig
from ladm_hf.ops.scores import document_score
from ladm_hf.scoring.engine import Engine

from .plan import Plan
from .store import Stream, write_json

Scores = np.ndarray
# Tokens of one forward pass of the losses.
BATCH_TOKENS = 65_536


def score(plan: Plan, work: Path, earlier: str, device: str) -> None:
    pool = read_by_calculator(plan, Stream.read(work / "tokens/pool"))
    rules: dict[str, Callable[[], Scores]] = {
        "ladm": lambda: ladm(pool, plan["calculator"], None, device),
        "ladm_0_1_0": lambda: ladm(pool, earlier, None, device),
        "paper": lambda: ladm(pool, plan["calculator"], LadmConfig.paper, device),
        "long_minus_short": lambda: long_minus_short(
            pool, plan["calculator"], plan["long_minus_short"]["max_tokens"], device
        ),
    }
    for name, rule in rules.items():
        target = work / "scores" / f"{name}.npy"
        if target.exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        start = time.perf_counter()
        found = rule()
        seconds = time.perf_counter() - start
        hardware = torch.cuda.get_device_name() if device == "cuda" else device
        write_json(target.with_suffix(".json"), {"seconds": round(seconds, 1), "device": hardware})
        np.save(target, found)
        print(
            f"{name}: {len(found):,} documents in {seconds:.1f} s, {np.isnan(found).sum()} without a score", flush=True
        )


def load_tokenizer(plan: Plan) -> Any:
    """That of the models that are trained: the calculator's, unless the plan names another."""
    name = plan.get("tokenizer")
    return AutoTokenizer.from_pretrained(name) if name else resolve(plan["calculator"]).load_tokenizer()


def read_by_calculator(plan: Plan, pool: Stream) -> Stream:
    """The pool in tokens of the calculator (and of its earlier version, which shares them)."""
    if "tokenizer" not in plan:
        return pool
    written, calculator = load_tokenizer(plan), resolve(plan["calculator"]).load_tokenizer()
    documents = []
    for row in range(len(pool)):
        text = written.decode(pool[row].tolist(), clean_up_tokenization_spaces=False)
        ids = calculator(text, add_special_tokens=False, verbose=False)["input_ids"][: plan["pool"]["max_tokens"]]
        documents.append(np.array(ids, dtype=np.uint32))
    return Stream(np.concatenate(documents), np.cumsum([0, *map(len, documents)], dtype=np.int64))


def ladm(pool: Stream, model: str, config: Callable[..., LadmConfig] | None, device: str) -> Scores:
    """LADM as the calculator's own configuration defines it, or another one of its geometry."""
    calculator = resolve(model)
    own = calculator.config
    if config is not None:
        own = config(span_length=own.span_length, d_afs=own.d_afs, d_cds=own.d_cds, max_length=own.max_length)
    engine = Engine(calculator, own, "float32" if device == "cpu" else "float16", device, "auto", None)
    rows = np.flatnonzero(pool.lengths >= own.min_tokens)
    scores = np.full(len(pool), np.nan)
    for batch, found in engine.score_all([pool[row][: own.max_length].astype(np.int64) for row in rows]):
        if found is None:
            raise SystemExit(f"a document of {len(pool[rows[batch[0]]]):,} tokens does not fit in memory")
        scores[rows[batch]] = [document_score(measured.cds, own.weights) for measured in found]
    return scores


@torch.inference_mode()
def long_minus_short(pool: Stream, model: str, most: int, device: str) -> Scores:
    """How much a token's loss falls when its context grows from `T/8 .. T/4` to all that comes before it.

    LongFilter, arXiv 2510.25804, without its weight, as in `benchmarks/quality.py`.
    """
    path = resolve(model).path
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    reader = AutoModelForCausalLM.from_pretrained(path, dtype=dtype).to(device).eval()
    lengths = np.minimum(pool.lengths, most) // 8 * 8
    scores = np.full(len(pool), np.nan)
    for length in sorted(set(lengths.tolist())):
        rows, size = np.flatnonzero(lengths == length), max(1, BATCH_TOKENS // max(length, 1))
        for batch in np.array_split(rows, -(-len(rows) // size)) if length >= 16 else []:
            ids = torch.from_numpy(np.stack([pool[row][:length] for row in batch]).astype(np.int64)).to(device)
            step = length // 8
            full = token_losses(reader, ids)
            chunks = ids.unfold(1, 2 * step, step)
            short = token_losses(reader, chunks.flatten(0, 1)).unflatten(0, (len(ids), -1))[..., step - 1 :]
            # the second half of chunk c predicts tokens (c + 1) step .. (c + 2) step
            long = full[:, step - 1 :].unfold(1, step, step)
            scores[batch] = (short - long).mean((1, 2)).cpu().numpy()
    return scores


def token_losses(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """Loss of every token but the first, `[B, T - 1]`; whole batches, each row a document of its own."""
    hidden = model.base_model(
        input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False
    ).last_hidden_state  # fmt: skip
    head, parts, step = model.get_output_embeddings(), [], max(1, BATCH_TOKENS // len(ids))
    for start in range(0, ids.shape[1] - 1, step):
        stop = min(start + step, ids.shape[1] - 1)
        logits = head(hidden[:, start:stop]).float().transpose(1, 2)
        parts.append(torch.nn.functional.cross_entropy(logits, ids[:, start + 1 : stop + 1], reduction="none"))
    return torch.cat(parts, 1)
