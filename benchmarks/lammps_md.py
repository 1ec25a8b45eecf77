"""Molecular dynamics in LAMMPS on two ranks: drift at constant energy, and a triclinic cell at constant pressure.

The model has energies, forces and stress of EMT's copper, one layer of 7net-0, as stored; LAMMPS runs the compiled pair
style. At constant energy the crystal starts at rest on its lattice with velocities of 600 K, of which springs take half.
"""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.build import bulk

from benchmarks.engines import binary, copper, launched
from benchmarks.measuring import table
from mekrr_scale.backbones import BackboneSpec
from mekrr_scale.engines import lammps
from mekrr_scale.pipeline import ExtractPlan, FitPlan, LandmarkPlan, Validation, extract, fit


@dataclass(frozen=True)
class Run:
    """LAMMPS' fix and number of steps of 1 fs, from velocities of ``start_at`` K."""

    name: str
    atoms: Atoms
    start_at: float
    fix: str
    steps: int


def triclinic() -> Atoms:
    """64 atoms, in a cell that LAMMPS takes as it is."""
    atoms = bulk("Cu", a=3.61).repeat(4)
    atoms.set_cell(atoms.cell.standard_form()[0], scale_atoms=True)
    return atoms


RUNS = (
    Run("NVE", bulk("Cu", a=3.61, cubic=True).repeat(3), 600, "nve", 1000),
    Run("NPT, triclinic", triclinic(), 300, "npt temp 300 300 0.1 tri 0 0 0.5", 200),
)


def model(folder: Path) -> Path:
    """Of energies, forces and stress, on one layer."""
    plan = ExtractPlan(BackboneSpec("sevennet", layer="gate1"), derivatives=4, strain=True)
    store = extract(copper(40), folder / "store", plan).store
    fitted = fit(store, FitPlan(landmarks=LandmarkPlan(count=500), validation=Validation(uncertainty=False)))
    fitted.model.save(folder / "model.mekrr")
    return folder / "model.mekrr"


def measured(run: Run, path: Path, folder: Path, ranks: int = 2) -> list[object]:
    """A row of the table: energies in meV/atom, of the whole run and of its straight line over time (ps)."""
    ase.io.write(folder / "cell.data", run.atoms, format="lammps-data", masses=True, units="metal", force_skew=True)
    script = (
        "units metal\natom_style atomic\nbox tilt large\nread_data cell.data\n"
        f"pair_style mekrr\npair_coeff * * {path} Cu\nvelocity all create {run.start_at} 4711 mom yes\n"
        f"timestep 0.001\nfix 1 all {run.fix}\nthermo 10\n"
        f"thermo_style custom step temp etotal vol xy xz yz\nrun {run.steps}\n"
    )
    log = launched(binary(ranks), script, folder)
    shown = re.findall(r"^ *(\d+(?: +[-+.\de]+){6}) *$", log, re.MULTILINE)
    steps, temperatures, energies, volumes, *_ = np.array([line.split() for line in shown], float).T
    energies *= 1e3 / len(run.atoms)
    (seconds,) = re.findall(r"Loop time of (\S+) on", log)
    constant = run.fix == "nve"
    return [
        run.name, len(run.atoms), f"{1e-3 * steps[-1]:g}", f"{temperatures[len(steps) // 4 :].mean():.0f}",
        f"{np.polyfit(1e-3 * steps, energies, 1)[0]:+.4f}" if constant else "-",
        f"{np.ptp(energies):.3f}" if constant else "-",
        f"{volumes[-1] / volumes[0] - 1:+.2%}", f"{1e3 * float(seconds) / run.steps:.0f}",
    ]  # fmt: skip


def main(runs: tuple[Run, ...] = RUNS) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = model(folder)
        lammps.build(folder)
        rows = [measured(run, path, folder) for run in runs]
    print("\nLAMMPS on two ranks\n")
    energy = ["drift, meV/atom/ps", "largest - smallest energy, meV/atom"]
    table(["run", "atoms", "length, ps", "mean T, K", *energy, "volume", "ms per step"], rows)
