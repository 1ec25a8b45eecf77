"""A network with the gradient of its features: as it is, by torch.compile, and by AOTInductor from a file.

Each way is timed in processes of its own, one after the other, with one thread: the first one has nothing compiled yet,
the second finds what the first has left on the disk. Start-up is all that the first call takes beyond a later one.
No data are needed: crystals are made here, and others of more edges show whether anything is compiled again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from ase import Atoms
from ase.build import bulk
from torch import Tensor

from benchmarks.measuring import seconds, table
from mekrr_scale.backbones import Backbone, BackboneOutput, Compiled, load_backbone
from mekrr_scale.structures import Graph, edge_vectors

NETWORKS = ("sevennet", "chgnet")
WAYS = ("as it is", "torch.compile", "AOTInductor")
SIZES = {64: (2, 2, 2), 200: (5, 5, 1)}  # atoms, and cells of eight
_REPEATS = 7

Gradient = Callable[[Graph], tuple[Tensor, Tensor]]


def crystal(repeats: tuple[int, int, int], length: float = 5.43) -> Atoms:
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


def one(name: str, way: str, size: int, folder: Path) -> dict[str, object]:
    """What a process measures of itself."""
    torch.set_num_threads(1)
    backbone = load_backbone(name)
    graphs = [
        replace(backbone.graph(crystal(SIZES[size], length)), volume=None).to("cpu", backbone.dtype)
        for length in (5.43, 5.1, 4.9)
    ]
    plain = by_autograd(backbone.on_edges)
    expected = [plain(graph) for graph in graphs]
    begin = time.perf_counter()
    if way == WAYS[0]:
        run = plain
    elif way == WAYS[1]:
        run = by_autograd(Compiled(backbone))
    else:
        path = folder / f"{name}-{size}.pt2"
        if not path.exists():
            exported(backbone, graphs[0], path)
        run = of_file(path)
    results = [run(graph) for graph in graphs]
    start = time.perf_counter() - begin
    warm = [seconds(lambda graph=graph: run(graph), _REPEATS) for graph in graphs]
    off = max(
        float((a - b).abs().max() / b.abs().max())
        for x, y in zip(results, expected, strict=True)
        for a, b in zip(x, y, strict=True)
    )
    return {
        "start": start - sum(warm),
        "ms": [1e3 * x for x in warm],
        "edges": [g.edge_index.shape[1] for g in graphs],
        "off": off,
    }


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.compiled", description=__doc__)
    parser.add_argument(
        "--one", nargs=4, metavar=("NETWORK", "WAY", "ATOMS", "FOLDER"), help="what the script calls itself with"
    )
    asked = parser.parse_args()
    if asked.one:
        name, way, size, folder = asked.one
        print(json.dumps(one(name, way, int(size), Path(folder))))
        return
    rows: list[list[object]] = []
    for name in NETWORKS:
        for size in SIZES:
            for way in WAYS:
                with tempfile.TemporaryDirectory() as folder:
                    turns = [_apart(name, way, size, folder) for _ in range(2)]
                if not all(turns):
                    rows.append([name, size, way, "cannot be made", "", "", "", ""])
                    continue
                first, second = turns
                ms = " ".join(f"{min(a, b):.0f}" for a, b in zip(first["ms"], second["ms"], strict=True))
                edges = " ".join(map(str, first["edges"]))
                rows.append([name, size, way, edges, ms, first["start"], second["start"], f"{first['off']:.0e}"])
    table(["network", "atoms", "way", "edges", "ms", "start-up, s", "again, s", "off by"], rows)


def _apart(name: str, way: str, size: int, folder: str) -> dict[str, object]:
    command = [sys.executable, "-m", "benchmarks.compiled", "--one", name, way, str(size), folder]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TORCHINDUCTOR_CACHE_DIR": f"{folder}/cache"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{name}, {way}: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
        return {}
    return dict(json.loads(done.stdout.splitlines()[-1]))


if __name__ == "__main__":
    main()
