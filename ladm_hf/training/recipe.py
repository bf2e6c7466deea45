"""What a trained calculator depends on: its architecture and the recipe of its training."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

from ladm_hf.errors import ConfigError
from ladm_hf.training.mix import WindowMix
from ladm_hf.training.windows import VIEWS

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# Labels, and the heads of every supervised layer that learn them; None is all heads.
View = tuple[str, tuple[int, ...] | None]


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A small Llama from scratch; the defaults are those of ladm-nano 0.1.0, 6.8M parameters."""

    vocab_size: int = 8192
    hidden_size: int = 256
    intermediate_size: int = 768
    num_hidden_layers: int = 6
    num_attention_heads: int = 4
    num_key_value_heads: int = 2

    @classmethod
    def of(cls, config: PretrainedConfig) -> Architecture:
        """That of a model."""
        return cls(**{field.name: getattr(config, field.name, 0) for field in fields(cls)})


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What the trained calculator depends on, beside the documents and the base model.

    Args:
        stages (sequence of `(int, float)`): window length and share of the steps, in order.
        steps (`int`): optimizer steps.
        batch_tokens (`int`): tokens of an optimizer step, over all devices.
        micro_batch_tokens (`int`): tokens of one device's forward pass.
        learning_rate, warmup, weight_decay (`float`): peak, share of steps, AdamW's decay.
        schedule (`str`): `"linear"`, `"cosine"` or `"constant"`.
        mix ([`WindowMix`]): how windows are made.
        focus_layers (sequence of `int`): layers whose heads learn to find their document; empty for the paper's recipe.
        focus_views (sequence of (`str`, sequence of `int`)): which labels each group of heads of those layers learns,
            one of `document_labels`, `text_labels`, `order_labels` and `quality_labels` (see
            `ladm_hf.training.windows`); `None` stands for all heads. The loss is the mean over the groups.
        focus_weight (`float`): weight of that loss beside the language model's.
        lm_weight (`float`): weight of the language model's loss.
        lm_positions (`float`): share of the positions whose token is predicted, drawn at random.
        rope_theta (`float`, *optional*): base of the rotary embedding; `None` keeps the base model's.
        max_position_embeddings (`int`): longest window the model is declared for.
        held_out (`float`): share of sources kept out of training, for calibration.
        seed (`int`): of weights and windows.
    """

    stages: tuple[tuple[int, float], ...] = ((8192, 0.75), (16384, 0.25))
    steps: int = 2000
    batch_tokens: int = 131_072
    micro_batch_tokens: int = 131_072
    learning_rate: float = 1e-3
    warmup: float = 0.03
    weight_decay: float = 0.1
    schedule: str = "linear"
    mix: WindowMix = field(default_factory=WindowMix)
    focus_layers: tuple[int, ...] = ()
    focus_views: tuple[View, ...] = (("document_labels", None),)
    focus_weight: float = 1.0
    lm_weight: float = 1.0
    lm_positions: float = 1.0
    rope_theta: float | None = None
    max_position_embeddings: int = 32768
    held_out: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.stages or any(length < 1024 or length % 128 for length, _ in self.stages):
            raise ConfigError(f"stages need window lengths of at least 1,024, multiples of 128, got {self.stages}")
        if any(share < 0 for _, share in self.stages) or sum(share for _, share in self.stages) <= 0:
            raise ConfigError(f"the shares of the stages must be positive, got {self.stages}")
        longest = max(length for length, _ in self.stages)
        if longest > self.max_position_embeddings:
            raise ConfigError(
                f"windows of {longest} tokens do not fit max_position_embeddings={self.max_position_embeddings}"
            )
        for name in ("steps", "batch_tokens", "micro_batch_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be positive, got {getattr(self, name)}")
        if self.seed < 0:
            raise ConfigError(f"seed must not be negative, got {self.seed}")
        if not 0 < self.lm_positions <= 1:
            raise ConfigError(f"lm_positions must be in (0, 1], got {self.lm_positions}")
        if not 0 <= self.held_out < 1:
            raise ConfigError(f"held_out must be in [0, 1), got {self.held_out}")
        if self.schedule not in ("linear", "cosine", "constant"):
            raise ConfigError(f"schedule must be 'linear', 'cosine' or 'constant', got {self.schedule!r}")
        unknown = [name for name, _ in self.focus_views if name not in VIEWS]
        if unknown or not self.focus_views:
            raise ConfigError(
                f"focus_views must name some of {', '.join(VIEWS)}, got {unknown[0] if unknown else 'none'}"
            )
        if any(heads is not None and not heads for _, heads in self.focus_views):
            raise ConfigError(f"focus_views must name the heads of each view, or None for all, got {self.focus_views}")
        if self.lm_weight <= 0 and not self.focus_layers:
            raise ConfigError("there is nothing to train: lm_weight is 0 and focus_layers is empty")


# The published calculator's continued pre-training, as far as the paper states it.
PAPER = Recipe(
    stages=((32768, 1.0),),
    steps=5000,
    batch_tokens=1 << 20,
    micro_batch_tokens=1 << 15,
    learning_rate=2e-5,
    mix=WindowMix(natural=1.0, interleaved=0.0, spliced=0.0, joined=0.0, flattened=0.0),
    rope_theta=500_000.0,
)
