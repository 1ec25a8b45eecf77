"""Units in which labels are read; inside, everything is eV and angstrom."""

from __future__ import annotations

from ase.units import Bohr, GPa, Hartree, Rydberg, kcal, kJ, mol

ENERGY_UNITS = {
    "eV": 1.0, "meV": 1e-3, "Hartree": Hartree, "Ry": Rydberg, "kcal/mol": kcal / mol, "kJ/mol": kJ / mol,
}  # fmt: skip
LENGTH_UNITS = {"angstrom": 1.0, "bohr": Bohr, "nm": 10.0}
STRESS_UNITS = {"eV/A^3": 1.0, "GPa": GPa, "kbar": 0.1 * GPa}
