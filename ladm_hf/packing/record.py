"""`pack.json`: what was packed, with which tokenizer and options, and what came out of it."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ladm_hf.data.data_files import PACK_FILE
from ladm_hf.data.results import place_in, read_record
from ladm_hf.errors import InputError
from ladm_hf.text import count, counted, local_name, without_credentials

_FORMAT = 1


@dataclass(frozen=True)
class PackedSource:
    """What was taken of a data set.

    Attributes:
        name (`str`): path, Hub id or description.
        column (`str`): the column that was read.
        documents, tokens (`int`): documents taken, and their tokens with special tokens.
        cut_documents (`int`): documents longer than a sequence, which are cut into pieces of its length and a rest.
        left_out (`dict[str, int]`): rows without a document, by the reason.
        hub (`dict`, *optional*): `id` and `revision` of a data set of the Hub.
        used_up (`bool`): whether there were no more documents.
    """

    name: str
    column: str
    documents: int
    tokens: int
    cut_documents: int
    left_out: dict[str, int]
    hub: dict[str, str | None] | None = None
    used_up: bool = True


@dataclass(frozen=True)
class PackRecord:
    """What [`pack`] wrote.

    Attributes:
        format (`str`): `"parquet"`, `"nanotron"` or `"megatron"`.
        boundaries (`str`, *optional*): how parquet tells where documents begin.
        length (`int`): tokens of a full sequence.
        special_tokens (`str`): what stands around each document.
        tokenizer (`dict`): `name`, `revision`, `fingerprint`, `vocab_size` and the ids of special tokens.
        seed, buffer_tokens (`int`): of the order and of the packing.
        sequences (`int`): rows, or windows of a token file.
        padding (`int`): tokens by which the sequences fall short of their length.
        selected ([`PackedSource`]): the documents that were all packed.
        short ([`PackedSource`], *optional*): the documents mixed in.
        short_share (`float`, *optional*): the share of tokens that was asked of them, in `0..1`.
        selection (`dict`, *optional*): strategy, budget and command of the selection.
        run (`dict`, *optional*): what a card shows of the scoring run.
        command (`str`): the command that does the same.
        version (`str`): of this package.
        folder (`str`, *optional*): where it lies, a folder or a URL.
    """

    format: str
    boundaries: str | None
    length: int
    special_tokens: str
    tokenizer: dict[str, Any]
    seed: int
    buffer_tokens: int
    sequences: int
    padding: int
    selected: PackedSource
    short: PackedSource | None = None
    short_share: float | None = None
    selection: dict[str, Any] | None = None
    run: dict[str, Any] | None = None
    command: str = ""
    version: str = ""
    folder: str | None = field(default=None, compare=False)

    @property
    def documents(self) -> int:
        """Documents packed."""
        return self.selected.documents + (self.short.documents if self.short else 0)

    @property
    def tokens(self) -> int:
        """Tokens packed, with special tokens and without padding."""
        return self.selected.tokens + (self.short.tokens if self.short else 0)

    @property
    def cut_documents(self) -> int:
        """Documents longer than a sequence."""
        return self.selected.cut_documents + (self.short.cut_documents if self.short else 0)

    @property
    def padding_share(self) -> float:
        """Part of the positions that holds no token, in `0..1`."""
        return self.padding / max(1, self.padding + self.tokens)

    @property
    def short_share_reached(self) -> float | None:
        """Part of the tokens that is of the short documents, in `0..1`."""
        return self.short.tokens / max(1, self.tokens) if self.short else None

    def facts(self) -> dict[str, Any]:
        """What a card shows: that of the scoring run, `selection` and `packing`, and the commands of all three."""
        name = self.tokenizer.get("name") or ""
        packing = {
            "length": self.length,
            "sequences": self.sequences,
            "tokens": self.tokens,
            "documents": self.documents,
            "cut documents": self.cut_documents,
            "padding": f"{self.padding_share:.2%}",
            "tokenizer": "@".join(filter(None, (local_name(name), self.tokenizer.get("revision")))),
            "special tokens": self.special_tokens,
            "short documents": None if self.short is None else self._mixed_in(self.short),
            "seed": self.seed,
        }
        run, selection = dict(self.run or {}), dict(self.selection or {})
        commands = [run.get("command"), selection.pop("command", None), self.command]
        facts = {"selection": selection, "packing": {k: v for k, v in packing.items() if v is not None}}
        return {**run, **{k: v for k, v in facts.items() if v}, "command": "\n".join(filter(None, commands))}

    def _mixed_in(self, short: PackedSource) -> str:
        """The short documents, for people."""
        name = (short.hub or {}).get("id") or local_name(short.name)
        return f"{self.short_share_reached:.1%} of the tokens, of {name}"

    def notes(self) -> list[str]:
        """What a reader should know, in sentences."""
        notes = []
        for source in filter(None, (self.selected, self.short)):
            if source.left_out:
                reasons = ", ".join(f"{number:,} {reason}" for reason, number in sorted(source.left_out.items()))
                notes.append(f"Left out of {source.name}, as there is no document to pack: {reasons}.")
        if self.short is not None and self.short.used_up:
            notes.append(
                f"{self.short.name} ended before it held {self.short_share:.1%} of the tokens: it holds "
                f"{self.short_share_reached:.1%}, each of its documents once."
            )
        # of the last sequence it cannot be helped
        if self.padding - self.length > 0.01 * (self.padding + self.tokens):
            notes.append(
                f"Padding is {self.padding_share:.1%}: too few documents are short enough to fill the gaps of the "
                "others. Mix in short ones, or choose another length."
            )
        return notes

    def summary(self) -> str:
        """Counts, as text for a terminal."""
        lines = [
            f"{counted(self.sequences, 'sequence')} of {self.length:,} tokens: {counted(self.documents, 'document')}, "
            f"{count(self.tokens)} tokens, {self.padding_share:.2%} padding; "
            f"{counted(self.cut_documents, 'document')} longer than a sequence cut",
        ]
        if self.short is not None:
            lines.append(
                f"{self.short_share_reached:.1%} of the tokens are of {counted(self.short.documents, 'document')} of "
                f"{self.short.name}"
            )
        return "\n".join(lines)

    def to_json(self) -> str:
        """The content of `pack.json`."""
        values = dataclasses.asdict(self)
        del values["folder"]
        values = {"pack_format": _FORMAT, "ladm_hf_version": values.pop("version"), **values}
        computed = ("documents", "tokens", "cut_documents", "padding_share", "short_share_reached")
        values |= {name: getattr(self, name) for name in computed}
        return json.dumps(values, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> PackRecord:
        """Reads the record of what [`pack`] wrote to a folder or URL.

        Raises:
            InputError: there is none, or one that this version does not read.
        """
        place = without_credentials(str(place_in(folder)))
        content = read_record(folder, PACK_FILE)
        if content is None:
            raise InputError(f"{place} holds no {PACK_FILE}: expected a folder or URL that `ladm pack` wrote")
        try:
            values = json.loads(content)
            if not isinstance(values, Mapping) or values.get("pack_format") != _FORMAT:
                raise ValueError(f"it is not in format {_FORMAT}, the one this version reads")
            names = {each.name for each in dataclasses.fields(cls)} - {"folder", "version"}
            found = {name: values[name] for name in names}
            for name in ("selected", "short"):
                if found[name] is not None:
                    found[name] = PackedSource(**found[name])
            return cls(**found, version=values["ladm_hf_version"], folder=place)
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{place}/{PACK_FILE} cannot be read ({error}): pack again") from error
