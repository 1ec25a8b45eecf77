"""What training and distillation refuse, and what they say of it."""

import math

import pytest
from ase import Atoms

from mekrr_scale.backbones import load_backbone
from mekrr_scale.errors import ConfigError, StructureError
from mekrr_scale.structures import Entry
from mekrr_scale.transfer import (
    BlockPlan,
    CurvePlan,
    SamplePlan,
    StudentSpec,
    TrainPlan,
    Variant,
    finetune,
    read_examples,
    run_curve,
)


@pytest.mark.parametrize("decay", [0.0, 1.5, -1.0, math.nan])
def test_decays(decay):
    with pytest.raises(ConfigError, match=r"BlockPlan.decay: Input should be .*\(got "):
        BlockPlan(decay=decay)


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": -1}, {"steps": -1}, {"batch": 0}, {"learning_rate": math.nan}, {"learning_rate": math.inf},
        {"weight_decay": math.nan}, {"average": math.nan}, {"warmup": math.nan}, {"huber": math.nan},
        {"average": 1.0}, {"warmup": 1.0}, {"patience": -1}, {"validate_every": 0}, {"weight_decay": -1.0},
        {"schedule": "cos"}, {"batch": "four"}, {"blocks": 3},
    ],
)  # fmt: skip
def test_plans(changes):
    ((name, value),) = changes.items()
    with pytest.raises(ConfigError, match=rf"TrainPlan.{name}: Input should be .*\(got {value!r}\)"):
        TrainPlan(**changes)
    with pytest.raises(ConfigError, match="TrainPlan has no field 'step'. Do you mean 'steps'"):
        TrainPlan(step=3)


@pytest.mark.parametrize("weight", [math.nan, math.inf, -1.0])
def test_weights(weight):
    with pytest.raises(ConfigError, match="TrainPlan.force_weight: Input should be"):
        TrainPlan(force_weight=weight)


def test_weights_that_are_all_zero():
    with pytest.raises(ConfigError, match="are all zero; give at least one"):
        TrainPlan(energy_weight=0, force_weight=0, stress_weight=0)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"seed": -1}, "seed: Input should be greater than or"), ({"temperature": math.nan}, "finite number"),
        ({"timestep": math.inf}, "timestep: Input should be a finite number"), ({"every": 0}, "equal to 1"),
        ({"timestep": 0.0}, "greater than 0"), ({"friction": 0.0}, "friction: Input should be greater than 0"),
        ({"rattle": math.nan}, "finite number"), ({"rattle": 1.0}, "displacements are in angstrom"),
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


def test_species_and_blocks_that_a_network_has_not(spec, toy_structures, monkeypatch):
    examples = read_examples(toy_structures[:2])
    plan = TrainPlan(steps=1, stress_weight=0.0)
    with pytest.raises(ConfigError, match="species map: the source knows no Og"):
        finetune(load_backbone(spec), examples, examples, plan, entry=Entry(species={118: 6}))
    with pytest.raises(ConfigError, match="species map C:Og: backbone schnet has no weights for Og"):
        finetune(load_backbone(spec), examples, examples, plan, entry=Entry(species={6: 118}))
    with pytest.raises(ConfigError, match="the network has no block 'interaction9'. Do you mean 'interaction"):
        finetune(load_backbone(spec), examples, examples, TrainPlan(steps=1, blocks=BlockPlan(("interaction9",))))
    backbone = load_backbone(spec)
    monkeypatch.setattr(type(backbone), "has_energy", False)
    with pytest.raises(ConfigError, match="backbone schnet gives no energies, so that there is nothing to train"):
        finetune(backbone, examples, examples, plan)


def test_a_frozen_variant_names_its_block(spec, toy_structures, tmp_path):
    examples = read_examples(toy_structures[:4])
    plan = CurvePlan(sizes=(2,), variants=(Variant("frozen"),), backbone=spec, repeats=1)
    with pytest.raises(ConfigError, match="variant 'frozen' needs a block, e.g. frozen:conv3"):
        run_curve(examples, examples[:1], examples[1:], tmp_path / "c", plan)
    for text, message in (("scratch:big", "variant 'scratch:big': .*schnet-small"), ("finetune:x", "takes no option")):
        with pytest.raises(ConfigError, match=message):
            Variant.parse(text)


@pytest.mark.parametrize("option", ["fast", "2", "nan", "0"])
def test_factors_of_variants_are_looked_at_when_they_are_read(option):
    with pytest.raises(ConfigError, match=f"variant 'discriminative:{option}': give a factor between 0 and 1"):
        Variant.parse(f"discriminative:{option}")


def test_learning_rates_of_curves_are_looked_at_when_they_are_planned():
    with pytest.raises(ConfigError, match="TrainPlan.learning_rate: Input should be greater than 0"):
        CurvePlan(sizes=(2,), variants=(Variant("kernel"),), rates=(1e-3, -0.1))


@pytest.mark.parametrize("kind", ["frozen", "kernel-finetuned"])
def test_a_variant_of_which_no_block_learns_is_refused_before_any_runs(spec, toy_structures, tmp_path, kind):
    examples = read_examples(toy_structures[:4])
    variants = Variant("kernel"), Variant(kind, "readout")
    plan = CurvePlan(sizes=(2,), variants=variants, backbone=spec, repeats=1)
    with pytest.raises(ConfigError, match=f"variant '{kind}:readout': no block is left that learns"):
        run_curve(examples, examples[:1], examples[1:], tmp_path / "c", plan)
    assert not (tmp_path / "c").exists()
