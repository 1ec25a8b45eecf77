"""SevenNet's messages: the package's products beside those of e3nn's own code, in one process that takes turns.

Features, forces, and a step of training (the square of the forces by all weights), which differentiates twice. Best of
some turns, in seconds of the processor, one thread. No data are needed: crystals are made here.

    python -m benchmarks messages
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks.compiled import crystal
from benchmarks.measuring import cpu_seconds, table
from mekrr_scale.backbones import Backbone, evaluating, load_backbone
from mekrr_scale.backbones.messages import Coupling
from mekrr_scale.structures import Graph

CASES = (  # weights, precision, and cells of eight atoms
    ("7net-0", torch.float32, (2, 2, 2)),
    ("7net-0", torch.float32, (5, 5, 1)),
    ("7net-0", torch.float64, (2, 2, 2)),
    ("7net-l3i5", torch.float32, (2, 2, 2)),
)
TURNS = 4  # the first one of each fills memory


def features(backbone: Backbone, graph: Graph) -> Tensor:
    with torch.no_grad():
        return backbone.forward(graph, graph.positions, energies=False).features


def forces(backbone: Backbone, graph: Graph) -> Tensor:
    return _slopes(backbone, graph, again=False)


def training(backbone: Backbone, graph: Graph) -> Tensor:
    weights = list(backbone.module.parameters())
    for weight in weights:
        weight.requires_grad_(True)
    squares = _slopes(backbone, graph, again=True).square().sum()
    found = torch.autograd.grad(squares, weights, allow_unused=True, materialize_grads=True)
    for weight in weights:
        weight.requires_grad_(False)
    return torch.cat([each.flatten() for each in found])


def _slopes(backbone: Backbone, graph: Graph, again: bool) -> Tensor:
    positions = graph.positions.clone().requires_grad_(True)
    energy = backbone.forward(graph, positions).energy(graph).sum()
    found: Tensor = torch.autograd.grad(energy, positions, create_graph=again)[0]
    return found


Work = Callable[[Backbone, Graph], Tensor]
WORKS: dict[str, Work] = {"features": features, "forces": forces, "training step": training}


def main() -> None:
    torch.set_num_threads(1)
    rows: list[list[object]] = []
    for version, dtype, cell in CASES:
        ours = load_backbone("sevennet", version=version).to(dtype=dtype)
        graph = ours.graph(crystal(cell, 5.43))
        with patch.object(Coupling, "of", return_value=None):  # the network's own product is taken where there is none
            own = load_backbone("sevennet", version=version).to(dtype=dtype)
        for name, work in WORKS.items():
            before, after, off = compared(partial(work, own, graph), partial(work, ours, graph))
            precision = str(dtype).removeprefix("torch.")
            rows.append([version, precision, len(graph.numbers), name, before, after, before / after, f"{off:.0e}"])
    table(["weights", "precision", "atoms", "work", "e3nn, ms", "ours, ms", "ratio", "off by"], rows)


def compared(*ways: Callable[[], Tensor]) -> tuple[float, float, float]:
    """Best ms of the processor of two ways that take turns, and how far the second is off, of the largest value."""
    times: list[list[float]] = [[], []]
    found = [torch.zeros(()), torch.zeros(())]
    for _ in range(TURNS):
        for place, way in enumerate(ways):
            with evaluating():
                begin = cpu_seconds()
                found[place] = way()
                times[place].append(cpu_seconds() - begin)
    before, after = (1e3 * min(each) for each in times)
    return before, after, float((found[1] - found[0]).abs().max() / found[0].abs().max())


if __name__ == "__main__":
    main()
