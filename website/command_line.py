"""The reference of `ladm`, from the application itself: every command, argument and option with its default."""

from __future__ import annotations

import re
from typing import Any

import typer.main


def command_line_page() -> str:
    """All commands in the order of `ladm --help`, as Markdown."""
    from ladm_hf.cli.app import app

    group: Any = typer.main.get_command(app)
    context = typer.Context(group, info_name="ladm")
    commands = {name: group.get_command(context, name) for name in group.list_commands(context)}
    lines = ["# Command line", "", _prose(group.help), "", "| command | what it does |", "|---|---|"]
    lines += [f"| [`ladm {name}`](#{name}) | {_cell(_first(each.help))} |" for name, each in commands.items()]
    lines += ["", _prose(group.epilog), ""]
    for name, each in commands.items():
        lines += _command(name, each, typer.Context(each, info_name=name, parent=context))
    return "\n".join(lines)


def _command(name: str, command: Any, context: typer.Context) -> list[str]:
    """Usage, help, example and tables of one command."""
    # arguments as their help texts call them
    pieces = [piece.upper().strip("{}") for piece in command.collect_usage_pieces(context)]
    usage = " ".join(["ladm", name, *pieces])
    lines = [f"## ladm {name} {{ #{name} }}", "", "```text", usage, "```", "", _prose(command.help), ""]
    if command.epilog:
        label, _, example = command.epilog.partition(": ")
        lines += [f"{label}:", "", "```sh", example, "```", ""]
    records = {"argument": [], "option": []}
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None and "--help" not in parameter.opts:
            records[parameter.param_type_name].append(record)
    for kind, rows in records.items():
        if rows:
            lines += ['<div class="options" markdown>', "", f"| {kind} | |", "|---|---|"]
            lines += [f"| {_names(names)} | {_cell(text)} |" for names, text in rows]
            lines += ["", "</div>", ""]
    return lines


def _names(names: str) -> str:
    text = _plain(names).replace("&", "&amp;").replace("<", "&lt;").replace("|", "&#124;")
    return f"<code>{text}</code>"


def _plain(text: str) -> str:
    return " ".join(text.split())


def _first(text: str | None) -> str:
    return _plain((text or "").partition("\n\n")[0])


def _prose(text: str | None) -> str:
    """Paragraphs of a help text, with commands as code."""
    return "\n\n".join(_marked(_plain(paragraph)) for paragraph in (text or "").split("\n\n"))


def _cell(text: str) -> str:
    return _marked(_plain(text)).replace("|", "\\|")


def _marked(text: str) -> str:
    """Options in the running text as code, and nothing outside of code as HTML or emphasis."""
    parts = text.split("`")
    parts[::2] = [_escaped(part) for part in parts[::2]]
    # the default last, on a line of its own
    return re.sub(r" ?\[([^\[\]]*default:[^\[\]]*)\]$", r"<br><small>\1</small>", "`".join(parts))


def _escaped(text: str) -> str:
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_")
    return re.sub(r"(?<![\w-])(--[a-z][a-z-]+)", r"`\1`", text)
