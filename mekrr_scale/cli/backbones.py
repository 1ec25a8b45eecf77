"""``backbones``: which there are, and their parts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from mekrr_scale.backbones import available_backbones
from mekrr_scale.cli.console import out
from mekrr_scale.cli.options import BACKBONES, EXIT_CODES, backbone_spec, commands

app = commands()


@app.command(epilog=EXIT_CODES)
def backbones(
    blocks: Annotated[
        str | None, typer.Option(help="name the blocks of this one, with their parameters", autocompletion=BACKBONES)
    ] = None,
    weights: Annotated[str | None, typer.Option(help="version of its pretrained weights")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="file of its weights")] = None,
) -> None:
    """List backbones: which can be used here, and what the others need.

    Examples:

        mekrr-scale backbones

        mekrr-scale backbones --blocks sevennet
    """
    if blocks is not None:
        from mekrr_scale.backbones import new_backbone
        from mekrr_scale.report import block_table

        out.print(block_table(new_backbone(backbone_spec(blocks, weights, checkpoint))))
        return
    for name, usable, note in available_backbones():
        mark = "[green]yes[/]" if usable else "[red]no[/] "
        out.print(f"{mark}  [bold]{name}[/]  {escape(note)}", highlight=False, markup=True, soft_wrap=True)
