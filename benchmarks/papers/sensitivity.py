"""What the choices of a fit are worth, all of them at once, and what atoms add to the energy along a reaction.

One pass over the rows gives every ridge and every weight; a pass for each length scale and alpha gives error surfaces.
CHGNet's features, M = 1000, five sets of data in five parts of consecutive frames, one of them held out: formate on Cu(110),
3BPA, ethanol and molybdenum with forces along four directions, CO on Pt(111) with energies alone. Then formate once more,
energies alone: what C, H, O and Cu add while the C-H bond breaks, for alpha = 0, 0.5 and 1, and what is said of the transition
state. Alpha is how far elements are kept apart: 1 wholly, 0 not at all (Falk et al. 2023, arXiv 2306.01589).

    python -m benchmarks.papers.sensitivity [--quick] [--sets formate 3BPA]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from ase.data import chemical_symbols

from benchmarks.papers.common import Experiment, spread
from benchmarks.papers.divided import Divided
from benchmarks.papers.drawing import band
from benchmarks.papers.parts import bond
from mekrr_scale.arrays import RowKind
from mekrr_scale.models import Model, Potential
from mekrr_scale.pipeline import FitPlan, KernelPlan, LandmarkPlan, RowPlan, Validation, evaluate_store, fit
from mekrr_scale.simulation import explain
from mekrr_scale.solvers import Direct
from mekrr_scale.transfer import Example

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SETS = {  # file, most structures, directions of each
    "formate": ("hcoo_cu110/train", 300, 4),
    "Pt(111)": ("pt_co/pt111_train", 300, 0),
    "3BPA": ("mol_3bpa/train_300K", 300, 4),
    "ethanol": ("mol_ethanol/pbe_svp_train", 400, 4),
    "molybdenum": ("mlearn/Mo_train", 200, 4),
}
SCALES, ALPHAS = (1, 2, 4, 8, 16), (0.0, 0.25, 0.5, 0.75, 1.0)
RIDGES = tuple(10.0**k for k in range(-12, -2))
WEIGHTS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
PARTS, TOGETHER = 5, 10
SHOWN = (0.0, 0.5, 1.0)  # alphas whose contributions are told
BINS = (0.0, 1.2, 1.4, 1.6, 1.8, 2.2, 2.8, 9.0)  # of the C-H distance, angstrom


def main() -> None:
    it = Experiment.parse("sensitivity", tuple(SETS))
    names = ("formate",) if it.quick else it.sets
    scales, alphas = (SCALES[2:3], ALPHAS[::4]) if it.quick else (SCALES, ALPHAS)
    for name in names:
        file, most, _ = SETS[name]
        examples = (
            it.structures("", "hcoo_cu110/train.xyz.xz")[:24] if it.quick else it.structures(f"{file}.xyz.xz", "")
        )
        _divided(it, name).extract(examples, 1 if it.quick else TOGETHER, most)
        jobs = [(scale, alpha, seed) for scale in scales for alpha in alphas for seed in range(it.seeds)]
        found = it.run_all([(_key(name, *job), partial(_surface, it, name, *job)) for job in jobs])
        surfaces = Surfaces(name, scales, alphas, it.seeds, dict(zip(jobs, found, strict=True)))
        surfaces.say(it)
        surfaces.draw(it)
    if "formate" in names:
        _along_the_bond(it)
    it.finish()


def _divided(it: Experiment, name: str) -> Divided:
    return Divided(it, name, 3 if it.quick else PARTS, directions=2 if it.quick else SETS[name][2])


def _key(name: str, scale: int, alpha: float, seed: int) -> str:
    return f"{name} scale {scale} alpha {alpha:g}-{seed}"


def _surface(it: Experiment, name: str, scale: int, alpha: float, seed: int) -> dict[str, float]:
    """Cross-validated errors for every ridge and weight, and held-out ones of what is chosen among these."""
    data = _divided(it, name)
    learned, (held,) = map(data.stores, data.split(seed))
    plan = FitPlan(
        kernel=KernelPlan(length_scales=f"{scale}x", alphas=alpha),
        landmarks=LandmarkPlan(count=20 if it.quick else 1000),
        baseline="composition",
        rows=RowPlan(weights={"force": WEIGHTS}),
        solver=Direct(ridges=RIDGES),
        validation=Validation(2 if it.quick else 5, uncertainty=False),
        seed=seed,
    )
    report = fit(learned, plan)
    told = {"held_energy": evaluate_store(report.model, held).metrics()["energy_rmse"], "chosen": report.compared}
    for point in report.solution.path.points:
        key = f"{point.ridge:.0e} {point.weights[RowKind.FORCE]:.0e}"
        told |= {f"{key} energy": 1e3 * point.rmse[RowKind.ENERGY], f"{key} force": 1e3 * point.rmse[RowKind.FORCE]}
    return told


class Point(NamedTuple):
    """A candidate."""

    scale: float  # of the median distance
    alpha: float
    ridge: float
    weight: float  # of forces


@dataclass(frozen=True)
class Surfaces:
    """All runs of a set of data."""

    name: str
    scales: Sequence[int]
    alphas: Sequence[float]
    seeds: int
    runs: Mapping[tuple[int, float, int], dict[str, float]]

    @property
    def weights(self) -> list[float]:
        """Of forces; a single one where there are none."""
        some = next(iter(self.runs.values()))
        return sorted({float(key.split()[1]) for key in some if key.endswith(" energy")})

    @property
    def forces(self) -> bool:
        return len(self.weights) > 1

    def error(self, kind: str, point: Point) -> float:
        """Mean over the splits (meV/atom, meV/angstrom)."""
        key = f"{point.ridge:.0e} {point.weight:.0e} {kind}"
        runs = [self.runs[int(point.scale), point.alpha, seed] for seed in range(self.seeds)]
        return float(np.mean([run.get(key, np.nan) for run in runs]))

    def compared(self, point: Point) -> float:
        """What candidates are compared by: the geometric mean of the errors of energies and forces."""
        energy = self.error("energy", point)
        return (energy * self.error("force", point)) ** 0.5 if self.forces else energy

    @property
    def values(self) -> dict[str, Sequence[float]]:
        """Of each choice."""
        return {"scale": self.scales, "alpha": self.alphas, "ridge": RIDGES, "weight": self.weights}

    def best(self, alpha: float | None = None) -> Point:
        """The candidate with the least error, of one alpha or of all."""
        alphas = self.alphas if alpha is None else (alpha,)
        points = [Point(*each) for each in product(self.scales, alphas, RIDGES, self.weights)]
        return min(points, key=lambda point: np.nan_to_num(self.compared(point), nan=np.inf))

    def say(self, it: Experiment) -> None:
        """By alpha: the best of everything else."""
        it.header(
            f"{self.name}: alpha", "length scale", "ridge", "force weight", "CV energy, meV/atom", "CV forces, meV/A",
            "held-out energy",
        )  # fmt: skip
        for alpha in self.alphas:
            point = self.best(alpha=alpha)
            held = [self.runs[int(point.scale), alpha, seed] for seed in range(self.seeds)]
            force = f"{self.error('force', point):.1f}" if self.forces else ""
            weight = f"{point.weight:.0e}" if self.forces else ""
            it.say(
                f"| {alpha:g} | {point.scale:g}x | {point.ridge:.0e} | {weight} | "
                f"{self.error('energy', point):.2f} | {force} | {spread(held, 'held_energy', 2)} |"
            )

    def draw(self, it: Experiment) -> None:
        """Surfaces over ridge, length scale, alpha and weight, through the best candidate."""
        import matplotlib.pyplot as plt

        best = self.best()
        figure, axes = plt.subplots(1, 4 if self.forces else 3, figsize=(15.5 if self.forces else 11.6, 3.5))
        cuts = [("scale", "ridge"), ("alpha", "ridge"), ("alpha", "scale")] + [("weight", "ridge")] * self.forces
        for axis, (across, down) in zip(axes, cuts, strict=True):
            self._surface(axis, across, down, best)
        figure.suptitle(f"{self.name}: {'geometric mean of energy and force errors' if self.forces else 'energy error'}, cross-validated, over the least", fontsize=9)  # fmt: skip
        figure.tight_layout()
        figure.savefig(it.figures / f"papers_sensitivity_{_plain(self.name)}.png", dpi=110)
        plt.close(figure)

    def _surface(self, axis: Axes, across: str, down: str, best: Point) -> None:
        """Two choices on the axes; the others as they are in the best candidate."""
        labels = {"scale": "length scale (of the median)", "alpha": "alpha", "ridge": "ridge", "weight": "force weight"}
        values, least = self.values, self.compared(best)
        rows = [[self.compared(best._replace(**{across: x, down: y})) for x in values[across]] for y in values[down]]
        table = np.array(rows)
        shown = axis.imshow(table / least, origin="lower", aspect="auto", cmap="viridis_r", vmin=1, vmax=2)
        for i, j in np.ndindex(table.shape):
            if np.isfinite(table[i, j]):
                axis.text(j, i, f"{table[i, j] / least:.2f}", ha="center", va="center", fontsize=6, color="w" if table[i, j] > 1.5 * least else "k")  # fmt: skip
        axis.set_xticks(range(len(values[across])), [f"{x:g}" for x in values[across]], fontsize=7)
        axis.set_yticks(range(len(values[down])), [f"{y:g}" for y in values[down]], fontsize=7)
        axis.set(xlabel=labels[across], ylabel=labels[down])
        axis.figure.colorbar(shown, ax=axis, extend="max")


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _along_the_bond(it: Experiment) -> None:
    """What each element adds to the energy while the bond breaks."""
    jobs = [(alpha, seed) for alpha in SHOWN for seed in range(it.seeds)]
    examples = it.structures("hcoo_cu110/train.xyz.xz", "hcoo_cu110/train.xyz.xz")[: 24 if it.quick else None]
    data = _bond(it)
    parts = data.extract(examples, 1 if it.quick else TOGETHER)
    held = {seed: [example for k in data.split(seed)[1] for example in parts[k]] for seed in range(it.seeds)}
    it.run_all(
        [(f"bond alpha {alpha:g}-{seed}", partial(_contributions, it, alpha, seed, held[seed])) for alpha, seed in jobs]
    )
    found = {alpha: [it.kept(f"bond alpha {alpha:g}-{seed}") for seed in range(it.seeds)] for alpha in SHOWN}
    places = [k for k in range(len(BINS) - 1) if all(f"{k} label" in run for runs in found.values() for run in runs)]
    elements = [chemical_symbols[z] for z in np.unique(examples[0].atoms.numbers)]
    for alpha, runs in found.items():
        it.header(f"alpha {alpha:g}: C-H, Å", *elements, "all", "DFT")
        for k in places:
            moved = [
                {key: run[f"{k} {key}"] - run[f"{places[0]} {key}"] for key in (*elements, "all", "label")}
                for run in runs
            ]
            cells = [spread(moved, key, 2) for key in (*elements, "all", "label")]
            it.say(f"| {BINS[k]:g} to {BINS[k + 1]:g} | " + " | ".join(cells) + " |")
    it.say("\neV beyond reference energies, means over held-out frames, less those of the shortest bonds; three splits")
    _bond_figure(it, found, places, elements)
    _transition_state(it, examples, elements)


def _bond(it: Experiment) -> Divided:
    return Divided(it, "bond", 3 if it.quick else PARTS)


def _bond_model(it: Experiment, alpha: float, seed: int) -> Model:
    path = it.folder / f"bond-{alpha:g}-{seed}.mekrr"
    if not path.exists():
        stores = _bond(it).stores(_bond(it).split(seed)[0])
        plan = FitPlan(
            kernel=KernelPlan(alphas=alpha),
            landmarks=LandmarkPlan(count=20 if it.quick else 1000),
            baseline="composition",
            validation=Validation(2 if it.quick else 5, uncertainty=False),
            seed=seed,
        )
        fit(stores, plan).model.save(path)
    return Model.load(path)


def _contributions(it: Experiment, alpha: float, seed: int, held: Sequence[Example]) -> dict[str, float]:
    """By bin of the bond's length: what the atoms of each element add, in the mean (eV)."""
    potential = Potential(_bond_model(it, alpha, seed))
    sums: dict[str, list[float]] = {}
    wrong = []
    for example in held:
        place = int(np.searchsorted(BINS, bond(example), side="right")) - 1
        found = explain(potential, example.atoms)
        energy = float(example.labels.energy or np.nan)
        wrong.append((float(found.energies.sum()) - energy) / len(example.atoms))
        for symbol, (_, total, _) in found.by_species().items():
            sums.setdefault(f"{place} {symbol}", []).append(total)
        sums.setdefault(f"{place} all", []).append(float(found.contributions.sum()))
        sums.setdefault(f"{place} label", []).append(energy - float(found.references.sum()))
    told = {key: float(np.mean(values)) for key, values in sums.items()}
    return {**told, "energy_rmse": 1e3 * float(np.sqrt(np.mean(np.square(wrong))))}


def _bond_figure(
    it: Experiment, found: Mapping[float, list[dict[str, float]]], places: Sequence[int], elements: Sequence[str]
) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(found), figsize=(4.2 * len(found), 3.6), sharey=True, squeeze=False)
    at = [f"{BINS[k]:g} to {BINS[k + 1]:g}" for k in places]
    for axis, (alpha, runs) in zip(axes.flat, found.items(), strict=True):
        for colour, key in enumerate((*elements, "all", "label")):
            values = np.array([[run[f"{k} {key}"] - run[f"{places[0]} {key}"] for run in runs] for k in places])
            style = {"label": {"color": "k", "ls": "--"}, "all": {"color": "k"}}.get(key, {"color": f"C{colour}"})
            band(axis, range(len(places)), values, marker="", label="DFT" if key == "label" else key, **style)
        axis.set_xticks(range(len(places)), at, rotation=45, ha="right", fontsize=7)
        axis.set(title=f"alpha = {alpha:g}", xlabel="C-H distance (Å)")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_ylabel("energy since the shortest bonds (eV)")
    axes[0, 0].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(it.figures / "papers_contributions.png", dpi=120)
    plt.close(figure)


def _transition_state(it: Experiment, examples: Sequence[Example], elements: Sequence[str]) -> None:
    """The frame whose bond is nearest to 1.6 angstrom beside one of the shortest: what is said of both."""
    middle = min(examples, key=lambda example: abs(bond(example) - 1.6))
    short = min(examples, key=bond)
    it.header("transition state less adsorbate, eV", *elements, "all", "likeness to the nearest landmarks: H, C")
    for alpha in SHOWN:
        potential = Potential(_bond_model(it, alpha, 0))
        after, before = explain(potential, middle.atoms), explain(potential, short.atoms)
        moved = [after.by_species()[symbol][1] - before.by_species()[symbol][1] for symbol in elements]
        total = float(after.contributions.sum() - before.contributions.sum())
        near = [float(after.similarity[after.species == z, 0].min()) for z in (1, 6)]
        it.say(
            f"| alpha {alpha:g} | "
            + " | ".join(f"{value:.2f}" for value in (*moved, total))
            + f" | {near[0]:.2f}, {near[1]:.2f} |"
        )


if __name__ == "__main__":
    main()
