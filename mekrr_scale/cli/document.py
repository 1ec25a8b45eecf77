"""The page of all options, from the commands themselves: ``python -m mekrr_scale.cli.document``.

The documentation makes it anew whenever it is built (mkdocs.yml names this file among its hooks).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

import typer

from mekrr_scale.cli.app import PLACES, app, command

_HEAD = """# All options

Every command with its arguments, options and defaults, as `--help` shows them. What the commands are for, and their
[exit codes](cli.md#exit-codes), stand in [command line](cli.md); defaults of a fit's plan beside its keys in
[configuration](configuration.md). This page is made from the commands (`python -m mekrr_scale.cli.document`).
"""
_COMPLETION = ("--install-completion", "--show-completion")


def document() -> str:
    """The page as Markdown."""
    return "\n".join([_HEAD, *_pages()]).rstrip() + "\n"


def on_page_markdown(markdown: str, page: object, **_: object) -> str:
    """What mkdocs shows for a page; called by it."""
    return document() if getattr(page, "title", None) == "All options" else markdown


def _pages() -> Iterator[str]:
    yield "## Before the command\n"
    yield from _rows(typer.main.get_command(app))
    for name in PLACES:
        found = command(name)
        inner = getattr(found, "commands", {})
        yield f"## `{name}`\n\n{PLACES[name].help}\n"
        if not inner:
            yield from _rows(found)
        for each, made in inner.items():
            yield f"### `{name} {each}`\n\n{_cell((made.help or '').split(chr(10) * 2)[0])}\n"
            yield from _rows(made)


def _rows(found: Any) -> Iterator[str]:
    """A table of one command's arguments and options."""
    yield "| option | default | |\n|---|---|---|"
    for each in found.params:
        if not set(each.opts) & {"--help", *_COMPLETION}:
            names = (*each.opts, *each.secondary_opts) if each.opts[0].startswith("-") else (each.opts[0].upper(),)
            shown = ", ".join(f"`{name}`" for name in names)
            yield f"| {shown} | {_default(each)} | {_cell(each.help)}{_choices(each)} |"
    yield ""


def _choices(each: Any) -> str:
    """The values that an option can have, where they are few. Typer keeps them in different places by version."""
    if not hasattr(each, "type_descriptor"):
        values = getattr(each.type, "choices", None) or ()
    else:
        given = each.type_descriptor.annotation
        values = [
            value for part in (given, *get_args(given)) if get_origin(part) is Literal for value in get_args(part)
        ]
    return f" (one of {', '.join(f'`{value}`' for value in values)})" if values else ""


def _default(each: Any) -> str:
    """What is taken without it."""
    value = each.default
    if each.required:
        return "required"
    if isinstance(value, bool):
        return f"`{(each.opts if value else each.secondary_opts)[0]}`" if each.secondary_opts else ""
    return "" if value is None or value in ((), []) or callable(value) else f"`{value}`"


def _cell(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


if __name__ == "__main__":
    print(document(), end="")
