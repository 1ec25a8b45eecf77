"""The model as i-PI's driver gives what the ASE calculator gives, in one batch; what cannot be used is told."""

import json
import re
import runpy

import ase.io
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.calculator import PropertyNotImplementedError

from mekrr_scale.backbones import Compiled
from mekrr_scale.errors import ConfigError, ModelError, SimulationError, StructureError
from tests.docs.pages import ROOT
from tests.engines.cells import CELLS, expected

pytest.importorskip("ipi")

from ipi.pes import load_pes
from ipi.utils.softexit import softexit
from ipi.utils.units import unit_to_internal

PES = ROOT / "mekrr_scale" / "engines" / "mekrr_pes.py"


def internal(atoms):
    """Cell and positions as i-PI hands them over."""
    lengths = atoms.cell.array.T, atoms.positions
    return [np.array(unit_to_internal("length", "angstrom", given)) for given in lengths]


def in_ev(result):
    """Energy, forces (the derivative in i-PI's own units), virial of a driver's result."""
    ev, angstrom = unit_to_internal("energy", "electronvolt", 1.0), unit_to_internal("length", "angstrom", 1.0)
    return result[0] / ev, result[1] * angstrom / ev, result[2] / ev


@pytest.fixture
def make(model_file, tmp_path):
    """A driver as i-PI makes it, of the template and other parameters."""

    def make(atoms, **parameters):
        ase.io.write(tmp_path / "start.xyz", atoms, format="extxyz")
        given = {"template": str(tmp_path / "start.xyz"), "model": str(model_file), "verbosity": False, **parameters}
        return load_pes("custom", str(PES))(**given)

    return make


@pytest.mark.parametrize("name", CELLS)
def test_results_are_the_calculators(make, model_file, name):
    atoms = expected(model_file, CELLS[name])
    energy, forces, virial = in_ev(make(CELLS[name])(*internal(atoms)))
    assert energy == pytest.approx(atoms.get_potential_energy(), abs=1e-9)
    np.testing.assert_allclose(forces, atoms.get_forces(), atol=1e-9)
    if name == "molecule":
        with pytest.raises(PropertyNotImplementedError):
            atoms.get_stress()
    else:
        np.testing.assert_allclose(-virial / atoms.get_volume(), atoms.get_stress(voigt=False), atol=1e-8)


@pytest.mark.parametrize("name", CELLS)
def test_forces_and_virial_are_derivatives_in_ipis_units(make, name):
    driver, step = make(CELLS[name]), 1e-4
    cell, positions = internal(CELLS[name])
    _, forces, virial, _ = driver(cell, positions)

    def slope(change):
        up, down = (driver(*change(sign * step))[0] for sign in (1, -1))
        return (up - down) / (2 * step)

    direction = np.random.default_rng(0).normal(size=positions.shape)
    moved = slope(lambda t: (cell, positions + t * direction))
    assert -float((forces * direction).sum()) == pytest.approx(moved, abs=1e-6)
    turn = np.random.default_rng(1).normal(size=(3, 3))
    strain = (turn + turn.T) / 2
    strained = slope(lambda t: ((np.eye(3) + t * strain) @ cell, positions @ (np.eye(3) + t * strain)))
    assert -float((virial * strain).sum()) == pytest.approx(strained, abs=1e-6)


def counted(driver, monkeypatch):
    """How many structures each pass of the network has."""
    batches, on_edges = [], driver.potential.on_edges

    def counting(graph, *given, **named):
        batches.append(graph.n_structures)
        return on_edges(graph, *given, **named)

    monkeypatch.setattr(driver.potential, "on_edges", counting)
    return batches


def test_beads_are_one_batch(make, model_file, monkeypatch):
    beads = [CELLS["triclinic"].copy() for _ in range(4)]
    for seed, bead in enumerate(beads):
        bead.rattle(0.03, seed=10 + seed)
    driver = make(beads[0])
    batches = counted(driver, monkeypatch)
    found = driver(*(list(part) for part in zip(*map(internal, beads), strict=True)))
    assert batches == [4]
    for bead, result in zip(beads, found, strict=True):
        atoms = expected(model_file, bead)
        energy, forces, virial = in_ev(result)
        assert energy == pytest.approx(atoms.get_potential_energy(), abs=1e-9)
        np.testing.assert_allclose(forces, atoms.get_forces(), atol=1e-9)
        np.testing.assert_allclose(-virial / atoms.get_volume(), atoms.get_stress(voigt=False), atol=1e-8)
    alone = driver(*([part] for part in internal(beads[1])))
    assert isinstance(alone, list)
    assert alone[0][0] == pytest.approx(found[1][0], abs=1e-11)


def test_what_leaves_the_cache_is_several_batches(make, monkeypatch):
    beads = [CELLS["triclinic"].repeat((2, 2, 1)) for _ in range(3)]
    for seed, bead in enumerate(beads):
        bead.rattle(0.03, seed=seed)
    by_one, driver = (make(beads[0], uncertainty=True) for _ in range(2))
    alone = [by_one(*internal(bead)) for bead in beads]
    batches = counted(driver, monkeypatch)
    found = driver(*(list(part) for part in zip(*map(internal, beads), strict=True)))
    assert batches == [2, 1]
    for one, other in zip(alone, found, strict=True):
        np.testing.assert_allclose(other[0], one[0], atol=1e-11)
        np.testing.assert_allclose(other[1], one[1], atol=1e-11)
        np.testing.assert_allclose(json.loads(other[3])["extrapolation"], json.loads(one[3])["extrapolation"])


def test_extras_are_the_calculators_uncertainty(make, model_file):
    atoms = expected(model_file, CELLS["slab"], uncertainty=True)
    atoms.get_forces()
    results = make(CELLS["slab"], uncertainty=True)(*([part, part] for part in internal(atoms)))
    for result in results:
        extras = json.loads(result[3])
        assert set(extras) == {"energy_uncertainty", "energies_uncertainty", "extrapolation"}
        for name, value in extras.items():
            np.testing.assert_allclose(value, atoms.calc.results[name], rtol=1e-7)
    assert make(CELLS["slab"])(*internal(atoms))[3] == ""


def test_the_network_may_be_compiled(make):
    for wanted in (True, False):
        assert isinstance(make(CELLS["small"], compile=wanted).potential.on_edges, Compiled) == wanted


def test_a_bound_of_the_grade_stops(make):
    far = CELLS["molecule"].copy()
    far.positions[1] += 1.5
    driver = make(CELLS["molecule"], max_grade=1e3)
    near = internal(CELLS["molecule"])
    grade = json.loads(make(far, uncertainty=True)(*internal(far))[3])["extrapolation"]
    assert driver(*near)[3] == ""
    bound = make(CELLS["molecule"], max_grade=0.99 * max(grade))
    told = f"atom {int(np.argmax(grade))} of structure 1 of 2 .* is outside .* grade .* raise the bound"
    with pytest.raises(SimulationError, match=told) as raised:
        bound(*([one, other] for one, other in zip(near, internal(far), strict=True)))
    np.testing.assert_allclose(raised.value.beyond.positions, far.positions)


def test_a_template_says_what_is_periodic(make, model_file, tmp_path):
    plain = tmp_path / "plain.xyz"
    ase.io.write(plain, CELLS["small"], format="xyz")
    with pytest.raises(ConfigError, match=r"plain.xyz has no cell, .* add pbc: T for a periodic one, pbc: F"):
        make(CELLS["small"], template=str(plain))
    one = expected(model_file, CELLS["small"])
    given = make(CELLS["small"], template=str(plain), pbc="T")
    assert in_ev(given(*internal(one)))[0] == pytest.approx(one.get_potential_energy(), abs=1e-9)
    one.pbc = (True, True, False)
    given = make(CELLS["small"], template=str(plain), pbc="T T F")
    assert in_ev(given(*internal(one)))[0] == pytest.approx(one.get_potential_energy(), abs=1e-9)
    assert list(make(CELLS["small"], pbc=False).template.pbc) == [False] * 3
    with pytest.raises(ConfigError, match="pbc: T maybe is not understood; give T, F, or one for each"):
        make(CELLS["small"], pbc="T maybe")


def test_frames_of_templates_can_be_chosen(make, tmp_path):
    ase.io.write(tmp_path / "run.xyz", [CELLS["molecule"], CELLS["small"]], format="extxyz")
    assert len(make(CELLS["small"], template=f"{tmp_path}/run.xyz").template) == 2
    assert len(make(CELLS["small"], template=f"{tmp_path}/run.xyz@0").template) == 3
    with pytest.raises(ConfigError, match="stands for 2 frames; choose one"):
        make(CELLS["small"], template=f"{tmp_path}/run.xyz@:")


@pytest.mark.parametrize(
    ("parameters", "kind", "told"),
    [
        ({"model": None}, ConfigError, "lacks the parameter model: <parameters>{template: start.xyz, model: model.m"),
        ({"template": ""}, ConfigError, "lacks the parameter template"),
        ({"template": "nowhere.xyz"}, StructureError, "there is no file nowhere.xyz"),
        ({"model": "nowhere.mekrr"}, ModelError, "nowhere.mekrr"),
        ({"max_grad": 1.5}, ConfigError, "no parameter 'max_grad'. Do you mean 'max_grade'"),
        ({"max_grade": -1}, ConfigError, "max_grade: -1 is not understood; give a positive number"),
        ({"max_grade": True}, ConfigError, "max_grade: True is not understood"),
        ({"uncertainty": "yes"}, ConfigError, "uncertainty: yes is not understood; give true or false"),
        ({"compile": "yes"}, ConfigError, "compile: yes is not understood; give true or false"),
        ({"dtype": "float46"}, ConfigError, "Do you mean 'float64'"),
    ],
)
def test_parameters_that_cannot_be_used_are_told(make, parameters, kind, told):
    with pytest.raises(kind, match=re.escape(told)):
        make(CELLS["small"], **parameters)


def test_structures_that_cannot_be_used_are_told(make):
    with pytest.raises(ModelError, match=r"species 14 \(Si\) is not among the model's species"):
        make(bulk("Si"))
    driver = make(CELLS["molecule"])
    with pytest.raises(StructureError, match=r"i-PI's structure has 2 atoms, the template .*start.xyz 3; give as"):
        driver(*internal(CELLS["small"]))
    with pytest.raises(StructureError, match="atoms 0 and 1 overlap"):
        driver(np.eye(3) * 10, np.array([[0.0, 0, 0], [0, 0, 0], [0, 0, 2]]))


def test_no_posterior_no_uncertainty(make, fitted, tmp_path):
    from dataclasses import replace

    path = tmp_path / "without.mekrr"
    replace(fitted.model, posterior=None).save(path)
    make(CELLS["small"], model=str(path))
    for parameters in ({"uncertainty": True}, {"max_grade": 2}):
        with pytest.raises(ModelError, match="fit it with uncertainty = true"):
            make(CELLS["small"], model=str(path), **parameters)


def test_within_ipi_errors_end_softly(make, monkeypatch):
    """An exception would end a polling thread alone, and i-PI would wait forever."""
    told = []
    monkeypatch.setattr(softexit, "flist", [("of a simulation", (), {})])
    monkeypatch.setattr(softexit, "trigger", lambda status, message: told.append((status, message)))
    with pytest.raises(StructureError):
        make(CELLS["molecule"])(*internal(CELLS["small"]))
    with pytest.raises(SimulationError):
        make(CELLS["molecule"], max_grade=1e-9)(*internal(CELLS["molecule"]))
    assert [status for status, _ in told] == ["bad", "restartable"]
    assert "give as template the atoms of i-PI's <initialize>" in told[0][1]


def test_the_path_of_the_file_is_printed(capsys):
    runpy.run_path(str(PES), run_name="__main__")
    assert capsys.readouterr().out.strip() == str(PES)
