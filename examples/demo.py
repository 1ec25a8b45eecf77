"""The main job on real DFT data: formate on Cu(110), the system of the MEKRR paper.

Run with ``make demo``. Everything it writes goes to the folder ``demo``. At the end its numbers stand beside those that
are expected; it fails where one is out of bounds.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import numpy as np
from ase.constraints import FixAtoms
from ase.md.velocitydistribution import thermalize_momenta
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS
from ase.units import fs
from rich.table import Table

import mekrr_scale as ms
from mekrr_scale.cli.console import out
from mekrr_scale.progress import Bar, Progress
from mekrr_scale.report import error_table, parity_plot, species_plot, species_table, trial_table

DATA = Path(__file__).parent / "hcoo_cu110"
FOLDER = Path("demo")

# what is expected, and bounds in which other processors and other versions of torch stay
EXPECTED = {
    "cross-validated energy RMSE (meV/atom)": (1.4, 0.4),
    "cross-validated force RMSE (meV/angstrom)": (110.0, 15.0),
    "test energy RMSE (meV/atom)": (1.6, 1.0),
    "test force RMSE (meV/angstrom)": (96.0, 15.0),
    "energy gained by relaxing (eV)": (0.6, 0.15),
}


class Lines:
    """Where there is no terminal for a bar: a line every few seconds."""

    def __init__(self, unit: str) -> None:
        self.unit = unit
        self.told = time.perf_counter()

    def stage(self, name: str, total: int | None = None, unit: str = "") -> None:
        self.done, self.ending = 0, f"of {total} {unit or self.unit} ({name})"

    def advance(self, steps: int = 1) -> None:
        self.done += steps
        if time.perf_counter() - self.told > 3:
            self.note(f"{self.done} {self.ending}")

    def note(self, text: str) -> None:
        self.told = time.perf_counter()
        out.print(f"   {text}", highlight=False, soft_wrap=True)


@contextmanager
def shown(unit: str = "structures") -> Iterator[Progress]:
    if not sys.stderr.isatty():
        yield Lines(unit)
        return
    with Bar(unit) as bar:
        yield bar


def step(number: int, text: str) -> None:
    out.print(f"\n{number}. {text}", style="bold", highlight=False)


def as_expected(found: dict[str, float]) -> bool:
    """Show what was found beside what is expected; whether all of it is within bounds."""
    table = Table(title="Numbers", title_justify="left")
    for name in ("", "here", "expected", "as expected"):
        table.add_column(name, justify="right" if name else "left")
    fits = {name: abs(found[name] - value) <= bound for name, (value, bound) in EXPECTED.items()}
    for name, (value, bound) in EXPECTED.items():
        table.add_row(name, f"{found[name]:.2f}", f"{value:g} ± {bound:g}", "yes" if fits[name] else "no")
    out.print(table)
    return all(fits.values())


def main() -> None:
    start = time.perf_counter()
    FOLDER.mkdir(exist_ok=True)

    step(1, "Extract: features of 80 DFT structures from the pretrained SevenNet-0, with tangents for forces")
    with shown() as bar:
        structures = list(islice(ms.read_structures(DATA / "train.xyz.xz"), 80))  # of 120: enough for the point
        report = ms.extract(structures, FOLDER / "features", ms.ExtractPlan(derivatives=3), progress=bar)
    out.print(f"   {report.written} structures computed, {report.resumed} found from an earlier run")

    step(2, "Fit: candidates for baseline and length scale, each ridge and force weight by 5-fold cross-validation")
    with shown("rows") as bar:
        fitted = ms.fit(FOLDER / "features", ms.FitPlan(landmarks=ms.LandmarkPlan(count=400)), progress=bar)
    out.print(trial_table(fitted))
    path = FOLDER / "model.mekrr"
    fitted.model.save(path)
    out.print(f"   model written to {path} ({path.stat().st_size / 1e6:.1f} MB)", highlight=False)

    step(3, "Evaluate: 40 structures that were not fitted")
    potential = ms.Potential(ms.load_model(path))
    with shown() as bar:
        bar.stage("evaluate", 40)
        found = ms.evaluate(potential, ms.read_structures(DATA / "test.xyz.xz"), progress=bar)
    folds = (fitted.reference.numpy(), fitted.predicted.numpy())
    validated = {"structures": float(len(folds[0])), **fitted.metrics()}
    tested = found.metrics()
    out.print(error_table([("cross-validation", validated), ("test structures", tested)]))
    out.print(species_table(found))
    parity_plot(FOLDER / "parity.png", found, folds, title="HCOO on Cu(110)")
    species_plot(FOLDER / "forces_by_element.png", found)
    out.print(f"   figures: {FOLDER / 'parity.png'}, {FOLDER / 'forces_by_element.png'}", highlight=False)
    page = FOLDER / "report.html"
    ms.write_page(fitted, [FOLDER / "features"], page, {"test structures": found}, "model.mekrr")
    out.print(f"   all of it on a page: {page}", highlight=False)

    step(4, "Use it: relax the adsorbate with the fitted calculator, then 10 fs of MD at 300 K")
    atoms = next(ms.read_structures(DATA / "test.xyz.xz"))
    atoms.calc = ms.MekrrCalculator(path)
    atoms.set_constraint(FixAtoms(indices=[a.index for a in atoms if a.symbol == "Cu"]))
    before = atoms.get_potential_energy()
    with shown("steps") as bar, BFGS(atoms, logfile=None) as optimizer:
        bar.stage("relax", 60)
        optimizer.attach(bar.advance)
        optimizer.run(fmax=0.05, steps=60)
    gained = before - atoms.get_potential_energy()
    out.print(
        f"   relaxed in {optimizer.nsteps} steps: {-gained:+.3f} eV, largest force "
        f"{abs(atoms.get_forces()).max():.3f} eV/A",
        highlight=False,
    )
    atoms.set_constraint()
    thermalize_momenta(atoms, 300, rng=np.random.default_rng(0))
    with shown("steps") as bar, VelocityVerlet(atoms, 0.5 * fs, logfile=None) as dynamics:
        bar.stage("md", 20)
        dynamics.attach(bar.advance)
        dynamics.run(20)
    out.print(f"   MD: temperature {atoms.get_temperature():.0f} K after 20 steps of 0.5 fs", highlight=False)

    step(5, "Is it what it should be?")
    numbers = (validated["energy_rmse"], validated["force_rmse"], tested["energy_rmse"], tested["force_rmse"], gained)
    well = as_expected(dict(zip(EXPECTED, numbers, strict=True)))
    out.print(f"\nDone in {time.perf_counter() - start:.0f} s.", highlight=False)
    if not well:
        sys.exit("The numbers are not those that are expected: please file an issue with this output.")


if __name__ == "__main__":
    main()
