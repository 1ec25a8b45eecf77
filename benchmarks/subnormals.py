"""Numbers below the smallest normal one: networks with them, and with zero in their place as the package takes them.

Features, forces, and a step of training, of the formate structures in the repository (52 atoms) and of silicon, in float32,
one thread, in one process that takes turns. SchNet has random weights.

    python -m benchmarks subnormals
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from ase import Atoms
from torch import Tensor

from benchmarks.compiled import crystal
from benchmarks.data import EXAMPLES
from benchmarks.measuring import table
from benchmarks.messages import WORKS, compared
from mekrr_scale.backbones import Backbone, BackboneSpec, load_backbone, new_backbone
from mekrr_scale.backbones.surroundings import flushing
from mekrr_scale.structures import read_structures

NETWORKS = ("schnet", "chgnet", "sevennet")


def main() -> None:
    torch.set_num_threads(1)
    rows: list[list[object]] = []
    for network in NETWORKS:
        for structure, atoms in _structures().items():
            backbone = _backbone(network)
            graph = backbone.graph(atoms)
            for name, work in WORKS.items():
                way = partial(work, backbone, graph)
                before, after, off = compared(partial(_with_them, way), way)
                rows.append([network, structure, len(graph.numbers), name, before, after, before / after, f"{off:.0e}"])
    table(["network", "structures", "atoms", "work", "with them, ms", "without, ms", "ratio", "off by"], rows)


def _with_them(way: Callable[[], Tensor]) -> Tensor:
    with flushing(False):
        return way()


def _structures() -> dict[str, list[Atoms]]:
    return {
        "HCOO/Cu(110)": list(read_structures(EXAMPLES / "hcoo_cu110/train.xyz.xz"))[:2],
        "silicon": [crystal((2, 2, 2), 5.43)],
    }


def _backbone(network: str) -> Backbone:
    return new_backbone(BackboneSpec(network)) if network == "schnet" else load_backbone(network)


if __name__ == "__main__":
    main()
