"""Calculators: from a name, a folder, a Hub id or a live model to what scores documents.

A calculator is a causal language model with its tokenizer, in transformers' layout, safetensors only and without
remote code. A `ladm_config.json` beside the weights is its default `LadmConfig`. Its identity is the commit of a Hub
repository, or a hash of the content of a folder or live model: two calculators with the same identity give the same
scores.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from safetensors import safe_open

from ladm_hf.calculators.files import CONFIG_FILE, WEIGHTS, check_no_pointers, hash_folder
from ladm_hf.calculators.hub import download, look_up
from ladm_hf.calculators.live import config_of_origin, hash_model
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
        uncalibrated (`str`, *optional*): why `config` is none of its own, as the end of a sentence; empty where it is.
    """

    name: str
    identity: str
    config: LadmConfig
    revision: str | None = None
    path: Path | None = None
    model: PreTrainedModel | None = None
    uncalibrated: str = ""

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


class Outline(NamedTuple):
    """A calculator without its weights.

    Attributes:
        config ([`LadmConfig`]): its own, else the paper's.
        parameters (`int`, *optional*): of its weights, `None` where the Hub does not say.
    """

    config: LadmConfig
    parameters: int | None


def resolve(model: str | os.PathLike[str] | PreTrainedModel | None, revision: str | None = None) -> Calculator:
    """Finds a calculator, downloading it if it is on the Hub and not in the cache.

    Args:
        model (`str`, path or `PreTrainedModel`, *optional*):
            `"ladm-nano"`, a local folder, a Hub id, or a live model, which has the `ladm_config.json` of the local
            folder that it was loaded from as long as it has the folder's weights. `None` means `$LADM_MODEL`, else
            `"ladm-nano"`.
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
        config, reason = config_of_origin(model)
        return Calculator(
            name=model.name_or_path or type(model).__name__,
            identity=hash_model(model),
            config=(config or LadmConfig()).over(LadmConfig.paper()),
            model=model,
            uncalibrated=reason,
        )
    name = os.fspath(model)
    path = BUNDLED.get(name, Path(name).expanduser())
    if path.is_dir():
        if revision is not None:
            raise CalculatorError(f"revision={revision!r} goes with a Hub id, but {name!r} is a local folder")
        _check_model(path, name)
        return _of_folder(name, f"content:{_content(path, name)}", path)
    path = download(name, revision)
    _check_model(path, name)
    return _of_folder(name, f"{name}@{path.name}", path, path.name)


def outline(name: str, revision: str | None = None) -> Outline:
    """What a calculator is by its small files alone.

    Args:
        name (`str`): `"ladm-nano"` or a Hub id.
        revision (`str`, *optional*): branch, tag or commit of a Hub id.

    Raises:
        HubError: the Hub did not give it.
    """
    if name in BUNDLED:
        with safe_open(BUNDLED[name] / WEIGHTS, "pt") as weights:
            sizes = [math.prod(weights.get_slice(key).get_shape()) for key in weights.keys()]  # noqa: SIM118
        return Outline(resolve(name, revision).config, sum(sizes))
    file, parameters = look_up(name, revision)
    own = LadmConfig() if file is None else LadmConfig.from_json_file(file)
    return Outline(own.over(LadmConfig.paper()), parameters)


def _check_model(path: Path, name: str) -> None:
    """Refuses a folder that holds no model, or only what is added to one."""
    if (path / "adapter_config.json").is_file():
        raise CalculatorError(
            f"{name!r} holds an adapter (adapter_config.json): merge it into its model with PEFT's merge_and_unload() "
            "and save that with save_pretrained"
        )
    if not (path / "config.json").is_file():
        raise CalculatorError(f"{name!r} has no config.json, so it holds no model that transformers can load")


def _of_folder(name: str, identity: str, path: Path, revision: str | None = None) -> Calculator:
    file = path / CONFIG_FILE
    check_no_pointers(path, name, [CONFIG_FILE])
    own = LadmConfig.from_json_file(file) if file.is_file() else None
    config = (own or LadmConfig()).over(LadmConfig.paper())
    return Calculator(name, identity, config, revision, path, uncalibrated="" if own else f"has no {CONFIG_FILE}")


def _content(path: Path, name: str) -> str:
    try:
        return hash_folder(path)
    except OSError as error:
        raise CalculatorError(f"a file of {name!r} cannot be read: {error}") from error
