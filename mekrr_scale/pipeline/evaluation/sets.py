"""What an evaluation says of whole sets: errors with and without their shift, and whether they are like the fitted."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from ase import Atoms

from mekrr_scale.distributed import Group
from mekrr_scale.files import told_apart
from mekrr_scale.models import Model, PerAtom, Posterior, SetSums
from mekrr_scale.pipeline.evaluation.shifts import FEWEST, Shift
from mekrr_scale.regression import UNITS, Errors
from mekrr_scale.structures import CONFIG_KEY, Frames, Inputs, read_structures, structures_from

NOT_NAMED = -1


@dataclass
class SetNames:
    """The sets that structures belong to: values of an info key, files where there are several, or what their
    ``config_type`` says."""

    key: str | None = None
    files: Sequence[Path] = ()
    names: list[str] = field(default_factory=list)
    _origins: list[str] = field(default_factory=list)  # file of each structure that was read

    @classmethod
    def of(cls, structures: Frames, key: str | None) -> SetNames:
        """Those of what a caller gives."""
        if key is not None or isinstance(structures, str | Path | Atoms) or not isinstance(structures, Sequence):
            return cls(key)
        files = [Path(item) for item in structures if isinstance(item, str | Path)]
        return cls(key, files if len(files) > 1 else [])

    def read(self, structures: Frames, format: str | None) -> Iterable[Atoms]:
        """The structures; where there are several files it is noted which each comes from."""
        if not self.files:
            return structures_from(structures, format, keep_unreadable=True)
        return self._each(Inputs.of(self.files, format).files, format)

    def _each(self, files: Sequence[Path], format: str | None) -> Iterator[Atoms]:
        for path, name in zip(files, told_apart(files), strict=True):
            for atoms in read_structures(path, format, keep_unreadable=True):
                self._origins.append(name)
                yield atoms

    def place(self, atoms: Atoms, index: int) -> int:
        """Of the set of the structure that was read as the index-th."""
        key = None if self.files else self.key or CONFIG_KEY
        if key is not None and key not in atoms.info:
            return NOT_NAMED
        name = self._origins[index] if key is None else str(atoms.info[key])
        if name not in self.names:
            self.names.append(name)
        return self.names.index(name)


@dataclass(frozen=True)
class Sureness:
    """How sure a model is of a set, per atom (eV)."""

    mean_within_95: float  # half-width of the interval of the set's mean error
    deviation: float = math.nan  # 68 %, of half of its structures
    typical: float = math.nan  # 68 %, of half of the structures that cross-validation left out; NaN: not known
    limit: float = math.nan  # of ``deviation``, for a set like the training data
    beyond: float = math.nan  # part of the atoms beyond grade 1, in half of the structures; NaN: not looked at

    @property
    def known(self) -> bool:
        """Whether the model tells what its training data were like; those of version 0.1.0 do not."""
        return not math.isnan(self.limit)


@dataclass(frozen=True)
class SetErrors:
    """Errors of a set: of its energies per atom, and of its force components."""

    name: str
    errors: Errors  # eV/atom
    forces: Errors | None  # eV/angstrom
    shift: Shift | None
    sure: Sureness | None
    unlike: bool | None  # None: unknown, or too few structures to say

    def to_dict(self) -> dict[str, object]:
        """As JSON holds it: meV/atom, null for what is not known."""
        errors, factor = self.errors.scaled(UNITS["energy"].factor), UNITS["energy"].factor
        found: dict[str, object] = {
            "structures": errors.count,
            "energy_mae": errors.mae,
            "energy_rmse": errors.rmse,
            "shift": None if self.shift is None else self.shift.to_dict(),
            "unlike": self.unlike,
        }
        if self.forces is not None:
            forces = self.forces.scaled(UNITS["force"].factor)
            found |= {"force_components": forces.count, "force_mae": forces.mae, "force_rmse": forces.rmse}
        if self.sure is not None:
            sure = self.sure
            numbers = {
                name: factor * getattr(sure, name) for name in ("mean_within_95", "deviation", "typical", "limit")
            }
            found |= {name: _or_null(value) for name, value in {**numbers, "beyond": sure.beyond}.items()}
        return found

    def row(self) -> tuple[str, ...]:
        """A line of a table."""
        unit, shift, sure = UNITS["energy"].factor, self.shift, self.sure
        without = None if shift is None else shift.errors.scaled(unit)
        values = (
            None if shift is None else unit * shift.mean,
            None if without is None else without.mae,
            None if without is None else without.rmse,
            None if sure is None else unit * sure.mean_within_95,
        )
        errors = self.errors.scaled(unit)
        cells = [f"{errors.mae:.3g}", f"{errors.rmse:.3g}"]
        cells += ["-" if value is None or math.isnan(value) else f"{value:.3g}" for value in values]
        forces = None if self.forces is None else self.forces.scaled(UNITS["force"].factor)
        cells += ["-", "-"] if forces is None else [f"{forces.mae:.3g}", f"{forces.rmse:.3g}"]
        return (self.name, str(errors.count), *cells, {True: "no", False: "yes", None: "-"}[self.unlike])

    def remarks(self) -> list[str]:
        """What a user should know before trusting the model on the set."""
        sure, factor, unit = self.sure, UNITS["energy"].factor, UNITS["energy"].text
        if sure is None:
            return []
        if self.unlike:
            return [
                f"{self.name}: this set is unlike the training data: {self._why(sure)}. Its errors may share a sign: "
                f"their mean is known to {factor * sure.mean_within_95:.3g} {unit} (95 %). Label some of its "
                "structures (mekrr-scale select) and fit again with them"
            ]
        if self.shift is not None and abs(self.shift.mean) > sure.mean_within_95:
            return [
                f"{self.name}: the mean error, {factor * self.shift.mean:.3g} {unit}, is outside of its 95 % interval, "
                f"{factor * sure.mean_within_95:.3g}, though the structures are like those fitted: are the labels of "
                "another kind (functional, code, reference energies), or do they differ in what features do not tell?"
            ]
        return []

    def _why(self, sure: Sureness) -> str:
        factor, unit = UNITS["energy"].factor, UNITS["energy"].text
        found = []
        if sure.deviation > sure.limit:
            found.append(
                f"half of its structures are uncertain by more than {factor * sure.deviation:.3g} {unit} (68 %), which "
                f"95 % of those that cross-validation left out were not ({factor * sure.limit:.3g}; half of them "
                f"{factor * sure.typical:.3g})"
            )
        if sure.beyond > BEYOND:
            found.append(f"in half of them more than {100 * sure.beyond:.2g} % of the atoms are beyond grade 1")
        return ", and ".join(found)


BEYOND = 0.01  # part of a structure's atoms that may be beyond grade 1, which one in a thousand is


def is_unlike(structures: int, sure: Sureness | None) -> bool | None:
    """Whether a set is unlike the training data; None where too little is known."""
    if structures < FEWEST or sure is None or not sure.known:
        return None
    return sure.deviation > sure.limit or sure.beyond > BEYOND


def expected(posterior: Posterior | None) -> tuple[float, float]:
    """Deviations of what cross-validation left out (eV/atom, 68 %): the typical one, and the limit; NaN: not known."""
    if posterior is None or posterior.sets is None:
        return math.nan, math.nan
    within = posterior.energy.within_68
    return within * posterior.sets.typical, within * posterior.sets.limit


@dataclass
class SetWidths:
    """Sums for the intervals of mean errors: of all structures, and of each named set."""

    posterior: Posterior | None
    table: SetSums | None = None  # the first one holds structures without a name

    def add(self, found: PerAtom, places: Sequence[int]) -> None:
        """Count structures in, each with the place of its set."""
        if not places:
            return
        needed = max(places) + 2
        if self.table is None or len(self.table.count) < needed:
            self.table = _grown(self.table, needed, found.rows.shape[1])
        self.table.add(found, torch.tensor([place + 1 for place in places]))

    def half_widths(self, sets: int, model: Model, group: Group) -> tuple[float, ...]:
        """Of all structures of all ranks, then of each named set (eV/atom, 95 %); empty without a posterior."""
        posterior = self.posterior
        if posterior is None:
            return ()
        table = group.sum(_grown(self.table, sets + 1, len(model.coefficients)).table)
        whole = SetSums.of_table(torch.cat([table.sum(0, keepdim=True), table[1:]]))
        within = posterior.energy.within_95 if posterior.sets is None else posterior.sets.within_95
        raw = whole.raw_deviations([posterior.factor], posterior.energy.outside_weight)
        return tuple((within * raw).tolist())


def _grown(table: SetSums | None, sets: int, columns: int) -> SetSums:
    """With room for so many sets."""
    larger = SetSums.none(sets, columns).table
    if table is not None:
        larger[: len(table.count)] = table.table
    return SetSums.of_table(larger)


def _or_null(value: float) -> float | None:
    return value if math.isfinite(value) else None
