"""What scoring costs on one GPU by family: models of real shapes with random weights, parity first, then times.

    python benchmarks/shapes.py [--out benchmarks/results/shapes.json] [--tokens 32768] [NAME ...]
    python benchmarks/shapes.py --float8 --out benchmarks/results/float8.json Llama-3.2-1B Llama-3.2-3B
    python benchmarks/shapes.py --tiny      # parity of narrow models in Triton's interpreter, where there is no GPU

Parity: PFS in the first layers of each shape, ours and plain PyTorch's, against plain PyTorch in float32; ours may be
off by twice as much as plain PyTorch in the same dtype. A shape that fails is not timed, and the script ends in an
error. Times: seconds of one document in bfloat16, ours in turns with the better of the plain forward passes with flash
and with cuDNN attention (where a layer slides, with whatever kernel takes its mask); what scoring adds to our own
forward pass, cut at the same place, is measured over several documents in a row, in turns with it. `--profile` says
where the time goes. `--float8` times linear layers in float8 beside bfloat16 instead, in turns, too.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

if shutil.which("nvidia-smi") is None:
    # Triton must know before kernels are defined
    os.environ.setdefault("TRITON_INTERPRET", "1")

import numpy as np
import torch
from gpu import (
    Unscored,
    environment,
    in_turns,
    kernel_times,
    parts_of,
    plain_pytorch,
    random_documents,
    score_stream,
    seconds,
)
from table import render_float8, render_shapes
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AutoConfig, AutoModel, PreTrainedModel

from ladm_hf.calculators.calculator import Calculator
from ladm_hf.config import LadmConfig
from ladm_hf.ops import causal
from ladm_hf.scoring import trial
from ladm_hf.scoring.architecture import UnknownPart
from ladm_hf.scoring.engine import Engine
from ladm_hf.scoring.precision import FLOAT8

VOCABULARY = 32_000
# Layers of the models that are compared, enough for a full layer of each family.
COMPARED_LAYERS = 6
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
PARITY_FP32 = 2e-5
# Of documents in a row: seconds, about, and how many at least, so that the GPU's waiting for the host before the first
# and after the last does not count; and rounds, since clocks change at the limit of power.
STREAM_SECONDS, STREAM_DOCUMENTS, STREAM_ROUNDS = 2.0, 4, 5
# A plain forward pass that takes longer is timed once.
LONG_SECONDS = 2.0
# Lengths at which float8 is timed, a batch of the last.
FLOAT8_TOKENS = (8192, 32_768)


def shape(model_type: str, hidden: int, inner: int, layers: int, heads: tuple[int, int], **more: Any) -> dict[str, Any]:
    return {
        "model_type": model_type, "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers,
        "num_attention_heads": heads[0], "num_key_value_heads": heads[1], "max_position_embeddings": 131_072,
        "vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": None,
    } | more  # fmt: skip


GRANITE = {"attention_multiplier": 0.015625, "embedding_multiplier": 12.0, "residual_multiplier": 0.22}
GEMMA = {"head_dim": 256, "query_pre_attn_scalar": 256}
SHAPES: dict[str, dict[str, Any]] = {
    "TinyLlama-1.1B": shape("llama", 2048, 5632, 22, (32, 4)),
    "Llama-3.2-1B": shape("llama", 2048, 8192, 16, (32, 8), head_dim=64),
    "Llama-3.2-3B": shape("llama", 3072, 8192, 28, (24, 8), head_dim=128),
    "Qwen2.5-0.5B": shape("qwen2", 896, 4864, 24, (14, 2)),
    "Qwen3-0.6B": shape("qwen3", 1024, 3072, 28, (16, 8), head_dim=128),
    "Qwen3-1.7B": shape("qwen3", 2048, 6144, 28, (16, 8), head_dim=128),
    "OLMo-2-1B": shape("olmo2", 2048, 8192, 16, (16, 16)),
    "OLMo-3-7B": shape("olmo3", 4096, 11008, 32, (32, 32), sliding_window=4096),
    "Gemma-3-1B": shape("gemma3_text", 1152, 6912, 26, (4, 1), sliding_window=512, **GEMMA),
    "Gemma-3-4B": shape("gemma3_text", 2560, 10240, 34, (8, 4), sliding_window=1024, **GEMMA),
    "Phi-3-mini": shape("phi3", 3072, 8192, 32, (32, 32)),
    "Phi-4-mini": shape(
        "phi3", 3072, 8192, 32, (24, 8),
        rope_parameters={"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.75},
    ),
    "SmolLM3-3B": shape("smollm3", 2048, 11008, 36, (16, 4)),
    "Ministral-3-3B": shape("ministral3", 3072, 9216, 26, (32, 8), head_dim=128),
    "Granite-4.0-micro": shape(
        "granitemoehybrid", 2560, 8192, 40, (40, 8), layer_types=["full_attention"] * 40, num_local_experts=0,
        shared_intermediate_size=8192, position_embedding_type="rope", **GRANITE,
    ),
    "LFM2-1.2B": shape(
        "lfm2", 2048, 12288, 16, (32, 8),
        layer_types=["full_attention" if i in (2, 5, 8, 10, 12, 14) else "conv" for i in range(16)],
    ),
    "Qwen3.5-9B": shape("qwen3_5_text", 4096, 12288, 32, (16, 4), head_dim=256),
    "GLM-4-9B": shape("glm4", 4096, 13696, 40, (32, 2), head_dim=128, attention_bias=True),
    "Command-R7B": shape("cohere2", 4096, 14336, 32, (32, 8), sliding_window=4096),
    "Granite-3.3-2B": shape("granite", 2048, 8192, 40, (32, 8), **GRANITE),
    "Pythia-1.4B": shape("gpt_neox", 2048, 8192, 24, (16, 16), rotary_pct=0.25),
    "Phi-1.5": shape("phi", 2048, 8192, 24, (32, 32), partial_rotary_factor=0.5),
    "Gemma-2B": shape("gemma", 2048, 16384, 18, (8, 1), head_dim=256),
}  # fmt: skip


def build(values: dict[str, Any], dtype: torch.dtype, device: str) -> PreTrainedModel:
    """A seeded random model of a shape."""
    torch.manual_seed(0)
    values = dict(values)
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    with torch.device(device):
        return AutoModel.from_config(config, dtype=dtype).eval()


def shortened(values: dict[str, Any], layers: int = COMPARED_LAYERS) -> dict[str, Any]:
    """The first layers of a shape."""
    kinds = values.get("layer_types")
    return values | {"num_hidden_layers": layers} | ({"layer_types": kinds[:layers]} if kinds else {})


def tiny(values: dict[str, Any]) -> dict[str, Any]:
    """A narrow model of the same family, with the same share of query heads to key heads and a short window."""
    group = values["num_attention_heads"] // values["num_key_value_heads"]
    small = {
        "hidden_size": 16 * group, "intermediate_size": 24, "num_attention_heads": group, "num_key_value_heads": 1,
        "head_dim": 16, "vocab_size": 97, "initializer_range": 0.1,
    }  # fmt: skip
    small |= {name: 24 for name in ("shared_intermediate_size", "block_ff_dim") if name in values}
    small |= {"sliding_window": 40} if "sliding_window" in values else {}
    # which only layers that are not there have, and which must fit the width all the same
    small |= {"mamba_n_heads": 2} if values["model_type"] == "granitemoehybrid" else {}
    small |= {"query_pre_attn_scalar": 16} if "query_pre_attn_scalar" in values else {}
    return shortened(values) | small


def engine_of(
    model: PreTrainedModel, config: LadmConfig, device: str, dtype: str | None = None, batch: int | None = None
) -> Engine:
    dtype = dtype or str(model.dtype).removeprefix("torch.")
    return Engine(Calculator("shape", "random", config, model=model), config, dtype, device, "auto", batch)


def focus(engine: Engine, batches: list[list[Any]]) -> np.ndarray:
    """PFS of every layer and pair of spans of documents, one after another."""
    found = []
    for batch in batches:
        grid, pfs = engine.pfs(batch)
        found += [pfs[:, i][:, grid.present[i]].flatten() for i in range(len(batch))]
    return torch.cat(found).numpy()


def parity(values: dict[str, Any], lengths: list[int], config: LadmConfig, device: str) -> dict[str, Any]:
    """Errors of ours and of plain PyTorch by dtype, and whether ours ran and is within its bound."""
    documents = random_documents(lengths, values["vocab_size"])
    expected, rows = None, {}
    for dtype in DTYPES if device != "cpu" else DTYPES[:1]:
        engine = engine_of(build(values, dtype, device), config, device)
        with plain_pytorch(engine):
            # one by one: a padded batch takes a mask and, in float32, all logits of all heads at once
            plain = focus(engine, [[document] for document in documents])
        expected = plain if expected is None else expected
        ours = focus(engine, [documents])
        error, plain_error = (float(np.linalg.norm(x - expected) / np.linalg.norm(expected)) for x in (ours, plain))
        rows[str(dtype).removeprefix("torch.")] = {
            "forward": engine.forward_pass, "error": error, "plain_pytorch_error": plain_error,
            "passed": engine.forward_pass == "fast" and error <= max(PARITY_FP32, 2 * plain_error),
        }  # fmt: skip
    return rows


def times(values: dict[str, Any], tokens: int, profile: bool) -> dict[str, Any]:
    """Seconds of one document, in bfloat16; why there are none where the fast forward pass is refused."""
    config = LadmConfig(max_length=tokens)
    model = build(values, torch.bfloat16, "cuda:0")
    # one document a batch
    engine = engine_of(model, config, "cuda:0", batch=tokens)
    if engine._fast is None:
        try:
            trial._tried(model, engine.plan)
        except UnknownPart as refused:
            return {"refused": str(refused)}
    documents = random_documents([tokens])
    ids = torch.from_numpy(documents[0])[None].cuda()

    def plain(backend: SDPBackend) -> Callable[[], None]:
        def run() -> None:
            # the last two take a mask
            backends = [backend, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
            with torch.inference_mode(), sdpa_kernel(backends, set_priority=True):
                model.set_attn_implementation("sdpa")
                model(input_ids=ids, use_cache=False)

        return run

    plain_runs = {
        "plain_flash": plain(SDPBackend.FLASH_ATTENTION), "plain_cudnn": plain(SDPBackend.CUDNN_ATTENTION),
    }  # fmt: skip
    found: dict[str, Any] = {}
    for name, run in plain_runs.items():
        try:
            found[name] = seconds(run, 1)
        except torch.OutOfMemoryError:
            found[name] = None
        torch.cuda.empty_cache()
    better = min((took for took in found.values() if took), default=None)
    ours = partial(engine.score, documents)
    if better and better < LONG_SECONDS:
        name = next(name for name, took in found.items() if took == better)
        ours()
        better, found["ours"] = in_turns(plain_runs[name], ours)
        found[name] = better
    else:
        found["ours"] = seconds(ours, 3)
    if profile:
        found["profile"] = parts_of(kernel_times(ours))
    call = engine.plan.calls[engine.layers[-1]]
    found |= {
        "layers": len(engine.layers), "of_layers": values["num_hidden_layers"], "head_dim": call.head_dim,
        "attention": causal.kernel_name(0, torch.bfloat16, call.head_dim, call.num_heads // call.num_key_heads),
        "ratio": better and found["ours"] / better, "scoring_adds": scoring_adds(engine, tokens, found["ours"]),
    }  # fmt: skip
    return found


def scoring_adds(engine: Engine, tokens: int, one: float) -> float:
    """What scoring adds to our own forward pass cut at the same place, in a row of documents of `one` second each."""
    documents = random_documents([tokens] * max(STREAM_DOCUMENTS, round(STREAM_SECONDS / one)))
    ids = torch.from_numpy(documents[0])[None].cuda()
    fast, last = engine._fast, engine.layers[-1]
    assert fast is not None

    def unscored() -> None:
        with torch.inference_mode():
            for _ in documents:
                fast(ids, Unscored(last))

    scored, forward = in_turns(partial(score_stream, engine, documents), unscored, rounds=STREAM_ROUNDS)
    return scored / forward - 1


def float8_times(values: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Seconds of a document by length and dtype, in batches of 32,768 tokens."""
    config = LadmConfig(max_length=FLOAT8_TOKENS[-1])
    dtypes = ("bfloat16", FLOAT8)
    # a model each, since an engine lays weights out anew
    models = [build(values, torch.bfloat16, "cuda:0") for _ in dtypes]
    engines = [
        engine_of(model, config, "cuda:0", dtype, FLOAT8_TOKENS[-1])
        for model, dtype in zip(models, dtypes, strict=True)
    ]
    found = {}
    for tokens in FLOAT8_TOKENS:
        documents = random_documents([tokens] * (2 * FLOAT8_TOKENS[-1] // tokens))
        runs = [partial(score_stream, engine, documents) for engine in engines]
        for run in runs:
            run()
        took = in_turns(*runs)
        found[str(tokens)] = {
            dtype: seconds / len(documents) for dtype, seconds in zip(dtypes, took, strict=True)
        }  # fmt: skip
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/shapes.json"))
    parser.add_argument("--tokens", type=int, default=32_768, help="length of the document that is timed")
    parser.add_argument("--tiny", action="store_true", help="parity of narrow models, on any machine")
    parser.add_argument("--float8", action="store_true", help="times of float8 beside bfloat16, and nothing else")
    parser.add_argument("--part", choices=("parity", "times"), help="one of the two alone, on as many machines")
    parser.add_argument("--profile", action="store_true", help="milliseconds of the device by part of our forward pass")
    parser.add_argument("names", nargs="*", help=f"default: all of {', '.join(SHAPES)}")
    options = parser.parse_args()
    chosen = {name: SHAPES[name] for name in options.names or SHAPES}
    if options.tiny:
        failed = tiny_parity(chosen)
    elif options.float8:
        measure_float8(chosen, options.out)
        return
    else:
        failed = measure(chosen, options)
    if failed:
        raise SystemExit(f"parity failed, or no fast forward pass: {', '.join(failed)}")


def tiny_parity(chosen: dict[str, dict[str, Any]]) -> list[str]:
    """Names of the shapes that fail as narrow models."""
    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    config = LadmConfig(span_length=16, max_length=2048)
    trial.TRIAL_TOKENS = 8
    if device == "cpu":
        trial.triton_runs_on = lambda device: True  # type: ignore[assignment]
    failed = []
    for name, values in chosen.items():
        rows = parity(tiny(values), [300, 289], config, device)
        print(f"{name:20s} {json.dumps(rows)}", flush=True)
        failed += [name] if not all(row["passed"] for row in rows.values()) else []
    return failed


def measure_float8(chosen: dict[str, dict[str, Any]], out: Path) -> None:
    """Times in float8 of every shape, written as they come."""
    result: dict[str, Any] = {"environment": environment(), "shapes": {}}
    for name, values in chosen.items():
        result["shapes"][name] = float8_times(values)
        torch.cuda.empty_cache()
        print(f"{name}: {json.dumps(result['shapes'][name])}", flush=True)
        write(out, result)
    print(render_float8(result))


def write(out: Path, result: dict[str, Any]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def measure(chosen: dict[str, dict[str, Any]], options: argparse.Namespace) -> list[str]:
    """Parity and times of every shape, written as they come; names of those that fail."""
    result: dict[str, Any] = {"environment": environment(), "tokens": options.tokens, "shapes": {}}
    failed = []
    for name, values in chosen.items():
        row: dict[str, Any] = {"model_type": values["model_type"]}
        passed = True
        if options.part != "times":
            # longer than any window, and shorter
            row["parity"] = parity(shortened(values), [9000, 4096, 2500], LadmConfig(max_length=9000), "cuda:0")
            passed = all(by_dtype["passed"] for by_dtype in row["parity"].values())
            torch.cuda.empty_cache()
        if passed and options.part != "parity":
            row |= times(values, options.tokens, options.profile)
            torch.cuda.empty_cache()
            passed = "ours" in row
        if not passed:
            failed.append(name)
        result["shapes"][name] = row
        print(f"{name}: {json.dumps(row)}", flush=True)
        write(options.out, result)
    print(render_shapes(result))
    return failed


if __name__ == "__main__":
    main()
