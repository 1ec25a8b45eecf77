"""Tangents of some frames and energies alone of the others, at about equal times of extraction: frames or directions?

SevenNet-0's scalars of formate on Cu(110) and of 3BPA. What the other frames' energies are worth follows from the same
fits without them: of N frames with tangents, N/2 of them, and N of them beside the others.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from ase import Atoms

from benchmarks import bpa_forces, kept
from benchmarks.data import apart, structures
from benchmarks.measuring import table
from mekrr_scale.backbones import BackboneSpec, load_backbone
from mekrr_scale.models import Potential
from mekrr_scale.pipeline import ExtractPlan, FitPlan, KernelPlan, LandmarkPlan, Validation, evaluate, extract, fit
from mekrr_scale.structures import read_structures

SPEC = BackboneSpec("sevennet", "gate1+gate2", version="7net-0", invariants="scalars")
PLAN = FitPlan(
    kernel=KernelPlan(length_scales="4x,8x"),
    landmarks=LandmarkPlan(count=1000),
    validation=Validation(uncertainty=False),
)
ALONG = 16  # directions of the lines without the others
# frames and directions that take as long, by the cost of a direction and of what all of a frame share
WAYS = ((1.15, 1), (1.0, ALONG), (0.85, 32), (0.65, 64))


@dataclass(frozen=True)
class Set:
    """Frames to learn from, frames of the test, and how many of the first are given sixteen directions."""

    name: str
    train: Callable[[], Path]
    test: Callable[[], Path]
    moved: int


SETS = (
    Set(
        "hcoo_cu110", partial(structures, "hcoo_cu110/train.xyz.xz"), partial(structures, "hcoo_cu110/val.xyz.xz"), 200
    ),
    Set("3bpa", partial(bpa_forces.frames, 300), bpa_forces.test_frames, 50),
)


def main(sets: Sequence[Set] = SETS) -> None:
    for one in sets:
        apart(train=read_structures(one.train()), test=read_structures(one.test()))  # and refused before any work
    rows: list[list[object]] = []
    for one in sets:
        frames, test = list(read_structures(one.train())), list(read_structures(one.test()))
        mixed = [frames[i] for i in np.random.default_rng(0).permutation(len(frames))]
        errors: dict[tuple[int, bool], float] = {}
        ways = [(0, 0, True), *((round(one.moved * part), along, True) for part, along in WAYS)]
        for moved, along, others in [*ways, (one.moved, ALONG, False), (one.moved // 2, ALONG, False)]:
            runs = {along: mixed[:moved], 0: mixed[moved:] if others else []}
            seconds, figures = measured(one, test, {key: given for key, given in runs.items() if given})
            beside = len(mixed) - moved if others else 0
            rows.append([one.name, f"{moved} x {along}" if moved else "none", beside, seconds, *figures])
            print(*rows[-1], sep=" | ", flush=True)
            if along == ALONG:
                errors[moved, others] = float(np.sqrt(figures[1] * figures[3]))
        print(f"{one.name}: {worth(one.moved, len(mixed), errors)}", flush=True)
    print("\nmeV/atom and meV/angstrom on the test\n")
    header = ["data", "frames x directions", "energies of", "s of extraction", "energy MAE", "energy RMSE"]
    table([*header, "force MAE", "force RMSE"], rows)


def worth(n: int, frames: int, errors: dict[tuple[int, bool], float]) -> str:
    """What the energy of a frame is worth, in frames with sixteen directions, along the learning curve of these."""
    slope = np.log(errors[n // 2, False] / errors[n, False]) / np.log(n / (n // 2))
    as_many = n * (errors[n, False] / errors[n, True]) ** (1 / slope)
    return f"exponent {slope:.2f}; the energy of another frame is worth {(as_many - n) / (frames - n):.2f} frames"


def measured(one: Set, test: Sequence[Atoms], runs: Mapping[int, Sequence[Atoms]]) -> tuple[str, list[float]]:
    """Seconds of the features that were made now, and errors of a fit to frames along so many directions."""
    stores, taken = [], []
    for along, frames in runs.items():
        plan = ExtractPlan(SPEC, derivatives=along or "none")
        place = (plan, kept.hashed(one.train()), len(frames), sorted(map(len, runs.values())))
        begin = time.perf_counter()
        report = extract(frames, kept.folder() / f"some-{one.name}-{kept.key(*place)}", plan)
        taken.append("kept" if report.resumed else f"{time.perf_counter() - begin:.0f}")
        stores.append(report.store)
    fitted = fit(stores, PLAN)
    found = evaluate(Potential(fitted.model, load_backbone(SPEC)), test).metrics()
    names = ("energy_mae", "energy_rmse", "force_mae", "force_rmse")
    return " + ".join(taken), [round(found[name], 3) for name in names]
