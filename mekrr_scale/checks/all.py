"""All checks, in the order in which they run."""

from __future__ import annotations

from collections.abc import Sequence

from mekrr_scale.checks.base import Check
from mekrr_scale.checks.bulk import EquationOfStateCheck
from mekrr_scale.checks.defects import SurfaceCheck, VacancyCheck
from mekrr_scale.checks.derivatives import DerivativeCheck
from mekrr_scale.checks.dimers import DimerCheck
from mekrr_scale.checks.dynamics import EnergyCheck, HeatingCheck
from mekrr_scale.checks.elasticity import ElasticityCheck
from mekrr_scale.checks.invariance import ExtensivityCheck, MotionCheck
from mekrr_scale.checks.lattice import LatticeCheck
from mekrr_scale.checks.lines import LineCheck
from mekrr_scale.checks.phonons import PhononCheck
from mekrr_scale.checks.vibrations import VibrationCheck
from mekrr_scale.errors import require_known

CHECKS: dict[str, Check] = {
    check.name: check
    for check in (
        MotionCheck(), ExtensivityCheck(), DerivativeCheck(), LineCheck(), DimerCheck(), LatticeCheck(),
        EquationOfStateCheck(), ElasticityCheck(), PhononCheck(), VibrationCheck(), VacancyCheck(), SurfaceCheck(),
        EnergyCheck(), HeatingCheck(),
    )
}  # fmt: skip


def checks_of(names: Sequence[str]) -> list[Check]:
    """Those that are named; without names all but those that want to be asked for.

    Raises:
        ConfigError: an unknown name (the closest is named).
    """
    for name in names:
        require_known("there is no check", name, CHECKS)
    return [check for name, check in CHECKS.items() if name in names or not (names or check.asked)]
