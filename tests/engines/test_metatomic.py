"""An exported model gives in metatomic what ``MekrrCalculator`` gives, wherever its file lies."""

import os
import re
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.units import Bohr

from mekrr_scale.backbones import BackboneEnergies, BackboneSpec, UnsafeCheckpoint, load_backbone
from mekrr_scale.engines.metatomic import export
from mekrr_scale.engines.metatomic.profiles import profile_of
from mekrr_scale.errors import BackboneError, ConfigError, ModelError
from mekrr_scale.kernels import AtomKernel, GaussianSum, atom_kernel
from mekrr_scale.models import MekrrCalculator, Model
from mekrr_scale.pipeline import ExtractPlan, FitPlan, KernelPlan, LandmarkPlan, Validation, extract, fit
from mekrr_scale.solvers import Direct
from tests.conftest import toy_energy
from tests.engines.exported import ELSEWHERE, asked, compare, in_ase
from tests.engines.lammps_cells import CELLS

ROOT = Path(__file__).parents[2]
ABSENT = "metatomic is not installed"

# what is exported: the backbone and its features, compression, kernel, baseline
KINDS = {
    "chgnet": (BackboneSpec("chgnet"), None, KernelPlan(length_scales="2x"), "composition"),
    "chgnet, means": (
        BackboneSpec("chgnet", layer="conv2+bond2+angle2"), None,
        KernelPlan("matern52", length_scales="2x", standardize="scale", reduce="mean", alphas=(0.5,)), "backbone",
    ),
    "sevennet": (
        BackboneSpec("sevennet"), 40, KernelPlan("matern32", length_scales="2x", alphas=(1.0,)), "backbone",
    ),
    "sevennet, products": (
        BackboneSpec("sevennet", invariants="products"), None,
        KernelPlan("polynomial", standardize="scale-per-species", length_scales="2x"), "composition",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def metatomic():
    return pytest.importorskip("metatomic_ase", reason=ABSENT)


@pytest.fixture(scope="module")
def fitted_to(tmp_path_factory):
    """Models of each kind, fitted when they are asked for."""
    folder = tmp_path_factory.mktemp("metatomic")
    frames = []
    for seed in range(4):
        for cell in CELLS.values():
            atoms = cell.copy()
            atoms.info.clear()  # fcc111's notes
            atoms.rattle(0.05, seed=seed)
            energy, forces = toy_energy(atoms)
            atoms.calc = SinglePointCalculator(atoms, energy=energy, free_energy=energy, forces=forces)
            frames.append(atoms)
    ase.io.write(folder / "frames.xyz", frames, format="extxyz")
    found = {}

    def fitted_to(kind):
        if kind not in found:
            spec, compress, kernel, baseline = KINDS[kind]
            pytest.importorskip({"chgnet": "chgnet", "sevennet": "sevenn"}[spec.name])
            store = folder / kind
            extract(folder / "frames.xyz", store, ExtractPlan(spec, dtype="float64", compress=compress))
            plan = FitPlan(
                kernel=kernel, landmarks=LandmarkPlan(count=40), baseline=baseline, solver=Direct((1e-6,)),
                validation=Validation(folds=3),
            )  # fmt: skip
            found[kind] = fit(store, plan).model
        return found[kind]

    return fitted_to


class Exported(NamedTuple):
    path: Path
    theirs: Any  # metatomic's calculator of the file
    mine: MekrrCalculator


@pytest.fixture(scope="module")
def exported(metatomic, fitted_to, tmp_path_factory):
    """Exported models of each kind."""
    folder, found = tmp_path_factory.mktemp("exported"), {}

    def exported(kind):
        if kind not in found:
            model, path = fitted_to(kind), folder / f"{kind}.pt"
            export(model, path)
            found[kind] = Exported(path, in_ase(path), MekrrCalculator(model, dtype="float64"))
        return found[kind]

    return exported


@pytest.mark.parametrize("kind", list(KINDS))
def test_all_is_the_calculators(kind, exported):
    _, theirs, mine = exported(kind)
    cells = list(CELLS.values())
    if kind == "sevennet, products":  # TorchScript compiles its sevennet for some seconds
        cells = [CELLS["oxide"], CELLS["molecule"]]
    compare(theirs, mine, cells)
    expected = mine.potential.uncertainty(cells)
    found = asked(theirs, cells, "energy_uncertainty", "system")[:, 0]
    torch.testing.assert_close(found, expected.energy, rtol=1e-7, atol=1e-9)
    found = asked(theirs, cells, "energy_uncertainty", "atom")[:, 0]
    torch.testing.assert_close(found, expected.energies, rtol=1e-7, atol=1e-9)
    systems = asked(theirs, cells, "energy", "system")[:, 0]
    torch.testing.assert_close(systems, mine.potential.predict(cells).energy, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "kernel", [GaussianSum((1.0, 3.0)), atom_kernel("linear", length_scale=2.0, offset=0.5)], ids=lambda k: k.name
)
def test_other_kernels(kernel, metatomic, fitted_to, tmp_path):
    """Coefficients of another kernel are as good as any."""
    model = fitted_to("chgnet")
    other = replace(model, kernel=replace(model.kernel, atom=kernel), posterior=None)
    export(other, tmp_path / "model.pt")
    theirs = in_ase(tmp_path / "model.pt")
    compare(theirs, MekrrCalculator(other, dtype="float64"), [CELLS["oxide"]])
    with pytest.raises(ValueError, match="energy_uncertainty"):
        asked(theirs, CELLS["oxide"], "energy_uncertainty", "system")


def test_a_part_of_the_atoms_and_an_isolated_one(exported):
    _, theirs, mine = exported("sevennet")
    from metatensor.torch import Labels

    alone = Atoms("C", [[0.1, 0.2, 0.3]])
    compare(theirs, mine, [alone])
    atoms = CELLS["molecule"]
    some = Labels(["system", "atom"], torch.tensor([[0, 1], [0, 3]], dtype=torch.int32))
    expected = mine.potential.predict(atoms).energies[[1, 3]]
    found = asked(theirs, atoms, "energy", "atom", selected_atoms=some)[:, 0]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    found = asked(theirs, atoms, "energy", "system", selected_atoms=some)
    assert float(found) == pytest.approx(float(expected.sum()), abs=1e-9)
    one = Labels(["system", "atom"], torch.tensor([[0, 3]], dtype=torch.int32))
    widths = [asked(theirs, atoms, "energy_uncertainty", kind, selected_atoms=one) for kind in ("system", "atom")]
    assert float(widths[0]) == pytest.approx(float(widths[1]), rel=1e-7)  # of the chosen atom alone


def test_the_network_in_float32(metatomic, fitted_to, tmp_path):
    model, atoms = fitted_to("chgnet"), CELLS["oxide"].copy()
    export(model, tmp_path / "model.pt", dtype="float32")
    theirs, mine = in_ase(tmp_path / "model.pt"), MekrrCalculator(model, dtype="float32")
    expected = mine.potential.predict(atoms)
    atoms.calc = theirs
    assert atoms.get_potential_energy() == pytest.approx(float(expected.energy[0]), abs=1e-4)
    np.testing.assert_allclose(atoms.get_forces(), expected.forces, atol=1e-4)


def test_the_file_says_what_it_is(metatomic, fitted_to, tmp_path):
    from metatomic.torch import load_atomistic_model

    export(fitted_to("chgnet"), tmp_path / "model.pt")
    export(fitted_to("chgnet"), tmp_path / "model.pt")  # its own file may be replaced
    found = load_atomistic_model(tmp_path / "model.pt")
    capabilities, metadata = found.capabilities(), found.metadata()
    assert capabilities.atomic_types == [1, 6, 8]
    assert capabilities.interaction_range == 18.0
    assert (capabilities.length_unit, capabilities.dtype) == ("angstrom", "float64")
    assert capabilities.supported_devices == ["cpu", "cuda"]
    assert metadata.name == "mekrr-scale model on chgnet 0.3.0"
    assert "mekrr-scale" in metadata.authors[0]
    assert any("2306.01589" in paper for paper in metadata.references["architecture"])
    export(fitted_to("chgnet, means"), tmp_path / "means.pt")  # an atom's weight depends on how many there are
    assert load_atomistic_model(tmp_path / "means.pt").capabilities().interaction_range == np.inf


def test_the_file_needs_nothing_of_ours(metatomic, fitted_to, tmp_path, call):
    """Moved, in a process that never imports the package or the network's."""
    from ase.build import bulk

    model = fitted_to("sevennet")
    model.save(tmp_path / "model.mekrr")
    code, out, _ = call("export", "model.mekrr", "--format", "metatomic", "-o", "model.pt")
    assert (code, out) == (0, "model.pt: a model of metatomic\n")
    (tmp_path / "there").mkdir()
    (tmp_path / "model.pt").rename(tmp_path / "there" / "moved.pt")
    (tmp_path / "model.mekrr").unlink()
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ELSEWHERE], cwd=tmp_path / "there", capture_output=True, text=True,
        check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    atoms = bulk("CO", "rocksalt", a=4.2)
    atoms.calc = MekrrCalculator(model, dtype="float64")
    assert float(done.stdout.strip().split("(")[-1].rstrip(")")) == pytest.approx(
        atoms.get_potential_energy(), abs=1e-9
    )


def test_the_file_gives_features(exported):
    """The network's, which make it a backbone: with the model's energies for its own."""
    one = exported("chgnet")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnsafeCheckpoint)
        backbone = load_backbone("metatomic", checkpoint=str(one.path), trust_code=True).to(dtype=torch.float64)
    atoms = CELLS["oxide"]
    expected = one.mine.potential.backbone.features(atoms)
    torch.testing.assert_close(backbone.features(atoms), expected, rtol=0, atol=1e-12)
    found, wanted = BackboneEnergies(backbone).predict(atoms), one.mine.potential.predict(atoms)
    torch.testing.assert_close(found.energies, wanted.energies, rtol=0, atol=1e-9)
    torch.testing.assert_close(found.forces, wanted.forces, rtol=0, atol=1e-9)
    system = asked(one.theirs, atoms, "feature", "system")
    torch.testing.assert_close(system[0], expected.sum(0), rtol=0, atol=1e-10)
    assert (backbone.cutoff, backbone.hops(False), backbone.by_paths) == (6.0, 3, False)


class Mine(AtomKernel):
    name, stationary, scale = "mine", True, 1.0

    def profile(self, t):
        return t

    slope = curvature = profile


def test_what_is_wrong_is_told(exported, fitted_to, model_file, tmp_path):
    model = fitted_to("chgnet")
    copper = Atoms("Cu", cell=np.eye(3) * 3, pbc=True, calculator=exported("chgnet")[1])
    with pytest.raises((ValueError, RuntimeError), match="does not support the atomic type '29'"):
        copper.get_potential_energy()
    with pytest.raises(BackboneError, match="models on backbone schnet cannot be exported to metatomic; those on sev"):
        export(Model.load(model_file), tmp_path / "schnet.pt")
    corrects = replace(model, baseline=replace(model.baseline, prior=True), prior={"kind": "labels"})
    with pytest.raises(ModelError, match=r"corrects another potential \(its prior\), which cannot be exported"):
        export(corrects, tmp_path / "prior.pt")
    with pytest.raises(ModelError, match="the kernel 'mine' cannot be exported; those of the package's own can"):
        profile_of(Mine())
    with pytest.raises(ConfigError, match="a model of metatomic"):
        export(model, tmp_path / "model.xyz")
    (tmp_path / "other.pt").write_text("of the user")
    with pytest.raises(ConfigError, match="overwrite"):
        export(model, tmp_path / "other.pt")


def test_absence_is_told(monkeypatch, model_file, tmp_path):
    monkeypatch.setitem(sys.modules, "metatomic.torch", None)
    with pytest.raises(ConfigError, match=r"metatomic is not installed: pip install 'mekrr-scale\[metatomic\]'"):
        export(model_file, tmp_path / "model.pt")


def filled(cell):
    """Periodic in all directions, as these engines see cells; a slab's and a molecule's images are out of reach."""
    atoms = cell.copy()
    atoms.info.clear()
    atoms.pbc = True
    return atoms


PERIODIC = {name: filled(CELLS[name]) for name in ("tiny", "triclinic", "oxide", "slab", "molecule")}

# by the baselines composition and backbone, the network's own energies; TorchScript compiles sevennet for some seconds
IN_ENGINES = {"chgnet": list(PERIODIC), "sevennet": ["tiny", "oxide"]}


@pytest.mark.parametrize("kind", IN_ENGINES)
def test_torch_sim_reads_it(kind, exported, monkeypatch):
    """By torch-sim's interface, whose module asks for metatrain, too, to download models with."""
    ts = pytest.importorskip("torch_sim")
    for name in ("metatrain", "metatrain.utils", "metatrain.utils.io"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["metatrain.utils.io"].load_model = None
    monkeypatch.delitem(sys.modules, "torch_sim.models.metatomic", raising=False)
    from torch_sim.models.metatomic import MetatomicModel

    cells, one = [PERIODIC[name] for name in IN_ENGINES[kind]], exported(kind)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it calls metatomic by names that are to go
        theirs = MetatomicModel(str(one.path), device="cpu")
        found = theirs(ts.initialize_state(cells, device=torch.device("cpu"), dtype=torch.float64))
    expected = one.mine.potential.predict(cells, stress=True)
    torch.testing.assert_close(found["energy"], expected.energy, rtol=0, atol=1e-9)
    torch.testing.assert_close(found["forces"], expected.forces, rtol=0, atol=1e-9)
    torch.testing.assert_close(found["stress"], expected.stress, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", IN_ENGINES)
def test_i_pi_reads_it(kind, exported, tmp_path):
    """By i-PI's own driver: a cell after the other, and beads in one batch."""
    pytest.importorskip("ipi")
    from ipi.pes import load_pes
    from ipi.utils.units import unit_to_internal

    one = exported(kind)
    units = {"energy": "electronvolt", "length": "angstrom", "force": "ev/ang"}
    ev, angstrom, force = (unit_to_internal(kind, unit, 1.0) for kind, unit in units.items())

    def driver(atoms):
        ase.io.write(tmp_path / "start.xyz", atoms, format="extxyz")
        return load_pes("metatomic", "")(template=str(tmp_path / "start.xyz"), model=str(one.path), verbose=False)

    def check(atoms, result):
        expected = one.mine.potential.predict(atoms, stress=True)
        assert result[0] / ev == pytest.approx(float(expected.energy[0]), rel=0, abs=1e-9)
        np.testing.assert_allclose(result[1] / force, expected.forces, rtol=0, atol=1e-9)
        np.testing.assert_allclose(-result[2] / ev / atoms.get_volume(), expected.stress[0], rtol=0, atol=1e-9)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it calls metatomic by names that are to go
        for atoms in (PERIODIC[name] for name in IN_ENGINES[kind]):
            check(atoms, driver(atoms)(atoms.cell.array.T * angstrom, atoms.positions * angstrom))
        beads = [PERIODIC["oxide"].copy() for _ in range(3)]
        for seed, bead in enumerate(beads):
            bead.rattle(0.03, seed=10 + seed)
        cells, positions = ([part * angstrom for part in parts] for parts in
                            ([bead.cell.array.T for bead in beads], [bead.positions for bead in beads]))  # fmt: skip
        for bead, result in zip(beads, driver(beads[0])(cells, positions), strict=True):
            check(bead, result)


def test_the_page_runs_as_it_stands(metatomic, fitted_to, tmp_path, monkeypatch, call):
    model = fitted_to("chgnet")
    model.save(tmp_path / "model.mekrr")
    page = (ROOT / "docs" / "engines" / "metatomic.md").read_text()
    (command,) = re.findall(r"^    mekrr-scale (export .*)$", page, re.MULTILINE)
    assert call(*command.split())[0] == 0
    (block,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "metatomic.md", "exec"), {})
    assert (tmp_path / "run.traj").exists()
    _check_i_pi(page, MekrrCalculator(model, dtype="float64"), tmp_path)


def _check_i_pi(page, calculator, folder):
    """The input of i-PI's page with the driver of this one runs: the first energy of its beads is the calculator's."""
    ipi = pytest.importorskip("ipi")
    (driver,) = re.findall(r"^```xml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    text = re.search(r"```xml\n(.*?)```", (ROOT / "docs" / "engines" / "ipi.md").read_text(), re.DOTALL)[1]
    text = re.sub(r"<trajectory filename='grade'.*?</trajectory>", "", text)
    text = re.sub(r"<ffdirect.*</ffdirect>", driver, text, flags=re.DOTALL)
    text = text.replace("<simulation ", "<simulation floatformat='%.17e' ").replace(
        "<total_steps>1000", "<total_steps>2"
    )
    (folder / "input.xml").write_text(text)
    ase.io.write(folder / "start.xyz", PERIODIC["triclinic"], format="extxyz")
    site = Path(ipi.__file__).parents[1]
    program = shutil.which("i-pi", path=os.pathsep.join(map(str, (Path(sys.executable).parent, site / "bin"))))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", program, "input.xml"], cwd=folder, capture_output=True, text=True, check=False,
        timeout=120,
    )  # fmt: skip
    rows = [line.split() for line in (folder / "run.out").read_text().splitlines() if not line.startswith("#")]
    assert [float(row[0]) for row in rows] == [0, 1, 2], done.stdout + done.stderr
    from ipi.utils.units import unit_to_internal

    atoms = ase.io.read(
        folder / "start.xyz"
    )  # which i-PI reads with ASE's angstrom, and which its driver gets in its own
    atoms.set_cell(atoms.cell / (Bohr * unit_to_internal("length", "angstrom", 1.0)), scale_atoms=True)
    potential = calculator.potential.predict(atoms, forces=False).energy
    assert float(rows[0][5]) == pytest.approx(float(potential[0]), rel=0, abs=1e-9)
