"""LAMMPS with the model's forces gives what ASE's calculator gives, and ends with an error where something is wrong."""

import os
import signal

import numpy as np
import pytest
from ase.md.verlet import VelocityVerlet
from ase.units import fs

from mekrr_scale.engines.lammps import Settings, attach, run_input, start
from mekrr_scale.errors import ConfigError, SimulationError
from mekrr_scale.models import Limits, MekrrCalculator, Potential
from tests.engines.lammps_cells import CELLS, DUMP, THERMO, dumped, input_of, stress_of, thermo, write_cell

pytest.importorskip("lammps")


@pytest.fixture(scope="module")
def calculator(model_file):
    return MekrrCalculator(model_file, dtype="float64")


@pytest.fixture
def lammps(tmp_path, monkeypatch, model_file):
    """Execute an input of a structure, in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def execute(atoms, rest, elements=("H", "C", "O"), **given):
        write_cell(tmp_path / "cell.data", atoms, list(elements))
        style = given.pop("style", "mekrr")
        (tmp_path / "in.lammps").write_text(input_of(atoms, model_file, elements, rest, style=style))
        return run_input("in.lammps", screen=False, log="log.lammps", **given)

    return execute


@pytest.mark.parametrize("name", list(CELLS))
def test_energy_forces_and_stress_are_the_calculators(name, lammps, calculator, tmp_path):
    atoms = CELLS[name].copy()
    assert lammps(atoms, f"{THERMO}{DUMP}run 0\n") == 0
    atoms.calc = calculator
    (row,), atoms_now = thermo(tmp_path / "log.lammps"), dumped(tmp_path / "forces.dump")
    assert row["PotEng"] == pytest.approx(atoms.get_potential_energy(), abs=1e-9)
    forces = np.stack([atoms_now[name] for name in ("fx", "fy", "fz")], axis=1)
    np.testing.assert_allclose(forces, atoms.get_forces(), atol=1e-9)
    np.testing.assert_allclose(atoms_now["c_e"], atoms.get_potential_energies(), atol=1e-9)
    if atoms.pbc.any():
        np.testing.assert_allclose(stress_of(row), atoms.get_stress(), atol=1e-11)
    else:  # the virial of an isolated molecule is that of its forces
        virial = atoms.positions.T @ atoms.get_forces() / atoms.get_volume()
        np.testing.assert_allclose(-stress_of(row), virial.flat[[0, 4, 8, 5, 2, 1]], atol=1e-11)


def test_dispersion_is_added(lammps, model_file, tmp_path):
    pytest.importorskip("dftd3")
    atoms = CELLS["triclinic"].copy()
    assert lammps(atoms, f"{THERMO}run 0\n", dispersion="pbe") == 0
    atoms.calc = MekrrCalculator(model_file, dtype="float64", dispersion="pbe")
    (row,) = thermo(tmp_path / "log.lammps")
    assert row["PotEng"] == pytest.approx(atoms.get_potential_energy(), abs=1e-9)
    np.testing.assert_allclose(stress_of(row), atoms.get_stress(), atol=1e-11)


def test_dynamics_conserve_energy_as_in_ase(lammps, calculator, tmp_path):
    atoms = CELLS["triclinic"].copy()
    steps = "velocity all create 600 4711\ntimestep 0.0005\nfix 1 all nve\nthermo 100\n"
    lammps(atoms, f"{THERMO}{steps}dump d all custom 100 v.dump id vx vy vz\ndump_modify d sort id format float %.17g\n"
           "run 0\nrun 100\n")  # fmt: skip
    text = (tmp_path / "v.dump").read_text()
    (tmp_path / "first.dump").write_text(text[: text.index("ITEM: TIMESTEP", 10)])
    first = dumped(tmp_path / "first.dump")
    atoms.set_velocities(np.stack([first[name] for name in ("vx", "vy", "vz")], axis=1) / (1000 * fs))
    atoms.calc = calculator
    begin = atoms.get_total_energy()
    VelocityVerlet(atoms, 0.5 * fs).run(100)
    *_, before, after = thermo(tmp_path / "log.lammps")
    assert after["Step"] == 100
    assert before["TotEng"] == pytest.approx(begin, abs=1e-6)
    assert after["PotEng"] == pytest.approx(atoms.get_potential_energy(), abs=1e-5)
    assert after["TotEng"] - before["TotEng"] == pytest.approx(atoms.get_total_energy() - begin, abs=1e-6)
    assert abs(after["TotEng"] - before["TotEng"]) < 0.01 * abs(after["PotEng"] - before["PotEng"]) + 1e-5


def test_cells_change_in_dynamics_and_minimisation(lammps, calculator, tmp_path):
    atoms = CELLS["triclinic"].copy()
    box = "thermo_style custom step pe lx ly lz xy xz yz\nthermo_modify format float %.17g\nthermo 50\n"
    lammps(
        atoms,
        f"{box}{DUMP}velocity all create 300 4711\natom_modify sort 5 4.0\ntimestep 0.001\n"
        "fix 1 all npt temp 300 300 0.1 tri 0 0 0.5\nrun 30\nunfix 1\n"
        "fix 2 all box/relax tri 0 vmax 0.005\nmin_modify line quadratic\nminimize 0 1e-2 20 60\n",
    )
    rows = thermo(tmp_path / "log.lammps")
    assert [row["Step"] for row in rows[:3]] == [0, 30, 30]
    for row in (rows[1], rows[-1]):
        frame = atoms.copy()
        frame.set_cell([[row["Lx"], 0, 0], [row["Xy"], row["Ly"], 0], [row["Xz"], row["Yz"], row["Lz"]]])
        assert abs(frame.cell.volume - atoms.cell.volume) > 1e-4
    assert rows[-1]["PotEng"] < rows[2]["PotEng"]
    last = dumped(tmp_path / "forces.dump")
    frame.positions = np.stack([last[name] for name in "xyz"], axis=1)
    frame.calc = calculator
    assert rows[-1]["PotEng"] == pytest.approx(frame.get_potential_energy(), abs=1e-8)


def test_uncertainty_is_a_variable_and_a_property_of_atoms(lammps, calculator, model_file, tmp_path):
    atoms = CELLS["oxide"].copy()
    rest = (
        "thermo_style custom step pe v_mekrr_grade v_mekrr_uncertainty\nthermo_modify format float %.17g\nthermo 1\n"
        'dump d all custom 1 grade.dump id d_mekrr_grade\ndump_modify d sort id format float "%.17g"\n'
    )
    lammps(atoms, f"{rest}run 0\n", style="mekrr uncertainty 1")
    (row,), grades = thermo(tmp_path / "log.lammps"), dumped(tmp_path / "grade.dump")["d_mekrr_grade"]
    atoms.calc = MekrrCalculator(model_file, dtype="float64", uncertainty=True)
    atoms.get_potential_energy()
    np.testing.assert_allclose(grades, atoms.calc.results["extrapolation"], rtol=1e-9)
    assert row["v_mekrr_grade"] == pytest.approx(grades.max(), rel=1e-9)
    assert row["v_mekrr_uncertainty"] == pytest.approx(atoms.calc.results["energy_uncertainty"], rel=1e-9)
    halt = "fix 2 all nve\nfix 1 all halt 1 v_mekrr_grade > 1e-9 error soft\nrun 20\nprint 'on' file went_on\n"
    lammps(atoms, f"{rest}{halt}", style="mekrr uncertainty 2")
    assert thermo(tmp_path / "log.lammps")[-1]["Step"] < 20
    assert (tmp_path / "went_on").exists()
    with pytest.raises(SimulationError, match="Fix halt condition for fix-id 1 met on step 1"):
        lammps(atoms, f"{rest}{halt}".replace("error soft", "error hard"), style="mekrr uncertainty 2")


@pytest.mark.parametrize("limits", [Limits(grade=1e-9), Limits(uncertainty=1e-12)], ids=["grade", "uncertainty"])
def test_bounds_stop_the_run(limits, lammps, tmp_path):
    with pytest.raises(SimulationError, match=r"in.lammps, line 9: stopped at step 0: .*, the bound is") as stopped:
        lammps(CELLS["oxide"], "fix 1 all nve\nrun 5\n", settings=Settings(3, limits))
    assert len(stopped.value.beyond) == len(CELLS["oxide"])
    assert "Loop time of" in (log := (tmp_path / "log.lammps").read_text())
    assert "for 0 steps" in log


@pytest.fixture
def library(tmp_path, monkeypatch):
    """LAMMPS' own library with a cell."""
    monkeypatch.chdir(tmp_path)
    write_cell(tmp_path / "cell.data", CELLS["oxide"], ["C", "O"])
    lmp = start(["-log", "none", "-screen", "none"])
    lmp.commands_string("units metal\natom_style atomic\nbox tilt large\nread_data cell.data\nfix 1 all nve")
    yield lmp
    lmp.close()


def test_a_lammps_that_is_there_takes_a_model(library, calculator):
    atoms = CELLS["oxide"].copy()
    atoms.calc = calculator
    for _ in range(2):  # the second time in place of the first
        external = attach(library, calculator.potential, ["C", "O"], Settings(every=1))
        library.command("run 0")
        assert library.get_thermo("pe") == pytest.approx(atoms.get_potential_energy(), abs=1e-9)
    assert library.extract_variable("mekrr_grade") == external.grade
    with pytest.raises(ConfigError, match="there are 2 atom types, and elements for 1"):
        attach(library, calculator.potential, ["C"])
    library.command("fix s all setforce 0 0 0")
    with pytest.raises(ConfigError, match=r"fix s \(setforce\) would act before the model's forces are there"):
        attach(library, calculator.potential, ["C", "O"])


def test_an_error_of_the_model_stops_the_run_at_once(library, calculator, monkeypatch):
    predict, calls = calculator.potential.predict, []

    def failing(*asked):
        calls.append(1)
        if len(calls) == 4:
            raise RuntimeError("no more\ntoday")
        return predict(*asked)

    monkeypatch.setattr(calculator.potential, "predict", failing)
    library.command("thermo 1")
    external = attach(library, calculator.potential, ["C", "O"])
    with pytest.raises(Exception, match="mekrr: no more today"):
        library.command("run 100")
    assert isinstance(external.error, RuntimeError)
    library.command("run 100")  # LAMMPS skips what comes after a forced end
    assert len(calls) == 4
    assert library.extract_global("ntimestep") <= 4
    assert np.isnan(library.get_thermo("pe"))


def test_ctrl_c_stops_the_run_at_once(lammps, monkeypatch, tmp_path):
    predict, calls = Potential.predict, []

    def interrupted(*asked):
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return predict(*asked)

    monkeypatch.setattr(Potential, "predict", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore Ctrl-C
    try:
        with pytest.raises(KeyboardInterrupt):
            lammps(CELLS["oxide"], "fix 1 all nve\nrun 100\n")
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(calls) == 3


def test_masses_of_other_elements_are_told(lammps):
    with pytest.warns(UserWarning, match="atoms of type 2 weigh 1.008, but C weighs 12.01"):
        lammps(CELLS["tiny"], "mass 2 1.008\nrun 0\n")
