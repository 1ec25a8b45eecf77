"""ASE calculator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import BaseCalculator, Calculator, PropertyNotImplementedError, all_changes
from ase.stress import full_3x3_to_voigt_6_stress
from jaxtyping import Float64
from numpy import ndarray

from mekrr_scale.backbones import Backbone
from mekrr_scale.errors import ModelError
from mekrr_scale.models.dispersion import Dispersion
from mekrr_scale.models.model import Model
from mekrr_scale.models.potential import Potential
from mekrr_scale.models.stresses import atomic_stresses
from mekrr_scale.structures import Calculated, Predictor, SkinList, require_skin


class PredictorCalculator(Calculator):  # type: ignore[misc]
    """Any predictor (a potential, a backbone's own energies, ...) as an ASE calculator."""

    implemented_properties: ClassVar[list[str]] = ["energy", "free_energy", "energies", "forces", "stress"]

    def __init__(self, predictor: Predictor, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.predictor = predictor

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Compute what is asked for."""
        super().calculate(atoms, list(properties), list(system_changes))
        stress = "stress" in properties
        found = self.predictor.predict(self.atoms, forces=stress or "forces" in properties, stress=stress)
        self.results = found.results()


@final
class Results(dict[str, Any]):
    """Results that ASE has names for, and others that are found by name but not listed.

    ASE's own code hands all that is listed to ``SinglePointCalculator`` or ``Properties``, which refuse other names.
    """

    def __init__(self, known: Mapping[str, Any], more: Mapping[str, Any]) -> None:
        super().__init__(known)
        self.more = dict(more)

    def __missing__(self, name: str) -> Any:
        return self.more[name]

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or name in self.more

    def get(self, name: str, default: Any = None) -> Any:
        """As of any mapping."""
        return super().get(name, self.more.get(name, default))

    def copy(self) -> Results:
        """With both."""
        return Results(self, self.more)

    def __reduce__(self) -> tuple[type[Results], tuple[dict[str, Any], dict[str, Any]]]:
        return Results, (dict(self), self.more)


class MekrrCalculator(Calculator):  # type: ignore[misc]
    """A fitted model as an ASE calculator.

    Results: energy and free_energy (equal; eV), energies (per atom), forces (eV/angstrom) and,
    for cells with a volume, stress (eV/angstrom^3, Voigt) and, if asked for, atoms' shares of it (``stresses``).
    Memory does not grow with steps. Calculators can be copied and pickled, for joblib, dask and the like.

    Args:
        model: a model, or the path of one.
        backbone: an instance to use instead of loading the model's.
        dtype: of the backbone; ``"float64"`` is understood too.
        device: where backbone and kernel are evaluated, e.g. ``"cuda"``.
        compile: the backbone, by torch.compile; pays in long runs.
        prior: a calculator of what the model corrects, where its file cannot bring that along.
        skin: neighbour lists are kept until an atom has moved by half of it (angstrom).
        uncertainty: also give ``energy_uncertainty`` (eV, 68 %), ``energies_uncertainty`` (per atom) and
            ``extrapolation`` (grade of each atom; above 1 is outside of the training data).
        trust_code: see ``Potential``.
        max_memory: what the network may take for large cells, such as ``"4GB"``, see ``Potential``.
        dispersion: D3 dispersion to add, of labels that have none: a functional, or a ``Dispersion``.

    Raises:
        ModelError: see ``Model.load`` and ``Potential``.
        ConfigError: a skin below 0; see ``Potential``.
    """

    implemented_properties: ClassVar[list[str]] = ["energy", "free_energy", "energies", "forces", "stress", "stresses"]

    def __init__(
        self,
        model: Model | Path | str,
        backbone: Backbone | None = None,
        dtype: torch.dtype | str = torch.float32,
        device: str = "cpu",
        compile: bool = False,
        skin: float = 0.5,
        uncertainty: bool = False,
        prior: Calculator | None = None,
        trust_code: bool = False,
        max_memory: str | int | None = None,
        dispersion: Dispersion | str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        require_skin(skin)
        corrected = None if prior is None else Calculated(prior)
        self.potential = Potential(
            model, backbone, dtype, device, compile, corrected, trust_code, max_memory, dispersion
        )
        self.neighbours = SkinList(self.potential.backbone.cutoff, skin)
        self.uncertainty = uncertainty
        self._stressed = False

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Compute what is asked for; ASE calls this when positions or cell have changed."""
        super().calculate(atoms, list(properties), list(system_changes))
        periodic = bool(self.atoms.cell.rank == 3 and self.atoms.pbc.any())
        self._stressed = self._stressed or "stress" in properties  # asked once, it is given along with forces
        stress = self._stressed and periodic
        forces = stress or bool({"forces", "stress"} & set(properties))
        asked = self.atoms, forces, stress, self.neighbours
        more: dict[str, Any] = {}
        if not self.uncertainty:
            prediction = self.potential.predict(*asked)
        else:
            prediction, found = self.potential.predict_with_uncertainty(*asked)
            more = {
                "energy_uncertainty": float(found.energy[0]),
                "energies_uncertainty": found.energies.numpy(),
                "extrapolation": found.grade.numpy(),
            }
        known = prediction.results()
        if "stresses" in properties:
            known["stresses"] = self._stresses()
        self.results = Results(known, more)

    def _stresses(self) -> Float64[ndarray, "atoms 6"]:
        try:
            found = atomic_stresses(self.potential, self.atoms)
        except ModelError as error:
            raise PropertyNotImplementedError(str(error)) from error
        return np.stack([full_3x3_to_voigt_6_stress(share) for share in found.numpy()])


def as_calculator(given: BaseCalculator | Model | Path | str) -> BaseCalculator:
    """A calculator of whatever a caller has: itself, which may be any of ASE's, a model, or a model's file.

    Raises:
        ModelError: see ``Model.load`` and ``Potential``.
    """
    return given if isinstance(given, BaseCalculator) else MekrrCalculator(given)
