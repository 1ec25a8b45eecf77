"""The numbers of a page, which JSON holds: energies in meV/atom, forces in meV/angstrom, virials in meV/atom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from pydantic import TypeAdapter

from mekrr_scale.report.statistics import PowerLaw, Score

SCHEMA = "mekrr-scale page 1.0"


@dataclass(frozen=True)
class About:
    """What the model is."""

    name: str
    backbone: str
    kernel: str
    landmarks: int
    coefficients: str  # their hash: which model it is
    solver: str
    writer: str  # program and version


@dataclass(frozen=True)
class Histogram:
    """Counts between edges."""

    edges: Sequence[float]
    counts: Sequence[int]
    about: str  # quantity and unit


@dataclass(frozen=True)
class Data:
    """What was fitted, and which labels."""

    stores: Sequence[str]
    structures: int
    atoms: int
    smallest: int  # atoms of a structure
    largest: int
    elements: Mapping[str, tuple[int, int]]  # atoms, and structures that hold it, of those looked at
    configs: Mapping[str, int]  # structures of each configuration type
    used: Mapping[str, str]  # what of each kind of label went into the fit
    ignored: Sequence[str]  # labels and structures that did not, and why
    histograms: Sequence[Histogram]
    looked_at: int  # structures that elements, types and histograms are of


@dataclass(frozen=True)
class Folds:
    """How the errors of the cross-validation came about."""

    count: int
    sizes: Sequence[int]  # structures with an energy, fold by fold
    remarks: Sequence[str]


@dataclass(frozen=True)
class Rows:
    """Labels beside predictions; of some structures where there are very many."""

    structure: Sequence[int]  # place of its structure among ids
    reference: Sequence[float]
    predicted: Sequence[float]
    interval: Sequence[float] = ()  # half-widths of 68 %; empty: unknown
    grade: Sequence[float] = ()  # extrapolation grade of the structure's least known atom; empty: unknown
    size: Sequence[float] = ()  # of the force on the atom (meV/angstrom); empty: magnitude of the label itself


@dataclass(frozen=True)
class Quantity:
    """One kind of label with its errors."""

    name: str  # energy, force, virial or stress
    what: str  # rows, in words
    unit: str
    total: Score
    by_config: Mapping[str, Score]
    by_element: Mapping[str, Score]
    rows: Rows
    ratio_95: float | None = None  # 95 % intervals over those of 68 %
    by_store: Mapping[str, Score] = field(default_factory=dict)  # where there are several


@dataclass(frozen=True)
class Picture:
    """A structure to be drawn."""

    numbers: Sequence[int]
    positions: Sequence[tuple[float, float, float]]  # angstrom
    cell: Sequence[tuple[float, float, float]]  # angstrom; empty: none


@dataclass(frozen=True)
class Worst:
    """A structure with large errors."""

    name: str
    quantity: str
    error: float  # root mean square over its rows
    unit: str
    why: str
    doubtful: bool = False  # whether its label may be wrong
    picture: Picture | None = None


@dataclass(frozen=True)
class Measured:
    """Errors on a set: what cross-validation left out, or a test."""

    name: str
    test: bool
    structures: int
    quantities: Sequence[Quantity]
    remarks: Sequence[str] = ()
    worst: Sequence[Worst] = ()

    def quantity(self, name: str) -> Quantity | None:
        """The one of a name."""
        return next((each for each in self.quantities if each.name == name), None)


@dataclass(frozen=True)
class Table:
    """Cells as they are shown."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str
    left: Sequence[int]


@dataclass(frozen=True)
class Curve:
    """A cross-validated error against the number of structures that were learned from."""

    quantity: str
    unit: str
    sizes: Sequence[float]  # structures
    errors: Sequence[float]  # RMSE over the folds
    law: PowerLaw | None


@dataclass(frozen=True)
class Chart:
    """Atoms in the plane of the two largest principal components of the training atoms' features."""

    explained: tuple[float, float]  # parts of the variance
    x: Sequence[float]
    y: Sequence[float]
    species: Sequence[str]
    error: Sequence[float | None]  # of the structure's energy, meV/atom; None: unknown
    test: Sequence[str]  # name of the test that an atom is of; empty: training


@dataclass(frozen=True)
class Trace:
    """A line of a panel."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: str
    dashed: bool
    marked: bool  # points rather than a line


@dataclass(frozen=True)
class Panel:
    """Axes of a check."""

    title: str
    x: str
    y: str
    traces: Sequence[Trace]


@dataclass(frozen=True)
class Physics:
    """What the checks found that a fit runs when it ends."""

    table: Table
    failed: Sequence[str]
    panels: Sequence[Panel]


@dataclass(frozen=True)
class Results:
    """All that a page shows, in one place; ``save_html`` writes it, ``read`` finds it in a page again."""

    about: About
    data: Data | None = None
    folds: Folds | None = None
    measured: Sequence[Measured] = ()
    candidates: Sequence[Table] = ()
    curves: Sequence[Curve] = ()
    growth: Sequence[tuple[int, Mapping[str, float]]] = ()  # landmarks, and errors by quantity
    chart: Chart | None = None
    physics: Physics | None = None
    warnings: Sequence[str] = ()
    remarks: Sequence[str] = ()
    advice: Sequence[str] = ()
    schema: str = field(default=SCHEMA)

    def to_json(self) -> str:
        """As pages and files hold it."""
        return str(_adapter().dump_json(self).decode())

    def to_dict(self) -> dict[str, Any]:
        """The same as plain lists and mappings."""
        return dict(_adapter().dump_python(self, mode="json"))

    @classmethod
    def of_json(cls, text: str) -> Results:
        """The inverse of ``to_json``."""
        found = _adapter().validate_json(text)
        assert isinstance(found, Results)
        return found

    def but(self, **changes: Any) -> Results:
        """With other values of some fields."""
        return replace(self, **changes)


@cache
def _adapter() -> Any:  # a type that beartype knows
    return TypeAdapter(Results)
