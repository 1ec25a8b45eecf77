"""A running job: how it computes, with whom, where its state is kept, and whom it tells."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace

from mekrr_scale.distributed import ALONE, Checkpoint, Group
from mekrr_scale.progress import Progress, Silent
from mekrr_scale.regression.execution import Execution


@dataclass(frozen=True)
class Run:
    """Everything about a solve but the problem.

    Args:
        group: the ranks of the job, all of which call alike.
        checkpoint: where states are kept and taken up from, and signals that end the job.
    """

    execution: Execution = field(default_factory=Execution)
    group: Group = ALONE
    checkpoint: Checkpoint | None = None
    progress: Progress = field(default_factory=Silent)

    def part(self, name: str, identity: Mapping[str, object]) -> Run:
        """The run of a part of the problem, whose states are kept beside the others'."""
        if self.checkpoint is None:
            return self
        return replace(self, checkpoint=self.checkpoint.part(name, identity))

    def deferred(self) -> AbstractContextManager[None]:
        """Signals wait for a good moment where there is a checkpoint to write."""
        return nullcontext() if self.checkpoint is None else self.checkpoint.stop.deferred()

    @property
    def silent(self) -> Run:
        """The same without progress and states: a fit within a fit."""
        return replace(self, checkpoint=None, progress=Silent())
