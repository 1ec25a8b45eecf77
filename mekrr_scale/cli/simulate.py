"""The commands that move atoms."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import ase.io
import torch
import typer
from ase import Atoms

from mekrr_scale.calculator import MekrrCalculator
from mekrr_scale.cli.console import EXIT_CODES, Bar, out
from mekrr_scale.cli.options import Device, ModelFile, check_folder, check_format, device_of
from mekrr_scale.md import Bounds, MdPlan, run_md
from mekrr_scale.md import relax as relax_structure
from mekrr_scale.structures import read_structures

simulate_app = typer.Typer()

Structure = Annotated[Path, typer.Argument(help="file with the structure to start from; its last frame is taken")]
Dtype = Annotated[Literal["float32", "float64"], typer.Option(help="precision of the backbone")]
MaxForce = Annotated[float, typer.Option(help="stop above this force on an atom, eV/angstrom; 0 for no bound")]
MaxUncertainty = Annotated[float, typer.Option(help="stop above this uncertainty, meV/atom; 0 for no bound")]
MaxGrade = Annotated[float, typer.Option(help="stop above this extrapolation grade of an atom; 0 for no bound")]


@simulate_app.command(epilog=EXIT_CODES)
def md(
    model: ModelFile,
    structure: Structure,
    output: Annotated[Path, typer.Option("--output", "-o", help="trajectory to write, extended xyz")],
    ensemble: Annotated[Literal["nve", "langevin", "npt"], typer.Option(help="what is kept constant")] = "langevin",
    steps: Annotated[int, typer.Option(help="in all, those before a restart included")] = 1000,
    timestep: Annotated[float, typer.Option(help="fs")] = 1.0,
    temperature: Annotated[float, typer.Option(help="K")] = 300.0,
    friction: Annotated[float, typer.Option(help="of the thermostat, 1/fs")] = 0.01,
    pressure: Annotated[float, typer.Option(help="of npt, GPa")] = 0.0,
    interval: Annotated[int, typer.Option(help="steps between frames")] = 10,
    checkpoint: Annotated[int, typer.Option(help="steps between restart files")] = 100,
    max_force: MaxForce = 50.0,
    max_uncertainty: MaxUncertainty = 0.0,
    max_grade: MaxGrade = 0.0,
    every: Annotated[int, typer.Option(help="steps between looks at the uncertainty")] = 10,
    dtype: Dtype = "float32",
    compile: Annotated[bool, typer.Option("--compile", help="compile the backbone; pays in long runs")] = False,
    device: Device = "cpu",
    seed: Annotated[int, typer.Option(help="of velocities and thermostat")] = 0,
) -> None:
    """Molecular dynamics. Resumes: the same command goes on from its restart file.

    Examples:

        mekrr-scale md model.mekrr start.xyz -o run.xyz --steps 20000 --temperature 300

        mekrr-scale md model.mekrr start.xyz -o run.xyz --ensemble npt --pressure 0.1 --max-grade 1.5
    """
    plan = MdPlan(
        ensemble, steps, timestep, temperature, friction, pressure, interval, checkpoint, seed,
        _bounds(max_force, max_uncertainty, max_grade, every),
    )  # fmt: skip
    check_folder(output)
    atoms = _last_frame(structure)
    with Bar("steps") as bar:
        report = run_md(atoms, _calculator(model, dtype, device, compile), output, plan, bar)
    resumed = f", {report.resumed} of them before" if report.resumed else ""
    drift = "" if report.drift != report.drift else f"; energy drift {report.drift:.3g} meV/atom per 10 ps"
    out.print(f"{output}: {report.steps} steps{resumed}{drift}", highlight=False)


@simulate_app.command(epilog=EXIT_CODES)
def relax(
    model: ModelFile,
    structure: Structure,
    output: Annotated[Path, typer.Option("--output", "-o", help="relaxed structure, in any format that ASE writes")],
    force: Annotated[float, typer.Option(help="stop when no atom feels more, eV/angstrom")] = 0.02,
    steps: Annotated[int, typer.Option(help="at most")] = 500,
    cell: Annotated[bool, typer.Option("--cell", help="relax the cell too")] = False,
    trajectory: Annotated[Path | None, typer.Option(help="extended xyz file of all steps")] = None,
    max_force: MaxForce = 0.0,
    max_uncertainty: MaxUncertainty = 0.0,
    max_grade: MaxGrade = 0.0,
    dtype: Dtype = "float32",
    device: Device = "cpu",
) -> None:
    """Relax a structure, and its cell if asked for.

    Example:

        mekrr-scale relax model.mekrr start.xyz -o relaxed.xyz --cell --force 0.01
    """
    check_folder(output)
    check_format(output)
    if trajectory is not None:
        check_folder(trajectory)
    atoms = _last_frame(structure)
    bounds = _bounds(max_force, max_uncertainty, max_grade, 1)
    with Bar("steps") as bar:
        relaxed = relax_structure(atoms, _calculator(model, dtype, device), trajectory, force, steps, cell, bounds, bar)
    ase.io.write(output, relaxed)
    out.print(f"{output}: energy {relaxed.get_potential_energy():.6f} eV", highlight=False)


def _bounds(force: float, uncertainty: float, grade: float, every: int) -> Bounds:
    """Bounds as typed: 0 stands for none, uncertainties are in meV/atom."""
    return Bounds(force or None, uncertainty / 1e3 or None, grade or None, every)


def _calculator(model: Path, dtype: str, device: str, compile: bool = False) -> MekrrCalculator:
    return MekrrCalculator(
        model, dtype=torch.float64 if dtype == "float64" else torch.float32, device=device_of(device), compile=compile
    )


def _last_frame(path: Path) -> Atoms:
    last = None
    for atoms in read_structures(path):
        last = atoms
    assert last is not None  # a file without structures has been refused
    return last
