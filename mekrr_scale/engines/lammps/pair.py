"""What the compiled pair style (pair_mekrr.cpp) asks of Python: a rank's own atoms among their ghosts."""

from __future__ import annotations

import ctypes
import os
import traceback
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from ase import Atoms
from jaxtyping import Float64, Int32, Int64
from numpy import ndarray
from scipy.spatial import cKDTree

from mekrr_scale.arrays import keep_memory
from mekrr_scale.backbones import code_is_trusted
from mekrr_scale.engines.lammps.external import numbers_of
from mekrr_scale.errors import ConfigError, MekrrError, SimulationError, StructureError
from mekrr_scale.models import (
    Images,
    Model,
    PieceResult,
    Potential,
    check_pieces,
    energy_uncertainty,
    evaluate_piece,
)
from mekrr_scale.structures import SkinList

VERSION = 3  # of the table, as in pair_mekrr.cpp
_VOIGT = ((0, 1, 2, 0, 0, 1), (0, 1, 2, 1, 2, 2))  # xx yy zz xy xz yz
CLOSE = 0.5  # angstrom; atoms that are closer are named where something is no number

_INTS, _DOUBLES = ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_double)


class Opened(ctypes.Structure):
    """What a model needs, see pair_mekrr.cpp."""

    _fields_ = [("handle", ctypes.c_int), ("hops", ctypes.c_int), ("dim", ctypes.c_int), ("cutoff", ctypes.c_double)]


class Step(ctypes.Structure):
    """A rank's atoms and what is made of them, see pair_mekrr.cpp."""

    _fields_ = [
        *((name, ctypes.c_int) for name in ("handle", "own", "all", "tag_bytes")),
        ("step", ctypes.c_int64), ("x", _DOUBLES), ("type", _INTS), ("tag", ctypes.c_void_p), ("box", _DOUBLES),
        *((name, _DOUBLES) for name in ("f", "energy", "virial", "eatom", "vatom", "grade", "features")),
    ]  # fmt: skip


_MESSAGE = (ctypes.c_void_p, ctypes.c_int)  # where an error is written, and how long it may be
_OPEN = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_char_p, *4 * (ctypes.c_int,), ctypes.POINTER(Opened), *_MESSAGE)
_COMPUTE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(Step), *_MESSAGE)
_UNCERTAINTY = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_int, _INTS, _DOUBLES, _DOUBLES, *_MESSAGE)
_CLOSE_MODEL = ctypes.CFUNCTYPE(None, ctypes.c_int)


class _Table(ctypes.Structure):
    _fields_ = [
        ("version", ctypes.c_int), ("open", _OPEN), ("compute", _COMPUTE), ("uncertainty", _UNCERTAINTY),
        ("close", _CLOSE_MODEL),
    ]  # fmt: skip


@final
class PieceModel:
    """A model and the neighbour list of one rank's atoms.

    Args:
        elements: of the atom types, in order.

    Raises:
        ConfigError: what is no element.
        ModelError: an element that the model does not know, or a model that does not take pieces (``check_pieces``).
    """

    def __init__(self, potential: Potential, elements: Sequence[str]) -> None:
        self.numbers = numbers_of(elements)
        potential.model.check_species(self.numbers[1:].tolist())
        check_pieces(potential)
        self.potential = potential
        self.neighbours = SkinList(potential.backbone.cutoff)

    def evaluate(
        self,
        positions: Float64[ndarray, "atoms 3"],
        types: Int32[ndarray, " atoms"],
        own: int,
        images: Images | None = None,
    ) -> PieceResult:
        """Energies of the first ``own`` atoms, and what they give.

        Args:
            images: if all others are images of them.

        Raises:
            StructureError: atoms on top of each other, or results that are no numbers.
        """
        atoms = Atoms(self.numbers[types], positions=positions)
        found = evaluate_piece(self.potential, self.neighbours.graph(atoms), own, images)
        if not found.finite:
            raise StructureError("energy or forces are not finite numbers; is the geometry far from all that is known?")
        return found


@final
class Connection:
    """The functions that the pair style calls, and the models that it has opened. Errors go back as texts."""

    def __init__(self) -> None:
        self._models: dict[int, PieceModel] = {}
        self._opened = 0
        self._loaded: tuple[tuple[Path, int, bool, str], Potential] | None = None
        self._functions = (
            _OPEN(self._guarded(self._open)),
            _COMPUTE(self._guarded(self._compute)),
            _UNCERTAINTY(self._guarded(self._uncertainty)),
            _CLOSE_MODEL(self._close),
        )

    def fill(self, address: int) -> None:
        """Put the functions into the table at an address, which holds good as long as this object lives."""
        table = _Table.from_address(address)
        table.open, table.compute, table.uncertainty, table.close = self._functions
        table.version = VERSION

    @staticmethod
    def _guarded(function: Callable[..., None]) -> Callable[..., int]:
        def guarded(*given: Any) -> int:
            *arguments, message, size = given
            try:
                function(*arguments)
            except BaseException as error:  # it would be lost in C
                text = " ".join(str(error).split())
                if not isinstance(error, MekrrError):
                    traceback.print_exc()
                    text = f"{type(error).__name__}: {text}"
                found = f"pair_style mekrr: {text}".encode()[: size - 1] + b"\0"
                ctypes.memmove(message, found, len(found))
                return 1
            return 0

        return guarded

    def _open(self, settings: bytes, ranks: int, uncertain: int, compiled: int, single: int, opened: Any) -> None:
        path, *elements = settings.decode().split("\n")
        _share_threads(ranks)
        model = PieceModel(self._potential(Path(path), bool(compiled), "float32" if single else "float64"), elements)
        if uncertain:
            model.potential.require_uncertainty()
        self._opened += 1
        self._models[self._opened] = model
        backbone = model.potential.backbone
        told = opened.contents
        told.handle, told.dim, told.cutoff = self._opened, backbone.dim, backbone.cutoff
        told.hops = backbone.hops(model.potential.adds_own)

    def _potential(self, path: Path, compiled: bool, dtype: str) -> Potential:
        """A model, kept for inputs that come to it again and again."""
        if not path.is_file():
            raise ConfigError(f"there is no model {path}; write pair_coeff * * MODEL ELEMENT ...")
        key = path.resolve(), path.stat().st_mtime_ns, compiled, dtype
        if self._loaded is None or self._loaded[0] != key:
            model = Model.load(path)
            _require_trust(model)
            self._loaded = key, Potential(model, dtype=dtype, compile=compiled)
        _require_trust(self._loaded[1].model)
        return self._loaded[1]

    def _compute(self, given: Any) -> None:
        step = given.contents
        if step.vatom and self._models[step.handle].potential.backbone.by_paths:
            raise ConfigError(
                "compute stress/atom: the model's network reads positions, so that atoms have no shares of the stress; "
                "leave it out (press is right)"
            )
        model, own, count = self._models[step.handle], step.own, step.all
        positions = np.ctypeslib.as_array(step.x, (count, 3)).copy()
        types = np.ctypeslib.as_array(step.type, (count,))
        try:
            found = model.evaluate(positions, types, own, _images(step))
        except StructureError as error:
            raise SimulationError(f"step {step.step}: {_blamed(positions, _ids(step)) or error}") from error
        _given(step.f, (count, 3))[:] += found.forces.numpy()
        step.energy[0] = float(found.energies.sum())
        virials = found.virials.numpy()[:, _VOIGT[0], _VOIGT[1]]
        _given(step.virial, (6,))[:] = virials.sum(0)
        if step.eatom:
            _given(step.eatom, (own,))[:] += found.energies.numpy()
        if step.vatom:
            _given(step.vatom, (count, 6))[:] += virials
        if step.grade:
            numbers = torch.from_numpy(model.numbers[types[:own]])
            variances = model.potential.variances.atoms(found.features, numbers)
            _given(step.grade, (own,))[:] = model.potential.variances.grades(variances, numbers).numpy()
            _given(step.features, found.features.shape)[:] = found.features.numpy()

    def _uncertainty(self, handle: int, count: int, types: Any, features: Any, told: Any) -> None:
        model = self._models[handle]
        numbers = torch.from_numpy(model.numbers[np.ctypeslib.as_array(types, (count,))])
        values = torch.from_numpy(_given(features, (count, model.potential.backbone.dim)).copy())
        told[0] = energy_uncertainty(model.potential.variances, values, numbers)

    def _close(self, handle: int) -> None:
        self._models.pop(handle, None)


def _require_trust(model: Model) -> None:
    """Code out of files is run on a word that inputs of LAMMPS do not have.

    Raises:
        ConfigError: the model's network is such a file, and nobody has trusted it.
    """
    if model.weights is None and model.spec.get("sha256") and not code_is_trusted():
        raise ConfigError(
            f"the model's network {model.spec.get('checkpoint')} holds code, and lmp has no word to trust it; execute "
            "the input by `mekrr-scale lammps run --trust-code`, or in Python, within trusting_code() of "
            "mekrr_scale.backbones"
        )


def _given(pointer: Any, shape: tuple[int, ...]) -> Float64[ndarray, "..."]:
    return np.ctypeslib.as_array(pointer, tuple(shape))


def _ids(step: Any) -> Int64[ndarray, " atoms"] | None:
    if not step.tag:
        return None
    kind = ctypes.c_int64 if step.tag_bytes == 8 else ctypes.c_int32
    return np.ctypeslib.as_array(ctypes.cast(step.tag, ctypes.POINTER(kind)), (step.all,)).astype(np.int64)


def _images(step: Any) -> Images | None:
    """Of one rank's atoms, found by their ids."""
    ids = _ids(step)
    if not step.box or ids is None:
        return None
    x, y, z, yz, xz, xy = _given(step.box, (6,)).tolist()
    order = np.argsort(ids[: step.own])
    found = order[np.searchsorted(ids[: step.own], ids, sorter=order)]
    return Images(torch.from_numpy(found), torch.tensor([[x, 0, 0], [xy, y, 0], [xz, yz, z]], dtype=torch.float64))


def _blamed(positions: Float64[ndarray, "atoms 3"], ids: Int64[ndarray, " atoms"] | None) -> str:
    """The atoms that overlap, or that are nowhere, by their ids."""
    named = np.arange(1, len(positions) + 1) if ids is None else ids
    nowhere = np.flatnonzero(~np.isfinite(positions).all(1))
    if len(nowhere):
        return f"the position of atom {named[nowhere[0]]} is not finite"
    distance, nearest = cKDTree(positions).query(positions, k=min(2, len(positions)))
    if len(positions) < 2 or distance[:, 1].min() > CLOSE:
        return ""
    first = int(distance[:, 1].argmin())
    a, b = sorted((int(named[first]), int(named[nearest[first, 1]])))
    return f"atoms {a} and {b} overlap ({distance[first, 1]:.3f} angstrom apart)"


def _share_threads(ranks: int) -> None:
    """Ranks share the cores of a machine, unless the user says how many threads each has."""
    if ranks > 1 and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // ranks))


@lru_cache(maxsize=1)
def _connection() -> Connection:
    return Connection()


def connect(address: int, version: int) -> None:
    """What the plugin calls first: fill its table.

    Raises:
        ConfigError: the plugin was built with another version of this package.
    """
    if version != VERSION:
        raise ConfigError("the plugin is of another version of mekrr-scale; run mekrr-scale lammps build again")
    keep_memory()  # for lmp does nothing else
    _connection().fill(address)
