"""``export``: a model as a file of another program."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from mekrr_scale.cli.console import say
from mekrr_scale.cli.options import EXIT_CODES, ModelFile, Overwrite, commands
from mekrr_scale.errors import ConfigError
from mekrr_scale.outputs import EXPORTED, MLIAP, check_outputs

app = commands()


@app.command(epilog=EXIT_CODES)
def export(
    model: ModelFile,
    output: Annotated[Path, typer.Option("--output", "-o", help="file to write: .pt, of mliap: .mliap")],
    format: Annotated[
        Literal["metatomic", "mliap"], typer.Option(help="whose file: metatomic's, or that of LAMMPS' ML-IAP")
    ] = "metatomic",
    dtype: Annotated[
        Literal["float32", "float64"], typer.Option(help="precision of the network; energies are float64 in both")
    ] = "float64",
    compile: Annotated[
        bool, typer.Option("--compile", help="compile the network where LAMMPS runs (mliap alone)")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Write a model as one file for metatomic's engines: ASE, LAMMPS, i-PI and others; or for LAMMPS' ML-IAP.

    The file of ML-IAP names the model by its place; the lines of LAMMPS' input that load it are printed.

    Examples:

        mekrr-scale export model.mekrr --format metatomic -o model.pt

        mekrr-scale export model.mekrr --format mliap -o model.mliap
    """
    kind = MLIAP if format == "mliap" else EXPORTED
    check_outputs([(output, kind, "--output")], [model], overwrite)
    if format == "mliap":
        from mekrr_scale.engines import lammps

        made = lammps.MliapModel(model, dtype=dtype, compile=compile)
        made.save(output, overwrite)
        say(made.commands(output))
        return
    if compile:
        raise ConfigError(
            "metatomic's files hold the network as TorchScript, which --compile does not change; leave it out"
        )
    from mekrr_scale.engines import metatomic

    metatomic.export(model, output, dtype, overwrite)
    say(f"{output}: a model of {format}")
