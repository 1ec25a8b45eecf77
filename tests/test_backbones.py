"""Every backbone passes the conformance suite; checkpoints are read and refused as documented."""

import lzma

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule

from mekrr_scale.backbones import BackboneSpec, Directions, available_backbones, load_backbone, tangents
from mekrr_scale.backbones.conformance import check_backbone
from mekrr_scale.errors import BackboneError, StructureError
from mekrr_scale.graphs import build_graph, edge_vectors, nearest_edges

pytest.importorskip("chgnet")


@pytest.mark.parametrize("layer", ["conv1", "conv3", "conv4"])
def test_chgnet_conforms(layer):
    check_backbone(load_backbone(BackboneSpec("chgnet", layer=layer)))


@pytest.mark.parametrize("layer", ["interaction1", "interaction3"])
def test_schnet_conforms(checkpoint, layer):
    check_backbone(load_backbone(BackboneSpec("schnet", layer=layer, checkpoint=str(checkpoint))))


def test_chgnet_equals_the_wheel(real_structures):
    from chgnet.model.model import CHGNet
    from pymatgen.io.ase import AseAtomsAdaptor

    atoms = real_structures[0]
    backbone = load_backbone(BackboneSpec("chgnet", layer="conv3"))
    graph = backbone.graph(atoms)
    positions = graph.positions.clone().requires_grad_(True)
    output = backbone.forward(graph, positions)
    forces = -torch.autograd.grad(output.energy(graph).sum(), positions)[0]
    wheel = CHGNet.load(verbose=False, use_device="cpu")
    expected = wheel.predict_structure(AseAtomsAdaptor.get_structure(atoms), return_atom_feas=True)
    assert np.abs(output.features.detach().numpy() - expected["atom_fea"]).max() < 1e-4
    assert float(output.energy(graph)[0]) / len(atoms) == pytest.approx(float(expected["e"]), abs=1e-5)
    assert np.abs(forces.numpy() - expected["f"]).max() < 1e-3


def ocp_checkpoint(path, prefix="module.", model="schnet", hidden=1024, **changes):
    """A checkpoint of the layout of the Open Catalyst Project; returns the network."""
    from torch_geometric.nn.models import SchNet

    torch.manual_seed(1)
    sizes = {"hidden_channels": hidden, "num_filters": 8, "num_interactions": 3, "num_gaussians": 10, "cutoff": 5.0}
    network = SchNet(**sizes)
    state = {prefix + name: tensor for name, tensor in network.state_dict().items()}
    state[prefix + "atomic_mass"] = torch.zeros(119, dtype=torch.float64)
    data = {
        "config": {"model": model, "model_attributes": {**sizes, "use_pbc": True, "otf_graph": True}},
        "state_dict": state,
        "normalizers": {"target": {"mean": torch.tensor(-0.5), "std": torch.tensor(2.0)}},
        "epoch": 3,
    }
    torch.save({**data, **changes}, path)
    return network


@pytest.mark.parametrize("prefix", ["", "module.", "module.module."])
def test_open_catalyst_checkpoint(tmp_path, prefix):
    path = tmp_path / "ocp.pt"
    network = ocp_checkpoint(path, prefix).double()
    atoms = molecule("CH3CH2OH")
    backbone = load_backbone(BackboneSpec("schnet", checkpoint=str(path))).to(dtype=torch.float64)
    assert (backbone.dim, backbone.layer, backbone.max_neighbors) == (1024, "interaction2", 50)
    # torch_geometric's own forward on a brute-force edge list
    positions, z = torch.from_numpy(atoms.positions), torch.from_numpy(atoms.numbers)
    distance = torch.cdist(positions, positions)
    edges = ((distance < 5.0) & (distance > 0)).nonzero().T

    class Given(torch.nn.Module):
        def forward(self, pos, batch):
            return edges, distance[edges[0], edges[1]]

    network.interaction_graph = Given()
    hidden = []
    network.interactions[1].register_forward_hook(lambda module, given, out: hidden.append(given[0] + out))
    raw = float(network(z, positions)[0, 0])
    graph = backbone.graph(atoms)
    output = backbone.forward(graph, graph.positions)
    torch.testing.assert_close(output.features, hidden[0], rtol=1e-10, atol=1e-10)
    assert float(output.energy(graph)[0]) == pytest.approx(2.0 * raw - 0.5, rel=1e-9)


def test_neighbour_cap_keeps_the_nearest():
    atoms = Atoms("Ar8", positions=np.random.default_rng(0).uniform(0, 6, (8, 3)), cell=[6.0] * 3, pbc=True)
    graph = build_graph(atoms, 6.0)
    capped = nearest_edges(graph, 5)
    lengths = edge_vectors(graph, graph.positions).norm(dim=1)
    kept = edge_vectors(capped, capped.positions).norm(dim=1)
    for i in range(8):
        expected = lengths[graph.edge_index[0] == i].sort().values[:5]
        torch.testing.assert_close(kept[capped.edge_index[0] == i].sort().values, expected)


@pytest.mark.parametrize("pbc", [True, False, (True, False, True)])
def test_neighbour_list_against_brute_force(pbc):
    generator = np.random.default_rng(3)
    atoms = Atoms("Ne5", positions=generator.uniform(0, 4, (5, 3)), cell=[[3, 0, 0], [1, 4, 0], [0, 0.5, 5]], pbc=pbc)
    graph = build_graph(atoms, 5.0)
    found = set()
    for (i, j), s in zip(graph.edge_index.T.tolist(), graph.shifts.tolist(), strict=True):
        found.add((i, j, *map(int, s)))
    expected = set()
    spans = [range(-4, 5) if p else range(1) for p in atoms.pbc]
    for i in range(5):
        for j in range(5):
            for a in spans[0]:
                for b in spans[1]:
                    for c in spans[2]:
                        d = np.linalg.norm(atoms.positions[j] + np.array([a, b, c]) @ atoms.cell - atoms.positions[i])
                        if 0 < d < 5.0:
                            expected.add((i, j, a, b, c))
    assert found == expected


def test_reference_features_of_a_published_layout(tmp_path, checkpoint):
    """The same weights in both layouts give the same features once the cap is off."""
    own = load_backbone(BackboneSpec("schnet", checkpoint=str(checkpoint)))
    data = torch.load(checkpoint, weights_only=True)
    path = tmp_path / "ocp.pt"
    weights = {f"module.{k}": v for k, v in data["state_dict"].items()}
    torch.save({"config": {"model": "schnet", "model_attributes": data["config"]}, "state_dict": weights}, path)
    other = load_backbone(BackboneSpec("schnet", checkpoint=str(path), max_neighbors=0))
    atoms = molecule("C6H6")
    assert torch.equal(own.features(atoms), other.features(atoms))
    with pytest.raises(BackboneError, match="max_neighbors|options"):
        own.identity().require(other.identity(), "this")


def test_mixed_periodicity(spec):
    """A slab that is periodic in two directions equals one with a thick vacuum, whatever its third vector is."""
    backbone = load_backbone(spec).to(dtype=torch.float64)
    slab = Atoms("C2O", positions=[(0, 0, 5), (1.3, 0.2, 5.5), (0.7, 1.1, 6.4)], cell=[2.5, 2.6, 30.0], pbc=True)
    expected = backbone.features(slab)
    for third in (30.0, 1.5, 0.0):
        open_slab = slab.copy()
        open_slab.set_cell([2.5, 2.6, third])
        open_slab.pbc = (True, True, False)
        torch.testing.assert_close(backbone.features(open_slab), expected, rtol=1e-9, atol=1e-9)


def test_operations_without_a_forward_rule_fall_back_to_reverse_mode(spec, monkeypatch):
    backbone = load_backbone(spec)
    graph = backbone.graph(molecule("H2O"))
    moves = torch.randn(2, 3, 3)
    expected = backbone.tangents(graph, moves)

    class Identity(torch.autograd.Function):  # with a backward rule alone, as many compiled operations
        generate_vmap_rule = True

        @staticmethod
        def forward(x):
            return x.clone()

        @staticmethod
        def setup_context(ctx, inputs, output):
            pass

        @staticmethod
        def backward(ctx, gradient):
            return gradient

    original = type(backbone).forward
    monkeypatch.setattr(type(backbone), "forward", lambda self, g, p, s=None: original(self, g, Identity.apply(p), s))
    with pytest.raises((NotImplementedError, RuntimeError)):
        tangents(backbone, graph, Directions.of_displacements(moves), mode="forward")
    torch.testing.assert_close(backbone.tangents(graph, moves), expected, rtol=1e-4, atol=1e-6)


def test_tangent_shapes_and_refusals(checkpoint, spec):
    backbone = load_backbone(spec)
    water = molecule("H2O")
    graph = backbone.graph(water)
    moves = torch.randn(2, 3, 3)
    assert torch.equal(
        backbone.tangents(graph, moves), tangents(backbone, graph, Directions.of_displacements(moves)).features
    )
    assert torch.equal(load_backbone("schnet", checkpoint=str(checkpoint)).features(water), backbone.features(water))
    with pytest.raises(BackboneError, match="Do you mean 'layer'"):
        load_backbone("chgnet", layr="conv1")
    none = tangents(backbone, graph, Directions.of_displacements(torch.zeros(0, 3, 3)))
    assert none.features.shape == (0, 3, 16)
    with pytest.raises(BackboneError, match="expected"):
        tangents(backbone, graph, Directions.of_displacements(torch.zeros(2, 4, 3)))
    with pytest.raises(BackboneError, match="one structure"):
        tangents(backbone, backbone.graph([water, water]), Directions.of_displacements(torch.zeros(2, 6, 3)))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (BackboneSpec("chgnt"), "Do you mean 'chgnet'"),
        (BackboneSpec("chgnet", layer="conv9"), "no layer 'conv9'"),
        (BackboneSpec("chgnet", version="9.9"), "no weights of version"),
        (BackboneSpec("chgnet", checkpoint="x.pt"), "takes no option checkpoint"),
        (BackboneSpec("schnet"), "needs --checkpoint"),
        (BackboneSpec("schnet", checkpoint="/nowhere.pt"), "there is no checkpoint"),
    ],
)
def test_refused_specifications(given, message):
    with pytest.raises(BackboneError, match=message):
        load_backbone(given)


def test_refused_checkpoints(tmp_path, checkpoint):
    path = tmp_path / "bad.pt"

    def refuse(message, **options):
        with pytest.raises(BackboneError, match=message):
            load_backbone(BackboneSpec("schnet", checkpoint=str(path), **options))

    path.write_bytes(b"not a checkpoint")
    refuse("cannot be read|can be read")
    torch.save({"weights": torch.zeros(2)}, path)
    refuse("'config' and 'state_dict'")
    ocp_checkpoint(path, model="dimenetplusplus", hidden=8)
    refuse("not of a SchNet")
    ocp_checkpoint(path, hidden=8, config={"model": "schnet", "model_attributes": {"cutoff": 5.0}})
    refuse("lacks hidden_channels")
    data = torch.load(checkpoint, weights_only=True)
    torch.save({**data, "config": {**data["config"], "num_interactions": 2}}, path)
    refuse("unknown")
    torch.save({**data, "config": {**data["config"], "num_filters": 4}}, path)
    refuse("expected")
    torch.save(data, path)
    refuse("no layer", layer="interaction7")


@pytest.mark.parametrize(
    ("atoms", "message"),
    [
        (Atoms(), "no atoms"),
        (Atoms("H", positions=[(np.nan, 0, 0)]), "not finite"),
        (Atoms("H", pbc=True, cell=np.zeros((3, 3)) + [[1, 0, 0], [2, 0, 0], [0, 0, 1]]), "no volume"),
    ],
)
def test_broken_geometries(atoms, message):
    with pytest.raises(StructureError, match=message):
        build_graph(atoms, 3.0)


def test_listing():
    rows = available_backbones()
    assert [name for name, _, _ in rows] == ["chgnet", "schnet"]
    assert all(usable for _, usable, _ in rows)


def test_compressed_example_is_what_it_says():
    from tests.conftest import DATA

    with lzma.open(DATA / "test.xyz.xz", "rt") as stream:
        assert len(ase.io.read(stream, "0", format="extxyz")) == 52
