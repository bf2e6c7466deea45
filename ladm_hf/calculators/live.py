"""A model in memory as a calculator: a hash of its content, and the configuration of the folder it came from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import xxhash

from ladm_hf.calculators.files import CONFIG_FILE, TOKENIZER, hash_folder, weight_files
from ladm_hf.config import LadmConfig
from ladm_hf.errors import CalculatorError


def hash_model(model: Any) -> str:
    """Content hash of a live model: its configuration and every weight.

    Raises:
        CalculatorError: weights are not in memory.
    """
    import torch

    config = model.config.to_dict()
    for key in ("_name_or_path", "_attn_implementation", "transformers_version"):
        config.pop(key, None)
    digest = xxhash.xxh3_128(repr(sorted(config.items(), key=str)).encode())
    # its tokenizer is loaded from where it came from
    origin = str(model.name_or_path or "")
    digest.update((hash_folder(Path(origin), TOKENIZER) if origin and Path(origin).is_dir() else origin).encode())
    for name, tensor in sorted(model.state_dict().items()):
        if tensor.is_meta:
            raise CalculatorError(
                f"weights of this live model are not in memory ({name!r} is on the meta device): load it on one "
                "device, without offloading"
            )
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        for plain in _plain_tensors(tensor):
            digest.update(plain.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return f"content:{digest.hexdigest()}"


def _plain_tensors(tensor: Any) -> list[Any]:
    """The tensors that a quantised one packs; any other by itself."""
    if not hasattr(tensor, "__tensor_flatten__"):
        return [tensor]
    names, _ = tensor.__tensor_flatten__()
    return [plain for name in names for plain in _plain_tensors(getattr(tensor, name))]


def config_of_origin(model: Any) -> tuple[LadmConfig | None, str]:
    """The `ladm_config.json` of the local folder that a live model was loaded from, where the folder still holds the
    model's weights; else `None` and why.
    """
    folder = Path(str(model.name_or_path or "."))
    if not model.name_or_path or not (folder / CONFIG_FILE).is_file():
        return None, f"has no {CONFIG_FILE}"
    if not _has_weights_of(model, folder):
        return None, f"has other weights than {folder}, so that {CONFIG_FILE} there does not count"
    return LadmConfig.from_json_file(folder / CONFIG_FILE), ""


def _has_weights_of(model: Any, folder: Path) -> bool:
    """Whether all weights below the head are those of the folder, in the precision of the model."""
    import torch

    base, prefix = model.base_model, f"{model.base_model_prefix}."
    mine = {name.removeprefix(prefix): tensor for name, tensor in base.state_dict().items()}
    found = 0
    for name, tensor in _weights(folder):
        own = mine.get(name.removeprefix(prefix))
        if own is None:
            continue
        found += 1
        if hasattr(own, "__tensor_flatten__") or own.shape != tensor.shape:
            return False
        if not torch.equal(own.detach().cpu(), tensor.to(own.dtype)):
            return False
    return found == len(mine)


def _weights(folder: Path) -> Iterator[tuple[str, Any]]:
    """The weights of a folder one by one; none where they cannot be read."""
    from safetensors import SafetensorError, safe_open

    try:
        for file in weight_files(folder, str(folder)):
            with safe_open(folder / file, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118
                    yield name, opened.get_tensor(name)
    except (OSError, SafetensorError, CalculatorError):
        return
