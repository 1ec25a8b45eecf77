"""Force rows with and without stored tangents: where each is faster."""

from ase import Atoms
from ase.build import bulk

from benchmarks.bpa_forces import test_frames
from benchmarks.measuring import table
from mekrr_scale.backbones import load_backbone
from mekrr_scale.regression import ModeCosts
from mekrr_scale.structures import read_structures


def rattled(atoms: Atoms) -> Atoms:
    atoms.rattle(0.05, seed=0)
    return atoms


def main() -> None:
    molecule = next(read_structures(test_frames()))
    silicon = bulk("Si", "diamond", 5.43, cubic=True)
    structures = [molecule, rattled(silicon.repeat(2)), rattled(silicon.repeat((5, 5, 1)))]
    rows: list[list[object]] = []
    for name in ("sevennet", "chgnet"):
        backbone = load_backbone(name)
        for atoms in structures:
            costs = ModeCosts.measure(backbone, atoms, most=27)
            row = [name, f"{len(atoms)} {atoms.get_chemical_formula()}", costs.stored, costs.sweeps]
            rows.append([*row, round(costs.break_even), round(costs.break_even / 6, 1)])
            print(*rows[-1], sep=" | ", flush=True)
    print(
        "\nfloat32, seconds per structure; tangents: of 27 directions, times 3n / 27; break-even in products (one ridge and five folds: six of them an iteration)\n"
    )
    table(["backbone", "atoms", "all tangents, once", "pair of sweeps", "products", "iterations with 5 folds"], rows)
