"""Transfer learning: training and fine-tuning of backbones, distillation, learning curves."""

from mekrr_scale.transfer.adapt import AdaptPlan, adapted, finetune, pretrain
from mekrr_scale.transfer.blocks import BlockPlan, parse_species_map, randomize
from mekrr_scale.transfer.curve import CurvePlan, CurvePoint, Variant, expanded, run_curve
from mekrr_scale.transfer.distill import DistillReport, SamplePlan, StudentSpec, distill
from mekrr_scale.transfer.examples import Example, read_examples, split
from mekrr_scale.transfer.kernels import fit_kernel
from mekrr_scale.transfer.plan import Errors, Record, TrainPlan, TrainReport
from mekrr_scale.transfer.train import measure, train

__all__ = [
    "AdaptPlan",
    "BlockPlan",
    "CurvePlan",
    "CurvePoint",
    "DistillReport",
    "Errors",
    "Example",
    "Record",
    "SamplePlan",
    "StudentSpec",
    "TrainPlan",
    "TrainReport",
    "Variant",
    "adapted",
    "distill",
    "expanded",
    "finetune",
    "fit_kernel",
    "measure",
    "parse_species_map",
    "pretrain",
    "randomize",
    "read_examples",
    "run_curve",
    "split",
    "train",
]
