"""What the kernel adds to the backbone's work in predicting forces, at M = 2000, pages of memory kept as in MD."""

from dataclasses import replace

import torch
from ase import Atoms

from benchmarks.bpa_forces import PLAN, sized, tangents, test_frames
from benchmarks.data import store, structures
from benchmarks.measuring import alike, table
from mekrr_scale.arrays import kept_memory
from mekrr_scale.models import Model, Potential
from mekrr_scale.pipeline import FitPlan, KernelPlan, LandmarkPlan, Validation, fit
from mekrr_scale.structures import read_structures


def backbone_alone(potential: Potential, atoms: Atoms) -> None:
    """Neighbour list, features and one reverse sweep, without a kernel."""
    graph = potential.backbone.graph(atoms)
    positions = graph.positions.clone().requires_grad_(True)
    features = potential.backbone.forward(graph, positions, energies=False).features
    torch.autograd.grad(features.sum(), positions)


def main() -> None:
    molecule = next(read_structures(test_frames()))
    slab = next(read_structures(structures("hcoo_cu110/val.xyz.xz")))
    validation = Validation(uncertainty=False)
    energies = FitPlan(
        kernel=KernelPlan(length_scales="4x"), landmarks=LandmarkPlan(count=2000), baseline="composition",
        validation=validation,
    )  # fmt: skip
    forces = replace(sized(PLAN, 2000), validation=validation)
    models: list[tuple[str, Model, Atoms]] = [
        ("sevennet", fit(tangents(250, 16), forces).model, molecule),
        ("chgnet", fit(store("hcoo_cu110/train"), energies).model, slab),
    ]
    rows: list[list[object]] = []
    for name, model, atoms in models:
        for dtype in (torch.float32, torch.float64):
            potential = Potential(model, dtype=dtype)

            def whole(potential: Potential = potential, atoms: Atoms = atoms) -> None:
                potential.predict(atoms)

            def alone(potential: Potential = potential, atoms: Atoms = atoms) -> None:
                backbone_alone(potential, atoms)

            with kept_memory():
                (_, both), (_, network) = alike([whole, alone], 9)
            rows.append(
                [
                    name,
                    len(atoms),
                    str(dtype).split(".")[1],
                    1e3 * network,
                    1e3 * both,
                    f"{100 * (both / network - 1):.0f} %",
                ]
            )
    print("\nms for energy and forces of one structure, best of nine, in turns\n")
    table(["backbone", "atoms", "precision", "backbone alone", "whole prediction", "kernel over backbone"], rows)
