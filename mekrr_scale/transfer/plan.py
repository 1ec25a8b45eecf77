"""What a training is to do."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from mekrr_scale.errors import ConfigError
from mekrr_scale.plans import plan
from mekrr_scale.transfer.blocks import BlockPlan

_LAST = 0.01  # what annealing leaves of the rate


@plan
class TrainPlan:
    """How to train.

    Raises:
        ConfigError: a value outside its range, or of no such kind.
    """

    steps: int = Field(default=2000, ge=0)
    """Of gradient descent; one batch each."""

    batch: int = Field(default=4, ge=1)
    """Structures in a batch."""

    learning_rate: float = Field(default=1e-3, gt=0)
    """Of the last block, and of all without one of their own (``blocks``)."""

    blocks: BlockPlan = Field(default_factory=BlockPlan)
    """Which blocks learn, and how fast."""

    schedule: Literal["cosine", "constant"] = "cosine"
    """How the rate falls behind its rise: to a hundredth by half a cosine, or not at all."""

    warmup: float = Field(default=0.05, ge=0, lt=1)
    """Part of the steps in which the rate rises to its full value."""

    cycles: int = Field(default=1, ge=1)
    """Of annealing; more than one is warm restarts."""

    energy_weight: float = Field(default=10.0, ge=0)
    """Of the squared error of the energy per atom (eV/atom)."""

    force_weight: float = Field(default=1.0, ge=0)
    """Of the squared errors of forces (eV/angstrom)."""

    stress_weight: float = Field(default=100.0, ge=0)
    """Of the squared errors of the stress (eV/angstrom^3)."""

    huber: float | None = Field(default=None, gt=0)
    """Where the loss turns from squares to absolute values, in the units of each error; None for squares alone."""

    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled from the gradients (AdamW)."""

    average: float = Field(default=0.99, ge=0, lt=1)
    """Decay of the moving average of the weights; 0 for none."""

    patience: int = Field(default=0, ge=0)
    """Validations without progress before training stops; 0 for no early stop."""

    validate_every: int | None = Field(default=None, ge=1)
    """Steps between validations; None for forty of them, or down to ten where more would take much of the training's
    time."""

    seed: int = Field(default=0, ge=0)
    """Of the order of batches, and of new weights."""

    def __post_init__(self) -> None:
        if not any(self.weights):
            raise ConfigError("the weights of energy, force and stress are all zero; give at least one")

    @property
    def weights(self) -> tuple[float, float, float]:
        return self.energy_weight, self.force_weight, self.stress_weight

    def interval(self, held: int) -> int:
        """Steps between validations on ``held`` structures."""
        return self.validate_every or max(1, self.steps // 40, min(2 * held // self.batch, self.steps // 10))

    def factor(self, step: int) -> float:
        """What the rates are multiplied with in a step."""
        rising = self.warmup * self.steps
        if step < rising:
            return (step + 1) / (rising + 1)
        if self.schedule == "constant":
            return 1.0
        passed = self.cycles * (step - rising) / max(self.steps - rising, 1)
        place = passed % 1.0 if passed < self.cycles else 1.0
        return _LAST + (1 - _LAST) * 0.5 * (1 + math.cos(math.pi * place))
