"""From the files of a calculator to its model and tokenizer; whatever goes wrong is one [`CalculatorError`].

Nothing of a folder is executed: no remote code, and no weights but safetensors.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ladm_hf.calculators.files import TOKENIZER, check_no_pointers, check_weights
from ladm_hf.errors import CalculatorError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

_PLAIN_WORDS = "The ship left the harbour at dawn. Le navire quitta le port. 7 + 12 = 19"
# What tokenizers of one vocabulary may cut in other places.
_MIXED_TEXT = "we need to add 9 and 6\n\n  def f(x):\n\treturn x**2  # na\u00efve \u6e2f\u53e3, it's 1,234.5 km"
# Entries of a tokenizer's own vocabulary that are tried where plain words do not tell: it may be one of proteins.
_ENTRIES = 64
# transformers sets the default dtype of the whole process while it loads a model.
_LOADING = threading.Lock()


def load_model(path: Path, name: str, dtype: str, device: str, head_for: str = "") -> PreTrainedModel:
    """The model of a folder, in evaluation mode.

    Args:
        path (`Path`), name (`str`): the folder, and what it is called in errors.
        dtype, device (`str`): of the weights.
        head_for (`str`, *optional*): what needs the language model head, which is left out otherwise.

    Raises:
        CalculatorError: the weights are missing, damaged, incomplete or too large, need remote code or a package that
            is not installed, or have no head though one is needed.
    """
    import torch
    from transformers import AutoModel, AutoModelForCausalLM

    check_no_pointers(path, name, ["config.json"])
    check_weights(path, name)
    quantisation = _quantisation(path, name)
    # A quantised model cannot be moved, so it is loaded where it is to stay; torchao's weights are found by the names
    # that they had in the whole model.
    placed = {"device_map": {"": device}} if quantisation else {}
    loader = AutoModelForCausalLM if quantisation or head_for else AutoModel
    try:
        with _LOADING, _quiet():
            model, report = loader.from_pretrained(
                path,
                dtype=getattr(torch, dtype),
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                # they are named below
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                **placed,
            )
    except Exception as error:  # transformers and the packages of quantisation raise whatever they like
        if head_for and "AutoModelForCausalLM" in str(error):
            raise _no_head(name, head_for, "its architecture has none") from error
        raise _load_error(error, name, quantisation) from error
    # nobody misses the head of a quantised model, which is left out where it is not needed
    wanted = f"{model.base_model_prefix}." if quantisation or head_for else ""
    missing = sorted(key for key in report["missing_keys"] if key.startswith(wanted))
    headless = sorted(set(report["missing_keys"]) - set(missing))
    if head_for and headless and not missing:
        raise _no_head(name, head_for, f"its files lack {headless[0]!r}")
    mismatched = sorted(report["mismatched_keys"], key=str)
    if missing:
        raise CalculatorError(
            f"{name!r} lacks {len(missing)} weights, {missing[0]!r} among them: it is no complete model"
        )
    if mismatched:
        weight, found, expected = mismatched[0]
        raise CalculatorError(
            f"{len(mismatched)} weights of {name!r} have other shapes than its config.json says: {weight!r} is "
            f"{tuple(found)}, expected {tuple(expected)}. One of the two is of another model"
        )
    try:
        placed_model = model if quantisation else model.to(device)
        return (placed_model.base_model if quantisation and not head_for else placed_model).eval()
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise _load_error(error, name, quantisation) from error


def bfloat16_mlp(path: Path) -> tuple[int, int] | None:
    """Width of a model and of its MLP by its config.json, `None` where its weights are not saved in bfloat16."""
    from transformers import AutoConfig

    try:
        with _quiet():
            config = AutoConfig.from_pretrained(path, trust_remote_code=False, local_files_only=True)
        text = config.get_text_config()
        if "bfloat16" not in f"{config.dtype} {text.dtype}" or getattr(config, "quantization_config", None):
            return None
        width = int(text.hidden_size)
        return width, int(getattr(text, "intermediate_size", None) or 4 * width)
    except Exception:  # transformers raises whatever it likes, and loading the model says what is wrong
        return None


def load_tokenizer(where: Path | str, name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder, or of where a live model came from.

    Raises:
        CalculatorError: there is none, or one that cannot tell words apart.
    """
    from transformers import AutoTokenizer

    remedy = "Put its tokenizer files beside the weights, or give token ids in the input_ids column."
    try:
        if not where:
            raise OSError("the live model does not say where it came from")
        check_no_pointers(Path(where), name, ("config.json", *TOKENIZER))
        with _quiet():
            tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=False, local_files_only=True)
    except CalculatorError:
        raise
    except Exception as error:  # the tokenizer backends raise whatever their parsers raise
        reason = _reason(error)
        if "trust_remote_code" in reason:
            reason = "it needs code of its own, which is never run"
        elif isinstance(error, ValueError) and (broken := _no_json(Path(where))):
            reason = broken
        raise CalculatorError(f"{name!r} has no tokenizer that can be loaded ({reason}). {remedy}") from error
    distinct = _distinct_ids(tokenizer)
    if distinct < 2:
        found = "no token ids for plain words" if not distinct else "the same token id for all words"
        raise CalculatorError(f"the tokenizer of {name!r} gives {found}, as one without its vocabulary does. {remedy}")
    if not _is_as_stored(tokenizer, Path(where)):
        logger.warning(
            "the tokenizer of %r, built as a %s, cuts text otherwise than its tokenizer.json says, with which a model "
            "is trained: to have the file's, set \"tokenizer_class\": \"TokenizersBackend\" in tokenizer_config.json",
            name, type(tokenizer).__name__,
        )  # fmt: skip
    return tokenizer


def _no_json(folder: Path) -> str:
    """Which file of a tokenizer is no JSON, and why; empty where all are."""
    for file in sorted({file for pattern in TOKENIZER for file in folder.glob(pattern) if file.suffix == ".json"}):
        try:
            json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            return f"{file.name} is no JSON: {error}"
    return ""


def _is_as_stored(tokenizer: PreTrainedTokenizerBase, folder: Path) -> bool:
    """Whether it gives the ids of its `tokenizer.json`, which transformers may build anew for the class it is told."""
    from tokenizers import Tokenizer

    file = folder / "tokenizer.json"
    if not file.is_file():
        return True
    stored = Tokenizer.from_file(str(file))
    stored.no_truncation()
    stored.no_padding()
    ids: list[int] = stored.encode(_MIXED_TEXT, add_special_tokens=False).ids
    return bool(tokenizer(_MIXED_TEXT, add_special_tokens=False, verbose=False)["input_ids"] == ids)


def _distinct_ids(tokenizer: PreTrainedTokenizerBase) -> int:
    """How many different ids it gives for plain words, or, where that is one at most, for its own vocabulary."""
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    own = [token for token, number in tokenizer.get_vocab().items() if number not in tokenizer.all_special_ids]
    texts = (_PLAIN_WORDS, " ".join(sorted(own)[:_ENTRIES]))
    return max(len(set(tokenizer(text, verbose=False)["input_ids"]) - special) for text in texts)


def _quantisation(path: Path, name: str) -> str | None:
    """The method by which the weights are quantised.

    Raises:
        CalculatorError: transformers does not know it, and would take the packed numbers for weights.
    """
    try:
        found = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        # the loader says what is wrong with it
        return None
    settings = found.get("quantization_config") if isinstance(found, dict) else None
    if not isinstance(settings, dict):
        return None
    from transformers.quantizers import AutoHfQuantizer

    try:
        with _quiet():
            known = AutoHfQuantizer.supports_quant_method(settings)
    except ValueError:
        known = False
    method = str(settings.get("quant_method"))
    if not known:
        raise CalculatorError(
            f"{name!r} is quantised by {method!r}, which this version of transformers does not know: upgrade it, or "
            "give a calculator that is not quantised"
        )
    return method


def _no_head(name: str, head_for: str, reason: str) -> CalculatorError:
    return CalculatorError(
        f"{head_for} need a language model head, and {name!r} has none ({reason}): give a causal language model with "
        "its head, or leave these signals out"
    )


def _load_error(error: Exception, name: str, quantisation: str | None) -> CalculatorError:
    import torch

    reason = _reason(error)
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in reason:
        return CalculatorError(
            f"the model of {name!r} does not fit into the free memory: free some, give a smaller calculator, or "
            f"dtype='bfloat16' ({reason})"
        )
    if "trust_remote_code" in reason:
        return CalculatorError(
            f"{name!r} needs code of its own (trust_remote_code), which is never run: give a calculator of an "
            "architecture that transformers has"
        )
    if quantisation:
        return CalculatorError(
            f"{name!r} is quantised ({quantisation}) and cannot be loaded here: {reason}. Otherwise give a calculator "
            "that is not quantised"
        )
    return CalculatorError(f"cannot load the model of {name!r}: {reason}")


def _reason(error: Exception) -> str:
    """The message on one line, with its type where it does not speak for itself."""
    text = " ".join(str(error).split()).rstrip(".")
    if isinstance(error, ModuleNotFoundError):
        text += f" (pip install {error.name})"
    spoken = isinstance(error, (ImportError, OSError)) or type(error) in (ValueError, RuntimeError)
    return text if spoken and text else f"{type(error).__name__}: {text}"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the bars and remarks of transformers: what matters is in the errors."""
    from transformers.utils import logging

    bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
