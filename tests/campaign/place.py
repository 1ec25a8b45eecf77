"""A folder with every kind of file that the package writes, small."""

from __future__ import annotations

import shutil
from pathlib import Path

import ase.io
import numpy as np
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator

from mekrr_scale.backbones import BackboneSpec, save_schnet
from mekrr_scale.distributed import Checkpoint, State
from mekrr_scale.outputs import write_report
from mekrr_scale.pipeline import (
    ExtractPlan,
    FitPlan,
    KernelPlan,
    LandmarkPlan,
    Validation,
    evaluate,
    extract,
    fit,
    predict,
)
from mekrr_scale.report import parity_plot
from mekrr_scale.simulation import MdPlan, run_md
from mekrr_scale.solvers import Direct
from mekrr_scale.transfer import CurvePlan, TrainPlan, Variant, read_examples, run_curve

IDENTITY = {"problem": "campaign", "ridge": 0.125}
CURVE = {"sizes": (4,), "variants": (Variant.parse("scratch:schnet-tiny"),), "repeats": 1, "rates": (1e-3,)}


def structures(count: int = 24) -> list[Atoms]:
    """Molecules and cells with labels."""
    generator = np.random.default_rng(0)
    found = []
    for i in range(count):
        atoms = [molecule("H2O"), molecule("CH4"), bulk("C", "diamond", 3.6)][i % 3].copy()
        atoms.rattle(0.05, rng=generator)
        distances = atoms.get_all_distances(mic=bool(atoms.pbc.any()))
        energy = float(np.exp(-distances[distances > 0]).sum() - 1.5 * len(atoms))
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=generator.normal(size=(len(atoms), 3)) * 0.1)
        found.append(atoms)
    return found


def made(folder: Path) -> Path:
    """Fill a folder: structures, backbone, store, sums, model, simulation, states, a learning curve."""
    from torch_geometric.nn.models import SchNet

    folder.mkdir(parents=True, exist_ok=True)
    frames = structures()
    ase.io.write(folder / "data.xyz", frames, format="extxyz")
    torch.manual_seed(0)
    network = SchNet(hidden_channels=8, num_filters=8, num_interactions=2, num_gaussians=8, cutoff=4.0)
    save_schnet(network, folder / "schnet.pt")
    spec = BackboneSpec("schnet", checkpoint=str(folder / "schnet.pt"))
    extract(folder / "data.xyz", folder / "store", ExtractPlan(spec, derivatives=2, shard_bytes=4000))
    extract(folder / "data.xyz", folder / "parts", ExtractPlan(spec, part=(1, 2)))
    extract(folder / "data.xyz", folder / "parts", ExtractPlan(spec, part=(2, 2)))
    plan = FitPlan(
        kernel=KernelPlan(length_scales="2x", alphas=(0.5,)), landmarks=LandmarkPlan(count=12), baseline="composition",
        solver=Direct((1e-6,)), validation=Validation(folds=3),
    )  # fmt: skip
    model = fit(folder / "store", plan).model
    model.save(folder / "model.mekrr")
    report = evaluate(model, frames)
    write_report(folder / "report.json", report.to_dict())
    parity_plot(folder / "figure.png", report)
    ase.io.write(folder / "predicted.extxyz", list(predict(model, frames[:4])), format="extxyz")
    sums = FitPlan(
        kernel=plan.kernel, landmarks=plan.landmarks, baseline="composition", solver=Direct((1e-6,)),
        validation=Validation(folds=0, uncertainty=False),
    )  # fmt: skip
    fit(folder / "store", sums, sums=folder / "sums")
    ase.io.write(folder / "start.xyz", molecule("H2O"), format="extxyz")
    run_md(molecule("H2O"), model, folder / "run.xyz", MdPlan("langevin", 4, 0.1, interval=1, checkpoint=2))
    kept = Checkpoint(folder / "states", IDENTITY)
    for step in (1, 2):
        kept.save("cg", State({"x": torch.full((40,), float(step), dtype=torch.float64)}, {"step": step}))
    examples = read_examples(frames)
    how = CurvePlan(**CURVE, backbone=spec, train=TrainPlan(steps=1, stress_weight=0.0))
    run_curve(examples[:6], examples[6:9], examples[9:], folder / "curve", how)
    (folder / "fit.toml").write_text('store = "store"\noutput = "m.mekrr"\n[landmarks]\ncount = 8\n', encoding="utf-8")
    return folder


def copied(source: Path, target: Path) -> Path:
    """A copy that may be damaged; checkpoints are still named where they were."""
    if target.exists():
        shutil.rmtree(target)
    shutil.copytree(source, target)
    return target
