"""Each check on potentials whose answer is known: EMT, which is right, and others that are wrong in one way."""

import json
from typing import ClassVar

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.constraints import FixAtoms, Hookean

import mekrr_scale as ms
from mekrr_scale.checks import (
    CHECKS,
    Measured,
    Quantity,
    Thresholds,
    kind_of,
    quick_check,
    read_references,
    read_thresholds,
)
from mekrr_scale.errors import ConfigError, SimulationError, StructureError
from mekrr_scale.models import MekrrCalculator
from mekrr_scale.structures import conventional_cell, relaxed
from tests.crystals import crystals

LIMITS = Thresholds()


class Wrong(Calculator):
    """EMT with something added to its energy, to its forces, or to both consistently."""

    implemented_properties: ClassVar = ["energy", "forces", "stress"]

    def __init__(self, energy=lambda atoms: 0.0, forces=lambda atoms, forces: forces):
        super().__init__()
        self.energy, self.changed = energy, forces

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        copy = self.atoms.copy()
        copy.calc = EMT()
        self.results = {
            "energy": copy.get_potential_energy() + self.energy(copy),
            "forces": self.changed(copy, copy.get_forces()),
            "stress": copy.get_stress(),
        }


def measured(name, atoms, calculator):
    check = CHECKS[name]
    start = relaxed(atoms, calculator, cell=bool(atoms.pbc.all())) if check.relaxed else atoms
    found = check.measure(start.copy(), calculator)
    return found, check.failures(found, None, LIMITS)


COPPER = conventional_cell(bulk("Cu"))
RATTLED = COPPER.copy()
RATTLED.rattle(0.02, seed=1)


def test_kinds_of_structures():
    layered = bulk("Cu") * (1, 1, 1)
    layered.set_cell(layered.cell.array + [[0, 0, 0], [0, 0, 0], [8, 8, 8]])
    assert kind_of(bulk("NaCl", "rocksalt", 5.6)) == "crystal"
    assert kind_of(fcc111("Cu", (1, 1, 3), vacuum=6, periodic=True)) == "slab"
    assert kind_of(Atoms("H2", [[0, 0, 0], [0, 0, 0.7]], cell=[20, 20, 20], pbc=True)) == "molecule"


def test_conventional_cells_stand_upright():
    turned = bulk("Cu")
    turned.rotate(37, "y", rotate_cell=True)
    found = conventional_cell(turned)
    assert len(found) == 4
    np.testing.assert_allclose(found.cell.array, 3.61 * np.eye(3), atol=1e-9)


def test_elasticity_of_copper_by_emt():
    """EMT's own constants: C11 173, C12 116, C44 90 GPa (Jacobsen, Stoltze, Norskov 1996)."""
    found, wrong = measured("elastic", COPPER, EMT())
    assert not wrong
    np.testing.assert_allclose([found[name] for name in ("C11", "C12", "C44")], [173, 116, 90], rtol=0.01)
    equation, wrong = measured("eos", COPPER, EMT())
    assert not wrong
    np.testing.assert_allclose(equation["B0"], found["bulk modulus (Voigt)"], rtol=0.01)
    assert equation["spread of B0"] < 0.02
    assert measured("lattice", COPPER, EMT())[0]["a"] == pytest.approx(3.59, abs=0.01)


def test_a_frame_that_comes_to_rest_as_a_crystal_is_measured_in_its_cell(copper_model):
    """As from molecular dynamics: C11 is along an axis of the crystal, not of the frame."""
    frame = bulk("Cu").repeat((1, 2, 2))
    frame.rattle(0.05, seed=2)
    report = ms.check(copper_model, {"frame": frame, "crystal": bulk("Cu")}, ["lattice", "elastic"], backbone=False)
    lattice, elastic, *of_crystal = [finding.model.quantities for finding in report.findings]
    assert set(elastic) == set(of_crystal[1])
    assert set(lattice) == {"a", "energy"}
    for name in ("C11", "C12", "C44"):
        assert elastic[name].value == pytest.approx(of_crystal[1][name].value, rel=0.02)
    assert lattice["a"].value == pytest.approx(of_crystal[0]["a"].value, rel=1e-3)


@pytest.mark.parametrize("constraint", [FixAtoms([0, 1]), Hookean(0, 1, k=5.0, rt=1.0)])
def test_a_structure_that_is_held_is_measured_as_others(copper_model, constraint):
    slab = fcc111("Cu", (1, 1, 3), vacuum=6, periodic=True)
    held = slab.copy()
    held.set_constraint(constraint)
    given = {"free": slab, "held": held}
    report = ms.check(copper_model, given, ["derivatives", "motion", "extensivity"], backbone=False)
    found = [{k: v.value for k, v in finding.model.quantities.items()} for finding in report.findings]
    assert found[3:] == found[:3]
    assert not report.failed
    assert len(held.constraints) == 1


def test_a_sharp_well_fails():
    """A millielectronvolt an atom within half a percent of the lattice constant."""
    minimum = relaxed(COPPER, EMT(), cell=True).get_volume()

    def well(atoms):
        strain = (atoms.get_volume() / minimum) ** (1 / 3) - 1
        return -2e-3 * len(atoms) * np.exp(-0.5 * (strain / 0.004) ** 2)

    found, wrong = measured("eos", COPPER, Wrong(energy=well))
    assert found["B0 within 0.5 %"] > 1.5 * found["B0 within 4 %"]
    assert "depends on the range of strain" in wrong[0]


def test_phonons():
    found, wrong = measured("phonons", COPPER, EMT())
    assert not wrong
    assert found["highest frequency"] == pytest.approx(8.06, abs=0.1)
    unstable = CHECKS["phonons"].failures(Measured({"lowest frequency": Quantity(-1.2, "THz")}), None, LIMITS)
    assert "1.20i THz" in unstable[0]
    alike = Measured({"lowest frequency": Quantity(-1.0, "THz")})
    assert not CHECKS["phonons"].failures(alike, alike, LIMITS)  # the backbone has it too


def test_vibrations():
    found, wrong = measured("vibrations", molecule("H2O"), EMT())
    assert not wrong
    assert found["highest frequency"] > 2000
    diatomic, _ = measured("vibrations", molecule("N2"), EMT())
    assert diatomic["lowest frequency"] == diatomic["highest frequency"] > 500


@pytest.mark.parametrize("atoms", [COPPER, fcc111("Cu", (1, 1, 3), vacuum=6, periodic=True), molecule("H2O")])
@pytest.mark.parametrize("name", ["motion", "extensivity", "derivatives", "lines", "nve", "heating"])
def test_what_is_right_passes(name, atoms):
    found, wrong = measured(name, atoms, EMT())
    assert not wrong
    assert all(np.isfinite(q.value) or "leaves" in n for n, q in found.quantities.items())


@pytest.mark.parametrize(
    ("name", "calculator", "said"),
    [
        ("motion", Wrong(energy=lambda atoms: atoms.positions[0, 0]), "energy off by"),
        ("motion", Wrong(forces=lambda atoms, forces: forces + [0.1, 0, 0]), "forces off by"),
        ("extensivity", Wrong(energy=lambda atoms: 1.0), "more than twice the energy"),
        ("derivatives", Wrong(forces=lambda atoms, forces: 1.01 * forces), "beside finite differences"),
        (
            "lines",
            Wrong(forces=lambda atoms, forces: forces + 0.05 * (atoms.positions > RATTLED.positions + 0.002)),
            "jumps by 0.05",
        ),
        ("nve", Wrong(forces=lambda atoms, forces: forces + 0.02 * np.sign(atoms.get_velocities())), "drifts by"),
        ("heating", Wrong(forces=lambda atoms, forces: 400 * forces), "calls known"),
    ],
)
def test_what_is_wrong_fails(name, calculator, said):
    _, wrong = measured(name, RATTLED, calculator)
    assert len(wrong) == 1
    assert said in wrong[0]


def test_atoms_that_fall_into_each_other():
    found, wrong = measured("dimers", Atoms("Cu", cell=[9, 9, 9], pbc=True), EMT())
    assert not wrong
    assert found["Cu-Cu lowest at"] == pytest.approx(0.83, abs=0.05)
    _, wrong = measured("dimers", molecule("H2"), LennardJones(sigma=0.25, epsilon=1.0))
    assert "H-H is bound at 0.47" in wrong[0]


@pytest.mark.parametrize("name", ["vacancy", "surface"])
def test_defects_of_copper(name):
    found, wrong = measured(name, COPPER, EMT())
    assert not wrong
    expected = {"vacancy": ("vacancy energy", 1.22), "surface": ("surface (111)", 1.04)}[name]
    assert found[expected[0]] == pytest.approx(expected[1], rel=0.05)
    with pytest.raises(ConfigError, match="one element"):
        CHECKS[name].measure(bulk("CuAu", "rocksalt", 5.0), EMT())


def test_what_does_not_come_to_rest():
    with pytest.raises(SimulationError, match="not at rest"):
        relaxed(COPPER, Wrong(forces=lambda atoms, forces: forces + [1.0, 0, 0]), cell=False, steps=5)


def test_a_model_beside_its_backbone(copper_model, call, tmp_path):
    (tmp_path / "dft.toml").write_text("[Cu4]\nB0 = 134\na = 3.59\n")
    names = ("lattice", "eos", "derivatives", "motion")
    tests = [text for name in names for text in ("--test", name)]
    code, out, err = call(
        "check", copper_model, *tests, "--reference", "dft.toml", "--json", "c.json", "--plot", "c.png"
    )
    found = json.loads((tmp_path / "c.json").read_text())
    by_name = {finding["check"]: finding for finding in found["findings"]}
    assert list(by_name) == ["motion", "derivatives", "lattice", "eos"]
    assert by_name["lattice"]["reference"]["a"] == {"value": 3.59, "unit": "angstrom"}
    assert by_name["eos"]["backbone"]["quantities"]["B0"]["value"] > 50
    assert code == (1 if found["failed"] else 0)
    assert (tmp_path / "c.png").stat().st_size > 5000
    assert "passed" in out
    for line in found["failed"]:
        assert line in err


def test_a_failure_is_one_line_and_exit_code_1(copper_model, call, tmp_path):
    (tmp_path / "dft.toml").write_text("B0 = 300\n")
    ase.io.write(tmp_path / "cu.xyz", bulk("Cu"))
    code, out, err = call("check", copper_model, "cu.xyz", "--test", "eos", "--reference", "dft.toml", "--no-backbone")
    assert code == 1
    assert sum("cu, eos: B0 is" in line and "the reference 300 GPa" in line for line in err.splitlines()) == 1
    assert "1 failed" in out
    (tmp_path / "loose.toml").write_text("reference = 5.0\nbulk_spread = 9.0\n")
    passed = call(
        "check", copper_model, "cu.xyz", "--test", "eos", "--reference", "dft.toml", "--thresholds", "loose.toml"
    )
    assert passed[0] == 0


def test_what_a_fit_can_afford(copper_model, monkeypatch):
    model = ms.load_model(copper_model)
    assert [finding.check for finding in quick_check(model, seconds=1e4).findings] == ["dimers", "eos"]
    assert quick_check(model, seconds=0.0) is None
    monkeypatch.setattr("mekrr_scale.checks.quick.seconds_of", lambda *_: 0.0)  # foreseen wrongly
    late = quick_check(model, seconds=0.0).findings
    assert [finding.check for finding in late] == ["dimers", "eos"]
    assert all("takes longer" in finding.skipped and not finding.failures for finding in late)
    molecules = {"CO2": ["dimers", "vibrations"], "CH3CH2OCH3": []}  # two elements; three, and 12 atoms
    for name, names in molecules.items():
        atoms = molecule(name)
        efforts = {each.name: each.effort(atoms)[1] for each in CHECKS.values() if each.effort(atoms)}
        assert [each for each in ("dimers", "vibrations") if efforts[each] <= 200][: len(names)] == names


def test_a_fit_warns_of_what_is_unphysical(copper_store, call, tmp_path, monkeypatch):
    monkeypatch.setattr("mekrr_scale.checks.run.Thresholds", lambda: Thresholds(bulk_spread=1e-9))
    monkeypatch.setattr("mekrr_scale.checks.quick.seconds_of", lambda *_: 0.0)  # however slow the machine is
    monkeypatch.setattr("mekrr_scale.checks.quick.SECONDS", 500.0)
    fitted = ("fit", "--store", copper_store.path, "--landmarks", "60", "--length-scale", "4x", "--overwrite",
              "-o", tmp_path / "m.mekrr")  # fmt: skip
    code, _, err = call(*fitted)
    assert code == 0
    assert sum("eos: B0 depends on the range of strain" in line for line in err.splitlines()) == 1
    page = (tmp_path / "m.html").read_text()
    assert "Is it physical" in page
    assert "B0 depends on the range of strain" in page
    assert 'aria-label="Cu4: eos, failed"' in page
    assert "B0 depends" not in call(*fitted, "--no-check")[2]
    assert "Is it physical" not in (tmp_path / "m.html").read_text()

    def broken(*_, **__):
        raise RuntimeError("no such thing")

    monkeypatch.setattr("mekrr_scale.checks.quick_check", broken)
    code, _, err = call(*fitted)
    assert code == 0
    assert "the model could not be checked: RuntimeError: no such thing; it is whole" in err


def test_the_sample_of_a_model_is_its_lowest_structure(copper_model):
    atoms = ms.load_model(copper_model).structure
    frames = crystals(24, seed=3)
    lowest = min(frames, key=lambda frame: frame.get_potential_energy())
    np.testing.assert_allclose(atoms.positions, lowest.positions)
    np.testing.assert_allclose(atoms.cell.array, lowest.cell.array)


def test_references(tmp_path):
    frames = []
    for strain in (-0.03, -0.015, 0.0, 0.015, 0.03):
        atoms = bulk("Cu", cubic=True, a=3.59 * (1 + strain))
        atoms.calc = EMT()
        atoms.get_forces()
        frames.append(atoms)
    ase.io.write(tmp_path / "dft.xyz", frames)
    found = read_references(tmp_path / "dft.xyz").of("any", COPPER)
    assert found["B0"] == pytest.approx(134, rel=0.02)
    assert read_references(tmp_path / "dft.xyz").of("any", bulk("Al")) == {}
    for text, said in (("B0 = 'x'", "a number"), ("B0 = 0", "not zero"), ("B0 == 1", "not valid TOML")):
        (tmp_path / "wrong.toml").write_text(text)
        with pytest.raises(ConfigError, match=said):
            read_references(tmp_path / "wrong.toml")


def test_thresholds(tmp_path):
    (tmp_path / "t.toml").write_text("bulk_sprad = 1")
    with pytest.raises(ConfigError, match="Do you mean 'bulk_spread'"):
        read_thresholds(tmp_path / "t.toml")
    (tmp_path / "t.toml").write_text("bulk_spread = 0.3", encoding="utf-8-sig")  # as Windows' editors write it
    assert read_thresholds(tmp_path / "t.toml") == Thresholds(bulk_spread=0.3)
    with pytest.raises(ConfigError, match="there is no file of thresholds"):
        read_thresholds(tmp_path / "none.toml")
    assert read_thresholds(None) == Thresholds()


class Collapsing(MekrrCalculator):
    """Its atoms meet after some calls."""

    left = 5

    def calculate(self, *args, **kwargs):
        self.left -= 1
        if self.left < 0:
            raise StructureError("atoms 0 and 1 are at one place")
        super().calculate(*args, **kwargs)


def test_a_structure_that_falls_apart_is_a_finding(model_file):
    """What was found before stays, and what wants no dynamics is found."""
    names = ["motion", "nve", "vibrations"]
    found = ms.check(Collapsing(model_file, dtype="float64"), molecule("H2O"), names, backbone=False).findings
    assert [finding.verdict for finding in found] == ["passed", "failed", "failed"]
    assert all(finding.failures == ("atoms 0 and 1 are at one place",) for finding in found[1:])


def test_what_cannot_be_asked(copper_model):
    with pytest.raises(ConfigError, match="Do you mean 'elastic'"):
        ms.check(copper_model, bulk("Cu"), ["elastics"])
    with pytest.raises(ms.ModelError, match="not among"):
        ms.check(copper_model, bulk("Al"))
    large = bulk("Cu", cubic=True) * 3
    large.rattle(0.1, seed=0)
    found = ms.check(copper_model, {"large": large}, backbone=False, names="motion")
    assert [finding.check for finding in found.findings] == ["motion"]


def test_a_broken_structure_is_no_fault_of_the_model(copper_model, call, tmp_path):
    """It has no energy before anything moves, so that no test says anything."""
    met, lost = bulk("Cu", cubic=True), bulk("Cu", cubic=True)
    met.positions[1] = met.positions[0]
    lost.positions[2, 0] = np.nan
    for atoms, said in ((met, "bad: atoms 0 and 1 overlap"), (lost, "bad: positions or cell are not finite")):
        with pytest.raises(StructureError, match=said):
            ms.check(copper_model, {"good": bulk("Cu"), "bad": atoms}, ["motion"], backbone=False)
    ase.io.write(tmp_path / "bad.xyz", met)
    code, out, err = call("check", copper_model, "bad.xyz", "--test", "motion", "--no-backbone")
    assert code == 3
    assert "atoms 0 and 1 overlap" in err
    assert "failed" not in out


def test_dynamics_of_one_atom_are_skipped(copper_model):
    """It takes all of the momentum, and has none at rest."""
    found = ms.check(copper_model, Atoms("Cu"), ["motion", "nve", "heating"], backbone=False).findings
    assert [finding.verdict for finding in found] == ["passed", "skipped", "skipped"]
    assert all(finding.skipped == "an atom alone does not move" for finding in found[1:])
