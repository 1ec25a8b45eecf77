"""Any model of metatomic that gives features of atoms, as a backbone: PET and others, exported as one file.

https://docs.metatensor.org/metatomic. A file holds a network as TorchScript, which is code. Systems are made from our
graphs; their neighbour lists hold the edges' vectors, and their positions and cells are functions of these
(``unfolding``), since some models read the ones (this package's exports), some the others (PET).
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mekrr_scale.backbones.base import Backbone
from mekrr_scale.backbones.derivatives import Reversed
from mekrr_scale.backbones.output import BackboneOutput
from mekrr_scale.backbones.spec import Architecture
from mekrr_scale.backbones.surroundings import evaluating
from mekrr_scale.backbones.trust import require_trust
from mekrr_scale.backbones.unfolding import unfolded
from mekrr_scale.errors import BackboneError, suggestion
from mekrr_scale.files import file_hash
from mekrr_scale.structures import Graph

_OLD, _NEW = "features", "feature"  # what the output is called in older files, and in others


@final
class Metatomic(Backbone):
    """The features that an exported model of metatomic gives of atoms, and its energies of atoms if it has them.

    Args:
        checkpoint: the model's file (``.pt``), which holds code and is read only if the user trusts it.
        layer: the output, ``feature`` (default) or ``feature/VARIANT``.
        version: the variant of the energy, of a model with several; default: the one without a name.

    Raises:
        BackboneError: metatomic is not installed, no such file, not a model of metatomic, no such output, features that
            are not of atoms, not differentiable, or that depend on all atoms of a structure.
    """

    name = "metatomic"
    scripted = True

    def __init__(self, checkpoint: str | Path, layer: str = _NEW, version: str | None = None) -> None:
        path = Path(checkpoint)
        network = _load(path)
        self.coded = True
        self.module = _Scripted(network)
        capabilities = network.capabilities()
        outputs = capabilities.outputs
        self.layer = _chosen(layer, outputs, path)
        self._energy = _energy_of(version, outputs, path)
        self.version = version or network.metadata().name or "exported"
        self.options = (("file", file_hash(path, "sha256")),)  # which is more than the tensors that weights are
        self.species = frozenset(capabilities.atomic_types)
        inputs = network.requested_inputs(use_new_names=True)
        if inputs:
            raise BackboneError(
                f"{path} takes inputs besides the geometry: {', '.join(sorted(inputs))}; take a model without"
            )
        self._lists = network.requested_neighbor_lists()
        reach = float(capabilities.engine_interaction_range("angstrom"))
        if not math.isfinite(reach):
            raise BackboneError(
                f"the features of {path} depend on all atoms of a structure (its interaction range is infinite); "
                "a backbone's depend on what is near: take a model without long-range parts"
            )
        self.cutoff = max([one.engine_cutoff("angstrom") for one in self._lists], default=reach)
        if not self.cutoff > 0:
            raise BackboneError(f"the features of {path} depend on no other atoms (its interaction range is zero)")
        self._hops = max(1, math.ceil(reach / self.cutoff - 1e-6))
        self.dim, self.by_paths = self._probed(path)

    @property
    def has_energy(self) -> bool:
        return self._energy is not None

    def config(self) -> Architecture:
        self._refuse("is not taken into other files; keep its own where it is")

    def fresh(self) -> nn.Module:
        self._refuse("cannot be built anew, nor trained; train it with the program that it comes from, and export it")

    def species_rows(self, z: int) -> Sequence[Tensor]:
        self._refuse("does not tell the weights of one element")

    def blocks(self) -> dict[str, Sequence[nn.Module]]:
        return {"readout": [self.module]}

    def hops(self, energies: bool) -> int:
        return self._hops

    def prepare(self, graph: Graph) -> Graph:
        return graph

    def on_edges(self, graph: Graph, vectors: Float[Tensor, "edges 3"], energies: bool = True) -> BackboneOutput:
        if not self.by_paths:
            return self._output(graph, vectors, graph.positions, graph.cell, energies)
        geometry = unfolded(graph, vectors)
        return self._output(graph, vectors, geometry.positions, geometry.cell, energies)

    def linearize(self, graph: Graph) -> Reversed:
        """By reverse mode: TorchScript has no other."""
        return Reversed(self, graph)

    def _refuse(self, what: str) -> NoReturn:
        raise BackboneError(f"backbone metatomic holds its network as compiled code, which {what}")

    def _output(self, graph: Graph, vectors: Tensor, positions: Tensor, cell: Tensor, energies: bool) -> BackboneOutput:
        """In the precision that the file has; what comes back is in that of the vectors."""
        from metatomic.torch import ModelEvaluationOptions, ModelOutput

        network: Any = self.module.network
        wanted = {self.layer: ModelOutput(sample_kind="atom")}
        if energies and self._energy is not None:
            wanted[self._energy] = ModelOutput(unit="eV", sample_kind="atom")
        options = ModelEvaluationOptions(length_unit="angstrom", outputs=wanted)
        dtype = getattr(torch, network.capabilities().dtype)
        systems = self._systems(graph, vectors.to(dtype), positions.to(dtype), cell.to(dtype))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of names that are to go
            found = network(systems, options, False)
        features = self._of_atoms(graph, found[self.layer], self.layer).to(vectors.dtype)
        if self._energy is None or not energies:
            return BackboneOutput(features, None)
        own = self._of_atoms(graph, found[self._energy], self._energy)
        return BackboneOutput(features, own[:, 0].to(vectors.dtype))

    def _systems(self, graph: Graph, vectors: Tensor, positions: Tensor, cell: Tensor) -> list[Any]:
        from metatensor.torch import Labels, TensorBlock
        from metatomic.torch import System

        device = vectors.device
        names = ["first_atom", "second_atom", "cell_shift_a", "cell_shift_b", "cell_shift_c"]
        axes = Labels(["xyz"], torch.arange(3, dtype=torch.int32, device=device)[:, None])
        distance = Labels(["distance"], torch.zeros(1, 1, dtype=torch.int32, device=device))
        shifts = graph.shifts.round().to(torch.int32)
        first, found = 0, []
        for structure, count in enumerate(graph.n_atoms.tolist()):
            edges = (graph.edge_owner == structure).nonzero()[:, 0]
            periodic = (shifts[edges] != 0).any(0)  # other directions have no edges through them
            system = System(
                types=graph.numbers[first : first + count].to(torch.int32),
                positions=positions[first : first + count],
                cell=cell[structure] * periodic[:, None],
                pbc=periodic,
            )
            samples = torch.cat([(graph.edge_index[:, edges].T - first).to(torch.int32), shifts[edges]], 1)
            for options in self._lists:
                kept = _kept(samples, vectors[edges].detach(), options)
                block = TensorBlock(
                    vectors[edges[kept], :, None], Labels(names, samples[kept], assume_unique=True), [axes], distance
                )
                system.add_neighbor_list(options, block)
            found.append(system)
            first += count
        return found

    def _of_atoms(self, graph: Graph, found: Any, output: str) -> Float[Tensor, "atoms values"]:
        """In the graph's order."""
        if len(found) != 1 or found.block().samples.names != ["system", "atom"] or found.block().components:
            raise BackboneError(f"{output!r} of {self.version} is not one table of atoms, as metatomic has it")
        block = found.block()
        place = block.samples.values.to(torch.int64)
        begin = torch.cumsum(graph.n_atoms, 0) - graph.n_atoms
        row = begin[place[:, 0]] + place[:, 1]
        values: Tensor = block.values
        return values.new_zeros(len(graph.numbers), values.shape[1]).index_copy(0, row, values)

    def _probed(self, path: Path) -> tuple[int, bool]:
        """How many features there are, and whether they are functions of positions rather than of edges' vectors."""
        side = 0.8 * self.cutoff
        graph = Graph(
            numbers=torch.full((1,), min(self.species)),
            positions=torch.zeros(1, 3, dtype=torch.float64),
            cell=side * torch.eye(3, dtype=torch.float64)[None],
            edge_index=torch.zeros(2, 6, dtype=torch.int64),
            shifts=torch.cat([torch.eye(3, dtype=torch.float64), -torch.eye(3, dtype=torch.float64)]),
            owner=torch.zeros(1, dtype=torch.int64),
            edge_owner=torch.zeros(6, dtype=torch.int64),
        ).to(self.device, torch.float64)
        with evaluating():
            inputs = [graph.shifts @ graph.cell[0], graph.positions.clone(), graph.cell.clone()]
            vectors, positions, cell = (one.detach().requires_grad_(True) for one in inputs)
            features = self._output(graph, vectors, positions, cell, energies=False).features
            if not features.requires_grad:
                raise BackboneError(
                    f"{self.layer!r} of {path} has no derivatives, so that a model would have no forces"
                )
            slopes = torch.autograd.grad(
                features.square().sum(), [vectors, positions, cell], allow_unused=True, materialize_grads=True
            )
        return features.shape[1], bool(slopes[1].any() or slopes[2].any())


@final
class _Scripted(nn.Module):
    """A network in its own precision, whatever is asked for: what it takes and gives is converted instead."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        dtype = getattr(torch, network.capabilities().dtype)
        self.asked = nn.Parameter(torch.zeros(0, dtype=dtype), requires_grad=False)  # the precision, and the device
        self.network = network

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> _Scripted:
        self.asked.data = fn(self.asked.data)
        self.network.to(self.asked.device)
        return self

    def __reduce__(self) -> tuple[Callable[[bytes, torch.dtype], _Scripted], tuple[bytes, torch.dtype]]:
        """Copies and pickles: of code that this process has run."""
        buffer = io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch announces that TorchScript is to go
            torch.jit.save(torch.jit.script(self.network), buffer)
        return _restored, (buffer.getvalue(), self.asked.dtype)


def _restored(code: bytes, dtype: torch.dtype) -> _Scripted:
    from metatomic.torch import AtomisticModel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces that TorchScript is to go
        network = torch.jit.load(io.BytesIO(code))
        return _Scripted(AtomisticModel(network, network.metadata(), network.capabilities())).to(dtype=dtype)


def _load(path: Path) -> Any:
    try:
        from metatomic.torch import load_atomistic_model
    except ImportError as error:
        raise BackboneError("backbone metatomic needs metatomic: pip install 'mekrr-scale[metatomic]'") from error
    if not path.is_file():
        raise BackboneError(f"there is no checkpoint {path}; export a model of metatomic first")
    require_trust(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of names that are to go
            return load_atomistic_model(path).eval()
    except Exception as error:
        raise BackboneError(f"{path} is not a model that metatomic can read: {error}") from error


def _named(output: str) -> str:
    """By its present name."""
    kind, slash, variant = output.partition("/")
    return f"{_NEW if kind == _OLD else kind}{slash}{variant}"


def _chosen(layer: str, outputs: dict[str, Any], path: Path) -> str:
    """The output that is asked for.

    Raises:
        BackboneError: there is none, or not of atoms.
    """
    known = [name for name in outputs if name.partition("/")[0] == _NEW]  # those of old names are there by both
    if not known:
        raise BackboneError(
            f"{path} gives no features; its outputs are {', '.join(sorted(outputs))}. Export it with the output "
            "'feature'"
        )
    if _named(layer) not in known:
        raise BackboneError(f"{path} has no output {layer!r}. {suggestion(layer, known)}")
    found = _named(layer)
    if outputs[found].sample_kind != "atom":
        raise BackboneError(f"{layer!r} of {path} is of whole structures; a backbone's features are of atoms")
    return found


def _energy_of(variant: str | None, outputs: dict[str, Any], path: Path) -> str | None:
    """The output of energies, if it is of atoms.

    Raises:
        BackboneError: no such variant.
    """
    name = "energy" if variant is None else f"energy/{variant}"
    if name in outputs:
        return name if outputs[name].sample_kind == "atom" else None
    if variant is not None:
        known = [output.partition("/")[2] for output in outputs if output.startswith("energy/")]
        raise BackboneError(f"{path} has no energies of variant {variant!r}. {suggestion(variant, known)}")
    return None


def _kept(samples: Tensor, vectors: Float[Tensor, "edges 3"], options: Any) -> Tensor:
    """Which pairs a list has: within its cutoff, and of each pair one end if it is half a list."""
    kept: Tensor = vectors.square().sum(1) < options.engine_cutoff("angstrom") ** 2
    if options.full_list:
        return kept
    first, second, a, b, c = samples.unbind(1)
    upward = (a > 0) | ((a == 0) & ((b > 0) | ((b == 0) & (c > 0))))
    kept &= (first < second) | ((first == second) & upward)
    return kept
