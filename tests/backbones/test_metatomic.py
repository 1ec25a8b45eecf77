"""Exported models of metatomic as backbones: one that reads edges' vectors, one that reads positions, our own."""

# ruff: noqa: UP006, UP035, UP045 (metatomic compares the annotations with these)
import math
import pickle
import warnings
from dataclasses import replace
from typing import Dict, List, Optional

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from torch import Tensor, nn

from mekrr_scale.backbones import BackboneEnergies, BackboneSpec, UnsafeCheckpoint, check_backbone, load_backbone
from mekrr_scale.backbones.unfolding import unfolded
from mekrr_scale.errors import BackboneError
from mekrr_scale.models import MekrrCalculator, Model, Potential
from mekrr_scale.pipeline import ExtractPlan, FitPlan, KernelPlan, LandmarkPlan, extract, fit
from mekrr_scale.solvers import Direct
from mekrr_scale.structures import edge_vectors

pytest.importorskip("metatomic.torch", reason="metatomic is not installed")

from metatensor.torch import Labels, TensorBlock, TensorMap
from metatomic.torch import (
    AtomisticModel,
    ModelCapabilities,
    ModelMetadata,
    ModelOutput,
    NeighborListOptions,
    System,
)

CUTOFF = 3.0  # angstrom


class Network(nn.Module):
    """Densities of neighbours, twice: the second from the first ones of neighbours; energies from both."""

    def __init__(self, full: bool, positions: bool, unit: float) -> None:
        super().__init__()
        self.positions, self.unit = positions, unit  # of lengths, in angstrom
        self.options = NeighborListOptions(cutoff=CUTOFF / unit, full_list=full, strict=True)
        self.full = full
        generator = torch.Generator().manual_seed(0)
        shapes = [(20, 4), (6, 4), (4, 4), (8,)]
        made = [0.7 * torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
        self.embedding, self.comb, self.mixing, self.energy = (nn.Parameter(one) for one in made)

    def requested_neighbor_lists(self) -> List[NeighborListOptions]:
        return [self.options]

    def of_atoms(self, system: System) -> Tensor:
        block = system.get_neighbor_list(self.options)
        pairs = block.samples.values.to(torch.int64)
        centre, neighbour = pairs[:, 0], pairs[:, 1]
        if self.positions:
            x = system.positions
            vectors = x[neighbour] - x[centre] + pairs[:, 2:].to(x.dtype) @ system.cell
        else:
            vectors = block.values[:, :, 0]
        if not self.full:
            centre, neighbour = torch.cat([centre, neighbour]), torch.cat([neighbour, centre])
            vectors = torch.cat([vectors, -vectors])
        r = torch.linalg.vector_norm(vectors * self.unit, dim=1)[:, None]
        places = torch.linspace(0.5, 3.0, 6, dtype=r.dtype)
        weights = (torch.exp(-2.0 * (r - places) ** 2) @ self.comb.to(r.dtype)) * torch.cos(
            r * (0.5 * math.pi / 3.0)
        ) ** 2
        z = self.embedding[system.types.to(torch.int64)].to(r.dtype)
        first = torch.tanh(torch.zeros_like(z).index_add(0, centre, weights * z[neighbour]))
        second = torch.zeros_like(z).index_add(0, centre, weights * (first @ self.mixing.to(r.dtype))[neighbour])
        return torch.cat([first, torch.tanh(second)], 1)

    def table(self, name: str, values: Tensor, samples: Labels) -> TensorMap:
        columns = torch.arange(values.shape[1], dtype=torch.int32)[:, None]
        block = TensorBlock(values, samples, torch.jit.annotate(List[Labels], []), Labels([name], columns))
        return TensorMap(Labels(["_"], torch.zeros(1, 1, dtype=torch.int32)), [block])

    def forward(
        self, systems: List[System], outputs: Dict[str, ModelOutput], selected_atoms: Optional[Labels] = None
    ) -> Dict[str, TensorMap]:
        features = torch.cat([self.of_atoms(system) for system in systems])
        places: List[Tensor] = []
        for i, system in enumerate(systems):
            at = torch.arange(len(system))
            places.append(torch.stack([torch.full_like(at, i), at], 1))
        # in no order that anybody promises
        samples = Labels(["system", "atom"], torch.cat(places).flip(0).to(torch.int32))
        result: Dict[str, TensorMap] = {}
        for name in outputs.keys():  # noqa: SIM118 (TorchScript)
            if name.startswith("feature"):
                result[name] = self.table("feature", features.flip(0), samples)
            if name == "energy":
                energies = (features @ self.energy.to(features.dtype))[:, None]
                result[name] = self.table("energy", energies.flip(0), samples)
        return result


def save(path, network=None, dtype="float64", unit="angstrom", outputs=("feature", "energy"), kind="atom", **changes):
    """Write a model's file."""
    network = network or Network(full=True, positions=False, unit=1.0)
    known = {name: ModelOutput(unit="eV" if name == "energy" else "", sample_kind=kind) for name in outputs}
    given = {"atomic_types": [1, 6, 8, 14], "interaction_range": 2 * CUTOFF / network.unit, **changes}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces that TorchScript is to go
        capabilities = ModelCapabilities(
            outputs=known, length_unit=unit, supported_devices=["cpu"], dtype=dtype, **given
        )  # fmt: skip
        AtomisticModel(network.eval(), ModelMetadata(name="toy"), capabilities).save(path)
    return path


def read(path, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnsafeCheckpoint)
        return load_backbone("metatomic", checkpoint=str(path), trust_code=True, **options)


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
