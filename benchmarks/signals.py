"""What the signals beside the score cost: the score alone, with text statistics, with the model's losses and attention.

    python benchmarks/signals.py                                   # on a GPU where there is one
    python benchmarks/signals.py --device cpu --lengths 8192 --documents 1 --rounds 3

Parity comes first: on one document the signals must agree with the definitions, made by transformers' own forward pass
with all logits and all attention weights at once, and the scores must be those without signals. Then every variant
scores the same texts (sources of the Python standard library, each cut to a length in tokens) in turn, several rounds
in one process, from text to columns, in the dtype that a scorer takes by itself unless one is named. On a GPU the time
is that of the clock; on a CPU it is processor time, which other programs on the machine change less. The table gives
the median and its ratio to the score alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sysconfig
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import AutoModelForCausalLM

from ladm_hf import LadmConfig, LadmScorer, __version__
from ladm_hf.calculators.calculator import resolve
from ladm_hf.data.score_columns import GAIN_SIGNALS, LOSS_SIGNALS, MODEL_SIGNALS, SIGNALS, TEXT_SIGNALS
from ladm_hf.text import counted

RESULTS = Path(__file__).parent / "results"
ALONE = "score alone"
VARIANTS = {
    ALONE: (),
    "with text statistics": tuple(TEXT_SIGNALS),
    "with token_loss": ("token_loss",),
    "with context_gain and key_token_share": tuple(GAIN_SIGNALS),
    "with distant_attention": ("distant_attention",),
    "with distant_attention and distant_uniformity": ("distant_attention", "distant_uniformity"),
    "with all signals": tuple(SIGNALS),
}
# The document and short context of the parity check, and how far signals may be off in float32 and in half precision.
PARITY_TOKENS, PARITY_SHORT = 2560, 512
TOLERANCES = {"float32": 1e-3, "float16": 1e-1, "bfloat16": 1e-1}


def texts(tokenizer: Any, length: int, count: int) -> list[str]:
    """Texts of a few more than `length` tokens each, from different places of the standard library."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    found: list[str] = []
    ids: list[int] = []
    while len(found) < count:
        for file in files:
            ids += tokenizer(file.read_text(encoding="utf-8", errors="replace"), verbose=False)["input_ids"]
            while len(ids) > 1.05 * length and len(found) < count:
                found.append(tokenizer.decode(ids[: int(1.05 * length)]))
                ids = ids[int(1.05 * length) :]
    return found


@torch.inference_mode()
def by_definition(model: Any, ids: torch.Tensor, short_context: int) -> dict[str, float]:
    """The signals of one document `[T]`, from all logits and all attention weights of the first layer."""
    output = model(input_ids=ids[None], output_attentions=True, use_cache=False)
    weights = output.attentions[0][0].double()
    long = torch.nn.functional.cross_entropy(output.logits[0, :-1].double(), ids[1:], reduction="none")
    del output
    late, short, stride = [], [], max(1, short_context // 4)
    for start in range(0, len(ids) - short_context, stride):
        window = ids[start : start + short_context + stride]
        logits = model(input_ids=window[None], use_cache=False).logits[0, short_context - 1 : -1].double()
        short.append(torch.nn.functional.cross_entropy(logits, window[short_context:], reduction="none"))
        late.append(long[start + short_context - 1 :][: len(short[-1])])
    gain, loss = torch.cat(short) - torch.cat(late), torch.cat(late)
    count = 3 * (len(ids) // 4)
    distant = torch.zeros_like(weights)
    distant[:, len(ids) - count :, :count] = weights[:, len(ids) - count :, :count].tril()
    return {
        "token_loss": float(long.mean()),
        # LongFilter's equation 7: of all tokens, those that have no longer context gain nothing
        "context_gain": float((gain * (-loss).exp()).sum()) / len(ids),
        "key_token_share": float(((gain > 2) & (loss < 2)).double().mean()),
        "distant_attention": float(distant.sum((1, 2)).mean() / len(ids)),
        "distant_uniformity": -float(distant.flatten(1).var(1).mean()),
    }


def parity(model: str, device: str, dtypes: list[str], text: str) -> dict[str, dict[str, float]]:
    """Relative difference of each signal from its definition, and of the score from that without signals, by dtype."""
    path = resolve(model).path
    assert path is not None
    plain = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager").to(device)
    config = LadmConfig(max_length=PARITY_TOKENS)
    found: dict[str, dict[str, float]] = {}
    for dtype in dtypes:
        options: dict[str, Any] = {"config": config, "device": device, "dtype": dtype}
        scorer = LadmScorer(model, **options, signals=tuple(MODEL_SIGNALS), short_context=PARITY_SHORT)
        ids = scorer._load(None).tokenizer(text)["input_ids"][:PARITY_TOKENS]
        expected = by_definition(plain.eval(), torch.tensor(ids, device=device), PARITY_SHORT)
        (score,), (alone,) = scorer.score_input_ids([ids]), LadmScorer(model, **options).score_input_ids([ids])
        off = {name: abs(score.signals[name] / expected[name] - 1) for name in LOSS_SIGNALS}
        # a share of a few tokens: in the unit of tokens
        off["key_token_share"] = abs(score.signals["key_token_share"] - expected["key_token_share"])
        off |= {name: abs(score.signals[name] / expected[name] - 1) for name in MODEL_SIGNALS if name not in off}
        off["score"] = abs(score.score / alone.score - 1)
        worst = max(off, key=lambda name: off[name])
        if not off[worst] <= TOLERANCES[dtype]:
            raise SystemExit(f"{worst} is off by {off[worst]:.1e} in {dtype} on {device}: nothing is timed")
        found[dtype] = {name: float(f"{value:.1e}") for name, value in off.items()}
    return found


def measure(model: str, device: str, dtype: str, length: int, count: int, rounds: int) -> list[dict[str, Any]]:
    """A row for each variant at one length."""
    config = LadmConfig(max_length=length)
    scorers = {
        name: LadmScorer(model, config=config, device=device, dtype=dtype, signals=signals)
        for name, signals in VARIANTS.items()
    }
    batch = {"text": texts(scorers[ALONE]._load(None).tokenizer, length, count)}
    clock = time.process_time if device == "cpu" else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in scorers}
    memory: dict[str, float] = {}
    for number in range(rounds + 1):
        for name, scorer in scorers.items():
            if device != "cpu":
                torch.cuda.reset_peak_memory_stats()
            start = clock()
            found = scorer(batch)
            took = clock() - start
            assert set(found["ladm_status"]) == {"ok"}
            if device != "cpu":
                memory[name] = torch.cuda.max_memory_allocated() / 2**20
            # the first round loads models and prepares kernels
            if number:
                seconds[name].append(took / count)
    alone = np.array(seconds[ALONE])
    return [
        {
            "tokens": length,
            "variant": name,
            "seconds": round(statistics.median(times), 5),
            # of the same round, so that a slow minute slows both
            "ratio": round(float(np.median(np.array(times) / alone)), 3),
            **({"peak_mib": round(memory[name])} if name in memory else {}),
        }
        for name, times in seconds.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ladm-nano")
    parser.add_argument("--device", default="cuda:0" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="auto", help="what a scorer takes by itself, unless named")
    parser.add_argument("--lengths", type=int, nargs="+", default=[8192, 16384, 32768])
    parser.add_argument("--documents", type=int, help="texts of each length", default=None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, help="defaults to results/signals-cpu.json or signals-gpu.json")
    options = parser.parse_args()
    cpu = options.device == "cpu"
    count = options.documents or (1 if cpu else 128)
    tokenizer = resolve(options.model).load_tokenizer()
    dtype = LadmScorer(options.model, device=options.device, dtype=options.dtype).dtype
    dtypes = list(dict.fromkeys(["float32", dtype]))
    off = parity(options.model, options.device, dtypes, texts(tokenizer, PARITY_TOKENS, 1)[0])
    print("differences from the definitions:", json.dumps(off), flush=True)
    result: dict[str, Any] = {
        "ladm_hf": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": counted(torch.get_num_threads(), "CPU thread") if cpu else torch.cuda.get_device_name(options.device),
        "time": "processor" if cpu else "clock",
        "model": options.model,
        "dtype": dtype,
        "documents": count,
        "rounds": options.rounds,
        "parity": off,
        "rows": [],
    }
    output = options.output or RESULTS / f"signals-{'cpu' if cpu else 'gpu'}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    for length in options.lengths:
        rows = measure(options.model, options.device, dtype, length, count, options.rounds)
        result["rows"] += rows
        for row in rows:
            print(f"{length:>6}  {row['variant']:<46}{row['seconds']:>10.4f} s{row['ratio']:>8.3f}x", flush=True)
        output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
