"""A network with the gradient of its features: as it is, by torch.compile, by AOTInductor from a file.

Each way is tried in processes of its own, one after the other, with one thread: the first one has nothing compiled yet,
the second finds what the first has left on the disk. Start-up is what the first calls take beyond later ones. Everything is
in seconds of the processor, the compiler's included: others on the machine hardly count. No data are needed: crystals
of several sizes and densities are made here, for which nothing is compiled again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from ase import Atoms
from ase.build import bulk
from torch import Tensor

from benchmarks.measuring import cpu_seconds, table
from mekrr_scale.backbones import Backbone, BackboneOutput, Compiled, load_backbone
from mekrr_scale.structures import Graph, edge_vectors

NETWORKS = ("sevennet", "chgnet")
WAYS = ("as it is", "torch.compile", "AOTInductor")
CELLS = (((2, 2, 2), 5.43), ((2, 2, 2), 4.9), ((5, 5, 1), 5.43))  # of eight atoms, and their edge (angstrom)
_REPEATS = 7

Gradient = Callable[[Graph], tuple[Tensor, Tensor]]


def crystal(repeats: tuple[int, int, int], length: float) -> Atoms:
    """Silicon with atoms off their places; a shorter lattice has more edges."""
    atoms = bulk("Si", "diamond", length, cubic=True).repeat(repeats)
    atoms.rattle(0.05, seed=0)
    return atoms


def by_autograd(network: Callable[..., BackboneOutput]) -> Gradient:
    """Features, and the gradient of half their squares by the edges' vectors."""

    def found(graph: Graph) -> tuple[Tensor, Tensor]:
        vectors = edge_vectors(graph, graph.positions).detach().requires_grad_(True)
        features = network(graph, vectors, False).features
        (slope,) = torch.autograd.grad(features, vectors, features.detach())
        return features.detach(), slope

    return found


def exported(backbone: Backbone, example: Graph, path: Path) -> None:
    """Write network and gradient for any numbers of atoms and edges; the elements' indices are among the inputs.

    Raises:
        Exception: whatever torch raises about a network that cannot be exported.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    def both(numbers: Tensor, edges: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
        nothing = vectors.new_zeros
        graph = Graph(
            numbers, nothing(numbers.shape[0], 3), example.cell, edges, 0 * vectors, 0 * numbers, 0 * edges[0]
        )
        features, pull = torch.func.vjp(lambda moved: backbone.on_edges(graph, moved, False).features, vectors)
        return features, pull(features)[0]

    inputs = _inputs(example)
    traced = make_fx(both, tracing_mode="symbolic", _allow_non_fake_inputs=True)(*inputs)
    atoms, edges = torch.export.Dim("atoms", min=2), torch.export.Dim("edges", min=2)
    shapes = ({0: atoms}, {1: edges}, {0: edges})
    program = torch.export.export(traced, inputs, dynamic_shapes=shapes)
    torch._inductor.aoti_compile_and_package(program, package_path=str(path))


def _inputs(graph: Graph) -> tuple[Tensor, Tensor, Tensor]:
    return graph.numbers, graph.edge_index, edge_vectors(graph, graph.positions)


def of_file(path: Path) -> Gradient:
    """What ``exported`` has written."""
    package = torch._inductor.aoti_load_package(str(path))

    def found(graph: Graph) -> tuple[Tensor, Tensor]:
        features, slope = package(*_inputs(graph))
        return features, slope

    return found


def one(name: str, way: str, folder: Path) -> dict[str, list[float]]:
    """What a process measures of itself."""
    torch.set_num_threads(1)
    backbone = load_backbone(name)
    graphs = [backbone.graph(crystal(*cell)) for cell in CELLS]
    plain = by_autograd(backbone.on_edges)
    expected = [plain(graph) for graph in graphs]
    begin = cpu_seconds()
    run = _made(backbone, way, graphs[0], folder / f"{name}.pt2")
    results = [run(graph) for graph in graphs]
    first = cpu_seconds() - begin
    warm = [min(_seconds(run, graph) for _ in range(_REPEATS)) for graph in graphs]
    pairs = [pair for mine, other in zip(results, expected, strict=True) for pair in zip(mine, other, strict=True)]
    return {
        "start": [first - sum(warm)],
        "ms": [1e3 * value for value in warm],
        "edges": [graph.edge_index.shape[1] for graph in graphs],
        "off": [max(float((mine - other).abs().max() / other.abs().max()) for mine, other in pairs)],
    }


def _made(backbone: Backbone, way: str, example: Graph, path: Path) -> Gradient:
    if way != "AOTInductor":
        return by_autograd(Compiled(backbone) if way == "torch.compile" else backbone.on_edges)
    if not path.exists():
        exported(backbone, example, path)
    return of_file(path)


def _seconds(run: Gradient, graph: Graph) -> float:
    begin = cpu_seconds()
    run(graph)
    return cpu_seconds() - begin


def main() -> None:
    rows: list[list[object]] = []
    for name in NETWORKS:
        for way in WAYS:
            with tempfile.TemporaryDirectory() as folder:
                turns = [_apart(name, way, folder) for _ in range(2)]
            if not all(turns):
                rows.append([name, way, "", "cannot be made", "", "", ""])
                continue
            first, second = turns
            edges = " ".join(f"{edge:g}" for edge in first["edges"])
            ms = " ".join(f"{min(pair):.0f}" for pair in zip(first["ms"], second["ms"], strict=True))
            rows.append([name, way, edges, ms, first["start"][0], second["start"][0], f"{first['off'][0]:.0e}"])
    table(["network", "way", "edges", "ms", "start-up, s", "again, s", "off by"], rows)


def _apart(name: str, way: str, folder: str) -> dict[str, list[float]]:
    command = [sys.executable, "-m", "benchmarks.compiled", name, way, folder]
    alone = {"OMP_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1", "TORCHINDUCTOR_CACHE_DIR": f"{folder}/cache"}
    done = subprocess.run(command, env=os.environ | alone, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{name}, {way}: {done.stderr.strip()[-500:]}", file=sys.stderr)
        return {}
    return dict(json.loads(done.stdout.splitlines()[-1]))


if __name__ == "__main__":  # what the script calls itself with
    _name, _way, _folder = sys.argv[1:]
    print(json.dumps(one(_name, _way, Path(_folder))))
