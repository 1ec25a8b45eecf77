"""The main job on real DFT data: formate on Cu(110), the system of the MEKRR paper.

Run with ``make demo``. Everything it writes goes to the folder ``demo``.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from ase.constraints import FixAtoms
from ase.md.velocitydistribution import thermalize_momenta
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS
from ase.units import fs

from mekrr_scale.calculator import MekrrCalculator
from mekrr_scale.cli.console import Bar, out
from mekrr_scale.model import Model
from mekrr_scale.pipeline import ExtractPlan, FitPlan, evaluate, extract, fit
from mekrr_scale.potential import Potential
from mekrr_scale.report import error_table, parity_plot, species_plot, species_table, trial_table
from mekrr_scale.structures import read_structures

DATA = Path(__file__).parent / "hcoo_cu110"
FOLDER = Path("demo")


def step(number: int, text: str) -> None:
    out.print(f"\n[bold]{number}. {text}[/]", highlight=False)


def main() -> None:
    start = time.perf_counter()
    FOLDER.mkdir(exist_ok=True)

    step(1, "Extract: features of 120 DFT structures from the pretrained CHGNet, with tangents for forces")
    with Bar() as bar:
        report = extract(DATA / "train.xyz.xz", FOLDER / "features", ExtractPlan(derivatives=6), progress=bar)
    out.print(f"   {report.written} structures computed, {report.resumed} found from an earlier run")

    step(2, "Fit: candidates for baseline and length scale, each ridge and force weight by 5-fold cross-validation")
    with Bar("rows") as bar:
        fitted = fit(FOLDER / "features", FitPlan(n_landmarks=800), progress=bar)
    out.print(trial_table(fitted))
    path = FOLDER / "model.mekrr"
    fitted.model.save(path)
    out.print(f"   model written to {path} ({path.stat().st_size / 1e6:.1f} MB)", highlight=False)

    step(3, "Evaluate: 40 structures that were not fitted")
    potential = Potential(Model.load(path))
    with Bar() as bar:
        bar.stage("evaluate", 40)
        found = evaluate(potential, read_structures(DATA / "test.xyz.xz"), progress=bar)
    folds = (fitted.reference.numpy(), fitted.predicted.numpy())
    validated = {
        "structures": float(len(folds[0])),
        "energy_mae": 1e3 * fitted.model.validation["energy_mae"],
        "energy_rmse": 1e3 * fitted.model.validation["energy_rmse"],
        "force_rmse": 1e3 * fitted.model.validation["force_rmse"],
    }
    out.print(error_table([("cross-validation", validated), ("test structures", found.metrics())]))
    out.print(species_table(found))
    parity_plot(FOLDER / "parity.png", found, folds, title="HCOO on Cu(110)")
    species_plot(FOLDER / "forces_by_element.png", found)
    out.print(f"   figures: {FOLDER / 'parity.png'}, {FOLDER / 'forces_by_element.png'}", highlight=False)

    step(4, "Use it: relax the adsorbate with the fitted calculator, then 20 fs of MD at 300 K")
    atoms = next(read_structures(DATA / "test.xyz.xz"))
    atoms.calc = MekrrCalculator(path)
    atoms.set_constraint(FixAtoms(indices=[a.index for a in atoms if a.symbol == "Cu"]))
    before = atoms.get_potential_energy()
    with BFGS(atoms, logfile=None) as optimizer:
        optimizer.run(fmax=0.05, steps=60)
    out.print(
        f"   relaxed in {optimizer.nsteps} steps: {atoms.get_potential_energy() - before:+.3f} eV, largest force "
        f"{abs(atoms.get_forces()).max():.3f} eV/A",
        highlight=False,
    )
    atoms.set_constraint()
    thermalize_momenta(atoms, 300, rng=np.random.default_rng(0))
    with VelocityVerlet(atoms, 0.5 * fs, logfile=None) as dynamics:
        dynamics.run(40)
    out.print(f"   MD: temperature {atoms.get_temperature():.0f} K after 40 steps of 0.5 fs", highlight=False)
    out.print(f"\nDone in {time.perf_counter() - start:.0f} s.", highlight=False)


if __name__ == "__main__":
    main()
