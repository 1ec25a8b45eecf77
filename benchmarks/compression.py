"""Compressed stores: bytes of a direction, errors that are lost, time to extract and to fit.

One store is extracted and parted by structures; every variant compresses the part to fit, and the part to test along the
same axes. Force errors are those along the stored directions. Times are those of the processor.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from ase import Atoms

from benchmarks import kept
from benchmarks.data import structures
from benchmarks.measuring import table
from mekrr_scale.arrays import RowKind
from mekrr_scale.backbones import BackboneSpec
from mekrr_scale.models import Model
from mekrr_scale.pipeline import ExtractPlan, FitPlan, KernelPlan, LandmarkPlan, RowPlan, extract, fit
from mekrr_scale.store import FeatureStore, Reduction, repack
from mekrr_scale.structures import read_structures

SETS = (("mol_3bpa/train_300K", 100, 8), ("hcoo_cu110/train", 80, 3))  # file, frames, directions of each
BACKBONES = ("chgnet", "sevennet")
DIMS = (512, 256, 128, 64, 32)
RESIDUALS = (1e-3, 1e-4)
PLAN = FitPlan(
    kernel=KernelPlan(length_scales="4x,8x", standardize="centre-per-species"),
    landmarks=LandmarkPlan(method="displaced", count=600),
    baseline="composition",
    rows=RowPlan(weights={"force": (1e-2, 1e-1)}),
)
_TESTED = 4  # of so many structures one is tested on


def frames(name: str, count: int) -> list[Atoms]:
    """Random frames of a file."""
    found = list(read_structures(structures(f"{name}.xyz.xz")))
    return [found[i] for i in np.random.default_rng(0).permutation(len(found))[:count]]


def variants(dim: int, dims: Sequence[int]) -> Iterator[tuple[str, Reduction | None, bool]]:
    """What is done to features of so many numbers: a name, the compression, and whether tangents are float16."""
    yield "float32", None, False
    yield "float16", None, True
    for few in (few for few in dims if few < dim):
        yield f"{few}", Reduction(few), False
    yield f"{dim // 2}, float16", Reduction(dim // 2), True
    for residual in RESIDUALS:
        yield f"residual {residual:g}", Reduction(residual=residual), False
    yield f"residual {RESIDUALS[0]:g}, common", Reduction(residual=RESIDUALS[0], basis="common"), False


def parted(
    whole: FeatureStore, folder: Path, wanted: Reduction | None, half: bool
) -> tuple[FeatureStore, FeatureStore]:
    """Three quarters of the structures, and the others along the same axes."""
    shutil.rmtree(folder, ignore_errors=True)
    learned = repack(
        whole.path,
        folder / "fit",
        2**30,
        lambda record: record.id % _TESTED != 0,
        wanted,
        "float16" if half else "same",
    )
    like = None if wanted is None else Reduction(like=learned.path)
    held = repack(
        whole.path, folder / "test", 2**30, lambda record: record.id % _TESTED == 0, like, "float16" if half else "same"
    )
    return learned, held


def tested(model: Model, store: FeatureStore) -> tuple[float, float]:
    """RMSE of energies (meV/atom) and of forces along the directions (meV/angstrom)."""
    energies, forces = [], []
    for batch in replace(store, tangents=True):
        energies += [(model.energies(batch) - batch.energy) / batch.n_atoms]
        assert batch.directions is not None
        scale = model.kernel.energy_scale(batch.n_atoms).repeat_interleave(batch.directions.ptr.diff())
        slopes = scale * (model.kernel.derivative_rows(batch, model.landmarks) @ model.coefficients)
        forces += [(slopes - batch.directions.label)[batch.directions.kind == int(RowKind.FORCE)]]
    rmse = [1e3 * float(np.sqrt(np.nanmean(np.concatenate(found) ** 2))) for found in (energies, forces)]
    return rmse[0], rmse[1]


def of_a_direction(store: FeatureStore) -> float:
    """Bytes of one atom's tangent along one direction, its scale included."""
    rows = sum(info.big["/tangent/features"].rows for info in store.shards)
    size = sum(info.big["/tangent/features"].nbytes for info in store.shards)
    return (size + (4 * rows if store.header.half_tangents else 0)) / rows


def compared(name: str, whole: FeatureStore, folder: Path, dims: Sequence[int], plan: FitPlan) -> list[list[object]]:
    """Rows of the table, of one store."""
    rows: list[list[object]] = []
    base: list[float] = []
    for label, wanted, half in variants(whole.header.dim, dims):
        learned, held = parted(whole, folder, wanted, half)
        start = time.process_time()
        report = fit(learned, plan)
        taken = time.process_time() - start
        cv = report.chosen.rmse
        found = [1e3 * cv[RowKind.ENERGY], 1e3 * cv[RowKind.FORCE], *tested(report.model, held)]
        base = base or found
        lost = [f"{100 * (value / first - 1):+.1f}" for value, first in zip(found, base, strict=True)]
        errors = [f"{value:.2f} ({part})" for value, part in zip(found, lost, strict=True)]
        rows.append([name, label, learned.header.dim, round(of_a_direction(learned)), *errors, round(taken, 1)])
        print(*rows[-1], sep=" | ", flush=True)
    return rows


def main(
    sets: Sequence[tuple[str, int, int]] = SETS,
    backbones: Sequence[str | BackboneSpec] = BACKBONES,
    dims: Sequence[int] = DIMS,
    plan: FitPlan = PLAN,
) -> None:
    rows: list[list[object]] = []
    times: list[list[object]] = []
    for name, count, directions in sets:
        chosen = frames(name, count)
        for backbone in backbones:
            about = ExtractPlan(backbone, derivatives=directions, tangent_dtype="same")
            folder = kept.folder() / f"compression-{name.replace('/', '-')}-{kept.key(about, count)}"
            for compress in (None, 32):
                into = folder / f"extracted-{compress}"
                shutil.rmtree(into, ignore_errors=True)
                start = time.process_time()
                extract(chosen, into, replace(about, compress=compress))
                times.append([name, about.backbone.name, compress or "none", round(time.process_time() - start, 1)])
            whole = FeatureStore(folder / "extracted-None")
            rows += compared(f"{name}, {about.backbone.name}", whole, folder / "parts", dims, plan)
    print("\nRMSE in meV/atom and meV/angstrom, in brackets how much more than float32 in %\n")
    header = ["data", "tangents", "d", "bytes of an atom and direction", "CV energies", "CV forces"]
    table([*header, "test energies", "test forces", "seconds of the fit"], rows)
    table(["data", "backbone", "--compress", "seconds of the extraction"], times)
