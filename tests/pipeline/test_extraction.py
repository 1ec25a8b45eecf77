"""Extraction: what comes into a store, what is rejected, and how it goes on."""

import json
import lzma
from dataclasses import replace

import ase.db
import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator

from mekrr_scale.errors import ConfigError, StoreError, StructureError
from mekrr_scale.models import PriorSpec
from mekrr_scale.pipeline import (
    ExtractPlan,
    FitPlan,
    LandmarkPlan,
    extract,
    fit,
)
from mekrr_scale.store import FeatureStore, finalize, verify
from mekrr_scale.structures import Entry, LabelKeys, read_labels


def bad_structures():
    """Structures that must not enter a fit, with what the reject says."""

    def labelled(atoms, energy=-1.0, **results):
        atoms.calc = SinglePointCalculator(atoms, energy=energy, **results)
        return atoms

    water = molecule("H2O")
    return [
        (labelled(water.copy(), energy=np.nan), "energy not finite"),
        (labelled(water.copy(), forces=np.full((3, 3), np.inf)), "forces not finite"),
        (water.copy(), "no energy"),
        (labelled(Atoms("H2", positions=[(0, 0, 0), (0, 0, 0.1)])), "overlap"),
        (labelled(Atoms("H2", positions=[(0, 0, 0), (0, 0, 5.95)], cell=[6] * 3, pbc=True)), "overlap"),
        (labelled(Atoms("H", cell=[0, 0, 0], pbc=False, positions=[(np.nan, 0, 0)])), "not finite"),
        (labelled(Atoms("O", cell=[[1, 0, 0], [2, 0, 0], [0, 0, 3]], pbc=True)), "no volume"),
        (labelled(Atoms("X", positions=[(0, 0, 0)])), "does not know species"),
    ]


@pytest.mark.parametrize("number", range(len(bad_structures())))
def test_bad_structures_are_listed_and_do_not_stop_the_rest(tmp_path, spec, toy_structures, number):
    bad, reason = bad_structures()[number]
    path = tmp_path / "mixed.traj"
    ase.io.write(path, [toy_structures[0], bad, toy_structures[1]])
    report = extract(path, tmp_path / "s", ExtractPlan(spec))
    assert report.store.n_structures == 2
    lines = [json.loads(line) for line in (tmp_path / "s" / "rejects.jsonl").read_text().splitlines()]
    assert [line["index"] for line in lines] == [1]
    assert reason in lines[0]["reason"]
    assert "energy" not in reason or sum(report.rejected.values()) == 1


def test_no_usable_structure(tmp_path, spec):
    ase.io.write(tmp_path / "x.traj", [molecule("H2O"), molecule("CO")])
    with pytest.raises(StructureError, match="no structure could be used: .*no energy"):
        extract(tmp_path / "x.traj", tmp_path / "s", ExtractPlan(spec))
    extract(tmp_path / "x.traj", tmp_path / "free", ExtractPlan(spec, need_energy=False))
    assert FeatureStore(tmp_path / "free").n_structures == 2
    with pytest.raises(ConfigError, match="no structure in the store has an energy"):
        fit(tmp_path / "free", FitPlan(landmarks=LandmarkPlan(count=2)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no structures"),
        ("3\ncomment\nH 0 0 0\n", "in the middle of a frame"),
        ("three\ncomment\n", "expected a number of atoms"),
        ("1\nProperties=species:S:1:pos:R:3\nH 0 zero 0\n", "cannot be read"),
    ],
)
def test_broken_files(tmp_path, spec, text, message):
    path = tmp_path / "broken.xyz"
    path.write_text(text)
    with pytest.raises(StructureError, match=message):
        extract(path, tmp_path / "s", ExtractPlan(spec))


def test_truncated_archive(tmp_path, spec, toy_file):
    path = tmp_path / "cut.xyz.xz"
    path.write_bytes(lzma.compress(toy_file.read_bytes())[:-40])
    with pytest.raises(StructureError, match="cut off or damaged"):
        extract(path, tmp_path / "s", ExtractPlan(spec))


def test_parts_make_the_same_store(tmp_path, toy_file, spec, store):
    plan = ExtractPlan(spec, derivatives=4, strain=True, dtype="float64", shard_bytes=30_000, group_key="trajectory")
    for i in (2, 1, 3):
        report = extract(toy_file, tmp_path / "parts", replace(plan, part=(i, 3)))
        assert report.store is None
    assert finalize(tmp_path / "parts").id == FeatureStore(store).id


def test_structures_in_memory(tmp_path, toy_file, toy_structures, spec):
    """A list makes the features that its file makes, up to the eight digits of the positions in the file."""
    plan = ExtractPlan(spec, derivatives=2)
    stores = [extract(given, tmp_path / name, plan).store for name, given in (("a", toy_file), ("b", toy_structures))]
    for one, two in zip(*stores, strict=True):
        for left, right in zip(one.runs, two.runs, strict=True):
            torch.testing.assert_close(left.features, right.features, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(one.energy, two.energy, rtol=0, atol=1e-7, equal_nan=True)
    again = extract(toy_structures, tmp_path / "b", plan)
    assert (again.written, again.resumed) == (0, stores[1].n_structures)
    for wrong in ([], [toy_file, toy_structures[0]]):
        with pytest.raises(StructureError, match="one of the two"):
            extract(wrong, tmp_path / "c", plan)


def test_resuming_computes_nothing_again(tmp_path, toy_file, spec):
    plan = ExtractPlan(spec, shard_bytes=2000)
    first = extract(toy_file, tmp_path / "s", plan)
    times = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "s").glob("*.h5")}
    victim = sorted(times)[0]
    (tmp_path / "s" / victim).write_bytes(b"damaged")
    again = extract(toy_file, tmp_path / "s", plan)
    assert again.resumed > 0
    assert 0 < again.written < first.written
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "s").glob("*.h5")}
    assert [name for name in times if times[name] != after[name]] == [victim]
    assert again.store.id == first.store.id
    assert verify(tmp_path / "s").ok
    with pytest.raises(StoreError, match="another kind"):
        extract(toy_file, tmp_path / "s", replace(plan, dtype="float64"))


def test_another_grouping_is_not_taken_for_the_same_work(tmp_path, toy_file, spec):
    first = extract(toy_file, tmp_path / "a", ExtractPlan(spec)).store
    (batch,) = extract(toy_file, tmp_path / "a", ExtractPlan(spec, group_key="trajectory")).store
    assert batch.n_structures == first.n_structures
    assert len(batch.groups.unique()) == 6  # the newer ones


def test_corrected_trajectories_and_labels_of_the_prior(tmp_path, toy_structures, spec):
    """Of the same file, whose structures and labels are as before: nothing of the old shards is taken."""
    frames = [atoms.copy() for atoms in toy_structures[:6]]

    def extracted(runs, low, **options):
        for place, (atoms, whole) in enumerate(zip(frames, toy_structures, strict=False)):
            energy = whole.get_potential_energy()
            atoms.info.update(run=runs[place], REF_energy=energy, low_energy=energy - low)
        ase.io.write(tmp_path / "a.xyz", frames, format="extxyz")
        keys = LabelKeys("REF_energy")
        report = extract(tmp_path / "a.xyz", tmp_path / options.pop("folder"), ExtractPlan(spec, keys=keys, **options))
        return report, [torch.cat([getattr(batch, name) for batch in report.store]) for name in ("groups", "prior")]

    grouped = {"folder": "grouped", "group_key": "run"}
    _, (before, _) = extracted("aaabbb", 1.0, **grouped)
    report, (after, _) = extracted("aabbcc", 1.0, **grouped)
    assert (report.written, report.store.n_structures) == (6, 6)
    assert len(before.unique()) == 2
    assert len(after.unique()) == 3
    assert extracted("aabbcc", 1.0, **grouped)[0].resumed == 6
    low = {"folder": "low", "prior": PriorSpec.parse("labels", Entry(), LabelKeys("low_energy"))}
    _, (_, before) = extracted("aaabbb", 1.0, **low)
    report, (_, after) = extracted("aaabbb", 2.0, **low)
    torch.testing.assert_close(after, before - 1.0, rtol=0, atol=1e-6)
    assert report.store.n_structures == 6
    assert extracted("aaabbb", 2.0, **low)[0].resumed == 6


def strained_features(backbone, atoms, i, j, step=1e-5):
    """Slopes of the features along a component of Voigt's strain, by differences."""
    ends = []
    for sign in (1, -1):
        moved, strain = atoms.copy(), np.eye(3)
        strain[i, j] += sign * step / 2
        strain[j, i] += sign * step / 2
        moved.set_cell(atoms.cell.array @ strain, scale_atoms=True)
        ends.append(backbone.features(moved))
    return (ends[0] - ends[1]) / (2 * step)


def test_tangents_and_labels_in_the_store(store, toy_structures, spec):
    """Stored tangents are finite differences of features, stored labels -u.F and V sigma:eps."""
    from mekrr_scale.backbones import load_backbone

    backbone = load_backbone(spec).to(dtype=torch.float64)
    at = 0
    strains = 0
    for batch in FeatureStore(store, tangents=True):
        labels = batch.directions
        for i in range(batch.n_structures):
            atoms = toy_structures[at]
            at += 1
            part = slice(int(labels.ptr[i]), int(labels.ptr[i + 1]))
            kinds = labels.kind[part]
            strains += int((kinds == 2).sum())
            assert int((kinds == 1).sum()) == 4
            assert int((kinds == 2).sum()) == (6 if atoms.pbc.any() else 0)
            if not atoms.pbc.any():
                continue
            stress = read_labels(atoms, LabelKeys()).stress
            for k, pair in enumerate(((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))):
                expected = strained_features(backbone, atoms, *pair)
                for run, source in zip(batch.runs, batch.sources, strict=True):
                    a, b = int(run.ptr[i]), int(run.ptr[i + 1])
                    rows = run.tangents.features[run.tangents.ptr[i] : run.tangents.ptr[i + 1]]
                    found = rows.reshape(10, b - a, 16)[4 + k]
                    torch.testing.assert_close(found, expected[source[a:b]], rtol=1e-5, atol=1e-7)
                assert float(labels.label[part][4 + k]) == pytest.approx(atoms.get_volume() * stress[k])
    assert strains == 36


def test_all_directions_reproduce_the_forces(tmp_path, toy_file, toy_structures, spec):
    extract(toy_file, tmp_path / "s", ExtractPlan(spec, derivatives="all"))
    found = torch.cat([batch.directions.label for batch in FeatureStore(tmp_path / "s", tangents=True)])
    forces = np.concatenate([read_labels(a, LabelKeys()).forces.ravel() for a in toy_structures])
    assert np.allclose(found.numpy(), -forces, atol=1e-7)


def test_structures_together_and_one_by_one(tmp_path, toy_file, spec):
    """Of several sizes, with stress and without: tangents to rounding, all that is beside them to the bit."""
    plan = ExtractPlan(spec, derivatives=4, strain=True, dtype="float64")
    for name, atoms in (("alone", 1), ("together", 60), ("again", 60)):
        extract(toy_file, tmp_path / name, replace(plan, batch_atoms=atoms))
    stores = [FeatureStore(tmp_path / name, tangents=True) for name in ("alone", "together", "again")]
    for one, some, same in zip(*stores, strict=True):
        assert torch.equal(one.directions.label, some.directions.label)
        assert torch.equal(one.directions.kind, some.directions.kind)
        torch.testing.assert_close(one.directions.prior, some.directions.prior, rtol=1e-9, atol=1e-11, equal_nan=True)
        for left, right, third in zip(one.runs, some.runs, same.runs, strict=True):
            torch.testing.assert_close(left.tangents.features, right.tangents.features, rtol=1e-9, atol=1e-11)
            assert torch.equal(right.tangents.features, third.tangents.features)


def test_wrong_units_are_noticed(tmp_path, real_structures, store):
    """Forces in kcal/mol/A by their size, energies by their scatter."""
    wrong = []
    for atoms in real_structures[:3]:
        copy = atoms.copy()
        labels = read_labels(atoms, LabelKeys())
        copy.calc = SinglePointCalculator(copy, energy=labels.energy, forces=labels.forces * 23.06)
        wrong.append(copy)
    ase.io.write(tmp_path / "wrong.xyz", wrong, format="extxyz")
    report = extract(tmp_path / "wrong.xyz", tmp_path / "s", ExtractPlan("chgnet"))
    assert any("kcal/mol" in warning for warning in report.warnings)
    right = extract(
        tmp_path / "wrong.xyz", tmp_path / "s2", ExtractPlan("chgnet", keys=LabelKeys(energy_unit="kcal/mol"))
    )
    assert not right.warnings


def test_missing_group_key(tmp_path, toy_file, spec):
    with pytest.raises(StructureError, match="no info key 'run'"):
        extract(toy_file, tmp_path / "s", ExtractPlan(spec, group_key="run"))


@pytest.mark.parametrize(
    "command", ["predict {m} {d} -o p.xyz", "explain {m} {d} -o p.xyz", "relax {m} {d}@:3 -o p.xyz"]
)
def test_what_a_model_said_is_no_label_without_a_word(run, model_file, toy_file, spec, tmp_path, command):
    extra = " --steps 500 --force 5" if command.startswith("relax") else ""
    assert run(*(command.format(m=model_file, d=toy_file) + extra).split())[0] == 0
    frames = ase.io.read(tmp_path / "p.xyz", ":")
    assert all(atoms.info["predicted_by"].startswith("mekrr-scale ") for atoms in frames)
    said = f"{len(frames)} of the first {len(frames)} structures carry what a model predicted"
    assert any(said in line for line in extract(tmp_path / "p.xyz", tmp_path / "s", ExtractPlan(spec)).warnings)
    for atoms in frames:
        atoms.info["reference"] = -1.0
    ase.io.write(tmp_path / "own.xyz", frames)
    own = extract(tmp_path / "own.xyz", tmp_path / "t", ExtractPlan(spec, keys=LabelKeys("reference")))
    assert not any("predicted" in line for line in own.warnings)
    assert run("label", "own.xyz", "--calculator", "ase.calculators.lj:LennardJones()", "-o", "l.xyz")[0] == 0
    assert "predicted_by" not in ase.io.read(tmp_path / "l.xyz").info
