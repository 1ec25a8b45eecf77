"""Tangents of features: one direction as a multiple of the features alone, by 0.1.0's way and by today's.

0.1.0 pushed 9 directions at a time through the network by torch's forward mode, one structure after the other. CPU
time of one thread; the ways take turns. ``python -m benchmarks.extraction 300`` takes 300 structures. At last whole
extractions, by one process with all threads and by one for each thread (``OMP_WAIT_POLICY=PASSIVE``, as on the command
line).
"""

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator

from benchmarks.measuring import Peak, table
from mekrr_scale.backbones import Backbone, Directions, load_backbone, tangents, tangents_of_each
from mekrr_scale.pipeline import ExtractPlan, extract
from mekrr_scale.progress import Silent

_CHUNKS = (4, 9)  # of forward mode
_BEFORE = 9


def structures(count: int, atoms: Atoms) -> Iterator[Atoms]:
    """Copies with displaced atoms."""
    generator = np.random.default_rng(0)
    for _ in range(count):
        moved = atoms.copy()
        moved.positions += 0.08 * generator.normal(size=moved.positions.shape)
        yield moved


def directions(count: int, n_atoms: int) -> Directions:
    generator = torch.Generator().manual_seed(0)
    return Directions.of_displacements(torch.randn(count, n_atoms, 3, generator=generator))


def cpu_seconds(functions: list[Callable[[], object]], repeats: int) -> list[float]:
    """The least CPU time of each; they take turns."""
    best = [float("inf")] * len(functions)
    for _ in range(repeats):
        for i, function in enumerate(functions):
            start = time.process_time()
            function()
            best[i] = min(best[i], time.process_time() - start)
    return best


def one_structure(name: str, backbone: Backbone, atoms: Atoms, repeats: int) -> list[object]:
    """A direction's share of what each way takes, over the time of the features."""
    graph = backbone.graph(atoms)
    n = len(atoms)

    def way(count: int, chunk: int | None) -> Callable[[], object]:
        given = directions(count, n)
        mode = "auto" if chunk is None else "forward"
        return lambda: tangents(backbone, graph, given, mode=mode, chunk=chunk, energies=False)

    def features() -> object:
        with torch.no_grad():
            return backbone.forward(graph, graph.positions, energies=False)

    ways = [(chunk, chunk) for chunk in _CHUNKS] + [(8, None), (32, None)]
    alone, *times = cpu_seconds([features, *(way(*one) for one in ways)], repeats)
    with Peak() as peak:
        way(32, None)()
    ratios = [f"{spent / count / alone:.2f}" for spent, (count, _) in zip(times, ways, strict=True)]
    return [name, n, graph.edge_index.shape[1], f"{1e3 * alone:.0f}", *ratios, f"{peak.added:.0f}"]


def many(name: str, backbone: Backbone, count: int, number: int = 8) -> list[object]:
    """Features, tangents and slopes of the energy of many structures of about 50 atoms, five together."""
    frames = list(structures(count, bulk("Cu", "fcc", 3.6, cubic=True).repeat((3, 2, 2))))
    given = directions(number, len(frames[0]))
    spent = [0.0, 0.0]
    for first in range(0, count, 5):
        group = frames[first : first + 5]
        start = time.process_time()
        for atoms in group:
            tangents(backbone, backbone.graph(atoms), given, mode="forward", chunk=_BEFORE)
        middle = time.process_time()
        tangents_of_each(backbone, backbone.graph(group), [given] * len(group))
        spent[0] += middle - start
        spent[1] += time.process_time() - middle
    return [name, count, *spent, spent[1] / spent[0]]


def side_by_side(name: str, backbone: Backbone, count: int, number: int = 8) -> list[object]:
    """Seconds of whole extractions of structures of 48 atoms: one process with all threads, and as many processes."""
    frames = list(structures(count, bulk("Cu", "fcc", 3.6, cubic=True).repeat((3, 2, 2))))
    for atoms in frames:
        atoms.calc = SinglePointCalculator(atoms, energy=0.0, forces=np.zeros((len(atoms), 3)))
    plan = ExtractPlan(derivatives=number)
    ways = (replace(plan, workers=1, batch_atoms=256), replace(plan, workers=1), plan)
    spent = []
    for way in ways:
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            extract(frames, folder, way, backbone, Silent())
            spent.append(time.perf_counter() - start)
    return [name, count, *spent, spent[-1] / spent[0]]


def main(count: int = 20, repeats: int = 2) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    sizes = [
        bulk("Cu").repeat(3),
        bulk("Si", cubic=True).repeat(2),
        bulk("Pt", orthorhombic=True).repeat((5, 4, 5)),
    ]
    named = {
        "chgnet": load_backbone("chgnet"),
        "7net-0": load_backbone("sevennet"),
        "7net-l3i5": load_backbone("sevennet", version="7net-l3i5"),
    }
    pushed = [f"forward mode, {chunk} at once" for chunk in _CHUNKS]
    header = ["", "atoms", "edges", "features, ms", *pushed, "today, 8 directions", "32 directions", "memory, MB"]
    for name, backbone in named.items():
        table(header, [one_structure(name, backbone, next(structures(1, atoms)), repeats) for atoms in sizes])
    header = ["", "structures", "0.1.0's way, s", "today, s", "ratio"]
    for name, backbone in named.items():
        table(header, [many(name, backbone, count)])
    torch.set_num_threads(before)
    one = "one process, {} atoms at once, s"
    header = ["", "structures", one.format(256), one.format(64), f"{before} processes, s", "ratio"]
    for name, backbone in named.items():
        table(header, [side_by_side(name, backbone, count)])


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
