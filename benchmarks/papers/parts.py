"""From one part of a reaction, one surface or pure elements to another: the transfer of MEKRR's paper, as matrices.

Falk et al. 2023 (arXiv 2306.01589) learn on one set D_i and test on another, D_j. Here formate on Cu(110) before its C-H
bond breaks (below 1.3 A) and after (above 1.8 A), CO on Pt(111) without, with one and with three adatoms and on Pt(553),
and the structures of elements and of their mixtures (W-Be, Mo-Nb-Ta-W). CHGNet's features, energies alone, everything by the
package's defaults. Errors stand with and without the shift that energies per element take away; beside them how many of the
target's structures are less certain than 95 % of the source's own held-out ones, and whether the whole set is called unlike
the training data. Then 5, 20 and 50 structures of the target are learned as well, in several ways.

    python -m benchmarks.papers.parts [--quick] [--sets formate platinum]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np

from benchmarks.papers.common import Experiment, disjoint, energies_alone, errors, spread
from benchmarks.papers.divided import Divided
from benchmarks.papers.drawing import band, legend_below, logarithmic, numbers_at, values_of
from mekrr_scale.arrays import RowKind
from mekrr_scale.models import Model, Potential
from mekrr_scale.pipeline import (
    Evaluation,
    ExtractPlan,
    FitPlan,
    FitReport,
    KernelPlan,
    LandmarkPlan,
    RowPlan,
    Validation,
    evaluate_store,
    fit,
    shifted_rmse,
)
from mekrr_scale.store import FeatureStore
from mekrr_scale.transfer import Example

Read = Callable[[str], list[Example]]  # a file of the development data
PARTS, HELD, MOST = 5, 1, 1000  # parts of a group, those held out, most structures of a group
FEW = (5, 20, 50)
WAYS = {
    "alone": "the few alone",
    "together": "together",
    "weighted": "together, the source weighted 0.01",
    "landmarks": "the few, on the source's landmarks too",
    "prior": "the few correct the source's model",
    "mixing": "together, mixing of elements learned",
    "smooth": "together, length scale 16x",
    "judged": "together, chosen by the few's own errors",
}


@dataclass(frozen=True)
class Family:
    """Groups of structures of which one is learned and another tested."""

    groups: Mapping[str, list[Example]]
    pairs: Sequence[tuple[str, str]]  # of which a few target structures are learned as well


def main() -> None:
    it = Experiment.parse("parts", tuple(FAMILIES))

    def read(name: str) -> list[Example]:
        return it.structures(f"{name}.xyz.xz", "")

    families = _quick(it) if it.quick else {name: FAMILIES[name](read) for name in it.sets}
    for name, family in families.items():
        cut = {
            group: _divided(it, name, group).extract(examples, 1 if it.quick else 10, MOST)
            for group, examples in family.groups.items()
        }
        disjoint(**{f"{group} {k}": part for group, parts in cut.items() for k, part in enumerate(parts)})
        _matrix(it, name, family)
        _with_few(it, name, family, cut)
    _figure(it, families)
    it.finish()


def _formate(read: Read) -> Family:
    examples = read("hcoo_cu110/train") + read("hcoo_cu110/val")
    near, far = "C-H below 1.3 Å", "C-H above 1.8 Å"
    groups = {near: [e for e in examples if bond(e) < 1.3], far: [e for e in examples if bond(e) > 1.8]}
    return Family(groups, ((near, far), (far, near)))


def _platinum(read: Read) -> Family:
    flat = read("pt_co/pt111_train") + read("pt_co/pt111_val")
    none, one, three = (f"Pt(111), {n} adatoms" for n in (0, 1, 3))
    groups = {
        name: [e for e in flat if (e.atoms.numbers == 78).sum() == 64 + n]
        for name, n in ((none, 0), (one, 1), (three, 3))
    }
    groups["Pt(553)"] = read("pt_co/pt553_train") + read("pt_co/pt553_val")
    return Family(groups, ((one, "Pt(553)"), ("Pt(553)", one), (none, three)))


def _metals(read: Read) -> Family:
    return _mixed(read("w_be/W_train") + read("w_be/Be_train"), read("w_be/WBe_train"))


def _alloys(read: Read) -> Family:
    elements = [example for z in ("Mo", "Nb", "Ta", "W") for example in read(f"monbtaw/{z}_train")]
    return _mixed(elements, read("monbtaw/binaries_train"))


def _mixed(elements: list[Example], mixtures: list[Example]) -> Family:
    return Family({"elements": elements, "mixtures": mixtures}, (("elements", "mixtures"), ("mixtures", "elements")))


FAMILIES: Mapping[str, Callable[[Read], Family]] = {
    "formate": _formate,
    "platinum": _platinum,
    "W-Be": _metals,
    "Mo-Nb-Ta-W": _alloys,
}


def _quick(it: Experiment) -> dict[str, Family]:
    examples = it.structures("", "hcoo_cu110/train.xyz.xz")[:64]
    order = np.argsort([bond(example) for example in examples])
    groups = {"short": [examples[i] for i in order[:32]], "long": [examples[i] for i in order[32:]]}
    return {"formate": Family(groups, (("short", "long"),))}


def bond(example: Example) -> float:
    """The shortest C-H distance (angstrom)."""
    numbers = example.atoms.numbers
    carbon, hydrogen = (np.flatnonzero(numbers == z) for z in (6, 1))
    return float(example.atoms.get_all_distances(mic=True)[np.ix_(carbon, hydrogen)].min())


def _divided(it: Experiment, name: str, group: str) -> Divided:
    return Divided(it, f"{name} {group}", 4 if it.quick else PARTS, HELD)


def _plan(it: Experiment, **changes: object) -> FitPlan:
    folds = Validation(2 if it.quick else 5, uncertainty=False)
    plan = {"landmarks": LandmarkPlan(count=_count(it)), "validation": folds, **changes}
    return FitPlan(**plan)  # type: ignore[arg-type]


def _count(it: Experiment) -> int:
    return 20 if it.quick else 1000


def _matrix(it: Experiment, name: str, family: Family) -> None:
    """Every group learned, every one tested."""
    groups = list(family.groups)
    jobs = [(source, seed) for source in groups for seed in range(it.seeds)]
    it.run_all([(_key(name, source, seed), partial(_learned, it, name, groups, source, seed)) for source, seed in jobs])
    it.header(
        f"{name}: learned from", "tested on", "RMSE, meV/atom", "without shift",
        "less certain than 95 % of the source's", "called unlike",
    )  # fmt: skip
    for source in groups:
        for target in groups:
            runs = [_of(it.kept(_key(name, source, seed)), target) for seed in range(it.seeds)]
            found = 100 * np.mean([run["detected"] for run in runs])
            it.say(
                f"| {source} | {target} | {spread(runs, 'energy_rmse')} | {spread(runs, 'energy_rmse_shifted')} | "
                f"{found:.0f} % | {sum(run['unlike'] for run in runs):.0f} of {len(runs)} |"
            )


def _key(name: str, source: str, seed: int) -> str:
    return f"{name} from {source}-{seed}"


def _of(run: dict[str, float], target: str) -> dict[str, float]:
    """A model's figures on one group."""
    return {key.removeprefix(f"{target}: "): value for key, value in run.items() if key.startswith(f"{target}: ")}


def _model_file(it: Experiment, name: str, source: str, seed: int) -> Path:
    """The model of one group, fitted where it is not there yet."""
    path = it.folder / f"{_key(name, source, seed).replace(' ', '_')}.mekrr"
    if not path.exists():
        data = _divided(it, name, source)
        plan = _plan(it, seed=seed, validation=Validation(2 if it.quick else 5))
        fit(data.stores(data.split(seed)[0]), plan).model.save(path)
    return path


def _learned(it: Experiment, name: str, groups: Sequence[str], source: str, seed: int) -> dict[str, float]:
    """A model of one group on what is held out of each."""
    held = _divided(it, name, source).split(seed)[1]
    model = Model.load(_model_file(it, name, source, seed))
    tested: dict[str, Evaluation] = {}
    for group in groups:
        (store,) = _divided(it, name, group).stores(held)
        tested[group] = evaluate_store(model, store, uncertainty=True)
    bound = float(np.quantile(_widths(tested[source]), 0.95))
    told: dict[str, float] = {}
    for group, found in tested.items():
        figures = {
            **_figures(found), "detected": float((_widths(found) > bound).mean()), "unlike": float(found.whole().unlike is True),
        }  # fmt: skip
        told |= {f"{group}: {key}": value for key, value in figures.items()}
    return told


def _widths(found: Evaluation) -> np.ndarray:
    """Uncertainties per atom."""
    return np.asarray(found.energy_uncertainty / found.n_atoms)


def _figures(found: Evaluation) -> dict[str, float]:
    metrics = found.metrics()
    return {**{key: metrics[key] for key in ("energy_mae", "energy_rmse")}, "energy_rmse_shifted": shifted_rmse(found)}


def _with_few(it: Experiment, name: str, family: Family, cut: Mapping[str, list[list[Example]]]) -> None:
    """A few structures of the target beside the source."""
    few = (4,) if it.quick else FEW
    jobs = [
        (pair, size, way, seed) for pair in family.pairs for size in few for way in WAYS for seed in range(it.seeds)
    ]
    for target in {pair[1] for pair in family.pairs}:
        for size in few:
            for seed in range(it.seeds):
                drawn = _drawn(_divided(it, name, target), cut[target], size, seed)
                it.remember(f"{name} {_draw(target, size, seed)}", drawn)
    work = {(_few_key(name, *job)): partial(_few, it, name, *job) for job in jobs if job[2] != "prior"}
    for pair, size, way, seed in (job for job in jobs if job[2] == "prior"):
        data = _divided(it, name, pair[1])
        held = [example for k in data.split(seed)[1] for example in cut[pair[1]][k]]
        drawn = _drawn(data, cut[pair[1]], size, seed)
        work[_few_key(name, pair, size, way, seed)] = partial(_corrected, it, name, pair, size, seed, drawn, held)
    it.run_all(list(work.items()))
    for pair in family.pairs:
        it.header(f"{name}: {pair[0]} to {pair[1]}, RMSE, meV/atom", *map(str, few))
        for way, label in WAYS.items():
            cells = [spread(_few_runs(it, name, pair, size, way), "energy_rmse") for size in few]
            it.say(f"| {label} | " + " | ".join(cells) + " |")


def _few_runs(it: Experiment, name: str, pair: tuple[str, str], size: int, way: str) -> list[dict[str, float]]:
    return [it.kept(_few_key(name, pair, size, way, seed)) for seed in range(it.seeds)]


def _few_key(name: str, pair: tuple[str, str], size: int, way: str, seed: int) -> str:
    return f"{name} {pair[0]} to {pair[1]} {way} {size}-{seed}"


def _drawn(data: Divided, parts: list[list[Example]], size: int, seed: int) -> list[Example]:
    """Structures of the target, none of them held out; smaller draws are parts of larger ones.

    At random, but that the first ones that bring an element come first: no model predicts one that it has not seen.
    """
    there = [example for k in data.split(seed)[0] for example in parts[k]]
    order = np.random.default_rng(seed).permutation(len(there)).tolist()
    seen: set[int] = set()
    first = []
    for i in order:
        if not seen.issuperset(there[i].atoms.numbers):
            seen.update(there[i].atoms.numbers)
            first.append(i)
    return [there[i] for i in dict.fromkeys([*first, *order])][:size]


def _draw(target: str, size: int, seed: int) -> str:
    return f"{size} of {target}, draw {seed}"


def _corrected(
    it: Experiment,
    name: str,
    pair: tuple[str, str],
    size: int,
    seed: int,
    drawn: Sequence[Example],
    held: Sequence[Example],
) -> dict[str, float]:
    """The few correct what the source's model says of them."""
    source, target = pair
    prior = ExtractPlan(prior=_model_file(it, name, source, seed))
    few = it.store(f"{name} {source} corrected by {_draw(target, size, seed)}", drawn, plan=prior)
    model = fit(few, _plan(it, seed=seed, landmarks=_some(it, few))).model
    found = errors(Potential(model), energies_alone(held))
    return {key: value for key, value in found.items() if key.startswith("energy")}


def _few(it: Experiment, name: str, pair: tuple[str, str], size: int, way: str, seed: int) -> dict[str, float]:
    """One way to learn from much of the source and few of the target."""
    source, target = pair
    learned, held = _divided(it, name, source).split(seed)
    few = it.store(f"{name} {_draw(target, size, seed)}")
    much = _divided(it, name, source).stores(learned)
    model: Model
    if way == "alone":
        model = fit(few, _plan(it, seed=seed, landmarks=_some(it, few))).model
    elif way == "judged":
        candidates = [
            _plan(it, seed=seed, kernel=KernelPlan(length_scales=length), baseline=baseline)
            for length, baseline in product(("4x", "16x"), ("backbone", "composition"))
        ]
        model = min((fit([*much, few], plan) for plan in candidates), key=_own_error).model
    elif way == "landmarks":
        landmarks = replace(_some(it, few), model=_model_file(it, name, source, seed))
        model = fit(few, _plan(it, seed=seed, landmarks=landmarks)).model
    else:
        changes: dict[str, object] = {}
        if way == "weighted":
            changes["rows"] = RowPlan(store_weights=(*[0.01] * len(much), 1.0))
        if way == "mixing":
            changes["kernel"] = KernelPlan(mixing="learn")
        if way == "smooth":
            changes["kernel"] = KernelPlan(length_scales="16x")
        model = fit([*much, few], _plan(it, seed=seed, **changes)).model
    (store,) = _divided(it, name, target).stores(held)
    return _figures(evaluate_store(model, store))


def _own_error(report: FitReport) -> float:
    """Cross-validated, of the last store."""
    return [*report.stores.values()][-1][RowKind.ENERGY].rmse


def _some(it: Experiment, few: FeatureStore) -> LandmarkPlan:
    """As many landmarks as there are atoms, at most."""
    return LandmarkPlan(count=min(_count(it), few.n_atoms))


def _figure(it: Experiment, families: Mapping[str, Family]) -> None:
    import matplotlib.pyplot as plt

    pairs = [(name, pair) for name, family in families.items() for pair in family.pairs]
    columns = min(3, len(pairs))
    lines = -(-len(pairs) // columns)
    figure, grid = plt.subplots(lines, columns, figsize=(4.2 * columns, 3.1 * lines), squeeze=False)
    few = (4,) if it.quick else FEW
    for axis, (name, pair) in zip(grid.flat, pairs, strict=False):
        for colour, (way, label) in enumerate(WAYS.items()):
            runs = [_few_runs(it, name, pair, size, way) for size in few]
            band(axis, few, values_of(runs, "energy_rmse"), f"C{colour}", label=label)
        alone = [_of(it.kept(_key(name, pair[0], seed)), pair[1])["energy_rmse"] for seed in range(it.seeds)]
        axis.axhline(float(np.mean(alone)), color="0.5", ls="--", lw=1, label="the source alone")
        logarithmic(axis, "structures of the target", "energy RMSE (meV/atom)")
        numbers_at(axis, few)
        axis.set_title(f"{name}: {pair[0]} to {pair[1]}", fontsize=8, loc="left")
    for axis in list(grid.flat)[len(pairs) :]:
        axis.axis("off")
    legend_below(figure, grid[0, 0], 3)
    figure.savefig(it.figures / "papers_parts.png", dpi=100)
    plt.close(figure)


if __name__ == "__main__":
    main()
