"""Which ridge is taken where the folds disagree: the one of the lowest error, or the largest within one standard error.

Sets of data in parts of consecutive frames, CHGNet's features and a length scale of 8x. Of five parts one is held out, of
tungsten and beryllium (Wood et al. 2019) eight of eighty, where 2 to 32 others are learned. Both ridges are chosen among the
same cross-validated errors; held-out errors are those of all energies, and of the forces of 40 structures.

    python -m benchmarks.papers.ridges [--quick] [--sets formate]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from benchmarks.papers import sensitivity, size
from benchmarks.papers.common import Experiment, errors, spread
from benchmarks.papers.divided import Divided
from mekrr_scale.arrays import KINDS, RowKind
from mekrr_scale.models import Model, Potential
from mekrr_scale.pipeline import FitPlan, KernelPlan, LandmarkPlan, RowPlan, Validation, fit
from mekrr_scale.regression import Balanced
from mekrr_scale.solvers import Direct, PathPoint
from mekrr_scale.transfer import Example

METALS = "W and Be"
LEARNED = {METALS: (2, 4, 8, 16, 32)}  # parts; all that are not held out of the other sets
SAMPLE = 40
RULES = ("lowest", "chosen")
ERRORS = {"energy_mae": "energy MAE", "energy_rmse": "RMSE", "force_rmse": "force RMSE"}


def main() -> None:
    it = Experiment.parse("ridges", (*sensitivity.SETS, METALS))
    rows: list[tuple[str, list[dict[str, float]]]] = []
    for name in ("formate",) if it.quick else it.sets:
        data = _divided(it, name)
        parts = _extracted(it, data)
        for forces in (True, False) if data.directions else (False,):
            for count in LEARNED.get(name, (data.count - data.held,)):
                key = f"{name}, {'energies and forces' if forces else 'energies'}, {count}"
                jobs = [
                    (f"{key}-{seed}", partial(_both, data, forces, count, seed, data.sample(parts, seed, SAMPLE)))
                    for seed in range(it.seeds)
                ]
                rows.append((key, it.run_all(jobs)))
    _say(it, rows)
    it.finish()


def _divided(it: Experiment, name: str) -> Divided:
    if it.quick:
        return Divided(it, name, 3, directions=2)
    if name == METALS:
        return Divided(it, name, size.PARTS, size.HELD, size.DIRECTIONS)
    return Divided(it, name, sensitivity.PARTS, directions=sensitivity.SETS[name][2])


def _extracted(it: Experiment, data: Divided) -> list[list[Example]]:
    if it.quick:
        return data.extract(it.structures("", "hcoo_cu110/train.xyz.xz")[:24], 1)
    files, most = (size.SETS[METALS].files, None) if data.name == METALS else sensitivity.SETS[data.name][:2]
    files = (files,) if isinstance(files, str) else files
    return data.extract([e for file in files for e in it.structures(f"{file}.xyz.xz", "")], size.TOGETHER, most)


def _both(data: Divided, forces: bool, count: int, seed: int, sample: Sequence[Example]) -> dict[str, float]:
    """Held-out errors of what is chosen, and of the lowest point where that is another."""
    learned, held = data.split(seed)
    stores = data.stores(learned[:count])
    kinds = {RowKind.ENERGY, RowKind.FORCE} if forces else {RowKind.ENERGY}
    atoms = sum(store.n_atoms for store in stores)
    plan = FitPlan(
        kernel=KernelPlan(length_scales="8x"),
        landmarks=LandmarkPlan(count=min(20 if data.it.quick else 1000, atoms)),
        baseline="composition",
        rows=RowPlan(derivatives=forces),
        validation=Validation(2 if data.it.quick else 5, uncertainty=False),
        seed=seed,
    )
    report = fit(stores, plan)
    lowest = report.solution.path.lowest(Balanced(frozenset(kinds)))
    chosen = _errors(data, report.model, held, sample if forces else ())
    other = chosen
    if lowest.ridge != report.chosen.ridge:
        other = _errors(data, fit(stores, _of(plan, lowest)).model, held, sample if forces else ())
    told = {"chosen": {**chosen, "ridge": report.chosen.ridge}, "lowest": {**other, "ridge": lowest.ridge}}
    return {f"{rule} {key}": value for rule, each in told.items() for key, value in each.items()}


def _errors(data: Divided, model: Model, held: Sequence[int], sample: Sequence[Example]) -> dict[str, float]:
    """Of all energies that are held out, and of the forces of a sample where there is one."""
    forces = errors(Potential(model), sample) if sample else {}
    return {
        **data.energy_errors(model, held),
        **{key: value for key, value in forces.items() if key.startswith("force")},
    }


def _of(plan: FitPlan, point: PathPoint) -> FitPlan:
    """The same with the ridge and the weights of one point."""
    weights = {KINDS[kind].name: point.weights[kind] for kind in (RowKind.ENERGY, RowKind.FORCE) if point.weights[kind]}
    return replace(plan, rows=replace(plan.rows, weights=weights), solver=Direct(ridges=point.ridge))


def _say(it: Experiment, rows: Sequence[tuple[str, list[dict[str, float]]]]) -> None:
    it.header("set, rows, parts", "another ridge", *(f"{error}: {rule}" for error in ERRORS.values() for rule in RULES))
    for key, runs in rows:
        other = sum(run["chosen ridge"] != run["lowest ridge"] for run in runs)
        cells = [
            spread(runs, f"{rule} {error}") if f"{rule} {error}" in runs[0] else ""
            for error in ERRORS
            for rule in RULES
        ]
        it.say(f"| {key} | {other} of {len(runs)} | " + " | ".join(cells) + " |")
    it.say("\nmeV/atom and meV/A")


if __name__ == "__main__":
    main()
