"""D3 dispersion beside a model whose labels have none (Grimme et al., J. Chem. Phys. 132, 154104 (2010)).

simple-dftd3 computes it: energies, forces and virials of molecules, slabs and crystals, out to 32 angstrom, where pairs
fade. Coordination numbers end at 21 angstrom with a step of 1e-7, which leaves forces and stresses 1e-6 eV/angstrom and
eV/angstrom^3 beside the energy's derivatives.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any

import numpy as np
import torch
from ase import Atoms, units
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import atomic_numbers
from torch import Tensor

from mekrr_scale.errors import ConfigError, StructureError, require_known, suggestion
from mekrr_scale.structures import Prediction, check_geometry, volume_of

_FORMS = {
    "d3bj": ("RationalDampingParam", "bj"),
    "d3zero": ("ZeroDampingParam", "zero"),
    "d3mbj": ("ModifiedRationalDampingParam", "bjm"),
    "d3mzero": ("ModifiedZeroDampingParam", "zerom"),
}
_TAKEN = ("energy", "free_energy", "forces", "stress")
_KNOWN = range(1, 104)  # atomic numbers
# bohr; simple-dftd3's own cutoffs, at which pairs fade, so that forces and stress are the energy's derivatives
_REACH, _REACH3, _FADING = 60.0, 40.0, 10.0


@dataclass(frozen=True)
class Dispersion:
    """D3 dispersion of a functional, for models of labels without dispersion.

    Args:
        method: the functional, by the name that simple-dftd3 has for it: ``pbe``, ``r2scan``, ``b3lyp``, ...
        damping: at short distances: ``d3bj`` (Becke and Johnson's), ``d3zero``, or with the parameters of Smith et al.
            (2016) ``d3mbj``, ``d3mzero``.
        three_body: with the Axilrod-Teller-Muto term, which codes leave out by default; a hundred times as slow.

    Raises:
        ConfigError: dftd3 is not installed, or has no such functional or damping.
    """

    method: str
    damping: str = "d3bj"
    three_body: bool = False

    def __post_init__(self) -> None:
        require_known("there is no D3 damping", self.damping, _FORMS)
        known = _functionals(_FORMS[self.damping][1])
        try:
            self._damping()
        except RuntimeError:
            raise ConfigError(
                f"D3 has no parameters for {self.method!r} with damping {self.damping}. "
                f"{suggestion(self.method.lower(), known)}"
            ) from None

    @property
    def name(self) -> str:
        """What it is, in a word."""
        return f"{self.method.lower()}-{self.damping}{'-atm' if self.three_body else ''}"

    def predict(self, atoms: Atoms | Sequence[Atoms], forces: bool = True, stress: bool = False) -> Prediction:
        """Its energies, forces and stress; every atom of a structure has the same part of the energy.

        Raises:
            StructureError: elements beyond lawrencium, or a geometry that is none.
        """
        given = [atoms] if isinstance(atoms, Atoms) else list(atoms)
        found = [self._of(structure, forces or stress) for structure in given]
        energy = torch.tensor([float(one["energy"]) * units.Hartree for one in found], dtype=torch.float64)
        sizes = torch.tensor([len(structure) for structure in given])
        whole: Tensor | None = None
        if forces:
            slopes = [one["gradient"] * (units.Hartree / units.Bohr) for one in found]
            whole = -torch.from_numpy(np.concatenate(slopes))
        virials = [_stress(structure, one) for structure, one in zip(given, found, strict=True)] if stress else None
        parts = (energy / sizes).repeat_interleave(sizes)
        return Prediction(energy, parts, whole, None if virials is None else torch.stack(virials))

    def taken_off(self, atoms: Atoms) -> Atoms:
        """A copy whose labels (ASE's results) are those of a theory without dispersion: what to fit beside it.

        Raises:
            StructureError: no results to take it off, or see ``predict``.
        """
        if atoms.calc is None or not atoms.calc.results:
            raise StructureError("a structure has no labels to take dispersion off; read them under ASE's names first")
        added = self.predict(atoms, stress=volume_of(atoms) > 0).results()
        left = {
            name: value - added[name] for name, value in atoms.calc.results.items() if name in _TAKEN and name in added
        }
        copy = atoms.copy()
        copy.calc = SinglePointCalculator(copy, **left)
        return copy

    def _damping(self) -> Any:
        from dftd3 import interface

        return getattr(interface, _FORMS[self.damping][0])(method=self.method, atm=self.three_body)

    def _of(self, atoms: Atoms, gradient: bool) -> dict[str, Any]:
        """In Hartree and bohr. Nothing is kept: its objects cannot be copied, and cost little."""
        from dftd3 import interface

        check_geometry(atoms)
        unknown = [symbol for symbol in set(atoms.symbols) if atomic_numbers[symbol] not in _KNOWN]
        if unknown:  # which the library does not survive
            raise StructureError(
                f"there is no D3 dispersion of {', '.join(sorted(unknown))}; leave it out, or the dispersion"
            )
        periodic = bool(atoms.pbc.any())
        box = atoms.cell.complete().array / units.Bohr if periodic else None
        try:
            model = interface.DispersionModel(
                atoms.numbers, atoms.positions / units.Bohr, box, atoms.pbc if periodic else None
            )
            model.set_realspace_cutoff(disp2=_REACH, disp3=_REACH3, cn=_REACH3, width2=_FADING, width3=_FADING)
            return dict(model.get_dispersion(param=self._damping(), grad=gradient))
        except RuntimeError as error:
            raise StructureError(
                f"D3 dispersion of {atoms.get_chemical_formula()} cannot be computed: {error}; leave the structure, or "
                "the dispersion, out"
            ) from error


def as_dispersion(given: Dispersion | str | None) -> Dispersion | None:
    """What a caller has: a dispersion, or a functional with its damping, if it is another than d3bj: ``pbe:d3zero``.

    Raises:
        ConfigError: see ``Dispersion``.
    """
    if not isinstance(given, str):
        return given
    method, _, damping = given.partition(":")
    return Dispersion(method, damping or "d3bj")


def _stress(atoms: Atoms, found: dict[str, Any]) -> Tensor:
    """In eV/angstrom^3; NaN where a lattice vector is missing."""
    virial: Tensor = torch.from_numpy(np.array(found["virial"], dtype=np.float64)) * units.Hartree
    stress: Tensor = (virial + virial.T) / (2 * volume_of(atoms))
    return stress


@lru_cache
def _functionals(damping: str) -> list[str]:
    """Those that there are parameters for.

    Raises:
        ConfigError: dftd3 is not installed.
    """
    try:
        text = (files("dftd3") / "parameters.toml").read_text(encoding="utf-8")
    except ModuleNotFoundError as error:
        raise ConfigError("D3 dispersion needs the package dftd3: pip install 'mekrr-scale[dispersion]'") from error
    table: dict[str, dict[str, dict[str, Any]]] = tomllib.loads(text)["parameter"]
    return [name for name, kinds in table.items() if damping in kinds.get("d3", {})]
