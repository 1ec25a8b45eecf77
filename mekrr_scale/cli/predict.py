"""``predict``: energies, forces and stress of structures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mekrr_scale.cli.console import progress_bar, say
from mekrr_scale.cli.frames import frame_count, write_frames
from mekrr_scale.cli.options import (
    CHOICE,
    D3,
    EXIT_CODES,
    Compile,
    Device,
    Format,
    MaxMemory,
    ModelFile,
    Overwrite,
    Workers,
    commands,
    device_of,
)
from mekrr_scale.errors import MekrrError
from mekrr_scale.outputs import FRAMES, check_outputs

app = commands()

_NAMED = 3  # structures without results that are named


@app.command(epilog=EXIT_CODES)
def predict(
    model: ModelFile,
    structures: Annotated[list[Path], typer.Argument(help=f"structures to predict{CHOICE}")],
    output: Annotated[Path, typer.Option("--output", "-o", help="file to write: .xyz (.gz, .xz, .bz2), .traj or .db")],
    forces: Annotated[bool, typer.Option(help="forces and stress too")] = True,
    uncertainty: Annotated[bool, typer.Option("--uncertainty", help="and how sure they are")] = False,
    format: Format = None,
    compile: Compile = False,
    device: Device = "cpu",
    max_memory: MaxMemory = None,
    d3: D3 = None,
    workers: Workers = None,
    overwrite: Overwrite = False,
) -> None:
    """Predict energies, per-atom energies, forces and stress; writes extended xyz.

    What structures carry (constraints, tags, arrays, info) stays with them. Those that cannot be predicted (an unknown
    element, atoms on top of each other) are written without results and named at the end, with the exit code of the
    first.

    Examples:

        mekrr-scale predict model.mekrr candidates.xyz -o predicted.xyz

        mekrr-scale predict model.mekrr a.xyz run.traj@::10 -o predicted.xyz
    """
    from mekrr_scale.models import Model, Potential
    from mekrr_scale.pipeline import predict

    check_outputs([(output, FRAMES, "--output")], [model, *structures], overwrite)
    failed: list[MekrrError] = []
    potential = Potential(
        Model.load(model), device=device_of(device), compile=compile, max_memory=max_memory, dispersion=d3
    )
    with progress_bar() as bar:
        bar.stage("predict", frame_count(structures, format))
        frames = predict(potential, structures, forces, bar, uncertainty, format, failed, workers=workers)
        count = write_frames(output, frames)
    say(f"{output}: {count} structures")
    if failed:
        named = "; ".join(str(error) for error in failed[:_NAMED]) + ("; ..." if len(failed) > _NAMED else "")
        raise type(failed[0])(
            f"{len(failed)} of {count} structures could not be predicted and have no results in {output}: {named}"
        )
