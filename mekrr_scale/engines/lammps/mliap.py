"""A fitted model as LAMMPS' ``pair_style mliap unified``: on any number of ranks, and on GPUs by Kokkos.

LAMMPS hands over pairs of atoms with their vectors, and takes forces on its own atoms and on their ghosts, which
it sends home. Ghosts come from as far away as the network reaches, as in ``pair.py``. LAMMPS' class
``lammps.mliap.mliap_unified_abc.MLIAPUnified`` is not inherited: whatever offers the same will do there, and a file of
the model is then read without LAMMPS.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, final

import torch
from ase.data import chemical_symbols
from jaxtyping import Int64
from torch import Tensor

from mekrr_scale.backbones import code_is_trusted
from mekrr_scale.engines.lammps.external import numbers_of
from mekrr_scale.engines.lammps.pair import CLOSE
from mekrr_scale.errors import ConfigError, StructureError
from mekrr_scale.files import replacing
from mekrr_scale.models import Potential, check_pieces, evaluate_piece
from mekrr_scale.outputs import MLIAP, check_output
from mekrr_scale.structures import Graph

_COINCIDENT = 1e-3  # angstrom; atoms that are closer are refused, whatever the network makes of them
_SKIN = 2.0  # angstrom; LAMMPS' own of units metal
_VIRIAL_PAIR, _VIRIAL_ATOM, _VIRIAL_CENTROID = 1, 4, 8  # LAMMPS' force.h


@final
class MliapModel:
    """A model as LAMMPS' ML-IAP takes it; energies and forces are computed where LAMMPS' arrays lie.

    A pickle of it holds the place of the model's file, which is read again where LAMMPS runs.

    Args:
        model: a model's file.
        elements: that ``pair_coeff`` may name; default: all that the model was fitted on.
        dtype: precision of the backbone.
        trust_code, compile: see ``Potential``.

    Attributes:
        element_types: their symbols; LAMMPS maps its atom types to them by name.
        rcutfac: half of the network's cutoff (angstrom), of which LAMMPS takes the double.
        reach: how far ghost atoms must come from (angstrom).

    Raises:
        ConfigError: no such file, or what is no element.
        ModelError: an element that the model was not fitted on, or a model that does not take pieces
            (``check_pieces``).
    """

    def __init__(
        self,
        model: Path | str,
        elements: Sequence[str] | None = None,
        dtype: Literal["float64", "float32"] = "float64",
        trust_code: bool = False,
        compile: bool = False,
    ) -> None:
        self.model, self.dtype, self.compile = Path(model).resolve(), dtype, compile
        self.trust_code = trust_code or code_is_trusted()
        self._potential: Potential | None = None
        potential = self._loaded("cpu")
        species = [chemical_symbols[z] for z in potential.model.species]
        self.element_types = list(species if elements is None else elements)
        self._numbers = torch.from_numpy(numbers_of(self.element_types)[1:])
        potential.model.check_species(self._numbers.tolist())
        backbone = potential.backbone
        self.layers, self.cutoff = max(backbone.hops(potential.adds_own), 1), backbone.cutoff
        self.reach = self.layers * self.cutoff
        # what LAMMPS asks for
        self.interface: object = None
        self.ndescriptors = self.nparams = 1
        self.rcutfac = 0.5 * self.cutoff

    def __repr__(self) -> str:
        return f"MliapModel of {self.model}: {' '.join(self.element_types)}, reach {self.reach:g} A"

    def __getstate__(self) -> dict[str, object]:
        return vars(self) | {"_potential": None, "interface": None}

    def _loaded(self, device: str) -> Potential:
        if self._potential is None or self._potential.device != device:
            if not self.model.is_file():
                raise ConfigError(f"there is no model {self.model}; export it again from where it is now")
            self._potential = Potential(self.model, None, self.dtype, device, self.compile, trust_code=self.trust_code)
            check_pieces(self._potential)
        return self._potential

    def save(self, path: Path | str, overwrite: bool = False) -> None:
        """Write what ``pair_style mliap unified`` loads.

        It is a plain pickle. LAMMPS takes names that end with ``.pt`` for files of torch's, which some of its versions
        cannot read with the torch of today.

        Args:
            path: ends with ``.mliap``.
            overwrite: a file that is there and no such pickle may be replaced.

        Raises:
            ConfigError: the file must not be written.
        """
        with replacing(check_output(Path(path), MLIAP, overwrite)) as temporary:
            Path(temporary).write_bytes(pickle.dumps(self))

    def commands(self, path: Path | str) -> str:
        """The lines of a LAMMPS input that load a file of it."""
        return (
            f"comm_modify cutoff {self.reach + _SKIN:g}  # {self.layers} layers x {self.cutoff:g} A, and a skin of "
            f"{_SKIN:g} A\npair_style mliap unified {path} 1\npair_coeff * * {' '.join(self.element_types)}"
        )

    def compute_descriptors(self, data: object) -> None:
        """Nothing: LAMMPS calls it before ``compute_forces``."""

    def compute_gradients(self, data: object) -> None:
        """Nothing: LAMMPS calls it before ``compute_forces``."""

    def compute_forces(self, data: Any) -> None:
        """Energies of a rank's own atoms, and forces on them and on ghosts.

        Args:
            data: LAMMPS' ``MLIAPDataPy``, of its plain or its Kokkos build: ``nlistatoms``, ``ntotal``, ``iatoms``,
                ``elems``, ``pair_i``, ``pair_j``, ``rij``, ``vflag``; ``f``, ``eatoms`` and ``energy`` are written.

        Raises:
            ConfigError: pairs of ghosts are absent, or atoms' shares of the virial are asked for.
            StructureError: atoms on top of each other, or results that are no numbers.
        """
        if data.nlistatoms == 0:
            data.energy = 0.0
            return
        _check_virial(data.vflag)
        forces = torch.as_tensor(data.f)  # LAMMPS' own memory, as are all of these
        if forces.is_cuda:
            torch.cuda.synchronize(forces.device)  # Kokkos fills its arrays on streams that torch's does not wait for
        potential = self._loaded(str(forces.device))
        order, graph = _graph(data, self._numbers)
        own = int(data.nlistatoms)
        _check_ghosts(graph, own)
        _check_distances(graph, _COINCIDENT)
        found = evaluate_piece(potential, graph, own)
        if not found.finite:
            _check_distances(graph, CLOSE)
            raise StructureError("energy or forces are not finite numbers; is the geometry far from all that is known?")
        forces.index_add_(0, order, found.forces.to(forces.device))
        kept = getattr(data, "eatoms", None)  # Kokkos lets its array be filled, the plain build lets it be set
        if kept is None:
            data.eatoms = found.energies.numpy()
        else:
            torch.as_tensor(kept).copy_(found.energies)
        data.energy = float(found.energies.sum())
        if forces.is_cuda:
            torch.cuda.current_stream(forces.device).synchronize()  # nor do Kokkos' wait for torch's


def _graph(data: Any, numbers: Int64[Tensor, " elements"]) -> tuple[Int64[Tensor, " atoms"], Graph]:
    """LAMMPS' atoms in the order of the graph, own ones first, and the graph of its pairs.

    Vectors stand in it as shifts of a unit cell: positions are not told.
    """
    listed, elements = torch.as_tensor(data.iatoms)[: data.nlistatoms].long(), torch.as_tensor(data.elems).long()
    others = torch.ones(data.ntotal, dtype=torch.bool, device=listed.device)
    others[listed] = False
    order = torch.cat([listed, others.nonzero()[:, 0]])
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    pairs = torch.stack([torch.as_tensor(data.pair_i), torch.as_tensor(data.pair_j)]).long()
    vectors = torch.as_tensor(data.rij)
    return order, Graph(
        numbers=numbers.to(order.device)[elements[order]],
        positions=vectors.new_zeros(len(order), 3),
        cell=torch.eye(3, dtype=vectors.dtype, device=vectors.device)[None],
        edge_index=place[pairs],
        shifts=vectors,
        owner=torch.zeros_like(order),
        edge_owner=torch.zeros_like(pairs[0]),
    )


def _check_virial(flag: int) -> None:
    """Refuse what LAMMPS would get wrong: it takes the virial from positions and forces, ghosts' included.

    Raises:
        ConfigError: the virial is asked for pair by pair, or atom by atom.
    """
    if flag & (_VIRIAL_ATOM | _VIRIAL_CENTROID):
        raise ConfigError(
            "atoms' shares of the stress are not told to ML-IAP: leave out compute stress/atom and the like, or take "
            "pair_style mekrr (mekrr-scale lammps build), which has them"
        )
    if flag & _VIRIAL_PAIR:
        raise ConfigError(
            "the virial is asked for pair by pair, as beside some styles of pair_style hybrid, and is not told so to "
            "ML-IAP; take pair_style mekrr (mekrr-scale lammps build)"
        )


def _check_ghosts(graph: Graph, own: int) -> None:
    """Layers behind the first one need pairs that begin at ghosts.

    Raises:
        ConfigError: there are ghosts, and no such pairs.
    """
    centre, neighbour = graph.edge_index
    if bool((neighbour >= own).any()) and not bool((centre >= own).any()):
        raise ConfigError(
            "pairs that begin at ghost atoms are absent: write pair_style mliap unified FILE 1, and comm_modify "
            "cutoff as mekrr-scale export has said"
        )


def _check_distances(graph: Graph, least: float) -> None:
    """Networks give no numbers for atoms on top of each other, or worse, numbers.

    Args:
        least: angstrom.

    Raises:
        StructureError: atoms are closer.
    """
    lengths = graph.shifts.norm(dim=1)
    if len(lengths) and float(lengths.min()) < least:
        raise StructureError(f"two atoms overlap ({float(lengths.min()):.3f} angstrom apart)")
