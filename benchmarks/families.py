"""Which causal language models of transformers can be scored: each family as a tiny random model.

    python benchmarks/families.py --output benchmarks/results/families.json
    python benchmarks/families.py --output benchmarks/results/families.json llama glm    # these rows anew

A family is built with few and narrow layers and scores one document of random tokens. Where it gives its attention
weights (eager attention, `output_attentions=True`), the score is compared with one computed from these weights alone.
Head size and context are those of the configuration that transformers has for the family, not of the tiny model; by the
head size goes the attention kernel that is tried first on a GPU of capability 9.0 (H100, H200) in bfloat16.
Last, the fast forward pass is compared with the model's own as on a GPU, by Triton's interpreter where there is none.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import warnings
from pathlib import Path
from typing import Any
from unittest import mock

if shutil.which("nvidia-smi") is None:
    # Triton must know before kernels are defined
    os.environ.setdefault("TRITON_INTERPRET", "1")

import torch
import transformers
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from ladm_hf import LadmConfig, LadmScorer
from ladm_hf.errors import UnsupportedModelError
from ladm_hf.ops import causal
from ladm_hf.ops.scores import contextual_dependency_score
from ladm_hf.ops.spans import SpanGrid
from ladm_hf.scoring import trial
from ladm_hf.scoring.attention import scoring_attention
from ladm_hf.scoring.layers import LayerPlan, layer_plan

LAYERS = 6
TOKENS = 700
CONFIG = LadmConfig(span_length=16, max_length=2048)
TINY = {
    "vocab_size": 97, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": LAYERS, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 4096, "pad_token_id": 0, "bos_token_id": None,
    "eos_token_id": None, "attn_implementation": "eager",
}  # fmt: skip
# Names that other families have for the same, tried where those above do not do.
EXPERTS = {
    "num_experts": 2, "num_local_experts": 2, "n_routed_experts": 2, "num_experts_per_tok": 1,
    "moe_intermediate_size": 32, "n_group": 1, "topk_group": 1, "n_shared_experts": 1,
    "shared_expert_intermediate_size": 32,
}  # fmt: skip
LATENT = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 16, "qk_rope_head_dim": 16, "v_head_dim": 16}
OLD = {
    "rotary_dim": 8,
    "n_embd": 64,
    "n_layer": LAYERS,
    "n_head": 4,
    "n_positions": 1024,
    "ffn_dim": 96,
    "word_embed_proj_dim": 64,
}
OWN = {"head_dim": None, "bos_token_id": 1, "eos_token_id": 2}
ALL_HEADS = {"num_key_value_heads": 4}
ATTEMPTS: tuple[dict[str, Any], ...] = (
    {}, EXPERTS, EXPERTS | LATENT | ALL_HEADS, OWN | ALL_HEADS, OLD | OWN, EXPERTS | OWN | LATENT | ALL_HEADS,
)  # fmt: skip
# Whose configuration has no attention where nothing is said, or experts that its dense models have not.
NAMED = {
    "granitemoehybrid": {
        "layer_types": ["full_attention"] * LAYERS, "num_local_experts": 0, "position_embedding_type": "rope",
        "shared_intermediate_size": 96,
    },
}  # fmt: skip
# Of the parts of a model that reads more than text, which play no role here.
PARTS = {
    "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "depth": 1,
    "num_heads": 2, "out_hidden_size": 64,
}  # fmt: skip
MOST_PARAMETERS = 20_000_000
SECONDS = 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    parser.add_argument("families", nargs="*", help="model types; default: every causal language model of transformers")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity(transformers.logging.CRITICAL)
    signal.signal(signal.SIGALRM, _too_slow)
    names = options.families or sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    rows = []
    for name in names:
        signal.alarm(SECONDS)
        rows.append(measure(name))
        signal.alarm(0)
        print(json.dumps(rows[-1]), flush=True)
    result = {"transformers": transformers.__version__, "layers": LAYERS, "tokens": TOKENS, "families": rows}
    if options.families and options.output and options.output.exists():
        before = json.loads(options.output.read_text(encoding="utf-8"))
        if before | {"families": rows} != result:
            raise SystemExit(f"{options.output} is of another version of transformers or this script: measure all anew")
        by_type = {row["model_type"]: row for row in (*before["families"], *rows)}
        result["families"] = [by_type[name] for name in sorted(by_type)]
    if options.output:
        options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def measure(name: str) -> dict[str, Any]:
    """What one family comes to: its layers, or why it is refused or was not built."""
    reasons = []
    for options in ATTEMPTS:
        try:
            model = build(name, options)
            row = {"model_type": name} | sizes(name) | score(model)
            if row["plain"] and "head_size" in row:
                row["attention"] = first_kernel(row["head_size"])
            return row
        except UnsupportedModelError as error:
            return {"model_type": name, "refused": str(error).partition(". ")[0]}
        except TimeoutError as error:
            return {"model_type": name, "not_built": str(error)}
        except Exception as error:
            # whatever a configuration that is no model of the family ends in: the next attempt has another
            reasons.append(f"{type(error).__name__}: {error}"[:200])
    return {"model_type": name, "not_built": reasons[-1]}


def sizes(name: str) -> dict[str, Any]:
    """Head size and context of the family's own configuration, as far as it says."""
    try:
        config = AutoConfig.for_model(name).get_text_config()
        width, heads = (getattr(config, key, None) for key in ("hidden_size", "num_attention_heads"))
        by_width = width // heads if isinstance(width, int) and isinstance(heads, int) else None
        head_size = getattr(config, "qk_head_dim", None) or getattr(config, "head_dim", None) or by_width
    except Exception:
        # a configuration that cannot be made without options, or whose layers differ in their heads
        return {}
    found = {"head_size": head_size, "context": getattr(config, "max_position_embeddings", None)}
    return {key: value for key, value in found.items() if isinstance(value, int)}


def build(name: str, options: dict[str, Any]) -> PreTrainedModel:
    """A seeded random model of a family, with weights large enough that attention is far from uniform."""
    torch.manual_seed(0)
    given = {
        key: value
        for key, value in (TINY | NAMED.get(name, {}) | options).items()
        if value is not None or "token" in key
    }
    config = AutoConfig.for_model(name, **in_parts(name, given))
    with torch.device("meta"):
        size = sum(weight.numel() for weight in AutoModel.from_config(config).parameters())
    if size > MOST_PARAMETERS:
        raise ValueError(f"{size:,} parameters")
    model = AutoModel.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for weight_name, weight in model.named_parameters():
            if "norm" not in weight_name and weight.dim() == 2:
                weight.mul_(4.0)
    return model


def in_parts(name: str, given: dict[str, Any]) -> dict[str, Any]:
    """The options of a family, or of the text part of one that reads more than text, whose other parts are small."""
    parts = CONFIG_MAPPING[name].sub_configs
    if "text_config" not in parts:
        return given
    text = AutoConfig.for_model(name).get_text_config().model_type
    return {part: given | {"model_type": text} if part == "text_config" else PARTS for part in parts}


def score(model: PreTrainedModel) -> dict[str, Any]:
    """Layers scored and left out of one model, and how far its score is from that of its attention weights."""
    ids = torch.randint(1, 97, (TOKENS,), generator=torch.Generator().manual_seed(1)).tolist()
    expected = attention_weights(model, ids)
    scorer = LadmScorer(model, config=CONFIG)
    (document,) = scorer.score_input_ids([ids])
    if document.status != "ok":
        raise ValueError(document.status)
    scored = list(scorer.scored_layers)
    plan = plan_of(model)
    row: dict[str, Any] = {
        "scored": scored,
        "left_out": {str(layer): reason for layer, reason in scorer.skipped_layers.items()},
        # neither softcap nor sinks, and values as wide as keys
        "plain": all(plan.calls[layer].plain for layer in scored),
        "fused": is_fused(model),
    }
    if expected is not None and len(expected) > max(scored):
        wanted = torch.tensor([from_weights(expected[layer][0], len(ids)) for layer in scored])
        found = torch.tensor(document.layer_scores)
        # random weights may leave a layer nothing but its nearest tokens, and then there is nothing to compare
        if (present := wanted > 1e-6).any():
            row["difference"] = float(((found - wanted) / wanted)[present].abs().max())
    return row


def is_fused(model: PreTrainedModel) -> bool:
    """Whether the fast forward pass reads the model and gives what its own does."""
    model = model.to("cuda" if torch.cuda.is_available() else "cpu")
    with (
        mock.patch.object(trial, "triton_runs_on", return_value=True),
        # few tokens, which is what the interpreter can do; transformers' hooks, which gave the weights, stay in place
        mock.patch.multiple(trial, TRIAL_TOKENS=8, MOST_TRIAL_TOKENS=32, has_hooks=lambda modules: False),
    ):
        return trial.decoder_forward(model, plan_of(model)) is not None


def plan_of(model: PreTrainedModel) -> LayerPlan:
    with scoring_attention(model):
        return layer_plan(model)


def first_kernel(head_size: int) -> str:
    """The attention kernel that is tried first for heads of a size in bfloat16 on a GPU of capability 9.0."""
    with (
        mock.patch.object(torch.cuda, "get_device_capability", return_value=(9, 0)),
        mock.patch.object(torch.backends.cudnn, "is_available", return_value=True),
        mock.patch.object(causal, "installed_flash4", return_value=None),
    ):
        return next(iter(causal.candidates(0, torch.bfloat16, head_size)), "none")


@torch.inference_mode()
def attention_weights(model: PreTrainedModel, ids: list[int]) -> Any:
    """Attention weights `[1, H, T, T]` by layer, or `None` where the model gives none."""
    found = model(input_ids=torch.tensor([ids]), output_attentions=True, use_cache=False)
    weights = getattr(found, "attentions", None)
    # layers without attention give nothing, and then a place in the tuple says no layer
    if not weights or len(weights) != model.config.num_hidden_layers or any(layer is None for layer in weights):
        return None
    return weights


def from_weights(weights: torch.Tensor, length: int) -> float:
    """CDS of one layer from `[H, T, T]`: each row renormalised over what is before its span, summed over spans."""
    grid = SpanGrid(length, CONFIG)
    attention = weights.double()
    pfs = torch.zeros(1, *grid.shape, dtype=torch.float64)
    for row, start, _ in grid.query_spans(0):
        rows = attention[:, start : start + grid.span_length, :start]
        rows = (rows / rows.sum(-1, keepdim=True)).sum(1).mean(0)
        for column, key in enumerate(grid.key_starts(0, row)):
            pfs[0, row, column] = rows[key : key + grid.span_length].sum()
    return contextual_dependency_score(pfs, grid, CONFIG.ablation).item()


def _too_slow(*_: Any) -> None:
    raise TimeoutError(f"longer than {SECONDS} s")


if __name__ == "__main__":
    main()
