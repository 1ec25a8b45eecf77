"""A fitted model in i-PI: the driver behind ``<ffdirect>``, and behind i-PI's client for ``<ffsocket>``.

i-PI finds drivers by the path of a file, which is ``mekrr_pes.py`` beside this one: a file of the name ``ipi.py`` would
take the place of i-PI itself. ``python -m mekrr_scale.engines.mekrr_pes`` prints the path.

i-PI: Litman et al., J. Chem. Phys. 161, 062504 (2024), https://doi.org/10.1063/5.0215869.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
from ase import Atoms
from jaxtyping import Float64
from numpy import ndarray

from mekrr_scale.arrays import keep_memory
from mekrr_scale.errors import ConfigError, MekrrError, SimulationError, StructureError, suggestion
from mekrr_scale.files import split_frames
from mekrr_scale.models import ADVICE, Limits, Potential, Uncertainty
from mekrr_scale.pipeline import atoms_at_once
from mekrr_scale.structures import in_batches, read_structures, without_results

try:
    from ipi.pes.dummy import Dummy_driver
    from ipi.utils.softexit import softexit
    from ipi.utils.units import unit_to_internal
except ImportError as error:
    raise ConfigError("i-PI is not installed: pip install 'mekrr-scale[ipi]'") from error

# i-PI rounds its constants to eight digits, and its eV/angstrom is not its eV by its angstrom (1e-7 off): forces are
# converted by the latter, so that in i-PI's units they are the derivatives of the energy
ANGSTROM = float(unit_to_internal("length", "angstrom", 1.0))  # bohr
EV = float(unit_to_internal("energy", "electronvolt", 1.0))  # hartree

_FLAGS = {"t": True, "true": True, "f": False, "false": False}
_EXAMPLE = "<parameters>{template: start.xyz, model: model.mekrr}</parameters>"

Result = tuple[float, Float64[ndarray, "atoms 3"], Float64[ndarray, "3 3"], str]


@final
class MekrrDriver(Dummy_driver):  # type: ignore[misc]
    """A model as i-PI's driver: energies, forces, virials of all structures of a request in one pass of the network.

    A pass sees as many atoms as elsewhere: 64 on a CPU, which stay in its cache, 1024 on a GPU.

    The arguments are the ``<parameters>`` of i-PI's input. Paths count from the folder in which i-PI runs.

    Args:
        template: file with the atoms, in i-PI's order; of several frames the last, or the chosen (``run.xyz@12``).
            Elements are taken from it, and which directions are periodic; positions and cell come from i-PI.
        model: file of the model.
        device: where network and kernel are evaluated, e.g. ``cuda``.
        dtype: of the network. The default ``float64`` keeps forces the derivatives of the energy to rounding, so that
            what i-PI calls conserved is; ``float32`` takes half the time on a CPU.
        pbc: ``T``, ``F``, or one for each lattice vector (``T T F``), where the template does not say it.
        uncertainty: give ``energy_uncertainty`` (eV, 68 %), ``energies_uncertainty`` (eV, per atom) and
            ``extrapolation`` (grade of each atom; above 1 is outside of the training data) as i-PI's extras.
        max_grade: end the run, with a ``RESTART``, when an atom's grade is above.
        dispersion: D3 dispersion to add, of labels that have none, e.g. ``pbe``, see ``Potential``.
        trust_code, compile: see ``Potential``.
        verbose: i-PI's.

    Raises:
        ConfigError: i-PI is not installed; a parameter that is missing, unknown, or cannot be used.
        StructureError: the template cannot be read.
        ModelError: see ``Model.load`` and ``Potential``; an element of the template that the model does not know; no
            posterior to tell uncertainties from.
    """

    def __init__(
        self,
        template: Any = None,
        model: Any = None,
        device: str = "cpu",
        dtype: str = "float64",
        pbc: Any = None,
        uncertainty: Any = False,
        max_grade: Any = None,
        dispersion: Any = None,
        trust_code: Any = False,
        compile: Any = False,
        verbose: bool = False,
        **others: Any,
    ) -> None:
        _refuse_unknown(set(others) - {"verbosity"})  # which i-PI adds
        for name, value in (("template", template), ("model", model)):
            if value in (None, ""):
                raise ConfigError(f"i-PI's driver lacks the parameter {name}: {_EXAMPLE}")
        self.uncertainty, self.max_grade = _flag("uncertainty", uncertainty), _bound(max_grade)
        self.name = str(template)
        self.template = _template(self.name, pbc)
        trusted, fast = _flag("trust_code", trust_code), _flag("compile", compile)
        added = None if dispersion is None else str(dispersion)
        self.potential = Potential(str(model), None, dtype, str(device), fast, trust_code=trusted, dispersion=added)
        self.potential.model.check_species(self.template.numbers.tolist())
        if self._asks:
            self.potential.require_uncertainty()
        keep_memory()  # i-PI and its client do nothing else
        super().__init__(verbose=verbose)

    @property
    def _asks(self) -> bool:
        return self.uncertainty or self.max_grade is not None

    def compute_structure(self, cell: Float64[ndarray, "3 3"], pos: Float64[ndarray, "atoms 3"]) -> Result:
        """Energy (hartree), forces (hartree/bohr), virial (hartree) and extras of one structure.

        Raises:
            SimulationError, StructureError: see ``compute``.
        """
        return self._results([cell], [pos])[0]

    def compute(
        self,
        cell: Float64[ndarray, "3 3"] | Sequence[Float64[ndarray, "3 3"]],
        pos: Float64[ndarray, "atoms 3"] | Sequence[Float64[ndarray, "atoms 3"]],
    ) -> Result | list[Result]:
        """The same of one structure, or of a list. i-PI calls this; its own run ends softly by errors.

        Args:
            cell: bohr; lattice vectors are columns.
            pos: bohr.

        Raises:
            SimulationError: an atom's grade is above ``max_grade``.
            StructureError: positions that are no geometry, or of another number of atoms than the template's.
        """
        try:
            if isinstance(cell, ndarray):
                return self.compute_structure(cell, np.asarray(pos))
            return self._results(cell, list(pos))
        except MekrrError as error:
            _end_softly(error)
            raise

    def _results(
        self, cells: Sequence[Float64[ndarray, "3 3"]], positions: Sequence[Float64[ndarray, "atoms 3"]]
    ) -> list[Result]:
        structures = [self._structure(h, q) for h, q in zip(cells, positions, strict=True)]
        results: list[Result] = []
        for batch in in_batches(structures, atoms_at_once(self.potential.device), len):
            results += self._of_batch(batch, len(results), len(structures))
        return results

    def _of_batch(self, structures: Sequence[Atoms], first: int, count: int) -> list[Result]:
        extras = [""] * len(structures)
        if self._asks:
            found, sure = self.potential.predict_with_uncertainty(structures, forces=True, stress=True)
            self._look(structures, sure, first, count)
            if self.uncertainty:
                extras = _extras(sure, len(self.template))
        else:
            found = self.potential.predict(structures, forces=True, stress=True)
        assert found.forces is not None
        assert found.stress is not None
        energies, stresses = EV * found.energy.numpy(), found.stress.numpy()
        forces = (EV / ANGSTROM) * found.forces.numpy().reshape(len(structures), -1, 3)
        return [
            # the virial is minus the derivative by strain, of molecules too, whose cell is i-PI's box
            (float(energies[i]), forces[i], -EV * structures[i].get_volume() * stresses[i], extras[i])
            for i in range(len(structures))
        ]

    def _structure(self, cell: Float64[ndarray, "3 3"], pos: Float64[ndarray, "atoms 3"]) -> Atoms:
        if len(pos) != len(self.template):
            raise StructureError(
                f"i-PI's structure has {len(pos)} atoms, the template {self.name} {len(self.template)}; give as "
                "template the atoms of i-PI's <initialize>, in their order"
            )
        atoms = self.template.copy()
        atoms.cell[:] = np.transpose(cell) / ANGSTROM
        atoms.positions[:] = np.asarray(pos) / ANGSTROM
        return atoms

    def _look(self, structures: Sequence[Atoms], sure: Uncertainty, first: int, count: int) -> None:
        limits, size = Limits(grade=self.max_grade), len(self.template)
        for index, grades in enumerate(sure.grade.reshape(len(structures), size)):
            place = f" of structure {first + index} of {count}" if count > 1 else ""
            names = [f"{atom}{place}" for atom in range(size)]
            broken = limits.broken(float(sure.energy[index]) / size, grades, list(self.template.symbols), names)
            if broken:
                raise SimulationError(f"{broken}. {ADVICE}", beyond=structures[index])


def _extras(sure: Uncertainty, n_atoms: int) -> list[str]:
    """i-PI's extra strings, in eV."""
    whole = sure.energy.tolist()
    atoms, grades = sure.energies.reshape(-1, n_atoms).tolist(), sure.grade.reshape(-1, n_atoms).tolist()
    names = ("energy_uncertainty", "energies_uncertainty", "extrapolation")
    return [json.dumps(dict(zip(names, values, strict=True))) for values in zip(whole, atoms, grades, strict=True)]


def _end_softly(error: MekrrError) -> None:
    """Within i-PI's own process let it write its outputs and ``RESTART``; elsewhere do nothing.

    An exception would end a polling thread alone, and i-PI would wait for it forever.
    """
    if softexit.flist:
        softexit.trigger(status="restartable" if isinstance(error, SimulationError) else "bad", message=str(error))


def _template(name: str, pbc: Any) -> Atoms:
    """The atoms, without what the file knows of them otherwise."""
    path = Path(name)
    frames = list(read_structures(path if split_frames(path)[1] is not None else path.with_name(f"{path.name}@-1")))
    if len(frames) > 1:
        raise ConfigError(f"the template {name} stands for {len(frames)} frames; choose one, e.g. {path.name}@-1")
    atoms = without_results(frames[0])
    del atoms.constraints
    if pbc is not None:
        atoms.pbc = _periodicity(pbc)
    elif atoms.cell.rank == 0 and not atoms.pbc.any():
        raise ConfigError(
            f"the template {name} has no cell, so that it does not say whether the system is periodic; add pbc: T for "
            "a periodic one, pbc: F for a molecule, pbc: T T F for a slab, or take one with a cell (extended xyz)"
        )
    return atoms


def _periodicity(given: Any) -> list[bool]:
    flags = [_FLAGS.get(word.lower()) for word in str(given).split()]
    if len(flags) not in (1, 3) or None in flags:
        raise ConfigError(f"pbc: {given} is not understood; give T, F, or one for each lattice vector, such as T T F")
    return [bool(flag) for flag in (flags * 3)[:3]]


def _flag(name: str, given: Any) -> bool:
    """True or false; i-PI reads these words as such, its client too."""
    if not isinstance(given, bool):
        raise ConfigError(f"{name}: {given} is not understood; give true or false")
    return given


def _bound(given: Any) -> float | None:
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, int | float) or not given > 0:
        raise ConfigError(f"max_grade: {given} is not understood; give a positive number, 1 is the edge of the data")
    return float(given)


def _refuse_unknown(names: set[str]) -> None:
    known = [name for name in inspect.signature(MekrrDriver).parameters if name not in ("others", "verbose")]
    if names:
        name = min(names)
        raise ConfigError(f"i-PI's driver has no parameter {name!r}. {suggestion(name, known)}")
