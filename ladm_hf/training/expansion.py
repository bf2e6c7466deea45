"""Function-preserving expansion: a deeper model with wider MLPs that computes what the model it is made from computes.

New layers go in the middle. Their output projections are zero, so that each adds nothing to the residual stream; the
new units of the old layers' MLPs have zero weights on the way out. Both learn as soon as training begins (Net2Net, Chen
et al. 2016, arXiv 1511.05641, with the zero initialisation of block expansion, arXiv 2401.02415).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ladm_hf.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LAYERS = "model.layers."
# Projections back to the residual stream.
OUTPUTS = ("self_attn.o_proj.", "mlp.down_proj.")


def expand(model: PreTrainedModel, num_hidden_layers: int, intermediate_size: int) -> PreTrainedModel:
    """A model of more layers and wider MLPs with the same logits.

    Args:
        model (`PreTrainedModel`): a causal language model with Llama's layers (Mistral, Qwen 2 and 3 and others too).
        num_hidden_layers (`int`): at least the model's. Layer `i` of the `n` it has stays layer `i` if `i < n // 2`,
            and is moved up by the number of new layers otherwise.
        intermediate_size (`int`): at least the model's.

    Returns:
        The model itself where nothing is to be added, else a new one of its type.

    Raises:
        ConfigError: the model is smaller or narrower than asked for, or its layers are not Llama's.
    """
    sizes = {"num_hidden_layers": num_hidden_layers, "intermediate_size": intermediate_size}
    old: dict[str, int] = {name: getattr(model.config, name, 0) for name in sizes}
    if old == sizes:
        return model
    weights = model.state_dict()
    if not all(f"{LAYERS}0.mlp.{name}_proj.weight" in weights for name in ("gate", "up", "down")):
        raise ConfigError(
            f"a model of type {model.config.model_type!r} cannot be expanded: its layers are not those of Llama. Leave "
            "the number of layers and intermediate_size as the base has them"
        )
    for name, size in sizes.items():
        if size < old[name]:
            raise ConfigError(
                f"{name} must be at least the base's {old[name]}, got {size}: expansion takes nothing away"
            )
    config = type(model.config).from_dict(model.config.to_dict())
    config.update(sizes)
    first, added = old["num_hidden_layers"] // 2, num_hidden_layers - old["num_hidden_layers"]
    if getattr(config, "layer_types", None):
        kinds = list(model.config.layer_types)
        config.layer_types = kinds[:first] + ["full_attention"] * added + kinds[first:]
    grown = type(model)(config).to(model.dtype)
    with torch.no_grad():
        for name, new in grown.state_dict().items():
            _fill(new, name, weights, first, added)
    return grown.train(model.training)


def _fill(new: Tensor, name: str, weights: dict[str, Tensor], first: int, added: int) -> None:
    """Writes one weight of the expanded model in place."""
    if not name.startswith(LAYERS):
        new.copy_(weights[name])
        return
    number, rest = name.removeprefix(LAYERS).split(".", 1)
    layer = int(number)
    is_output = rest.startswith(OUTPUTS)
    if first <= layer < first + added:
        if is_output:
            new.zero_()
        return
    old = weights[f"{LAYERS}{layer if layer < first else layer - added}.{rest}"]
    if is_output:
        new.zero_()
    # what is wider keeps its random weights beyond the old ones
    new[tuple(slice(size) for size in old.shape)] = old
