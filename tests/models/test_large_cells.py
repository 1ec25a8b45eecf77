"""Cells that are worked on in chunks: the same results, within the memory that is stated."""

import re
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule

from benchmarks.measuring import Peak
from mekrr_scale.backbones import BackboneEnergies, BackboneSpec, load_backbone, new_schnet, save_dimenet, within_memory
from mekrr_scale.errors import BackboneError, ConfigError
from mekrr_scale.models import MekrrCalculator, Potential
from mekrr_scale.models.stresses import atomic_stresses
from mekrr_scale.pipeline import KernelPlan, fit
from tests.engines.cells import sheared


def cells():
    """Of some thousand edges, each of its own kind."""
    crystal = bulk("C", "diamond", 3.6).repeat((3, 3, 3))
    triclinic = sheared().repeat(2)
    slab = bulk("C", "diamond", 3.6, cubic=True).repeat((2, 2, 2))
    slab.center(vacuum=4.0, axis=2)
    slab.pbc = (True, True, False)
    cluster = molecule("CH4")
    for k in range(1, 40):
        other = molecule(("CH4", "H2O")[k % 2])
        other.translate(2.6 * np.array([k % 4, k // 4 % 4, k // 16]))
        cluster += other
    found = {"crystal": crystal, "triclinic": triclinic, "slab": slab, "molecules": cluster}
    for seed, atoms in enumerate(found.values()):
        atoms.rattle(0.05, seed=seed)
    return found


CELLS = cells()
KINDS = {
    "sum": {},
    "mean": {"kernel": KernelPlan(length_scales="2x", alphas=0.4, reduce="mean")},
    "own energies": {"baseline": "backbone"},
}


@pytest.fixture(scope="module", params=KINDS)
def model(request, store, small_plan):
    return fit(store, replace(small_plan, **KINDS[request.param])).model


def least(potential, atoms):
    """The smallest bound that a structure can be predicted within (bytes), as the refusal of a smaller one says."""
    with pytest.raises(BackboneError, match="smaller cell") as refused:
        Potential(potential.model, potential.backbone, "float64", max_memory=1).predict(atoms)
    return int(re.search(r"--max-memory (\d+)MB", str(refused.value))[1]) * 10**6


def bounded(potential, atoms, model=None):
    """The same potential with the smallest bound, which works on the structure in several chunks."""
    given = Potential(model or potential.model, potential.backbone, "float64", max_memory=least(potential, atoms))
    graph = given.within_memory(given.backbone.graph(atoms), given.adds_own)
    assert graph.at_once is not None
    assert graph.at_once < graph.edge_index.shape[1] / 2
    return given


def assert_same(found, expected, stress):
    """To 1e-9 eV, 1e-9 eV/angstrom, 1e-10 eV/angstrom^3."""
    torch.testing.assert_close(found.energy, expected.energy, rtol=0, atol=1e-9)
    torch.testing.assert_close(found.energies, expected.energies, rtol=0, atol=1e-9)
    torch.testing.assert_close(found.forces, expected.forces, rtol=0, atol=1e-9)
    assert float(expected.forces.abs().max()) > 1e-3
    if stress:
        torch.testing.assert_close(found.stress, expected.stress, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", CELLS)
def test_chunks_give_what_the_whole_gives(model, name):
    atoms = CELLS[name]
    whole = Potential(model, dtype="float64")
    chunked = bounded(whole, atoms)
    stress = bool(atoms.pbc.all())
    expected, sure = whole.predict_with_uncertainty(atoms, stress=stress)
    found, unsure = chunked.predict_with_uncertainty(atoms, stress=stress)
    assert_same(found, expected, stress)
    for part in ("energy", "energies", "grade"):
        torch.testing.assert_close(getattr(unsure, part), getattr(sure, part), rtol=1e-7, atol=1e-12)
    assert float(chunked.predict(atoms, forces=False).energy) == pytest.approx(float(expected.energy), abs=1e-9)
    torch.testing.assert_close(chunked.uncertainty(atoms).grade, sure.grade, rtol=1e-7, atol=1e-12)
    if stress:
        torch.testing.assert_close(atomic_stresses(chunked, atoms), atomic_stresses(whole, atoms), rtol=0, atol=1e-10)


def test_structures_side_by_side_and_atoms_alone(model):
    """A batch is one graph; atoms without neighbours have no edges in any chunk."""
    lone = molecule("CH4")[:1]
    batch = [lone, CELLS["molecules"], CELLS["triclinic"]]
    whole = Potential(model, dtype="float64")
    assert_same(bounded(whole, batch).predict(batch), whole.predict(batch), stress=False)


def test_a_prior_works_in_chunks_too(store, small_plan, checkpoint):
    """Of a model that corrects another potential the other one keeps to the bound as well."""
    atoms = CELLS["crystal"]
    inner = Potential(fit(store, small_plan).model, dtype="float64")
    backbone = load_backbone("schnet", checkpoint=str(checkpoint)).to(dtype=torch.float64)
    bound = least(inner, atoms)
    with pytest.raises(BackboneError, match="smaller cell"):
        BackboneEnergies(backbone, 1).predict(atoms)
    chunked = BackboneEnergies(backbone, 2 * bound).predict(atoms, stress=True)
    assert_same(chunked, BackboneEnergies(backbone).predict(atoms, stress=True), stress=True)
    graph = backbone.graph(atoms)
    assert within_memory(backbone, graph, True, 2 * bound).at_once < graph.edge_index.shape[1]


def test_the_calculator_keeps_to_its_bound(model_file):
    atoms = CELLS["crystal"].copy()
    whole = MekrrCalculator(model_file, dtype="float64")
    bound = least(whole.potential, atoms)
    chunked = MekrrCalculator(model_file, dtype="float64", max_memory=bound, uncertainty=True)
    for step in range(2):  # with a new list, and with the old one
        atoms.rattle(0.01, seed=step)
        found = [(c.get_property("forces", atoms), c.get_property("stress", atoms)) for c in (chunked, whole)]
        np.testing.assert_allclose(found[0][0], found[1][0], atol=1e-9)
        np.testing.assert_allclose(found[0][1], found[1][1], atol=1e-10)
    assert chunked.potential.max_memory == bound
    with pytest.raises(ConfigError, match="'much' is not a size"):
        MekrrCalculator(model_file, max_memory="much")


def memory_taken(*bounds):
    """MB that features and their gradient take of one network within each bound (0: at once), and the gradients."""
    torch.manual_seed(0)
    backbone = new_schnet({"hidden_channels": 128, "num_filters": 128, "cutoff": 5.0})

    def taken(atoms, bound):
        graph = backbone.graph(atoms)
        graph = within_memory(backbone, graph, False, bound * 10**6) if bound else graph
        positions = graph.positions.clone().requires_grad_(True)
        with Peak() as peak:
            features = backbone.forward(graph, positions, energies=False).features
            (found,) = torch.autograd.grad(features.sum(), positions)
        return peak.added, found.numpy()

    crystal = bulk("C", "diamond", 3.6).repeat((8, 8, 8))
    taken(crystal[:50], 0)
    return [taken(crystal, bound) for bound in bounds]


def test_memory_stays_within_the_bound():
    """Measured, of a network that takes three times as much at once, in a process that other tests left nothing in."""
    bound = 150
    with ProcessPoolExecutor(1, get_context("spawn")) as alone:
        (chunked, forces), (whole, expected) = alone.submit(memory_taken, bound, 0).result()
    assert chunked < bound
    assert whole > 2.5 * bound
    np.testing.assert_allclose(forces, expected, rtol=1e-3, atol=1e-4)


def test_what_fits_is_worked_on_at_once(model_file):
    """To the same bits as without a bound."""
    atoms = CELLS["crystal"]
    plain, bound = Potential(model_file), Potential(model_file, max_memory="2GB")
    assert bound.within_memory(bound.backbone.graph(atoms), energies=False).at_once is None
    assert torch.equal(plain.predict(atoms).forces, bound.predict(atoms).forces)


def test_a_backbone_that_knows_no_chunks_says_so(tmp_path):
    from torch_geometric.nn.models import DimeNetPlusPlus

    torch.manual_seed(0)
    network = DimeNetPlusPlus(16, 1, 2, 8, 4, 16, 3, 4, cutoff=4.0)
    save_dimenet(network, tmp_path / "d.pt")
    backbone = load_backbone(BackboneSpec("dimenet++", checkpoint=str(tmp_path / "d.pt")))
    atoms = CELLS["crystal"]
    with pytest.raises(BackboneError, match=r"more than the 1 MB of max_memory, and backbone dimenet\+\+ does not"):
        BackboneEnergies(backbone, 10**6).predict(atoms)
    assert BackboneEnergies(backbone).predict(atoms).forces.isfinite().all()


def test_without_a_bound_it_is_what_is_free(monkeypatch, model_file):
    """On a machine without memory a cell is worked on in the smallest chunks, and nothing is refused."""
    from mekrr_scale.backbones import memory

    atoms = CELLS["crystal"]
    potential = Potential(model_file, dtype="float64")
    expected = potential.predict(atoms)
    assert memory.free_memory(torch.device("cpu")) > 10**8
    monkeypatch.setattr(memory, "free_memory", lambda device: 10**6)
    graph = potential.within_memory(potential.backbone.graph(atoms), energies=False)
    assert graph.at_once is not None
    assert_same(potential.predict(atoms), expected, stress=False)
