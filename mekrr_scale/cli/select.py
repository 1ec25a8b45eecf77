"""``select``: what to compute next."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from mekrr_scale.cli.console import progress_bar, say
from mekrr_scale.cli.frames import read_frames
from mekrr_scale.cli.options import (
    EXIT_CODES,
    Device,
    Format,
    ModelFile,
    check_folders,
    commands,
    device_of,
    one_of,
)
from mekrr_scale.simulation import SelectionMethod

if TYPE_CHECKING:
    from ase import Atoms

    from mekrr_scale.simulation import Selection

app = commands()


@app.command(epilog=EXIT_CODES)
def select(
    model: ModelFile,
    structures: Annotated[Path, typer.Argument(help="unlabelled structures to choose from, e.g. a trajectory")],
    output: Annotated[Path, typer.Option("--output", "-o", help="extended xyz file for the chosen ones")],
    count: Annotated[int, typer.Option("--count", "-n", help="how many to choose")] = 50,
    method: Annotated[
        str,
        typer.Option(
            help="greedy (unsure and diverse), variance (unsure), random",
            autocompletion=one_of(lambda: get_args(SelectionMethod)),
        ),
    ] = "greedy",
    format: Format = None,
    device: Device = "cpu",
    seed: Annotated[int, typer.Option(help="of method random")] = 0,
) -> None:
    """Choose the structures that a model would learn most from: the next batch for DFT.

    Example:

        mekrr-scale select model.mekrr run.xyz -n 40 -o next.xyz
    """
    import ase.io

    from mekrr_scale.models import Model, Potential
    from mekrr_scale.simulation import select

    check_folders(output)
    potential = Potential(Model.load(model), device=device_of(device))
    candidates = read_frames([structures], format)
    with progress_bar() as bar:
        found = select(potential, candidates, count, method, seed, bar)  # type: ignore[arg-type]
    ase.io.write(output, _chosen(candidates, found), format="extxyz")
    first, last = 1e3 * float(found.remaining[0]), 1e3 * float(found.remaining[-1])
    say(
        f"{output}: {count} of {len(candidates)} structures; uncertainty {first:.3g} meV/atom at the first, "
        f"{last:.3g} left at the last"
    )


def _chosen(candidates: list[Atoms], found: Selection) -> list[Atoms]:
    """Copies, with how unsure the model was of them."""
    chosen = []
    for index, before, remaining in zip(
        found.indices, found.uncertainty.tolist(), found.remaining.tolist(), strict=True
    ):
        atoms = candidates[index].copy()
        atoms.info |= {"index": index, "uncertainty_per_atom": before, "remaining_uncertainty_per_atom": remaining}
        chosen.append(atoms)
    return chosen
