"""Calculators: from a name, a folder, a Hub id or a live model to what scores documents.

A calculator is a causal language model with its tokenizer, in transformers' layout, safetensors only and without
remote code. A `ladm_config.json` beside the weights is its default `LadmConfig`. Its identity is the commit of a Hub
repository, or a hash of the content of a folder or live model: two calculators with the same identity give the same
scores.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xxhash

from ladm_hf.calculators.files import CONFIG_FILE, TOKENIZER, check_no_pointers, hash_folder
from ladm_hf.calculators.hub import download
from ladm_hf.calculators.loading import load_model, load_tokenizer
from ladm_hf.config import LadmConfig
from ladm_hf.errors import CalculatorError, ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DEFAULT = "ladm-nano"
BUNDLED = {DEFAULT: Path(__file__).parent / "ladm_nano"}


@dataclass(frozen=True)
class Calculator:
    """A calculator found, not yet loaded.

    Attributes:
        name (`str`): as it was asked for.
        identity (`str`): `name@commit` for a Hub repository, `sha`-like content hash for anything else.
        config ([`LadmConfig`]): its default configuration.
        revision (`str`, *optional*): the Hub commit.
        path (`Path`, *optional*): folder of its files; `None` for a live model.
        model (`PreTrainedModel`, *optional*): a live model.
    """

    name: str
    identity: str
    config: LadmConfig
    revision: str | None = None
    path: Path | None = None
    model: PreTrainedModel | None = None

    @property
    def origin(self) -> str:
        """What finds it again from any folder: a bundled name, a Hub id or an absolute path."""
        is_folder = self.path is not None and self.revision is None and self.name not in BUNDLED
        return str(Path(self.name).expanduser().absolute()) if is_folder else self.name

    def load_model(self, dtype: str, device: str, head_for: str = "") -> PreTrainedModel:
        """The model in evaluation mode; a live one as it is. For arguments and errors see [`loading.load_model`]."""
        if self.model is not None:
            return self.model
        assert self.path is not None
        return load_model(self.path, self.name, dtype, device, head_for)

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer beside the weights. For the errors see [`loading.load_tokenizer`]."""
        where = self.path if self.path is not None else str(getattr(self.model, "name_or_path", ""))
        return load_tokenizer(where, self.name)


def resolve(model: str | os.PathLike[str] | PreTrainedModel | None, revision: str | None = None) -> Calculator:
    """Finds a calculator, downloading it if it is on the Hub and not in the cache.

    Args:
        model (`str`, path or `PreTrainedModel`, *optional*):
            `"ladm-nano"`, a local folder, a Hub id, or a live model. `None` means `$LADM_MODEL`, else `"ladm-nano"`.
        revision (`str`, *optional*):
            Branch, tag or commit of a Hub id.

    Raises:
        HubError: the Hub did not give it; the message says whether it was the network, the name, a gate or the
            revision.
        CalculatorError: the folder is no calculator.
    """
    if model is None:
        model = os.environ.get("LADM_MODEL") or DEFAULT
    if not isinstance(model, (str, os.PathLike)):
        if not all(hasattr(model, name) for name in ("config", "name_or_path", "state_dict")):
            raise ConfigError(
                f"model must be a name, a folder, a Hub id or a model of transformers, found {type(model).__name__}"
            )
        return Calculator(
            name=model.name_or_path or type(model).__name__,
            identity=_hash_model(model),
            config=LadmConfig.paper(),
            model=model,
        )
    name = os.fspath(model)
    path = BUNDLED.get(name, Path(name).expanduser())
    if path.is_dir():
        if revision is not None:
            raise CalculatorError(f"revision={revision!r} goes with a Hub id, but {name!r} is a local folder")
        _check_model(path, name)
        return Calculator(name, f"content:{_content(path, name)}", _default_config(path, name), path=path)
    path = download(name, revision)
    _check_model(path, name)
    return Calculator(name, f"{name}@{path.name}", _default_config(path, name), revision=path.name, path=path)


def _check_model(path: Path, name: str) -> None:
    """Refuses a folder that holds no model, or only what is added to one."""
    if (path / "adapter_config.json").is_file():
        raise CalculatorError(
            f"{name!r} holds an adapter (adapter_config.json): merge it into its model with PEFT's merge_and_unload() "
            "and save that with save_pretrained"
        )
    if not (path / "config.json").is_file():
        raise CalculatorError(f"{name!r} has no config.json, so it holds no model that transformers can load")


def _default_config(path: Path, name: str) -> LadmConfig:
    file = path / CONFIG_FILE
    check_no_pointers(path, name, [CONFIG_FILE])
    return (LadmConfig.from_json_file(file) if file.is_file() else LadmConfig()).over(LadmConfig.paper())


def _content(path: Path, name: str) -> str:
    try:
        return hash_folder(path)
    except OSError as error:
        raise CalculatorError(f"a file of {name!r} cannot be read: {error}") from error


def _hash_model(model: Any) -> str:
    """Content hash of a live model: its configuration and every weight."""
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
