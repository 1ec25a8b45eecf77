"""What a training is to do."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from mekrr_scale.errors import ConfigError
from mekrr_scale.transfer.blocks import BlockPlan

_LAST = 0.01  # what annealing leaves of the rate


@dataclass(frozen=True)
class TrainPlan:
    """How to train.

    Args:
        steps: of gradient descent; one batch each.
        batch: structures in a batch.
        learning_rate: of the last block, and of all without one of their own (``blocks``).
        energy_weight, force_weight, stress_weight: of the squared errors of the energy per atom
            (eV/atom), forces (eV/angstrom) and stress (eV/angstrom^3).
        huber: where the loss turns from squares to absolute values, in the units of each error;
            None for squares alone.
        warmup: part of the steps in which the rate rises to its full value.
        cycles: of annealing; more than one is warm restarts.
        average: decay of the moving average of the weights; 0 for none.
        patience: validations without progress before training stops; 0 for no early stop.
        validate_every: steps between validations; None for forty of them, or down to ten where more would
            take much of the training's time.

    Raises:
        ConfigError: a value outside its range.
    """

    steps: int = 2000
    batch: int = 4
    learning_rate: float = 1e-3
    blocks: BlockPlan = field(default_factory=BlockPlan)
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: float = 0.05
    cycles: int = 1
    energy_weight: float = 10.0
    force_weight: float = 1.0
    stress_weight: float = 100.0
    huber: float | None = None
    weight_decay: float = 0.0
    average: float = 0.99
    patience: int = 0
    validate_every: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        wrong = {
            "steps": self.steps < 0,
            "batch": self.batch < 1,
            "learning_rate": not 0 < self.learning_rate < math.inf,
            "warmup": not 0 <= self.warmup < 1,
            "cycles": self.cycles < 1,
            "average": not 0 <= self.average < 1,
            "patience": self.patience < 0,
            "validate_every": self.validate_every is not None and self.validate_every < 1,
            "huber": self.huber is not None and not self.huber > 0,
            "weight_decay": not 0 <= self.weight_decay < math.inf,
            "seed": self.seed < 0,
        }
        for name, outside in wrong.items():
            if outside:
                raise ConfigError(f"{name} = {getattr(self, name)} is outside its range")
        if not all(0 <= weight < math.inf for weight in self.weights) or not any(self.weights):
            raise ConfigError("the weights of energy, force and stress must be numbers, not negative, nor all zero")

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
