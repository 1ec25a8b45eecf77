"""Levels of theory: how many energies of the high level it takes, which ones, and what dynamics they give.

Zaverkin et al. 2022 (arXiv 2212.03916) find that energies of the high level alone can do "provided that the set to fine-tune on is well
designed". Here ethanol (PBE to CCSD(T)), formaldehyde (B3LYP to CCSD(T)) and aspirin (PBE+TS to CCSD): 10 to 400 energies drawn at
random; 50 that are drawn, that `select` takes by a kernel of the low level, that this kernel is least sure of, or that have
the highest energies of the low level; and 50 behind low levels that were learned from 100 or 300 structures. Both ways
of `papers.levels`: the kernel that corrects the low level's network, and discriminative fine-tuning of that network. Then
ethanol's dynamics at 300 K: vibrations, and how long runs survive. Errors in kcal/mol are those of a molecule's energy.

    python -m benchmarks.papers.design [--quick] [--sets ethanol]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
from ase import Atoms, units
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import Stationary, ZeroRotation, thermalize_momenta
from ase.md.verlet import VelocityVerlet

from benchmarks.papers.common import Experiment, errors, spread, subset
from benchmarks.papers.drawing import band, logarithmic, values_of
from benchmarks.papers.levels import SYSTEMS, Learner, System
from mekrr_scale.arrays import kept_memory
from mekrr_scale.backbones import load_backbone
from mekrr_scale.models import PredictorCalculator
from mekrr_scale.pipeline import FitPlan, LandmarkPlan, Validation
from mekrr_scale.simulation import select
from mekrr_scale.structures import Predictor
from mekrr_scale.transfer import Example, fit_kernel

SETS = {
    **{name: (low, high) for name, (low, high, _) in SYSTEMS.items()},
    "aspirin": (("mol_aspirin/pbe_ts_train.xyz.xz", ""), ("mol_aspirin/ccsd_train.xyz.xz", "")),
}
SIZES, DESIGNED = (10, 25, 50, 100, 200, 400), 50
DESIGNS = ("random", "select", "least sure", "highest energies")
PRETRAINED = (100, 300)
WAYS: Mapping[str, Callable[[Learner], Predictor]] = {
    "delta kernel": Learner.delta,
    "discriminative": Learner.discriminative,
}
KCAL = units.kcal / units.mol * 1e3  # meV
PICOSECONDS, TIMESTEP, KELVIN = 5.0, 0.5, 300.0
_COLUMNS = ("forces, meV/A", "energy, meV/atom", "kcal/mol")
BANDS = {"C-H": (2600.0, 3300.0), "O-H": (3300.0, 4200.0)}  # 1/cm


def main() -> None:
    it = Experiment.parse("design", tuple(SETS))
    found = {}
    for name in ("ethanol",) if it.quick else it.sets:
        low, high = SETS[name]
        system = System(it, name, it.structures(*low), it.structures(*high))
        found[name] = _sizes(it, system)
        _designs(it, system)
        _pretraining(it, system)
        if name == "ethanol":
            _dynamics(it, system)
    _figure(it, found)
    it.finish()


def _molecule(system: System) -> int:
    return len(system.test[0].atoms)


def _run(system: System, way: str, training: Sequence[Example], seed: int) -> dict[str, float]:
    return errors(WAYS[way](Learner(system, list(training), seed)), system.test)


def _row(it: Experiment, system: System, label: str, runs: list[dict[str, float]]) -> None:
    energy = float(np.mean([run["energy_rmse"] for run in runs]))
    it.say(f"| {label} | {spread(runs)} | {spread(runs, 'energy_rmse', 2)} | {energy * _molecule(system) / KCAL:.2f} |")


_Curves = dict[str, dict[int, list[dict[str, float]]]]


def _sizes(it: Experiment, system: System) -> _Curves:
    """More and more energies, drawn at random; smaller draws are parts of larger ones."""
    sizes = (5,) if it.quick else [size for size in SIZES if size <= len(system.rest)]
    jobs = [(way, size, seed) for way in WAYS for size in sizes for seed in range(it.seeds)]
    done = it.run_all(
        [
            (f"{system.name} {way} {size}-{seed}", partial(_run, system, way, subset(system.rest, size, seed), seed))
            for way, size, seed in jobs
        ]
    )
    found: _Curves = {}
    it.header(f"{system.name}: energies of the high level", *_COLUMNS)
    for (way, size, _), run in zip(jobs, done, strict=True):
        found.setdefault(way, {}).setdefault(size, []).append(run)
    for way, curve in found.items():
        for size, runs in curve.items():
            _row(it, system, f"{way}, {size}", runs)
    return found


def _designs(it: Experiment, system: System) -> None:
    """Which fifty."""
    count = 5 if it.quick else DESIGNED
    designs = DESIGNS[1:]  # random ones stand above
    chosen = {
        design: it.run(f"{system.name} chosen {design}", partial(_chosen, it, system, design, count))
        for design in designs
    }
    jobs = [(design, way, seed) for design in designs for way in WAYS for seed in range(it.seeds)]
    places = {
        design: [int(value) for key, value in found.items() if key.startswith("place")]
        for design, found in chosen.items()
    }
    done = it.run_all(
        [
            (
                f"{system.name} {design} {way}-{seed}",
                partial(_run, system, way, [system.rest[i] for i in places[design]], seed),
            )
            for design, way, seed in jobs
        ]
    )
    it.header(f"{system.name}: which {count}", *_COLUMNS)
    for way in WAYS:
        if not it.quick:
            _row(
                it,
                system,
                f"{way}, random",
                [it.kept(f"{system.name} {way} {count}-{seed}") for seed in range(it.seeds)],
            )
        for design in designs:
            runs = [run for job, run in zip(jobs, done, strict=True) if job[:2] == (design, way)]
            _row(it, system, f"{way}, {design}", runs)


def _chosen(it: Experiment, system: System, design: str, count: int) -> dict[str, float]:
    """Places in the pool, without a look at the high level's labels."""
    pool = [example.atoms for example in system.rest]
    if design == "highest energies":
        network = Learner(system, [], 0).low_level()
        energies = [float(network.predict(atoms, forces=False).energy[0]) for atoms in pool]
        order = np.argsort(energies)[::-1][:count].tolist()
    else:
        low = subset(system.low, 40 if it.quick else 500, 0)
        plan = FitPlan(
            landmarks=LandmarkPlan(count=40 if it.quick else 1000),
            baseline="composition",
            validation=Validation(2 if it.quick else 5),
        )
        model = fit_kernel(low, load_backbone("chgnet"), it.work, plan)
        order = list(select(model, pool, count, "greedy" if design == "select" else "variance").indices)
    return {f"place {k}": float(place) for k, place in enumerate(order)}


def _pretraining(it: Experiment, system: System) -> None:
    """Low levels that were learned from less."""
    count = 5 if it.quick else DESIGNED
    sizes = (16,) if it.quick else PRETRAINED
    smaller = {
        size: System(it, f"{system.name} {size}", subset(system.low, size, 0), [], like=system) for size in sizes
    }
    jobs = [(size, way, seed) for size in sizes for way in WAYS for seed in range(it.seeds)]
    done = it.run_all(
        [
            (
                f"{system.name} low {size} {way}-{seed}",
                partial(_run, smaller[size], way, subset(system.rest, count, seed), seed),
            )
            for size, way, seed in jobs
        ]
    )
    it.header(f"{system.name}: {count} energies behind a low level of", *_COLUMNS)
    for size in sizes:
        for way in WAYS:
            _row(
                it,
                system,
                f"{size} structures, {way}",
                [run for job, run in zip(jobs, done, strict=True) if job[:2] == (size, way)],
            )


def _dynamics(it: Experiment, system: System) -> None:
    """Vibrations and survival, beside a kernel on energies and forces of 400 CCSD(T) structures."""
    jobs = [(name, seed) for name in ("low level", *WAYS, "reference") for seed in range(it.seeds)]
    done = it.run_all(
        [(f"{system.name} dynamics {name}-{seed}", partial(_simulated, it, system, name, seed)) for name, seed in jobs]
    )
    it.header(
        "dynamics of ethanol, 300 K", "survived, ps", *(f"{name} band, 1/cm" for name in BANDS),
        "spectrum's distance from the reference's",
    )  # fmt: skip
    runs: dict[str, list[dict[str, float]]] = {}
    for (name, _), run in zip(jobs, done, strict=True):
        runs.setdefault(name, []).append(run)
    truth = _spectrum(runs["reference"])
    for name, each in runs.items():
        bands = " | ".join(spread(each, bond, 0) for bond in BANDS)
        it.say(f"| {name} | {spread(each, 'survived')} | {bands} | {0.5 * np.abs(_spectrum(each) - truth).sum():.3f} |")


def _spectrum(runs: Sequence[dict[str, float]]) -> np.ndarray:
    """Mean power by bins of 50 1/cm, in all one."""
    keys = sorted(key for key in runs[0] if key.startswith("power"))
    power = np.array([[run[key] for key in keys] for run in runs]).mean(0)
    return np.asarray(power / power.sum())


def _predictor(system: System, name: str) -> Predictor:
    if name == "reference":
        return system.reference()
    learner = system.learner(0)
    return learner.low() if name == "low level" else WAYS[name](learner)


def _simulated(it: Experiment, system: System, name: str, seed: int) -> dict[str, float]:
    """Langevin, then constant energy; until a bond is twice as long as it was, or the temperature three times."""
    atoms = Atoms(system.minimum.numbers, positions=system.minimum.positions)
    atoms.calc = PredictorCalculator(_predictor(system, name))
    steps = 20 if it.quick else round(1000 * PICOSECONDS / TIMESTEP)
    thermalize_momenta(atoms, KELVIN, rng=np.random.default_rng(seed))
    Stationary(atoms)
    ZeroRotation(atoms)
    near = atoms.get_all_distances()
    bonds = (near > 0.1) & (near < 1.7)
    velocities = []
    with kept_memory():
        Langevin(
            atoms,
            TIMESTEP * units.fs,
            temperature_K=KELVIN,
            friction=0.01 / units.fs,
            fixcm=False,
            rng=np.random.default_rng(seed),
        ).run(steps // 5)
        dynamics = VelocityVerlet(atoms, TIMESTEP * units.fs)
        for _ in range(steps):
            dynamics.run(1)
            velocities.append(atoms.get_velocities())
            if (atoms.get_all_distances()[bonds] > 2 * near[bonds]).any() or atoms.get_temperature() > 3 * KELVIN + 600:
                break
    return {"survived": 1e-3 * TIMESTEP * len(velocities), **_bands(np.array(velocities), atoms.get_masses())}


def _bands(velocities: np.ndarray, masses: np.ndarray) -> dict[str, float]:
    """Power of the velocities by bins of 50 1/cm, and the mean frequency of each band."""
    window = np.hanning(len(velocities))[:, None, None]
    power = (np.abs(np.fft.rfft(velocities * window, axis=0)) ** 2 * masses[:, None]).sum((1, 2))
    wave = np.fft.rfftfreq(len(velocities), TIMESTEP * 1e-15) / 2.99792458e10
    told = {}
    for name, (lowest, highest) in BANDS.items():
        within = (wave >= lowest) & (wave < highest)
        told[name] = float((wave * power)[within].sum() / power[within].sum()) if within.any() else float("nan")
    bins = np.histogram(wave, np.arange(0.0, 4201.0, 50.0), weights=power)[0]
    return {**told, **{f"power {50 * k:04d}": float(value) for k, value in enumerate(bins)}}


def _figure(it: Experiment, found: Mapping[str, _Curves]) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(found), figsize=(4.0 * len(found), 3.5), squeeze=False)
    for axis, (name, curves) in zip(axes.flat, found.items(), strict=True):
        for colour, (way, curve) in enumerate(curves.items()):
            band(axis, list(curve), values_of(list(curve.values()), "force_rmse"), f"C{colour}", label=way)
        logarithmic(axis, "energies of the high level", "force RMSE (meV/Å)")
        axis.set_title(name)
    axes[0, 0].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(it.figures / "papers_design.png", dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
