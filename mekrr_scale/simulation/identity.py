"""What a simulation is: all that shapes its result, so that nothing else is taken for it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator

from mekrr_scale.models import MekrrCalculator, Model
from mekrr_scale.structures import Calculated

if TYPE_CHECKING:
    from mekrr_scale.simulation.dynamics import MdPlan

CONTENTS = {
    "model": "another model",
    "prior": "another prior",
    "start": "another start structure",
}  # what hashes stand for; texts of messages


def run_identity(atoms: Atoms, calculator: BaseCalculator, plan: MdPlan) -> dict[str, str | float]:
    """Of a simulation from a start structure; bounds and the number of steps may change on the way."""
    found: dict[str, str | float] = {"ensemble": plan.ensemble, "timestep": plan.timestep, "seed": plan.seed}
    thermal = plan.ensemble != "nve"
    if thermal or not atoms.get_momenta().any():
        found["temperature"] = plan.temperature
    if thermal:
        found["friction"] = plan.friction
    if plan.ensemble == "npt":
        found["pressure"] = plan.pressure
    found["interval"] = plan.interval
    if plan.bounds.asks_uncertainty:
        found["every"] = plan.bounds.every
    return found | _of_calculator(calculator) | _of_start(atoms)


def _of_start(atoms: Atoms) -> dict[str, str | float]:
    constraints = json.dumps([constraint.todict() for constraint in atoms.constraints], default=_plain, sort_keys=True)
    return {
        "start positions": _hash(atoms.positions),
        "start cell": _hash(atoms.cell.array, atoms.pbc),
        "start velocities": _hash(atoms.get_momenta()),
        "start masses": _hash(atoms.get_masses()),
        "start constraints": hashlib.sha256(constraints.encode()).hexdigest()[:32],
    }


def _plain(value: object) -> object:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else repr(value)


def _of_calculator(calculator: BaseCalculator) -> dict[str, str | float]:
    """The model by its content, wherever its file lies; another calculator by its class and parameters."""
    if not isinstance(calculator, MekrrCalculator):
        told = re.sub(r" at 0x[0-9a-f]+", "", f"{type(calculator)} {calculator.parameters}")  # addresses mean nothing
        return {"model": hashlib.sha256(told.encode()).hexdigest()[:32]}
    potential = calculator.potential
    prior = potential.given_prior
    return {
        "model": model_hash(potential.model),
        "precision": str(potential.backbone.dtype).removeprefix("torch."),
        "dispersion": "none" if potential.dispersion is None else potential.dispersion.name,
        "prior": _of_calculator(prior.calculator)["model"] if isinstance(prior, Calculated) else "the model's own",
    }


def model_hash(model: Model) -> str:
    """Of all that a model predicts from."""
    kernel = model.kernel
    digest = hashlib.sha256(
        _hash(
            model.landmarks.features, model.landmarks.species, model.landmarks.owner, model.coefficients,
            model.baseline.energies, kernel.transform.mean, kernel.transform.scale,
        ).encode()
    )  # fmt: skip
    prior: Mapping[str, object] = {key: value for key, value in model.prior.items() if key != "where"}
    document = [
        kernel.atom.to_dict(), kernel.reduce, list(kernel.transform.species), repr(kernel.mixing),
        list(model.baseline.species), model.baseline.prior, dict(model.backbone), prior,
        *([] if model.compression is None else [model.compression.hash]),
    ]  # fmt: skip
    digest.update(json.dumps(document, sort_keys=True, default=_plain).encode())
    return digest.hexdigest()[:32]


def _hash(*arrays: object) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        plain = np.ascontiguousarray(array)
        digest.update(f"{plain.dtype}{plain.shape}".encode())
        digest.update(plain.tobytes())
    return digest.hexdigest()[:32]
