"""How much memory a network takes for a structure, and on how many edges it may work at once within a bound.

Nothing is known of a network beforehand: on a few of the structure's atoms it is run twice, at once and in chunks, and
what it keeps for derivatives is counted, by atom and by edge. With that of all atoms and edges,

    at once:    whole = 2 (n_atoms a + n_edges e)
    in chunks:  held + 4 at_once e,  held = 2 (n_atoms a' + n_edges e')

where a and e are bytes of atoms and edges at once, a' and e' those in chunks. The factors are for gradients and for
what is soon forgotten: measured, SevenNet took 1.9 times what it kept (its own energies included, 1.4), CHGNet 1.6.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Bool
from torch import Tensor

from mekrr_scale.arrays import free_kept
from mekrr_scale.backbones.base import Backbone
from mekrr_scale.backbones.surroundings import evaluating
from mekrr_scale.errors import BackboneError
from mekrr_scale.structures import Graph, edge_vectors

_MOST = 2**18  # bytes that no network is known to keep for an edge: fewer edges than fill the bound need no trial
_WHOLE, _CHUNK = 2.0, 4.0  # what is taken over what is kept
_TRIED = 16  # atoms of a trial
_FEWEST = 2**9  # edges at once: with fewer, time goes into overheads
_SHARE = 0.5  # of the free memory that may be taken where no bound is stated
_MB = 1e6


@dataclass(frozen=True)
class _Kept:
    """Bytes that a network keeps for derivatives."""

    atom: float  # for each atom
    edge: float  # for each edge

    def of(self, graph: Graph) -> float:
        return self.atom * len(graph.numbers) + self.edge * graph.edge_index.shape[1]


def within_memory(backbone: Backbone, graph: Graph, energies: bool, max_memory: int | None = None) -> Graph:
    """The graph, to be worked on in chunks (``at_once``) if all of it at once would take too much memory.

    Args:
        graph: on the backbone's device.
        energies: whether the network's own energies are asked for, too.
        max_memory: bytes that it may take; by default half of what is free on the device, and then what does not fit
            is tried all the same.

    Raises:
        BackboneError: more than ``max_memory`` is needed in chunks, too, or the backbone does not work in chunks.
    """
    edges = graph.edge_index.shape[1]
    if edges <= _FEWEST or (max_memory is None and not backbone.in_chunks):
        return graph
    free = free_memory(backbone.device) if max_memory is None else max_memory
    bound = math.inf if free is None else free * (_SHARE if max_memory is None else 1.0)
    if edges * _MOST < bound:
        return graph
    part = _sample(graph)
    whole = _kept(backbone, part, energies)
    needed = _WHOLE * whole.of(graph)
    if needed < bound:
        return graph
    if not backbone.in_chunks:
        raise BackboneError(
            f"{len(graph.numbers)} atoms at once would take about {needed / _MB:.0f} MB, more than the "
            f"{bound / _MB:.0f} MB of max_memory, and backbone {backbone.name} does not work in chunks; give a larger "
            "--max-memory, a smaller cell, or take a model of another backbone (schnet, sevennet, chgnet)"
        )
    held = _WHOLE * _kept(backbone, replace(part, at_once=part.edge_index.shape[1]), energies).of(graph)
    each = _CHUNK * whole.edge  # bytes of an edge that is worked on
    at_once = int((bound - held) / each)
    if at_once < _FEWEST and max_memory is not None:
        least = held + _FEWEST * each
        raise BackboneError(
            f"{len(graph.numbers)} atoms with {edges} neighbours take about {least / _MB:.0f} MB, in chunks too, more "
            f"than the {bound / _MB:.0f} MB of max_memory; give --max-memory {math.ceil(least / _MB)}MB, or a smaller "
            "cell"
        )
    return replace(graph, at_once=max(at_once, _FEWEST))


def _sample(graph: Graph) -> Graph:
    """Some atoms, spread over all, with the edges that begin at them."""
    chosen = torch.linspace(0, len(graph.numbers) - 1, _TRIED, device=graph.numbers.device).round().long()
    own: Bool[Tensor, " atoms"] = torch.zeros_like(graph.numbers, dtype=torch.bool)
    own[chosen] = True
    part = graph.with_edges(own[graph.edge_index[0]].nonzero()[:, 0])
    own[part.edge_index.flatten()] = True
    return part.with_atoms(own)


def _kept(backbone: Backbone, graph: Graph, energies: bool) -> _Kept:
    """What a pass over a graph keeps; weights do not count."""
    atoms, edges = len(graph.numbers), max(graph.edge_index.shape[1], 1)
    weights = {weight.untyped_storage().data_ptr() for weight in backbone.module.parameters()}
    found: dict[int, tuple[int, bool]] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            found[storage.data_ptr()] = storage.nbytes(), len(tensor) == atoms if tensor.dim() else False
        return tensor

    with evaluating(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        vectors = edge_vectors(graph, graph.positions).detach().requires_grad_(True)
        output = backbone.on_edges(graph, vectors, energies)
    sizes = [sum(size for size, of_atoms in found.values() if of_atoms is kind) for kind in (True, False)]
    del output  # until here, so that no place in memory was used twice
    return _Kept(sizes[0] / max(atoms, 1), sizes[1] / edges)


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be had; None where the system does not tell."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + cached
    if device.type != "cpu":
        return None
    lines = _lines(Path("/proc/meminfo"))
    found = [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable")]
    least = min([*found, *_group_limits()], default=None)
    return None if least is None else least + free_kept()


def _group_limits() -> list[int]:
    """What the job's control groups (version 2: batch systems, containers) leave of their limits."""
    named = [line.partition("::")[2] for line in _lines(Path("/proc/self/cgroup")) if line.startswith("0::")]
    found = []
    for folder in [place for name in named for place in (Path(name), *Path(name).parents)]:
        group = Path("/sys/fs/cgroup") / str(folder).lstrip("/")
        limit, used = _lines(group / "memory.max"), _lines(group / "memory.current")
        if limit and used and limit[0].isdigit():
            cached = [
                int(line.split()[1]) for line in _lines(group / "memory.stat") if line.startswith("inactive_file")
            ]
            found.append(max(int(limit[0]) - int(used[0]) + sum(cached), 0))
    return found


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").splitlines()
    except OSError:
        return []
