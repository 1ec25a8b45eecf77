"""MACE as a backbone, on small models made here; runs in an environment of its own (`make test-mace`)."""

import importlib.util
import os
import subprocess
import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule

from mekrr_scale.backbones import (
    BackboneEnergies,
    UnsafeCheckpoint,
    available_backbones,
    check_backbone,
    load_backbone,
    save_backbone,
)
from mekrr_scale.errors import BackboneError
from mekrr_scale.models import MekrrCalculator
from mekrr_scale.pipeline import ExtractPlan, FitPlan, KernelPlan, LandmarkPlan, extract, fit
from mekrr_scale.transfer import BlockPlan, Entry, TrainPlan, finetune, pretrain, read_examples
from tests import reference
from tests.backbones.derivatives import check_predictions
from tests.backbones.networks import mace_model

# importing mace here would change the environment that a test looks at
pytestmark = pytest.mark.skipif(importlib.util.find_spec("mace") is None, reason="mace-torch is not installed")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("mace") / "small.model"
    mace_model(path)
    return path


def read(path, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnsafeCheckpoint)
        return load_backbone("mace", checkpoint=str(path), trust_code=True, **options)


@pytest.mark.parametrize("layer", [None, "interaction1"])
def test_mace_conforms(model, layer):
    check_backbone(read(model, **({} if layer is None else {"layer": layer})))


@pytest.mark.parametrize("layer", [None, "interaction1"])
def test_invariants_conform(model, layer):
    """Squared norms and products of the vectors, beside the scalars; mirrors change none of them."""
    backbone = read(model, invariants="products", **({} if layer is None else {"layer": layer}))
    scalars = read(model, **({} if layer is None else {"layer": layer}))
    assert backbone.options == (("invariants", "products"),)
    assert backbone.dim == scalars.dim + 8 + 64
    check_backbone(backbone)
    atoms = molecule("CH3CH2OH")
    expected = backbone.features(atoms)
    held = expected[:, backbone.columns("scalars")]
    torch.testing.assert_close(held.float(), scalars.features(atoms), rtol=1e-4, atol=1e-5)
    atoms.positions *= -1
    torch.testing.assert_close(backbone.features(atoms), expected, rtol=1e-9, atol=1e-12)


def test_invariants_against_their_definition(model):
    """From the states that the network itself makes."""
    backbone = read(model, layer="interaction1", invariants="products").to(dtype=torch.float64)
    states = []
    backbone.module.products[0].register_forward_hook(lambda module, given, state: states.append(state))
    found = backbone.features(molecule("CH3OH"))
    irreps = [(8, 0, 1), (8, 1, -1)]
    expected = [reference.invariants("products", row, irreps, 8, 1) for row in states[0].numpy()]
    np.testing.assert_allclose(found.numpy(), np.stack(expected), rtol=1e-10, atol=1e-12)


def test_norms_of_nothing_are_refused(model):
    with pytest.raises(BackboneError, match="no channels of l > 0 to make norms of"):
        read(model, layer="interaction2", invariants="norms")


@pytest.mark.parametrize(
    "changes",
    [
        {"pair_repulsion": True, "distance_transform": "Agnesi"},
        {"num_interactions": 1},
        {"name": "MACE"},
        {
            "heads": ["dft", "cc"],
            "atomic_energies": np.array([[-1.0, -2.0, -3.0, -4.0], [-5.0, -6.0, -7.0, -8.0]]),
            "atomic_inter_scale": [1.0, 2.0],
            "atomic_inter_shift": [0.1, 0.2],
        },
    ],
)
def test_energies_and_forces_are_maces_own(tmp_path, changes, monkeypatch):
    from mace.calculators import MACECalculator

    path = tmp_path / "other.model"
    mace_model(path, **changes)
    backbone = read(path).to(dtype=torch.float64)
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # as `import mace` leaves it
    head = {"head": backbone.version} if "heads" in changes else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        own = MACECalculator(str(path), device="cpu", default_dtype="float64", **head)
    torch.set_default_dtype(torch.float32)  # the calculator leaves it at float64
    for atoms in (molecule("CH3CH2OH"), bulk("Si", cubic=True)):
        atoms.rattle(0.1, seed=1)
        atoms.calc = own
        graph = backbone.graph(atoms)
        positions = graph.positions.clone().requires_grad_(True)
        energy = backbone.forward(graph, positions).energy(graph)
        assert float(energy) == pytest.approx(atoms.get_potential_energy(), rel=1e-10)
        forces = -torch.autograd.grad(energy.sum(), positions)[0].numpy()
        np.testing.assert_allclose(forces, atoms.get_forces(), rtol=1e-8, atol=1e-9)
        if atoms.pbc.all():
            stress = BackboneEnergies(backbone).predict(atoms, stress=True).results()["stress"]
            np.testing.assert_allclose(stress, atoms.get_stress(), rtol=1e-8, atol=1e-11)
            assert np.abs(stress).max() > 1e-4
    # the features are what MACE calls invariant descriptors
    descriptors = own.get_descriptors(atoms, invariants_only=True)
    np.testing.assert_allclose(backbone.features(atoms).numpy(), descriptors, rtol=1e-8, atol=1e-9)


def test_a_pickled_model_needs_trust_and_a_rewritten_one_does_not(model, tmp_path):
    from mekrr_scale.backbones import save_mace

    with pytest.raises(BackboneError, match="--trust-code"):
        load_backbone("mace", checkpoint=str(model))
    with pytest.warns(UnsafeCheckpoint, match="runs code"):
        first = load_backbone("mace", checkpoint=str(model), trust_code=True)
    plain = tmp_path / "plain.pt"
    with pytest.raises(BackboneError, match="--trust-code"):
        save_mace(model, plain)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnsafeCheckpoint)
        save_mace(model, plain, trust_code=True)
    second = load_backbone("mace", checkpoint=str(plain))  # warnings are errors here
    assert second.identity() == first.identity()


def test_loading_leaves_torch_as_careful_as_it_was(model):
    """Importing mace makes every later `torch.load` run code; loading a backbone undoes that."""
    script = (
        "import os, sys, warnings; warnings.simplefilter('ignore');"
        "from mekrr_scale.backbones import load_backbone;"
        f"load_backbone('mace', checkpoint={str(model)!r}, trust_code=True);"
        "sys.exit('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD' in os.environ)"
    )
    clean = {key: value for key, value in os.environ.items() if key != "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"}
    assert subprocess.run([sys.executable, "-c", script], check=False, env=clean).returncode == 0


def test_predicted_derivatives(model):
    """Forces, stress and derivative rows with every kernel, against finite differences."""
    check_predictions(read(model))


def test_refusals(model, tmp_path):
    with pytest.raises(BackboneError, match="no layer 'interaction3'"):
        read(model, layer="interaction3")
    with pytest.raises(BackboneError, match="no head 'cc'"):
        read(model, version="cc")
    with pytest.raises(BackboneError, match="there is no checkpoint"):
        read(tmp_path / "none.model")
    broken = tmp_path / "broken.model"
    broken.write_bytes(model.read_bytes()[:5000])
    with pytest.raises(BackboneError, match="mace-torch can read"):
        read(broken)
    other = tmp_path / "other.pt"
    torch.save({"model": {"weight": torch.zeros(2)}}, other)
    with pytest.raises(BackboneError, match="not a MACE model"):
        read(other)
    assert {name: usable for name, usable, _ in available_backbones()}["mace"]


def test_extract_fit_and_predict(model, toy_structures, tmp_path):
    """From structures to forces with MACE's features; forces are the energy's derivative."""
    import ase.io

    from mekrr_scale.backbones import BackboneSpec

    kept = [atoms for atoms in toy_structures if set(atoms.numbers.tolist()) <= {1, 6, 8}]
    ase.io.write(tmp_path / "toy.xyz", kept, format="extxyz")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnsafeCheckpoint)
        spec = BackboneSpec("mace", checkpoint=str(model))
        how = ExtractPlan(spec, derivatives=3, dtype="float64")
        with pytest.raises(BackboneError, match="--trust-code"):
            extract(tmp_path / "toy.xyz", tmp_path / "store", how)
        extract(tmp_path / "toy.xyz", tmp_path / "store", how, trust_code=True)
        plan = FitPlan(
            kernel=KernelPlan(length_scales="4x"),
            landmarks=LandmarkPlan(count=40),
            baseline="composition",
            validation=3,
        )
        report = fit(tmp_path / "store", plan)
        atoms = molecule("CH3OH")
        with pytest.raises(BackboneError, match="--trust-code"):  # the model's header is no word of the user's
            MekrrCalculator(report.model, dtype=torch.float64)
        atoms.calc = MekrrCalculator(report.model, dtype=torch.float64, trust_code=True)
        other = replace(report.model, spec={**report.model.spec, "sha256": "0" * 64})
        with pytest.raises(BackboneError, match="another file"):
            MekrrCalculator(other, trust_code=True)
    forces = atoms.get_forces()
    step = 1e-4
    energies = []
    for sign in (1, -1):
        moved = atoms.copy()
        moved.calc = atoms.calc
        moved.positions[1, 2] += sign * step
        energies.append(moved.get_potential_energy())
    assert forces[1, 2] == pytest.approx(-(energies[0] - energies[1]) / (2 * step), rel=1e-5, abs=1e-7)


def test_mace_is_fine_tuned(model, toy_structures, tmp_path):
    """Blocks learn or stay as named; the result is a file without code, read like any other."""
    examples = read_examples(toy_structures)
    backbone = read(model)
    before = {name: weight.clone() for name, weight in backbone.module.named_parameters()}
    blocks = BlockPlan(freeze_up_to="interaction1")
    plan = TrainPlan(steps=4, learning_rate=1e-3, stress_weight=0.0, blocks=blocks)
    tuned = finetune(backbone, examples[:8], examples[8:12], plan, Entry(species={6: 14})).backbone
    moved = {name for name, weight in tuned.module.named_parameters() if not torch.equal(before[name], weight)}
    assert any(name.startswith(("interactions.1", "products.1")) for name in moved)
    assert any(name.startswith("readouts") for name in moved)
    # what carbon is has been copied to silicon, in frozen blocks too; nothing else of them has changed
    frozen = [name for name in moved if name.startswith(("node_embedding", "interactions.0", "products.0"))]
    for name in frozen:
        after = dict(tuned.module.named_parameters())[name]
        assert float((before[name] != after).double().mean()) <= 0.3, name
    save_backbone(tuned, tmp_path / "tuned.pt")
    again = load_backbone("mace", checkpoint=str(tmp_path / "tuned.pt"))
    graph = again.graph(toy_structures[:2])
    found, expected = (b.forward(graph, graph.positions).energies for b in (again, tuned))
    torch.testing.assert_close(found, expected)
    scratch = pretrain(read(model), examples[:8], examples[8:12], TrainPlan(steps=3, stress_weight=0.0))
    assert scratch.backbone.species == {1, 6, 8}
