"""What scoring costs on a CPU, in the default dtype and in float32, beside the plain forward pass of the same model.

    python benchmarks/cpu.py     # 4,096 to 32,768 tokens; writes benchmarks/results/cpu.json

Parity comes first: in float32 the score must be that of the naive implementation. Each variant has a process of its
own, in which it was run before on a short document. The variants take turns, and the best of each one's passes counts;
peak memory is the rise of the resident set over what the loaded model takes.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from ladm_hf import LadmScorer, __version__
from ladm_hf.ops.device import cpu_has
from ladm_hf.scoring.engine import Engine

RESULTS = Path(__file__).parent / "results"
PLAIN, DEFAULT, FLOAT32 = "plain forward, float32", "scored, default", "scored, float32"
PARITY_TOKENS, WARM_UP_TOKENS = 4096, 2560
# Passes over a document of up to so many tokens; longer ones get one.
ROUNDS = {8192: 3, 16384: 2}


def engine(dtype: str, backend: str = "auto") -> Engine:
    return LadmScorer(device="cpu", dtype=dtype, backend=backend)._load(None)


def one_pass(variant: str) -> Callable[[Any], Any]:
    """What a variant does with the token ids of one document."""
    if variant != PLAIN:
        loaded = engine("auto" if variant == DEFAULT else "float32")
        return lambda ids: loaded.score([ids])
    model = engine("float32").model
    model.set_attn_implementation("sdpa")

    @torch.inference_mode()
    def forward(ids: Any) -> Any:
        return model(input_ids=torch.as_tensor(ids)[None], use_cache=False).last_hidden_state

    return forward


def document(length: int) -> Any:
    """Zipf-like ids: uniform ones would make attention flatter than any text's."""
    return (8192 * np.random.default_rng(0).random(length) ** 3).astype(np.int64)


def measure(length: int) -> tuple[float, float]:
    """Seconds of one pass in a worker, and its peak memory in MiB above the loaded model's."""
    Path("/proc/self/clear_refs").write_text("5")
    start = time.perf_counter()
    WORKER["pass"](document(length))
    return time.perf_counter() - start, (_status("VmHWM") - WORKER["loaded"]) / 1024


WORKER: dict[str, Any] = {}


def start_worker(variant: str) -> None:
    WORKER["pass"] = one_pass(variant)
    WORKER["loaded"] = _status("VmRSS")
    WORKER["pass"](document(WARM_UP_TOKENS))


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1])
    raise KeyError(field)


def check_parity() -> float:
    """Largest relative difference of the layer scores in float32 from the naive ones."""
    ids = document(PARITY_TOKENS)
    ours, naive = (engine("float32", backend).score([ids])[0] for backend in ("auto", "naive"))
    worst = float(np.abs(ours / naive - 1).max())
    if worst > 1e-5:
        raise SystemExit(f"the score differs from the naive one by {worst:.1e}: not timed")
    return worst


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[4096, 8192, 16384, 32768])
    parser.add_argument("--output", type=Path, default=RESULTS / "cpu.json")
    options = parser.parse_args()
    worst = check_parity()
    # a scorer in a worker process keeps to one thread where nothing is said
    os.environ["OMP_NUM_THREADS"] = str(torch.get_num_threads())
    spawn = multiprocessing.get_context("spawn")
    variants = (PLAIN, FLOAT32, DEFAULT)
    workers = {
        variant: ProcessPoolExecutor(1, spawn, initializer=start_worker, initargs=(variant,)) for variant in variants
    }
    rows = []
    for length in options.lengths:
        passes: dict[str, list[tuple[float, float]]] = {variant: [] for variant in variants}
        for _ in range(next((rounds for most, rounds in ROUNDS.items() if length <= most), 1)):
            for variant in variants:
                passes[variant].append(workers[variant].submit(measure, length).result())
        seconds = {variant: min(taken for taken, _ in found) for variant, found in passes.items()}
        for variant, found in passes.items():
            rows.append(
                {
                    "tokens": length,
                    "variant": variant,
                    "seconds": round(seconds[variant], 4),
                    "ratio": round(seconds[variant] / seconds[FLOAT32], 3),
                    "memory_mib": round(max(memory for _, memory in found), 1),
                }
            )
            print(
                "{tokens:>6}  {variant:<24}{seconds:>9.3f} s{ratio:>7.2f}x{memory_mib:>9.1f} MiB".format(**rows[-1]),
                flush=True,
            )
    for worker in workers.values():
        worker.shutdown()
    result = {
        "ladm_hf": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "model": "ladm-nano",
        "default": LadmScorer(device="cpu").dtype,
        "parity": worst,
        "rows": rows,
    }
    options.output.write_text(json.dumps(result, indent=1) + "\n")


def _processor() -> str:
    """Its name and the instructions that decide the default."""
    name = getattr(torch.cpu, "get_capabilities", dict)().get("cpu_name") or platform.machine()
    units = [unit for unit, has in (("AMX", cpu_has("amx_tile")), ("AVX512-BF16", cpu_has("avx512_bf16"))) if has]
    return f"{name} ({', '.join(units) or 'neither AMX nor AVX512-BF16'})"


if __name__ == "__main__":
    main()
