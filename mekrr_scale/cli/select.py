"""``select``: what to compute next."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from mekrr_scale.cli.console import draw, progress_bar, say
from mekrr_scale.cli.frames import read_frames, write_frames
from mekrr_scale.cli.options import (
    CHOICE,
    EXIT_CODES,
    Device,
    Format,
    ModelFile,
    Overwrite,
    commands,
    device_of,
    one_of,
)
from mekrr_scale.outputs import FIGURE, FRAMES, check_outputs, figure_of
from mekrr_scale.simulation import SelectionMethod

if TYPE_CHECKING:
    from ase import Atoms

    from mekrr_scale.simulation import Selection

app = commands()


@app.command(epilog=EXIT_CODES)
def select(
    model: ModelFile,
    structures: Annotated[
        Path, typer.Argument(help=f"unlabelled structures to choose from, e.g. a trajectory{CHOICE}")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="file for the chosen ones: .xyz (.gz, .xz, .bz2), .traj or .db")
    ],
    count: Annotated[int, typer.Option("--count", "-n", help="how many to choose")] = 50,
    method: Annotated[
        str,
        typer.Option(
            help="greedy (unsure and diverse), variance (unsure), random",
            autocompletion=one_of(lambda: get_args(SelectionMethod)),
        ),
    ] = "greedy",
    plot: Annotated[Path | None, typer.Option(help="figure of the chosen ones among all: maps, uncertainties")] = None,
    format: Format = None,
    device: Device = "cpu",
    seed: Annotated[int, typer.Option(help="random seed of method random")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Choose the structures that a model would learn most from: the next batch for DFT.

    Example:

        mekrr-scale select model.mekrr run.xyz -n 40 -o next.xyz --plot next.png
    """
    from mekrr_scale.models import Model, Potential
    from mekrr_scale.report import selection_plot
    from mekrr_scale.simulation import select

    plot = figure_of(plot)
    check_outputs([(output, FRAMES, "--output"), (plot, FIGURE, "--plot")], [model, structures], overwrite)
    potential = Potential(Model.load(model), device=device_of(device))
    candidates = read_frames([structures], format)
    with progress_bar() as bar:
        found = select(potential, candidates, count, method, seed, bar)  # type: ignore[arg-type]
    write_frames(output, _chosen(candidates, found))
    first, last = 1e3 * float(found.remaining[0]), 1e3 * float(found.remaining[-1])
    say(
        f"{output}: {count} of {len(candidates)} structures; uncertainty {first:.3g} meV/atom at the first, "
        f"{last:.3g} meV/atom left at the last"
    )
    draw(plot, lambda path: selection_plot(path, found, overwrite=True))


def _chosen(candidates: list[Atoms], found: Selection) -> list[Atoms]:
    """Copies without any results, with how unsure the model was of them."""
    from mekrr_scale.structures import without_results

    chosen = []
    for index, before, remaining in zip(
        found.indices, found.uncertainty.tolist(), found.remaining.tolist(), strict=True
    ):
        atoms = without_results(candidates[index])  # a model's own are no labels for the next one
        atoms.info |= {"index": index, "uncertainty_per_atom": before, "remaining_uncertainty_per_atom": remaining}
        chosen.append(atoms)
    return chosen
