"""``md`` and ``relax``: the commands that move atoms."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mekrr_scale.cli.console import progress_bar, say
from mekrr_scale.cli.frames import last_frame
from mekrr_scale.cli.options import EXIT_CODES, Device, ModelFile, Overwrite, commands, device_of
from mekrr_scale.errors import SimulationError
from mekrr_scale.outputs import STREAM, STRUCTURE, check_outputs
from mekrr_scale.simulation import Ensemble

if TYPE_CHECKING:
    from mekrr_scale.models import MekrrCalculator
    from mekrr_scale.simulation import Bounds

app = commands()

Structure = Annotated[Path, typer.Argument(help="file with the structure to start from; its last frame is taken")]
Dtype = Annotated[Literal["float32", "float64"], typer.Option(help="precision of the backbone")]
MaxForce = Annotated[float, typer.Option(help="stop above this force on an atom, eV/angstrom; 0 for no bound")]
MaxUncertainty = Annotated[float, typer.Option(help="stop above this uncertainty, meV/atom; 0 for no bound")]
MaxGrade = Annotated[float, typer.Option(help="stop above this extrapolation grade of an atom; 0 for no bound")]


@app.command(epilog=EXIT_CODES)
def md(
    model: ModelFile,
    structure: Structure,
    output: Annotated[Path, typer.Option("--output", "-o", help="trajectory to write, extended xyz")],
    ensemble: Annotated[Ensemble, typer.Option(help="nve, langevin (NVT), or npt")] = "langevin",
    steps: Annotated[int, typer.Option(help="steps in all, those before a restart included")] = 1000,
    timestep: Annotated[float, typer.Option(help="time step, fs")] = 1.0,
    temperature: Annotated[float, typer.Option(help="temperature, K")] = 300.0,
    friction: Annotated[float, typer.Option(help="friction of the thermostat, 1/fs")] = 0.01,
    pressure: Annotated[float, typer.Option(help="pressure of npt, GPa")] = 0.0,
    interval: Annotated[int, typer.Option(help="steps between frames")] = 10,
    checkpoint: Annotated[int, typer.Option(help="steps between restart files")] = 100,
    max_force: MaxForce = 50.0,
    max_uncertainty: MaxUncertainty = 0.0,
    max_grade: MaxGrade = 0.0,
    every: Annotated[int, typer.Option(help="steps between checks of the uncertainty")] = 10,
    dtype: Dtype = "float32",
    compile: Annotated[bool, typer.Option("--compile", help="compile the backbone; pays in long runs")] = False,
    device: Device = "cpu",
    seed: Annotated[int, typer.Option(help="random seed of velocities and thermostat")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Molecular dynamics. Resumes: the same command goes on from its restart file.

    Examples:

        mekrr-scale md model.mekrr start.xyz -o run.xyz --steps 20000 --temperature 300

        mekrr-scale md model.mekrr start.xyz -o run.xyz --ensemble npt --pressure 0.1 --max-grade 1.5
    """
    from mekrr_scale.simulation import MdPlan, run_md

    plan = MdPlan(
        ensemble, steps, timestep, temperature, friction, pressure, interval, checkpoint, seed,
        _bounds(max_force, max_uncertainty, max_grade, every),
    )  # fmt: skip
    check_outputs([(output, STREAM, "--output")], [model, structure], overwrite=True)  # a run that is there goes on
    atoms = last_frame(structure)
    with progress_bar("steps") as bar:
        report = run_md(atoms, _calculator(model, dtype, device, compile), output, plan, bar, overwrite)
    resumed = f", {report.resumed} of them before" if report.resumed else ""
    drift = "" if report.drift != report.drift else f"; energy drift {report.drift:.3g} meV/atom per 10 ps"
    say(f"{output}: {report.steps} steps{resumed}{drift}")


@app.command(epilog=EXIT_CODES)
def relax(
    model: ModelFile,
    structure: Structure,
    output: Annotated[Path, typer.Option("--output", "-o", help="relaxed structure, in any format that ASE writes")],
    force: Annotated[float, typer.Option(help="stop when no atom feels more, eV/angstrom")] = 0.02,
    steps: Annotated[int, typer.Option(help="optimisation steps at most")] = 500,
    cell: Annotated[bool, typer.Option("--cell", help="relax the cell too")] = False,
    trajectory: Annotated[Path | None, typer.Option(help="extended xyz file of all steps")] = None,
    max_force: MaxForce = 0.0,
    max_uncertainty: MaxUncertainty = 0.0,
    max_grade: MaxGrade = 0.0,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    overwrite: Overwrite = False,
) -> None:
    """Relax a structure, and its cell if asked for.

    Example:

        mekrr-scale relax model.mekrr start.xyz -o relaxed.xyz --cell --force 0.01
    """
    from mekrr_scale.simulation import relax
    from mekrr_scale.structures import check_written_format, write_structure

    outputs = [(output, STRUCTURE, "--output"), (trajectory, STREAM, "--trajectory")]
    check_outputs(outputs, [model, structure], overwrite)
    check_written_format(output)
    atoms = last_frame(structure)
    bounds = _bounds(max_force, max_uncertainty, max_grade, 1)
    with progress_bar("steps") as bar:
        try:
            relaxed = relax(atoms, _calculator(model, dtype, device), trajectory, force, steps, cell, bounds, bar, True)
        except SimulationError as error:
            if error.atoms is None:
                raise
            write_structure(output, error.atoms)
            raise SimulationError(f"{error}. The last structure is in {output}") from error
    write_structure(output, relaxed)
    say(f"{output}: energy {relaxed.get_potential_energy():.6f} eV")


def _bounds(force: float, uncertainty: float, grade: float, every: int) -> Bounds:
    """Bounds as typed: 0 stands for none, uncertainties are in meV/atom."""
    from mekrr_scale.simulation import Bounds

    return Bounds(force or None, uncertainty / 1e3 or None, grade or None, every)


def _calculator(model: Path, dtype: str, device: str, compile: bool = False) -> MekrrCalculator:
    import torch

    from mekrr_scale.models import MekrrCalculator

    return MekrrCalculator(
        model, dtype=torch.float64 if dtype == "float64" else torch.float32, device=device_of(device), compile=compile
    )
