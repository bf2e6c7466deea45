"""Our block of a data-set card: what people read, between two marker comments that are replaced as a whole.

All other text of the README is kept. Values from data are escaped, so that a domain called `| --- |` is shown as that.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ladm_hf.data import score_columns
from ladm_hf.data.score_columns import SCORE
from ladm_hf.packing.formats import MEANINGS as PACKED_MEANINGS
from ladm_hf.publishing.front_matter import package_version, section
from ladm_hf.selection import signals
from ladm_hf.selection.commands import select_call, select_command
from ladm_hf.selection.signals import range_words, score_words
from ladm_hf.text import cell, counted, escape, fence

if TYPE_CHECKING:
    from datasets import DatasetInfo

    from ladm_hf.selection.result import Selection

BEGIN, END = "<!-- ladm:begin (text between these marks is replaced by `ladm publish`) -->", "<!-- ladm:end -->"
_BLOCK = re.compile(r"<!-- ladm:begin\b.*?-->.*?<!-- ladm:end -->", re.DOTALL)
_MARK_START = re.compile(r"<!--(?= ladm:)")
_LONE_MARK = re.compile(r"<!-- ladm:(begin\b.*?|end) -->\n?")

MAX_GROUPS = 60
# The columns of a selection's table that the card shows, and their headings.
GROUP_COLUMNS = {
    "domain": "domain", "documents": "documents", "tokens": "tokens", "repeated_documents": "dropped as repeated",
    "outside_documents": "outside a range",
    "selected_documents": "kept", "selected_tokens": "tokens kept", "budget_tokens": "budget",
    "threshold": "lowest score kept",
    "score_length_correlation": "score and length", "kept_length_correlation": "kept and length",
}  # fmt: skip
MEANINGS = score_columns.MEANINGS | signals.MEANINGS
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


def merged_body(text: str, block: str, title: str) -> str:
    """Puts our block in the place of the old one, or after the text that is there."""
    # a value from the data must not end the block: what follows would be taken for text of people next time
    inner = _MARK_START.sub("<!-\u200b-", block.strip())
    block = f"{BEGIN}\n{inner}\n{END}"
    if not text.strip():
        return f"\n# {escape(title)}\n\n{block}\n"
    old = _BLOCK.search(text)
    if old is None:
        return f"{_LONE_MARK.sub('', text).rstrip()}\n\n{block}\n"
    after = _LONE_MARK.sub("", _BLOCK.sub("", text[old.end() :]))
    return _LONE_MARK.sub("", text[: old.start()]) + block + after


def render(
    metadata: Mapping[str, Any],
    info: DatasetInfo,
    run: Mapping[str, Any],
    selection: Selection | None,
    repo_id: str | None,
    config_name: str,
    figures: Sequence[Figure],
    command: str | None,
) -> str:
    """The text of the block, from `card_template.md`."""
    rows = _budget_rows(selection)
    splits = info.splits or {}
    meanings = {**MEANINGS, **(PACKED_MEANINGS if "packing" in run else {})}
    text = _template().render(
        summary=_summary(run, selection, splits),
        columns=[
            {"name": cell(name), "type": cell(_type_name(feature)), "meaning": meanings.get(name, "from the source")}
            for name, feature in (info.features or {}).items()
        ],
        splits=[{"name": cell(name), "rows": f"{split.num_examples:,}"} for name, split in splits.items()],
        snippet=repo_id and fence(_snippet(repo_id, config_name, list(splits)), "python"),
        facts=_facts(run),
        command=fence(command, "bash") if command else _made_again(run, selection),
        groups=rows[:MAX_GROUPS],
        group_columns=[GROUP_COLUMNS[name] for name in _group_columns(selection)],
        notes=[cell(note, 500) for note in selection.notes] if selection is not None else [],
        more_groups=max(0, len(rows) - MAX_GROUPS),
        budget=_budget(selection),
        figures=[
            {"path": quote(figure.path), "alt": escape(figure.alt), "caption": escape(figure.caption)}
            for figure in figures
        ],
        limits=_limits(run),
        licence=_licence(metadata),
        citation=fence(CITATION.replace("VERSION", package_version("ladm_hf")), "bibtex"),
    )
    return re.sub(r"\n{3,}", "\n\n", text)


@functools.cache
def _template() -> Any:
    import jinja2

    # Values are escaped for Markdown, which covers HTML.
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False)
    return environment.from_string(Path(__file__).with_name("card_template.md").read_text(encoding="utf-8"))


def _made_again(run: Mapping[str, Any], selection: Selection | None) -> str:
    """What ran, fenced: command lines, and a call of [`select`] where the scored rows were in memory."""
    commands = [run.get("command"), selection and select_command(selection)]
    lines = "\n".join(str(command) for command in commands if command)
    call = (
        ""
        if selection is None or commands[1]
        else fence(f"# scored: the scored rows\n{select_call(selection)}", "python")
    )
    return "\n\n".join(filter(None, [fence(lines, "bash") if lines else "", call]))


def _summary(run: Mapping[str, Any], selection: Selection | None, splits: Mapping[str, Any]) -> str:
    rows = sum(split.num_examples for split in splits.values())
    dataset = section(run, "dataset")
    source = dataset.get("id") or dataset.get("name")
    origin = f" from {cell(source)}" if source else ""
    method = "[LADM](https://arxiv.org/abs/2503.02502), by how much their later parts attend to distant earlier parts"
    if packing := section(run, "packing"):
        packed = counted(int(packing.get("documents", 0)), "document")
        sequences = f"{counted(rows, 'sequence')} of {packing.get('length', 0):,} tokens"
        return f"{sequences} to train on: {packed}{origin}, none cut that fits into a sequence."
    if selection is None:
        return f"{counted(rows, 'document')}{origin}, scored by {method}."
    return f"{counted(rows, 'long document')}{origin}, chosen for training on long context by {method}."


def _snippet(repo_id: str, config_name: str, splits: list[str]) -> str:
    name = "" if config_name == "default" else f", {config_name!r}"
    split = (splits or ["train"])[0]
    return f"from datasets import load_dataset\n\ndataset = load_dataset({repo_id!r}{name}, split={split!r})"


def _facts(run: Mapping[str, Any]) -> list[dict[str, str]]:
    source, model, config = (section(run, name) for name in ("dataset", "model", "config"))
    versions = section(run, "versions") or {name: package_version(name) for name in VERSIONS_OF}
    facts = {
        "source": _named(source),
        "calculator": _named(model),
        "scoring": ", ".join(f"{cell(name)} = {cell(value)}" for name, value in config.items() if value is not None),
        **{name: _listed(section(run, name)) for name in ("selection", "packing")},
        "versions": ", ".join(f"{cell(name)} {cell(value)}" for name, value in versions.items() if value),
    }
    return [{"name": name, "value": value} for name, value in facts.items() if value]


def _listed(part: Mapping[str, Any]) -> str:
    return ", ".join(f"{cell(name)} {_number(value)}" for name, value in part.items())


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
    if selection.options["score"] != SCORE:
        parts.append(f"ranked by {cell(score_words(selection.options['score']))}")
    if keep := selection.options.get("keep"):
        parts.append(f"kept within {', '.join(cell(range_words(name, bounds)) for name, bounds in keep.items())}")
    if selection.by:
        parts.insert(1, f"ranked within {cell(selection.by)}")
    if selection.budget_tokens is not None:
        parts.insert(1, f"{selection.budget_tokens:,} tokens asked for, {selection.selected_tokens:,} kept")
    return "; ".join(parts).capitalize() + "."


def _budget_rows(selection: Selection | None) -> list[list[str]]:
    table = selection.table if selection is not None else []
    names = _group_columns(selection)
    return [[_number(getattr(row, name)) or "(none)" for name in names] for row in table]


def _group_columns(selection: Selection | None) -> list[str]:
    """The columns of the table: those of ranges where there are ranges."""
    ranges = selection is not None and selection.options.get("keep")
    return [name for name in GROUP_COLUMNS if ranges or name != "outside_documents"]


def _number(value: Any) -> str:
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return cell("" if value is None else value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _limits(run: Mapping[str, Any]) -> list[str]:
    config = section(run, "config")
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
