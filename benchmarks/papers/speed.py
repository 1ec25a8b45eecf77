"""What a prediction costs: the weakness that MEKRR's paper names, and what landmarks make of it.

Falk et al. 2023 (arXiv 2306.01589) write that a kernel's prediction takes longer the more it was trained on. Here energy and
forces of one structure of formate on Cu(110) with CHGNet's features: `exact`, whose every training structure stays in
the model, against M landmarks, beside the network alone and a distilled student of `papers.frozen`'s size. Energies are
learned; times are milliseconds on one thread, the best of several in turns.

    python -m benchmarks.papers.speed [--quick]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from ase import Atoms

from benchmarks.measuring import alike
from benchmarks.papers.common import Experiment, disjoint, spread, subset
from benchmarks.papers.drawing import band, logarithmic, values_of
from benchmarks.papers.frozen import STUDENT
from benchmarks.prediction import backbone_alone
from mekrr_scale.backbones import BackboneEnergies, BackboneSpec, new_backbone
from mekrr_scale.models import Potential
from mekrr_scale.pipeline import FitPlan, LandmarkPlan, Validation, evaluate_store, fit
from mekrr_scale.solvers import Direct, Exact
from mekrr_scale.transfer import Example

SIZES, LANDMARKS = (50, 100, 200, 400, 800), (250, 500, 1000, 2000, 4000)
RIDGES = (1e-8, 1e-7, 1e-6, 1e-5, 1e-4)


def main() -> None:
    it = Experiment.parse("speed")
    training = it.structures("hcoo_cu110/train.xyz.xz", "hcoo_cu110/train.xyz.xz")
    test = it.structures("hcoo_cu110/val.xyz.xz", "hcoo_cu110/test.xyz.xz")
    disjoint(training=training, test=test)
    sizes, landmarks = ((4, 8), (20,)) if it.quick else (SIZES, LANDMARKS)
    torch.set_num_threads(1)
    found = {
        (kind, size): [it.run(f"{kind} {size}-{seed}", partial(_one, it, kind, size, seed, training, test)) for seed in range(it.seeds)]
        for kind, counts in (("exact", sizes), ("landmarks", landmarks))
        for size in counts
    }  # fmt: skip
    student = [it.run(f"student-{seed}", partial(_student, test[seed].atoms, it.quick)) for seed in range(it.seeds)]
    _tables(it, found, student, len(test[0].atoms))
    _figure(it, found, student)
    it.finish()


def _one(
    it: Experiment, kind: str, size: int, seed: int, training: Sequence[Example], test: Sequence[Example]
) -> dict[str, float]:
    """Fit to a subset by ``exact``, or to all with so many landmarks; errors and times."""
    exact = kind == "exact"
    part = subset(training, size, seed) if exact else training[:8] if it.quick else training
    plan = FitPlan(
        kernel={"length_scales": "2x", "alphas": 1.0},
        landmarks=LandmarkPlan(count=1 if exact else size),
        baseline="composition",
        solver=Exact(ridges=RIDGES) if exact else Direct(ridges=RIDGES),
        validation=Validation(2 if it.quick else 5, uncertainty=False),
        seed=seed,
    )
    name = f"train-{size}-{seed}" if exact else "train"
    model = fit(it.store(name, part), plan).model
    errors = evaluate_store(model, it.store("test", test)).metrics()
    potential, atoms = Potential(model), test[seed].atoms
    (_, network), (_, whole) = alike(
        [partial(backbone_alone, potential, atoms), partial(potential.predict, atoms)], _repeats(it.quick)
    )
    return {
        "energy_rmse": errors["energy_rmse"],
        "atoms": float(len(model.landmarks.species)),
        "network_ms": 1e3 * network,
        "prediction_ms": 1e3 * whole,
    }  # fmt: skip


def _student(atoms: Atoms, quick: bool) -> dict[str, float]:
    """Its time does not depend on its weights."""
    student = BackboneEnergies(new_backbone(BackboneSpec("schnet"), STUDENT))
    (found,) = alike([partial(student.predict, atoms)], _repeats(quick))
    return {"prediction_ms": 1e3 * found[1]}


def _repeats(quick: bool) -> int:
    return 1 if quick else 9


_Runs = dict[tuple[str, int], list[dict[str, float]]]


def _tables(it: Experiment, found: _Runs, student: list[dict[str, float]], atoms: int) -> None:
    it.say(
        f"\n| one structure of {atoms} atoms | atoms in the model | energy RMSE, meV/atom | prediction, ms | the network's part |"
    )
    it.say("|---|---|---|---|---|")
    for (kind, size), runs in found.items():
        name = f"exact, {size} structures" if kind == "exact" else f"{size} landmarks, all structures"
        share = np.mean([run["network_ms"] / run["prediction_ms"] for run in runs])
        it.say(
            f"| {name} | {np.mean([run['atoms'] for run in runs]):.0f} | {spread(runs, 'energy_rmse')} | "
            f"{spread(runs, 'prediction_ms')} | {100 * share:.0f} % |"
        )
    network = [run for runs in found.values() for run in runs]
    it.say(f"| the network's features and their slopes alone | | | {spread(network, 'network_ms')} | |")
    it.say(f"| a distilled student (SchNet) | | | {spread(student, 'prediction_ms')} | |")
    sizes = [size for kind, size in found if kind == "exact"]
    added = [np.mean([run["prediction_ms"] - run["network_ms"] for run in found["exact", size]]) for size in sizes]
    half = len(sizes) // 2
    exponent = np.polyfit(np.log(sizes[half:]), np.log(np.maximum(added[half:], 1e-3)), 1)[0]
    it.say(f"\nexact: the kernel's own time grows as n^{exponent:.2f} over the larger half")


def _figure(it: Experiment, found: _Runs, student: list[dict[str, float]]) -> None:
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.7))
    for kind, colour, label in (("exact", "C3", "exact"), ("landmarks", "C0", "landmarks")):
        sizes = [size for name, size in found if name == kind]
        runs = [found[kind, size] for size in sizes]
        times, wrong = values_of(runs, "prediction_ms"), values_of(runs, "energy_rmse")
        told = f"{label} (" + ("structures learned)" if kind == "exact" else "their number)")
        band(left, sizes, times, colour, label=told)
        band(right, times.mean(1).tolist(), wrong, colour, label=label)
        for time, error, size in zip(times.mean(1), wrong.mean(1), sizes, strict=True):
            right.annotate(str(size), (time, error), textcoords="offset points", xytext=(4, 4), fontsize=7)
    network = float(np.mean([run["network_ms"] for runs in found.values() for run in runs]))
    for axis in (left, right):
        draw: Callable[..., object] = axis.axhline if axis is left else axis.axvline
        draw(network, color="0.5", linestyle="--", label="network alone")
        draw(float(np.mean([run["prediction_ms"] for run in student])), color="0.5", linestyle=":", label="student")
    logarithmic(left, "structures, or landmarks", "energy and forces (ms)")
    left.legend(frameon=False, fontsize=8)
    logarithmic(right, "energy and forces (ms)", "energy RMSE (meV/atom)")
    figure.tight_layout()
    figure.savefig(it.figures / "papers_speed.png", dpi=130)
    plt.close(figure)


if __name__ == "__main__":
    main()
