"""Transfer learning: training and fine-tuning of backbones, distillation, learning curves."""

from mekrr_scale.transfer.adapt import AdaptPlan, adapted, finetune, pretrain
from mekrr_scale.transfer.blocks import BlockPlan, parse_species_map, randomize
from mekrr_scale.transfer.examples import Example, read_examples, split
from mekrr_scale.transfer.train import Errors, Record, TrainPlan, TrainReport, measure, train

__all__ = [
    "AdaptPlan",
    "BlockPlan",
    "Errors",
    "Example",
    "Record",
    "TrainPlan",
    "TrainReport",
    "adapted",
    "finetune",
    "measure",
    "parse_species_map",
    "pretrain",
    "randomize",
    "read_examples",
    "split",
    "train",
]
