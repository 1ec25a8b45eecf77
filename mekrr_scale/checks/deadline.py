"""Potentials that answer until a deadline, so that a test that takes longer than foreseen ends by itself."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import final

from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes

from mekrr_scale.errors import SimulationError


@final
class OutOfTimeError(SimulationError):
    """The deadline has passed."""


@final
class Hurried(Calculator):  # type: ignore[misc]
    """A potential that is asked no more once its time is over.

    Args:
        until: by ``time.monotonic``.
    """

    def __init__(self, potential: Calculator, until: float) -> None:
        super().__init__()
        self.potential, self.until = potential, until
        self.implemented_properties = potential.implemented_properties

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """What the potential gives.

        Raises:
            OutOfTimeError: the deadline has passed.
        """
        super().calculate(atoms, list(properties), list(system_changes))
        if time.monotonic() > self.until:
            raise OutOfTimeError("it takes longer than the end of a fit may; mekrr-scale check runs it")
        self.potential.calculate(self.atoms, properties, system_changes)
        self.results = self.potential.results
