"""`pack()`: documents -> token ids -> sequences of one length -> files for a trainer, as one stream.

    selected -> tokenised ----+
                              +-- mixed at a share of tokens -> packed within a buffer -> parquet or token files
    short, as needed ---------+

Memory holds the buffer, whatever the size of the data. The result appears when it is whole.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from tqdm.auto import tqdm

from ladm_hf.data.data_files import PACK_FILE, SELECTION_FILE
from ladm_hf.data.open import open_source
from ladm_hf.data.results import check_free as check_place
from ladm_hf.data.results import new_result, place_in, read_record, result_at
from ladm_hf.data.run_record import RunRecord, run_of
from ladm_hf.data.score_columns import SCORE
from ladm_hf.data.storage import Storage
from ladm_hf.errors import ConfigError, InputError
from ladm_hf.packing.documents import Documents
from ladm_hf.packing.formats import (
    Boundaries,
    Format,
    check_installed,
    window,
    write_megatron,
    write_nanotron,
    write_parquet,
)
from ladm_hf.packing.mixture import Counts, Mixture
from ladm_hf.packing.record import PackedSource, PackRecord
from ladm_hf.packing.sequences import PackedSequence, default_buffer, pack_sequences
from ladm_hf.packing.tokenizer import SpecialTokens, TargetTokenizer, find_tokenizer
from ladm_hf.selection.commands import select_call, select_command
from ladm_hf.selection.result import Selection
from ladm_hf.selection.signals import range_words, score_words
from ladm_hf.text import command_line, without_credentials
from ladm_hf.version import __version__

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


def pack(
    selected: Any,
    output: str | os.PathLike[str],
    *,
    tokenizer: str | os.PathLike[str] | PreTrainedTokenizerBase,
    tokenizer_revision: str | None = None,
    length: int = 32768,
    short: Any = None,
    short_share: float = 0.3,
    special_tokens: SpecialTokens = "eos",
    format: Format = "parquet",
    boundaries: Boundaries = "position_ids",
    text_column: str | None = None,
    input_ids_column: str | None = None,
    split: str | None = None,
    short_text_column: str = "text",
    short_name: str | None = None,
    short_split: str | None = None,
    seed: int = 0,
    buffer_tokens: int | None = None,
    num_proc: int = 1,
    overwrite: bool = False,
    progress: bool | None = None,
) -> PackRecord:
    """Packs documents into sequences of one length to train on, without cutting one that fits (Ding et al. 2024, arXiv
    2404.10830): see [`pack_sequences`].

    Documents longer than `length` are cut into pieces of `length` tokens; the last piece and all other documents are
    never cut. Every document of `selected` is packed once, those of `short` as far as their share asks for them.

    Args:
        selected ([`Selection`], `Dataset`, `str` or path):
            The documents to train on: a folder or URL of `ladm select` or `ladm score`, or whatever can be scored:
            parquet, JSON lines, a folder of `save_to_disk`, a Hub id.
        output (`str` or path): folder of the result, or its URL: `data/` and `pack.json`.
        tokenizer (`str`, path or `PreTrainedTokenizerBase`):
            The tokenizer of the model to train: its Hub id (no weights are downloaded), folder, or itself.
        tokenizer_revision (`str`, *optional*): branch, tag or commit of a Hub id.
        length (`int`, *optional*, defaults to `32768`): tokens of a sequence.
        short (as `selected`, *optional*): documents to mix in, such as the data of the earlier training.
        short_share (`float`, *optional*, defaults to `0.3`): their share of all tokens, in `0..1` without the ends.
        special_tokens (`str`, *optional*, defaults to `"eos"`):
            What stands around each document: `"eos"` after it, as most pretraining code does, `"bos"` before it,
            `"bos+eos"` or `"none"`. Pieces of a cut document have them only at its ends.
        format (`str`, *optional*, defaults to `"parquet"`):
            `"parquet"`, or `"nanotron"` (datatrove's token files, whose windows are `length + 1` tokens) or
            `"megatron"` (`.bin` and `.idx`).
        boundaries (`str`, *optional*, defaults to `"position_ids"`):
            Columns of parquet beside `input_ids`. `"position_ids"`: `position_ids`, which restart at each document,
            `labels`, -100 at the first token of each document and in the padding, and `seq_lengths`; all sequences are
            padded to `length`. `"seq_lengths"`: lengths of the documents, as TRL takes them, without padding.
            `"cu_seqlens"`: where they begin and end, as FlashAttention takes them, without padding.
        text_column (`str`, *optional*): column of the text; defaults to that of the scoring run, else `"text"`.
        input_ids_column (`str`, *optional*):
            Column of token ids that `tokenizer` made. Ids of which the data say that this tokenizer made them (by
            `ladm prepare`) are taken without being asked; otherwise the text is tokenised.
        split, short_split (`str`, *optional*): of data with several splits.
        short_text_column (`str`, *optional*, defaults to `"text"`): column of the text of `short`.
        short_name (`str`, *optional*): configuration of a Hub data set.
        seed (`int`, *optional*, defaults to `0`): of the order in which the data are read and sequences written.
        buffer_tokens (`int`, *optional*): see [`pack_sequences`].
        num_proc (`int`, *optional*, defaults to `1`): processes that tokenise; one uses the tokenizer's own threads.
        overwrite (`bool`, *optional*, defaults to `False`): replace what was packed into `output` before.
        progress (`bool`, *optional*): `None` shows a bar on a terminal.

    Returns:
        [`PackRecord`], which is also in `output/pack.json`.

    Raises:
        ConfigError: an option is out of range, or the tokenizer has no such special token.
        ColumnError: there is no column of documents.
        InputError: the data cannot be read, hold no document, or `output` holds something else.
        CalculatorError: there is no such tokenizer.
        MissingExtraError: datatrove is not installed, which writes token files.
    """
    options = {
        "tokenizer": None, "tokenizer_revision": tokenizer_revision, "length": length,
        "short": _shown(short, "SHORT"), "short_share": short_share if short is not None else 0.3,
        "special_tokens": special_tokens, "format": format, "boundaries": boundaries, "text_column": text_column,
        "input_ids_column": input_ids_column, "split": split, "short_text_column": short_text_column,
        "short_name": short_name, "short_split": short_split, "seed": seed, "buffer_tokens": buffer_tokens,
    }  # fmt: skip
    buffer_tokens = default_buffer(length) if buffer_tokens is None else buffer_tokens
    _check_options(length, short_share, format, boundaries, special_tokens, seed, num_proc)
    if short is None and short_share != 0.3:
        raise ConfigError(f"short_share={short_share}, but there are no short documents: give them by --short (short=)")
    check_installed(format)
    storage = result_at(output, "pack")
    check_free(storage, overwrite=overwrite)
    target = find_tokenizer(tokenizer, revision=tokenizer_revision, special_tokens=special_tokens)
    options["tokenizer"] = target.name
    data, run, selection = _opened(selected)
    known = run.identity.get("text_column") if run else None
    documents = Documents(
        open_source(data, split=split), target, text_column or known or "text", input_ids_column, (seed, 0), num_proc
    )
    extra = None
    if short is not None:
        source = open_source(_opened(short)[0], split=short_split, name=short_name)
        extra = Documents(
            source, target, short_text_column, None, (seed, 1), num_proc, "--short-text-column (short_text_column=)"
        )
        extra.open()
    estimate = documents.open() / (1 - short_share if extra else 1)
    stored = window(format, length)
    mixture = Mixture(documents, extra, short_share, stored)
    sequences = _Counted(pack_sequences(mixture, stored, buffer_tokens=buffer_tokens, seed=seed), estimate, progress)
    with new_result(storage, ".pack-") as result:
        split = "train" if format == "parquet" else None
        result.add("data", lambda folder: _written(sequences, folder, target, length, format, boundaries), split)
        if not sequences.count:
            raise InputError(f"{documents.source.name} holds no document to pack{_reasons(documents)}")
        record = PackRecord(
            format=format, boundaries=boundaries if format == "parquet" else None, length=length,
            special_tokens=special_tokens, tokenizer=target.to_dict(), seed=seed, buffer_tokens=buffer_tokens,
            sequences=sequences.count, padding=sequences.count * stored - sequences.tokens,
            selected=_taken(documents, mixture.selected_counts, True),
            short=_taken(extra, mixture.short_counts, mixture.used_up) if extra else None,
            short_share=short_share if extra else None, selection=selection, run=run.facts() if run else None,
            command=command_line("pack", pack, [_shown(selected, "SELECTED"), _shown(output, "")], options),
            version=__version__, folder=storage.name,
        )  # fmt: skip
        result.finish(PACK_FILE, record.to_json())
    for note in record.notes():
        logger.warning("%s", note)
    return record


class _Counted:
    """Sequences as they pass, counted, with a bar of their tokens."""

    def __init__(self, sequences: Iterable[PackedSequence], estimate: float, progress: bool | None) -> None:
        self._sequences, self._estimate, self._progress = sequences, estimate, progress
        self.count = self.tokens = 0

    def __iter__(self) -> Iterator[PackedSequence]:
        disable = None if self._progress is None else not self._progress
        total = int(self._estimate)
        with tqdm(total=total, unit="tok", unit_scale=True, desc="LADM pack", disable=disable) as bar:
            for sequence in self._sequences:
                self.count += 1
                self.tokens += len(sequence.input_ids)
                # the total was estimated from the bytes of the text
                bar.total = max(total, self.tokens)
                bar.update(len(sequence.input_ids))
                yield sequence


def _check_options(
    length: int, short_share: float, format: str, boundaries: str, special_tokens: str, seed: int, num_proc: int
) -> None:
    for name, value, allowed in (("format", format, Format), ("boundaries", boundaries, Boundaries)):
        if value not in get_args(allowed):
            raise ConfigError(f"{name} must be one of {', '.join(get_args(allowed))}, got {value!r}")
    if length < 2:
        raise ConfigError(f"length must be at least 2 tokens, got {length}")
    if not 0 < short_share < 1:
        raise ConfigError(f"short_share must be between 0 and 1, got {short_share}")
    if seed < 0 or num_proc < 1:
        raise ConfigError(f"seed must not be negative nor num_proc below 1, got {seed} and {num_proc}")
    if format == "megatron" and "eos" not in special_tokens:
        raise ConfigError(
            f"Megatron finds the end of a document by its EOS token: special_tokens={special_tokens!r} would lose it, "
            "choose --special-tokens eos or bos+eos"
        )


def check_free(storage: Storage, *, overwrite: bool) -> None:
    """Refuses a place that packed data must not be written to.

    Raises:
        InputError: it holds packed data, which `overwrite` does not allow to replace, or other data.
    """
    if check_place(storage, PACK_FILE, ("data",), "`ladm pack`") is not None and not overwrite:
        raise InputError(
            f"{storage.name} holds packed data: choose another folder, or replace them with --overwrite "
            "(overwrite=True)"
        )


def _opened(data: Any) -> tuple[Any, RunRecord | None, dict[str, Any] | None]:
    """What is to be read, the record of its run, and what its selection was."""
    if isinstance(data, Selection):
        return data.selected, *_chosen(data)
    if read_record(data, PACK_FILE) is not None:
        raise InputError(f"{_shown(data, '')} is packed already: give the documents that it was made from")
    if read_record(data, SELECTION_FILE) is not None:
        return place_in(data, "data"), *_chosen(Selection.load(data))
    return data, run_of(data), None


def _chosen(selection: Selection) -> tuple[RunRecord | None, dict[str, Any]]:
    names = ("strategy", "by", "tokens", "budget_tokens", "selected_tokens", "percent")
    facts = {name: getattr(selection, name) for name in names}
    if selection.options["score"] != SCORE:
        facts["ranked by"] = score_words(selection.options["score"])
    if keep := selection.options.get("keep"):
        facts["kept within"] = ", ".join(range_words(name, bounds) for name, bounds in keep.items())
    facts["command"] = select_command(selection) or f"# in Python, of the scored rows: {select_call(selection)}"
    return selection.run, {name: value for name, value in facts.items() if value is not None}


def _written(
    sequences: Iterable[PackedSequence],
    folder: Path,
    tokenizer: TargetTokenizer,
    length: int,
    format: Format,
    boundaries: Boundaries,
) -> Iterator[Path]:
    if format == "parquet":
        return write_parquet(sequences, folder, tokenizer, length, boundaries)
    write = write_nanotron if format == "nanotron" else write_megatron
    return write(sequences, folder, tokenizer, length)


def _taken(documents: Documents, counts: Counts, used_up: bool) -> PackedSource:
    return PackedSource(
        name=documents.source.name, column=documents.column, documents=counts.documents, tokens=counts.tokens,
        cut_documents=counts.cut, left_out=dict(sorted(documents.left_out.items())), hub=documents.source.hub,
        used_up=used_up,
    )  # fmt: skip


def _reasons(documents: Documents) -> str:
    found = ", ".join(f"{number:,} {reason}" for reason, number in sorted(documents.left_out.items()))
    return f": {found}" if found else ""


def _shown(data: Any, otherwise: str) -> str | None:
    """The path, URL or Hub id of some data, without credentials, a word for those in memory."""
    if isinstance(data, (str, os.PathLike)):
        return without_credentials(os.fspath(data))
    return None if data is None else otherwise
