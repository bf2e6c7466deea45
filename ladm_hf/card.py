"""The data-set card: what the data is, how it was made and how to make it again, in a README that people edit too.

A card is YAML and a body. Our text lives in the body between two marker comments and is replaced as a whole; all
other text is kept. In the YAML, what describes the files (`configs`, `dataset_info`, `size_categories`, `ladm`) is
ours, lists are united, and everything else is only filled in where it is missing. Values from data are escaped, so
that a domain called `| --- |` is shown as that.
"""

from __future__ import annotations

import copy
import functools
import logging
import re
import shlex
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ladm_hf.errors import InputError

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict, DatasetInfo
    from huggingface_hub import DatasetCard

    from ladm_hf.selection import Selection

logger = logging.getLogger(__name__)

BEGIN, END = "<!-- ladm:begin (text between these marks is replaced by `ladm publish`) -->", "<!-- ladm:end -->"
_BLOCK = re.compile(r"<!-- ladm:begin\b.*?-->.*?<!-- ladm:end -->", re.DOTALL)
_MARK_START = re.compile(r"<!--(?= ladm:)")
_LONE_MARK = re.compile(r"<!-- ladm:(begin\b.*?|end) -->\n?")

SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B", "1B<n<10B", "10B<n<100B")
CARRIED = ("language", "license", "license_name", "license_link", "language_bcp47", "annotations_creators")
TAGS = ("ladm", "long-context", "data-selection")
MAX_GROUPS = 60
# The columns of a selection's table that the card shows, and their headings.
GROUP_COLUMNS = {
    "domain": "domain", "documents": "documents", "tokens": "tokens", "selected_documents": "kept",
    "selected_tokens": "tokens kept", "budget_tokens": "budget", "threshold": "lowest score kept",
}  # fmt: skip
MEANINGS = {
    "ladm_score": "contextual dependency score (CDS) of the document, NaN if it has none",
    "ladm_num_tokens": "tokens that were scored, as the calculator's tokenizer counts",
    "ladm_status": "`ok`, `too_short`, `empty`, `null` or `error: ...`",
}
SELECT_DEFAULTS = {
    "by": "domain", "strategy": "exact", "shares": "proportional", "seed": 0, "tokens": "scored",
    "score_column": "ladm_score",
}  # fmt: skip
VERSIONS_OF = ("ladm_hf", "torch", "transformers", "datasets")
CITATION = """\
@inproceedings{chen-etal-2025-ladm,
    title = "{LADM}: Long-context Training Data Selection with Attention-based Dependency Measurement for {LLM}s",
    author = "Chen, Jianghao and Wu, Junhong and Xu, Yangyifan and Zhang, Jiajun",
    booktitle = "Proceedings of the 63rd Annual Meeting of the Association for Computational Linguistics
                 (Volume 1: Long Papers)",
    year = "2025",
    pages = "3076--3090",
    note = "arXiv:2503.02502"
}
@software{ladm_hf,
    title = "{ladm\\_hf}: {LADM} long-context data selection for {H}ugging {F}ace",
    version = "VERSION",
    license = "Apache-2.0"
}"""


@dataclass(frozen=True)
class Figure:
    """An image beside the card: its path in the repository, what a reader who cannot see it needs, and a caption."""

    path: str
    alt: str
    caption: str = ""


def build_card(
    run: Mapping[str, Any] | None = None,
    selection: Selection | None = None,
    *,
    data: Dataset | DatasetDict | DatasetInfo | None = None,
    repo_id: str | None = None,
    config_name: str = "default",
    source_card: DatasetCard | str | None = None,
    existing: DatasetCard | str | None = None,
    language: str | Sequence[str] | None = None,
    license: str | None = None,
    pretty_name: str | None = None,
    figures: Iterable[Figure] = (),
    command: str | None = None,
) -> DatasetCard:
    """The card of a scored or selected data set.

    Args:
        run (mapping, *optional*):
            How the rows were scored, the content of `run.json`: its `config`, `model`, `dataset` and `versions` are
            shown.
        selection ([`Selection`], *optional*):
            Gives the budget table and, without `data`, the rows.
        data (`Dataset`, `DatasetDict` or `DatasetInfo`, *optional*):
            What is published; gives columns, splits and `dataset_info`. Defaults to the selected rows.
        repo_id (`str`, *optional*):
            `user/name` on the Hub, for the title and the snippet that loads it.
        config_name (`str`, *optional*, defaults to `"default"`):
            Configuration that the rows are published under.
        source_card (`DatasetCard` or `str`, *optional*):
            Card of the source data set, whose language and licence are carried over.
        existing (`DatasetCard` or `str`, *optional*):
            The README to merge into; its own text and YAML are kept.
        language, license, pretty_name (`str`, *optional*):
            YAML values that win over the source's and the README's.
        figures (iterable of [`Figure`], *optional*):
            Images, already beside the card.
        command (`str`, *optional*):
            Shell commands that make the data again; defaults to the command of the run and of the selection.

    Returns:
        `DatasetCard`, with `.data` (YAML) and `.text` (body). Building it again into itself changes nothing.

    Raises:
        InputError: there is nothing to describe, or a README's front matter cannot be read.
    """
    run = run or {}
    described = data if data is not None else getattr(selection, "selected", None)
    if described is None:
        raise InputError("build_card() needs `data` or a `selection` to describe; both are None")
    info = _info(described)
    readme = _card(existing, "the README to merge into")
    metadata = _yaml_of(readme)
    source = _card(source_card, "the source's README")
    _fill(metadata, _yaml_of(source), language, license, pretty_name, repo_id)
    _describe_files(metadata, info, config_name)
    metadata["source_datasets"] = _united(metadata.get("source_datasets"), _hub_source(run)) or None
    metadata["ladm"] = _record(run, selection)

    block = _render(metadata, info, run, selection, repo_id, config_name, tuple(figures), command)
    title = metadata.get("pretty_name") or repo_id or "LADM data"
    body = _merged_body(readme.text if readme else "", block, str(title))
    return _assembled(metadata, body, readme)


def card_diff(old: str, new: str) -> str:
    """A unified diff of two READMEs, empty if they are equal."""
    import difflib

    lines = difflib.unified_diff(
        old.splitlines(keepends=True), new.splitlines(keepends=True), "README.md on the Hub", "README.md to publish"
    )
    return "".join(line if line.endswith("\n") else line + "\n" for line in lines)


# --- YAML


def _card(card: DatasetCard | str | None, what: str) -> DatasetCard | None:
    """Reads a README; one without front matter has empty YAML."""
    import yaml
    from huggingface_hub import DatasetCard

    if card is None or isinstance(card, DatasetCard):
        return card
    card = card.removeprefix("\ufeff")
    has_yaml = re.match(r"\s*---\s*\n", card)
    try:
        return DatasetCard(card if has_yaml else f"---\n{{}}\n---\n{card}", ignore_metadata_errors=True)
    except (ValueError, TypeError, yaml.YAMLError) as error:
        raise InputError(f"{what} has front matter that is not a YAML mapping; correct it first: {error}") from error


def _yaml_of(card: DatasetCard | None) -> dict[str, Any]:
    metadata = dict(vars(card.data)) if card else {}
    language = metadata.get("language")
    # YAML reads an unquoted `no`, for Norwegian, as False
    if language is False:
        metadata["language"] = "no"
    elif isinstance(language, list):
        metadata["language"] = ["no" if code is False else code for code in language]
    return metadata


def _fill(
    metadata: dict[str, Any],
    source: Mapping[str, Any],
    language: str | Sequence[str] | None,
    license: str | None,
    pretty_name: str | None,
    repo_id: str | None,
) -> None:
    """Adds what the README does not say itself: from our caller, else from the source's card, else by default."""
    for name in CARRIED:
        if not metadata.get(name) and source.get(name):
            metadata[name] = source[name]
    given = {"language": [language] if isinstance(language, str) else language and list(language), "license": license}
    metadata.update({name: value for name, value in given.items() if value})
    if pretty_name or not metadata.get("pretty_name"):
        default = repo_id.split("/")[-1].replace("-", " ").replace("_", " ") if repo_id else "LADM data"
        metadata["pretty_name"] = pretty_name or default
    metadata["task_categories"] = _united(metadata.get("task_categories"), ["text-generation"])
    metadata["tags"] = _united(metadata.get("tags"), TAGS)


def _describe_files(metadata: dict[str, Any], info: DatasetInfo, config_name: str) -> None:
    """`size_categories`, `dataset_info` and `configs`: ours for our configuration, kept for all others."""
    from datasets.info import DatasetInfosDict
    from datasets.utils.metadata import MetadataConfigs
    from huggingface_hub import DatasetCardData

    old = DatasetCardData(**{name: metadata[name] for name in ("dataset_info", "configs") if metadata.get(name)})
    infos = DatasetInfosDict.from_dataset_card_data(old)
    configs = MetadataConfigs.from_dataset_card_data(DatasetCardData(**copy.deepcopy(vars(old))))
    mine = _with_other_splits(info, infos.get(config_name), configs.get(config_name, {}))
    data_dir = "data" if config_name == "default" else config_name
    paths = {item["split"]: item["path"] for item in _data_files(configs.get(config_name, {}))}
    paths.update({split: f"{data_dir}/{split}-*" for split in info.splits or {}})
    others = {name: value for name, value in configs.items() if name != config_name}
    entry = {**configs.get(config_name, {}), "data_files": [{"split": s, "path": p} for s, p in paths.items()]}

    fresh = DatasetCardData()
    fresh["dataset_info"] = old.get("dataset_info")
    DatasetInfosDict({config_name: mine}).to_dataset_card_data(fresh)
    MetadataConfigs({config_name: entry, **others}).to_dataset_card_data(fresh)
    metadata["dataset_info"], metadata["configs"] = fresh["dataset_info"], fresh["configs"]
    rows = sum(
        split.num_examples for each in {**infos, config_name: mine}.values() for split in (each.splits or {}).values()
    )
    metadata["size_categories"] = [SIZES[min(len(SIZES) - 1, max(0, len(str(rows)) - 3))]]


def _data_files(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    files = config.get("data_files")
    return [item for item in files if isinstance(item, dict)] if isinstance(files, list) else []


def _with_other_splits(info: DatasetInfo, old: DatasetInfo | None, config: Mapping[str, Any]) -> DatasetInfo:
    """Keeps the splits of our configuration that are not published now but are still in its files."""
    from datasets import DatasetInfo, SplitDict

    listed = {item["split"] for item in _data_files(config)}
    kept = {name: split for name, split in ((old and old.splits) or {}).items() if name in listed}
    splits = SplitDict()
    for name, split in {**kept, **(info.splits or {})}.items():
        splits[name] = split
    sizes = {}
    for field in ("download_size", "dataset_size"):
        before = getattr(old, field, None) or 0 if kept.keys() - (info.splits or {}).keys() else 0
        sizes[field] = (getattr(info, field) or 0) + before
    return DatasetInfo(features=info.features, splits=splits, **sizes)


def _info(data: Any) -> DatasetInfo:
    """Features, rows and bytes of what is published; bytes of a data set in memory are those of its Arrow tables."""
    from datasets import Dataset, DatasetDict, DatasetInfo, SplitDict, SplitInfo

    if isinstance(data, DatasetInfo):
        return data
    if isinstance(data, Dataset):
        data = DatasetDict({str(data.split or "train"): data})
    splits = SplitDict()
    for name, part in data.items():
        splits[str(name)] = SplitInfo(name=str(name), num_bytes=part.data.nbytes, num_examples=part.num_rows)
    size = sum(split.num_bytes for split in splits.values())
    return DatasetInfo(
        features=next(iter(data.values())).features, splits=splits, dataset_size=size, download_size=size
    )


def _united(old: Any, new: Iterable[str]) -> list[str]:
    before = [old] if isinstance(old, str) else list(old or [])
    return before + [value for value in new if value not in before]


def _hub_source(run: Mapping[str, Any]) -> list[str]:
    source = _section(run, "dataset").get("id")
    return [str(source)] if source and re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)) else []


def _section(run: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A part of `run.json`; a part that is only a name counts as its `id`."""
    value = run.get(name)
    if isinstance(value, Mapping):
        return dict(value)
    return {"id": value} if value is not None else {}


def _record(run: Mapping[str, Any], selection: Selection | None) -> dict[str, Any]:
    """Our own YAML key: what a program needs to tell how the data was made."""
    record: dict[str, Any] = {"version": _version("ladm_hf")}
    for name in ("model", "config", "dataset"):
        if part := {key: value for key, value in _section(run, name).items() if value is not None}:
            record[name] = _plain(part)
    if selection is not None:
        names = ("strategy", "by", "tokens", "budget_tokens", "selected_tokens", "percent")
        chosen = {name: getattr(selection, name) for name in names}
        record["selection"] = {name: value for name, value in chosen.items() if value is not None}
    return record


def _plain(value: Any) -> Any:
    """JSON-like Python values, for YAML: tuples become lists, NumPy scalars become numbers."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    value = value.item() if hasattr(value, "item") else value
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def _assembled(metadata: Mapping[str, Any], body: str, readme: DatasetCard | None) -> DatasetCard:
    import yaml as yaml_library
    from huggingface_hub import DatasetCard, DatasetCardData
    from huggingface_hub.repocard import REGEX_YAML_BLOCK

    order = ["language", "license", "pretty_name", "size_categories", "task_categories", "tags", "source_datasets"]
    front = REGEX_YAML_BLOCK.search(readme.content) if readme else None
    known = list(yaml_library.safe_load(front[2]) or order) if front else order
    kept = {name: metadata[name] for name in [*known, *metadata] if metadata.get(name) not in (None, [])}
    yaml = DatasetCardData(**kept, ignore_metadata_errors=True).to_yaml(original_order=list(kept))
    return DatasetCard(f"---\n{yaml}\n---\n{body}", ignore_metadata_errors=True)


# --- body


def _merged_body(text: str, block: str, title: str) -> str:
    """Puts our block in the place of the old one, or after the text that is there."""
    # a value from the data must not end the block: what follows would be taken for text of people next time
    inner = _MARK_START.sub("<!-\u200b-", block.strip())
    block = f"{BEGIN}\n{inner}\n{END}"
    if not text.strip():
        return f"\n# {_escape(title)}\n\n{block}\n"
    old = _BLOCK.search(text)
    if old is None:
        return f"{_LONE_MARK.sub('', text).rstrip()}\n\n{block}\n"
    after = _LONE_MARK.sub("", _BLOCK.sub("", text[old.end() :]))
    return _LONE_MARK.sub("", text[: old.start()]) + block + after


def _render(
    metadata: Mapping[str, Any],
    info: DatasetInfo,
    run: Mapping[str, Any],
    selection: Selection | None,
    repo_id: str | None,
    config_name: str,
    figures: Sequence[Figure],
    command: str | None,
) -> str:
    rows = _budget_rows(selection)
    splits = info.splits or {}
    text = _template().render(
        summary=_summary(run, selection, splits),
        columns=[
            {"name": cell(name), "type": cell(_type_name(feature)), "meaning": MEANINGS.get(name, "from the source")}
            for name, feature in (info.features or {}).items()
        ],
        splits=[{"name": cell(name), "rows": f"{split.num_examples:,}"} for name, split in splits.items()],
        snippet=repo_id and fence(_snippet(repo_id, config_name, list(splits)), "python"),
        facts=_facts(run),
        command=fence(commands, "bash") if (commands := command or _commands(run, selection)) else "",
        groups=rows[:MAX_GROUPS],
        group_columns=list(GROUP_COLUMNS.values()),
        notes=[cell(note, 500) for note in selection.notes] if selection is not None else [],
        more_groups=max(0, len(rows) - MAX_GROUPS),
        budget=_budget(selection),
        figures=[
            {"path": quote(figure.path), "alt": _escape(figure.alt), "caption": _escape(figure.caption)}
            for figure in figures
        ],
        limits=_limits(run),
        licence=_licence(metadata),
        citation=fence(CITATION.replace("VERSION", _version("ladm_hf")), "bibtex"),
    )
    return re.sub(r"\n{3,}", "\n\n", text)


@functools.cache
def _template() -> Any:
    import jinja2

    # Values are escaped for Markdown, which covers HTML.
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False)
    return environment.from_string(Path(__file__).with_name("card_template.md").read_text(encoding="utf-8"))


def _commands(run: Mapping[str, Any], selection: Selection | None) -> str:
    """The command lines of the run and of the selection, as far as they are known."""
    lines = [str(run["command"])] if run.get("command") else []
    if selection is not None:
        words = ["ladm", "select", "SCORED", "SELECTED"]
        for name, value in {"by": "", **selection.options}.items():
            if value == SELECT_DEFAULTS.get(name):
                continue
            flag = {"budget_tokens": "--budget", "shares": "--share", "k": "-k"}.get(
                name
            ) or f"--{name.replace('_', '-')}"
            if isinstance(value, Mapping):
                words += [word for domain, weight in value.items() for word in (flag, f"{domain}={weight}")]
            else:
                # a comma tells one length that divides bands from a number of bands
                edges = isinstance(value, (list, tuple)) and ",".join(map(str, value)) + "," * (len(value) == 1)
                words += [flag, edges or str(value)]
        lines.append(" ".join(shlex.join(words).split()))
    return "\n".join(lines)


def _summary(run: Mapping[str, Any], selection: Selection | None, splits: Mapping[str, Any]) -> str:
    rows = sum(split.num_examples for split in splits.values())
    dataset = _section(run, "dataset")
    source = dataset.get("id") or dataset.get("name")
    origin = f" from {cell(source)}" if source else ""
    method = "[LADM](https://arxiv.org/abs/2503.02502), by how much their later parts attend to distant earlier parts"
    if selection is None:
        return f"{rows:,} documents{origin}, scored by {method}."
    return f"{rows:,} long documents{origin}, chosen for training on long context by {method}."


def _snippet(repo_id: str, config_name: str, splits: list[str]) -> str:
    name = "" if config_name == "default" else f", {config_name!r}"
    split = (splits or ["train"])[0]
    return f"from datasets import load_dataset\n\ndataset = load_dataset({repo_id!r}{name}, split={split!r})"


def _facts(run: Mapping[str, Any]) -> list[dict[str, str]]:
    source, model, config = (_section(run, name) for name in ("dataset", "model", "config"))
    versions = _section(run, "versions") or {name: _version(name) for name in VERSIONS_OF}
    facts = {
        "source": _named(source),
        "calculator": _named(model),
        "scoring": ", ".join(f"{cell(name)} = {cell(value)}" for name, value in config.items() if value is not None),
        "versions": ", ".join(f"{cell(name)} {cell(value)}" for name, value in versions.items() if value),
    }
    return [{"name": name, "value": value} for name, value in facts.items() if value]


def _named(part: Mapping[str, Any]) -> str:
    """A source or a calculator: its name first, then whatever pins it down."""
    name = next((part[key] for key in ("id", "name", "path") if part.get(key)), None)
    rest = {
        key: value
        for key, value in part.items()
        if value not in (None, name, {}, []) and not isinstance(value, Mapping)
    }
    pins = ", ".join(f"{cell(key)} {cell(value)}" for key, value in rest.items())
    return f"{cell(name) if name is not None else 'unnamed'}{f' ({pins})' if pins else ''}" if name or pins else ""


def _budget(selection: Selection | None) -> str:
    if selection is None:
        return ""
    parts = [f"strategy {cell(selection.strategy)}"]
    if selection.by:
        parts.insert(1, f"ranked within {cell(selection.by)}")
    if selection.budget_tokens is not None:
        parts.insert(1, f"{selection.budget_tokens:,} tokens asked for, {selection.selected_tokens:,} kept")
    return "; ".join(parts).capitalize() + "."


def _budget_rows(selection: Selection | None) -> list[list[str]]:
    table = selection.table if selection is not None else []
    return [[_number(record[name]) or "(none)" for name in GROUP_COLUMNS] for record in table]


def _number(value: Any) -> str:
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return cell("" if value is None else value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _limits(run: Mapping[str, Any]) -> list[str]:
    config = _section(run, "config")
    if config.get("max_length") and config.get("overflow", "truncate") == "truncate":
        return [f"Only the first {int(config['max_length']):,} tokens of a document were scored."]
    return []


def _licence(metadata: Mapping[str, Any]) -> str:
    licence = metadata.get("license")
    if not licence:
        return (
            "The source names no licence that could be carried over. Find out what the source allows before you use or "
            "share this data."
        )
    names = ", ".join(cell(name) for name in ([licence] if isinstance(licence, str) else licence))
    link = metadata.get("license_link")
    return f"{names}{f' ({cell(link)})' if link else ''}. Scores and card add no restriction."


def _type_name(feature: Any) -> str:
    return str(getattr(feature, "dtype", None) or type(feature).__name__)


@functools.cache
def _version(package: str) -> str:
    if package == "ladm_hf":
        from ladm_hf import __version__

        return __version__
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


# --- text from data

_ENTITIES = {char: f"&#{ord(char)};" for char in "&<>\"'|`{}$:@\\"}
_BACKSLASHED = set("*_[]()#+!~^=-")


def cell(value: Any, longest: int = 120) -> str:
    """Text from data as one inert piece of Markdown, for a table cell or a sentence."""
    text = re.sub(r"\s+", " ", str(value)).strip()
    return _escape(text if len(text) <= longest else text[: longest - 1] + "…")


def _escape(text: str) -> str:
    """No character keeps a meaning in Markdown, HTML or a template; control and direction marks are dropped."""
    shown = []
    for char in re.sub(r"\s+", " ", text):
        category = unicodedata.category(char)
        # The joiner U+200D stays: it holds emoji together.
        if category in ("Cc", "Cs", "Co") or (category == "Cf" and char != "\u200d"):
            continue
        shown.append(_ENTITIES.get(char) or (f"\\{char}" if char in _BACKSLASHED else char))
    return "".join(shown)


def fence(code: str, language: str) -> str:
    """A code block that its content cannot close."""
    longest = max((len(run) for run in re.findall(r"`+", code)), default=0)
    marks = "`" * max(3, longest + 1)
    return f"{marks}{language}\n{code.strip()}\n{marks}"
