"""Learning curves by the level of freezing, on two sets of data, and the kernel beside them.

Radova, Stark, Allen, Maurer and Bartok 2025 (arXiv 2502.15582) give errors of partly frozen MACE models against the amount of data.
Here CHGNet, formate on Cu(110) and Mo-Nb-Ta-W alloys: 5 to 100 % of 825 structures, nothing frozen, frozen up to the first
and to the third convolution, a SchNet from scratch, and the kernel on the frozen network's features; every point by
`run_curve`, as the command `curve` does it. Rates are chosen on 24 other structures with a tenth of the data, and kept.
Energies stand also per cell and in kcal/mol, and the reference calculations that are saved as a number.

    python -m benchmarks.papers.freezing [--quick] [--sets formate]
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
from ase.units import kcal, mol

from benchmarks.papers.common import Experiment, dealt, disjoint, spread
from benchmarks.papers.drawing import band, logarithmic, values_of
from mekrr_scale.backbones import BackboneSpec
from mekrr_scale.pipeline import FitPlan, LandmarkPlan, Validation
from mekrr_scale.transfer import CurvePlan, Example, TrainPlan, Variant, run_curve

SETS = {
    "formate": ("hcoo_cu110/train", "hcoo_cu110/val"),
    "Mo-Nb-Ta-W": tuple(f"monbtaw/{name}_train" for name in ("Mo", "Nb", "Ta", "W", "binaries")),
}
WHOLE, HELD, TEST = 825, 24, 142
PARTS = (0.05, 0.1, 0.2, 0.5, 1.0)
CHOOSES = 0.1  # the part with which rates are chosen
WAYS = {
    "finetune": "nothing frozen",
    "frozen:conv1": "frozen up to conv1",
    "frozen:conv3": "frozen up to conv3",
    "scratch:schnet-small": "SchNet from scratch",
    "kernel": "kernel, frozen features",
}
RATES = {"finetune": (2e-3, 6e-3), "frozen:conv1": (2e-3, 6e-3), "frozen:conv3": (2e-3, 6e-3), "scratch:schnet-small": (3e-3, 1e-2)}  # fmt: skip
FEW_STEPS, STEPS = 1000, 3000  # up to a fifth of the data, and beyond; one structure each, of SchNet four
KCAL = 1e3 * kcal / mol  # meV


@dataclass(frozen=True)
class Split:
    """Structures to learn from, to choose rates by, and to test on."""

    training: list[Example]
    held: list[Example]
    test: list[Example]

    def __post_init__(self) -> None:
        disjoint(training=self.training, held=self.held, test=self.test)

    def sizes(self, quick: bool) -> dict[float, int]:
        parts = (0.5, 1.0) if quick else PARTS
        return {part: max(2, round(part * len(self.training))) for part in parts}

    @property
    def atoms(self) -> float:
        """Of a structure of the test, in the mean."""
        return float(np.mean([len(example.atoms) for example in self.test]))


def main() -> None:
    it = Experiment.parse("freezing", tuple(SETS))
    found = {}
    for name in ("formate",) if it.quick else it.sets:
        split = _split(it, name)
        first = [(way, min(split.sizes(it.quick), key=lambda part: abs(part - CHOOSES)), 0) for way in WAYS]
        rest = [(way, part, seed) for part in split.sizes(it.quick) for seed in range(it.seeds) for way in WAYS]
        for jobs in (first, [job for job in rest if job not in first]):
            it.run_all([(_key(name, *job), partial(_point, it, name, split, *job)) for job in jobs])
        found[name] = {
            way: {
                part: [it.kept(_key(name, way, part, seed)) for seed in range(it.seeds)]
                for part in split.sizes(it.quick)
            }
            for way in WAYS
        }
        _tables(it, name, split, found[name])
    _figure(it, found)
    it.finish()


def _split(it: Experiment, name: str) -> Split:
    """Formate comes with its test; of alloys ten consecutive frames stand together."""
    if it.quick:
        examples = it.structures("", "hcoo_cu110/train.xyz.xz")
        return Split(examples[:6], examples[6:8], examples[8:10])
    if name == "formate":
        training, test = (it.structures(f"{file}.xyz.xz", "") for file in SETS[name])
        held, rest = training[:: len(training) // HELD][:HELD], training
        chosen = {example.id for example in held}
        return Split([example for example in rest if example.id not in chosen], held, test)
    examples = [example for file in SETS[name] for example in it.structures(f"{file}.xyz.xz", "")]
    blocks = [example for part in dealt(examples, 100, 10) for example in part]
    ends = (WHOLE, WHOLE + HELD, WHOLE + HELD + TEST)
    return Split(blocks[: ends[0]], blocks[ends[0] : ends[1]], blocks[ends[1] : ends[2]])


def _key(name: str, way: str, part: float, seed: int) -> str:
    return f"{name} {way.replace(':', ' ')} {part:g}-{seed}"


def _point(it: Experiment, name: str, split: Split, way: str, part: float, seed: int) -> dict[str, float]:
    """One run of a curve."""
    sizes = split.sizes(it.quick)
    chooses = min(sizes, key=lambda one: abs(one - CHOOSES))
    rates = it.rates(_key(name, way, chooses, 0)[:-2], RATES.get(way, (1e-3,)), first=part == chooses and not seed)
    steps = 2 if it.quick else FEW_STEPS if part <= 0.2 else STEPS
    plan = CurvePlan(
        sizes=(sizes[part],),
        variants=(Variant.parse(way),),
        backbone=BackboneSpec("chgnet"),
        repeats=1,
        rates=tuple(rates),
        train=TrainPlan(steps=steps, batch=4 if way.startswith("scratch") else 1, validate_every=max(1, steps // 10)),
        kernel=FitPlan(
            landmarks=LandmarkPlan(count=20 if it.quick else 2000),
            baseline="composition" if it.quick else "backbone,composition",
            validation=Validation(2 if it.quick else 5, uncertainty=False),
        ),
        seed=seed,
    )
    folder = it.folder / "curves" / _key(name, way, part, seed).replace(" ", "_")
    (found,) = run_curve(split.training, split.held, split.test, folder, plan)
    told = {key: value for key, value in asdict(found).items() if isinstance(value, float) and key != "seconds"}
    return {**told, "rate": found.rate or 0.0}


_Runs = Mapping[str, Mapping[float, list[dict[str, float]]]]


def _tables(it: Experiment, name: str, split: Split, found: _Runs) -> None:
    sizes = split.sizes(it.quick)
    for key, unit in (("force_rmse", "forces, meV/A"), ("energy_rmse", "energy, meV/atom")):
        it.header(f"{name}: {unit}", *(f"{100 * part:g} % ({size})" for part, size in sizes.items()))
        for way, label in WAYS.items():
            it.say(f"| {label} | " + " | ".join(spread(found[way][part], key) for part in sizes) + " |")
    it.header(
        f"{name}: energy of a cell ({split.atoms:.0f} atoms), meV and kcal/mol",
        *(f"{100 * part:g} %" for part in sizes),
    )
    for way, label in WAYS.items():
        means = [split.atoms * float(np.mean([run["energy_rmse"] for run in found[way][part]])) for part in sizes]
        it.say(f"| {label} | " + " | ".join(f"{mean:.0f}, {mean / KCAL:.2f}" for mean in means) + " |")
    scratch = {
        sizes[part]: float(np.mean([run["force_rmse"] for run in runs]))
        for part, runs in found["scratch:schnet-small"].items()
    }
    for way, label in WAYS.items():
        if not way.startswith("scratch"):
            curve = {
                sizes[part]: float(np.mean([run["force_rmse"] for run in runs])) for part, runs in found[way].items()
            }
            it.say(f"\n{name}, {label}: {_saved(curve, scratch)}")


def _saved(curve: Mapping[int, float], scratch: Mapping[int, float]) -> str:
    """How many structures reach the error that a network from scratch has with all of them."""
    whole = max(scratch)
    aim = scratch[whole]
    sizes, errors = np.array(list(curve), float), np.array(list(curve.values()))
    if errors.min() > aim:
        return f"does not reach the forces of the SchNet from scratch on all {whole}"
    if errors[0] <= aim:
        return f"reaches the forces of the SchNet from scratch on all {whole} with {sizes[0]:.0f} or fewer: {whole - sizes[0]:.0f} calculations saved"
    place = int(np.argmax(errors <= aim))
    logs = np.log(errors[[place - 1, place]]), np.log(sizes[[place - 1, place]])
    needed = float(np.exp(np.interp(-np.log(aim), -logs[0], logs[1])))
    return f"reaches the forces of the SchNet from scratch on all {whole} with {needed:.0f}: {whole - needed:.0f} calculations saved"


def _figure(it: Experiment, found: Mapping[str, _Runs]) -> None:
    import matplotlib.pyplot as plt

    figure, grid = plt.subplots(len(found), 2, figsize=(8.6, 3.4 * len(found)), squeeze=False)
    for axes, (name, runs) in zip(grid, found.items(), strict=True):
        for axis, key, label in zip(
            axes, ("force_rmse", "energy_rmse"), ("force RMSE (meV/Å)", "energy RMSE (meV/atom)"), strict=True
        ):
            for colour, (way, title) in enumerate(WAYS.items()):
                parts = list(runs[way])
                band(
                    axis,
                    [100 * part for part in parts],
                    values_of([runs[way][part] for part in parts], key),
                    f"C{colour}",
                    label=title,
                )
            logarithmic(axis, "part of the data (%)", label)
        axes[0].set_title(name, loc="left")
    grid[0, 0].legend(frameon=False, fontsize=7)
    figure.tight_layout()
    figure.savefig(it.figures / "papers_freezing.png", dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
