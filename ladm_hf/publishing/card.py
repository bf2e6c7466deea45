"""The dataset card: what the data is, how it was made and how to make it again, in a README that people edit too.

A card is YAML, see `front_matter`, and a body, in which our text is one block, see `card_block`. What people wrote in
either is kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ladm_hf.data.run_record import RunRecord, run_facts
from ladm_hf.errors import InputError
from ladm_hf.publishing.card_block import Figure, merged_body, render
from ladm_hf.publishing.front_matter import dataset_info, describe_files, fill, hub_source, ladm_record, united, yaml_of

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict, DatasetInfo
    from huggingface_hub import DatasetCard

    from ladm_hf.selection.result import Selection

__all__ = ["Figure", "build_card", "card_diff"]


def build_card(
    run: RunRecord | Mapping[str, Any] | None = None,
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
    """The card of a scored or selected dataset.

    Args:
        run ([`RunRecord`] or mapping, *optional*):
            How the rows were scored: the record or content of a `run.json`, or its facts, `config`, `model`, `dataset`,
            `versions` and `command`.
        selection ([`Selection`], *optional*):
            Gives the budget table and, without `data`, the rows.
        data (`Dataset`, `DatasetDict` or `DatasetInfo`, *optional*):
            What is published; gives columns, splits and `dataset_info`. Defaults to the selected rows.
        repo_id (`str`, *optional*):
            `user/name` on the Hub, for the title and the snippet that loads it.
        config_name (`str`, *optional*, defaults to `"default"`):
            Configuration that the rows are published under.
        source_card (`DatasetCard` or `str`, *optional*):
            Card of the source dataset, whose language and licence are carried over.
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
    run = run_facts(run)
    described = data if data is not None else getattr(selection, "selected", None)
    if described is None:
        raise InputError("build_card() needs `data` or a `selection` to describe; both are None")
    info = dataset_info(described)
    readme = _card(existing, "the README to merge into")
    metadata = yaml_of(readme)
    source = _card(source_card, "the source's README")
    fill(metadata, yaml_of(source), language, license, pretty_name, repo_id)
    describe_files(metadata, info, config_name)
    metadata["source_datasets"] = united(metadata.get("source_datasets"), hub_source(run)) or None
    metadata["ladm"] = ladm_record(run, selection)

    block = render(metadata, info, run, selection, repo_id, config_name, tuple(figures), command)
    title = metadata.get("pretty_name") or repo_id or "LADM data"
    body = merged_body(readme.text if readme else "", block, str(title))
    return _assembled(metadata, body, readme)


def card_diff(old: str, new: str) -> str:
    """A unified diff of two READMEs, empty if they are equal."""
    import difflib

    lines = difflib.unified_diff(
        old.splitlines(keepends=True), new.splitlines(keepends=True), "README.md on the Hub", "README.md to publish"
    )
    return "".join(line if line.endswith("\n") else line + "\n" for line in lines)


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
