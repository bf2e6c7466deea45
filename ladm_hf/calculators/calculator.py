"""Calculators: from a name, a folder, a Hub id or a live model to what scores documents.

A calculator is a causal language model with its tokenizer, in transformers' layout, safetensors only and without
remote code. A `ladm_config.json` beside the weights is its default `LadmConfig`. Its identity is the commit of a Hub
repository, or a hash of the content of a folder or live model: two calculators with the same identity give the same
scores.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xxhash

from ladm_hf.config import LadmConfig
from ladm_hf.data.hub import LOG_IN, access_refused
from ladm_hf.errors import CalculatorError, HubError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DEFAULT = "ladm-nano"
BUNDLED = {DEFAULT: Path(__file__).parent / "ladm_nano"}
CONFIG_FILE = "ladm_config.json"
# What determines the numbers; README, generation settings and our own config are not among them.
_TOKENIZER = (
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt", "*.model", "*.tiktoken",
)  # fmt: skip
_CONTENT = ("*.safetensors", "config.json", "*.safetensors.index.json", *_TOKENIZER)


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

    def load_model(self, dtype: str, device: str) -> PreTrainedModel:
        """The model in evaluation mode; a live one as it is.

        Raises:
            CalculatorError: the weights are missing, incomplete, or need remote code.
        """
        if self.model is not None:
            return self.model
        assert self.path is not None
        import torch
        from safetensors import SafetensorError
        from transformers import AutoModel
        from transformers.utils import logging

        if not any(self.path.glob("*.safetensors")):
            cached = (
                "" if self.revision is None else "If it has some on the Hub, its cached copy is incomplete: go online. "
            )
            raise CalculatorError(
                f"{self.name!r} has no .safetensors weights, and no other format is loaded. {cached}"
                "Save the model with save_pretrained, which writes safetensors, or ask its owner to convert it."
            )
        bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
        logging.disable_progress_bar()
        logging.set_verbosity_error()
        try:
            model, report = AutoModel.from_pretrained(
                self.path,
                dtype=getattr(torch, dtype),
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
            )
        except (OSError, ValueError, KeyError, SafetensorError, RuntimeError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            raise CalculatorError(f"cannot load the model of {self.name!r}: {error}") from error
        finally:
            logging.set_verbosity(verbosity)
            if bars:
                logging.enable_progress_bar()
        missing = sorted(report["missing_keys"])
        if missing:
            raise CalculatorError(
                f"{self.name!r} lacks {len(missing)} weights, {missing[0]!r} among them: it is no complete model"
            )
        return model.to(device).eval()

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer beside the weights.

        Raises:
            CalculatorError: there is none.
        """
        from transformers import AutoTokenizer

        where = self.path if self.path is not None else getattr(self.model, "name_or_path", "")
        try:
            if not where:
                raise OSError("the live model does not say where it came from")
            return AutoTokenizer.from_pretrained(where, trust_remote_code=False, local_files_only=True)
        except Exception as error:  # the tokenizer backends raise whatever their parsers raise
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise CalculatorError(
                f"{self.name!r} has no tokenizer that can be loaded ({reason}). Put its tokenizer files beside the "
                "weights, or give token ids in the input_ids column."
            ) from error


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
        return Calculator(
            name=model.name_or_path or type(model).__name__,
            identity=_hash_model(model),
            config=LadmConfig(),
            model=model,
        )
    name = os.fspath(model)
    path = BUNDLED.get(name, Path(name).expanduser())
    if path.is_dir():
        if revision is not None:
            raise CalculatorError(f"revision={revision!r} goes with a Hub id, but {name!r} is a local folder")
        if not (path / "config.json").is_file():
            raise CalculatorError(f"the folder {name!r} has no config.json, so it holds no model")
        return Calculator(name, f"content:{_hash_folder(path)}", _default_config(path), path=path)
    path = _download(name, revision)
    return Calculator(name, f"{name}@{path.name}", _default_config(path), revision=path.name, path=path)


def _default_config(path: Path) -> LadmConfig:
    file = path / CONFIG_FILE
    return LadmConfig.from_json_file(file) if file.is_file() else LadmConfig()


def _download(name: str, revision: str | None) -> Path:
    """The snapshot folder of a Hub repository, named after its commit."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    at = f" at revision {revision!r}" if revision else ""
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=[*_CONTENT, CONFIG_FILE]))
    except HFValidationError as error:
        raise HubError(
            f"{name!r} is neither a folder here nor a Hub id ('owner/name'). Bundled calculators: {', '.join(BUNDLED)}."
        ) from error
    except GatedRepoError as error:
        raise HubError(f"{name!r} is gated: accept its terms on its page of the Hub, then {LOG_IN}.") from error
    except RevisionNotFoundError as error:
        raise HubError(
            f"{name!r} exists on the Hub but has no revision {revision!r}: check the branch, tag or commit."
        ) from error
    except RepositoryNotFoundError as error:
        raise HubError(
            f"no model {name!r} on the Hub, nor a folder of that name here: check the name or, if it is private, "
            f"{LOG_IN}."
        ) from error
    except LocalEntryNotFoundError as error:
        raise HubError(
            f"{name!r}{at} is not in the local cache and the Hub cannot be reached: check the network (and "
            "HF_HUB_OFFLINE), or give a local folder."
        ) from error
    except HfHubHTTPError as error:
        refused = access_refused(error, f"the model {name!r}")
        raise HubError(
            refused or f"the Hub answered with an error for {name!r}{at}, try again later: {error}"
        ) from error
    except Exception as error:
        # the clients of the Hub raise the errors of requests, httpx or their successors, not all of them OSError
        if not isinstance(error, OSError) and "http" not in type(error).__module__:
            raise
        raise HubError(
            f"the network failed while fetching {name!r}{at}; run again to go on where it stopped: {error}"
        ) from error


def _hash_folder(path: Path, patterns: Sequence[str] = _CONTENT) -> str:
    files = sorted({file for pattern in patterns for file in path.glob(pattern) if file.is_file()})
    digest = xxhash.xxh3_128()
    for file in files:
        stat = file.stat()
        digest.update(f"{file.name}:{_hash_file(str(file), stat.st_size, stat.st_mtime_ns)}\n".encode())
    return digest.hexdigest()


@functools.lru_cache(maxsize=256)
def _hash_file(path: str, size: int, mtime: int) -> str:
    """Content hash, computed once for each size and modification time."""
    digest = xxhash.xxh3_128()
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def _hash_model(model: Any) -> str:
    """Content hash of a live model: its configuration and every weight."""
    import torch

    config = model.config.to_dict()
    for key in ("_name_or_path", "_attn_implementation", "transformers_version"):
        config.pop(key, None)
    digest = xxhash.xxh3_128(repr(sorted(config.items(), key=str)).encode())
    # its tokenizer is loaded from where it came from
    origin = str(model.name_or_path or "")
    digest.update((_hash_folder(Path(origin), _TOKENIZER) if origin and Path(origin).is_dir() else origin).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return f"content:{digest.hexdigest()}"
