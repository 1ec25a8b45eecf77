"""Accuracy at size: more data than a dense kernel can hold, scored on real data.

Tungsten and beryllium (Wood et al. 2019, 14,320 structures) on CHGNet's features and on SevenNet-0's, Mo-Nb-Ta-W alloys (Li
et al. 2020, 5,280) on CHGNet's. Ten consecutive frames of a file stand together, all frames are dealt into 80 equal parts, eight of them are held
out, and 1, 2, 4 ... 72 of the others are learned: energies alone, and energies with forces along four random directions of
each structure. Errors of energies are those of all that is held out, of forces those of a sample of 200. One fit has one
thread; its memory is what it takes at most beside what the process held before: as it comes, with up to 2 GB of rows that
are kept, and bounded, with none.

    python -m benchmarks.papers.size [--quick] [--sets 'W and Be']
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from benchmarks.measuring import Peak, cpu_seconds, exponent
from benchmarks.papers.common import Experiment, errors, spread
from benchmarks.papers.divided import Divided
from benchmarks.papers.drawing import band, legend_below, logarithmic, values_of
from mekrr_scale.models import Potential
from mekrr_scale.pipeline import FitPlan, KernelPlan, LandmarkPlan, RowPlan, Validation, fit
from mekrr_scale.regression import Execution
from mekrr_scale.solvers import Direct, Exact, Falkon, Solver
from mekrr_scale.store import FeatureStore
from mekrr_scale.transfer import Example

PARTS, HELD, TOGETHER = 80, 8, 10
LEARNED = (1, 2, 4, 8, 16, 32, 64, 72)
MEASURED = (1, 4, 16)  # of which memory is measured, beside the most
FULL = LEARNED[-1:]
DIRECTIONS = 4
SAMPLE = 200  # held-out structures whose forces are compared
SCALES = ("2x", "4x", "8x", "16x")
MEMORY = 16e9  # bytes, of the machine that a dense matrix is to fit into


@dataclass(frozen=True)
class Setting:
    """What is fitted: rows, solver and landmarks, and to how many parts."""

    forces: bool
    solver: Solver
    landmarks: int = 0  # all structures are, of exact
    learned: Sequence[int] = LEARNED

    @property
    def name(self) -> str:
        rows = "energies and forces" if self.forces else "energies"
        return f"{rows}, {self.solver.name}" + (f", M = {self.landmarks}" if self.landmarks else "")

    def plan(self, scale: str, seed: int, folds: int, atoms: int) -> FitPlan:
        """As many landmarks as there are atoms, at most: energies alone have no tangents to displace copies along."""
        return FitPlan(
            kernel=KernelPlan(length_scales=scale),
            landmarks=LandmarkPlan(count=self.landmarks if self.forces else min(self.landmarks, atoms)),
            baseline="composition",
            rows=RowPlan(derivatives=self.forces),
            solver=self.solver,
            validation=Validation(folds, uncertainty=False),
            seed=seed,
        )


@dataclass(frozen=True)
class Data:
    """Files, the backbone of the features, and what is fitted to these."""

    files: Sequence[str]
    settings: Sequence[Setting]
    backbone: str = "chgnet"


_BOTH = (
    *(Setting(False, Direct(), count) for count in (1000, 4000)),
    *(Setting(True, Direct(), count) for count in (1000, 4000)),
)
_EXACT = Setting(False, Exact(), learned=LEARNED[:5])
_PURE = ("w_be/W_train", "w_be/Be_train")
SETS = {
    "W and Be": Data(
        _PURE,
        (
            *_BOTH, *(Setting(True, Direct(), count) for count in (500, 2000)), _EXACT,
            Setting(True, Direct(), 8000, FULL), *(Setting(True, Falkon(), count, FULL) for count in (4000, 8000)),
        ),
    ),
    "W and Be, SevenNet": Data(_PURE, (*_BOTH, Setting(True, Direct(), 8000, FULL), replace(_EXACT, learned=LEARNED[:4])), "sevennet"),
    "Mo-Nb-Ta-W": Data(tuple(f"monbtaw/{name}_train" for name in ("Mo", "Nb", "Ta", "W", "binaries")), (*_BOTH, _EXACT)),
}  # fmt: skip
QUICK = (
    Setting(False, Direct(), 20, (1, 2)),
    Setting(False, Exact(), learned=(1, 2)),
    Setting(True, Direct(), 20, (1, 2)),
)


def main() -> None:
    """Every set on its own: parts, features, fits, tables; then one figure."""
    it = Experiment.parse("size", tuple(SETS))
    found = {}
    for name in ("formate",) if it.quick else it.sets:
        found[name] = Curves.of(it, _divided(it, name), _examples(it, name))
        found[name].say(it)
    _figure(it, found)
    it.finish()


def _divided(it: Experiment, name: str) -> Divided:
    if it.quick:
        return Divided(it, name, 4, 1, DIRECTIONS)
    return Divided(it, name, PARTS, HELD, DIRECTIONS, SETS[name].backbone)


def _examples(it: Experiment, name: str) -> list[Example]:
    if it.quick:
        return it.structures("", "hcoo_cu110/train.xyz.xz")[:12]
    return [example for file in SETS[name].files for example in it.structures(f"{file}.xyz.xz", "")]


@dataclass(frozen=True)
class Curves:
    """All runs of a set of data, by setting and number of parts."""

    structures: dict[int, float]  # of each number of parts, in the mean
    atoms: float  # of a structure, in the mean
    runs: dict[Setting, dict[int, list[dict[str, float]]]]
    features: Sequence[dict[str, float]]
    memory: dict[Setting, dict[int, dict[str, float]]]  # of the first split

    @classmethod
    def of(cls, it: Experiment, data: Divided, examples: Sequence[Example]) -> Curves:
        """Features, the length scale, all fits, and what they take."""
        name, parts = data.name, data.extract(examples, 1 if it.quick else TOGETHER)
        scales = [
            it.run(f"{name} scale {scale}", partial(_scale, data, scale)) for scale in SCALES[: 1 + 3 * (not it.quick)]
        ]
        scale = SCALES[int(np.argmin([run["compared"] for run in scales]))]
        samples = [data.sample(parts, seed, SAMPLE) for seed in range(it.seeds)]
        jobs = [
            (setting, count, seed)
            for setting in (QUICK if it.quick else SETS[name].settings)
            for count in setting.learned
            for seed in range(it.seeds)
        ]
        done = it.run_all(
            [
                (
                    f"{name} {setting.name} {count}-{seed}",
                    partial(_one, data, setting, count, seed, scale, samples[seed]),
                )
                for setting, count, seed in jobs
            ]
        )
        runs: dict[Setting, dict[int, list[dict[str, float]]]] = {}
        for (setting, count, _), run in zip(jobs, done, strict=True):
            runs.setdefault(setting, {}).setdefault(count, []).append(run)
        features = [it.kept(data.key(k)) for k in range(len(parts))]
        total = sum(each["structures"] for each in features)
        counts = {count for setting in runs for count in runs[setting]}
        sizes = {
            count: float(np.mean([run["structures"] for each in runs.values() for run in each.get(count, [])]))
            for count in sorted(counts)
        }
        measured = [
            (setting, count)
            for setting in runs
            for count in sorted(runs[setting])
            if count in MEASURED or count == max(runs[setting])
        ]
        taken = [(setting, count, bounded) for setting, count in measured for bounded in (False, True)]
        peaks = it.run_all(
            [
                (
                    f"{name} {'bounded ' * bounded}memory {setting.name} {count}",
                    partial(_memory, data, setting, count, scale, bounded),
                )
                for setting, count, bounded in taken
            ],
            fresh=True,
        )
        memory: dict[Setting, dict[int, dict[str, float]]] = {}
        for (setting, count, bounded), peak in zip(taken, peaks, strict=True):
            one = memory.setdefault(setting, {}).setdefault(count, {})
            one |= {f"{'bounded_' * bounded}{key}": value for key, value in peak.items()}
        return cls(sizes, sum(each["atoms"] for each in features) / total, runs, features, memory)

    def say(self, it: Experiment) -> None:
        """Tables: errors, exponents, what the fits took."""
        sizes = [f"{size:.0f}" for size in self.structures.values()]
        total, seconds, size = (
            sum(each[key] for each in self.features) for key in ("structures", "seconds", "megabytes")
        )
        it.say(
            f"\n{total:.0f} structures of {self.atoms:.1f} atoms in the mean; features: {seconds:.0f} s of one core, {size:.0f} MB"
        )
        for key, unit in (
            ("energy_mae", "meV/atom"),
            ("force_mae", "meV/A"),
            ("energy_rmse", "meV/atom"),
            ("force_rmse", "meV/A"),
        ):
            it.header(f"{key}, {unit}", *sizes, "exponent")
            for setting, runs in self.runs.items():
                if key.startswith("force") and not setting.forces:
                    continue
                cells = [spread(runs[count], key) if count in runs else "" for count in self.structures]
                told = f"{self.falls(setting, key):.2f}" if len(runs) > 1 else ""
                it.say(f"| {setting.name} | " + " | ".join(cells) + f" | {told} |")
        it.header("seconds of one core; MB, and MB without rows that are kept", *sizes)
        for setting, runs in self.runs.items():
            cells = []
            for count in self.structures:
                told = [f"{np.mean([run['fit_seconds'] for run in runs[count]]):.0f}"] if count in runs else []
                peak = self.memory[setting].get(count)
                told += [f"{peak['peak_mb']:.0f}, {peak['bounded_peak_mb']:.0f}"] if peak else []
                cells.append("; ".join(told))
            it.say(f"| {setting.name} | " + " | ".join(cells) + " |")
        energies, forces = self.ends()
        it.say(f"\nexact, energies alone: {energies:.0f} structures in 16 GB, by the memory of its largest fits")
        it.say(
            f"a dense matrix of all energies and force components: {forces:.0f} structures in 16 GB, without a copy of it"
        )

    def falls(self, setting: Setting, key: str) -> float:
        """Exponent of the error over the larger half of the sizes."""
        counts = sorted(self.runs[setting])
        counts = counts[-max(2, len(counts) // 2) :]
        means = [float(np.mean([run[key] for run in self.runs[setting][count]])) for count in counts]
        return exponent([self.structures[count] for count in counts], means)

    def shown(self, setting: Setting, key: str) -> tuple[list[float], np.ndarray]:
        """Sizes, and values of all splits: memory (GB) was measured at some sizes of the first split."""
        if key.endswith("peak_mb"):
            measured = self.memory[setting].values()
            return [run["structures"] for run in measured], np.array([[1e-3 * run[key]] for run in measured])
        runs = self.runs[setting]
        return [self.structures[count] for count in runs], values_of(list(runs.values()), key)

    def ends(self) -> tuple[float, float]:
        """Structures that a dense matrix can take: as ``exact`` does it, and with every force component."""
        exact = next(setting for setting in self.runs if setting.solver.whole_structures)
        largest = self.memory[exact][max(self.memory[exact])]
        rows = (MEMORY / 8) ** 0.5
        held = max(1e6 * largest["peak_mb"], 1.0)
        return largest["structures"] * (MEMORY / held) ** 0.5, rows / (1 + 3 * self.atoms)


def _scale(data: Divided, scale: str) -> dict[str, float]:
    """The cross-validated error of one length scale, on the first parts of the first seed."""
    stores = data.stores(data.split(0)[0][: 1 if data.it.quick else 8])
    setting = Setting(True, Direct(), 20 if data.it.quick else 2000)
    report = fit(stores, setting.plan(scale, 0, _folds(data), _atoms(stores)))
    return {"compared": report.compared, **report.metrics()}


def _one(
    data: Divided, setting: Setting, count: int, seed: int, scale: str, sample: Sequence[Example]
) -> dict[str, float]:
    """One fit: errors on what is held out, and seconds."""
    learned, held = data.split(seed)
    stores = data.stores(learned[:count])
    plan = setting.plan(scale, seed, _folds(data), _atoms(stores))
    start = cpu_seconds()
    report = fit(stores, plan)
    seconds = cpu_seconds() - start
    forces = errors(Potential(report.model), sample) if setting.forces else {}
    return {
        **data.energy_errors(report.model, held),
        **{key: value for key, value in forces.items() if key.startswith("force")},
        "structures": float(sum(store.n_structures for store in stores)),
        "fit_seconds": seconds,
        "ridge": report.solution.ridges[0],
        "rank": float(report.solution.rank),
    }


def _memory(data: Divided, setting: Setting, count: int, scale: str, bounded: bool) -> dict[str, float]:
    """What the same fit takes at most, beside what the process held before, in MB; ``bounded`` keeps no rows."""
    stores = data.stores(data.split(0)[0][:count])
    plan = setting.plan(scale, 0, _folds(data), _atoms(stores))
    if bounded:
        plan = replace(plan, execution=Execution(memory=0))
    start = cpu_seconds()
    with Peak() as peak:
        fit(stores, plan)
    seconds = cpu_seconds() - start
    return {
        "peak_mb": peak.added,
        "structures": float(sum(store.n_structures for store in stores)),
        "fit_seconds": seconds,
    }


def _folds(data: Divided) -> int:
    return 2 if data.it.quick else 5


def _atoms(stores: Sequence[FeatureStore]) -> int:
    return sum(store.n_atoms for store in stores)


def _figure(it: Experiment, found: dict[str, Curves]) -> None:
    import matplotlib.pyplot as plt

    figure, grid = plt.subplots(len(found), 4, figsize=(15, 3.6 * len(found)), squeeze=False)
    labels = (
        "energy MAE (meV/atom)",
        "force MAE (meV/Å)",
        "memory of the fit (GB; dashed: no rows kept)",
        "fit, one core (s)",
    )
    keys = ("energy_mae", "force_mae", "peak_mb", "fit_seconds")
    for axes, (name, curves) in zip(grid, found.items(), strict=True):
        energies, forces = curves.ends()
        for axis, key, label in zip(axes, keys, labels, strict=True):
            for setting in curves.runs:
                if not setting.forces and key == "force_mae":
                    continue
                band(axis, *curves.shown(setting, key), lw=1.2, label=setting.name, **_style(setting))
                if key == "peak_mb":
                    bounded = {**_style(setting), "ls": "--", "marker": "", "alpha": 0.6}
                    band(axis, *curves.shown(setting, f"bounded_{key}"), lw=1.0, **bounded)
            for end, told in ((forces, "dense, all forces: 16 GB"), (energies, "exact: 16 GB")):
                if told.startswith("exact") and key == "force_mae":
                    continue
                axis.axvline(end, color="C3", ls="--", lw=1)
                place = {"transform": axis.get_xaxis_transform(), "va": "top", "ha": "right", "rotation": 90}
                axis.text(end, 0.98, told, color="C3", fontsize=7, **place)
            logarithmic(axis, "structures learned", label)
        axes[0].set_title(name, loc="left")
    legend_below(figure, grid[0, 0], 4)
    figure.savefig(it.figures / "papers_size.png", dpi=120)
    plt.close(figure)


def _style(setting: Setting) -> dict[str, str]:
    if setting.solver.whole_structures:
        return {"color": "C3", "marker": "s", "ls": ":"}
    colours = {500: "#9ecae1", 1000: "#6baed6", 2000: "#3182bd", 4000: "#08519c", 8000: "#041f40"}
    line = {"marker": "o", "ls": "-"} if setting.forces else {"marker": "s", "ls": ":"}
    if isinstance(setting.solver, Falkon):
        line = {"marker": "x", "ls": "-"}
    return {"color": colours.get(setting.landmarks, "0.4"), **line}


if __name__ == "__main__":
    main()
