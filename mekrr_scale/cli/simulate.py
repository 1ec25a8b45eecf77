"""``md`` and ``relax``: the commands that move atoms."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mekrr_scale.cli.console import draw, progress_bar, say
from mekrr_scale.cli.frames import start_frame, start_frames
from mekrr_scale.cli.options import (
    CHOICE,
    D3,
    EXIT_CODES,
    Compile,
    Device,
    MaxMemory,
    ModelFile,
    Overwrite,
    check_device,
    commands,
    device_of,
    same_named,
)
from mekrr_scale.errors import ConfigError, SimulationError
from mekrr_scale.files import parse_bytes
from mekrr_scale.outputs import FIGURE, STREAM, STRUCTURE, check_outputs, figure_of
from mekrr_scale.simulation import Ensemble

if TYPE_CHECKING:
    from ase import Atoms

    from mekrr_scale.models import MekrrCalculator
    from mekrr_scale.simulation import Bounds, MdPlan, RelaxCourse

app = commands()

Structure = Annotated[list[Path], typer.Argument(help=f"file with the structure to start from, its last frame{CHOICE}")]
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
    plot: Annotated[
        Path | None, typer.Option(help="figure of the whole run: temperature, energies, grade, ...")
    ] = None,
    dtype: Dtype = "float32",
    compile: Compile = False,
    device: Device = "cpu",
    max_memory: MaxMemory = None,
    d3: D3 = None,
    seed: Annotated[int, typer.Option(help="random seed of velocities and thermostat")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Molecular dynamics. Resumes: the same command goes on from its restart file.

    Examples:

        mekrr-scale md model.mekrr start.xyz -o run.xyz --steps 20000 --temperature 300

        mekrr-scale md model.mekrr relaxed.xyz@3 -o run.xyz --ensemble npt --pressure 0.1 --max-grade 1.5 --plot run.png
    """
    from mekrr_scale.simulation import run_md

    plan = md_plan(**locals())
    plot = figure_of(plot)
    check_outputs([(output, STREAM, "--output")], [model, *structure], overwrite=True)  # a run that is there goes on
    check_outputs([(plot, FIGURE, "--plot")], [model, *structure], overwrite)
    atoms = start_frame(structure[0])
    try:
        with progress_bar("steps") as bar:
            calculator = _calculator(model, dtype, device, max_memory, d3, compile)
            report = run_md(atoms, calculator, output, plan, bar, overwrite)
    except SimulationError as error:
        _draw_run(plot, output, plan, error.beyond)
        raise
    resumed = f", {report.resumed} of them before" if report.resumed else ""
    drift = "" if report.drift != report.drift else f"; energy drift {report.drift:.3g} meV/atom per 10 ps"
    say(f"{output}: {report.steps} steps{resumed}{drift}")
    _draw_run(plot, output, plan)


def md_plan(**given: Any) -> MdPlan:
    """The plan that options say: what a batch job would refuse only when its turn has come.

    Raises:
        ConfigError: a value outside its range, or several structures.
    """
    from mekrr_scale.models import as_dispersion
    from mekrr_scale.simulation import MdPlan

    if (count := len(given["structure"])) > 1:
        raise ConfigError(f"md starts from one structure, {count} files are given; give each a run of its own")
    if given["max_memory"] is not None:
        parse_bytes(given["max_memory"])
    check_device(given["device"])
    as_dispersion(given["d3"])
    bounds = (given[name] for name in ("max_force", "max_uncertainty", "max_grade", "every"))
    return MdPlan(**same_named(MdPlan, given), bounds=_bounds(*bounds))


def _draw_run(plot: Path | None, trajectory: Path, plan: MdPlan, beyond: Atoms | None = None) -> None:
    """The figure of a run, all its parts included, and of the frame that ended it."""

    def drawn(path: Path) -> None:
        from mekrr_scale.report import md_plot

        md_plot(path, trajectory, plan, beyond, overwrite=True)

    draw(plot, drawn)


@app.command(epilog=EXIT_CODES)
def relax(
    model: ModelFile,
    structures: Annotated[list[Path], typer.Argument(help=f"structures to relax, the last frame of each file{CHOICE}")],
    output: Annotated[Path, typer.Option("--output", "-o", help="relaxed structures, in any format that ASE writes")],
    force: Annotated[float, typer.Option(help="stop when no atom feels more, eV/angstrom")] = 0.02,
    steps: Annotated[int, typer.Option(help="optimisation steps at most")] = 500,
    cell: Annotated[bool, typer.Option("--cell", help="relax the cell too")] = False,
    trajectory: Annotated[Path | None, typer.Option(help="extended xyz file of all steps, of one structure")] = None,
    max_force: MaxForce = 0.0,
    max_uncertainty: MaxUncertainty = 0.0,
    max_grade: MaxGrade = 0.0,
    plot: Annotated[Path | None, typer.Option(help="figure of energies and largest forces, step by step")] = None,
    dtype: Dtype = "float32",
    compile: Compile = False,
    device: Device = "cpu",
    max_memory: MaxMemory = None,
    d3: D3 = None,
    overwrite: Overwrite = False,
) -> None:
    """Relax structures, and their cells if asked for; several go into one file, in order.

    What they carry (constraints, tags, arrays, info, but no labels) stays with them.

    Examples:

        mekrr-scale relax model.mekrr start.xyz -o relaxed.xyz --cell --force 0.01

        mekrr-scale relax model.mekrr a.xyz b.cif run.traj@::10 -o relaxed.xyz --plot relaxed.png
    """
    from mekrr_scale.simulation import RelaxCourse
    from mekrr_scale.structures import check_written_format

    plot = figure_of(plot)
    outputs = [(output, STRUCTURE, "--output"), (trajectory, STREAM, "--trajectory"), (plot, FIGURE, "--plot")]
    check_outputs(outputs, [model, *structures], overwrite)
    check_written_format(output)
    frames = [atoms for path in structures for atoms in start_frames(path)]
    if len(frames) > 1:
        check_written_format(output, several=True)
        if trajectory is not None:
            raise ConfigError(f"--trajectory holds the steps of one structure; there are {len(frames)}")
    bounds = _bounds(max_force, max_uncertainty, max_grade, 1)
    courses = [RelaxCourse() for _ in frames]
    calculator = _calculator(model, dtype, device, max_memory, d3, compile)
    try:
        _relax_all(frames, courses, calculator, output, trajectory, force, steps, cell, bounds)
    except SimulationError:
        _draw_relaxations(plot, courses, force)
        raise
    _draw_relaxations(plot, courses, force)


def _draw_relaxations(plot: Path | None, courses: Sequence[RelaxCourse], force: float) -> None:
    def drawn(path: Path) -> None:
        from mekrr_scale.report import relax_plot

        relax_plot(path, courses, force, overwrite=True)

    draw(plot, drawn)


def _relax_all(
    frames: Sequence[Atoms],
    courses: Sequence[RelaxCourse],
    calculator: MekrrCalculator,
    output: Path,
    trajectory: Path | None,
    force: float,
    steps: int,
    cell: bool,
    bounds: Bounds,
) -> None:
    """Write what comes of each; of one that does not converge, its last structure.

    Raises:
        SimulationError: some did not converge.
    """
    from ase.calculators.calculator import all_properties

    from mekrr_scale.simulation import frame_with, relax
    from mekrr_scale.structures import PREDICTED_BY, WRITER, write_structure

    relaxed: list[Atoms] = []
    failed: list[str] = []
    with progress_bar("steps") as bar:
        for index, (atoms, course) in enumerate(zip(frames, courses, strict=True)):
            named = "" if len(frames) == 1 else f"structure {index}: "
            try:
                found = relax(atoms, calculator, trajectory, force, steps, cell, bounds, bar, True, course)
            except SimulationError as error:
                if error.atoms is None and len(frames) == 1:
                    raise
                failed.append(f"{named}{error}")
                relaxed += [] if error.atoms is None else [error.atoms]
            else:
                relaxed.append(frame_with(found, {PREDICTED_BY: WRITER}, all_properties))
                say(f"{output}: {named}energy {found.get_potential_energy(apply_constraint=False):.6f} eV")
    if relaxed:
        write_structure(output, relaxed if len(frames) > 1 else relaxed[0])
    if failed and len(frames) == 1:
        raise SimulationError(f"{failed[0]}. The last structure is in {output}")
    if failed:
        kept = f"; {output} holds {len(relaxed)} structures, of these the last ones" if relaxed else ""
        raise SimulationError(f"{len(failed)} of {len(frames)} structures were not relaxed{kept}: {'; '.join(failed)}")


def _bounds(force: float, uncertainty: float, grade: float, every: int) -> Bounds:
    """Bounds as typed: 0 stands for none, uncertainties are in meV/atom."""
    from mekrr_scale.simulation import Bounds

    return Bounds(force or None, uncertainty / 1e3 or None, grade or None, every)


def _calculator(
    model: Path, dtype: str, device: str, max_memory: str | None, d3: str | None, compile: bool
) -> MekrrCalculator:
    from mekrr_scale.models import MekrrCalculator

    return MekrrCalculator(
        model, dtype=dtype, device=device_of(device), compile=compile, max_memory=max_memory, dispersion=d3
    )
