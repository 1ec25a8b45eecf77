"""What a check is: it measures a potential on a structure, and judges the numbers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from ase import Atoms
from ase.calculators.calculator import Calculator

from mekrr_scale.checks.kinds import StructureKind
from mekrr_scale.checks.measured import Measured, Quantity
from mekrr_scale.checks.thresholds import Thresholds


class Check(ABC):
    """One physical test.

    A potential is an ASE calculator, so that the model, the bare backbone and anything else are measured alike.
    """

    name: ClassVar[str]
    what: ClassVar[str]  # in a line, for help
    kinds: ClassVar[frozenset[StructureKind]]  # of structures that it can be run on
    relaxed: ClassVar[bool] = False  # it wants the structure at the potential's own minimum
    asked: ClassVar[bool] = False  # run only where it is named

    @abstractmethod
    def measure(self, atoms: Atoms, calculator: Calculator) -> Measured:
        """Numbers and curves of one potential.

        Args:
            atoms: a copy of the structure's own; relaxed by the calculator where the check wants it.

        Raises:
            CheckError: it cannot be measured on this structure, or at all.
        """

    def effort(self, atoms: Atoms) -> tuple[Atoms, int] | None:
        """A structure, and how many energies of its size one potential gives in this test, roughly.

        None: more than the end of a fit should take.
        """
        return None

    @abstractmethod
    def failures(self, model: Measured, backbone: Measured | None, limits: Thresholds) -> list[str]:
        """What is wrong with the model, each in a sentence; empty where nothing is."""

    def beside(self, model: Measured, reference: Mapping[str, Quantity], limits: Thresholds) -> list[str]:
        """What is too far from reference values that were given."""
        wrong = []
        for name, expected in reference.items():
            limit = limits.lattice if expected.unit == "angstrom" else limits.reference
            off = model[name] / expected.value - 1.0
            if abs(off) > limit:
                wrong.append(
                    f"{name} is {model.quantities[name]}, the reference {expected}: {100 * off:+.0f} %, more than "
                    f"{100 * limit:.0f} %"
                )
        return wrong
