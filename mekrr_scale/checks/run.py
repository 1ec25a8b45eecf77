"""Is this potential physical where it is to be used? All checks of a model, beside the bare backbone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import final

import torch
from ase import Atoms
from ase.calculators.calculator import Calculator

from mekrr_scale.backbones import BackboneEnergies
from mekrr_scale.checks.all import checks_of
from mekrr_scale.checks.base import Check
from mekrr_scale.checks.deadline import Hurried, OutOfTimeError
from mekrr_scale.checks.kinds import LARGEST, checked_cell, kind_of, settled
from mekrr_scale.checks.measured import Finding, Measured, Quantity
from mekrr_scale.checks.references import References
from mekrr_scale.checks.report import CheckReport
from mekrr_scale.checks.thresholds import Thresholds
from mekrr_scale.errors import ConfigError, MekrrError, SimulationError, StructureError
from mekrr_scale.models import MekrrCalculator, Model, PredictorCalculator
from mekrr_scale.progress import Progress, shown_progress
from mekrr_scale.structures import without_results

_FELL_APART = (SimulationError, StructureError)  # of a structure that was in order: it did not come to rest, atoms met


def check(
    model: Model | MekrrCalculator | Path | str,
    structures: Mapping[str, Atoms] | Atoms | None = None,
    names: Sequence[str] | str = (),
    reference: References | None = None,
    thresholds: Thresholds | None = None,
    backbone: bool = True,
    device: str = "cpu",
    progress: Progress | None = None,
    until: float | None = None,
) -> CheckReport:
    """Run physical tests of a model on structures.

    Args:
        structures: by the names under which they are reported; or one. Default: the one that the model brings along,
            of lowest energy per atom of its training data. Crystals are taken to their conventional cell and,
            like molecules, relaxed by each potential first where a check wants that. Constraints are taken off: forces
            that are set to zero are no derivatives of the energy.
        names: of the checks, or of one; default: all but those that want to be asked for.
        reference: values to compare with.
        thresholds: what counts as failed.
        backbone: measure the bare backbone too, where it gives energies.
        until: by ``time.monotonic``: checks that are not done by then are skipped.

    Raises:
        ConfigError: an unknown check, or no structure.
        ModelError: a species that the model was not fitted on.
        StructureError: what is given has no energy (atoms at one place, lost positions): that is no fault of the model.
    """
    names = (names,) if isinstance(names, str) else names
    chosen, limits, known = checks_of(names), thresholds or Thresholds(), reference or References()
    calculator = model if isinstance(model, MekrrCalculator) else MekrrCalculator(model, None, torch.float64, device)
    given = _named(structures, calculator.potential.model)
    for name, atoms in given.items():
        _require_energy(name, atoms, calculator)
    bare = bare_calculator(calculator) if backbone else None
    potentials = [each if each is None or until is None else Hurried(each, until) for each in (calculator, bare)]
    findings: list[Finding] = []
    with shown_progress(progress, "checks") as shown:
        shown.stage("check", len(given) * len(chosen))
        for name, atoms in given.items():
            free = without_results(atoms)
            free.set_constraint()
            subject = _Subject(name, free, *potentials)
            for each in chosen:
                if subject.kind in each.kinds:
                    findings.append(subject.finding(each, limits, known, each.name in names))
                shown.advance()
    return CheckReport(tuple(findings))


def _named(structures: Mapping[str, Atoms] | Atoms | None, model: Model) -> Mapping[str, Atoms]:
    given = model.structure if structures is None else structures
    if not given:
        raise ConfigError("the model brings no structure along (an older version fitted it); give one to check it on")
    return {str(given.symbols): given} if isinstance(given, Atoms) else given


def _require_energy(name: str, atoms: Atoms, calculator: MekrrCalculator) -> None:
    """Refuse a structure that is broken before anything moves.

    Raises:
        ModelError, StructureError: see ``Potential.predict``.
    """
    calculator.potential.model.check_species(atoms.numbers.tolist())
    try:
        calculator.potential.predict(atoms, forces=False)
    except StructureError as error:
        raise StructureError(f"{name}: {error}") from error


def bare_calculator(calculator: MekrrCalculator) -> Calculator | None:
    """The backbone's own potential; None of one without energies."""
    backbone = calculator.potential.backbone
    return PredictorCalculator(BackboneEnergies(backbone)) if backbone.has_energy else None


@final
class _Subject:
    """A structure and the potentials that are measured on it: the model, and the backbone where it has energies."""

    def __init__(self, name: str, atoms: Atoms, model: Calculator, backbone: Calculator | None) -> None:
        self.name, self.kind = name, kind_of(atoms)
        self.atoms = checked_cell(atoms)
        self.model, self.backbone = model, backbone
        self._relaxed: dict[Calculator, Atoms | MekrrError] = {}

    def finding(self, check: Check, limits: Thresholds, known: References, asked: bool) -> Finding:
        """Of one check.

        Args:
            asked: it was named.
        """
        if check.relaxed and not asked and len(self.atoms) > LARGEST:
            why = f"{len(self.atoms)} atoms are many to strain and relax; --test {check.name} does it all the same"
            return Finding(check.name, self.name, skipped=why)
        fresh = self.model not in self._relaxed
        try:
            model = self._measured(check, self.model)
        except (ConfigError, OutOfTimeError) as error:
            return Finding(check.name, self.name, skipped=str(error))
        except _FELL_APART as error:
            if check.relaxed and not fresh and isinstance(self._relaxed[self.model], MekrrError):
                return Finding(check.name, self.name, skipped="there is no relaxed structure to run it on")
            return Finding(check.name, self.name, failures=(str(error),))
        backbone = None
        if self.backbone is not None:
            with suppress(MekrrError):  # what a backbone cannot do says nothing of the model
                backbone = self._measured(check, self.backbone)
        given = known.of(self.name, self.atoms)
        reference = {name: Quantity(given[name], q.unit) for name, q in model.quantities.items() if name in given}
        failures = [*check.failures(model, backbone, limits), *check.beside(model, reference, limits)]
        return Finding(check.name, self.name, model, backbone, reference, tuple(failures))

    def _measured(self, check: Check, calculator: Calculator) -> Measured:
        """What one potential gives.

        Raises:
            SimulationError, StructureError: the structure does not come to rest, or falls apart.
            MekrrError: see ``Check.measure``.
        """
        if not check.relaxed:
            return check.measure(self.atoms.copy(), calculator)
        if calculator not in self._relaxed:
            try:
                self._relaxed[calculator] = settled(self.atoms, calculator)
            except _FELL_APART as error:
                self._relaxed[calculator] = error
        found = self._relaxed[calculator]
        if isinstance(found, MekrrError):
            raise found
        return check.measure(found.copy(), calculator)
