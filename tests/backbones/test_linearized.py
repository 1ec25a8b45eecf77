"""Backbones that linearize themselves: against torch's forward mode, whatever the cuts of directions and messages."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule

from mekrr_scale.arrays import Moments
from mekrr_scale.backbones import (
    Compressed,
    Directions,
    Rescaled,
    Scaling,
    load_backbone,
    messages,
    perceptrons,
    tangents,
)
from mekrr_scale.backbones import tangents_of_each as of_each
from mekrr_scale.backbones.messages import Coupling, hoods
from mekrr_scale.errors import BackboneError
from mekrr_scale.structures import edge_vectors
from tests.backbones.networks import small_sevennet

pytest.importorskip("chgnet")


@pytest.fixture(scope="module")
def chgnet():
    return load_backbone("chgnet", layer="conv3").to(dtype=torch.float64)


@pytest.fixture(scope="module")
def sevennet():
    pytest.importorskip("sevenn")
    return load_backbone("sevennet").to(dtype=torch.float64)


@pytest.fixture(params=["chgnet", "sevennet"])
def backbone(request):
    return request.getfixturevalue(request.param)


def silica(seed=0):
    """Dense, without symmetry, atoms with different numbers of neighbours."""
    generator = np.random.default_rng(seed)
    grid = np.array([[i, j, k] for i in (0.1, 0.6) for j in (0.1, 0.6) for k in (0.1, 0.5)][:7])
    atoms = Atoms("SiO2SiO2Si", scaled_positions=grid, cell=np.diag([4.6, 4.9, 7.0]), pbc=(True, True, False))
    atoms.positions += 0.15 * generator.normal(size=(7, 3))
    return atoms


def along(n_atoms, displacements=5, strains=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    moves = torch.randn(displacements, n_atoms, 3, generator=generator, dtype=torch.float64)
    turns = torch.randn(strains, 3, 3, generator=generator, dtype=torch.float64)
    return Directions.of_displacements(moves).joined(Directions.of_strains(turns + turns.mT, n_atoms))


def close(found, expected):
    assert float((found - expected).abs().max()) <= 1e-11 * float(expected.abs().max())


def forward(backbone, atoms, directions):
    """The slow way: one direction after the other."""
    graph = backbone.graph(atoms)
    return tangents(backbone, graph, directions, mode="forward", chunk=1, energies=False).features


@pytest.mark.parametrize("options", [{"version": "0.2.0", "layer": "conv2"}, {"layer": "conv1+conv4"}])
def test_chgnet_of_other_makes(options):
    backbone = load_backbone("chgnet", **options).to(dtype=torch.float64)
    atoms, directions = silica(), along(7)
    assert backbone.linearize(backbone.graph(atoms)) is not None
    close(
        tangents(backbone, backbone.graph(atoms), directions, energies=False).features,
        forward(backbone, atoms, directions),
    )


@pytest.mark.parametrize(("together", "block"), [(3, 5000), (8, 1)])
def test_cuts_change_rounding_alone(backbone, together, block, monkeypatch):
    monkeypatch.setattr(messages, "_BLOCK", block)
    monkeypatch.setattr(perceptrons, "_BLOCK", block)
    atoms, directions = silica(), along(7)
    found = tangents(backbone, backbone.graph(atoms), directions, chunk=together, energies=False).features
    close(found, forward(backbone, atoms, directions))


def test_structures_are_pushed_together(backbone):
    """Of other sizes and with other directions, among them an atom without neighbours, and none at all."""
    frames = [silica(1), molecule("H2O"), Atoms("Si"), silica(2), molecule("O2")]
    given = [along(7, seed=1), along(3, 2, 0), along(1, 1, 2), along(7, 0, 0), along(2, 8, 1)]
    found = of_each(backbone, backbone.graph(frames), given)
    for atoms, directions, output in zip(frames, given, found, strict=True):
        single = tangents(backbone, backbone.graph(atoms), directions, mode="forward")
        assert output.features.shape == (len(directions), len(atoms), backbone.dim)
        assert torch.allclose(output.features, single.features, rtol=1e-9, atol=1e-11)
        assert torch.allclose(output.energy, single.energy, rtol=1e-9, atol=1e-10)


def test_the_same_structures_have_the_same_bits(backbone):
    atoms, directions = silica(), along(7)
    first = tangents(backbone, backbone.graph(atoms), directions)
    again = tangents(backbone, backbone.graph(atoms), directions)
    assert torch.equal(first.features, again.features)
    assert torch.equal(first.energy, again.energy)


def test_lengths_in_other_units(backbone):
    atoms, directions = silica(), along(7)
    scaled = Rescaled(backbone, Scaling(1.03, 0.9, {}))
    assert scaled.linearize(scaled.graph(atoms)) is not None
    found = tangents(scaled, scaled.graph(atoms), directions, energies=False).features
    close(found, forward(scaled, atoms, directions))


def test_coordinates_along_axes(backbone):
    atoms, directions = silica(), along(7)
    moments = Moments()
    for z, features in [(z, backbone.features(atoms)[torch.from_numpy(atoms.numbers == z)]) for z in (8, 14)]:
        moments.add(z, features)
    compressed = Compressed(backbone, moments.compression(2))
    assert compressed.linearize(compressed.graph(atoms)) is not None
    found = tangents(compressed, compressed.graph(atoms), directions, energies=False).features
    assert found.shape == (8, 7, 2)
    close(found, forward(compressed, atoms, directions))


def test_torch_does_what_no_linearization_does(monkeypatch):
    bonds = load_backbone("chgnet", layer="conv2+bond2").to(dtype=torch.float64)
    atoms, directions = molecule("H2O"), along(3, 2, 1)
    graph = bonds.graph(atoms)
    assert bonds.linearize(graph) is None
    close(tangents(bonds, graph, directions).features, forward(bonds, atoms, directions))
    plain = load_backbone("chgnet", layer="conv2").to(dtype=torch.float64)
    for part in plain.module.atom_conv_layers:
        part.twoBody_atom.activation = torch.nn.Tanh()
    assert plain.linearize(graph) is None
    close(tangents(plain, graph, directions).features, forward(plain, atoms, directions))
    assert Coupling.of(torch.nn.Linear(2, 2)) is None


def derivatives(backbone, atoms):
    """Energies, forces, and how the square of the forces depends on the weights: what training needs."""
    graph = backbone.graph(atoms)
    weights = [weight.requires_grad_(True) for weight in backbone.module.parameters()]
    positions = graph.positions.clone().requires_grad_(True)
    found = backbone.forward(graph, positions)
    energy = found.energy(graph)
    (slopes,) = torch.autograd.grad(energy.sum(), positions, create_graph=True)
    by_weights = torch.autograd.grad(slopes.square().sum(), weights, allow_unused=True, materialize_grads=True)
    for weight in weights:
        weight.requires_grad_(False)
    return [
        found.features.detach(),
        energy.detach(),
        slopes.detach(),
        torch.cat([each.flatten() for each in by_weights]),
    ]


@pytest.mark.parametrize("parity", [False, True])
def test_messages_are_those_of_the_networks_own_product(parity, tmp_path, monkeypatch):
    """To rounding, with derivatives of both orders; a product of another kind does its work itself."""
    pytest.importorskip("sevenn")
    options = {"checkpoint": small_sevennet(tmp_path / "small.pt", parity), "layer": "gate1+gate3"}
    ours = load_backbone("sevennet", **options).to(dtype=torch.float64)
    monkeypatch.setattr(Coupling, "of", lambda product: None)
    own = load_backbone("sevennet", **options).to(dtype=torch.float64)
    frames = [silica(), Atoms("Si"), molecule("H2O")]
    assert own.linearize(own.graph(frames)) is None
    assert ours.linearize(ours.graph(frames)) is not None
    for found, expected in zip(derivatives(ours, frames), derivatives(own, frames), strict=True):
        assert float(expected.abs().max()) > 0
        close(found, expected)


def test_constants_of_a_product_are_exact_in_float64(sevennet):
    """Loaded in float32 and moved to float64, energies are those of SevenNet's own code in float64."""
    graph = sevennet.graph(silica())
    data = {
        "x": sevennet.types[graph.numbers], "edge_index": graph.edge_index, "batch": graph.owner,
        "edge_vec": edge_vectors(graph, graph.positions),
    }  # fmt: skip
    for name, module in sevennet.parts(energies=True).modules:
        data = module(data)
        if name == "onehot_idx_to_onehot":
            data["x"] = data["node_attr"] = data["x"].double()
    close(sevennet.forward(graph, graph.positions).energies, data["atomic_energy"][:, 0])


def test_every_edge_is_in_one_hood():
    generator = torch.Generator().manual_seed(0)
    centre = torch.randint(0, 20, (150,), generator=generator) * 2  # every other atom is alone
    seen = []
    for hood in hoods(centre, 40, 16):
        assert len(hood.atoms) == 1 or hood.edges.numel() <= 16
        assert torch.equal(centre[hood.edges[hood.there]], hood.atoms[:, None].expand_as(hood.edges)[hood.there])
        seen += hood.edges[hood.there].tolist()
    assert sorted(seen) == list(range(150))


def test_directions_of_other_structures_are_refused(chgnet):
    graph = chgnet.graph([molecule("H2O"), molecule("O2")])
    with pytest.raises(BackboneError, match="directions of 1 structures for a graph of 2"):
        of_each(chgnet, graph, [along(3)])
    with pytest.raises(BackboneError, match="for a structure of 2 atoms"):
        of_each(chgnet, graph, [along(3), along(3)])
