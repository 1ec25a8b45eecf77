"""Geometries: where atoms stand and in what order changes nothing; what is no geometry is refused."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule

from mekrr_scale.errors import StructureError
from mekrr_scale.structures import (
    Prediction,
    SkinList,
    build_graph,
    edge_vectors,
    nearest_edges,
    require_finite,
    volume_of,
)

CUTOFF = 4.0


def distances(atoms, cutoff=CUTOFF):
    """Every distance within the cutoff, one image after the other (slow, obvious)."""
    reach = [range(-4, 5) if periodic else (0,) for periodic in atoms.pbc]
    found = []
    for shift in product(*reach):
        moved = atoms.positions + np.array(shift) @ atoms.cell.array
        between = np.linalg.norm(moved[None] - atoms.positions[:, None], axis=-1).ravel()
        found += between[(between > 1e-9) & (between < cutoff)].tolist()
    return np.sort(found)


def lengths(atoms, dtype=torch.float64):
    graph = build_graph(atoms, CUTOFF).to("cpu", dtype)
    return np.sort(edge_vectors(graph, graph.positions).norm(dim=1).double().numpy())


@pytest.fixture(scope="module")
def crystal():
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.05, seed=1)
    return atoms


@pytest.mark.parametrize("periodic", list(product((True, False), repeat=3)))
def test_neighbours_of_every_mixture_of_periodic_directions(crystal, periodic):
    atoms = crystal.copy()
    atoms.pbc = periodic
    assert np.allclose(lengths(atoms), distances(atoms), atol=1e-9)


@pytest.mark.parametrize("far", [1e2, 1e4, 1e6, 5e7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_edges_do_not_depend_on_images_or_on_where_a_structure_stands(crystal, far, dtype):
    tolerance = 1e-6 if far < 1e6 else 1e-7 * far / 1e6 + 1e-6  # float64 itself holds 1e-8 at 5e7
    generator = np.random.default_rng(0)
    wandered = crystal.copy()
    wandered.positions += generator.integers(-int(far / 4), int(far / 4), (4, 3)) @ crystal.cell.array
    moved = molecule("CH3OH")
    here = lengths(moved, dtype)
    moved.positions += [far, -far, far / 2]
    assert np.abs(lengths(wandered, dtype) - lengths(crystal)).max() < tolerance
    assert np.abs(lengths(moved, dtype) - here).max() < tolerance


@pytest.mark.parametrize("far", [1e4, 1e6, 9e7])
@pytest.mark.parametrize("kind", ["molecule", "wire", "slab"])
def test_an_atom_far_from_the_others_is_alone(kind, far):
    atoms = {
        "molecule": lambda: molecule("CH3OH"),
        "wire": lambda: Atoms("Cu2", [[0, 0, 0], [0.3, 0, 2.4]], cell=[9, 9, 5], pbc=(False, False, True)),
        "slab": lambda: fcc111("Cu", (1, 1, 2), vacuum=4.0),
    }[kind]()
    near = distances(atoms)
    far_axis = int(np.flatnonzero(~atoms.pbc)[-1])
    place = atoms.positions[0].copy()
    place[far_axis] += far
    alone = Atoms("H", [place], cell=atoms.cell, pbc=atoms.pbc)
    expected = np.sort(np.concatenate([near, distances(alone)]))
    assert np.allclose(lengths(atoms + alone), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("positions", "message"),
    [(1e9, "atom 1 stands at .* wrap it"), (np.nan, "not finite"), (-np.inf, "not finite")],
)
def test_places_that_are_none_are_refused(positions, message):
    with pytest.raises(StructureError, match=message):
        build_graph(Atoms("H2", [[0, 0, 0], [0, positions, 0]]), CUTOFF)


@pytest.mark.parametrize("cell", [None, [3, 3, 0], [0, 0, 4], [4, 1e-9, 4], [[3, 0, 0], [0, 0, 0], [1, 0, 3]]])
def test_a_periodic_direction_needs_its_lattice_vector(cell):
    atoms = Atoms("Cu", cell=cell)
    lacking = [i for i in range(3) if np.linalg.norm(atoms.cell.array[i]) < 1e-6]
    for periodic in product((True, False), repeat=3):
        atoms.pbc = periodic
        if any(periodic[i] for i in lacking):
            with pytest.raises(
                StructureError, match=rf"lacks lattice vector .*{'abc'[lacking[0]] if all(periodic) else ''}"
            ):
                build_graph(atoms, CUTOFF)
        else:
            build_graph(atoms, CUTOFF)
    with pytest.raises(StructureError, match="no volume"):
        build_graph(Atoms("Cu", cell=[[3, 0, 0], [6, 0, 0], [0, 0, 3]], pbc=True), CUTOFF)


def test_volumes_are_those_of_whole_cells():
    slab = fcc111("Cu", (1, 1, 2), vacuum=4.0)
    assert volume_of(slab) == pytest.approx(slab.get_volume())
    slab.cell[2] = 0
    graph = build_graph([slab, bulk("Cu"), molecule("H2O")], CUTOFF)
    assert graph.volume.isnan().tolist() == [True, False, True]
    stress = graph.stress(torch.ones(3, 3, 3, dtype=torch.float64))
    assert torch.allclose(stress[1], torch.full((3, 3), 1 / bulk("Cu").get_volume(), dtype=torch.float64))
    assert stress[[0, 2]].isnan().all()


@pytest.mark.parametrize("most", [1, 5, 12, 13, 30])
def test_caps_do_not_depend_on_the_order_of_atoms(most):
    atoms = bulk("Cu", cubic=True).repeat((2, 1, 1))  # shells of 12, 6, 24 at equal distances
    atoms.positions[3] += 0.1
    order = np.random.default_rng(0).permutation(len(atoms))

    def kept(structure):
        graph = nearest_edges(build_graph(structure, 5.0), most)
        found = edge_vectors(graph, graph.positions).norm(dim=1).numpy()
        return [np.sort(found[graph.edge_index[0].numpy() == i]).round(6).tolist() for i in range(len(structure))]

    before, after = kept(atoms), kept(atoms[order])
    assert [before[i] for i in order] == after
    assert all(len(found) >= most for found in before)


def test_caps_of_unequal_distances_are_the_nearest():
    atoms = Atoms("H40", positions=np.random.default_rng(2).uniform(0, 6, (40, 3)))
    graph = build_graph(atoms, CUTOFF)
    capped = nearest_edges(graph, 7)
    whole = edge_vectors(graph, graph.positions).norm(dim=1)
    found = edge_vectors(capped, capped.positions).norm(dim=1)
    for i in range(40):
        expected = whole[graph.edge_index[0] == i].sort().values[:7]
        assert torch.equal(found[capped.edge_index[0] == i].sort().values, expected)
    assert nearest_edges(build_graph(Atoms("H"), CUTOFF), 5).edge_index.shape == (2, 0)


def test_lists_with_a_skin_follow_atoms_far_away():
    atoms = molecule("CH3OH")
    atoms.positions += 3e4
    skin = SkinList(CUTOFF)
    skin.graph(atoms)
    atoms.positions[0] += 0.05
    graph = skin.graph(atoms).to("cpu", torch.float32)
    found = np.sort(edge_vectors(graph, graph.positions).norm(dim=1).double().numpy())
    assert skin.builds == 1
    assert np.abs(found - distances(atoms)).max() < 1e-6


def test_results_that_are_no_numbers_are_refused():
    pair = [molecule("CO"), molecule("H2O")]
    good = Prediction(torch.zeros(2).double(), torch.zeros(5).double(), torch.zeros(5, 3).double(), None)
    require_finite(good, pair)
    for name, at in (("energies", 3), ("forces", (4, 1))):
        values = getattr(good, name).clone()
        values[at] = torch.nan
        with pytest.raises(StructureError, match="structure 1 of 2: .*not finite numbers: no overlapping atoms"):
            require_finite(replace(good, **{name: values}), pair)
    pair[1].positions[0] = pair[1].positions[1]
    with pytest.raises(StructureError, match="structure 1 of 2: .*atoms 0 and 1 overlap"):
        require_finite(replace(good, energies=torch.tensor([0, 0, torch.inf, 0, 0]).double()), pair)
    with pytest.raises(StructureError, match=r"structure 1 of 2: atoms 0 and 1 overlap \(0.000"):
        build_graph(pair, CUTOFF)


def test_one_structure_of_a_graph_is_its_own_graph(crystal):
    graph = build_graph([molecule("CO"), crystal, molecule("H2O")], CUTOFF)
    for i, atoms in enumerate([molecule("CO"), crystal, molecule("H2O")]):
        own, part = build_graph(atoms, CUTOFF), graph.one(i)
        for name, value in vars(own).items():
            torch.testing.assert_close(getattr(part, name), value, equal_nan=True, msg=name)
