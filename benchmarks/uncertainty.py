"""Coverage of the intervals and ranking of the errors, on structures that were not fitted."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch

from benchmarks.bpa_forces import PLAN, SPEC, tangents, test_frames
from benchmarks.data import ROOT, Subset, apart, store, structures
from benchmarks.measuring import table
from mekrr_scale.arrays import rank_correlation
from mekrr_scale.backbones import load_backbone
from mekrr_scale.models import Model, Potential
from mekrr_scale.pipeline import Evaluation, FitPlan, KernelPlan, LandmarkPlan, RowPlan, evaluate_store, fit
from mekrr_scale.structures import read_structures

ENERGIES = FitPlan(
    kernel=KernelPlan(length_scales="4x"), landmarks=LandmarkPlan(count=1000), rows=RowPlan(derivatives=False)
)


def main() -> None:
    (
        test_frames(),
        structures("pt_co/pt553_val.xyz.xz"),
        structures("hcoo_cu110/train.xyz.xz"),
    )  # refused before any work
    rows: list[list[object]] = []
    calibration: list[tuple[str, Evaluation]] = []
    for name in ("hcoo_cu110/train", "pt_co/pt111_train"):
        data = Subset.of(store(name))
        facet = _facet(name) if name.startswith("pt_co") else None
        for seed in range(3):
            fitted, held = data.parts(0.3, seed, f"{name.replace('/', '-')}-{seed}")
            model = fit(fitted.store, ENERGIES).model
            inside = evaluate_store(model, held.store, uncertainty=True)
            rows.append([f"{name}, 30 % held out, split {seed}", *table_row(inside)])
            calibration.append((name, inside))
            if facet is not None:
                outside = evaluate_store(model, facet.store, uncertainty=True)
                rows.append([f"Pt(553), not fitted, split {seed}", *table_row(outside)])
                rows.append([f"both facets, split {seed}", *table_row(outside, inside)])
            print(*rows[-1], sep=" | ", flush=True)
    model = fit(tangents(250, 16), PLAN).model
    rows.append(["3BPA forces, 250 x 16, 12 test frames", *_forces(model)])
    print("\nparts of the errors within the 68 % and 95 % intervals; rank correlation of |error| and interval\n")
    table(["data", "energies or force components", "within 68 %", "within 95 %", "rank correlation"], rows)
    _figure(calibration)


def _facet(fitted: str) -> Subset:
    """Structures of another facet, none of which is in the file that is fitted."""
    files = {name: structures(f"{name}.xyz.xz") for name in (fitted, "pt_co/pt553_val")}
    apart(**{name: read_structures(path) for name, path in files.items()})
    whole = Subset.of(store("pt_co/pt553_val"))
    return whole.take(range(len(whole)), "pt553")


def table_row(*evaluations: Evaluation) -> list[object]:
    """Several evaluations as one."""
    error = np.concatenate([np.abs(e.energy_predicted - e.energy) for e in evaluations])
    size = np.concatenate([e.n_atoms for e in evaluations])
    deviation = np.concatenate([e.energy_uncertainty for e in evaluations])
    wide = np.concatenate([e.energy_ratio_95 * e.energy_uncertainty for e in evaluations])
    rank = rank_correlation(error / size, deviation / size)
    return [
        len(error),
        round(float((error <= deviation).mean()), 3),
        round(float((error <= wide).mean()), 3),
        round(rank, 2),
    ]


def _forces(model: Model) -> list[object]:
    """Force components against their intervals."""
    potential = Potential(model, load_backbone(SPEC))
    errors, deviations, ratio = [], [], 1.0
    for index, atoms in enumerate(read_structures(test_frames())):
        if index == 12:
            break
        found = potential.uncertainty(atoms, forces=True)
        assert found.forces is not None
        assert found.force_ratio_95 is not None
        reference = torch.from_numpy(atoms.get_forces())
        predicted = potential.predict(atoms).forces
        assert predicted is not None
        errors.append((predicted - reference).abs().flatten())
        deviations.append(found.forces.flatten())
        ratio = found.force_ratio_95
    error, deviation = torch.cat(errors), torch.cat(deviations)
    rank = rank_correlation(error.numpy(), deviation.numpy())
    within = [float((error <= scale * deviation).double().mean()) for scale in (1.0, ratio)]
    return [len(error), round(within[0], 3), round(within[1], 3), round(rank, 2)]


def _figure(calibration: Sequence[tuple[str, Evaluation]]) -> None:
    """Errors over intervals, in docs/figures."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names: Iterable[str] = sorted({name for name, _ in calibration})
    figure, axes = plt.subplots(1, 2, figsize=(9, 4))
    for axis, name in zip(axes, names, strict=False):
        for place, (_, found) in enumerate([item for item in calibration if item[0] == name]):
            error = 1e3 * np.abs(found.energy_predicted - found.energy) / found.n_atoms
            axis.scatter(1e3 * found.energy_uncertainty / found.n_atoms, error, s=6, alpha=0.6, label=f"split {place}")
        axis.set(xscale="log", yscale="log", title=name, xlabel="68 % interval (meV/atom)", ylabel="|error| (meV/atom)")
        ends = axis.get_xlim()
        axis.plot(ends, ends, color="black", linewidth=0.8)
        axis.set_ylim(bottom=1e-3)
        axis.legend(frameon=False)
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(ROOT / "docs" / "figures" / "uncertainty.png", dpi=110)
