"""`ladm pack`."""

from __future__ import annotations

from typing import Annotated

import typer

from ladm_hf.cli.options import (
    OUTPUT,
    OptionsFile,
    PackBoundaries,
    PackFormat,
    Seed,
    SpecialTokens,
    Split,
    save_options,
    shown_place,
)


def pack(
    context: typer.Context,
    selected: Annotated[
        str,
        typer.Argument(
            help="Documents to train on: the folder or URL of `ladm select` or `ladm score`, parquet or JSON lines "
            "(path, glob or URL), a save_to_disk folder, or a Hub id."
        ),
    ],
    output: Annotated[str, typer.Argument(help=f"{OUTPUT} for the packed data.")],
    tokenizer: Annotated[
        str,
        typer.Option(help="Tokenizer of the model to train: its Hub id or folder. No weights are downloaded."),
    ],
    tokenizer_revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit of the tokenizer.", show_default="its main branch")
    ] = None,
    length: Annotated[int, typer.Option("--length", "-l", help="Tokens of a sequence.")] = 32768,
    short: Annotated[
        str | None, typer.Option(help="Short documents to mix in: as SELECTED.", show_default="none")
    ] = None,
    short_share: Annotated[float, typer.Option(help="Share of the tokens that is of the short documents.")] = 0.3,
    special_tokens: Annotated[
        SpecialTokens, typer.Option(help="What stands around each document, not around each piece of a cut one.")
    ] = "eos",
    format: Annotated[
        PackFormat,
        typer.Option(
            "--format",
            "-f",
            help="parquet for transformers and TRL, or token files of nanotron (datatrove) or Megatron.",
        ),
    ] = "parquet",
    boundaries: Annotated[
        PackBoundaries,
        typer.Option(
            help="How parquet tells documents apart. position_ids: with labels and seq_lengths, padded, for "
            "transformers and TRL; seq_lengths: for TRL, smaller; cu_seqlens: for FlashAttention."
        ),
    ] = "position_ids",
    text_column: Annotated[
        str | None,
        typer.Option(
            help="Column of the text; a dot reaches into a struct.", show_default="that of the run, else text"
        ),
    ] = None,
    input_ids_column: Annotated[
        str | None,
        typer.Option(
            help="Column of token ids that the tokenizer made, taken instead of the text.",
            show_default="input_ids, if the data say that this tokenizer made them",
        ),
    ] = None,
    split: Split = None,
    short_text_column: Annotated[str, typer.Option(help="Column of the text of the short documents.")] = "text",
    short_name: Annotated[
        str | None, typer.Option(help="Configuration of a Hub dataset of short documents.", show_default="its own")
    ] = None,
    short_split: Annotated[
        str | None, typer.Option(help="Split of the short documents.", show_default="the only one")
    ] = None,
    seed: Seed = 0,
    buffer_tokens: Annotated[
        int | None,
        typer.Option(
            help="Tokens held in memory while packing, 4 bytes each; more give less padding.",
            show_default="33.5 million, or 64 sequences",
        ),
    ] = None,
    num_proc: Annotated[
        int, typer.Option(min=1, help="Processes that tokenise; one uses the tokenizer's own threads.")
    ] = 1,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the packed data in OUTPUT.")] = False,
    options: OptionsFile = None,
) -> None:
    """Pack documents into sequences of one length for a trainer. Writes data/ and pack.json."""
    from ladm_hf.packing.pack import pack as pack_documents

    record = pack_documents(
        selected,
        output,
        tokenizer=tokenizer,
        tokenizer_revision=tokenizer_revision,
        length=length,
        short=short,
        short_share=short_share,
        special_tokens=special_tokens,
        format=format,
        boundaries=boundaries,
        text_column=text_column,
        input_ids_column=input_ids_column,
        split=split,
        short_text_column=short_text_column,
        short_name=short_name,
        short_split=short_split,
        seed=seed,
        buffer_tokens=buffer_tokens,
        num_proc=num_proc,
        overwrite=overwrite,
    )
    save_options(context, output)
    print(record.summary())
    print(f"\nWritten to {shown_place(output)}: data/ ({record.format}), pack.json")
