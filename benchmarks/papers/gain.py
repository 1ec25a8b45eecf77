"""Across elements: what transfer gains by the number of structures, by temperature, in properties, for an unseen element.

Roecken and Zavadlav 2025 (arXiv 2502.13522) find that a network of silicon helps one of germanium most where data are few. Here
germanium by SchNet with 3 to 50 structures and by DimeNet++ with ten; learned at 300 K and tested at the highest temperature, and
the other way; properties of germanium, and how long it survives 800 and 2400 K, with Stillinger-Weber as the truth; and tungsten,
which a network of Mo, Nb and Ta never saw, from few alloys that hold it.

    python -m benchmarks.papers.gain [--quick]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from ase.build import bulk
from ase.calculators.calculator import Calculator

from benchmarks.papers import classical
from benchmarks.papers.common import Experiment, dealt, errors, parted, ratio, spread, subset, tuned
from benchmarks.papers.drawing import band, logarithmic, numbers_at, values_of
from benchmarks.papers.elements import SCRATCH_RATES, TUNE_RATES, Sets, kelvin_of, learning, silicon_network
from mekrr_scale.backbones import Backbone, BackboneEnergies, BackboneSpec, load_backbone, new_backbone, save_backbone
from mekrr_scale.checks import CHECKS
from mekrr_scale.errors import SimulationError
from mekrr_scale.models import PredictorCalculator
from mekrr_scale.structures import relaxed
from mekrr_scale.transfer import Entry, Example, TrainPlan, TrainReport, finetune, pretrain

SIZES, FEW = (3, 5, 10, 25, 50), 10
KELVIN = (800.0, 2400.0)
PROPERTIES = {  # check and quantity
    "lattice, A": ("lattice", "a"), "C11": ("elastic", "C11"), "C12": ("elastic", "C12"), "C44": ("elastic", "C44"),
    "highest phonon, THz": ("phonons", "highest frequency"), "vacancy, eV": ("vacancy", "vacancy energy"),
}  # fmt: skip
DALTONS = 72.63  # of an atom of germanium
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
    it.header(what, "", "forces, meV/A", "energy, meV/atom")
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
    it.header("germanium", "forces, meV/A", *names)
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
    entry = Entry(classical.SCALE, {14: 32}) if way == "transferred" else None
    network, _ = _learned(source, entry, few, held, plan, 1 if it.quick else 2)
    predictor = BackboneEnergies(network)
    return {**errors(predictor, test), **_measured(it, PredictorCalculator(predictor), seed)}


def _learned(
    source: BackboneSpec, entry: Entry | None, few: list[Example], held: list[Example], plan: TrainPlan, rates: int
) -> tuple[Backbone, float]:
    """Fine-tuned from the source through an entry, by the largest rates; without an entry a new SchNet, by the smallest."""

    def train(rate: float) -> TrainReport:
        at = replace(plan, learning_rate=rate)
        if entry is None:
            return pretrain(new_backbone(BackboneSpec("schnet")), few, held, at)
        return finetune(load_backbone(source), few, held, at, entry)

    return tuned(SCRATCH_RATES[:rates] if entry is None else TUNE_RATES[-rates:], train)


def _measured(it: Experiment, calculator: Calculator, seed: int) -> dict[str, float]:
    """By the package's checks at the potential's own minimum; then how long dynamics survive. NaN of what comes to no rest."""
    found = dict.fromkeys(PROPERTIES, float("nan"))
    try:
        cell = relaxed(bulk("Ge", "diamond", classical.LATTICE["Ge"], cubic=True), calculator, cell=True)
        for name, (check, quantity) in PROPERTIES.items():
            found[name] = CHECKS[check].measure(cell.copy(), calculator)[quantity]
    except SimulationError as error:
        print(f"  {error}", flush=True)
    found["density, g/cm3"] = 1.66053907 * 8 * DALTONS / found["lattice, A"] ** 3
    lasted = {
        f"survived {kelvin:.0f} K, ps": classical.simulate(it, calculator, seed, kelvin).survived for kelvin in KELVIN
    }
    return {**found, **lasted}


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
    entry = Entry(1.0, {z: z for z in (41, 42, 73)} | {LIKE: UNSEEN}) if way == "finetuned" else None
    network, rate = _learned(source, entry, few, held, TrainPlan(steps=600, seed=seed), 3)
    return {**errors(BackboneEnergies(network), test), "rate": rate}


def _figure(it: Experiment, curves: Mapping[str, list[dict[str, float]]], sizes: Sequence[int]) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(8.6, 3.4))
    for axis, key, label in zip(
        axes, ("force_rmse", "energy_rmse"), ("force RMSE (meV/Å)", "energy RMSE (meV/atom)"), strict=True
    ):
        for colour, (kind, title) in enumerate((("scratch", "from scratch"), ("finetuned", "fine-tuned from silicon"), ("prior-kernel", "scaled silicon as prior, kernel"))):  # fmt: skip
            runs = [curves[f"{kind} {size}"] for size in sizes]
            band(axis, sizes, values_of(runs, key), f"C{colour}", label=title)
        logarithmic(axis, "structures of germanium", label)
        numbers_at(axis, sizes)
    axes[0].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(it.figures / "papers_gain.png", dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
