"""Exported models of metatomic as backbones: one that reads edges' vectors, one that reads positions, our own."""

import pickle
import sys
import warnings
from dataclasses import replace

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from mekrr_scale.backbones import BackboneEnergies, BackboneSpec, UnsafeCheckpoint, check_backbone, load_backbone
from mekrr_scale.backbones.unfolding import unfolded
from mekrr_scale.errors import BackboneError
from mekrr_scale.models import MekrrCalculator, Model, Potential
from mekrr_scale.pipeline import ExtractPlan, FitPlan, KernelPlan, LandmarkPlan, extract, fit
from mekrr_scale.solvers import Direct
from mekrr_scale.structures import edge_vectors

pytest.importorskip("metatomic.torch", reason="metatomic is not installed")

from tests.backbones.exported import CUTOFF, Network, read, save

KINDS = {
    "vectors": {},
    "positions": {"network": Network(full=True, positions=True, unit=1.0)},
    "half a list, in bohr": {"network": Network(full=False, positions=False, unit=0.529177210544), "unit": "bohr"},
    "old names": {"outputs": ("features", "energy")},
}


@pytest.mark.parametrize("kind", KINDS)
def test_it_conforms(kind, tmp_path):
    backbone = read(save(tmp_path / "model.pt", **KINDS[kind]))
    assert (backbone.dim, backbone.layer, backbone.version) == (8, "feature", "toy")
    assert backbone.by_paths == (kind == "positions")
    assert backbone.reach() == pytest.approx(2 * CUTOFF)
    assert backbone.has_energy
    check_backbone(backbone)


def cells():
    """Images of itself, triclinic, a wire of atoms outside of the cell, several molecules, an atom alone."""
    tiny = bulk("Si", "diamond", 4.2)
    triclinic = bulk("SiC", "zincblende", 3.6).repeat((2, 1, 1))
    triclinic.set_cell(triclinic.cell @ (np.eye(3) + [[0, 0.05, 0], [0.02, 0, 0.03], [0, 0, 0.04]]), scale_atoms=True)
    wire = Atoms("C4", [(1.4 * i - 9.0, 0.1 * i, 0.2) for i in range(4)], cell=[5.6, 9, 9], pbc=(True, False, False))
    wire.positions[2] += [11.2, 0, 0]
    split = molecule("CH3OH", cell=[9, 9, 9], pbc=True)  # across the boundary, where no loop tells of the cell
    split.wrap()
    pair = molecule("H2O") + Atoms("O", [(20, 0, 0)])
    found = {"tiny": tiny, "triclinic": triclinic, "wire": wire, "split": split, "pair": pair}
    for atoms in found.values():
        atoms.rattle(0.05, seed=3)
    return found


@pytest.mark.parametrize("name", list(cells()))
def test_positions_and_vectors_give_the_same(name, tmp_path):
    """What reads the ones gives what reads the others, derivatives included; both at once in one batch."""
    by_vectors = read(save(tmp_path / "vectors.pt")).to(dtype=torch.float64)
    by_positions = read(save(tmp_path / "positions.pt", **KINDS["positions"])).to(dtype=torch.float64)
    batch = [cells()[name], cells()["tiny"]]
    found, expected = (BackboneEnergies(one).predict(batch, stress=True) for one in (by_positions, by_vectors))
    for value in ("energies", "forces", "stress"):
        given, wanted = getattr(found, value).nan_to_num(), getattr(expected, value).nan_to_num()
        torch.testing.assert_close(given, wanted, rtol=1e-9, atol=1e-11)
    assert float(expected.forces.abs().max()) > 1e-3


@pytest.mark.parametrize("name", list(cells()))
def test_an_unfolded_graph_has_the_vectors_it_was_made_of(name, tmp_path):
    """Of a moved and strained structure, too: the geometry is that one, but for where it stands as a whole."""
    backbone = read(save(tmp_path / "vectors.pt")).to(dtype=torch.float64)
    graph = backbone.graph([cells()["triclinic"], cells()[name]])
    generator = torch.Generator().manual_seed(1)
    moved = graph.positions + 0.1 * torch.randn(graph.positions.shape, generator=generator, dtype=torch.float64)
    strain = 0.05 * torch.randn(2, 3, 3, generator=generator, dtype=torch.float64)
    vectors = edge_vectors(graph, moved, strain)
    geometry = unfolded(graph, vectors)
    again = edge_vectors(
        replace(graph, positions=geometry.positions, cell=geometry.cell, vectors=None), geometry.positions
    )
    torch.testing.assert_close(again, vectors, rtol=0, atol=1e-12)
    whole = graph.cell[0] @ (torch.eye(3) + strain[0])  # what loops tell of: the triclinic one's
    torch.testing.assert_close(geometry.cell[0], whole, rtol=0, atol=1e-12)


def test_precision_is_the_files_own(tmp_path):
    """Whatever is asked for: what goes in and comes out is converted, and the identity is the same."""
    double = read(save(tmp_path / "double.pt")).to(dtype=torch.float64)
    single = read(save(tmp_path / "single.pt", network=Network(True, True, 1.0).float(), dtype="float32"))
    atoms = cells()["triclinic"]
    before = single.identity()
    expected = double.features(atoms)
    for dtype in (torch.float32, torch.float64):
        found = single.to(dtype=dtype).features(atoms)
        assert found.dtype == dtype
        assert 0 < float((found - expected).abs().max()) < 1e-5
    assert single.identity() == before
    copied = pickle.loads(pickle.dumps(single))
    assert copied.identity() == before
    assert torch.equal(copied.features(atoms), single.features(atoms))


def test_a_model_on_it(tmp_path, toy_structures):
    """Extracted with derivatives, fitted with its energies, run; its file names the network's, and needs it."""
    frames = [atoms for atoms in toy_structures if set(atoms.numbers.tolist()) <= {1, 6, 8}][:12]
    path = save(tmp_path / "net.pt", **KINDS["positions"])
    spec = BackboneSpec("metatomic", checkpoint=str(path))
    plan = FitPlan(
        kernel=KernelPlan(length_scales="2x"), landmarks=LandmarkPlan(count=30), baseline="backbone",
        solver=Direct((1e-6,)), validation=0,
    )  # fmt: skip
    how = ExtractPlan(spec, derivatives=3, strain=True, dtype="float64")
    with pytest.raises(BackboneError, match="--trust-code"):
        extract(frames, tmp_path / "store", how)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnsafeCheckpoint)
        extract(frames, tmp_path / "store", how, trust_code=True)
        report = fit(tmp_path / "store", plan, trust_code=True)
        (said,) = (text for text in report.warnings if "will not hold" in text)
        assert "holds its network as compiled code, which is not taken into other files" in said
        report.model.save(tmp_path / "m.mekrr")
        model = Model.load(tmp_path / "m.mekrr")
        with pytest.raises(BackboneError, match="--trust-code"):
            Potential(model)
        calculator = MekrrCalculator(model, dtype="float64", trust_code=True)
    atoms = cells()["split"]
    atoms.calc = calculator
    forces, step = atoms.get_forces(), 1e-4
    energies = []
    for sign in (1, -1):
        moved = atoms.copy()
        moved.positions[1, 2] += sign * step
        moved.calc = calculator
        energies.append(moved.get_potential_energy())
    assert forces[1, 2] == pytest.approx((energies[1] - energies[0]) / (2 * step), rel=1e-6, abs=1e-8)
    save(path, network=Network(True, False, 1.0))
    with pytest.raises(BackboneError, match="another file"):
        MekrrCalculator(model, trust_code=True)


REFUSED = {
    "gives no features; its outputs are energy. Export it": {"outputs": ("energy",)},
    "'feature' of .* is of whole structures": {"kind": "system"},
    "depend on all atoms of a structure": {"interaction_range": float("inf")},
    "has no derivatives, so that a model would have no forces": {"network": Network(True, False, 1.0, detached=True)},
}


@pytest.mark.parametrize("message", REFUSED)
def test_models_that_are_refused(message, tmp_path):
    with pytest.raises(BackboneError, match=message):
        read(save(tmp_path / "model.pt", **REFUSED[message]))


def test_what_is_asked_for_and_not_there(tmp_path):
    path = save(tmp_path / "model.pt", outputs=("feature", "feature/late", "energy"))
    with pytest.raises(BackboneError, match="--trust-code"):
        load_backbone("metatomic", checkpoint=str(path))
    with pytest.raises(BackboneError, match="no output 'feature/lat'. Do you mean 'feature/late'"):
        read(path, layer="feature/lat")
    assert read(path, layer="feature/late").layer == "feature/late"
    with pytest.raises(BackboneError, match="no energies of variant 'pbe'"):
        read(path, version="pbe")
    with pytest.raises(BackboneError, match="there is no checkpoint"):
        read(tmp_path / "none.pt")
    (tmp_path / "text.pt").write_text("of the user")
    with pytest.raises(BackboneError, match="not a model that metatomic can read"):
        read(tmp_path / "text.pt")
    with pytest.raises(BackboneError, match="needs --checkpoint"):
        load_backbone("metatomic")
    backbone = read(path)
    with pytest.raises(BackboneError, match="does not know species 26"):
        backbone.features(Atoms("Fe"))
    with pytest.raises(BackboneError, match="as compiled code, which cannot be built anew, nor trained"):
        backbone.parameters()
    assert not read(save(tmp_path / "bare.pt", outputs=("feature",))).has_energy


def test_absence_is_told(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "metatomic.torch", None)
    with pytest.raises(BackboneError, match=r"needs metatomic: pip install 'mekrr-scale\[metatomic\]'"):
        load_backbone("metatomic", checkpoint=str(tmp_path / "x.pt"))


@pytest.mark.filterwarnings("ignore:reading .* runs code")
def test_by_the_command(tmp_path, toy_structures, run):
    ase.io.write(tmp_path / "toy.xyz", toy_structures[:12], format="extxyz")
    save(tmp_path / "net.pt")
    words = ("extract", "toy.xyz", "-o", "f", "--backbone", "metatomic", "--checkpoint", "net.pt")
    code, _, said = run(*words)
    assert code != 0
    assert "--trust-code" in said
    code, out, said = run(*words, "--trust-code")
    assert code == 0, said
    assert "12 structures written" in out
    code, _, said = run("finetune", "toy.xyz", "-o", "t.pt", *words[4:], "--trust-code")
    assert code != 0
    assert "cannot be built anew, nor trained" in " ".join(said.split())
