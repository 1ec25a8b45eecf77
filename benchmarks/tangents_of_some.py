"""Tangents of some frames and energies alone of the others, at about equal times of extraction: frames or directions?

SevenNet-0's scalars of formate on Cu(110) and of 3BPA. What the other frames' energies are worth follows from the same
fits without them: of N frames with tangents, N/2 of them, and N of them beside the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import ase.io
import numpy as np
from ase import Atoms

from benchmarks import kept
from benchmarks.data import apart, extracted, structures
from benchmarks.measuring import table
from mekrr_scale.backbones import BackboneSpec, load_backbone
from mekrr_scale.models import Potential
from mekrr_scale.pipeline import ExtractPlan, FitPlan, KernelPlan, LandmarkPlan, Validation, evaluate, fit
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
    """A file to learn from, one to test on (None: the last hundred frames of a random order), and what is taken."""

    train: str
    test: str | None
    frames: int
    moved: int  # frames with sixteen directions


SETS = (
    Set("hcoo_cu110/train", "hcoo_cu110/val", 849, 200),
    Set("mol_3bpa/train_300K", None, 300, 50),
)


def main(sets: Sequence[Set] = SETS) -> None:
    parts = [(one, *split(one)) for one in sets]
    rows: list[list[object]] = []
    for one, train, test in parts:
        errors: dict[tuple[int, bool], float] = {}
        ways = [(0, 0, True), *((round(one.moved * part), along, True) for part, along in WAYS)]
        for moved, along, others in [*ways, (one.moved, ALONG, False), (one.moved // 2, ALONG, False)]:
            seconds, figures = measured(one, train, test, moved, along, others)
            beside = one.frames - moved if others else 0
            rows.append([one.train, f"{moved} x {along}" if moved else "none", beside, seconds, *figures])
            print(*rows[-1], sep=" | ", flush=True)
            if along == ALONG:
                errors[moved, others] = float(np.sqrt(figures[1] * figures[3]))
        print(f"{one.train}: {worth(one, errors)}", flush=True)
    print("\nmeV/atom and meV/angstrom on the test\n")
    header = ["data", "frames x directions", "energies of", "s of extraction", "energy MAE", "energy RMSE"]
    table([*header, "force MAE", "force RMSE"], rows)


def worth(one: Set, errors: dict[tuple[int, bool], float]) -> str:
    """What the energy of a frame is worth, in frames with sixteen directions, along the learning curve of these."""
    n, half = one.moved, one.moved // 2
    slope = np.log(errors[half, False] / errors[n, False]) / np.log(n / half)
    as_many = n * (errors[n, False] / errors[n, True]) ** (1 / slope)
    return f"exponent {slope:.2f}; the energy of another frame is worth {(as_many - n) / (one.frames - n):.2f} frames"


def split(one: Set) -> tuple[list[Atoms], list[Atoms]]:
    """Frames in random order, and those of the test."""
    frames = list(read_structures(structures(f"{one.train}.xyz.xz")))
    order = np.random.default_rng(0).permutation(len(frames))
    mixed = [frames[i] for i in order]
    test = mixed[-100:] if one.test is None else list(read_structures(structures(f"{one.test}.xyz.xz")))
    train = mixed[: min(one.frames, len(mixed) - (100 if one.test is None else 0))]
    apart(train=train, test=test)
    return train, test


def measured(
    one: Set, train: Sequence[Atoms], test: Sequence[Atoms], moved: int, along: int, others: bool
) -> tuple[str, list[float]]:
    """Seconds of the features that were made now, and errors."""
    runs = [(train[:moved], along)] if moved else []
    runs += [(train[moved:], 0)] if others else []
    stores, taken = [], []
    for frames, directions in runs:
        source = kept.hashed(structures(f"{one.train}.xyz.xz"))
        folder = kept.folder() / f"some-{kept.key(one, len(frames), directions, moved, source)}"
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "frames.xyz"
        if not file.exists():
            ase.io.write(file, frames)
        plan = ExtractPlan(SPEC, derivatives=directions or "none")
        store, seconds = extracted(file, f"some-{one.train}", plan)
        stores.append(store)
        taken.append("kept" if seconds is None else f"{seconds:.0f}")
    report = fit(stores, PLAN)
    found = evaluate(Potential(report.model, load_backbone(SPEC)), test).metrics()
    names = ("energy_mae", "energy_rmse", "force_mae", "force_rmse")
    return " + ".join(taken), [round(found[name], 3) for name in names]
