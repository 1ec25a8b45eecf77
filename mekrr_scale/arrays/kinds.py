"""Kinds of rows: what there is to say of each, in one place, and what is given for every kind. No torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Generic, TypeVar, final

from mekrr_scale.errors import ConfigError

T = TypeVar("T")
S = TypeVar("S")


class RowKind(IntEnum):
    """What a row of the design matrix is about; stores and models hold the numbers."""

    ENERGY = 0
    FORCE = 1
    STRESS = 2
    ELASTIC = 3


@dataclass(frozen=True)
class Unit:
    """How a quantity is shown."""

    text: str
    factor: float  # from eV and angstrom

    @property
    def short(self) -> str:
        """For lines of text: ``meV/A``."""
        return self.text.replace("angstrom", "A")

    @property
    def symbol(self) -> str:
        """For figures: ``meV/Å``."""
        return self.text.replace("angstrom", "Å").replace("^3", "³")


@dataclass(frozen=True)
class KindInfo:
    """One kind of rows."""

    name: str  # in plans, files and reports
    about: str  # what its rows are, for help
    weights: tuple[float, ...]  # candidates for the weight of its rows, unless a plan says otherwise; none: see below
    criterion: float  # weight of its mean squared error in the choice among candidates, likewise
    unit: Unit  # that errors of its rows are shown in
    derivative: bool = False  # along directions, from tangents
    weights_if_stored: tuple[float, ...] = ()  # candidates where a plan says nothing and stores hold such rows; else 0
    judged: bool = True  # whether errors of its rows choose among candidates, and are told


KINDS: Mapping[RowKind, KindInfo] = {
    RowKind.ENERGY: KindInfo("energy", "energies per atom (eV)", (1.0,), 1.0, Unit("meV/atom", 1e3)),
    RowKind.FORCE: KindInfo(
        "force", "force components (eV/angstrom)", (1e-4, 1e-3, 1e-2, 1e-1), 1e-4, Unit("meV/angstrom", 1e3), True
    ),
    RowKind.STRESS: KindInfo("stress", "virials per atom (eV)", (), 0.0, Unit("meV/atom", 1e3), True, (1e-3,)),
    RowKind.ELASTIC: KindInfo("elastic", "bulk moduli (eV/atom)", (), 0.0, Unit("meV/atom", 1e3), True, (3e-3,), False),
}
DERIVATIVES = frozenset(kind for kind, info in KINDS.items() if info.derivative)


def kind_named(name: str) -> RowKind:
    """The kind of a name, in singular or plural."""
    found = {info.name: kind for kind, info in KINDS.items()}
    return found[name if name in found else name.removesuffix("s")]


def error_text(name: str, value: float) -> str:
    """A named error with its unit.

    Args:
        name: a kind and a statistic, ``energy_rmse``.
        value: in eV and angstrom.

    >>> error_text("force_mae", 0.1234)
    'force MAE 123 meV/angstrom'
    """
    kind, _, statistic = name.rpartition("_")
    unit = KINDS[kind_named(kind)].unit
    return f"{kind} {statistic.upper()} {unit.factor * value:.3g} {unit.text}"


@final
@dataclass(frozen=True)
class ByKind(Mapping[RowKind, T], Generic[T]):
    """A value for every kind of row, in the order of the kinds; hashable, and equal by content.

    >>> weights = ByKind.of({RowKind.ENERGY: 1.0, RowKind.FORCE: 0.01}, default=0.0)
    >>> weights[RowKind.STRESS], weights.listed(0.0)
    (0.0, [1.0, 0.01, 0.0])
    """

    entries: tuple[T, ...]

    def __post_init__(self) -> None:
        if len(self.entries) != len(RowKind):
            raise ConfigError(f"{len(self.entries)} values for {len(RowKind)} kinds of rows ({_NAMES})")

    @classmethod
    def of(cls, given: Mapping[RowKind, T], default: T) -> ByKind[T]:
        """From a mapping; kinds that it lacks get the default."""
        return cls(tuple(given.get(kind, default) for kind in RowKind))

    @classmethod
    def from_list(cls, values: Sequence[T], default: T) -> ByKind[T]:
        """From a list in the order of the kinds, as JSON holds it.

        Files of older versions know fewer kinds; those that came later get the default.

        Raises:
            ConfigError: more values than there are kinds.
        """
        if len(values) > len(RowKind):
            raise ConfigError(f"{list(values)}: give at most {len(RowKind)} values ({_NAMES})")
        return cls((*values, *[default] * (len(RowKind) - len(values))))

    def listed(self, default: T) -> list[T]:
        """What JSON and texts hold, for ``from_list``: kinds that came after 0.1.0 up to the last that is not the
        default, so that its states and texts stay as they are when a kind is added."""
        found = list(self.entries)
        while len(found) > _OLDEST and found[-1] == default:
            found.pop()
        return found

    def map(self, function: Callable[[T], S]) -> ByKind[S]:
        """The same function of every value."""
        return ByKind(tuple(map(function, self.entries)))

    def __getitem__(self, kind: RowKind) -> T:
        return self.entries[kind]

    def __iter__(self) -> Iterator[RowKind]:
        return iter(RowKind)

    def __len__(self) -> int:
        return len(RowKind)


_OLDEST = 3  # kinds that version 0.1.0 knew
_NAMES = ", ".join(kind.name.lower() for kind in RowKind)
