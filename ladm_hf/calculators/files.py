"""The files of a calculator: which of them are loaded, whether they are what their names say, and their hash.

    config.json, ladm_config.json, the tokenizer's files    as they are called in transformers
    model.safetensors, or the parts that model.safetensors.index.json names

Everything else of a folder or repository (other formats, checkpoints, subfolders) is neither downloaded nor read.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path

import xxhash

from ladm_hf.data.content import is_lfs_pointer
from ladm_hf.data.files import hash_file
from ladm_hf.errors import CalculatorError

CONFIG_FILE = "ladm_config.json"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
TOKENIZER = (
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt", "*.model", "*.tiktoken",
)  # fmt: skip
# What determines the numbers; README, generation settings and our own config are not among them.
CONTENT = ("*.safetensors", "config.json", "*.safetensors.index.json", *TOKENIZER)


def weight_files(path: Path, name: str) -> list[str]:
    """Names of the files that hold the weights, there or not.

    Raises:
        CalculatorError: the index that names them cannot be read.
    """
    if (path / WEIGHTS).exists() or not (path / INDEX).is_file():
        return [WEIGHTS]
    check_no_pointer(path / INDEX, name)
    try:
        return sorted(set(json.loads((path / INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CalculatorError(
            f"{INDEX} of {name!r} does not say which files hold the weights ({type(error).__name__}: {error}): "
            "fetch it again"
        ) from error


def check_weights(path: Path, name: str) -> None:
    """Raises a [`CalculatorError`] that names the file where weights are missing or no safetensors."""
    from safetensors import SafetensorError, safe_open

    files = weight_files(path, name)
    missing = [file for file in files if not (path / file).is_file()]
    if missing and files == [WEIGHTS]:
        raise CalculatorError(
            f"{name!r} has no .safetensors weights ({WEIGHTS}), and no other format is loaded. Save the model with "
            "save_pretrained, which writes safetensors, or ask its owner to convert it; if it has some on the Hub, its "
            "copy here is incomplete: go online."
        )
    if missing:
        raise CalculatorError(
            f"{missing[0]} of {name!r}, one of {len(files)} files of weights, is not there: fetch it again"
        )
    for file in files:
        check_no_pointer(path / file, name)
        try:
            with safe_open(path / file, framework="np"):
                pass
        except (SafetensorError, OSError) as error:
            raise CalculatorError(
                f"{file} of {name!r} is damaged or no safetensors file ({error}): fetch or save it again"
            ) from error


def check_no_pointer(file: Path, name: str) -> None:
    """Raises a [`CalculatorError`] where a file is what git leaves in place of a large one."""
    if file.is_file() and file.stat().st_size < 1024 and is_lfs_pointer(file.read_bytes()):
        raise CalculatorError(
            f"{file.name} of {name!r} is a git-lfs pointer, not the file itself: run `git lfs pull` in its folder, or "
            "fetch it with `hf download`"
        )


def check_no_pointers(path: Path, name: str, patterns: Sequence[str]) -> None:
    """[`check_no_pointer`] for the files of a folder that match."""
    for pattern in patterns:
        for file in sorted(path.glob(pattern)):
            check_no_pointer(file, name)


def hash_folder(path: Path, patterns: Sequence[str] = CONTENT) -> str:
    """Content hash of the files of a folder that match."""
    files = sorted({file for pattern in patterns for file in path.glob(pattern) if file.is_file()})
    digest = xxhash.xxh3_128()
    for file in files:
        stat = file.stat()
        digest.update(f"{file.name}:{_hash_file(str(file), stat.st_size, stat.st_mtime_ns)}\n".encode())
    return digest.hexdigest()


@functools.lru_cache(maxsize=256)
def _hash_file(path: str, size: int, mtime: int) -> str:
    """Content hash, computed once for each size and modification time."""
    return hash_file(Path(path))
