"""How unsure a simulation may be, and the words for what is more: the same in all engines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float64
from torch import Tensor

from mekrr_scale.errors import ConfigError

ADVICE = "Add such structures to the training data, or raise the bound"


def require_bound(name: str, value: float | None) -> None:
    """A bound is positive, or there is none.

    Raises:
        ConfigError: neither.
    """
    if value is not None and not value > 0:
        raise ConfigError(f"the bound on {name} is {value}; give a positive number, or none at all")


@dataclass(frozen=True)
class Limits:
    """When to stop. None switches a limit off.

    Args:
        uncertainty: of the energy, 68 % (eV/atom).
        grade: largest extrapolation grade of an atom; 1 is the edge of the training data.
    """

    uncertainty: float | None = None
    grade: float | None = None

    def __post_init__(self) -> None:
        require_bound("uncertainty", self.uncertainty)
        require_bound("grade", self.grade)

    @property
    def any(self) -> bool:
        """Whether there is one."""
        return self.uncertainty is not None or self.grade is not None

    def broken(
        self, uncertainty: float, grades: Float64[Tensor, " atoms"], symbols: Sequence[str], names: Sequence[object]
    ) -> str:
        """What is beyond a limit in a structure; empty where nothing is.

        Args:
            uncertainty: of its energy, 68 % (eV/atom).
            symbols, names: of its atoms, as messages call them.
        """
        if self.uncertainty is not None and uncertainty > self.uncertainty:
            return (
                f"the energy is uncertain by {1e3 * uncertainty:.3g} meV/atom, the bound is "
                f"{1e3 * self.uncertainty:.3g} meV/atom"
            )
        worst = int(grades.argmax())
        if self.grade is not None and float(grades[worst]) > self.grade:
            return (
                f"atom {names[worst]} ({symbols[worst]}) is outside of the training data: grade "
                f"{float(grades[worst]):.3g}, the bound is {self.grade:g}"
            )
        return ""
