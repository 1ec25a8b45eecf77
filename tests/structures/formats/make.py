"""Writes the files beside it, with dpdata 1.1.0, which tests do without: python -m tests.structures.formats.make."""

import shutil
from pathlib import Path

import ase.io
import numpy as np
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

HERE = Path(__file__).parent


def labelled(atoms):
    """A copy with the results of EMT."""
    atoms.calc = EMT()
    results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces(), "stress": atoms.get_stress()}
    copy = atoms.copy()
    copy.calc = SinglePointCalculator(copy, **results)
    return copy


def main():
    import dpdata

    generator, frames = np.random.default_rng(0), []
    for seed in range(3):
        atoms = bulk("Cu", cubic=True)
        atoms.symbols[0] = "Ni"
        atoms.set_cell(atoms.cell.array + 0.1 * generator.standard_normal((3, 3)), scale_atoms=True)
        atoms.rattle(0.05, seed=seed)
        frames.append(labelled(atoms))
    few = bulk("Cu", cubic=True)[:3]
    few.set_cell([6, 6, 6])
    frames.append(labelled(few))
    ase.io.write(HERE / "frames.xyz", frames, format="extxyz")
    system = dpdata.LabeledSystem()
    for atoms in frames[:3]:
        system.append(dpdata.LabeledSystem(atoms, fmt="ase/structure"))
    for name in ("deepmd", "mixed"):
        shutil.rmtree(HERE / name, ignore_errors=True)
    system.to("deepmd/npy", str(HERE / "deepmd"), set_size=2, prec=np.float64)
    both = dpdata.MultiSystems(system, dpdata.LabeledSystem(frames[3], fmt="ase/structure"))
    both.to("deepmd/npy/mixed", str(HERE / "mixed"), atom_numb_pad=8, prec=np.float64)
    system.to("n2p2", str(HERE / "input.data"))


if __name__ == "__main__":
    main()
