"""Compressed stores: bytes of a direction, errors that are lost, time to extract and to fit.

Every variant is fitted to the same frames and directions and tested on the same other frames, from structures: the
network runs whole, its features are then compressed. Times are those of the processor.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
from ase import Atoms

from benchmarks import kept
from benchmarks.data import apart, structures
from benchmarks.measuring import table
from mekrr_scale.arrays import RowKind
from mekrr_scale.backbones import Backbone, BackboneSpec, load_backbone
from mekrr_scale.models import Potential
from mekrr_scale.pipeline import ExtractPlan, FitPlan, KernelPlan, LandmarkPlan, RowPlan, evaluate, extract, fit
from mekrr_scale.store import FeatureStore, Reduction, repack
from mekrr_scale.structures import read_structures

SETS: tuple[tuple[str, int, int, int], ...] = (  # file, frames to fit and to test, directions of a frame
    ("mol_3bpa/train_300K", 25, 25, 24),
    ("hcoo_cu110/train", 40, 25, 8),
)
BACKBONES = ("chgnet", "sevennet")
DIMS = (128, 64, 32)
RESIDUALS = (1e-3,)
PLAN = FitPlan(
    kernel=KernelPlan(length_scales="4x,8x", standardize="centre-per-species"),
    landmarks=LandmarkPlan(method="displaced", count=400),
    baseline="composition",
    rows=RowPlan(weights={"force": (1e-2, 1e-1, 1.0)}),
)


def split(name: str, fitted: int, tested: int) -> tuple[list[Atoms], list[Atoms]]:
    """Frames of a file in a random order: those to fit, and others."""
    found = list(read_structures(structures(f"{name}.xyz.xz")))
    order = np.random.default_rng(0).permutation(len(found))[: fitted + tested]
    chosen = [found[i] for i in order]
    apart(fitted=chosen[:fitted], tested=chosen[fitted:])
    return chosen[:fitted], chosen[fitted:]


def variants(whole: FeatureStore, folder: Path, dims: Sequence[int]) -> Iterator[tuple[str, FeatureStore]]:
    """The same store in less space."""

    def packed(name: str, wanted: Reduction | None, half: bool) -> tuple[str, FeatureStore]:
        dtype: Literal["same", "float16"] = "float16" if half else "same"
        return name, repack(
            whole.path, folder / name.replace(" ", "-").replace(",", ""), reduction=wanted, tangent_dtype=dtype
        )

    yield "none", whole
    yield packed("float16", None, True)
    for dim in (dim for dim in dims if dim < whole.header.dim):
        yield packed(f"{dim}", Reduction(dim), False)
    yield packed("half of d, float16", Reduction(whole.header.dim // 2), True)
    for residual in RESIDUALS:
        yield packed(f"residual {residual:g}", Reduction(residual=residual), False)
    yield packed(f"residual {RESIDUALS[-1]:g} common", Reduction(residual=RESIDUALS[-1], basis="common"), False)


def of_a_direction(store: FeatureStore) -> float:
    """Bytes of one atom's tangent along one direction, its scale included."""
    rows = sum(info.big["/tangent/features"].rows for info in store.shards)
    size = sum(info.big["/tangent/features"].nbytes for info in store.shards)
    return (size + (4 * rows if store.header.half_tangents else 0)) / rows


def made(train: Sequence[Atoms], plan: ExtractPlan, folder: Path) -> tuple[FeatureStore, float]:
    """A store, and the seconds of the processor that it took."""
    start = time.process_time()
    extract(train, folder, plan)
    return FeatureStore(folder), time.process_time() - start


def fitted(store: FeatureStore, plan: FitPlan, backbone: Backbone, tested: Sequence[Atoms]) -> list[float]:
    """Cross-validated and test errors (meV/atom, meV/angstrom), and the seconds of the fit."""
    start = time.process_time()
    report = fit(store, plan)
    taken = time.process_time() - start
    best = report.chosen.rmse
    found = evaluate(Potential(report.model, backbone), tested).metrics()
    cv = [1e3 * best[RowKind.ENERGY], 1e3 * best[RowKind.FORCE]]
    return [*cv, *(found[key] for key in ("energy_mae", "energy_rmse", "force_mae", "force_rmse")), taken]


def main(
    sets: Sequence[tuple[str, int, int, int]] = SETS,
    backbones: Sequence[str | BackboneSpec] = BACKBONES,
    dims: Sequence[int] = DIMS,
    plan: FitPlan = PLAN,
) -> None:
    rows: list[list[object]] = []
    times: list[list[object]] = []
    for name, count, others, directions in sets:
        train, test = split(name, count, others)
        for given in backbones:
            backbone = load_backbone(given)
            about = ExtractPlan(BackboneSpec.of(backbone.spec), derivatives=directions)
            folder = kept.folder() / f"compression-{name.replace('/', '-')}-{kept.key(about, count)}-{time.time_ns()}"
            folder.mkdir(parents=True)
            dim = min((d for d in dims if d < backbone.dim), key=lambda d: abs(d - backbone.dim // 2))
            for compress in (None, dim):
                whole, taken = made(train, replace(about, compress=compress), folder / f"extracted-{compress}")
                times.append([name, given, backbone.dim, compress or "none", whole.n_directions, round(taken, 1)])
            whole = FeatureStore(folder / "extracted-None")
            base: list[float] = []
            for label, store in variants(whole, folder, dims):
                found = fitted(store, plan, backbone, test)
                base = base or found
                lost = [100 * (found[i] / base[i] - 1) for i in (1, 3, 5)]
                figures = [round(value, 3 if i in (0, 2, 3) else 1) for i, value in enumerate(found)]
                size = of_a_direction(store)
                rows.append(
                    [
                        f"{name}, {backbone.name}",
                        label,
                        store.header.dim,
                        round(size),
                        *figures,
                        *(f"{v:+.1f}" for v in lost),
                    ]
                )
                print(*rows[-1], sep=" | ", flush=True)
    print("\nmeV/atom and meV/angstrom; lost: CV force RMSE, test energy RMSE, test force RMSE, in %\n")
    header = ["data", "compressed", "d", "bytes of an atom and direction", "CV energy RMSE", "CV force RMSE"]
    header += ["energy MAE", "energy RMSE", "force MAE", "force RMSE", "fit, s", "CV F lost", "E lost", "F lost"]
    table(header, rows)
    table(["data", "backbone", "d", "--compress", "directions", "extraction, s"], times)
