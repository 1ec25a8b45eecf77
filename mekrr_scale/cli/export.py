"""``export``: a model as a file of another program."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from mekrr_scale.cli.console import say
from mekrr_scale.cli.options import EXIT_CODES, ModelFile, Overwrite, commands
from mekrr_scale.outputs import EXPORTED, check_outputs

app = commands()


@app.command(epilog=EXIT_CODES)
def export(
    model: ModelFile,
    output: Annotated[Path, typer.Option("--output", "-o", help="file to write: .pt")],
    format: Annotated[Literal["metatomic"], typer.Option(help="whose file: metatomic's")] = "metatomic",
    dtype: Annotated[
        Literal["float32", "float64"], typer.Option(help="precision of the network; energies are float64 in both")
    ] = "float64",
    overwrite: Overwrite = False,
) -> None:
    """Write a model as one file for metatomic's engines: ASE, LAMMPS, i-PI, torch-sim and others.

    Example:

        mekrr-scale export model.mekrr --format metatomic -o model.pt
    """
    check_outputs([(output, EXPORTED, "--output")], [model], overwrite)
    from mekrr_scale.engines import metatomic

    metatomic.export(model, output, dtype, overwrite)
    say(f"{output}: a model of {format}")
