"""Transfer learning: training and fine-tuning of backbones, distillation, learning curves."""

from mekrr_scale.priors import Entry
from mekrr_scale.transfer.adapt import adapted, finetune, pretrain
from mekrr_scale.transfer.blocks import BlockPlan, randomize
from mekrr_scale.transfer.curve import CurvePlan, CurvePoint, Variant, expanded, run_curve
from mekrr_scale.transfer.distill import DistillReport, SamplePlan, StudentSpec, distill
from mekrr_scale.transfer.errors import PredictionErrors, errors_on
from mekrr_scale.transfer.examples import Example, read_examples, split
from mekrr_scale.transfer.kernels import fit_kernel
from mekrr_scale.transfer.plan import Errors, Record, TrainPlan, TrainReport
from mekrr_scale.transfer.train import train

__all__ = [
    "BlockPlan",
    "CurvePlan",
    "CurvePoint",
    "DistillReport",
    "Entry",
    "Errors",
    "Example",
    "PredictionErrors",
    "Record",
    "SamplePlan",
    "StudentSpec",
    "TrainPlan",
    "TrainReport",
    "Variant",
    "adapted",
    "distill",
    "errors_on",
    "expanded",
    "finetune",
    "fit_kernel",
    "pretrain",
    "randomize",
    "read_examples",
    "run_curve",
    "split",
    "train",
]
