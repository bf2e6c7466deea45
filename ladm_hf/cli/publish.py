"""`ladm publish`."""

from __future__ import annotations

from typing import Annotated

import typer

from ladm_hf.cli.options import OptionsFile


def publish(
    output: Annotated[
        str,
        typer.Argument(help="Folder or URL of `ladm select`, `ladm score` or `ladm pack`, or any folder of parquet."),
    ],
    repo_id: Annotated[str, typer.Argument(help="user/name of the dataset on the Hub.")],
    public: Annotated[bool, typer.Option("--public", help="Visible to everybody; private otherwise.")] = False,
    pr: Annotated[bool, typer.Option("--pr", help="Open a pull request instead of committing to main.")] = False,
    revision: Annotated[
        str | None, typer.Option(help="Branch to commit to, created if necessary.", show_default="main")
    ] = None,
    tag: Annotated[str | None, typer.Option(help="Tag to put on the commit, e.g. v1.0.", show_default="none")] = None,
    config_name: Annotated[str, typer.Option(help="Configuration of the rows; others are kept.")] = "default",
    message: Annotated[
        str | None,
        typer.Option("--message", "-m", help="First line of the commit.", show_default="Publish N rows with LADM"),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            help="Hub id of the scored dataset; its language and licence go into the card.",
            show_default="the one that was scored",
        ),
    ] = None,
    language: Annotated[
        list[str] | None,
        typer.Option(help="Language code of the text; may be repeated.", show_default="the source's"),
    ] = None,
    licence: Annotated[
        str | None,
        typer.Option("--license", help="Licence of the text, e.g. cc-by-4.0.", show_default="the source's"),
    ] = None,
    pretty_name: Annotated[str | None, typer.Option(help="Title of the card.", show_default="REPO_ID")] = None,
    figures: Annotated[bool, typer.Option(help="Draw a selection's figures for the card.")] = True,
    read_back: Annotated[bool, typer.Option(help="Check hashes, visibility and load_dataset afterwards.")] = True,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show files, sizes and changes to the card; publish nothing.")
    ] = False,
    options: OptionsFile = None,
) -> None:
    """Publish data, card and figures in one commit, and read it back. Run it again to finish after a failure."""
    from ladm_hf.publishing.publish import publish as publish_folder

    commit = publish_folder(
        output,
        repo_id,
        private=not public,
        revision=revision,
        create_pr=pr,
        tag=tag,
        config_name=config_name,
        commit_message=message,
        source_dataset=source,
        language=language or None,
        license=licence,
        pretty_name=pretty_name,
        figures=None if figures else (),
        read_back=read_back,
        dry_run=dry_run,
    )
    if commit is not None:
        print(commit.pr_url or commit.commit_url)
