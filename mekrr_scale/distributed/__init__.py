"""Many processes as one job, on torch.distributed."""

from typing import TYPE_CHECKING

import lazy_loader as lazy

if TYPE_CHECKING:
    from mekrr_scale.distributed.checkpoint import Checkpoint as Checkpoint
    from mekrr_scale.distributed.checkpoint import State as State
    from mekrr_scale.distributed.checkpoint import StopSignals as StopSignals
    from mekrr_scale.distributed.group import ALONE as ALONE
    from mekrr_scale.distributed.group import Group as Group
    from mekrr_scale.distributed.group import first_host as first_host
    from mekrr_scale.distributed.group import join as join
    from mekrr_scale.distributed.group import share as share
    from mekrr_scale.distributed.panels import WIDTH as WIDTH
    from mekrr_scale.distributed.panels import PanelGram as PanelGram
    from mekrr_scale.distributed.panels import PanelMatrix as PanelMatrix
    from mekrr_scale.distributed.panels import panels_of as panels_of
    from mekrr_scale.distributed.steps import Steps as Steps
    from mekrr_scale.distributed.steps import claim as claim
    from mekrr_scale.distributed.steps import read_sealed as read_sealed
    from mekrr_scale.distributed.sums import ExactSum as ExactSum
else:
    __getattr__, __dir__, __all__ = lazy.attach(
        __name__,
        submod_attrs={
            "checkpoint": ["Checkpoint", "State", "StopSignals"],
            "group": ["ALONE", "Group", "first_host", "join", "share"],
            "panels": ["PanelGram", "PanelMatrix", "WIDTH", "panels_of"],
            "steps": ["Steps", "claim", "read_sealed"],
            "sums": ["ExactSum"],
        },
    )
