"""Write the page of the command line from the program itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

INTRODUCTION = """\
# Command line

This page is generated from the program: `tlfeatures COMMAND --help` prints the same. The
[user guide](guide.md#command-line) has examples, and the counterpart of each command in Python.
"""


def setup(app: Sphinx) -> dict[str, bool]:
    """Write ``commands.md`` before the pages are read."""
    app.connect("config-inited", write_page)
    return {"parallel_read_safe": True}


def write_page(app: Sphinx, config: Any) -> None:
    """Write the page if its text has changed."""
    import typer

    from tlfeatures.cli._app import app as commands

    program = typer.main.get_command(commands)
    text = "\n".join([INTRODUCTION, clean(program.help), *describe(program, "tlfeatures", level=2)]) + "\n"
    path = Path(app.srcdir, "commands.md")
    if not path.is_file() or path.read_text("utf-8") != text:
        path.write_text(text, "utf-8")


def describe(group: Any, prefix: str, level: int) -> list[str]:
    """Describe the commands of a group in Markdown."""
    lines = []
    for name, command in group.commands.items():
        if command.hidden:
            continue
        title = f"{prefix} {name}"
        lines += ["", f"({title.replace(' ', '-')})=", f"{'#' * level} {title}", "", clean(command.help), ""]
        if hasattr(command, "commands"):
            lines += describe(command, title, level + 1)
        else:
            lines += ["```text", show_usage(command, title), "```", *list_parameters(command)]
    return lines


def show_usage(command: Any, title: str) -> str:
    """Return the line with the arguments of a command."""
    words = []
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            metavar = parameter.metavar or parameter.name.upper()
            words.append(metavar if parameter.required else f"[{metavar.strip('[]')}]")
    return " ".join([title, *words, "[OPTIONS]"])


def list_parameters(command: Any) -> list[str]:
    """List arguments and options in tables, one for each heading of the help text."""
    panels: dict[str, list[str]] = {}
    for parameter in command.params:
        if getattr(parameter, "hidden", False) or "--help" in parameter.opts:
            continue
        is_argument = parameter.param_type_name == "argument"
        panel = "Arguments" if is_argument else getattr(parameter, "rich_help_panel", None) or "Options"
        metavar = parameter.metavar or ""
        if is_argument:
            names = f"`{metavar or parameter.name.upper()}`"
        else:
            names = ", ".join(f"`{option}`" for option in sorted(parameter.opts, key=len, reverse=True))
            names += f" {metavar}" if metavar else ""
        cells = (names, show_default(parameter), clean(parameter.help).replace("\n", " "))
        panels.setdefault(panel, []).append(
            "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"
        )
    lines = []
    for panel, rows in panels.items():
        first = "argument" if panel == "Arguments" else "option"
        lines += ["", f"**{panel}**", "", f"| {first} | default | meaning |", "|---|---|---|", *rows]
    return lines


def show_default(parameter: Any) -> str:
    """Return the default of an option, or an empty text if it has none that says something."""
    if parameter.required:
        return "required"
    default = getattr(parameter, "show_default", None)
    if not isinstance(default, str):
        default = parameter.default
    return "" if default is None or default is False or default in ("", (), []) else f"`{default}`"


def clean(text: str | None) -> str:
    """Return a help text without indentation and line breaks of the source."""
    return "\n\n".join(" ".join(part.split()) for part in (text or "").replace("\b", "").split("\n\n"))
