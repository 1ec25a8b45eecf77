"""Many processes as one job, on torch.distributed."""

from mekrr_scale.distributed.checkpoint import Checkpoint, State, StopSignals
from mekrr_scale.distributed.group import ALONE, Group, join
from mekrr_scale.distributed.sums import ExactSum

__all__ = ["ALONE", "Checkpoint", "ExactSum", "Group", "State", "StopSignals", "join"]
