"""Every backbone passes the conformance suite; checkpoints are read and refused as documented."""

import copy
import lzma
import warnings
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk, molecule

from mekrr_scale.backbones import (
    BackboneEnergies,
    BackboneSpec,
    Directions,
    check_backbone,
    load_backbone,
    save_dimenet,
    tangents,
)
from mekrr_scale.errors import BackboneError
from mekrr_scale.structures import build_graph, edge_vectors, nearest_edges
from tests.backbones.derivatives import check_predictions

pytest.importorskip("chgnet")


@pytest.mark.parametrize("layer", ["conv1", "conv3", "conv4"])
def test_chgnet_conforms(layer):
    check_backbone(load_backbone(BackboneSpec("chgnet", layer=layer)))


@pytest.mark.parametrize("layer", ["interaction1", "interaction3"])
def test_schnet_conforms(checkpoint, layer):
    check_backbone(load_backbone(BackboneSpec("schnet", layer=layer, checkpoint=str(checkpoint))))


@pytest.mark.parametrize(
    ("version", "layer"), [("7net-0", "gate1+gate2"), ("7net-0", "gate5"), ("7net-mf-0-r2scan", "gate1")]
)
def test_sevennet_conforms(version, layer):
    backbone = load_backbone(BackboneSpec("sevennet", version=version, layer=layer))
    check_backbone(backbone)


@pytest.mark.parametrize(("version", "modal"), [("7net-0", None), ("7net-l3i5", None), ("7net-mf-0-pbe", "PBE")])
def test_sevennet_equals_the_wheel(real_structures, version, modal):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sevenn.calculator import SevenNetCalculator

        wheel = SevenNetCalculator(version.removesuffix("-pbe"), modal=modal, device="cpu")
    backbone = load_backbone("sevennet", version=version)
    for atoms in (real_structures[0].copy(), molecule("CH3CH2OH")):
        graph = backbone.graph(atoms)
        positions = graph.positions.clone().requires_grad_(True)
        energy = backbone.forward(graph, positions).energy(graph).sum()
        forces = -torch.autograd.grad(energy, positions)[0]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            atoms.calc = wheel
            assert float(energy) == pytest.approx(atoms.get_potential_energy(), rel=1e-5)
            assert np.abs(forces.numpy() - atoms.get_forces()).max() < 1e-4
            if atoms.pbc.all():
                found = BackboneEnergies(backbone).predict(atoms, stress=True).results()["stress"]
                np.testing.assert_allclose(found, atoms.get_stress(), atol=1e-6)
                assert np.abs(found).max() > 1e-4


def test_sevennet_takes_a_checkpoint_of_the_users(tmp_path):
    """The wheel's own file, given by its path, gives the same features; no code in it is run."""
    from sevenn.util import pretrained_name_to_path

    path = tmp_path / "mine.pth"
    path.write_bytes(Path(pretrained_name_to_path("7net-0")).read_bytes())
    backbone = load_backbone("sevennet", checkpoint=str(path))
    water = molecule("H2O")
    assert torch.equal(backbone.features(water), load_backbone("sevennet").features(water))
    path.write_bytes(b"nothing")
    with pytest.raises(BackboneError, match="holds more than tensors"):
        load_backbone("sevennet", checkpoint=str(path))


@pytest.fixture(scope="module")
def dimenet(tmp_path_factory):
    """A small DimeNet++ with random weights: the network and its checkpoint."""
    from torch_geometric.nn.models import DimeNetPlusPlus

    torch.manual_seed(0)
    network = DimeNetPlusPlus(
        hidden_channels=16, out_channels=1, num_blocks=2, int_emb_size=8, basis_emb_size=4, out_emb_channels=24,
        num_spherical=4, num_radial=3, cutoff=4.0, output_initializer="glorot_orthogonal",
    )  # fmt: skip
    path = tmp_path_factory.mktemp("weights") / "dimenet.pt"
    save_dimenet(network, path)
    return network, path


@pytest.mark.parametrize("layer", ["interaction1", "interaction2"])
def test_dimenet_conforms(dimenet, layer):
    check_backbone(load_backbone("dimenet++", checkpoint=str(dimenet[1]), layer=layer))


@pytest.mark.parametrize(
    "atoms",
    [molecule("CH3CH2OH"), bulk("Si", cubic=True), Atoms("HF", [(0, 0, 0), (0.7, 0.6, 0)], cell=[2.6] * 3, pbc=True)],
)
def test_dimenet_against_its_definition(dimenet, atoms):
    """torch_geometric's layers on triplets found by brute force, images of the centre included."""
    network, path = dimenet
    network = copy.deepcopy(network).double()
    atoms = atoms.copy()
    atoms.rattle(0.05, seed=3)
    backbone = load_backbone("dimenet++", checkpoint=str(path)).to(dtype=torch.float64)
    graph = backbone.graph(atoms)
    i, j = graph.edge_index
    ends = [(a, (b, *map(round, s))) for a, b, s in zip(i.tolist(), j.tolist(), graph.shifts.tolist(), strict=True)]
    inner, outer = [], []
    for first, (a, (b, *shift)) in enumerate(ends):
        for second, (c, (d, *further)) in enumerate(ends):
            image = (d, *(x + y for x, y in zip(shift, further, strict=True)))
            if c == b and image != (a, 0, 0, 0):
                inner.append(first)
                outer.append(second)
    inner, outer = torch.tensor(inner), torch.tensor(outer)
    vectors = edge_vectors(graph, graph.positions)
    lengths = vectors.norm(dim=1)
    cross = torch.linalg.cross(vectors[inner], vectors[outer]).norm(dim=1)
    angle = torch.atan2(cross, (vectors[inner] * vectors[outer]).sum(1))
    rbf, sbf = network.rbf(lengths), network.sbf(lengths, angle, outer)
    x = network.emb(graph.numbers, rbf, i, j)
    total = network.output_blocks[0](x, rbf, i, num_nodes=len(atoms))
    for block, output in zip(network.interaction_blocks, network.output_blocks[1:], strict=True):
        x = block(x, rbf, sbf, outer, inner)
        total = total + output(x, rbf, i, num_nodes=len(atoms))
    found = backbone.forward(graph, graph.positions).energies
    torch.testing.assert_close(found, total[:, 0].detach(), rtol=1e-9, atol=1e-9)


def test_dimenet_differentiates_a_perfect_crystal(dimenet):
    """Atoms in a line, where the derivative of an angle is undefined, are no obstacle."""
    backbone = load_backbone("dimenet++", checkpoint=str(dimenet[1])).to(dtype=torch.float64)
    graph = backbone.graph(bulk("Cu", "fcc", 3.6, cubic=True))
    moves = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pushed = tangents(backbone, graph, Directions.of_displacements(moves))
    assert bool(torch.isfinite(pushed.features).all())
    assert bool(torch.isfinite(pushed.energy).all())


def test_dimenet_of_the_open_catalyst_layout(dimenet, tmp_path):
    own = load_backbone("dimenet++", checkpoint=str(dimenet[1]))
    data = torch.load(dimenet[1], weights_only=True)
    weights = {f"module.module.{k}": v for k, v in data["state_dict"].items()}
    path = tmp_path / "ocp.pt"
    torch.save(
        {"config": {"model": "dimenetplusplus", "model_attributes": data["config"]}, "state_dict": weights}, path
    )
    other = load_backbone("dimenet++", checkpoint=str(path), max_neighbors=0)
    atoms = molecule("C6H6")
    assert torch.equal(own.features(atoms), other.features(atoms))
    assert load_backbone("dimenet++", checkpoint=str(path)).max_neighbors == 50
    with pytest.raises(BackboneError, match="not of schnet"):
        load_backbone("schnet", checkpoint=str(path))


@pytest.mark.parametrize("name", ["chgnet", "sevennet", "schnet", "dimenet++"])
def test_predicted_derivatives(name, checkpoint, dimenet):
    """Forces, stress and derivative rows of this backbone with every kernel, against finite differences."""
    files = {"schnet": checkpoint, "dimenet++": dimenet[1]}
    options = {"checkpoint": str(files[name])} if name in files else {}
    check_predictions(load_backbone(name, **options))


def test_features_alone_are_the_same(spec):
    """Without energies the layers behind the features are not run; the features are the same."""
    for backbone in (load_backbone(spec), load_backbone("chgnet"), load_backbone("sevennet")):
        graph = backbone.graph(molecule("CH3OH"))
        whole = backbone.forward(graph, graph.positions)
        alone = backbone.forward(graph, graph.positions, energies=False)
        assert torch.equal(whole.features, alone.features)
        assert alone.energies is None
        assert whole.energies is not None


@pytest.mark.parametrize("version", ["0.3.0", "0.2.0", "r2scan"])
def test_chgnet_equals_the_wheel(real_structures, version):
    from chgnet.model.model import CHGNet
    from pymatgen.io.ase import AseAtomsAdaptor

    atoms = real_structures[0]
    backbone = load_backbone(BackboneSpec("chgnet", layer="conv3", version=version))
    graph = backbone.graph(atoms)
    positions = graph.positions.clone().requires_grad_(True)
    output = backbone.forward(graph, positions)
    forces = -torch.autograd.grad(output.energy(graph).sum(), positions)[0]
    wheel = CHGNet.load(model_name=version, verbose=False, use_device="cpu")
    expected = wheel.predict_structure(AseAtomsAdaptor.get_structure(atoms), return_atom_feas=True)
    assert np.abs(output.features.detach().numpy() - expected["atom_fea"]).max() < 1e-4
    assert float(output.energy(graph)[0]) / len(atoms) == pytest.approx(float(expected["e"]), abs=1e-5)
    assert np.abs(forces.numpy() - expected["f"]).max() < 1e-3
    stress = BackboneEnergies(backbone).predict(atoms, stress=True).stress[0].numpy()
    np.testing.assert_allclose(stress / units.GPa, expected["s"], atol=1e-3)
    assert np.abs(expected["s"]).max() > 0.1


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
    assert own.identity().weight_hash == other.identity().weight_hash
    assert own.identity().options != other.identity().options  # another cap on neighbours


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
    moves = torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(0))
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
    monkeypatch.setattr(
        type(backbone),
        "forward",
        lambda self, g, p, s=None, energies=True: original(self, g, Identity.apply(p), s, energies),
    )
    with pytest.raises((NotImplementedError, RuntimeError)):
        tangents(backbone, graph, Directions.of_displacements(moves), mode="forward")
    torch.testing.assert_close(backbone.tangents(graph, moves), expected, rtol=1e-4, atol=1e-6)


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
    refuse("not of schnet")
    ocp_checkpoint(path, hidden=8, config={"model": "schnet", "model_attributes": {"cutoff": 5.0}})
    refuse("lacks hidden_channels")
    data = torch.load(checkpoint, weights_only=True)
    del data["seal"]  # as 0.1.0 wrote them
    torch.save({**data, "config": {**data["config"], "num_interactions": 2}}, path)
    refuse("unknown")
    torch.save({**data, "config": {**data["config"], "num_filters": 4}}, path)
    refuse("expected")
    torch.save(data, path)
    refuse("no layer", layer="interaction7")


def test_compressed_example_is_what_it_says():
    from tests.conftest import DATA

    with lzma.open(DATA / "test.xyz.xz", "rt") as stream:
        assert len(ase.io.read(stream, "0", format="extxyz")) == 52
