"""Cells of 10,000 atoms: memory and time of energies, forces and stress, at once and in chunks, and what halos would cost."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT

from benchmarks.data import ROOT
from benchmarks.measuring import Peak, seconds, table
from mekrr_scale.backbones import BackboneEnergies, BackboneSpec, load_backbone
from mekrr_scale.files import parse_bytes
from mekrr_scale.models import Potential
from mekrr_scale.pipeline import ExtractPlan, FitPlan, KernelPlan, LandmarkPlan, extract, fit
from mekrr_scale.structures import Graph, Predictor, build_graph

BOUNDS = {"sevennet": "1GB", "chgnet": "6GB"}  # of the larger cell
WHAT = {"model": "features and kernel", "network": "the network's own energies"}
SMALL, LARGE = 5, 14  # 500 and 10,976 atoms
CASES = (("model", SMALL), ("network", SMALL), ("model", LARGE))
NONE = "1TB"  # at once
LARGEST = 20e9  # bytes that a process of this benchmark may take by its own estimate


def copper(repeats: int, seed: int = 0) -> Atoms:
    """4 n^3 atoms of fcc copper, shaken."""
    atoms = bulk("Cu", cubic=True).repeat((repeats,) * 3)
    atoms.rattle(0.08, seed=seed)
    return atoms


def small_model(backbone: str, path: Path) -> None:
    """Of a few cells with EMT's energies, with uncertainty."""
    frames = []
    for seed in range(24):
        atoms = copper(2, seed)
        atoms.calc = EMT()
        atoms.get_potential_energy()
        frames.append(atoms)
    store = path.with_suffix(".features")
    extract(frames, store, ExtractPlan(BackboneSpec(backbone)))
    plan = FitPlan(
        kernel=KernelPlan(length_scales="4x"), landmarks=LandmarkPlan(count=400), baseline="composition", validation=4
    )
    fit(store, plan).model.save(path)


def measured(backbone: str, what: str, model: str, repeats: int, bound: str) -> dict[str, float]:
    """Peak of the memory on top of what the process held (MB), and seconds."""
    predictor: Predictor
    if what == "model":
        predictor = Potential(model, max_memory=bound)
    else:
        predictor = BackboneEnergies(load_backbone(backbone), parse_bytes(bound))
    predictor.predict(copper(2), stress=True)
    atoms = copper(repeats)
    with Peak() as peak:
        time = seconds(lambda: predictor.predict(atoms, stress=True), 1)
    return {"mb": peak.added, "seconds": time}


def edges_of_pieces(graph: Graph, cell: float, parts: int, hops: int) -> float:
    """Edges that cubes of atoms would take with their surroundings, all together, over those of the whole."""
    centre, neighbour = (part.numpy() for part in graph.edge_index)
    place = np.floor(graph.positions.numpy() / cell * parts).astype(int) % parts
    piece = (place * [1, parts, parts**2]).sum(1)
    total = 0
    for k in range(parts**3):
        near = piece == k
        for _ in range(hops - 1):
            near[neighbour[near[centre]]] = True
        total += int((near[centre] | near[neighbour]).sum())
    return total / len(centre)


def halos() -> None:
    rows = []
    atoms = copper(LARGE)
    for name, cutoff, hops in (("sevennet", 5.0, 2), ("sevennet", 5.0, 5), ("chgnet", 6.0, 3), ("chgnet", 6.0, 4)):
        graph = build_graph(atoms, cutoff)
        found = [edges_of_pieces(graph, float(atoms.cell[0, 0]), parts, hops) for parts in (2, 3, 4)]
        rows.append(
            [name, hops, *(f"{value:.1f}, {value / n**3:.2f}" for n, value in zip((2, 3, 4), found, strict=True))]
        )
    print(f"\nPieces of {len(atoms)} atoms with halos: edges of all pieces, and of one, over those of the whole\n")
    table(["backbone", "hops", "8 pieces", "27 pieces", "64 pieces"], rows)


def told(arguments: Sequence[str]) -> dict[str, float] | None:
    """What a process of its own measures; None where it would take too much."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "benchmarks.large_cells", *arguments],
        cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    found: dict[str, float] | None = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    halos()
    rows: list[list[object]] = []
    with tempfile.TemporaryDirectory() as folder:
        for backbone, large in BOUNDS.items():
            model = Path(folder) / f"{backbone}.mekrr"
            small_model(backbone, model)
            for what, repeats in CASES:
                for bound in (NONE, large if repeats == LARGE else "500MB"):
                    found = told([backbone, what, str(model), str(repeats), bound])
                    figures = ["does not fit", ""] if found is None else [found["mb"], found["seconds"]]
                    asked = "at once" if bound == NONE else bound
                    rows.append([backbone, WHAT[what], 4 * repeats**3, asked, *figures])
                    print(rows[-1], flush=True)
    print("\nEnergies, forces and stress of copper, float32\n")
    table(["backbone", "what", "atoms", "bound", "peak, MB", "seconds"], rows)


def one(backbone: str, what: str, model: str, repeats: str, bound: str) -> None:
    """A process of ``told``."""
    from mekrr_scale.backbones import memory

    torch.set_num_threads(1)
    if bound == NONE:
        network = Potential(model).backbone if what == "model" else load_backbone(backbone)
        graph = network.graph(copper(int(repeats)))
        whole = memory._WHOLE * memory._kept(network, memory._sample(graph), what == "network").of(graph)
        if whole > LARGEST:
            print("null")
            return
    print(json.dumps(measured(backbone, what, model, int(repeats), bound)))


if __name__ == "__main__":
    one(*sys.argv[1:])
