"""What training and distillation refuse, and what they say of it."""

import math

import pytest
from ase import Atoms

from mekrr_scale.errors import ConfigError, StructureError
from mekrr_scale.transfer import BlockPlan, SamplePlan, StudentSpec, TrainPlan, Variant, read_examples


@pytest.mark.parametrize("decay", [0.0, 1.5, -1.0, math.nan])
def test_decays(decay):
    with pytest.raises(ConfigError, match="give a factor between 0 and 1"):
        BlockPlan(decay=decay)


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": -1}, {"steps": -1}, {"batch": 0}, {"learning_rate": math.nan}, {"learning_rate": math.inf},
        {"weight_decay": math.nan}, {"average": math.nan}, {"warmup": math.nan}, {"huber": math.nan},
    ],
)  # fmt: skip
def test_plans(changes):
    (name,) = changes
    with pytest.raises(ConfigError, match=f"{name} = .* is outside its range"):
        TrainPlan(**changes)


@pytest.mark.parametrize("weight", [math.nan, math.inf, -1.0])
def test_weights(weight):
    with pytest.raises(ConfigError, match="must be numbers, not negative, nor all zero"):
        TrainPlan(force_weight=weight)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"seed": -1}, "seed = -1"), ({"temperature": math.nan}, "positive temperature"),
        ({"timestep": math.inf}, "positive temperature"), ({"every": 0}, "every >= 1"),
        ({"rattle": math.nan}, "displacements are in angstrom"), ({"rattle": 1.0}, "displacements are in angstrom"),
    ],
)  # fmt: skip
def test_samples(changes, text):
    with pytest.raises(ConfigError, match=text):
        SamplePlan(**changes)


def test_names():
    with pytest.raises(ConfigError, match="student .kernel:chgnt.*Do you mean"):
        StudentSpec.parse("kernel:chgnt")
    with pytest.raises(ConfigError, match="no student .schnet-smal.*Do you mean"):
        StudentSpec.parse("schnet-smal")
    with pytest.raises(ConfigError, match="no variant .finetun.*Do you mean"):
        Variant.parse("finetun")
    with pytest.raises(ConfigError, match="variant .scratch:schnet-smal.*Do you mean"):
        Variant.parse("scratch:schnet-smal")


def test_a_bad_structure_is_named():
    with pytest.raises(StructureError, match="validation structure 0: no energy"):
        read_examples([Atoms("H")], None, "validation")
