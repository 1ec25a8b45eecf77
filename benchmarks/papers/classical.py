"""Long runs with a known truth: Stillinger-Weber silicon and germanium stand in for DFT.

Part of ``elements``: a network learns classical silicon, ten cells of classical germanium fine-tune
it, and its dynamics (survival, distances, angles, vibrations, pressure) are held against those of the
classical potential itself, beside networks from scratch.

Parameters: silicon from Stillinger and Weber 1985, germanium from Ding and Andersen 1986.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import matplotlib
import numpy as np
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.calculator import Calculator
from ase.calculators.singlepoint import SinglePointCalculator
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from matscipy.calculators.manybody import Manybody
from matscipy.calculators.manybody.explicit_forms import StillingerWeber
from numpy import ndarray

from benchmarks.papers.common import Experiment, errors, parted, tuned
from mekrr_scale.backbones import Backbone, BackboneEnergies, BackboneSpec, load_backbone, new_backbone, save_backbone
from mekrr_scale.models import PredictorCalculator
from mekrr_scale.transfer import Entry, Example, TrainPlan, finetune, pretrain, read_examples

matplotlib.use("Agg")

_COMMON = {
    "costheta0": 1 / 3, "A": 7.049556277, "B": 0.6022245584, "p": 4, "a": 1.80, "gamma": 1.20,
}  # fmt: skip
SILICON = {**_COMMON, "el": "Si", "epsilon": 2.1683, "sigma": 2.0951, "lambda1": 21.0}
GERMANIUM = {**_COMMON, "el": "Ge", "epsilon": 1.93, "sigma": 2.181, "lambda1": 31.0}
LATTICE = {"Si": 5.431, "Ge": 5.431 * 2.181 / 2.0951}  # angstrom; the diamond lattice scales with sigma
SCALE = LATTICE["Si"] / LATTICE["Ge"]
KELVIN = 800.0  # of the long runs
TIMESTEP = 2.0  # fs
_CLOSE = 1.4  # angstrom; nearer atoms are the end of a run
_HARD = 40.0  # eV/angstrom, likewise


@dataclass(frozen=True)
class Run:
    """What a simulation shows."""

    survived: float  # ps
    rdf: ndarray
    adf: ndarray
    vdos: ndarray
    pressure: float  # GPa


def run(it: Experiment) -> None:
    """Tables and figure of the long runs."""
    it.say("\n### Long runs, with Stillinger-Weber as the truth")
    count = 12 if it.quick else 160
    source = silicon_network(it, frames("Si", count, 0))
    test, held, training = parted(frames("Ge", count, 1), (0.4, 0.1))
    few, more = training[:4] if it.quick else training[:10], training[:6] if it.quick else training[:50]
    steps = 5 if it.quick else 1500
    plan = TrainPlan(steps=steps, validate_every=max(1, steps // 10))
    entry = Entry(SCALE, {14: 32})
    rates = (1e-3,) if it.quick else (3e-4, 1e-3, 3e-3)

    def scratch(chosen: list[Example]) -> Backbone:
        return tuned(
            rates,
            lambda rate: pretrain(
                new_backbone(BackboneSpec("schnet")), chosen, held, replace(plan, learning_rate=rate)
            ),
        )[0]

    transferred = tuned(
        rates, lambda rate: finetune(load_backbone(source), few, held, replace(plan, learning_rate=rate), entry)
    )[0]
    networks = {
        f"transferred, {len(few)} cells": transferred,
        f"scratch, {len(few)} cells": scratch(few),
        f"scratch, {len(more)} cells": scratch(more),
    }
    runs = {"Stillinger-Weber": [simulate(it, classical("Ge"), seed) for seed in range(it.seeds)]}
    it.say("\n| network | forces, meV/A |\n|---|---|")
    for name, network in networks.items():
        it.say(f"| {name} | {errors(BackboneEnergies(network), test)['force_rmse']:.1f} |")
        calculator = PredictorCalculator(BackboneEnergies(network))
        runs[name] = [simulate(it, calculator, seed) for seed in range(it.seeds)]
    _tell(it, runs)


def classical(element: str) -> Calculator:
    """The classical potential of an element."""
    return Manybody(**StillingerWeber({"Si": SILICON, "Ge": GERMANIUM}[element]))


def _cell(element: str) -> Atoms:
    return bulk(element, "diamond", LATTICE[element], cubic=True).repeat(2)


def frames(element: str, count: int, seed: int) -> list[Example]:
    """Structures of dynamics at four temperatures in strained cells, with classical labels."""
    generator = np.random.default_rng(seed)
    found = []
    for kelvin in (300, 800, 1300, 1800):
        atoms = _cell(element)
        atoms.calc = classical(element)
        MaxwellBoltzmannDistribution(atoms, temperature_K=2 * kelvin, rng=generator)
        dynamics = Langevin(
            atoms, TIMESTEP * units.fs, temperature_K=kelvin, friction=0.02 / units.fs, rng=generator, fixcm=False
        )
        dynamics.run(20 if count < 20 else 200)
        for _ in range(count // 4):
            dynamics.run(5 if count < 20 else 25)
            frame = Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=True)
            strain = np.eye(3) + 0.02 * generator.normal(size=(3, 3))
            frame.set_cell(frame.cell.array @ (strain + strain.T) / 2, scale_atoms=True)
            frame.calc = classical(element)
            results = {
                "energy": frame.get_potential_energy(), "forces": frame.get_forces(), "stress": frame.get_stress(),
            }  # fmt: skip
            frame.calc = SinglePointCalculator(frame, **results)
            found.append(frame)
    return read_examples(found)


def silicon_network(it: Experiment, silicon: list[Example]) -> BackboneSpec:
    path = it.folder / "classical-silicon.pt"
    if not path.exists() or it.quick:
        validation, training = parted(silicon, (0.15,))
        steps = 10 if it.quick else 4000
        plan = TrainPlan(steps=steps, learning_rate=3e-3, validate_every=max(1, steps // 10))
        report = pretrain(new_backbone(BackboneSpec("schnet")), training, validation, plan)
        save_backbone(report.backbone, path)
        it.say(f"classical silicon: {len(training)} structures, validation {report.best.errors}")
    return BackboneSpec("schnet", checkpoint=str(path))


def simulate(it: Experiment, calculator: Calculator, seed: int, kelvin: float = KELVIN) -> Run:
    """Langevin dynamics of 64 atoms of germanium; ends when atoms collide or forces explode."""
    atoms = _cell("Ge")
    atoms.calc = calculator
    generator = np.random.default_rng(100 + seed)
    MaxwellBoltzmannDistribution(atoms, temperature_K=2 * kelvin, rng=generator)
    dynamics = Langevin(
        atoms, TIMESTEP * units.fs, temperature_K=kelvin, friction=0.002 / units.fs, rng=generator, fixcm=False
    )
    warm, steps = (5, 20) if it.quick else (1000, 5000)
    velocities, distances, angles, pressures = [], [], [], []
    done = 0
    for step in range(warm + steps):
        dynamics.run(1)
        nearest = atoms.get_all_distances(mic=True) + 1e3 * np.eye(len(atoms))
        if not (np.abs(atoms.get_forces()).max() < _HARD and nearest.min() > _CLOSE):
            break
        done = step + 1
        if step < warm:
            continue
        velocities.append(atoms.get_velocities())
        if step % 10 == 0:
            distances.append(nearest[nearest < 5.6])
            angles.append(_angles(atoms, nearest))
            pressures.append(-atoms.get_stress(include_ideal_gas=True)[:3].mean() / units.GPa)
    return Run(
        survived=done * TIMESTEP * 1e-3,
        rdf=_rdf(distances, atoms),
        adf=np.histogram(np.concatenate(angles) if angles else [], 60, (0, 180), density=bool(angles))[0],
        vdos=_vdos(np.array(velocities)),
        pressure=float(np.mean(pressures)) if pressures else float("nan"),
    )


def _angles(atoms: Atoms, nearest: ndarray) -> ndarray:
    """Angles (degrees) between neighbours closer than 3.1 angstrom."""
    found = []
    for i in range(len(atoms)):
        near = np.flatnonzero(nearest[i] < 3.1)
        if len(near) < 2:
            continue
        vectors = atoms.get_distances(i, near, mic=True, vector=True)
        units_ = vectors / np.linalg.norm(vectors, axis=1)[:, None]
        cosines = (units_ @ units_.T)[np.triu_indices(len(near), 1)]
        found.append(np.degrees(np.arccos(cosines.clip(-1, 1))))
    return np.concatenate(found) if found else np.empty(0)


def _rdf(distances: list[ndarray], atoms: Atoms) -> ndarray:
    counts, edges = np.histogram(np.concatenate(distances) if distances else [], 100, (1.5, 5.5))
    shells = 4 / 3 * np.pi * np.diff(edges**3)
    density = len(atoms) / atoms.get_volume()
    return counts / (max(len(distances), 1) * len(atoms) * shells * density)


def _vdos(velocities: ndarray) -> ndarray:
    """Power spectrum of the velocities up to 12 THz, of unit area."""
    if len(velocities) < 16:
        return np.zeros(60)
    window = np.hanning(len(velocities))[:, None, None]
    power = (np.abs(np.fft.rfft(velocities * window, axis=0)) ** 2).sum((1, 2))
    terahertz = np.fft.rfftfreq(len(velocities), TIMESTEP * 1e-3)
    binned = np.histogram(terahertz, 60, (0, 12), weights=power)[0]
    return binned / max(binned.sum() * 0.2, 1e-300)


def _tell(it: Experiment, runs: dict[str, list[Run]]) -> None:
    import matplotlib.pyplot as plt

    truth = runs["Stillinger-Weber"]
    means = {name: {key: np.mean([getattr(r, key) for r in found], 0) for key in ("rdf", "adf", "vdos")}
             for name, found in runs.items()}  # fmt: skip
    it.say(
        f"\n| {KELVIN:g} K, {it.seeds} runs each | survived, ps | RDF | ADF | VDOS | pressure, GPa |\n|---|---|---|---|---|---|"
    )
    for name, found in runs.items():
        parts = [
            f"{np.abs(means[name][key] - means['Stillinger-Weber'][key]).mean():.3g}" for key in ("rdf", "adf", "vdos")
        ]
        lasted = " ".join(f"{r.survived:.1f}" for r in found)
        it.say(f"| {name} | {lasted} | {' | '.join(parts)} | {np.nanmean([r.pressure for r in found]):.2f} |")
    spread = [
        np.mean([np.abs(getattr(r, key) - means["Stillinger-Weber"][key]).mean() for r in truth])
        for key in ("rdf", "adf", "vdos")
    ]
    it.say(
        f"\nmean absolute differences; single classical runs differ from their mean by {spread[0]:.2g}, {spread[1]:.2g}, {spread[2]:.2g}"
    )
    axes_of = {
        "rdf": (np.linspace(1.52, 5.48, 100), "distance (Å)", "g(r)"),
        "adf": (np.linspace(1.5, 178.5, 60), "angle (degrees)", "density"),
        "vdos": (np.linspace(0.1, 11.9, 60), "frequency (THz)", "density of states (1/THz)"),
    }
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.8))
    for axis, (key, (x, label, quantity)) in zip(axes, axes_of.items(), strict=True):
        for name in runs:
            black = name == "Stillinger-Weber"
            axis.plot(x, means[name][key], label=name, color="black" if black else None, linewidth=2 if black else 1.2)
        axis.set(xlabel=label, ylabel=quantity)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(it.figures / "papers_elements_md.png", dpi=130)
    plt.close(figure)
