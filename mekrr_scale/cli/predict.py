"""``predict``: energies, forces and stress of structures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mekrr_scale.cli.console import progress_bar, say
from mekrr_scale.cli.frames import frame_count, write_frames
from mekrr_scale.cli.options import EXIT_CODES, Device, Format, ModelFile, Overwrite, commands, device_of
from mekrr_scale.outputs import FRAMES, check_outputs

app = commands()


@app.command(epilog=EXIT_CODES)
def predict(
    model: ModelFile,
    structures: Annotated[Path, typer.Argument(help="structures to predict")],
    output: Annotated[Path, typer.Option("--output", "-o", help="file to write: .xyz (.gz, .xz, .bz2), .traj or .db")],
    forces: Annotated[bool, typer.Option(help="forces and stress too")] = True,
    uncertainty: Annotated[bool, typer.Option("--uncertainty", help="and how sure they are")] = False,
    format: Format = None,
    device: Device = "cpu",
    overwrite: Overwrite = False,
) -> None:
    """Predict energies, per-atom energies, forces and stress; writes extended xyz.

    Example:

        mekrr-scale predict model.mekrr candidates.xyz -o predicted.xyz
    """
    from mekrr_scale.models import Model, Potential
    from mekrr_scale.pipeline import predict
    from mekrr_scale.structures import read_structures

    check_outputs([(output, FRAMES, "--output")], [model, structures], overwrite)
    potential = Potential(Model.load(model), device=device_of(device))
    with progress_bar() as bar:
        bar.stage("predict", frame_count(structures, format))
        frames = predict(potential, read_structures(structures, format), forces, bar, uncertainty)
        count = write_frames(output, frames)
    say(f"{output}: {count} structures")
