"""Options that several commands share, and a YAML file that holds any options of a command.

`--options run.yaml` gives the options that the command line leaves out. What a command was run with, defaults included,
is written beside its result as `options.yaml`, so that `--options` repeats it.
"""

from __future__ import annotations

import difflib
import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
import yaml

from ladm_hf.data.files import OPTIONS_FILE
from ladm_hf.data.object_store import storage_at
from ladm_hf.data.storage import is_url
from ladm_hf.errors import ConfigError, StorageError
from ladm_hf.text import range_text, without_credentials

# Exit code of a run after which no document has a score, or of prepared data without a document.
NOTHING_SCORED = 3
# Where `ladm score` runs, which is no part of what it does.
JOB = ("job", "jobs", "timeout", "namespace", "image", "package", "secret")
# Options of one launch, which its repetition must not inherit.
ONCE = ("options", "restart", "resume", "status", "estimate", "yes", "dry_run", *JOB)

Ablation = Literal["no_std", "no_length_weight"]
Backend = Literal["auto", "naive", "chunked", "fused"]
Dtype = Literal["auto", "float32", "float16", "bfloat16", "float8"]
OnError = Literal["status", "raise"]
Overflow = Literal["truncate", "windows"]
PackBoundaries = Literal["position_ids", "seq_lengths", "cu_seqlens"]
PackFormat = Literal["parquet", "nanotron", "megatron"]
Schedule = Literal["linear", "cosine", "constant"]
SpecialTokens = Literal["eos", "bos", "bos+eos", "none"]
Strategy = Literal["exact", "percent", "top-k", "bottom-k", "threshold", "temperature"]

OUTPUT = "Folder, or URL (s3://, hf://buckets/, ...)"
DATA = "Parquet, JSON lines or CSV (path, glob or URL), a save_to_disk folder, or a Hub id."
Input = Annotated[str, typer.Argument(help=DATA)]
TrainingData = Annotated[list[str], typer.Argument(help="Documents: files, a folder or a Hub id; needs a text column.")]
Model = Annotated[str, typer.Option(help="Calculator: ladm-nano, a folder or a Hub id.")]
ModelRevision = Annotated[
    str | None, typer.Option(help="Branch, tag or commit of the calculator.", show_default="its main branch")
]
Split = Annotated[str | None, typer.Option(help="Split of the data.", show_default="the only one")]
Name = Annotated[str | None, typer.Option(help="Configuration of a Hub dataset.", show_default="the dataset's own")]
Revision = Annotated[
    str | None, typer.Option(help="Branch, tag or commit of a Hub dataset.", show_default="its main branch")
]
TextColumn = Annotated[str, typer.Option(help="Column of the text; a dot reaches into a struct (meta.text).")]
Device = Annotated[
    str | None, typer.Option(help="cuda, cpu, mps, ...", show_default="each process's own GPU, else the CPU")
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of everything random.")]


def local_folder(text: str) -> Path:
    """The folder of an output that is not written to a URL."""
    if is_url(text):
        raise typer.BadParameter(
            f"this command writes to a folder of this machine, found {without_credentials(text)}: give a folder, and "
            "copy it there afterwards"
        )
    return Path(text)


def _load(context: typer.Context, path: Path | None) -> Path | None:
    """Makes the options of a file the defaults of the command."""
    if path is not None:
        try:
            context.default_map = read_options(path, context.command)
        except ConfigError as error:
            raise typer.BadParameter(str(error)) from error
    return path


OptionsFile = Annotated[
    Path | None,
    typer.Option(
        "--options",
        callback=_load,
        is_eager=True,
        metavar="FILE",
        help="YAML file with options of this command, e.g. an options.yaml. The command line wins over it.",
        show_default="none",
    ),
]


def read_options(path: Path, command: Any) -> dict[str, Any]:
    """The values of an options file, by parameter of the command.

    Raises:
        ConfigError: the file cannot be read, or an option is unknown or has a value of the wrong kind.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read the options in {path}: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold `option: value` lines, found {type(values).__name__}")
    known = {}
    for parameter in command.params:
        for name in (parameter.name, *parameter.opts):
            known[name.lstrip("-").replace("-", "_")] = parameter
    found = {}
    for key, value in values.items():
        name = str(key).lstrip("-").replace("-", "_")
        if name not in known or name in ONCE:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"{path}: `ladm {command.name}` takes no option {key!r} from a file{hint}")
        if value is not None:
            found[str(known[name].name)] = _typed(path, str(key), value, known[name])
    return found


def _typed(path: Path, key: str, value: Any, parameter: Any) -> Any:
    """A value as the command line would give it."""
    if getattr(parameter, "is_flag", False):
        if not isinstance(value, bool):
            raise ConfigError(f"{path}: {key} is true or false, found {value!r}")
        return value
    several = getattr(parameter, "multiple", False) or parameter.nargs == -1
    if isinstance(value, dict) and several:
        value = [f"{name}={range_text(item) if isinstance(item, list) else item}" for name, item in value.items()]
    values = value if isinstance(value, list) else [value]
    if (len(values) != 1 and not several) or any(isinstance(each, (bool, dict, list)) for each in values):
        expected = (
            "a list of texts or numbers" if several else "one text or number (in quotes if YAML reads it as another)"
        )
        raise ConfigError(f"{path}: {key} takes {expected}, found {value!r}")
    return [str(each) for each in values] if several else str(values[0])


def options_text(context: typer.Context) -> str:
    """All options of the running command as resolved, in the form that `--options` reads."""
    values = {name: _plain(value) for name, value in context.params.items() if name not in ONCE}
    head = f"# ladm {context.command.name} --options {OPTIONS_FILE}\n"
    return head + yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=10_000)


def save_options(context: typer.Context, output: str | os.PathLike[str]) -> None:
    """Writes `options.yaml` beside a result, in a folder or at a URL, which stays a result where that fails."""
    storage = storage_at(output)
    try:
        storage.put(OPTIONS_FILE, options_text(context).encode())
    except (OSError, StorageError) as error:
        print(f"ladm: {storage.name}/{OPTIONS_FILE} cannot be written: {error}", file=sys.stderr)


def shown_place(output: str | os.PathLike[str]) -> str:
    """A folder or URL for people."""
    return without_credentials(os.fspath(output))


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value if value is None or isinstance(value, (bool, int, float)) else without_credentials(str(value))
