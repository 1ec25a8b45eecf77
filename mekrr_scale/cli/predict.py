"""``predict``: energies, forces and stress of structures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mekrr_scale.cli.console import progress_bar, say
from mekrr_scale.cli.frames import frame_count, write_frames
from mekrr_scale.cli.options import EXIT_CODES, Device, Format, ModelFile, check_folders, commands, device_of

app = commands()


@app.command(epilog=EXIT_CODES)
def predict(
    model: ModelFile,
    structures: Annotated[Path, typer.Argument(help="structures to predict")],
    output: Annotated[Path, typer.Option("--output", "-o", help="extended xyz file to write")],
    forces: Annotated[bool, typer.Option(help="forces and stress too")] = True,
    uncertainty: Annotated[bool, typer.Option("--uncertainty", help="and how sure they are")] = False,
    format: Format = None,
    device: Device = "cpu",
) -> None:
    """Predict energies, per-atom energies, forces and stress; writes extended xyz.

    Example:

        mekrr-scale predict model.mekrr candidates.xyz -o predicted.xyz
    """
    from mekrr_scale.models import Model, Potential
    from mekrr_scale.pipeline import predict
    from mekrr_scale.structures import read_structures

    potential = Potential(Model.load(model), device=device_of(device))
    check_folders(output)
    with progress_bar() as bar:
        bar.stage("predict", frame_count(structures, format))
        frames = predict(potential, read_structures(structures, format), forces, bar, uncertainty)
        count = write_frames(output, frames)
    say(f"{output}: {count} structures")
