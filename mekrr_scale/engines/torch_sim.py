"""A fitted model in torch-sim (Orbital Materials): many systems integrated or relaxed at once.

import torch_sim as ts
from mekrr_scale.engines import MekrrModel

final = ts.integrate([a, b, c], MekrrModel("model.mekrr"), integrator=ts.nvt_langevin,
                     n_steps=1000, temperature=300, timestep=0.001)  # ps
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, final

import torch
from ase import Atoms
from torch import Tensor

from mekrr_scale.backbones import Backbone
from mekrr_scale.errors import ConfigError
from mekrr_scale.models import Dispersion, Model, Potential
from mekrr_scale.structures import electrons_info

try:
    from torch_sim.models.interface import ModelInterface
    from torch_sim.state import SimState
    from torch_sim.typing import StateDict
except ImportError as error:
    raise ConfigError("torch-sim is not installed: pip install 'mekrr-scale[torch-sim]'") from error


@final
class MekrrModel(ModelInterface):  # type: ignore[misc]
    """A model as torch-sim's ``ModelInterface``: energy, forces, stress of all systems of a state.

    Systems are one batch for the backbone. Energy in eV, forces in eV/angstrom, stress in
    eV/angstrom^3 (ASE's sign; zero for systems without a periodic direction).

    Args:
        model: a model, or the path of one.
        backbone: an instance to use instead of loading the model's.
        trust_code, compile, dispersion: see ``Potential``.

    Raises:
        ConfigError: torch-sim is not installed.
        ModelError: see ``Model.load`` and ``Potential``.
    """

    def __init__(
        self,
        model: Model | Path | str,
        backbone: Backbone | None = None,
        dtype: torch.dtype = torch.float64,
        device: str | torch.device = "cpu",
        compute_forces: bool = True,
        compute_stress: bool = True,
        trust_code: bool = False,
        compile: bool = False,
        dispersion: Dispersion | str | None = None,
    ) -> None:
        super().__init__()
        loaded = model if isinstance(model, Model) else Model.load(model)
        self.potential = Potential(
            loaded, backbone, dtype, str(device), compile, trust_code=trust_code, dispersion=dispersion
        )
        self._device, self._dtype = torch.device(device), dtype
        self._compute_forces, self._compute_stress = compute_forces, compute_stress

    def forward(self, state: SimState | StateDict, **_: Any) -> dict[str, Tensor]:
        """Properties of a state, or of the dictionary of one."""
        if isinstance(state, dict):
            state = SimState(**state, masses=torch.ones_like(state["positions"][:, 0]))
        structures = _structures(state, self.potential.model)
        found = self.potential.predict(structures, self._compute_forces, self._compute_stress)
        stress = found.stress
        if stress is not None and not bool(torch.as_tensor(state.pbc).any()):
            stress = torch.zeros_like(stress)
        values = {"energy": found.energy, "forces": found.forces, "stress": stress}
        return {name: value.to(self._device, self._dtype) for name, value in values.items() if value is not None}


def _structures(state: SimState, model: Model) -> list[Atoms]:
    """The systems of a state, of the model's charge and spin; torch-sim's cells are made of columns."""
    positions = state.positions.detach().cpu().double().numpy()
    numbers, owner = state.atomic_numbers.cpu().numpy(), state.system_idx.cpu().numpy()
    cells = state.cell.detach().mT.cpu().double().numpy()
    pbc = torch.as_tensor(state.pbc).cpu().numpy()
    info = electrons_info(model.electrons)
    return [
        Atoms(numbers[owner == i], positions=positions[owner == i], cell=cells[i], pbc=pbc, info=info)
        for i in range(len(cells))
    ]
