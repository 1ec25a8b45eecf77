"""Labels by a calculator: what is written, what goes on after a kill, what is refused."""

import json
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import ExternalForce, FixAtoms, Hookean

from mekrr_scale.backbones import trusting_code
from mekrr_scale.errors import ConfigError, StructureError
from mekrr_scale.labelling import CalculatorSpec, journal_beside, label
from mekrr_scale.structures import LabelKeys, read_labels, read_structures

HERE = "tests.labelling.test_label"


class Moody(Calculator):
    """Harmonic about the origin; gives no stress, fails on oxygen, and has no forces where asked."""

    implemented_properties = ("energy", "forces")

    def __init__(self, strength=1.0, dies_after=None):
        super().__init__()
        self.strength, self.dies_after, self.calls = strength, dies_after, 0

    def calculate(self, atoms=None, properties=("energy",), system_changes=tuple(all_changes)):
        super().calculate(atoms, properties, system_changes)
        self.calls += 1
        if self.dies_after is not None and self.calls > self.dies_after:
            raise KeyboardInterrupt
        if 8 in self.atoms.numbers:
            raise RuntimeError("SCF does not converge")
        x = self.atoms.positions
        self.results = {"energy": 0.5 * self.strength * (x**2).sum(), "forces": -self.strength * x}


@pytest.fixture
def frames(tmp_path):
    """Copper, with labels of something else, tags, info and a constraint."""
    found = []
    for seed in range(6):
        atoms = bulk("Cu", cubic=True)
        atoms.rattle(0.1, seed=seed)
        atoms.info |= {"config_type": "bulk", "predicted_energy": 1.0, "total_energy": 2.0}
        atoms.set_tags(range(4))
        atoms.set_constraint(FixAtoms([0]))
        atoms.calc = SinglePointCalculator(atoms, energy=99.0, forces=np.ones((4, 3)))
        found.append(atoms)
    path = tmp_path / "frames.xyz"
    ase.io.write(path, found, format="extxyz")
    return path


def test_structures_of_the_caller_stay_as_they_are(frames, tmp_path):
    given = list(read_structures(frames))
    label(given, tmp_path / "out.xyz", "emt", workers=1)
    assert [atoms.get_potential_energy() for atoms in given] == [99.0] * len(given)


def test_labels_are_the_calculators_and_extraction_reads_them(frames, tmp_path):
    report = label(frames, tmp_path / "out.xyz", "emt", workers=1)
    assert (report.labelled, report.resumed, list(report.failed)) == (6, 0, [])
    for before, atoms in zip(read_structures(frames), read_structures(tmp_path / "out.xyz"), strict=True):
        before.calc = EMT()
        labels = read_labels(atoms, LabelKeys())
        assert labels.energy == pytest.approx(before.get_potential_energy(), abs=1e-10)
        np.testing.assert_allclose(labels.forces, before.get_forces(apply_constraint=False), atol=1e-7)
        np.testing.assert_allclose(labels.stress, before.get_stress(), atol=1e-10)
        assert atoms.info["config_type"] == "bulk"
        assert atoms.info["labelled_by"] == "emt"
        assert not {"predicted_energy", "total_energy"} & set(atoms.info)
        assert atoms.get_tags().tolist() == [0, 1, 2, 3]
    assert not journal_beside(tmp_path / "out.xyz").exists()


@pytest.mark.parametrize("constraint", [Hookean(0, 1, k=10.0, rt=1.0), ExternalForce(0, 1, 2.0)])
def test_labels_have_nothing_of_constraints(tmp_path, constraint):
    """Energies that are added to those of the calculator belong to a simulation, as forces that are."""
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=0)
    held = atoms.copy()
    held.set_constraint(constraint)
    label([atoms, held], tmp_path / "out.traj", Moody())  # which gives no free energy, as EMT does
    free, same = (read_labels(found, LabelKeys()) for found in read_structures(tmp_path / "out.traj"))
    assert same.energy == free.energy
    np.testing.assert_array_equal(same.forces, free.forces)


@pytest.mark.parametrize("workers", [1, 2])
def test_processes_and_kills_change_no_bit(frames, tmp_path, workers):
    whole, other = tmp_path / "whole.xyz", tmp_path / "other.xyz"
    label(frames, whole, f"{HERE}:Moody(strength=2.0)", workers=1)
    dying = Moody(2.0, dies_after=3)
    with pytest.raises(KeyboardInterrupt):
        label(frames, other, dying, workers=1)
    journal = journal_beside(other)
    lines = journal.read_bytes().splitlines(keepends=True)
    assert len(lines) == 4
    assert not other.exists()
    spec = f"{HERE}:Moody(strength=2.0)"
    head = whole.with_name("head.xyz")
    with pytest.raises(KeyboardInterrupt):  # the same labelling by its text, killed within a line
        label(frames, head, f"{HERE}:Moody(strength=2.0, dies_after=0)", workers=1)
    with pytest.raises(ConfigError, match="another calculator"):
        label(frames, other, spec)
    label(frames, other, spec, workers=workers, overwrite=True)
    assert other.read_bytes() == whole.read_bytes()


def test_a_torn_line_is_made_again(frames, tmp_path, monkeypatch):
    whole, output = tmp_path / "whole.xyz", tmp_path / "out.xyz"
    label(frames, whole, "emt", workers=1)
    kept = []
    from mekrr_scale.labelling.journal import LabelJournal

    usual = LabelJournal.add

    def killed(self, index, result):
        if index == 4:
            raise KeyboardInterrupt
        usual(self, index, result)
        kept.append(index)

    monkeypatch.setattr(LabelJournal, "add", killed)
    with pytest.raises(KeyboardInterrupt):
        label(frames, output, "emt", workers=1)
    monkeypatch.undo()
    journal = journal_beside(output)
    journal.write_bytes(journal.read_bytes()[:-7])
    report = label(frames, output, "emt", workers=1)
    assert (kept, report.resumed) == ([0, 1, 2, 3], 3)
    assert output.read_bytes() == whole.read_bytes()


def killed(frames, output, calculator, after=3):
    """A labelling that ends after some frames."""
    calculator.dies_after = after
    with pytest.raises(KeyboardInterrupt):
        label(frames, output, calculator)
    assert journal_beside(output).exists()


class Unnamed(Moody):
    """One that does not tell its parameters, as sums of calculators do not; from a file if one is given."""

    def __init__(self, strength=1.0, file=None):
        super().__init__(strength if file is None else float(Path(file).read_text()))
        self.parameters = {}


def test_another_calculator_of_the_same_name_does_not_go_on(frames, tmp_path):
    whole, output = tmp_path / "whole.xyz", tmp_path / "out.xyz"
    label(frames, whole, Unnamed(2.0))
    killed(frames, output, Unnamed(1.0))
    with pytest.raises(ConfigError, match="is of another calculator: frame 1 has .* begin anew with --overwrite"):
        label(frames, output, Unnamed(2.0))
    assert label(frames, output, Unnamed(2.0), overwrite=True).resumed == 0
    assert output.read_bytes() == whole.read_bytes()
    output.unlink()
    killed(frames, output, Unnamed(2.0))
    assert label(frames, output, Unnamed(2.0)).resumed == 3
    assert output.read_bytes() == whole.read_bytes()


def test_a_calculator_of_a_file_is_looked_at_when_it_goes_on(tmp_path):
    """A file may have been written anew under its name."""
    (tmp_path / "weights").write_text("1.0")
    text = f"{HERE}:Unnamed(file='{tmp_path / 'weights'}')"
    mixed = [molecule("H2"), molecule("H2O"), molecule("CH4")]
    assert len(label(mixed, tmp_path / "out.xyz", text, workers=1).failed) == 1
    assert label(mixed, tmp_path / "out.xyz", text, workers=1).resumed == 2
    (tmp_path / "weights").write_text("2.0")
    with pytest.raises(ConfigError, match="is of another calculator"):
        label(mixed, tmp_path / "out.xyz", text, workers=1)


class Filed(Unnamed):
    """One whose files stand in a list, a tuple or a mapping by element, or in a folder."""

    def __init__(self, files):
        (file,) = files.values() if isinstance(files, dict) else files if isinstance(files, tuple | list) else [files]
        super().__init__(file=file if Path(file).is_file() else Path(file, "weights"))


@pytest.mark.parametrize("form", ["['{0}/weights']", "('{0}/weights',)", "{{'Cu': '{0}/weights'}}", "'{0}'"])
def test_files_are_seen_wherever_arguments_name_them(tmp_path, form):
    (tmp_path / "weights").write_text("1.0")
    text = f"{HERE}:Filed(files={form.format(tmp_path)})"
    mixed = [molecule("H2"), molecule("H2O"), molecule("CH4")]
    label(mixed, tmp_path / "out.xyz", text, workers=1)
    assert label(mixed, tmp_path / "out.xyz", text, workers=1).resumed == 2
    (tmp_path / "weights").write_text("2.0")
    with pytest.raises(ConfigError, match="is of another calculator"):
        label(mixed, tmp_path / "out.xyz", text, workers=1)


def test_arguments_that_name_no_file_are_taken_at_their_word(tmp_path, monkeypatch):
    """Numbers are none, though files that are open have them, and nor are names that lead nowhere."""
    monkeypatch.chdir(tmp_path)
    text = f"{HERE}:Moody(strength=1, more={{'kpts': (1, 2, None), 'cut': 1e999, 'xc': ['PBE', '']}})"
    assert not CalculatorSpec.parse(text).reads_files
    (tmp_path / "PBE").touch()
    assert CalculatorSpec.parse(text).reads_files


@pytest.mark.parametrize(
    "change",
    [
        lambda atoms: atoms.set_initial_charges([1.0, 0.0, 0.0]),
        lambda atoms: atoms.set_initial_magnetic_moments([0.0, 1.0, 0.0]),
        lambda atoms: atoms.info.update(charge=1),
        lambda atoms: atoms.info.update(spin=3),
        lambda atoms: atoms.set_cell([9.0, 9.0, 9.0]),
    ],
)
def test_structures_in_memory_are_what_a_calculator_sees(tmp_path, change):
    given = [molecule("H2O"), molecule("H2")]
    assert len(label(given, tmp_path / "out.xyz", Moody()).failed) == 1
    assert label(given, tmp_path / "out.xyz", Moody()).resumed == 1
    change(given[0])
    with pytest.raises(ConfigError, match="another frames"):
        label(given, tmp_path / "out.xyz", Moody())


def test_failed_frames_are_listed_and_tried_again(frames, tmp_path, run):
    mixed = [molecule("H2"), molecule("H2O"), molecule("CH4")]
    ase.io.write("mixed.xyz", mixed)
    code, _, err = run("label", "mixed.xyz", "--calculator", f"{HERE}:Moody", "-o", "out.xyz", "--workers", "1")
    assert code == 3
    assert "1 of 3 frames failed" in err
    found = json.loads((tmp_path / "out.xyz.failed.json").read_text())
    assert found["labelled"] == 2
    assert [(each["index"], each["reason"]) for each in found["failed"]] == [(1, "RuntimeError: SCF does not converge")]
    assert [str(atoms.symbols) for atoms in read_structures("out.xyz")] == ["H2", "CH4"]
    code, _, err = run("label", "mixed.xyz", "--calculator", f"{HERE}:Moody", "-o", "out.xyz", "--workers", "1")
    assert code == 3  # no --overwrite is needed to try again
    with pytest.raises(StructureError, match="none of 1 frames could be labelled"):
        label(mixed[1], tmp_path / "none.xyz", Moody())
    assert not (tmp_path / "none.xyz").exists()


def test_an_output_that_is_there_is_left_alone(frames, tmp_path, run):
    (tmp_path / "out.xyz").write_text("mine")
    code, _, err = run("label", str(frames), "--calculator", "emt", "-o", "out.xyz")
    assert code == 2
    assert "--overwrite" in err
    assert (tmp_path / "out.xyz").read_text() == "mine"
    assert run("label", str(frames), "--calculator", "emt", "-o", "out.xyz", "--overwrite")[0] == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("em", "Do you mean 'emt'"),
        ("a b", "names no calculator"),
        ("emt(3)", "given by name"),
        ("emt(**{})", "given by name"),
        ("emt(a=open('x'))", "a = open.'x'. is no plain value"),
        ("emt(a=)", "plain values"),
        ("emt()(b=1)", "plain values"),
    ],
)
def test_texts_that_name_no_calculator(text, message):
    with pytest.raises(ConfigError, match=message):
        CalculatorSpec.parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no_such_module:A", "cannot be imported"),
        ("ase.calculators.emt:EMD", "has no attribute"),
        ("ase:Atoms(symbols='H')", "no calculator of ASE"),
        ("ase.calculators.emt:EMT(wrong=1, other=2)", None),
        (f"{HERE}:Moody(power=2)", "cannot be made"),
    ],
)
def test_calculators_that_cannot_be_made(text, message):
    if message is None:  # EMT takes any
        assert CalculatorSpec.parse(text).make()
        return
    with pytest.raises(ConfigError, match=message):
        CalculatorSpec.parse(text).make()


def test_a_class_that_a_file_names_needs_trust():
    with pytest.raises(ConfigError, match="--trust-code"):
        CalculatorSpec.parse(f"{HERE}:Moody", from_file=True)
    with trusting_code():
        assert CalculatorSpec.parse(f"{HERE}:Moody", from_file=True).make()
    assert CalculatorSpec.parse("emt", from_file=True).make()


def test_tblite_says_how_to_get_it():
    pytest.importorskip("ase")
    try:
        import tblite  # noqa: F401
    except ImportError:
        with pytest.raises(ConfigError, match="pip install tblite"):
            CalculatorSpec.parse("tblite(method='GFN2-xTB')").make()
