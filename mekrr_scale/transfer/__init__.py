"""Transfer learning: training and fine-tuning of backbones, distillation, learning curves."""

from typing import TYPE_CHECKING

import lazy_loader as lazy

from mekrr_scale.deprecated import with_old_names

if TYPE_CHECKING:
    from mekrr_scale.transfer.adapt import Entry as Entry
    from mekrr_scale.transfer.adapt import adapted as adapted
    from mekrr_scale.transfer.adapt import finetune as finetune
    from mekrr_scale.transfer.adapt import own_energies as own_energies
    from mekrr_scale.transfer.adapt import pretrain as pretrain
    from mekrr_scale.transfer.adapt import reference_energies as reference_energies
    from mekrr_scale.transfer.blocks import BlockPlan as BlockPlan
    from mekrr_scale.transfer.blocks import copy_species as copy_species
    from mekrr_scale.transfer.blocks import matching as matching
    from mekrr_scale.transfer.blocks import randomize as randomize
    from mekrr_scale.transfer.blocks import reset_blocks as reset_blocks
    from mekrr_scale.transfer.curve_plan import CurvePlan as CurvePlan
    from mekrr_scale.transfer.curve_plan import Variant as Variant
    from mekrr_scale.transfer.curve_plan import expanded as expanded
    from mekrr_scale.transfer.curves import CurvePoint as CurvePoint
    from mekrr_scale.transfer.curves import run_curve as run_curve
    from mekrr_scale.transfer.curves import summarized as summarized
    from mekrr_scale.transfer.distillation import DistillReport as DistillReport
    from mekrr_scale.transfer.distillation import SamplePlan as SamplePlan
    from mekrr_scale.transfer.distillation import StudentSpec as StudentSpec
    from mekrr_scale.transfer.distillation import distill as distill
    from mekrr_scale.transfer.distillation import label as label
    from mekrr_scale.transfer.distillation import rattled as rattled
    from mekrr_scale.transfer.distillation import sample_structures as sample_structures
    from mekrr_scale.transfer.distillation import timed as timed
    from mekrr_scale.transfer.errors import PredictionErrors as PredictionErrors
    from mekrr_scale.transfer.errors import errors_between as errors_between
    from mekrr_scale.transfer.errors import errors_on as errors_on
    from mekrr_scale.transfer.errors import predicted as predicted
    from mekrr_scale.transfer.examples import Batch as Batch
    from mekrr_scale.transfer.examples import Example as Example
    from mekrr_scale.transfer.examples import batch_of as batch_of
    from mekrr_scale.transfer.examples import read_examples as read_examples
    from mekrr_scale.transfer.examples import split as split
    from mekrr_scale.transfer.kernel_fit import fit_kernel as fit_kernel
    from mekrr_scale.transfer.networks import NETWORKS as NETWORKS
    from mekrr_scale.transfer.networks import Network as Network
    from mekrr_scale.transfer.plan import TrainPlan as TrainPlan
    from mekrr_scale.transfer.report import Record as Record
    from mekrr_scale.transfer.report import TrainReport as TrainReport
    from mekrr_scale.transfer.report import ValidationErrors as ValidationErrors
    from mekrr_scale.transfer.training import train as train
else:
    __getattr__, __dir__, __all__ = lazy.attach(
        __name__,
        submod_attrs={
            "adapt": ["Entry", "adapted", "finetune", "own_energies", "pretrain", "reference_energies"],
            "blocks": ["BlockPlan", "copy_species", "matching", "randomize", "reset_blocks"],
            "curve_plan": ["CurvePlan", "Variant", "expanded"],
            "curves": ["CurvePoint", "run_curve", "summarized"],
            "distillation": [
                "DistillReport",
                "SamplePlan",
                "StudentSpec",
                "distill",
                "label",
                "rattled",
                "sample_structures",
                "timed",
            ],
            "errors": ["PredictionErrors", "errors_between", "errors_on", "predicted"],
            "examples": ["Batch", "Example", "batch_of", "read_examples", "split"],
            "kernel_fit": ["fit_kernel"],
            "networks": ["NETWORKS", "Network"],
            "plan": ["TrainPlan"],
            "report": ["Record", "TrainReport", "ValidationErrors"],
            "training": ["train"],
        },
    )
    __getattr__ = with_old_names(__name__, __getattr__)
