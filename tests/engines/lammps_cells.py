"""Structures as LAMMPS reads them, inputs for them, and what LAMMPS says of them."""

import re

import numpy as np
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.data import atomic_masses, atomic_numbers

BAR = 1.6021765e6  # bar in an eV/angstrom^3, as LAMMPS has it; ASE has 8e-8 more
THERMO = "thermo_style custom step pe etotal vol pxx pyy pzz pyz pxz pxy\nthermo_modify format float %.17g\n"
DUMP = (
    "compute e all pe/atom\ndump d all custom 1 forces.dump id type x y z fx fy fz c_e\n"
    'dump_modify d sort id format float "%.17g"\n'
)


def turned(atoms):
    """In the orientation of LAMMPS' cells: a along x, b in the xy plane."""
    found = atoms.copy()
    found.set_cell(atoms.cell.standard_form()[0], scale_atoms=True)
    return found


def sheared(atoms):
    atoms.set_cell(atoms.cell @ (np.eye(3) + [[0, 0.05, 0], [0.02, 0, 0.03], [0, 0, 0.04]]), scale_atoms=True)
    return atoms


def cells():
    """Name to structure: images of itself, triclinic, two species, a slab, a molecule, a flat one."""
    tiny = bulk("C", "diamond", 3.6)
    slab = fcc111("C", (2, 2, 2), a=3.7, vacuum=6.0)
    slab.pbc = (True, True, False)
    water = molecule("CH3OH", vacuum=5.0)
    oxide = bulk("CO", "rocksalt", a=4.2).repeat((2, 1, 1))
    wire = Atoms(
        "C4", [(i * 1.4, 0.1 * (i % 2), 0.1 * i) for i in range(4)], cell=[5.6, 9, 9], pbc=(True, False, False)
    )
    wire.center(axis=(1, 2))
    found = {"tiny": tiny, "triclinic": sheared(bulk("C", "diamond", 3.6).repeat((2, 1, 1))), "oxide": oxide,
             "slab": slab, "molecule": water, "wire": wire}  # fmt: skip
    for atoms in found.values():
        atoms.rattle(0.05, seed=3)
    return {name: turned(atoms) for name, atoms in found.items()}


CELLS = cells()


def write_cell(path, atoms, elements):
    """A data file; ``atoms`` must be turned."""
    (lx, _, _), (xy, ly, _), (xz, yz, lz) = atoms.cell.array.tolist()
    lines = [
        "cell\n", f"{len(atoms)} atoms", f"{len(elements)} atom types", f"0 {lx!r} xlo xhi", f"0 {ly!r} ylo yhi",
        f"0 {lz!r} zlo zhi", f"{xy!r} {xz!r} {yz!r} xy xz yz\n", "Masses\n",
        *(f"{i} {atomic_masses[atomic_numbers[element]]}" for i, element in enumerate(elements, 1)),
        "\nAtoms # atomic\n",
    ]  # fmt: skip
    for i, (symbol, position) in enumerate(zip(atoms.symbols, atoms.positions.tolist(), strict=True), 1):
        lines.append(f"{i} {elements.index(symbol) + 1} {' '.join(map(repr, position))}")
    path.write_text("\n".join(lines) + "\n")


def input_of(atoms, model, elements, rest, data="cell.data", style="mekrr"):
    """The text of an input for a structure's data file."""
    boundary = " ".join("p" if periodic else "f" for periodic in atoms.pbc)
    return (
        f"units metal\natom_style atomic\nboundary {boundary}\nbox tilt large\nread_data {data}\n"
        f"pair_style {style}\npair_coeff * * {model} {' '.join(elements)}\n{rest}"
    )


def thermo(path):
    """Rows of all tables in a log, as {column: value}."""
    rows, names = [], None
    for line in path.read_text().splitlines():
        words = line.split()
        if words[:1] == ["Step"]:
            names = words
        elif names and words and re.fullmatch(r"[-+.\deinfa]+", "".join(words)) and len(words) == len(names):
            rows.append(dict(zip(names, map(float, words), strict=True)))
        else:
            names = None if line.startswith("Loop time") else names
    return rows


def stress_of(row):
    """ASE's stress (Voigt, eV/angstrom^3) of a row without velocities."""
    return -np.array([row[name] for name in ("Pxx", "Pyy", "Pzz", "Pyz", "Pxz", "Pxy")]) / BAR


def dumped(path):
    """Columns of the last frame of a dump."""
    lines = path.read_text().splitlines()
    begin = max(i for i, line in enumerate(lines) if line.startswith("ITEM: ATOMS"))
    values = np.array([line.split() for line in lines[begin + 1 :]], dtype=float)
    return dict(zip(lines[begin].split()[2:], values.T, strict=True))
