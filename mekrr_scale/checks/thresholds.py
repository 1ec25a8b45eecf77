"""What a potential must keep to pass: every threshold with its reason."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from mekrr_scale.files import read_toml
from mekrr_scale.plans import plan

Positive = Annotated[float, Field(gt=0)]


@plan
class Thresholds:
    """Limits of the checks. A test that the bare backbone fails too is said to do so, and fails all the same.

    In TOML: ``bulk_spread = 0.3`` in a file for ``--thresholds``.
    """

    bulk_spread: Positive = 0.1
    """Of the bulk modulus between strain ranges of 0.5, 1, 2 and 4 %, largest less smallest over their mean. DFT's own
    third-order fits differ by 2 to 5 %; a model whose energies are wrong by 1 meV/atom within 0.5 % of the lattice
    constant has a well there that is 50 % too sharp, and every elastic constant with it."""

    bulk_change: Positive = 0.4
    """Of the bulk modulus beside the bare backbone's, relative. Pretrained potentials are too soft by 10 to 30 % (Deng
    et al., npj Comput. Mater. 11, 9 (2025)); a fit that changes stiffness by more has learned it from noise."""

    lattice: Positive = 0.02
    """Of lattice constants beside the reference, relative. Functionals differ by 1 to 2 %."""

    reference: Positive = 0.2
    """Of moduli, elastic constants and defect energies beside the reference, relative. Experiment and functionals
    differ by 10 to 15 %."""

    imaginary: Positive = 0.5
    """Of the lowest phonon frequency, THz, below zero. Acoustic modes at the zone centre come out within 0.1 to 0.3 of
    zero by finite displacements; a mode beyond it that the backbone does not have is an instability of the fit."""

    imaginary_molecule: Positive = 50.0
    """Of the lowest vibration of a relaxed molecule, 1/cm, below zero. Six modes are zero but for finite displacements,
    methyl rotors lie near 30 to 50."""

    jump: Positive = 1e-3
    """Of a force along a line, eV/angstrom in 1e-4 angstrom, beyond what the backbone has. A smooth potential changes
    its slope by less than 1e-6 over that; cutoffs without a smooth end and neighbour lists that are capped jump."""

    difference: Positive = 1e-3
    """Of forces and finite differences of the energy, eV/angstrom. In float64 they agree to 1e-6 where forces are the
    derivative of the energy."""

    extensivity: Positive = 1e-4
    """Of the energy of a doubled cell, or of two copies far apart, less twice that of one, eV/atom."""

    motion: Positive = 1e-4
    """Of energies (eV/atom) and forces (eV/angstrom) of a turned, moved and renumbered copy. Networks of high angular
    order in float64 keep 1e-6."""

    drift: Positive = 1.0
    """Of the total energy at constant energy, meV/atom in 10 ps. More is heat that nobody put in: 1 meV/atom is 4 K."""

    short_bond: Positive = 0.6
    """Of the sum of covalent radii: a pair of atoms must not be bound below it, in front of a wall of 10 eV. There a
    potential without a short-range wall lets atoms fall into each other at high temperature or pressure."""


def read_thresholds(path: Path | str | None) -> Thresholds:
    """From a TOML file; what it does not name is as by default.

    Raises:
        ConfigError: it cannot be read, or a name (the closest is named) or value that cannot be used.
    """
    return Thresholds() if path is None else Thresholds(**read_toml(path, "file of thresholds"))
