"""Across elements: what transfer gains by the number of structures, by temperature, in properties, for an unseen element.

Roecken and Zavadlav 2025 (arXiv 2502.13522) find that a network of silicon helps one of germanium most where data are few. Here
germanium by SchNet with 3 to 50 structures and by DimeNet++ with ten; learned at 300 K and tested at the highest temperature, and
the other way; properties of germanium, and how long it survives 800 and 2400 K, with Stillinger-Weber as the truth; and tungsten,
which a network of Mo, Nb and Ta never saw, from few alloys that hold it.

    python -m benchmarks.papers.gain [--quick]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.calculator import Calculator
from ase.filters import FrechetCellFilter
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import thermalize_momenta
from ase.optimize import BFGS

from benchmarks.papers import classical
from benchmarks.papers.common import Experiment, dealt, errors, parted, ratio, spread, subset, tuned
from benchmarks.papers.elements import SCRATCH_RATES, TUNE_RATES, Sets, kelvin_of, learning, silicon_network
from mekrr_scale.arrays import kept_memory
from mekrr_scale.backbones import Backbone, BackboneEnergies, BackboneSpec, load_backbone, new_backbone, save_backbone
from mekrr_scale.models import PredictorCalculator
from mekrr_scale.transfer import Entry, Example, TrainPlan, finetune, pretrain

SIZES, FEW = (3, 5, 10, 25, 50), 10
KELVIN, PICOSECONDS = (800.0, 2400.0), 4.0
UNSEEN, LIKE = 74, 73  # tungsten, which begins as tantalum
ALLOYS = (5, 20, 50)


def main() -> None:
    it = Experiment.parse("gain")
    silicon = it.structures("mlearn/Si_train.xyz.xz", "transfer/Si.xyz.xz")
    germanium = it.structures("mlearn/Ge_train.xyz.xz", "transfer/Ge.xyz.xz")
    test, held, rest = parted(germanium, (0.3, 0.1))
    sets = Sets(rest, held, test)
    sizes = (3, 4) if it.quick else SIZES
    source = silicon_network(it, silicon)
    curves = learning(it, source, sets, sizes, kernels=sizes)
    _say(it, "SchNet: structures of germanium", curves)
    for size in sizes:
        told = ratio(curves[f"finetuned {size}"], curves[f"scratch {size}"])
        it.say(
            f"\n{size} structures, fine-tuned / scratch: {told}; kernel / scratch: {ratio(curves[f'prior-kernel {size}'], curves[f'scratch {size}'])}"
        )
    if not it.quick:
        angular = silicon_network(it, silicon, "dimenet++", 1000)
        found = learning(it, angular, sets, (FEW,), "dimenet ", kernels=(), steps=400)
        _say(it, "DimeNet++: structures of germanium", found)
        it.say(f"\nDimeNet++, fine-tuned / scratch: {ratio(found[f'finetuned {FEW}'], found[f'scratch {FEW}'])}")
    _temperatures(it, source, germanium)
    _properties(it)
    _unseen(it)
    _figure(it, curves, sizes)
    it.finish()


_Runs = dict[str, list[dict[str, float]]]


def _say(it: Experiment, what: str, runs: _Runs) -> None:
    it.say(f"\n| {what} | | forces, meV/A | energy, meV/atom |\n|---|---|---|---|")
    for name, rows in runs.items():
        kind, size = name.split()
        it.say(f"| {kind} | {size} | {spread(rows)} | {spread(rows, 'energy_rmse')} |")


def _temperatures(it: Experiment, source: BackboneSpec, germanium: list[Example]) -> None:
    """Learned at one end of the temperatures, tested at the other."""
    known = sorted({value for example in germanium if (value := kelvin_of(example))})
    for learned, tested in ((known[0], known[-1]), (known[-1], known[0])):
        there, test = (
            [example for example in germanium if kelvin_of(example) == kelvin] for kelvin in (learned, tested)
        )
        held, rest = parted(there, (0.25,))
        size = min(4 if it.quick else FEW, len(rest))
        runs = learning(it, source, Sets(rest, held, test), (size,), f"{learned} K to {tested} K ")
        _say(it, f"learned at {learned} K, tested at {tested} K", runs)
        for name in ("finetuned", "prior-kernel"):
            it.say(f"\n{name} / scratch: {ratio(runs[f'{name} {size}'], runs[f'scratch {size}'])}")


def _properties(it: Experiment) -> None:
    """Networks of a few classical cells: lattice, elastic constants, a vacancy, a phonon, survival."""
    count = 12 if it.quick else 160
    source = classical.silicon_network(it, classical.frames("Si", count, 0))
    test, held, training = parted(classical.frames("Ge", count, 1), (0.4, 0.1))
    sizes = (4,) if it.quick else (3, FEW)
    jobs = [(way, size, seed) for way in ("transferred", "scratch") for size in sizes for seed in range(it.seeds)]
    key = "properties {} {}-{}".format
    it.run_all(
        [
            (
                key(*job),
                partial(_measured_network, it, source, job[0], subset(training, job[1], job[2]), held, test, job[2]),
            )
            for job in jobs
        ]
    )
    truth = it.run("properties of Stillinger-Weber", partial(_measured, it, classical.classical("Ge"), 0))
    names = [name for name in truth if name != "seconds"]
    it.say("\n| germanium | forces, meV/A | " + " | ".join(names) + " |\n|---|---|" + "---|" * len(names))
    it.say("| Stillinger-Weber | | " + " | ".join(f"{truth[name]:.3f}" for name in names) + " |")
    for way in ("transferred", "scratch"):
        for size in sizes:
            runs = [it.kept(key(way, size, seed)) for seed in range(it.seeds)]
            it.say(
                f"| {way}, {size} cells | {spread(runs)} | "
                + " | ".join(spread(runs, name, 2) for name in names)
                + " |"
            )


def _measured_network(
    it: Experiment,
    source: BackboneSpec,
    way: str,
    few: list[Example],
    held: list[Example],
    test: list[Example],
    seed: int,
) -> dict[str, float]:
    steps = 5 if it.quick else 1500
    plan = TrainPlan(steps=steps, seed=seed, validate_every=max(1, steps // 10))
    entry = Entry(classical.SCALE, {14: 32})
    network = _of_rates(
        it,
        TUNE_RATES[2:] if way == "transferred" else SCRATCH_RATES[:2],
        (lambda rate: finetune(load_backbone(source), few, held, _at(plan, rate), entry).backbone)
        if way == "transferred"
        else (lambda rate: pretrain(new_backbone(BackboneSpec("schnet")), few, held, _at(plan, rate)).backbone),
        held,
    )
    predictor = BackboneEnergies(network)
    return {**errors(predictor, test), **_measured(it, PredictorCalculator(predictor), seed)}


def _at(plan: TrainPlan, rate: float) -> TrainPlan:
    return TrainPlan(steps=plan.steps, seed=plan.seed, validate_every=plan.validate_every, learning_rate=rate)


def _of_rates(
    it: Experiment, rates: Sequence[float], train: Callable[[float], Backbone], held: list[Example]
) -> Backbone:
    """The network whose forces are best on the validation set."""
    made = [train(rate) for rate in (rates[:1] if it.quick else rates)]
    return min(made, key=lambda network: errors(BackboneEnergies(network), held)["force_rmse"])


def _measured(it: Experiment, calculator: Calculator, seed: int) -> dict[str, float]:
    """At 0 K: lattice constant (A), C11, C12, C44 (GPa), vacancy (eV), a phonon (THz); then survival (ps)."""
    cell = bulk("Ge", "diamond", classical.LATTICE["Ge"], cubic=True)
    cell.calc = calculator
    BFGS(FrechetCellFilter(cell, hydrostatic_strain=True), logfile=None).run(fmax=1e-3, steps=5 if it.quick else 100)
    constants = _elastic(cell, calculator)
    big = cell.repeat(2)
    found = {
        "lattice, A": float(cell.cell.lengths()[0]),
        "density, g/cm3": float(cell.get_masses().sum() / cell.get_volume() * 1.66053907),
        "C11": constants[0], "C12": constants[1], "C44": constants[2],
        "vacancy, eV": _vacancy(it, big, calculator),
        "optical phonon, THz": _optical(cell, calculator),
    }  # fmt: skip
    return {
        **found,
        **{f"survived {kelvin:.0f} K, ps": _survived(it, big, calculator, kelvin, seed) for kelvin in KELVIN},
    }


def _elastic(cell: Atoms, calculator: Calculator) -> tuple[float, float, float]:
    """By stresses of small strains, ions relaxed (GPa)."""
    found = []
    for voigt in (0, 3):
        stresses = []
        for size in (-0.005, 0.005):
            strain = np.eye(3)
            i, j = ((0, 0), (1, 2))[voigt == 3]
            strain[i, j] += size / (1 + (i != j))
            strain[j, i] = strain[i, j]
            moved = cell.copy()
            moved.set_cell(moved.cell.array @ strain, scale_atoms=True)
            moved.calc = calculator
            BFGS(moved, logfile=None).run(fmax=1e-3, steps=50)
            stresses.append(moved.get_stress() / units.GPa)
        found.append((stresses[1] - stresses[0]) / 0.01)
    return float(found[0][0]), float(found[0][1]), float(found[1][3])


def _vacancy(it: Experiment, big: Atoms, calculator: Calculator) -> float:
    big.calc = calculator
    whole = big.get_potential_energy()
    rest = big.copy()
    del rest[0]
    rest.calc = calculator
    BFGS(rest, logfile=None).run(fmax=0.01, steps=5 if it.quick else 150)
    return float(rest.get_potential_energy() - whole * len(rest) / len(big))


def _optical(cell: Atoms, calculator: Calculator) -> float:
    """Of the two sublattices against each other, by the force of a small shift."""
    primitive = bulk("Ge", "diamond", float(cell.cell.lengths()[0]))
    primitive.positions[0, 0] += 0.01
    primitive.calc = calculator
    force = -primitive.get_forces()[0, 0]
    curvature = force / 0.01 / (primitive.get_masses()[0] / 2)
    return float(np.sign(curvature) * np.sqrt(abs(curvature)) * units.fs * 1e3 / (2 * np.pi))


def _survived(it: Experiment, big: Atoms, calculator: Calculator, kelvin: float, seed: int) -> float:
    """Until atoms collide or forces explode."""
    atoms = big.copy()
    atoms.calc = calculator
    generator = np.random.default_rng(seed)
    thermalize_momenta(atoms, 2 * kelvin, rng=generator)
    dynamics = Langevin(
        atoms, 2.0 * units.fs, temperature_K=kelvin, friction=0.01 / units.fs, rng=generator, fixcm=False
    )
    steps = 4 if it.quick else round(PICOSECONDS / 0.002)
    with kept_memory():
        for step in range(steps):
            dynamics.run(1)
            nearest = atoms.get_all_distances(mic=True) + 1e3 * np.eye(len(atoms))
            if not (np.abs(atoms.get_forces()).max() < 60.0 and nearest.min() > 1.2):
                return 0.002 * step
    return 0.002 * steps


def _unseen(it: Experiment) -> None:
    """A network of alloys without tungsten; tungsten begins as tantalum."""
    whole = it.structures("monbtaw/binaries_train.xyz.xz", "") if not it.quick else []
    if not whole:
        it.say("\nan unseen element: not in the quick form, whose data hold no alloy of tungsten")
        return
    parts = dealt(whole, 10, 10)
    examples = [example for part in parts for example in part]
    without, with_it = ([one for one in examples if (UNSEEN in one.atoms.numbers) == has] for has in (False, True))
    path = it.folder / "no-tungsten.pt"
    if not path.exists():
        held, training = parted(without[:900], (0.1,))
        plan = TrainPlan(steps=3000, learning_rate=3e-3)
        save_backbone(pretrain(new_backbone(BackboneSpec("schnet")), training, held, plan).backbone, path)
    source = BackboneSpec("schnet", checkpoint=str(path))
    held, test, rest = with_it[:30], with_it[30:180], with_it[180:]
    jobs = [(way, size, seed) for way in ("finetuned", "scratch") for size in ALLOYS for seed in range(it.seeds)]
    runs = it.run_all(
        [
            (f"unseen {way} {size}-{seed}", partial(_tungsten, source, way, subset(rest, size, seed), held, test, seed))
            for way, size, seed in jobs
        ]
    )
    found: _Runs = {}
    for (way, size, _), run in zip(jobs, runs, strict=True):
        found.setdefault(f"{way} {size}", []).append(run)
    _say(it, "alloys with tungsten, unseen before", found)


def _tungsten(
    source: BackboneSpec, way: str, few: list[Example], held: list[Example], test: list[Example], seed: int
) -> dict[str, float]:
    plan = TrainPlan(steps=600, seed=seed)
    entry = Entry(1.0, {z: z for z in (41, 42, 73)} | {LIKE: UNSEEN}) if way == "finetuned" else None
    rates = TUNE_RATES[1:] if way == "finetuned" else SCRATCH_RATES
    made = (lambda rate: finetune(load_backbone(source), few, held, _at(plan, rate), entry)) if entry else (lambda rate: pretrain(new_backbone(BackboneSpec("schnet")), few, held, _at(plan, rate)))  # fmt: skip
    network, rate = tuned(rates, made)
    return {**errors(BackboneEnergies(network), test), "rate": rate}


def _figure(it: Experiment, curves: Mapping[str, list[dict[str, float]]], sizes: Sequence[int]) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(8.6, 3.4))
    for axis, key, label in zip(
        axes, ("force_rmse", "energy_rmse"), ("force RMSE (meV/Å)", "energy RMSE (meV/atom)"), strict=True
    ):
        for colour, (kind, title) in enumerate((("scratch", "from scratch"), ("finetuned", "fine-tuned from silicon"), ("prior-kernel", "scaled silicon as prior, kernel"))):  # fmt: skip
            values = np.array([[run[key] for run in curves[f"{kind} {size}"]] for size in sizes])
            axis.fill_between(sizes, values.min(1), values.max(1), color=f"C{colour}", alpha=0.15)
            axis.plot(sizes, values.mean(1), "o-", ms=3, color=f"C{colour}", label=title)
        axis.set(xscale="log", yscale="log", xlabel="structures of germanium", ylabel=label)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(it.figures / "papers_gain.png", dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
