"""What scoring costs on a CPU, beside the plain forward pass of the same model: seconds, ratios and peak memory.

    python benchmarks/cpu.py                    # T = 4,096, 8,192 and 16,384; writes benchmarks/results/cpu.json

Parity comes first: every variant must agree with the naive one on the timed document. Then the variants run in turn,
several rounds in one process, and the median of each is compared with the plain forward's. Peak memory is measured in
a fresh process for each variant, as the rise of the resident set over what the loaded model takes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

from ladm_hf import LadmConfig, LadmScorer, __version__
from ladm_hf.ops import chunked, naive
from ladm_hf.scoring.engine import Engine

RESULTS = Path(__file__).parent / "results"


def exact_prefix(q: Any, k: Any, grid: Any, scale: float, lse: Any = None, softcap: Any = None) -> Any:
    return chunked.span_focus(q, k, grid, scale, None, softcap)


def variants(length: int) -> dict[str, Callable[[], Any]]:
    """Name -> one pass over one document of `length` tokens."""
    generator = torch.Generator().manual_seed(0)
    paper = LadmConfig(max_length=max(length, 32768))
    engines = {
        "scored": _engine(paper, chunked.span_focus),
        "scored, calibrated heads": _engine(LadmScorer().config, chunked.span_focus),
        "scored, exact prefix pass": _engine(paper, exact_prefix),
        "scored, naive": _engine(paper, naive.span_focus),
    }
    model = engines["scored"].model
    # Zipf-like ids: uniform ones would make attention flatter than any text's
    ids = (model.config.vocab_size * torch.rand(length, generator=generator) ** 3).long()

    @torch.inference_mode()
    def plain() -> Any:
        model.set_attn_implementation("sdpa")
        return model(input_ids=ids[None], use_cache=False).last_hidden_state

    passes: dict[str, Callable[[], Any]] = {"plain forward": plain}
    for name, engine in engines.items():
        passes[name] = lambda engine=engine: engine.score([ids.numpy()])[0]
    return passes


def _engine(config: LadmConfig, span_focus: Any) -> Engine:
    engine = LadmScorer(config=config, device="cpu")._load(None)
    engine.span_focus = span_focus
    return engine


def check_parity(passes: dict[str, Callable[[], Any]]) -> float:
    """Largest relative difference from the naive layer scores."""
    expected = torch.as_tensor(passes["scored, naive"]())
    worst = 0.0
    for name in ("scored", "scored, exact prefix pass"):
        worst = max(worst, float(((torch.as_tensor(passes[name]()) - expected) / expected).abs().max()))
    if worst > 1e-5:
        raise SystemExit(f"the variants differ by {worst:.1e}: not timed")
    return worst


def peak_memory(length: int, name: str) -> float:
    """MiB above the loaded model's resident set during one pass, in a process of its own."""
    command = [sys.executable, __file__, "--memory", str(length), name]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure_memory(length: int, name: str) -> None:
    run = variants(length)[name]
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    run()
    print((_status("VmHWM") - before) / 1024)


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1])
    raise KeyError(field)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[4096, 8192, 16384])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=RESULTS / "cpu.json")
    parser.add_argument("--memory", nargs=2, metavar=("T", "VARIANT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory:
        measure_memory(int(options.memory[0]), options.memory[1])
        return
    rows = []
    for length in options.lengths:
        passes = variants(length)
        worst = check_parity(passes)
        seconds: dict[str, list[float]] = {name: [] for name in passes}
        for _ in range(options.rounds):
            for name, run in passes.items():
                start = time.perf_counter()
                run()
                seconds[name].append(time.perf_counter() - start)
        plain = statistics.median(seconds["plain forward"])
        peaks = {name: peak_memory(length, name) for name in passes}
        for name, times in seconds.items():
            rows.append(
                {
                    "tokens": length,
                    "variant": name,
                    "seconds": round(statistics.median(times), 4),
                    "ratio": round(statistics.median(times) / plain, 3),
                    "memory_mib": round(peaks[name], 1),
                    "memory_ratio": round(peaks[name] / peaks["plain forward"], 3),
                }
            )
            row = rows[-1]
            print(
                f"{length:>6}  {name:<26}{row['seconds']:>9.3f} s{row['ratio']:>8.2f}x"
                f"{row['memory_mib']:>10.1f} MiB{row['memory_ratio']:>8.2f}x"
            )
        print(f"{length:>6}  largest difference between variants {worst:.1e}", flush=True)
    result = {
        "ladm_hf": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "model": "ladm-nano",
        "dtype": "float32",
        "rounds": options.rounds,
        "rows": rows,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
