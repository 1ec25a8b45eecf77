"""What a training tells of itself."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from mekrr_scale.backbones import Backbone
from mekrr_scale.figures import Shown, TextTable, TrainingCurve, training_axes
from mekrr_scale.regression import UNITS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_QUANTITIES = {"energy": "energy", "forces": "force", "stress": "stress"}  # field to unit


@dataclass(frozen=True)
class ValidationErrors:
    """Root mean squares, NaN where there are no labels."""

    energy: float = math.nan  # eV/atom
    forces: float = math.nan  # eV/angstrom
    stress: float = math.nan  # eV/angstrom^3

    def known(self) -> dict[str, float]:
        """Those with labels."""
        return {name: value for name, value in asdict(self).items() if not math.isnan(value)}

    def __str__(self) -> str:
        units = {name: UNITS[_QUANTITIES[name]] for name in self.known()}
        return ", ".join(
            f"{units[name].factor * value:.4g} {units[name].short}" for name, value in self.known().items()
        )


@dataclass(frozen=True)
class Record:
    """One validation."""

    step: int
    epoch: float
    rate: float  # of the fastest block
    training: float  # mean loss since the last validation
    validation: float  # loss
    errors: ValidationErrors


@dataclass(frozen=True, repr=False)
class TrainReport(Shown):
    """A trained backbone and how it got there."""

    backbone: Backbone  # with the weights of the best validation
    history: Sequence[Record]
    best: Record
    steps: int  # made; fewer than planned after an early stop
    rates: Mapping[str, float]  # of every block

    def headline(self) -> str:
        return f"{self.backbone.name}: {self.steps} steps, best at step {self.best.step}: {self.best.errors}"

    def tables(self) -> list[TextTable]:
        """Errors on the validation set before training and of the weights that were kept."""
        rows = []
        for name, record in (("before", self.history[0]), ("kept", self.best)):
            known = record.errors.known()
            shown = [
                f"{UNITS[quantity].factor * known[key]:.4g}" if key in known else "-"
                for key, quantity in _QUANTITIES.items()
            ]
            rows.append((name, str(record.step), f"{record.validation:.3g}", *shown))
        rates = ", ".join(f"{name} {rate:.1e}" if rate else f"{name} frozen" for name, rate in self.rates.items())
        units = ", ".join(UNITS[quantity].text for quantity in _QUANTITIES.values())
        caption = f"RMSE in {units}; learning rates: {rates}"
        return [TextTable("Validation", ("", "step", "loss", *_QUANTITIES), tuple(rows), caption)]

    def to_dict(self) -> dict[str, object]:
        """As JSON holds it; errors in eV/atom, eV/angstrom and eV/angstrom^3."""
        return {
            "steps": self.steps,
            "best_step": self.best.step,
            "errors": self.best.errors.known(),
            "rates": dict(self.rates),
            "history": [asdict(record) for record in self.history],
        }

    def plot(self, axes: Sequence[Axes] | None = None) -> list[Axes]:
        """Losses and the learning rate, and a panel for each kind of error, by step."""
        errors = {}
        for key in self.history[0].errors.known():
            quantity = _QUANTITIES[key]
            values = [UNITS[quantity].factor * getattr(record.errors, key) for record in self.history]
            errors[f"{quantity} RMSE ({UNITS[quantity].symbol})"] = values
        curve = TrainingCurve(
            steps=[record.step for record in self.history],
            training=[record.training for record in self.history],
            validation=[record.validation for record in self.history],
            rate=[record.rate for record in self.history],
            errors=errors,
            best=self.best.step,
        )
        return training_axes(curve, axes)
