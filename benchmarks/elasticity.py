"""Crystals of mlearn: bulk modulus over four ranges of strain and elastic constants, with the network's stiffness and without.

Four fifths of the training file are fitted, 16 directions a frame; errors are those of the others. Beside each model the
bare network.
"""

from __future__ import annotations

from collections.abc import Sequence

import ase.io
import numpy as np
from ase.build import bulk

from benchmarks import kept
from benchmarks.data import structures
from benchmarks.measuring import table
from mekrr_scale.arrays import RowKind
from mekrr_scale.backbones import BackboneSpec
from mekrr_scale.checks import Measured, check
from mekrr_scale.pipeline import ExtractPlan, FitPlan, LandmarkPlan, RowPlan, Validation, evaluate, extract, fit
from mekrr_scale.structures import read_structures

CELLS = {
    "Si": bulk("Si", "diamond", 5.47, cubic=True),
    "Cu": bulk("Cu", "fcc", 3.63, cubic=True),
    "Mo": bulk("Mo", "bcc", 3.17, cubic=True),
}
FEATURES = {  # and landmarks
    "7net-0 scalars": (BackboneSpec("sevennet"), 1000),
    "7net-0 products": (BackboneSpec("sevennet", invariants="products"), 2000),
}
WEIGHTS = (0.0, None, 1.0)  # of the rows that hold the network's bulk modulus; None: by the errors of the energies
RANGES = ("0.5", "1", "2", "4")


def main(elements: Sequence[str] = tuple(CELLS)) -> None:
    """A line for each element, features and weight."""
    rows: list[list[object]] = []
    for element in elements:
        source = structures(f"mlearn/{element}_train.xyz.xz")
        frames = list(read_structures(source))
        order = np.random.default_rng(0).permutation(len(frames))
        count = int(0.8 * len(frames))
        for name, (backbone, landmarks) in FEATURES.items():
            plan = ExtractPlan(backbone, derivatives=16)
            folder = kept.folder() / f"elasticity-{element}-{kept.key(plan, kept.hashed(source))}"
            folder.mkdir(parents=True, exist_ok=True)
            ase.io.write(folder / "fit.xyz", [frames[i] for i in sorted(order[:count])])
            ase.io.write(folder / "test.xyz", [frames[i] for i in sorted(order[count:])])
            store = extract(folder / "fit.xyz", folder / "store", plan).store
            for weight in WEIGHTS:
                asked = RowPlan() if weight is None else RowPlan(weights={"elastic": weight})
                fitted = FitPlan(
                    landmarks=LandmarkPlan(count=landmarks), rows=asked, validation=Validation(uncertainty=False)
                )
                report = fit(store, fitted)
                taken = f"{report.solution.weights[RowKind.ELASTIC]:.1e}"
                rows.append([element, name, taken, *_line(report.model, element, folder / "test.xyz")])
                print(*rows[-1], sep=" | ", flush=True)
    table(
        ["crystal", "features", "weight", "energy", "force", "a", "B0 by range", "spread", "C11, C12, C44", "bare"],
        rows,
    )


def _line(model: object, element: str, test: object) -> list[str]:
    errors = evaluate(model, test, uncertainty=False).metrics()  # type: ignore[arg-type]
    report = check(model, {element: CELLS[element]}, ["lattice", "eos", "elastic"])  # type: ignore[arg-type]
    own, bare = (
        {name: q.value for f in report.findings for name, q in _of(f, whose).quantities.items()}
        for whose in ("model", "backbone")
    )
    return [
        *(f"{errors[f'{kind}_mae']:.3g} / {errors[f'{kind}_rmse']:.3g}" for kind in ("energy", "force")),
        f"{own['a']:.3f}",
        _listed(own),
        f"{100 * own['spread of B0']:.1f} %",
        ", ".join(f"{own[name]:.0f}" for name in ("C11", "C12", "C44")),
        f"{_listed(bare)}; " + ", ".join(f"{bare[name]:.0f}" for name in ("C11", "C12", "C44")),
    ]


def _of(finding: object, whose: str) -> Measured:
    return getattr(finding, whose) or Measured({})


def _listed(values: dict[str, float]) -> str:
    return ", ".join(f"{values[f'B0 within {size} %']:.0f}" for size in RANGES)


if __name__ == "__main__":
    main()
