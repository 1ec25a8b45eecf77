"""Frames of two atoms, and a race of one network."""

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from mekrr_scale.backbones import BackboneSpec
from mekrr_scale.tuning.arms import Arm
from mekrr_scale.tuning.race import Course, Raced
from mekrr_scale.tuning.scores import Score


def frame(x, energy=-1.0, symbol="H", **info):
    atoms = Atoms(f"{symbol}2", positions=[[0, 0, 0], [0, 0, x]], info=info)
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=np.zeros((2, 3)))
    return atoms


ARM = Arm(BackboneSpec("chgnet", "conv3"))


def race_of(cost, frames=16):
    course = Course([ARM], 16, 200, 4)
    return Raced([ARM], {ARM: cost}, [Score(ARM, frames, "4", {"energy_rmse": 1.0}, 1.0)], course)
