"""Phonons by finite displacements."""

from __future__ import annotations

import warnings
from typing import ClassVar, final

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator

from mekrr_scale.checks.base import Check
from mekrr_scale.checks.kinds import CRYSTALS, StructureKind, repeats
from mekrr_scale.checks.measured import Curve, Measured, Panel, Quantity
from mekrr_scale.checks.thresholds import Thresholds
from mekrr_scale.errors import ConfigError
from mekrr_scale.structures import electrons_info

_LENGTH = 9.0  # angstrom between images of a displaced atom
_DISPLACEMENT = 0.01  # angstrom
_MESH = 8  # points along each reciprocal axis


@final
class PhononCheck(Check):
    """Frequencies on a mesh of the Brillouin zone (phonopy: Togo, J. Phys. Soc. Jpn. 92, 012001 (2023))."""

    name: ClassVar[str] = "phonons"
    what: ClassVar[str] = "phonon frequencies: imaginary modes, density of states"
    kinds: ClassVar[frozenset[StructureKind]] = CRYSTALS
    relaxed: ClassVar[bool] = True

    def measure(self, atoms: Atoms, calculator: Calculator) -> Measured:
        """The lowest and the highest frequency; imaginary ones are negative."""
        try:
            from phonopy import Phonopy
            from phonopy.structure.atoms import PhonopyAtoms
        except ImportError as error:
            raise ConfigError("phonons need phonopy: pip install 'mekrr-scale[check]'") from error
        cell = PhonopyAtoms(
            symbols=atoms.get_chemical_symbols(), scaled_positions=atoms.get_scaled_positions(), cell=atoms.cell.array
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # phonopy 4 says that 'auto' was another choice in phonopy 3
            phonon = Phonopy(cell, np.diag(repeats(atoms, _LENGTH)), primitive_matrix="auto", log_level=0)
        phonon.generate_displacements(distance=_DISPLACEMENT)
        supercells = phonon.supercells_with_displacements or []
        phonon.forces = np.array([_moved(displaced, atoms, calculator) for displaced in supercells])
        phonon.produce_force_constants()
        phonon.symmetrize_force_constants()
        phonon.run_mesh([_MESH] * 3, is_gamma_center=True)
        frequencies = np.asarray(phonon.mesh.frequencies)
        phonon.run_total_dos()
        curve = Curve(np.asarray(phonon.total_dos.frequency_points), np.asarray(phonon.total_dos.dos))
        found = {
            "lowest frequency": Quantity(float(frequencies.min()), "THz"),
            "highest frequency": Quantity(float(frequencies.max()), "THz"),
        }
        return Measured(found, Panel("frequency (THz)", "density of states (1/THz/cell)", {"": curve}))

    def failures(self, model: Measured, backbone: Measured | None, limits: Thresholds) -> list[str]:
        if not model["lowest frequency"] < -limits.imaginary:
            return []
        if backbone is not None and backbone["lowest frequency"] < -limits.imaginary:
            return []  # the crystal is unstable there by the backbone, too
        return [f"an imaginary mode of {-model['lowest frequency']:.2f}i THz: the crystal is not stable at its minimum"]


def _moved(displaced: object, cell: Atoms, calculator: Calculator) -> np.ndarray:
    """Forces (eV/angstrom) of a supercell of phonopy's."""
    atoms = Atoms(
        displaced.symbols,  # type: ignore[attr-defined]
        scaled_positions=displaced.scaled_positions,  # type: ignore[attr-defined]
        cell=displaced.cell,  # type: ignore[attr-defined]
        pbc=True,
        info=electrons_info(cell),
        calculator=calculator,
    )
    found: np.ndarray = atoms.get_forces()
    return found
