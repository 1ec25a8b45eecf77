"""What a user would do instead: error against time for networks that learn on, other kernels, and ours.

Five sets of data (3BPA, molybdenum, formate on Cu(110), CO on Pt(111) and on Pt(553)), 25 structures with forces, of
3BPA 100 as well, three splits. Networks learn until their validation set says that they do no better: a fifth of the
structures chooses stopping and, in the first split, the rate, which a kernel does by cross-validation. CHGNet and
SevenNet-0 with all weights free, SevenNet-0 by schedules as short as a kernel takes as well, CHGNet frozen up to its
first convolution, a SchNet from scratch; ridge regression and kernels on the networks' features, two of them on those
of 7net-l3i5, whose weights are in the same wheel, along four times as many directions, and along eight times as many,
which takes about as long as a schedule; the kernel that cross-validation chooses, at the time of all of them; a kernel
on SOAP (dscribe, where it is installed) by the same solver, beside ours on energies alone, as our store takes a
descriptor's energies.
franken on the same network is in `benchmarks against_finetuning`. Seconds are the processor's, one thread, from
structures in memory to a model that predicts: loading, extraction, and in the first split the rates that are tried;
sets are compared by the mean of the others.

    python -m benchmarks.papers.opponents [--quick] [--sets formate] [--ways 'kernel, CHGNet'] [--report]
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np

from benchmarks.measuring import cpu_seconds
from benchmarks.papers.common import Experiment, dealt, disjoint, errors, spread
from benchmarks.papers.drawing import legend_below, logarithmic
from mekrr_scale.arrays import kept_memory
from mekrr_scale.backbones import BackboneEnergies, BackboneSpec, load_backbone, new_backbone
from mekrr_scale.models import Potential
from mekrr_scale.pipeline import FitPlan, KernelPlan, LandmarkPlan, Validation, evaluate_store, fit
from mekrr_scale.store import FeatureStore, FeatureWriter
from mekrr_scale.transfer import BlockPlan, Example, TrainPlan, TrainReport, finetune, fit_kernel, pretrain

SETS = {  # file, directions of each structure, and how many structures are learned
    "3BPA": ("mol_3bpa/train_300K", 32, (25, 100)),
    "molybdenum": ("mlearn/Mo_train", 16, (25,)),
    "formate": ("hcoo_cu110/train", 16, (25,)),
    "Pt(111)": ("pt_co/pt111_train", 16, (25,)),
    "Pt(553)": ("pt_co/pt553_train", 16, (25,)),
}
TEST, TOGETHER = 50, 5
STEPS, BATCH, PATIENCE = 1200, 2, 8  # validations without progress, of forty
SHORT = (150, 300)  # steps of whole schedules that take about as long as a kernel
RATES = {"chgnet": (2e-3, 6e-3), "sevennet": (3e-4, 1e-3), "schnet": (3e-3, 1e-2)}
SOAP = {"r_cut": 5.0, "n_max": 6, "l_max": 4, "sigma": 0.4}
Found = dict[str, float]
Runs = dict[str, list[Found]]  # of all splits, by way


def main() -> None:
    it = Experiment.parse("opponents", tuple(SETS), tuple(WAYS))
    ways = {name: way for name, way in WAYS.items() if name in it.ways and (name in QUICK or not it.quick)}
    if not it.report and not importlib.util.find_spec("dscribe"):
        it.say("SOAP is left out: install dscribe")
        ways.pop(_SOAP, None)
    drawn: dict[str, dict[int, Runs]] = {}
    for name in ("formate",) if it.quick else it.sets:
        sizes = _sizes(it, name)
        tasks_of = [] if it.report else [_tasks(it, name, seed, sizes) for seed in range(it.seeds)]
        for splits in zip(*tasks_of, strict=True):  # the smallest first
            for tasks in (splits[:1], splits[1:]):  # the first split chooses rates
                jobs = [(way, task) for task in tasks for way in ways]
                it.run_all([(_key(way, task), partial(_timed, way, task)) for way, task in jobs])
        found = {size: runs for size in sizes if (runs := _finished(it, name, size, ways))}
        it.header(name, "structures", "energy RMSE, meV/atom", "force RMSE, meV/A", "CPU seconds")
        for size, runs in found.items():
            _table(it, name, size, runs)
        if any(map(_means, found.values())):
            drawn[name] = found
    if drawn:
        _figure(it, drawn)
    it.finish()


def _sizes(it: Experiment, name: str) -> Sequence[int]:
    return (6,) if it.quick else SETS[name][2]


@dataclass(frozen=True)
class Task:
    """Structures to learn from and to test on."""

    it: Experiment
    name: str
    learned: list[Example]
    test: list[Example]
    seed: int
    way: str = ""  # of those in WAYS

    def __post_init__(self) -> None:
        disjoint(learned=self.learned, test=self.test)

    @property
    def directions(self) -> int:
        return 2 if self.it.quick else SETS[self.name][1]

    def plan(self, forces: bool = True, **kernel: Any) -> FitPlan:
        """The defaults of the package, with 2000 landmarks; of energies alone, which displace no copies, an atom each at most."""
        count = 20 if self.it.quick else 2000
        if not forces:
            count = min(count, sum(len(example.atoms) for example in self.learned))
        return FitPlan(
            kernel=KernelPlan(**kernel),
            landmarks=LandmarkPlan(count=count),
            validation=Validation(2 if self.it.quick else 5, uncertainty=False),
            seed=self.seed,
        )


def _tasks(it: Experiment, name: str, seed: int, sizes: Sequence[int]) -> list[Task]:
    """Of every number of structures: the same ones are tested on, smaller sets are parts of larger ones."""
    if it.quick:
        examples = it.structures("", "hcoo_cu110/train.xyz.xz")[:8]
        return [Task(it, name, examples[:6], examples[6:], seed)]
    parts = dealt(it.structures(f"{SETS[name][0]}.xyz.xz", ""), 3, TOGETHER)
    learned = [example for k, part in enumerate(parts) if k != seed % 3 for example in part]
    order = np.random.default_rng(seed).permutation(len(learned))
    test = parts[seed % 3][:TEST]
    return [Task(it, name, [learned[i] for i in order[:size]], test, seed) for size in sizes if size <= len(learned)]


def _key(way: str, task: Task) -> str:
    return f"{task.name} {way} {len(task.learned)}-{task.seed}"


def _timed(way: str, task: Task) -> Found:
    begin = cpu_seconds()
    with kept_memory():
        predict = WAYS[way](replace(task, way=way))
        taken = cpu_seconds() - begin
        return {**predict(), "cpu_seconds": taken}


Learned = Callable[[], Found]  # what is left to do: the test


def _kernel(backbone: BackboneSpec, task: Task, forces: bool = True, more: int = 1, **kernel: Any) -> Learned:
    """On energies and forces, along so many times the directions (all, where there are no more), or on energies alone."""
    directions: int | Literal["none"] = more * task.directions if forces else "none"
    plan = task.plan(forces, **kernel)
    potential = fit_kernel(task.learned, load_backbone(backbone), task.it.work, plan, directions)

    def test() -> Found:
        found = errors(potential, task.test)
        if forces:
            return {**found, **_cross_validated(potential)}
        return {key: value for key, value in found.items() if key.startswith("energy")}

    return test


def _cross_validated(potential: Potential) -> Found:
    """What kernels are chosen by: the geometric mean of errors of energies (eV/atom) and forces (eV/angstrom)."""
    told = potential.model.validation
    return {"chosen_by": float(np.sqrt(float(told["energy_rmse"]) * float(told["force_rmse"])))}


def _soap(task: Task) -> Learned:
    """The same solver and kernel on a descriptor, energies alone."""
    species = sorted({z for example in task.learned for z in example.atoms.numbers.tolist()})
    store = _described(task, "learned", task.learned, species)
    model = fit(store, task.plan(forces=False)).model

    def test() -> Found:
        other = _described(task, "test", task.test, species)
        found = evaluate_store(model, other).metrics()
        for each in (store, other):
            shutil.rmtree(each.path)
        return {key: found[key] for key in ("energy_mae", "energy_rmse")}

    return test


def _described(task: Task, what: str, examples: Sequence[Example], species: Sequence[int]) -> FeatureStore:
    from dscribe import descriptors  # type: ignore[import-not-found]

    descriptor = descriptors.SOAP(species=species, periodic=True, compression={"mode": "crossover"}, **SOAP)
    folder = task.it.work / f"soap-{what}-{_key('', task)}"
    with FeatureWriter(folder, "soap", descriptor.get_number_of_features()) as writer:
        for example in examples:
            atoms = example.atoms.copy()
            if not atoms.pbc.any():  # dscribe's neighbours need a cell
                atoms.center(vacuum=SOAP["r_cut"])
            writer.add(
                atoms.numbers, descriptor.create(atoms).astype(np.float32), float(example.labels.energy or np.nan)
            )
    return FeatureStore(folder)


def _network(name: str, task: Task, frozen: str | None = None, steps: int = STEPS) -> Learned:
    """A pretrained network that goes on learning."""

    def train(learned: list[Example], held: list[Example], plan: TrainPlan) -> TrainReport:
        return finetune(load_backbone(name), learned, held, replace(plan, blocks=BlockPlan(freeze_up_to=frozen)))

    return _converged(name, task, train, steps)


def _scratch(task: Task) -> Learned:
    """A SchNet of random weights, eight times the steps."""

    def train(learned: list[Example], held: list[Example], plan: TrainPlan) -> TrainReport:
        return pretrain(new_backbone(BackboneSpec("schnet")), learned, held, plan)

    return _converged("schnet", task, train, 8 * STEPS)


def _converged(
    name: str, task: Task, train: Callable[[list[Example], list[Example], TrainPlan], TrainReport], steps: int
) -> Learned:
    """The rate and the step that the validation set likes best, of a schedule of at most so many steps."""
    held, learned = task.learned[::5], [one for place, one in enumerate(task.learned) if place % 5]
    plan = TrainPlan(steps=2 if task.it.quick else steps, batch=BATCH, seed=task.seed, patience=PATIENCE)
    rates = task.it.rates(_key(task.way, task)[:-2], RATES[name], first=not task.seed)
    reports = [(train(learned, held, replace(plan, learning_rate=rate)), rate) for rate in rates]
    report, rate = min(reports, key=lambda pair: pair[0].best.validation)
    told = {"rate": rate, "steps": float(report.steps), "best_step": float(report.best.step)}
    return lambda: {**errors(BackboneEnergies(report.backbone), task.test), **told}


_CHOSEN = "kernel chosen by cross-validation"
_ALONE = "energies alone"
_SOAP = f"{_ALONE}: kernel, SOAP"
_LEARNS = "SevenNet-0, all learns"
_SHORTER = {f"{_LEARNS}, {steps} steps": steps for steps in SHORT}
_KERNELS = ("kernel, 7net-l3i5 products", "kernel, 7net-l3i5")
_MORE_OF = {  # what has the colour of another way and is joined with it: the same with other directions or steps
    **{f"{kernel}, most directions": f"{kernel}, more directions" for kernel in _KERNELS},
    **dict.fromkeys(_SHORTER, _LEARNS),
}
_CHGNET, _SEVENNET = BackboneSpec("chgnet"), BackboneSpec("sevennet")
_L3I5 = BackboneSpec("sevennet", version="7net-l3i5")
_PRODUCTS = replace(_L3I5, invariants="products")
WAYS: Mapping[str, Callable[[Task], Learned]] = {
    "kernel, 7net-l3i5 products, more directions": partial(_kernel, _PRODUCTS, more=4),
    "kernel, 7net-l3i5, more directions": partial(_kernel, _L3I5, more=4),
    "kernel, 7net-l3i5 products, most directions": partial(_kernel, _PRODUCTS, more=8),
    "kernel, 7net-l3i5, most directions": partial(_kernel, _L3I5, more=8),
    "kernel, 7net-0 products": partial(_kernel, BackboneSpec("sevennet", invariants="products")),
    "kernel, 7net-0": partial(_kernel, _SEVENNET),
    "kernel, CHGNet": partial(_kernel, _CHGNET),
    "ridge regression, 7net-0": partial(_kernel, _SEVENNET, name="linear", length_scales="1x"),
    _LEARNS: partial(_network, "sevennet"),
    **{way: partial(_network, "sevennet", steps=steps) for way, steps in _SHORTER.items()},
    "CHGNet, all learns": partial(_network, "chgnet"),
    "CHGNet, frozen up to conv1": partial(_network, "chgnet", frozen="conv1"),
    "SchNet from scratch": _scratch,
    f"{_ALONE}: kernel, 7net-0": partial(_kernel, _SEVENNET, forces=False),
    _SOAP: _soap,
}
QUICK = ("kernel, 7net-0", "ridge regression, 7net-0", "CHGNet, frozen up to conv1", "SchNet from scratch", _SOAP)


def _finished(it: Experiment, name: str, size: int, ways: Iterable[str]) -> Runs:
    """Of the ways that are finished the runs of all splits; first of what cross-validation chooses among features, if it can."""
    keys = {way: [f"{name} {way} {size}-{seed}" for seed in range(it.seeds)] for way in ways}
    found = {way: [it.kept(key) for key in each] for way, each in keys.items() if all(map(it.has, each))}
    kernels = [runs for way, runs in found.items() if way.startswith("kernel") and way not in _MORE_OF]
    return {**chosen(list(zip(*kernels, strict=True))), **found}


def chosen(splits: Sequence[Sequence[Found]]) -> Runs:
    """Of every split the kernel with the lowest cross-validated error, at the time of all that were tried.

    None where a recorded run does not tell what it had, or there is no choice.
    """
    if not splits or len(splits[0]) < 2 or not all("chosen_by" in run for runs in splits for run in runs):
        return {}
    best = [min(runs, key=lambda run: run["chosen_by"]) for runs in splits]
    times = [sum(run["cpu_seconds"] for run in runs) for runs in splits]
    return {_CHOSEN: [{**run, "cpu_seconds": taken} for run, taken in zip(best, times, strict=True)]}


def _table(it: Experiment, name: str, size: int, found: Runs) -> None:
    for way, runs in found.items():
        forces = spread(runs) if "force_rmse" in runs[0] else ""
        it.say(f"| {way} | {size} | {spread(runs, 'energy_rmse', 2)} | {forces} | {spread(runs, 'cpu_seconds', 0)} |")
    it.say(f"\n{name}, {size} structures: {ahead(found)}\n")


def _means(found: Runs) -> dict[str, tuple[float, float]]:
    """Seconds, without the first split, which tries every rate, and errors of the ways with forces."""
    return {
        way: (float(np.mean([run["cpu_seconds"] for run in runs[1:] or runs])), _mean_error(runs))
        for way, runs in found.items()
        if "force_rmse" in runs[0]
    }


def _mean_error(runs: Sequence[Found]) -> float:
    return float(np.mean([run["force_rmse"] for run in runs]))


def ahead(found: Runs) -> str:
    """For each kernel whether it has less force error than all else that takes no longer; and what is best of the rest."""
    means = _means(found)
    others = {way: mean for way, mean in means.items() if not way.startswith("kernel")}
    told = []
    for way, (seconds, error) in means.items():
        if way in others:
            continue
        better = [
            f"{other} ({wrong:.1f} in {taken:.0f} s)"
            for other, (taken, wrong) in others.items()
            if taken <= seconds and wrong <= error
        ]
        verdict = f"behind {' and '.join(better)}" if better else "ahead of all that take no longer"
        told.append(f"{way} ({error:.1f} meV/A in {seconds:.0f} s) is {verdict}")
    if others:
        best = min(others, key=lambda way: others[way][1])
        told.append(f"the best opponent, {best}, has {others[best][1]:.1f} in {others[best][0]:.0f} s")
    return "; ".join(told)


def _figure(it: Experiment, found: Mapping[str, Mapping[int, Runs]]) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(found), figsize=(3.6 * len(found) + 1.5, 4.6), squeeze=False)
    there = {way for sizes in found.values() for runs in sizes.values() for way in _means(runs)}
    drawn = {_MORE_OF.get(way, way) for way in there}
    colours = {way: f"C{place}" for place, way in enumerate(way for way in WAYS if way in drawn)}
    colours |= dict.fromkeys(there & {_CHOSEN}, "black")
    for way, colour in colours.items():
        axes[0, 0].plot([], [], "o", ms=7, color=colour, label=way)
    for axis, (name, sizes) in zip(axes.flat, found.items(), strict=True):
        for runs_of, marker in zip(sizes.values(), "os", strict=False):
            means = _means(runs_of)
            for way, mean in means.items():
                colour = colours[_MORE_OF.get(way, way)]
                times, wrong = ([run[key] for run in runs_of[way]] for key in ("cpu_seconds", "force_rmse"))
                axis.plot(times, wrong, marker, ms=3, color=colour, alpha=0.4)
                axis.plot(*mean, marker, ms=7, color=colour)
            for way, colour in colours.items():
                line = sorted(mean for each, mean in means.items() if _MORE_OF.get(each, each) == way)
                axis.plot(*np.transpose(line), color=colour, lw=1)
        logarithmic(axis, "CPU time (s)", "force RMSE (meV/Å)", numbers="xy")
        axis.set_title(name)
    legend_below(figure, axes[0, 0], 2 if len(found) == 1 else 4)
    figure.savefig(it.figures / "papers_opponents.png", dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
