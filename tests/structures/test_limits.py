"""What would fill the memory is told; what is merely large is not."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule

from mekrr_scale.errors import StructureError
from mekrr_scale.structures import Labels, build_graph, check_structure
from mekrr_scale.structures.limits import check_crowding


@pytest.mark.parametrize(
    ("atoms", "cutoff"),
    [
        (Atoms("H", cell=[1e-3] * 3, pbc=True), 5.0),
        (Atoms("H", cell=[1e-3, 9, 9], pbc=(True, False, False)), 50.0),
        (Atoms("H", cell=[1e-3, 1e-3, 9], pbc=(True, True, False)), 5.0),
        (Atoms("H", cell=[1e-5, 1e-5, 1.0], pbc=True), 5.0),
        (bulk("Cu"), 1e6),
        (fcc111("Cu", (1, 1, 3), vacuum=5.0, periodic=False), 1e6),
        (bulk("Cu", cubic=True), 1e200),
    ],
)
def test_beyond_all_measure(atoms, cutoff):
    with pytest.raises(StructureError, match="neighbours within"):
        build_graph(atoms, cutoff)


def test_such_frames_are_rejects():
    with pytest.raises(StructureError, match=r"neighbours within 0.3 angstrom.*0.001"):
        check_structure(Atoms("H", cell=[1e-3] * 3, pbc=True), Labels(1.0, None, None))


@pytest.mark.parametrize(
    ("atoms", "cutoff"),
    [
        (bulk("C", "diamond", 3.57), 12.0),
        (bulk("Cu"), 20.0),
        (fcc111("Cu", (2, 2, 3), vacuum=5.0), 12.0),
        (molecule("C60"), 1e6),
        (Atoms("H"), 1e6),
        (Atoms("H2", [(0, 0, 0), (0, 0, 0.74)], cell=[1000.0] * 3, pbc=True), 6.0),
        (Atoms("He", cell=[2.5, 0, 0], pbc=(True, False, False)), 30.0),
    ],
)
def test_within_measure(atoms, cutoff):
    check_crowding(atoms, cutoff)


def test_the_estimate_is_that_of_the_density():
    """A crystal has as many neighbours as its density says; the bound is far above those of real ones."""
    atoms = bulk("Cu", cubic=True).repeat(2)
    graph = build_graph(atoms, 9.0)
    found = np.bincount(graph.edge_index[0].numpy()).mean()
    expected = len(atoms) / atoms.get_volume() * 4 / 3 * np.pi * 9.0**3
    assert found == pytest.approx(expected, rel=0.15)
    assert found < 20_000 / 50
