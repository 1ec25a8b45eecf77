"""``info``: what a model's file holds, and whether it is whole."""

from __future__ import annotations

from typing import Annotated

import typer

from mekrr_scale.cli.console import out, say
from mekrr_scale.cli.options import EXIT_CODES, ModelFile, commands
from mekrr_scale.errors import MekrrError

app = commands()


@app.command(epilog=EXIT_CODES)
def info(
    model: ModelFile,
    load: Annotated[bool, typer.Option(help="load its networks too, and compare their hashes")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="print it as JSON")] = False,
) -> None:
    """What a model's file holds, what it was trained on, and whether it is whole and predicts here.

    Ends with an error where a network that it needs is missing or another one.

    Example:

        mekrr-scale info model.mekrr
    """
    import json

    from rich.table import Table

    from mekrr_scale.models import Model, Potential, summary

    found = Model.load(model)
    lines = summary(found)
    lacks: MekrrError | None = None
    if load and found.spec:
        try:
            Potential(found)
        except MekrrError as error:
            lacks = error
    right = load and found.spec and lacks is None
    lines["whole"] = f"yes: its checksum fits{', and its networks are the right ones' if right else ''}"
    if as_json:
        print(json.dumps({**lines, "lacks": "" if lacks is None else str(lacks)}, indent=2))
    else:
        table = Table(show_header=False, box=None)
        for key, text in lines.items():
            table.add_row(key, text)
        out.print(table)
    if lacks is not None:
        raise lacks
    if not as_json:
        say(f"{model}: {lines['cross-validated']}")
