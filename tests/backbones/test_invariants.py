"""Invariants of equivariant channels, and joined layers: what they are, that they do not turn, and that they travel."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator

from mekrr_scale.backbones import (
    BackboneSpec,
    Directions,
    check_backbone,
    identity_of,
    load_backbone,
    new_backbone,
    spec_of,
    tangents,
)
from mekrr_scale.backbones.invariants import N_PRODUCTS, Invariants
from mekrr_scale.cli import main
from mekrr_scale.errors import BackboneError, ConfigError, ModelError, StoreError
from mekrr_scale.models import Potential
from mekrr_scale.pipeline import ExtractPlan, FitPlan, LandmarkPlan, Validation, evaluate, extract, fit
from mekrr_scale.store import Columns, FeatureStore, Reduction, repack
from mekrr_scale.structures import LabelKeys
from mekrr_scale.transfer import StudentSpec
from tests import reference
from tests.backbones.networks import small_sevennet

pytest.importorskip("sevenn")
pytest.importorskip("chgnet")

KINDS = ("scalars", "norms", "products")
# 2 scalars; vectors of both parities, the odd ones in two runs; tensors of degree 2
MIXED = [(2, 0, 1), (3, 1, -1), (4, 1, 1), (2, 1, -1), (1, 2, 1)]
WIDTH = 2 + 3 * 9 + 5


def components(seed=0, atoms=3):
    return torch.randn(atoms, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_against_the_definition(kind, dtype):
    taken = Invariants.of(kind, MIXED, 2, number=3)
    x = components().to(dtype)
    found = taken(x)
    assert found.dtype == dtype
    assert found.shape == (3, taken.dim)
    assert taken.dim == 2 + (kind != "scalars") * 10 + (kind == "products") * 3 * N_PRODUCTS
    expected = np.stack([reference.invariants(kind, row, MIXED, 2, 3) for row in x.double().numpy()])
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12 if dtype == torch.float64 else 1e-4, atol=1e-5)


def test_signs_are_the_same_for_ever():
    """Stores and models hold features of these mixings: other bits would be other features under the same name."""
    signs = Invariants.of("products", [(64, 1, 1)], 0, number=2).channels[0].signs
    assert signs.shape == (64, 2 * N_PRODUCTS)
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    assert abs(float(signs.mean())) < 0.05
    assert hashlib.sha256(signs.to(torch.int8).numpy().tobytes()).hexdigest()[:16] == "3f7c20f973bb46c9"


def test_turned_channels_give_the_same():
    """Vectors of one structure turn together; those of even parity keep their sign where the odd ones lose it."""
    taken = Invariants.of("products", MIXED[:-1], 2, number=1)
    x = components()[:, :-5]
    turn, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
    turned, mirrored = x.clone(), x.clone()
    turned[:, 2:] = (x[:, 2:].unflatten(1, (9, 3)) @ turn).flatten(1)
    torch.testing.assert_close(taken(turned), taken(x), rtol=1e-12, atol=1e-12)
    for start, stop in ((2, 11), (23, 29)):
        mirrored[:, start:stop] *= -1
    torch.testing.assert_close(taken(mirrored), taken(x), rtol=1e-12, atol=1e-12)
    mirrored[:, 2:11] *= -1  # one of two runs of the odd channels alone
    assert not torch.allclose(taken(mirrored), taken(x))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return small_sevennet(tmp_path_factory.mktemp("weights") / "small.pt")


@pytest.fixture(scope="module")
def second(small):
    """The second layer, with each kind."""
    of = {kind: load_backbone("sevennet", layer="gate2", checkpoint=small, invariants=kind) for kind in KINDS}
    return {kind: backbone.to(dtype=torch.float64) for kind, backbone in of.items()}


@pytest.mark.parametrize("parity", [False, True])
def test_sevennet_conforms(parity, small, tmp_path):
    path = small_sevennet(tmp_path / "parity.pt", parity=True) if parity else small
    backbone = load_backbone("sevennet:gate1+gate2:products", checkpoint=path)
    check_backbone(backbone)
    atoms = molecule("CH3CH2OH")
    expected = backbone.features(atoms)
    assert bool((expected.abs().max(0).values > 0).all())
    atoms.positions *= -1
    mirrored = backbone.features(atoms)
    assert torch.allclose(mirrored, expected, rtol=1e-9, atol=1e-12) == parity


def test_chgnet_conforms():
    check_backbone(load_backbone("chgnet:conv1+bond1+angle2+conv3"))


def test_published_weights():
    backbone = load_backbone("sevennet:gate1+gate2:products", version="7net-l3i5")
    assert backbone.dim == 2 * (128 + 64 + 32 + 32 + 3 * N_PRODUCTS) == 896


def test_more_kinds_and_layers_add_columns(small, second):
    """Each kind holds the one before it, and a layer's features are the same beside others."""
    atoms = molecule("CH3CH2OH")
    scalars, norms, products = (second[kind].features(atoms) for kind in KINDS)
    assert [second[kind].dim for kind in KINDS] == [4, 12, 140]
    assert torch.equal(norms[:, :4], scalars)
    assert torch.equal(products[:, :12], norms)
    joined = load_backbone("sevennet:gate3+gate2:products", checkpoint=small).to(dtype=torch.float64)
    assert joined.layer == "gate2+gate3"
    assert joined.dim == 140 + 4  # the last layer has scalars alone
    assert torch.equal(joined.features(atoms)[:, :140], products)
    for kind, found in zip(KINDS, (scalars, norms, products), strict=True):
        assert torch.equal(products[:, second["products"].columns(kind)], found)
    assert joined.columns("scalars") == [*range(4), *range(140, 144)]
    assert load_backbone("sevennet:gate3+gate2:norms", checkpoint=small).columns("norms") == list(range(16))
    for lesser in (load_backbone("chgnet"), second["scalars"]):
        with pytest.raises(BackboneError, match="do not hold norms"):
            lesser.columns("norms")


def test_a_store_holds_those_of_lesser_kinds(small, tmp_path):
    """Taken out of it, they are a store as an extraction of them makes it."""
    frames = bulk_frames()
    kinds = {kind: BackboneSpec("sevennet", "gate2+gate3", checkpoint=small, invariants=kind) for kind in KINDS[::2]}
    networks = {kind: load_backbone(spec) for kind, spec in kinds.items()}
    for kind, spec in kinds.items():
        extract(frames, tmp_path / kind, ExtractPlan(spec, derivatives=3), networks[kind])
    lesser = networks["scalars"]
    places = networks["products"].columns("scalars")
    columns = Columns(places, identity_of(lesser), spec_of(lesser))
    found = repack(tmp_path / "products", tmp_path / "taken", columns=columns)
    expected = FeatureStore(tmp_path / "scalars")
    assert found.header == expected.header
    for one, other in zip(replace(found, tangents=True), replace(expected, tangents=True), strict=True):
        assert torch.equal(one.ids, other.ids)
        for run, same in zip(one.runs, other.runs, strict=True):
            assert torch.equal(run.features, same.features)
            torch.testing.assert_close(run.tangents.features, same.tangents.features, rtol=1e-3, atol=1e-6)  # float16
    with pytest.raises(ConfigError, match="from 0 to 143"):
        repack(tmp_path / "products", tmp_path / "none", columns=replace(columns, places=[144]))
    with pytest.raises(ConfigError, match="take the columns first"):
        repack(tmp_path / "products", tmp_path / "none", reduction=Reduction(3), columns=columns)
    few = repack(tmp_path / "products", tmp_path / "few", reduction=Reduction(3))
    with pytest.raises(StoreError, match="compressed"):
        repack(few.path, tmp_path / "none", columns=columns)


def test_layers_of_chgnet_side_by_side():
    atoms = molecule("CH3CH2OH")
    parts = [load_backbone("chgnet", layer=layer).features(atoms) for layer in ("conv1", "bond1", "angle1", "conv2")]
    together = load_backbone("chgnet", layer="conv2+conv1+angle1+bond1")
    assert together.layer == "conv1+bond1+angle1+conv2"
    assert torch.equal(together.features(atoms), torch.cat(parts, 1))
    graph = together.graph(atoms)
    assert torch.equal(together.forward(graph, graph.positions).features, together.features(atoms))


@pytest.mark.parametrize(("name", "reach"), [("sevennet:gate2:products", 10.0), ("chgnet:bond1+angle1", 9.0)])
def test_what_lies_beyond_the_reach_changes_nothing(name, reach, second):
    """And what lies within it does."""
    sevennet = name.startswith("sevennet")
    backbone = second["products"] if sevennet else load_backbone(name).to(dtype=torch.float64)
    chain = Atoms("SiOSiOSiO", positions=[(2.4 * i, 0.3 * (i % 2), 0.0) for i in range(6)])
    features = backbone.features(chain)
    for moved in range(1, 6):
        changed = chain.copy()
        changed.positions[moved] += (0.0, 0.1, 0.2)
        same = torch.allclose(backbone.features(changed)[0], features[0], rtol=1e-10, atol=1e-10)
        assert same == (chain.get_distance(0, moved) > reach), moved


def test_bonds_and_angles_vanish_smoothly_at_their_cutoffs():
    backbone = load_backbone("chgnet:bond1+angle1").to(dtype=torch.float64)
    pair = Atoms("SiOSi", positions=[(0, 0, 0), (1.6, 0, 0), (0, 0, 0)])

    def at(distance):
        pair.positions[2] = (0.0, distance, 0.0)
        return backbone.features(pair)[0]

    size = float(at(2.0).abs().max())
    for cutoff, columns in ((6.0, slice(0, 64)), (3.0, slice(64, 128))):
        inside, outside = at(cutoff - 1e-4)[columns], at(cutoff + 1e-4)[columns]
        assert float((inside - outside).abs().max()) < 1e-6 * size


def test_perfect_crystals_are_differentiable(second):
    """Where channels vanish by symmetry."""
    backbone = second["products"]
    graph = backbone.graph(bulk("Si"))
    moves = torch.randn(2, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for mode in ("forward", "reverse"):
        assert bool(torch.isfinite(tangents(backbone, graph, Directions.of_displacements(moves), mode).features).all())


def bulk_frames():
    """Displaced crystals with energies and forces."""
    frames = []
    for seed in range(3):
        atoms = bulk("Cu", cubic=True)
        atoms.rattle(0.1, seed=seed)
        atoms.calc = SinglePointCalculator(atoms, energy=-1.0 * seed, forces=np.zeros((4, 3)))
        frames.append(atoms)
    return frames


def labelled(*names):
    """Molecules with an energy."""
    frames = [molecule(name) for name in names]
    for frame in frames:
        frame.info["reference"] = float(len(frame))
    return frames


def test_the_choice_travels(small, tmp_path):
    """Into the store's header, the model's file, and back to the backbone; another choice is another backbone."""
    frames = labelled("H2O", "CH4", "NH3", "C2H2", "CH3OH", "H2CO", "HCN", "N2H4")
    spec = BackboneSpec("sevennet", "gate1", checkpoint=small, invariants="norms")
    extract(frames, tmp_path / "s", ExtractPlan(spec, keys=LabelKeys("reference")))
    header = FeatureStore(tmp_path / "s").header
    assert header.spec["invariants"] == "norms"
    assert header.backbone["options"] == [["invariants", "norms"]]
    assert load_backbone(BackboneSpec.of(header.spec)).options == (("invariants", "norms"),)
    plan = FitPlan(landmarks=LandmarkPlan(count=12), validation=Validation(folds=2, uncertainty=False))
    fit(tmp_path / "s", plan).model.save(tmp_path / "m.mekrr")
    potential = Potential(tmp_path / "m.mekrr")
    assert potential.backbone.dim == 12
    errors = evaluate(potential, tmp_path / "s").metrics()
    assert errors["structures"] == len(frames)
    with pytest.raises(ModelError, match="invariants"):
        Potential(tmp_path / "m.mekrr", load_backbone("sevennet:gate1", checkpoint=small))
    with pytest.raises(StoreError):
        extract(frames, tmp_path / "s", ExtractPlan(replace(spec, invariants="products"), keys=LabelKeys("reference")))


def test_without_them_everything_is_what_it_was(small, second):
    """Identities, specifications and the text by which folders of curves know theirs."""
    plain = load_backbone("sevennet:gate2", checkpoint=small)
    assert plain.identity() == second["scalars"].identity()
    assert plain.identity().options == ()
    assert plain.spec == {"name": "sevennet", "layer": "gate2", "checkpoint": small}
    stored = json.loads((Path(__file__).parents[1] / "stored" / "0.1.0" / "curve" / "plan.json").read_text())
    assert repr(BackboneSpec("chgnet")) == stored["backbone"]
    assert "invariants='norms'" in repr(BackboneSpec("sevennet", invariants="norms"))


def test_written_shortly():
    spec = BackboneSpec("sevennet", "gate1+gate2", invariants="norms")
    assert BackboneSpec.parse("sevennet:gate1+gate2:norms") == spec
    assert BackboneSpec.parse("sevennet::products") == BackboneSpec("sevennet", invariants="products")
    assert ExtractPlan("sevennet:gate1+gate2:norms").backbone == spec
    assert StudentSpec.parse("kernel:sevennet:gate1+gate2:norms").kernel == spec


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("sevennet:gate1:norm", "no invariants 'norm'. Do you mean 'norms'. Possible: norms, products, scalars"),
        ("chgnet:conv3:norms", "backbone chgnet takes no option invariants; it takes checkpoint, layer, version"),
        ("chgnet:conv1+conv9", "no layer 'conv9'"),
        ("chgnet:angle4", "no layer 'angle4'. Do you mean 'angle"),
    ],
)
def test_refused(given, message):
    with pytest.raises(BackboneError, match=message):
        load_backbone(given)


def test_norms_of_nothing_are_refused(small):
    with pytest.raises(BackboneError, match="gate3 of checkpoint has no channels of l > 0 to make norms of"):
        load_backbone("sevennet:gate3:norms", checkpoint=small)


def test_a_new_network_refuses_them_too():
    with pytest.raises(BackboneError, match="schnet takes no option invariants"):
        new_backbone(BackboneSpec("schnet", invariants="norms"))


def test_command_lines(small, monkeypatch, tmp_path, capsys):
    def run(*words):
        monkeypatch.setattr("sys.argv", ["mekrr-scale", *words])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code or 0

    ase.io.write(tmp_path / "a.xyz", labelled("H2O", "CH4"))
    monkeypatch.chdir(tmp_path)
    call = ("extract", "a.xyz", "-o", "s", "--energy-key", "reference", "--checkpoint", small, "--backbone")
    assert run(*call, "sevennet:gate1", "--invariants", "norms") == 0
    assert FeatureStore(tmp_path / "s").header.spec["invariants"] == "norms"
    assert run(*call, "sevennet", "--invariants", "norm") == 2
    told = capsys.readouterr().err
    assert all(kind in told for kind in KINDS)
    assert run(*call, "sevennet:gate1:norms", "--invariants", "products") == ConfigError.exit_code
    assert "give the invariants once" in capsys.readouterr().err
    options = f"--checkpoint {small} --backbone sevennet --invariants norms"
    assert run("slurm", "extract", "a.xyz", "-o", "s", "--script", "j.sbatch", "--options", options) == 0
    assert "--invariants norms" in Path("j.sbatch").read_text()
