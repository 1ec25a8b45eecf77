"""Transfer across elements: a silicon potential becomes one of germanium.

Roecken and Zavadlav 2025 (arXiv 2502.13522) train DimeNet++ on silicon and fine-tune it with few
structures of germanium. Here a SchNet (64 channels, 3 interactions, 5 angstrom) on the mlearn data
(VASP PBE; Zuo et al. 2020): ten cells of germanium against training from scratch with the same
steps and learning rates of which a validation set chooses; geometries scaled by the ratio of the
lattice constants; a kernel on the scaled silicon network as prior mean; cold data for hot tests.

    python -m benchmarks.papers.elements [--quick]
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from benchmarks.papers import classical
from benchmarks.papers.common import Experiment, disjoint, errors, parted, ratio, spread, subset, tuned
from mekrr_scale.backbones import Backbone, BackboneEnergies, BackboneSpec, load_backbone, new_backbone, save_backbone
from mekrr_scale.pipeline import FitPlan, KernelPlan, LandmarkPlan, RowPlan, Validation
from mekrr_scale.solvers import Direct
from mekrr_scale.transfer import Entry, Example, TrainPlan, TrainReport, adapted, finetune, fit_kernel, pretrain

SCALE = 0.949  # lattice constants of silicon and germanium in PBE: 5.469 and 5.763 angstrom
TO_GERMANIUM = Entry(SCALE, {14: 32})
SCRATCH_RATES = (3e-3, 1e-2, 3e-2)
TUNE_RATES = (3e-5, 1e-4, 3e-4, 1e-3)


@dataclass(frozen=True)
class Sets:
    """Germanium to draw subsets of, to choose learning rates, and to measure errors on."""

    rest: list[Example]
    held: list[Example]
    test: list[Example]

    def __post_init__(self) -> None:
        disjoint(rest=self.rest, held=self.held, test=self.test)


def main() -> None:
    it = Experiment.parse("elements")
    silicon = it.structures("mlearn/Si_train.xyz.xz", "transfer/Si.xyz.xz")
    germanium = it.structures("mlearn/Ge_train.xyz.xz", "transfer/Ge.xyz.xz")
    source = silicon_network(it, silicon)
    test, held, rest = parted(germanium, (0.3, 0.1))
    few, more = (4, 8) if it.quick else (10, 50)
    it.say(f"Ge: {len(test)} structures to test, {len(held)} to validate, subsets of {len(rest)}; RMSE in meV/A")
    _zero_shot(it, source, rest, test, few)
    runs = learning(it, source, Sets(rest, held, test), (few, more))
    _ratios(it, runs, few, more)
    _temperature(it, source, germanium, few)
    classical.run(it)
    it.finish()


def silicon_network(it: Experiment, silicon: list[Example], network: str = "schnet", steps: int = 3000) -> BackboneSpec:
    """The silicon network."""
    path = it.folder / f"silicon-{network}.pt"
    if not path.exists() or it.quick:
        validation, training = parted(silicon, (0.15,))
        plan = TrainPlan(steps=10 if it.quick else steps, learning_rate=2e-3)
        report = pretrain(new_backbone(BackboneSpec(network)), training, validation, plan)
        save_backbone(report.backbone, path)
        it.say(f"Si: {len(training)} structures, {report.steps} steps: validation {report.best.errors}")
    return BackboneSpec(network, "interaction3" if network == "schnet" else None, checkpoint=str(path))


def _zero_shot(it: Experiment, source: BackboneSpec, rest: list[Example], test: list[Example], few: int) -> None:
    """No training: references alone are fitted to a few germanium structures."""
    rows = {}
    for name, scale in (("scaled", SCALE), ("unscaled", 1.0)):
        entry = replace(TO_GERMANIUM, length_scale=scale)

        def work(seed: int, entry: Entry = entry) -> dict[str, float]:
            ready = adapted(load_backbone(source), subset(rest, few, seed), entry)
            return errors(BackboneEnergies(ready), test)

        rows[name] = [it.run(f"zero-shot-{name}-{seed}", lambda seed=seed: work(seed)) for seed in range(it.seeds)]
    it.say("\n| zero-shot | forces | ratio |\n|---|---|---|")
    it.say(f"| silicon network on germanium, geometry unscaled | {spread(rows['unscaled'])} | |")
    it.say(f"| scaled by {SCALE} | {spread(rows['scaled'])} | {ratio(rows['scaled'], rows['unscaled'])} |")


def learning(
    it: Experiment,
    source: BackboneSpec,
    sets: Sets,
    sizes: tuple[int, ...],
    prefix: str = "",
    kernels: Sequence[int] | None = None,
    steps: int = 600,
) -> dict[str, list[dict[str, float]]]:
    """Errors of every way to learn, by name and size, over the seeds; kernels of the smallest size, or of those named."""
    steps = 5 if it.quick else steps
    kernels = (min(sizes),) if kernels is None else kernels
    jobs: dict[tuple[str, int, int], Callable[[], dict[str, float]]] = {}
    for size in sizes:
        for seed in range(it.seeds):
            learner = Learner(it, source, subset(sets.rest, size, seed), sets, TrainPlan(steps=steps, seed=seed))
            jobs["scratch", size, seed] = learner.scratch
            jobs["finetuned", size, seed] = learner.tune
            if size in kernels:
                jobs["prior-kernel", size, seed] = learner.kernel
    runs = it.run_all([(f"{prefix}{name}-{size}-{seed}", work) for (name, size, seed), work in jobs.items()])
    found: dict[str, list[dict[str, float]]] = {}
    for (name, size, _), run in zip(jobs, runs, strict=True):
        found.setdefault(f"{name} {size}", []).append(run)
    return found


@dataclass(frozen=True)
class Learner:
    """One subset of germanium, and the ways to learn from it."""

    it: Experiment
    source: BackboneSpec
    training: list[Example]
    sets: Sets
    plan: TrainPlan

    def _new(self) -> Backbone:
        return new_backbone(BackboneSpec(self.source.name))

    def scratch(self) -> dict[str, float]:
        return self._tuned(SCRATCH_RATES, lambda plan: pretrain(self._new(), self.training, self.sets.held, plan))

    def tune(self) -> dict[str, float]:
        return self._tuned(
            TUNE_RATES,
            lambda plan: finetune(load_backbone(self.source), self.training, self.sets.held, plan, TO_GERMANIUM),
        )

    def _tuned(self, rates: Sequence[float], train: Callable[[TrainPlan], TrainReport]) -> dict[str, float]:
        every = max(1, self.plan.steps // 12)
        backbone, rate = tuned(rates, lambda rate: train(replace(self.plan, learning_rate=rate, validate_every=every)))
        return {**errors(BackboneEnergies(backbone), self.sets.test), "rate": rate}

    def kernel(self) -> dict[str, float]:
        """A kernel on the scaled silicon network's features that corrects that network's own energies."""
        backbone = adapted(load_backbone(self.source), self.training, TO_GERMANIUM)
        atoms = sum(len(example.atoms) for example in self.training)
        plan = FitPlan(
            kernel=KernelPlan(length_scales="1x,2x,4x,8x", standardize="centre-per-species,scale-per-species"),
            landmarks=LandmarkPlan(count=min(1000, atoms)), baseline="backbone",
            rows=RowPlan(weights={"force": (1e-2, 1e-1, 1.0)}),
            solver=Direct(tuple(10.0 ** (k / 2) for k in range(-16, 1))),
            validation=Validation(min(5, len(self.training)), criterion={"force": 0.3}, uncertainty=False),
        )  # fmt: skip
        potential = fit_kernel(self.training, backbone, self.it.work, plan, 4 if self.it.quick else "all")
        return errors(potential, self.sets.test)


def _ratios(it: Experiment, runs: dict[str, list[dict[str, float]]], few: int, more: int) -> None:
    it.say("\n| learning | structures | forces | energy, meV/atom |\n|---|---|---|---|")
    for name, rows in runs.items():
        kind, size = name.split()
        it.say(f"| {kind} | {size} | {spread(rows)} | {spread(rows, 'energy_rmse')} |")
    tuned_few, kernel_few = runs[f"finetuned {few}"], runs[f"prior-kernel {few}"]
    it.say("\n| ratio of force RMSE | mean (lowest to highest) | limit |\n|---|---|---|")
    it.say(f"| fine-tuned with {few} / scratch with {few} | {ratio(tuned_few, runs[f'scratch {few}'])} | 0.92 |")
    it.say(f"| fine-tuned with {few} / scratch with {more} | {ratio(tuned_few, runs[f'scratch {more}'])} | 0.95 |")
    it.say(
        f"| scaled prior + kernel with {few} / scratch with {few} | {ratio(kernel_few, runs[f'scratch {few}'])} | 0.85 |"
    )


def _temperature(it: Experiment, source: BackboneSpec, germanium: list[Example], few: int) -> None:
    """Learned from cold dynamics, tested on the hottest."""
    kelvin = {example.id: kelvin_of(example) for example in germanium}
    known = [value for value in kelvin.values() if value]
    cold = [example for example in germanium if kelvin[example.id] == min(known)]
    hot = [example for example in germanium if kelvin[example.id] == max(known)]
    held, rest = parted(cold, (0.25,))
    few = min(few, len(rest))
    it.say(f"\n{len(rest)} structures at {min(known)} K ({few} of them used) for {len(hot)} at {max(known)} K:")
    runs = learning(it, source, Sets(rest, held, hot), (few,), "hot-")
    it.say("\n| learned cold, tested hot | forces |\n|---|---|")
    for name, rows in runs.items():
        it.say(f"| {name} | {spread(rows)} |")
    for name in ("finetuned", "prior-kernel"):
        it.say(f"\n{name} / scratch: {ratio(runs[f'{name} {few}'], runs[f'scratch {few}'])}")


def kelvin_of(example: Example) -> int:
    """The temperature that a structure's description names, or 0."""
    found = re.search(r"at (\d+) K", str(example.atoms.info.get("description", "")))
    return int(found[1]) if found else 0


if __name__ == "__main__":
    main()
