"""What checks find: numbers with units, curves to draw, and sentences on what failed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64
from numpy import ndarray


@dataclass(frozen=True)
class Quantity:
    """A number and its unit; none is a bare number."""

    value: float
    unit: str = ""

    def __str__(self) -> str:
        return f"{self.value:.4g}{f' {self.unit}' if self.unit else ''}"


@dataclass(frozen=True)
class Curve:
    """What is drawn."""

    x: Float64[ndarray, " points"]
    y: Float64[ndarray, " points"]
    marked: bool = False  # points rather than a line

    def to_dict(self) -> dict[str, list[float]]:
        return {"x": self.x.tolist(), "y": self.y.tolist()}


@dataclass(frozen=True)
class Panel:
    """Axes of curves that belong together; one for each name."""

    x: str  # label, with its unit
    y: str
    curves: Mapping[str, Curve]


@dataclass(frozen=True)
class Measured:
    """What one potential gives in one test."""

    quantities: Mapping[str, Quantity]
    panel: Panel | None = None

    def __getitem__(self, name: str) -> float:
        """The value of a quantity; NaN where it was not measured."""
        return self.quantities[name].value if name in self.quantities else np.nan


@dataclass(frozen=True)
class Finding:
    """What a test found on one structure."""

    check: str
    structure: str
    model: Measured | None = None
    backbone: Measured | None = None
    reference: Mapping[str, Quantity] = field(default_factory=dict)
    failures: Sequence[str] = ()
    skipped: str = ""  # why it was not run

    @property
    def verdict(self) -> str:
        """``passed``, ``failed`` or ``skipped``."""
        return "failed" if self.failures else "skipped" if self.skipped else "passed"

    def to_dict(self) -> dict[str, object]:
        """As JSON holds it."""
        return {
            "check": self.check,
            "structure": self.structure,
            "verdict": self.verdict,
            "failures": list(self.failures),
            "skipped": self.skipped,
            "model": _plain(self.model),
            "backbone": _plain(self.backbone),
            "reference": {name: {"value": q.value, "unit": q.unit} for name, q in self.reference.items()},
        }


def _plain(measured: Measured | None) -> dict[str, object] | None:
    if measured is None:
        return None
    values = {
        name: {"value": q.value if np.isfinite(q.value) else None, "unit": q.unit}
        for name, q in measured.quantities.items()
    }
    curves = {} if measured.panel is None else {name: c.to_dict() for name, c in measured.panel.curves.items()}
    return {"quantities": values, "curves": curves}
