"""What scoring costs on one GPU: parity first, then times, memory and a mixed stream, written as JSON.

    python benchmarks/gpu.py [--golden FOLDER] [--out benchmarks/results/gpu.json] [--profile]

Nothing is timed before the scores agree with the golden ones. All variants run in one process on one device, on a
random model of TinyLlama-1.1B's shape and on ladm-nano. `python benchmarks/table.py` renders the file as Markdown.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
import torch
import transformers
import triton
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import LlamaConfig, LlamaModel

from ladm_hf import __version__
from ladm_hf.calculators.calculator import Calculator, resolve
from ladm_hf.config import LadmConfig
from ladm_hf.ops import BACKENDS, causal, fused
from ladm_hf.ops.spans import SpanGrid
from ladm_hf.scoring import attention
from ladm_hf.scoring.attention import scoring_attention
from ladm_hf.scoring.engine import Engine
from ladm_hf.scoring.recorder import ForwardDone, Recorder, SpanRecorder

ABLATIONS = {"No": None, "no_std": "no_std", "no_len_weight": "no_length_weight"}
TINY_LLAMA = {
    "vocab_size": 32000, "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22,
    "num_attention_heads": 32, "num_key_value_heads": 4, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5,
}  # fmt: skip
LENGTHS = (4096, 8192, 16384, 32768, 65536, 131072)
LONG = LadmConfig(max_length=131072)
PARITY_FP32 = 2e-5
# Of timing several things in turns.
ROUNDS = 3
FOCUS_KERNELS = ("ladm_focus", "_focus_kernel")
OWN_KERNELS = (
    *FOCUS_KERNELS, "ladm_attention", "_rms_norm_kernel", "_rotate_kernel", "_gated_kernel", "_quantize_kernel",
)  # fmt: skip


class Unscored(Recorder):
    """A recorder that records nothing: the forward pass without its scoring."""

    def __init__(self, last: int) -> None:
        self.last = last

    def wants(self, layer: int) -> bool:
        return False

    def is_last(self, layer: int) -> bool:
        return layer == self.last

    def record(self, *_: Any) -> None:
        pass


def beside(focus: Any, reuse_lse: bool) -> Any:
    """A backend that runs beside the attention, never inside it; without the log-sum-exp it is the exact pass."""
    return lambda q, k, grid, scale, lse=None, softcap=None: focus(
        q, k, grid, scale, lse if reuse_lse else None, softcap
    )


@contextlib.contextmanager
def plain_pytorch(engine: Engine) -> Iterator[None]:
    """The model's own forward pass over scaled_dot_product_attention, nothing of ours but the recorder."""
    with (
        mock.patch.object(engine, "_fast", None),
        mock.patch.object(attention, "causal_attention", return_value=None),
        mock.patch.object(engine, "span_focus", BACKENDS["naive"]),
    ):
        yield


def tiny_llama(dtype: torch.dtype) -> Engine:
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    with torch.device("cuda"):
        model = LlamaModel(LlamaConfig(**TINY_LLAMA)).eval()
    torch.set_default_dtype(before)
    return engine_of(model)


def engine_of(model: LlamaModel) -> Engine:
    dtype = str(model.dtype).removeprefix("torch.")
    return Engine(Calculator("tiny-llama-shape", "random", LONG, model=model), LONG, dtype, "cuda:0", "auto", None)


def random_documents(lengths: Any, vocab: int = 32000, seed: int = 0) -> list[Any]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, vocab, int(length)) for length in lengths]


def seconds(function: Callable[[], Any], repeats: int) -> float:
    """Median wall time, the device idle before and after, one call to warm up."""
    function()
    times = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        start = time.perf_counter()
        function()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def in_turns(*runs: Callable[[], object], rounds: int = ROUNDS) -> list[float]:
    """Median seconds of each, run in turns, so that all meet the same temperatures and clocks."""
    medians: list[float] = np.median(rounds_in_turns(*runs, rounds=rounds), axis=0).tolist()
    return medians


def rounds_in_turns(*runs: Callable[[], object], rounds: int) -> npt.NDArray[np.float64]:
    """Seconds `[rounds, runs]` of each, run in turns."""
    took = []
    for run in runs * rounds:
        torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        torch.cuda.synchronize()
        took.append(time.perf_counter() - start)
    return np.reshape(took, (rounds, len(runs)))


# Parity


def parity(golden: Path) -> dict[str, Any]:
    """Against the golden scores: fp32 by an absolute bound, fp16 and bf16 by twice the error of plain PyTorch."""
    rows = []
    for folder in sorted(path for path in golden.glob("*") if path.is_dir()):
        values = json.loads((folder / "expected.json").read_text())
        config = LadmConfig(
            span_length=values["span_length"], d_afs=values["d_afs"], d_cds=values["d_cds"],
            ablation=ABLATIONS[values["ablation"]],
        )  # fmt: skip
        expected = np.array(values["layer_scores"])
        documents = [np.array(ids) for ids in values["input_ids"]]
        calculator = resolve(folder / "model")
        for dtype in ("float32", "float16", "bfloat16"):
            engine = Engine(calculator, config, dtype, "cuda:0", "auto", None)

            def error(engine: Engine = engine, documents: Any = documents, expected: Any = expected) -> float:
                difference = np.stack(engine.score(documents), 1) - expected
                return float(np.linalg.norm(difference) / np.linalg.norm(expected))

            ours = error()
            with plain_pytorch(engine):
                plain = error()
            passed = ours <= (PARITY_FP32 if dtype == "float32" else 2 * plain)
            rows.append(
                {"case": folder.name, "dtype": dtype, "forward": engine.forward_pass, "error": ours,
                 "plain_pytorch_error": plain, "passed": passed}
            )  # fmt: skip
            print(rows[-1], flush=True)
    if not rows or not all(row["passed"] for row in rows):
        raise SystemExit("parity failed: nothing is timed")
    return {"cases": rows, "worst_fp32": max(row["error"] for row in rows if row["dtype"] == "float32")}


def shape_parity() -> dict[str, Any]:
    """The same on four layers of the timed shape, a quarter of its heads, against plain PyTorch in fp32."""
    # the first has more key spans than any kernel adds up at once; all of its logits at once fit with few heads
    documents = random_documents([17000, 5000, 4096, 2500])
    shape = {"num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 1, "head_dim": 64}
    errors: dict[str, Any] = {}
    expected = None
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        torch.manual_seed(0)
        with torch.device("cuda"):
            model = LlamaModel(LlamaConfig(**TINY_LLAMA | shape)).eval()
        engine = engine_of(model.to(dtype))
        with plain_pytorch(engine):
            plain = np.concatenate([engine.score([document]) for document in documents])
        if expected is None:
            expected = plain
        ours = np.stack(engine.score(documents))
        norm = np.linalg.norm(expected)
        errors[str(dtype).removeprefix("torch.")] = row = {
            "attention": causal.kernel_name(0, dtype, 64, 8), "error": float(np.linalg.norm(ours - expected) / norm),
            "plain_pytorch_error": float(np.linalg.norm(plain - expected) / norm),
        }  # fmt: skip
        if not row["error"] <= max(PARITY_FP32, 2 * row["plain_pytorch_error"]):
            raise SystemExit(f"parity failed on the timed shape: {row}")
    return errors


def first_document() -> dict[str, float]:
    """Seconds of loading and of the first documents in this process, which must be a fresh one."""
    start = time.perf_counter()
    engine = tiny_llama(torch.float16)
    torch.cuda.synchronize()
    times = {"load": time.perf_counter() - start}
    for name, length in (("first", 32768), ("second", 32768), ("first_of_another_length", 20000), ("again", 20000)):
        start = time.perf_counter()
        engine.score(random_documents([length]))
        times[name] = time.perf_counter() - start
    return times


def in_a_fresh_process() -> Any:
    """The same, with nothing compiled before."""
    with tempfile.TemporaryDirectory() as cache:
        done = subprocess.run(
            [sys.executable, __file__, "--first-document"],
            env=os.environ | {"TRITON_CACHE_DIR": cache}, capture_output=True, text=True, check=True,
        )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def batch_invariance(engine: Engine) -> float:
    """Largest relative spread of one document's layer scores over ten different batches."""
    document, *others = random_documents([5000, *np.random.default_rng(1).integers(2400, 9000, 9)])
    alone = engine.score([document])[0]
    spread = 0.0
    for count in range(10):
        batch = others[:count]
        batch.insert(count // 2, document)
        spread = max(spread, float(np.abs(engine.score(batch)[count // 2] / alone - 1).max()))
    return spread


def out_of_memory(engine: Engine) -> dict[str, Any]:
    """Scores under a memory limit that the first batch does not meet, against scores without one."""
    count = 8
    documents = random_documents([32768] * count)
    expected = by_document(engine, documents)
    before, engine.budget.max_tokens = engine.budget.max_tokens, count * 32768
    # room for about three of the eight documents
    limit = torch.cuda.memory_allocated() + 3 * memory_of(lambda: engine.score(documents[:1]))
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(min(1.0, limit / torch.cuda.get_device_properties(0).total_memory))
    try:
        found = by_document(engine, documents)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    after, engine.budget.max_tokens = engine.budget.max_tokens, before
    if len(found) != count or after >= count * 32768:
        raise SystemExit(f"out-of-memory recovery failed: {len(found)} of {count} scored, budget {after}")
    spread = max(float(np.abs(found[i] / expected[i] - 1).max()) for i in range(count))
    return {"budget_before": count * 32768, "budget_after": after, "scored": len(found), "spread": spread}


def score_stream(engine: Engine, documents: list[Any]) -> None:
    """Scores documents in batches, one after the other, and keeps nothing."""
    for _ in engine.score_all(documents):
        pass


def by_document(engine: Engine, documents: list[Any]) -> dict[int, Any]:
    """Layer scores of every document that got any, by index."""
    return {
        i: measured.cds
        for batch, results in engine.score_all(documents)
        if results is not None
        for i, measured in zip(batch, results, strict=True)
    }


def memory_of(function: Callable[[], Any]) -> int:
    """Peak of device memory during a call, above what was allocated before it, in bytes."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    function()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


# Times


def variants(engine: Engine, length: int, count: int = 1) -> dict[str, Callable[[], Any]]:
    """What is compared, by name."""
    documents = random_documents([length] * count)
    ids = torch.from_numpy(np.stack(documents)).cuda()
    model, fast, last = engine.model, engine._fast, engine.layers[-1]
    assert fast is not None

    def plain(backend: SDPBackend) -> Callable[[], Any]:
        def run() -> None:
            with torch.inference_mode(), sdpa_kernel(backend):
                model.set_attn_implementation("sdpa")
                model(input_ids=ids, use_cache=False)

        return run

    def own_forward(focus: Any) -> Callable[[], Any]:
        def run() -> None:
            recorder = SpanRecorder(SpanGrid([length] * count, LONG), engine.layers, {}, focus)
            with torch.inference_mode(), scoring_attention(model), contextlib.suppress(ForwardDone):
                # the mask of ones says that nothing is packed; transformers 4.57 builds one of T x T without it
                model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, ladm_recorder=recorder)

        return run

    def unscored(end: int) -> Callable[[], Any]:
        def run() -> None:
            with torch.inference_mode():
                fast(ids, Unscored(end))

        return run

    return {
        "plain_flash": plain(SDPBackend.FLASH_ATTENTION),
        "plain_cudnn": plain(SDPBackend.CUDNN_ATTENTION),
        "model_forward_naive": own_forward(BACKENDS["naive"]),
        "model_forward_exact": own_forward(beside(fused.span_focus, reuse_lse=False)),
        "model_forward_lse": own_forward(beside(fused.span_focus, reuse_lse=True)),
        "model_forward_focus": own_forward(BACKENDS["fused"]),
        # the engine's forward pass without scoring: to the end of the last layer, and to its queries and keys
        "engine_unscored_whole": unscored(last + 1),
        "engine_unscored": unscored(last),
        "engine": lambda: engine.score(documents),
    }


def by_length(
    engine: Engine, lengths: tuple[int, ...], only: tuple[str, ...] = (), in_batches: bool = False
) -> dict[str, dict[str, float]]:
    """Median seconds of one document by variant and length, alone or in a full batch, where the host is no limit."""
    times: dict[str, dict[str, float]] = {}
    for length in lengths:
        count = max(1, engine.budget.max_tokens // length) if in_batches else 1
        repeats = 1 if count * length > 65536 else 2 if count * length > 32768 else 3
        for name, run in variants(engine, length, count).items():
            if (only and name not in only) or (length > 65536 and name not in ("plain_cudnn", "engine")):
                continue
            if length > 32768 and name == "model_forward_naive":
                continue
            times.setdefault(name, {})[str(length)] = seconds(run, repeats) / count
            print(f"{length:7d} {name:24s} {times[name][str(length)]:.4f} s", flush=True)
            torch.cuda.empty_cache()
    return times


def steady_state(engine: Engine, length: int, count: int) -> dict[str, Any]:
    """Seconds a document from token ids to scores, several batches in a row, and its parts measured in turns."""
    per_batch = max(1, min(count, engine.budget.max_tokens // length))
    batches = count // per_batch
    count = batches * per_batch
    documents = random_documents([length] * count)

    def unscored(name: str) -> Callable[[], None]:
        forward = variants(engine, length, per_batch)[name]

        def run() -> None:
            for _ in range(batches):
                forward()

        return run

    kinds = {
        "scored": partial(score_stream, engine, documents),
        "unscored": unscored("engine_unscored"),
        "unscored_whole": unscored("engine_unscored_whole"),
    }
    for run in kinds.values():
        run()
    took = in_turns(*kinds.values())
    medians = {name: seconds / count for name, seconds in zip(kinds, took, strict=True)}
    return medians | {
        "documents": count,
        "documents_per_batch": per_batch,
        "tokens_per_second": length / medians["scored"],
        "scoring_adds": medians["scored"] / medians["unscored"] - 1,
        "scoring_adds_to_whole_forward": medians["scored"] / medians["unscored_whole"] - 1,
    }


def memory(engine: Engine) -> dict[str, Any]:
    """Peak memory above the weights for 4 documents of 32k."""
    torch.cuda.empty_cache()
    runs = variants(engine, 32768, 4)
    plain, ours = memory_of(runs["plain_cudnn"]), memory_of(runs["engine"])
    weights = sum(p.numel() * p.element_size() for p in engine.model.parameters())
    return {
        "plain_forward_bytes": plain, "engine_bytes": ours, "weights_bytes": weights,
        "ratio": (ours + weights) / (plain + weights), "ratio_without_weights": ours / plain,
    }  # fmt: skip


def mixed_stream(engine: Engine) -> dict[str, Any]:
    """512 documents of log-uniform length, 2k to 32k, against what equal lengths predict."""
    lengths = np.exp(np.random.default_rng(0).uniform(np.log(2305), np.log(32768), 512)).astype(int)
    knots = [2560, 4096, 8192, 16384, 32768]
    per_token = []
    for length in knots:
        documents = random_documents([length] * max(1, 262_144 // length))
        per_token.append(seconds(partial(score_stream, engine, documents), 1) / sum(map(len, documents)))
    predicted = float((lengths * np.interp(np.log(lengths), np.log(knots), per_token)).sum())
    documents = random_documents(lengths)
    padded: list[int] = []
    start_batch = engine._start

    def counted(batch: list[Any]) -> Any:
        padded.append(len(batch) * engine._padded_length(max(map(len, batch))))
        return start_batch(batch)

    torch.cuda.synchronize()
    start = time.perf_counter()
    with mock.patch.object(engine, "_start", counted):
        score_stream(engine, documents)
    took = time.perf_counter() - start
    return {
        "documents": 512, "tokens": int(lengths.sum()), "batches": len(padded),
        "padding": 1 - float(lengths.sum() / sum(padded)),
        "predicted_seconds": predicted, "seconds": took, "share_of_predicted": predicted / took,
        "tokens_per_second": float(lengths.sum() / took),
    }  # fmt: skip


def nano() -> dict[str, Any]:
    """ladm-nano at 8k: documents a second, and the share of the device's time in kernels of ours."""
    out: dict[str, Any] = {}
    calculator = resolve("ladm-nano")
    for name, config in {"calibrated": calculator.config, "all_heads": LadmConfig()}.items():
        engine = Engine(calculator, config, "float16", "cuda:0", "auto", None)
        run = partial(score_stream, engine, random_documents([8192] * 256, 8192))
        took = seconds(run, 3)
        shares = kernel_times(run)
        own = sum(ms for kernel, ms in shares.items() if kernel.startswith(OWN_KERNELS))
        total = sum(shares.values())
        out[name] = {
            "documents_per_second": 256 / took, "tokens_per_second": 256 * 8192 / took,
            "device_busy": total / 1e3 / took,
            "share_in_own_kernels": own / total,
            "share_in_scoring": sum(ms for kernel, ms in shares.items() if kernel.startswith(FOCUS_KERNELS)) / total,
        }  # fmt: skip
    return out


def kernel_times(function: Callable[[], Any]) -> dict[str, float]:
    """Milliseconds of device time by kernel."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU], acc_events=True) as trace:
        function()
        torch.cuda.synchronize()
    times: dict[str, float] = {}
    for event in trace.key_averages():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            times[event.key] = times.get(event.key, 0.0) + event.device_time_total / 1e3
    return times


def layer_profile(engine: Engine) -> dict[str, float]:
    """Milliseconds of one layer's parts, the mean over the layers of one document of 32k."""
    parts = parts_of(kernel_times(variants(engine, 32768)["engine"]))
    return {part: ms / len(engine.layers) for part, ms in parts.items()}


def parts_of(times: dict[str, float]) -> dict[str, float]:
    """Milliseconds by part of a forward pass, from those by kernel."""
    parts = {"attention": 0.0, "matrix products": 0.0, "scoring": 0.0, "norms, rotary, activation": 0.0, "rest": 0.0}
    for kernel, ms in times.items():
        if "sdpa" in kernel or "flash" in kernel or kernel.startswith("ladm_attention"):
            part = "attention"
        elif kernel.startswith(FOCUS_KERNELS) or "reduce" in kernel:
            part = "scoring"
        elif kernel.startswith(OWN_KERNELS):
            part = "norms, rotary, activation"
        elif any(word in kernel for word in ("nvjet", "gemm", "cutlass")):
            part = "matrix products"
        else:
            part = "rest"
        parts[part] += ms
    return parts


def environment() -> dict[str, Any]:
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True, cwd=Path(__file__).parent
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = "unknown"
    return {
        "ladm_hf": __version__, "device": torch.cuda.get_device_name(),
        "capability": list(torch.cuda.get_device_capability()),
        "python": platform.python_version(), "torch": torch.__version__, "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(), "triton": triton.__version__,
        "transformers": transformers.__version__, "attention": causal.describe("cuda"), "commit": commit,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--golden", type=Path, default=Path("../shared/data/golden"), help="folder of golden scores")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/gpu.json"))
    parser.add_argument("--commit", help="recorded where git is not at hand")
    parser.add_argument(
        "--profile", action="store_true", help="show where the time of one layer goes, and nothing else"
    )
    parser.add_argument("--only", nargs="+", help="of what is measured these alone, after the check of parity")
    parser.add_argument("--first-document", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.first_document:
        print(json.dumps(first_document()))
        return
    result: dict[str, Any] = {"environment": environment()}
    if options.commit:
        result["environment"]["commit"] = options.commit

    def section(name: str, function: Callable[[], Any]) -> None:
        if options.only and name not in (*options.only, "parity", "shape_parity"):
            return
        start = time.perf_counter()
        result[name] = function()
        print(f"{name} ({time.perf_counter() - start:.0f} s): {json.dumps(result[name])}", flush=True)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=1) + "\n")

    print(json.dumps(result["environment"]), flush=True)
    start = time.perf_counter()
    engine = tiny_llama(torch.float16)
    if options.profile:
        engine.score(random_documents([32768]))
        section("profile", lambda: layer_profile(engine))
        return
    section("parity", lambda: parity(options.golden))
    section("shape_parity", shape_parity)
    section("first_document", in_a_fresh_process)
    section("batch_invariance", lambda: {"spread": batch_invariance(engine)})
    section("out_of_memory", lambda: out_of_memory(engine))
    section("memory", lambda: memory(engine))
    section("steady_float16", lambda: steady_state(engine, 32768, 24))
    section("seconds", lambda: by_length(engine, LENGTHS))
    section("seconds_in_batches", lambda: by_length(engine, LENGTHS, ("plain_cudnn", "engine"), in_batches=True))
    section("mixed_stream", lambda: mixed_stream(engine))
    section("profile", lambda: layer_profile(engine))
    del engine
    torch.cuda.empty_cache()
    engine = tiny_llama(torch.bfloat16)
    section("steady_bfloat16", lambda: steady_state(engine, 32768, 24))
    section("seconds_bfloat16", lambda: by_length(engine, (32768,), ("plain_cudnn", "engine")))
    section("nano", nano)
    result["wall_seconds"] = time.perf_counter() - start
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written to {options.out} after {result['wall_seconds']:.0f} s")


if __name__ == "__main__":
    main()
