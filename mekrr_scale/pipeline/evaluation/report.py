"""Labels beside predictions, and the errors between them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from ase.data import chemical_symbols
from jaxtyping import Float64, Int64
from numpy import ndarray
from numpy.typing import NDArray

from mekrr_scale.arrays import Unit, rank_correlation
from mekrr_scale.distributed import Group
from mekrr_scale.figures import BLUE, GREY, Cloud, Shown, TextTable, centred, new_axes, parity_axes
from mekrr_scale.pipeline.evaluation.sets import SetErrors, Sureness, is_unlike
from mekrr_scale.pipeline.evaluation.shifts import Shift
from mekrr_scale.regression import UNITS, Errors

_SETS_SHOWN = 12  # in a table

SCHEMA = "mekrr-scale evaluation 1.0"  # of the JSON: keys may be added to it, not taken away


if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, repr=False)
class Evaluation(Shown):
    """Labels beside predictions. Structures that could not be used are in ``rejected``.

    Isolated atoms beside other structures stand apart and are in no error, as in a fit: the energy of a free atom,
    per atom, says nothing of molecules and crystals.
    """

    n_atoms: NDArray[np.int64]
    energy: Float64[ndarray, " structures"]  # eV, labels
    energy_predicted: Float64[ndarray, " structures"]
    baseline: Float64[ndarray, " structures"]  # eV, sums of the species' reference energies
    forces: Float64[ndarray, "moved 3"]  # eV/angstrom, labels; empty without
    forces_predicted: Float64[ndarray, "moved 3"]
    species: NDArray[np.int64]  # atomic number of each row of ``forces``
    stress: Float64[ndarray, "stressed 6"]  # eV/angstrom^3, labels; empty without
    stress_predicted: Float64[ndarray, "stressed 6"]
    rejected: Sequence[str] = field(default_factory=list)
    remarks: Sequence[str] = field(default_factory=list)  # labels that were not compared, and why
    energy_uncertainty: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))  # eV, 68 %; empty: unknown
    energy_ratio_95: float = float("nan")  # what to multiply it with for 95 %
    # number, sums of absolute values and of squares of all errors in energy (eV/atom), where not all are listed here
    totals: tuple[float, float, float] | None = None
    counts: NDArray[np.int64] = field(default_factory=lambda: np.empty((0, 0), np.int64))  # [structures, species]
    isolated: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))  # atomic numbers
    isolated_energy: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))  # eV, labels
    isolated_predicted: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    # place of each structure's set among the names, -1 of none; empty: all are one set
    places: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    set_names: Sequence[str] = ()
    # how many rows of ``forces`` are each structure's: its atoms, or none; empty: those of all, or of none
    force_rows: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    # half-widths (eV/atom, 95 %) of the mean error of all structures, and of each set; empty: unknown
    mean_within_95: Sequence[float] = ()
    typical: float = math.nan  # eV/atom, 68 %, of half of the structures that cross-validation left out, and what
    limit: float = math.nan  # the typical structure of a set like the training data stays below; NaN: unknown
    beyond: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))  # part of each structure's atoms; or empty
    grade: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))  # the largest of each structure; or empty
    index: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))  # in the input; or empty

    def gathered(self, group: Group) -> Evaluation:
        """That of all ranks' structures, one rank's after the other's."""
        if group.size == 1:
            return self
        arrays = {name: value for name, value in vars(self).items() if isinstance(value, ndarray)}
        joined = {name: group.joined(torch.from_numpy(value)).numpy() for name, value in arrays.items()}
        ratios = [r for r in group.gather_json(self.energy_ratio_95) if not math.isnan(r)]
        return replace(self, **cast(Any, joined), energy_ratio_95=ratios[0] if ratios else math.nan)

    def coverage(self) -> dict[str, float]:
        """Parts of the energies within their 68 % and 95 % intervals, and how well these rank the errors."""
        if not len(self.energy_uncertainty):
            return {}
        error = np.abs(self.energy_predicted - self.energy)
        rank = rank_correlation(error / self.n_atoms, self.energy_uncertainty / self.n_atoms)
        return {
            "within_68": float((error <= self.energy_uncertainty).mean()),
            "within_95": float((error <= self.energy_ratio_95 * self.energy_uncertainty).mean()),
            "rank_correlation": rank if len(error) > 2 else float("nan"),
        }

    def errors(self) -> dict[str, Errors]:
        """Of ``energy`` (eV/atom), ``force`` (eV/angstrom) and ``stress`` (eV/angstrom^3), where there are labels."""
        if self.totals is not None:
            return {"energy": Errors.of_sums(*self.totals)}
        found = {name: Errors.of(difference) for name, difference in self._differences().items()}
        return {name: errors for name, errors in found.items() if errors.count}

    def metrics(self) -> dict[str, float]:
        """MAE and RMSE: energy in meV/atom, forces in meV/angstrom, stress in meV/angstrom^3."""
        if self.totals is not None:
            shown = {"energy": Errors.of_sums(*self.totals, UNITS["energy"].factor)}
            structures = self.totals[0]
        else:
            shown = {name: errors.scaled(UNITS[name].factor) for name, errors in self.errors().items()}
            structures = float(len(self.energy))
        found = {"structures": structures}
        for name, errors in shown.items():
            found |= {f"{name}_mae": errors.mae, f"{name}_rmse": errors.rmse}
        shift = self.shift()
        if shift is not None:
            left = shift.errors.scaled(UNITS["energy"].factor)
            found |= {"energy_shift": UNITS["energy"].factor * shift.mean}
            found |= {"energy_mae_beyond_shift": left.mae, "energy_rmse_beyond_shift": left.rmse}
        return found

    def shift(self) -> Shift | None:
        """What the errors of all energies have in common, and what is left without it; None of too few structures."""
        return Shift.of(self._differences()["energy"], self.counts if len(self.counts) else None)

    def whole(self) -> SetErrors:
        """All structures as one set."""
        return self._set("all", np.ones(len(self.energy), bool), 0)

    def sets(self) -> list[SetErrors]:
        """Each named set, in the order of the data."""
        return [self._set(name, self.places == place, place + 1) for place, name in enumerate(self.set_names)]

    def _set(self, name: str, at: ndarray, place: int) -> SetErrors:
        error, sure = self._differences()["energy"][at], None
        if len(self.mean_within_95) and len(error):
            sure = Sureness(
                mean_within_95=self.mean_within_95[place],
                deviation=float(np.median((self.energy_uncertainty / self.n_atoms)[at])),
                typical=self.typical,
                limit=self.limit,
                beyond=float(np.median(self.beyond[at])) if len(self.beyond) else math.nan,
            )
        shift = Shift.of(error, self.counts[at] if len(self.counts) else None)
        errors = self.errors()["energy"] if self.totals is not None and not place else Errors.of(error)
        moved = at[self.force_owner()]
        forces = Errors.of(self._differences()["force"][moved]) if len(moved) and moved.any() else None
        return SetErrors(name, errors, forces, shift, sure, is_unlike(len(error), sure))

    def _differences(self) -> dict[str, ndarray]:
        """Predictions less labels."""
        return {
            "energy": (self.energy_predicted - self.energy) / self.n_atoms,
            "force": self.forces_predicted - self.forces,
            "stress": self.stress_predicted - self.stress,
        }

    def force_owner(self) -> Int64[ndarray, " moved"]:
        """The structure that each row of ``forces`` is of."""
        rows = self.n_atoms if len(self.forces) else np.zeros_like(self.n_atoms)
        return np.repeat(np.arange(len(self.n_atoms)), self.force_rows if len(self.force_rows) else rows)

    def force_errors_by_species(self) -> dict[str, tuple[int, float, float]]:
        """Atoms, MAE and RMSE of the force components (meV/angstrom) for each element."""
        rows = {}
        for z in np.unique(self.species).tolist():
            # in meV before the mean is taken: the last bits of the JSON that version 0.1.0 wrote
            difference = UNITS["force"].factor * (self.forces_predicted - self.forces)[self.species == z]
            errors = Errors.of(difference)
            rows[chemical_symbols[z]] = (len(difference), errors.mae, errors.rmse)
        return rows

    def isolated_errors(self) -> dict[str, tuple[int, float, float]]:
        """Frames of isolated atoms, MAE and RMSE of their energies (meV) for each element."""
        found = {}
        for z in np.unique(self.isolated).tolist():
            at = self.isolated == z
            errors = Errors.of((self.isolated_predicted - self.isolated_energy)[at]).scaled(UNITS["energy"].factor)
            found[chemical_symbols[z]] = (int(at.sum()), errors.mae, errors.rmse)
        return found

    def headline(self) -> str:
        left_out = f", {len(self.isolated)} isolated atoms apart" if len(self.isolated) else ""
        left_out += f", {len(self.rejected)} left out" if self.rejected else ""
        return f"Evaluation of {self.metrics()['structures']:.0f} structures{left_out}"

    def tables(self) -> list[TextTable]:
        """Errors by quantity, those of forces by element, and isolated atoms."""
        metrics = self.metrics()
        rows = [
            (name, f"{metrics[f'{name}_mae']:.4g}", f"{metrics[f'{name}_rmse']:.4g}", UNITS[name].text)
            for name in self._differences()
            if f"{name}_mae" in metrics
        ]
        found = [TextTable("", ("", "MAE", "RMSE", "unit"), tuple(rows), self._caption(), left=(0, 3))]
        if self.shift() is not None or self.set_names:
            found.append(self.set_table())
        if len(self.forces):
            found.append(self.species_table())
        return [*found, self.isolated_table()] if len(self.isolated) else found

    def _caption(self) -> str:
        """The energies once more, without their shift, and whether the set is like what was fitted."""
        shift, factor = self.shift(), UNITS["energy"].factor
        if shift is None:
            return ""
        left = shift.errors.scaled(factor)
        foreign = "; unlike the training data" if self.whole().unlike else ""
        return f"energy without a shift of {factor * shift.mean:.3g}: MAE {left.mae:.4g}, RMSE {left.rmse:.4g}{foreign}"

    def set_table(self) -> TextTable:
        """Energies of the whole and of each set, with and without the shift that its structures share."""
        sets = self.sets()
        listed = (
            sorted(sets, key=lambda one: -abs(one.shift.mean if one.shift else 0.0))
            if len(sets) > _SETS_SHOWN
            else sets
        )
        rows = tuple(one.row() for one in [self.whole(), *listed[:_SETS_SHOWN]])
        more = f"; {len(sets) - _SETS_SHOWN} sets with smaller shifts are not shown" if len(sets) > _SETS_SHOWN else ""
        names = (
            "set",
            "structures",
            "MAE",
            "RMSE",
            "shift",
            "MAE without",
            "RMSE without",
            "mean within",
            "force MAE",
            "force RMSE",
            "like training",
        )
        units = f"energies {UNITS['energy'].text}, forces {UNITS['force'].text}"
        caption = f"{units}; mean within: 95 % interval of the mean error{more}"
        return TextTable("Errors by set, energies with and without a shift", names, rows, caption)

    def warnings(self) -> list[str]:
        """Of sets that are unlike the training data, or whose mean error is outside of its interval."""
        named = [line for one in self.sets() for line in one.remarks()]
        return named or self.whole().remarks()

    def species_table(self) -> TextTable:
        """Force errors by element."""
        title = f"Forces by element ({UNITS['force'].text})"
        return _by_element(title, "atoms", self.force_errors_by_species(), ".1f")

    def isolated_table(self) -> TextTable:
        """Energies of isolated atoms by element."""
        title = f"Isolated atoms, left out of the errors ({UNITS['energy'].text})"
        return _by_element(title, "frames", self.isolated_errors(), ".4g")

    def plot(
        self,
        axes: Axes | Sequence[Axes] | None = None,
        folds: tuple[Float64[ndarray, " n"], Float64[ndarray, " n"]] | None = None,
    ) -> list[Axes]:
        """Predicted against reference: energies less the baseline and, where there are labels, force components.

        Args:
            axes: to draw on, one for energies or two; default: those of a new figure.
            folds: reference and out-of-fold prediction, eV/atom less the baseline, drawn behind.
        """
        with_forces = len(self.forces) > 0
        if axes is None:
            found = new_axes(9, 4.4, 2) if with_forces else new_axes(4.6, 4.4)
        else:
            found = list(axes) if isinstance(axes, Sequence | ndarray) else [axes]
        reference, predicted = (
            (energies - self.baseline) / self.n_atoms for energies in (self.energy, self.energy_predicted)
        )
        clouds = [] if folds is None else [fold_cloud(*folds)]
        unit = UNITS["energy"]
        evaluated = measured("evaluated", reference, predicted, unit)
        shift = self.shift()
        if shift is not None:
            left = shift.errors.scaled(unit.factor)
            more = f"without a shift of {unit.factor * shift.mean:.3g} {unit.symbol}:\n{_told(left, unit)}"
            evaluated = replace(evaluated, label=f"{evaluated.label}\n{more}")
        clouds.append(evaluated)
        moved = unit.factor * shift.mean if shift is not None else None
        parity_axes(centred(clouds), f"energy less baseline ({unit.symbol})", found[0], moved)
        if with_forces and len(found) > 1:
            of_forces = UNITS["force"]
            cloud = measured("evaluated", self.forces.ravel(), self.forces_predicted.ravel(), of_forces)
            parity_axes([cloud], f"force components ({of_forces.symbol})", found[1])
        return found

    def to_dict(self) -> dict[str, object]:
        """What ``evaluate --json`` writes; docs/cli.md describes it."""
        return {
            "schema": SCHEMA,
            "metrics": self.metrics(),
            "uncertainty": {name: None if math.isnan(value) else value for name, value in self.coverage().items()},
            "forces_by_species": {
                symbol: {"atoms": n, "mae": mae, "rmse": rmse}
                for symbol, (n, mae, rmse) in self.force_errors_by_species().items()
            },
            "isolated_atoms": {
                symbol: {"frames": n, "mae": mae, "rmse": rmse}
                for symbol, (n, mae, rmse) in self.isolated_errors().items()
            },
            "set": self.whole().to_dict(),
            "sets": {one.name: one.to_dict() for one in self.sets()},
            "units": {name: UNITS[name].text for name in self._differences()},
            "rejected": list(self.rejected),
            "remarks": [*self.remarks, *self.warnings()],
        }


def _by_element(title: str, counted: str, errors: Mapping[str, tuple[int, float, float]], style: str) -> TextTable:
    """A table of numbers, MAE and RMSE.

    Args:
        counted: what the numbers are of.
        style: of the errors, as ``format`` takes it.
    """
    rows = (
        (symbol, str(count), format(mae, style), format(rmse, style)) for symbol, (count, mae, rmse) in errors.items()
    )
    return TextTable(title, ("element", counted, "MAE", "RMSE"), tuple(rows))


def measured(
    name: str,
    reference: Float64[ndarray, " n"],
    predicted: Float64[ndarray, " n"],
    unit: Unit,
    colour: str = BLUE,
) -> Cloud:
    """A cloud in a unit, whose label tells how many there are and their errors."""
    errors = Errors.of(predicted - reference).scaled(unit.factor)
    label = f"{name}, N = {len(reference)}:\n{_told(errors, unit)}"
    return Cloud(unit.factor * reference, unit.factor * predicted, label, colour)


def _told(errors: Errors, unit: Unit) -> str:
    return f"MAE {errors.mae:.3g}, RMSE {errors.rmse:.3g} {unit.symbol}"


def fold_cloud(reference: Float64[ndarray, " n"], predicted: Float64[ndarray, " n"]) -> Cloud:
    """Energies per atom (eV) of a cross-validation, as they are shown."""
    return measured("cross-validation", reference, predicted, UNITS["energy"], GREY)


def parity_of_folds(
    folds: tuple[Float64[ndarray, " n"], Float64[ndarray, " n"]] | None, axes: Axes | None = None
) -> Axes:
    """Out-of-fold predictions against references, energies per atom less the baseline (eV)."""
    clouds = [] if folds is None else [fold_cloud(*folds)]
    return parity_axes(centred(clouds), f"energy less baseline ({UNITS['energy'].symbol})", axes)
