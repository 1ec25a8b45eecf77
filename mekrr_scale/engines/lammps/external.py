"""A fitted model as the forces of a LAMMPS that is there: what its ``fix external`` calls back in every step.

from lammps import lammps
from mekrr_scale.engines.lammps import attach

lmp = lammps()
lmp.file("in.box")  # units metal, a box, atoms, masses
attach(lmp, "model.mekrr", ["H", "C", "O", "Cu"])  # elements of the atom types 1 to 4
lmp.commands_string("fix 1 all nve\\nrun 100")
"""

from __future__ import annotations

import ctypes
import os
import re
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import numpy as np
from ase import Atoms
from ase.data import atomic_masses, atomic_numbers, chemical_symbols
from jaxtyping import Float64, Int32, Int64
from numpy import ndarray

from mekrr_scale.engines.lammps.library import told
from mekrr_scale.errors import ConfigError, SimulationError, StructureError, suggestion
from mekrr_scale.models import ADVICE, Limits, Model, Potential, Uncertainty
from mekrr_scale.structures import Prediction, SkinList, electrons_info, require_skin

FIX = "mekrr"  # fix, variables and per-atom property are named after it
_ATOMS = f"{FIX}_atoms"
# fixes that neither change forces nor read them where fix external adds its own, so that they may come before it
_EARLY = re.compile(
    r"(nve|nvt|npt|nph|ave|temp|press)(/\S*)?|store/state|box/relax|dt/reset|property/atom|print|momentum|recenter|"
    "deform|vector|halt|balance"
)
_OFF = (3.5, 0.1)  # a mass (u) that differs by more, absolutely and relatively, is another element's


@dataclass(frozen=True)
class Settings:
    """How a model is evaluated for LAMMPS.

    Args:
        every: steps between looks at uncertainty and grade; 0 for none.
        limits: at which the run stops.
        skin: neighbour lists are kept until an atom has moved by half of it (angstrom).
    """

    every: int = 0
    limits: Limits = field(default_factory=Limits)
    skin: float = 0.5

    def __post_init__(self) -> None:
        if self.every < 0:
            raise ConfigError(f"the uncertainty is looked at every {self.every} steps; give a positive number, or 0")
        if self.limits.any and not self.every:
            raise ConfigError("limits of uncertainty and grade need a number of steps between looks at them")
        require_skin(self.skin)


@final
class External:
    """What stands between ``fix external`` and a potential.

    Args:
        lmp: LAMMPS' Python library, of units metal and one rank, with a box.
        elements: of the atom types, in order.

    Attributes:
        error: what ended the run, if something did.
        grade: largest extrapolation grade of an atom when it was looked at last.
        uncertainty: of the energy then (eV, 68 %).
    """

    def __init__(self, lmp: Any, potential: Potential, elements: Sequence[str], settings: Settings) -> None:
        self.lmp, self.potential, self.settings = lmp, potential, settings
        self.numbers = numbers_of(elements)
        self.neighbours = SkinList(potential.backbone.cutoff, settings.skin)
        self.error: BaseException | None = None
        self.interrupted = False
        self.grade: float | None = None
        self.uncertainty: float | None = None
        self._weighed = self._went_well = False

    def __call__(
        self,
        caller: object,
        step: int,
        count: int,
        ids: Int32[ndarray, " atoms"] | Int64[ndarray, " atoms"],
        positions: Float64[ndarray, "atoms 3"],
        forces: Float64[ndarray, "atoms 3"],
    ) -> None:
        """Energies, forces and virial of a step. Exceptions would be lost in C: they are kept, and the run stops."""
        try:
            if self.interrupted:
                raise KeyboardInterrupt
            if self.error is None:
                self._evaluate(step, ids[:count], positions[:count], forces[:count])
                self._went_well = True
        except StructureError as error:  # at first it is the user's, later the simulation has led there
            self.error = SimulationError(f"stopped at step {step}: {error}") if self._went_well else error
            forces[:] = 0.0
        except BaseException as error:
            self.error = error
            forces[:] = 0.0
        if self.error is not None:
            self._stop()

    def structure(
        self, ids: Int32[ndarray, " atoms"] | Int64[ndarray, " atoms"], positions: Float64[ndarray, "atoms 3"]
    ) -> tuple[Atoms, Int64[ndarray, " atoms"]]:
        """LAMMPS' atoms by their ids, and their places in LAMMPS' order, which changes while it runs.

        Raises:
            ConfigError: atoms without ids.
        """
        order = np.argsort(ids)
        if len(ids) and ids[order[0]] <= 0:
            raise ConfigError("atoms have no ids, which the model needs; leave out atom_modify id no")
        low, high, xy, yz, xz, periodic, _ = self.lmp.extract_box()
        lengths = np.subtract(high, low)
        cell = [[lengths[0], 0, 0], [xy, lengths[1], 0], [xz, yz, lengths[2]]]
        types = self.lmp.numpy.extract_atom("type")[: len(ids)]
        numbers = self.numbers[types[order]]
        info = electrons_info(self.potential.model.electrons)  # LAMMPS says nothing of them
        return Atoms(numbers, positions[order] - low, cell=cell, pbc=np.array(periodic, bool), info=info), order

    def _evaluate(
        self,
        step: int,
        ids: Int32[ndarray, " atoms"] | Int64[ndarray, " atoms"],
        positions: Float64[ndarray, "atoms 3"],
        forces: Float64[ndarray, "atoms 3"],
    ) -> None:
        if not len(ids):
            raise SimulationError(f"stopped at step {step}: there are no atoms; LAMMPS has lost them, or has none yet")
        if not self._weighed:
            self._weigh(self.lmp.numpy.extract_atom("type")[: len(ids)])
        atoms, order = self.structure(ids, positions)
        asked = (atoms, True, True, self.neighbours)
        every = self.settings.every
        sure: Uncertainty | None = None
        if every and (step % every == 0 or self.grade is None):
            found, sure = self.potential.predict_with_uncertainty(*asked)
        else:
            found = self.potential.predict(*asked)
        self._give(found, atoms, order, forces)
        if sure is not None:
            self._give_uncertainty(sure, order)
            self._check_limits(step, sure, atoms, ids[order])

    def _give(
        self, found: Prediction, atoms: Atoms, order: Int64[ndarray, " atoms"], forces: Float64[ndarray, "atoms 3"]
    ) -> None:
        assert found.forces is not None
        forces[order] = found.forces.numpy()
        self.lmp.fix_external_set_energy_global(FIX, float(found.energy[0]))
        stress = np.full((3, 3), np.nan) if found.stress is None else found.stress[0].numpy()  # of a prior without one
        virial = -stress * atoms.get_volume()  # eV: minus the derivative by strain
        rows, columns = (0, 1, 2, 0, 0, 1), (0, 1, 2, 1, 2, 2)  # xx yy zz xy xz yz
        self.lmp.fix_external_set_virial_global(FIX, virial[rows, columns].tolist())
        energies = np.empty(len(order))
        energies[order] = found.energies.numpy()
        pointer = energies.ctypes.data_as(ctypes.POINTER(ctypes.c_double))
        self.lmp.lib.lammps_fix_external_set_energy_peratom(self.lmp.lmp, FIX.encode(), pointer)

    def _give_uncertainty(self, sure: Uncertainty, order: Int64[ndarray, " atoms"]) -> None:
        grades = sure.grade.numpy()
        self.grade, self.uncertainty = float(grades.max()), float(sure.energy[0])
        self.lmp.fix_external_set_vector(FIX, 1, self.grade)
        self.lmp.fix_external_set_vector(FIX, 2, self.uncertainty)
        self.lmp.numpy.extract_atom(f"d_{FIX}_grade")[order] = grades

    def _check_limits(
        self, step: int, sure: Uncertainty, atoms: Atoms, ids: Int32[ndarray, " atoms"] | Int64[ndarray, " atoms"]
    ) -> None:
        """See ``Limits``.

        Raises:
            SimulationError: a limit is exceeded.
        """
        energy = float(sure.energy[0]) / len(atoms)
        broken = self.settings.limits.broken(energy, sure.grade, list(atoms.symbols), ids.tolist())
        if broken:
            raise SimulationError(f"stopped at step {step}: {broken}. {ADVICE}", beyond=atoms)

    def _weigh(self, types: Int32[ndarray, " atoms"]) -> None:
        """Warn of masses that are those of other elements: the usual mistake in the order of types."""
        self._weighed = True
        masses = self.lmp.numpy.extract_atom("mass")
        for kind in np.unique(types) if masses is not None else ():
            number = self.numbers[kind]
            given, own = float(np.ravel(masses)[kind]), float(atomic_masses[number])
            if abs(given - own) > max(_OFF[0], _OFF[1] * own):
                warnings.warn(
                    f"atoms of type {kind} weigh {given:g}, but {chemical_symbols[number]} weighs {own:.4g}: "
                    "are the elements of pair_coeff in the order of the atom types?",
                    stacklevel=2,
                )

    def _stop(self) -> None:
        """End the run before its next step, with an error that LAMMPS' library tells.

        LAMMPS' ``lammps_error`` would end the process. A fix that is not there is the error of its library that
        takes a text along.
        """
        reason = " ".join(str(self.error).split()) or type(self.error).__name__
        unknown = f"that can go on (mekrr: {reason})".encode()
        self.lmp.lib.lammps_fix_external_set_energy_global(self.lmp.lmp, FIX.encode(), ctypes.c_double(np.nan))
        self.lmp.lib.lammps_fix_external_set_energy_global(self.lmp.lmp, unknown, ctypes.c_double(np.nan))
        self.lmp.lib.lammps_force_timeout(self.lmp.lmp)


def attach(
    lmp: Any,
    model: Potential | Model | Path | str,
    elements: Sequence[str],
    settings: Settings | None = None,
    dtype: str = "float64",
    device: str = "cpu",
) -> External:
    """Let a model make the energies, forces and pressure of a LAMMPS that is there.

    It takes the place of the pair style. Its energies are in ``pe`` and ``compute pe/atom``, its virial in ``press``.
    With ``every`` the largest grade is the variable ``mekrr_grade``, the uncertainty of the energy (eV) is
    ``mekrr_uncertainty``, and atoms' grades are the property ``d_mekrr_grade``. Whatever fails while LAMMPS runs
    ends the run with an error of LAMMPS', and stands in ``error`` of what this returns.

    Args:
        lmp: LAMMPS' Python library (``lammps.lammps``) of one rank, with units metal and a box.
        elements: of the atom types, in order.
        dtype: of the backbone, where the model is not a ``Potential`` yet.
        device: of backbone and kernel, likewise.

    Raises:
        ConfigError: other units, several ranks, two dimensions, no box, or not an element for each atom type; or fixes
            that change forces are there already.
        ModelError: an element that the model was not fitted on; no posterior, with ``every``; see ``Potential``.
    """
    chosen = settings or Settings()
    check_lammps(lmp)
    _check_elements(lmp, elements)
    potential = model if isinstance(model, Potential) else Potential(model, dtype=dtype, device=device)
    potential.model.check_species([atomic_numbers[element] for element in elements])
    if chosen.every:
        potential.require_uncertainty()
    for name in {FIX, _ATOMS} & set(lmp.available_ids("fix")):
        lmp.command(f"unfix {name}")
    _check_fixes(fixes_of(lmp))
    for command in [
        f"pair_style zero {potential.backbone.cutoff} nocoeff",
        "pair_coeff * *",
        f"fix {FIX} all external pf/callback 1 1",
        f"fix_modify {FIX} energy yes virial yes",
    ]:
        lmp.command(command)
    external = External(lmp, potential, elements, chosen)
    lmp.set_fix_external_callback(FIX, external)
    if chosen.every:
        lmp.fix_external_set_vector_length(FIX, 2)
        lmp.command(f"fix {_ATOMS} all property/atom d_{FIX}_grade")
        lmp.command(f"variable {FIX}_grade equal f_{FIX}[1]")
        lmp.command(f"variable {FIX}_uncertainty equal f_{FIX}[2]")
    return external


def check_lammps(lmp: Any) -> None:
    """Refuse what a model cannot make forces for.

    Raises:
        ConfigError: units, ranks, dimensions or versions.
    """
    units = lmp.extract_global("units")
    if units != "metal":
        raise ConfigError(f"units {units}: the model is in eV and angstrom; write units metal at the top of the input")
    if lmp.extract_setting("world_size") != 1:
        raise ConfigError(
            f"LAMMPS runs on {lmp.extract_setting('world_size')} ranks; the model needs all atoms on one, so leave "
            "mpirun out (threads and GPUs are used all the same)"
        )
    if lmp.extract_setting("dimension") != 3:
        raise ConfigError("dimension 2: the model is of three dimensions; write dimension 3, and a box with a vacuum")


def numbers_of(elements: Sequence[str]) -> Int64[ndarray, " types"]:
    """Atomic numbers of the atom types, which LAMMPS counts from 1.

    Raises:
        ConfigError: what is no element (the closest is named).
    """
    for element in elements:
        if element not in chemical_symbols[1:]:
            raise ConfigError(f"{element!r} is no element. {suggestion(element, chemical_symbols[1:])}")
    return np.array([0, *(atomic_numbers[element] for element in elements)])


def _check_elements(lmp: Any, elements: Sequence[str]) -> None:
    if not lmp.extract_setting("box_exist"):
        raise ConfigError("there is no box yet; write pair_coeff behind read_data, create_box or read_restart")
    numbers_of(elements)
    types = lmp.extract_setting("ntypes")
    if len(elements) != types:
        given = " ".join(elements) or "none"
        raise ConfigError(
            f"there are {types} atom types, and elements for {len(elements)} ({given}); give each its own"
        )


def fixes_of(lmp: Any) -> dict[str, str]:
    """Styles of all fixes by their ids, which LAMMPS tells in a file."""
    handle, name = tempfile.mkstemp(prefix="mekrr-fixes-")
    os.close(handle)
    path = Path(name)
    try:
        lmp.command(f"info fixes out overwrite {path}")
        text = path.read_text(encoding="utf-8")
    finally:
        path.unlink()
    return dict(re.findall(r"^Fix\[ *\d+\]: *(\S+), *style = (\S+),", text, re.MULTILINE))


def _check_fixes(fixes: Mapping[str, str]) -> None:
    """Refuse fixes that would see forces without the model's: LAMMPS calls fixes in the order in which they came.

    Raises:
        ConfigError: there are such.
    """
    early = [f"{name} ({style})" for name, style in fixes.items() if not _EARLY.fullmatch(style)]
    if early:
        raise ConfigError(
            f"fix {', '.join(early)} would act before the model's forces are there; write pair_coeff before such fixes"
        )


def failure(error: Exception, external: External | None, running: bool) -> BaseException:
    """What to raise of an error of LAMMPS': what ended the run in the model, or what LAMMPS says.

    Args:
        running: a run (or minimisation) was under way, which is no mistake of the input.
    """
    if external is not None and external.error is not None:
        return external.error
    return SimulationError(told(error)) if running else ConfigError(told(error))
