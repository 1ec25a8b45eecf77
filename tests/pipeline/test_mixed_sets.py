"""Sets of unequal structures: what each of them can have is used, and what it cannot is said."""

import json
import logging
from dataclasses import replace

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.calculators.singlepoint import SinglePointCalculator

from mekrr_scale.arrays import RowKind
from mekrr_scale.errors import MekrrError, ModelError, StoreError, StructureError
from mekrr_scale.models import MekrrCalculator, Potential
from mekrr_scale.pipeline import ExtractPlan, FitPlan, RowPlan, evaluate, extract, fit, predict
from mekrr_scale.simulation.cells import cell_mask, vacuum, warn_of_cell
from mekrr_scale.store import FeatureStore, merge, repack
from mekrr_scale.structures import LabelKeys


@pytest.fixture(scope="module")
def potential(model_file):
    return Potential(model_file)


def relabelled(atoms, **change):
    """A copy with other results; None takes one away."""
    results = {**atoms.calc.results, **change}
    copy = atoms.copy()
    copy.calc = SinglePointCalculator(copy, **{name: value for name, value in results.items() if value is not None})
    return copy


def moved_to_arrays(atoms, **names):
    """A copy whose labels stand under other names."""
    copy = atoms.copy()
    for label, name in names.items():
        (copy.arrays if label == "forces" else copy.info)[name] = atoms.calc.results[label]
    return copy


def test_molecules_and_crystals_give_the_rows_that_they_can(toy_structures, spec, tmp_path, caplog):
    caplog.set_level(logging.INFO, "mekrr_scale")
    moved = toy_structures[0].copy()
    moved.rattle(0.01, seed=42)  # or it would be a correction of the first
    moved.calc = toy_structures[0].calc
    frames = [
        *toy_structures[:4],
        relabelled(moved, stress=np.full(6, np.inf)),  # a molecule has none
        relabelled(toy_structures[4], forces=None),
    ]
    report = extract(frames, tmp_path / "store", ExtractPlan(spec, derivatives=2, strain=True))
    store = FeatureStore(tmp_path / "store")
    assert (report.n_rejected, store.n_structures) == (0, 6)
    assert store.n_directions == 5 * 2 + 1 * 6
    told = caplog.text
    assert "10 force rows" in told
    assert "6 stress rows" in told
    assert "6 energy rows" in told


def test_stress_that_nobody_trains_on_costs_nothing(toy_structures, spec, tmp_path):
    bad = relabelled(toy_structures[2], stress=np.full(6, np.nan))
    assert extract([bad, *toy_structures[:2]], tmp_path / "a", ExtractPlan(spec)).n_rejected == 0
    assert extract([bad, *toy_structures[:3]], tmp_path / "b", ExtractPlan(spec, strain=True)).n_rejected == 1
    assert extract(toy_structures[:2], tmp_path / "c", ExtractPlan(spec, strain=True)).n_rejected == 0  # none has any


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"derivatives": "all"}, "--derivatives all: no frame has usable forces.*'force'.*--forces-key force"),
        ({"derivatives": 4}, "--derivatives 4: no frame has usable forces"),
        ({"strain": True}, "--strain: no frame has usable stress.*'virial'.*--stress-key virial"),
        ({"keys": LabelKeys("e", "forcs")}, "no forces under the key 'forcs' in any frame.*Do you mean 'force'"),
        ({"keys": LabelKeys("e", None, "virail")}, "no stress under the key 'virail' in any frame"),
        ({"group_key": "run"}, "no info key 'run' in any frame"),
    ],
)
def test_what_no_frame_has_is_refused_before_the_work(plan, message, toy_structures, spec, tmp_path):
    frames = [moved_to_arrays(atoms, energy="e", forces="force", stress="virial")
              for atoms in toy_structures if "stress" in atoms.calc.results]  # fmt: skip
    given = {"keys": LabelKeys("e"), **plan}
    with pytest.raises(StructureError, match=message):
        extract(frames, tmp_path / "store", ExtractPlan(spec, **given))
    assert not list(tmp_path.glob("store/*.h5"))


def test_near_names_are_warned_of(toy_structures, spec, tmp_path):
    frames = [moved_to_arrays(atoms, energy="e", forces="dft_forces") for atoms in toy_structures[:3]]
    report = extract(frames, tmp_path / "store", ExtractPlan(spec, keys=LabelKeys("e")))
    assert any("'dft_forces' may be meant: pass --forces-key dft_forces" in line for line in report.warnings)


def test_frames_without_the_group_key_stand_alone(toy_structures, spec, tmp_path):
    frames = [atoms.copy() for atoms in toy_structures[:4]]
    for frame, atoms in zip(frames, toy_structures[:4], strict=True):
        frame.calc = atoms.calc
    del frames[1].info["trajectory"]
    report = extract(frames, tmp_path / "store", ExtractPlan(spec, group_key="trajectory"))
    assert any("1 of 4 frames have no info key 'trajectory'" in line for line in report.warnings)
    groups = torch.cat([batch.groups for batch in FeatureStore(tmp_path / "store")])
    assert (groups == -1).tolist().count(True) == 1


def test_a_store_holds_one_definition_of_the_energy(toy_structures, spec, tmp_path):
    def smeared(atoms, **change):
        return relabelled(atoms, **{"free_energy": atoms.calc.results["energy"] - 0.3, **change})

    def written(name, frames):
        ase.io.write(tmp_path / name, frames, format="extxyz")
        return tmp_path / name

    folder = tmp_path / "store"
    mixed = [smeared(toy_structures[0]), relabelled(toy_structures[1], free_energy=None)]
    report = extract(written("a.xyz", mixed), folder, ExtractPlan(spec))
    assert any("'energy' is taken of all" in line for line in report.warnings)
    held = torch.cat([batch.energy for batch in FeatureStore(folder)])
    assert held.tolist() == pytest.approx([toy_structures[i].calc.results["energy"] for i in range(2)], abs=1e-7)
    with pytest.raises(StructureError, match="holds ASE's 'energy', these frames have 'free_energy'"):
        extract(written("b.xyz", [smeared(toy_structures[2])]), folder, ExtractPlan(spec))
    extract(written("c.xyz", [toy_structures[3]]), folder, ExtractPlan(spec))  # whose two energies are one
    one = [relabelled(toy_structures[i], **{name: None}) for i, name in enumerate(["free_energy", "energy", "energy"])]
    report = extract(one, tmp_path / "other", ExtractPlan(spec))
    assert any("'free_energy' is taken" in line for line in report.warnings)
    assert report.n_rejected == 1


def test_stores_are_joined_where_their_energies_are_of_one_definition(toy_structures, spec, tmp_path, small_plan):
    def made(name, frames, key=None):
        return extract(frames, tmp_path / name, ExtractPlan(spec, keys=LabelKeys(energy=key))).store.path

    def defined(path):
        file = path / "energy.json"
        return json.loads(file.read_text())["energy"] if file.exists() else None

    def lower(atoms):
        return relabelled(atoms, free_energy=atoms.calc.results["energy"] - 0.3)

    plain = made("plain", toy_structures[:8])  # whose two energies are one
    free = made("free", [lower(atoms) for atoms in toy_structures[8:16]])
    alone = made("alone", [relabelled(atoms, free_energy=None) for atoms in toy_structures[16:]])
    assert [defined(path) for path in (plain, free, alone)] == [None, "free_energy", "energy"]
    with pytest.raises(StoreError, match=r"different energies.*free_energy.*'energy'.*--energy-key energy"):
        merge([free, plain, alone], tmp_path / "never")
    assert not (tmp_path / "never").exists()
    joined = merge([plain, free], tmp_path / "joined")
    assert defined(joined.path) == "free_energy"
    packed = repack(joined.path, tmp_path / "packed")
    assert defined(packed.path) == "free_energy"
    with pytest.raises(StoreError, match="different energies"):
        merge([packed.path, alone], tmp_path / "never")
    assert defined(merge([plain], tmp_path / "again").path) is None
    told = (free / "energy.json").read_text()
    for damaged in (told.replace("free_energy", "energy"), told[:9], ""):
        (free / "energy.json").write_text(damaged)
        with pytest.raises(StoreError, match=r"energy.json is damaged.*extract the same frames"):
            merge([plain, free], tmp_path / "never")
    (free / "energy.json").write_text('{"energy": "free_energy"}')  # as before it had a checksum
    few = replace(small_plan, landmarks=replace(small_plan.landmarks, count=10))
    assert any("different energies" in line for line in fit([free, alone], few).warnings)
    assert not any("different energies" in line for line in fit([free, plain], few).warnings)


def test_stores_are_joined_however_their_tangents_were_drawn(toy_structures, spec, tmp_path, small_plan):
    """A store without any tangents is as good as structures without forces in one store with the others."""
    bare = [relabelled(atoms, forces=None, stress=None) for atoms in toy_structures[12:]]

    def made(name, frames, **options):
        return extract(frames, tmp_path / name, ExtractPlan(spec, **options)).store

    moved = made("moved", toy_structures[:12], derivatives=3)
    still = made("still", bare)
    together = made("together", [*toy_structures[:12], *bare], derivatives=3)
    assert (moved.n_directions, still.n_directions) == (together.n_directions, 0)
    plan = replace(small_plan, landmarks=replace(small_plan.landmarks, count=20), rows=RowPlan())
    one, two = fit(together, plan), fit([moved, still], plan)
    assert two.chosen.errors() == pytest.approx(one.chosen.errors(), rel=1e-6)
    for kind in (RowKind.ENERGY, RowKind.FORCE):
        assert len(two.rows[kind].ids) == len(one.rows[kind].ids)
    turned = fit([still, moved], plan)
    assert turned.chosen.errors().keys() == two.chosen.errors().keys() == {"energy_rmse", "force_rmse"}
    all_of_some = made("all", toy_structures[12:16], derivatives="all")
    report = fit([moved, all_of_some], plan)
    assert len(report.rows[RowKind.FORCE].ids) == moved.n_directions + all_of_some.n_directions
    with pytest.raises(StoreError, match="another kind .*directions"):  # in one folder they are drawn alike
        merge([moved.path, still.path], tmp_path / "never")


def test_stress_is_weighed_where_stores_hold_it(store, small_plan, toy_file, spec, tmp_path):
    plan = replace(small_plan, landmarks=replace(small_plan.landmarks, count=20))
    assert fit(store, plan).solution.weights[RowKind.STRESS] == 1e-3
    assert fit(store, replace(plan, rows=RowPlan({"stress": 0}))).solution.weights[RowKind.STRESS] == 0
    assert fit(store, replace(plan, rows=RowPlan(derivatives=False))).solution.weights[RowKind.STRESS] == 0
    molecules = [atoms for atoms in ase.io.iread(toy_file) if not atoms.pbc.any()]
    for name, frames, made in (("plain", toy_file, {}), ("asked", molecules, {"derivatives": 2, "strain": True})):
        extract(frames, tmp_path / name, ExtractPlan(spec, **made))
        fitted = fit(tmp_path / name, replace(plan, rows=RowPlan()))
        assert fitted.solution.weights[RowKind.STRESS] == 0
        assert not fitted.model.knows_stress
    asked = FeatureStore(tmp_path / "asked")
    assert (asked.holds(RowKind.FORCE), asked.holds(RowKind.STRESS)) == (True, False)
    assert FeatureStore(store).holds(RowKind.STRESS)
    assert FitPlan().rows.weights["stress"] == ()


def test_every_structure_gets_what_it_can_have(potential, toy_structures):
    crystal, water, methane = toy_structures[2], toy_structures[0], toy_structures[1]
    slab = crystal.copy()
    slab.pbc = (True, True, False)
    no_vector = slab.copy()
    no_vector.cell[2] = 0
    given = [water, crystal, methane, slab, no_vector]
    found = list(predict(potential, given))
    assert ["stress" in atoms.calc.results for atoms in found] == [False, True, False, True, False]
    alone = [next(predict(potential, [atoms])) for atoms in given]
    for one, among in zip(alone, found, strict=True):
        assert among.get_potential_energy() == pytest.approx(one.get_potential_energy(), abs=1e-5)
    assert np.allclose(found[1].get_stress(), alone[1].get_stress(), atol=1e-6)


def test_what_cannot_be_predicted_is_named_and_the_others_are_predicted(potential, toy_structures):
    gold, overlapping, boundless = molecule("H2O"), molecule("H2O"), molecule("H2O")
    gold.symbols[0] = "Au"
    overlapping.positions[1] = overlapping.positions[2]
    boundless.pbc = True
    given = [*toy_structures[:2], gold, toy_structures[3], overlapping, boundless, toy_structures[0]]
    failed: list[MekrrError] = []
    found = list(predict(potential, given, failed=failed))
    assert [atoms.calc is not None for atoms in found] == [True, True, False, True, False, False, True]
    assert [str(error).split(":")[0] for error in failed] == ["structure 2", "structure 4", "structure 5"]
    for error, word in zip(failed, ["Au", "overlap", "lacks lattice vector"], strict=True):
        assert word in str(error)
    assert isinstance(failed[0], ModelError)
    for i, word in ((2, "Au"), (4, "atoms 1 and 2 overlap"), (5, "lattice vector a, b, c")):
        with pytest.raises(MekrrError, match=f"structure 1: .*{word}"):
            list(predict(potential, [toy_structures[0], given[i]]))
        with pytest.raises(MekrrError, match="no structure could be predicted"):
            list(predict(potential, [given[i]], failed=[]))
    with pytest.raises(StructureError, match="structure 1 of 2: .*overlap"):
        potential.predict([molecule("H2O"), overlapping])
    with pytest.raises(StructureError, match="overlap"):
        potential.uncertainty(overlapping)


def test_one_frame_takes_no_errors_from_the_others(potential, toy_structures):
    cells = [atoms for atoms in toy_structures if "stress" in atoms.calc.results]
    gold = relabelled(toy_structures[0])
    gold.symbols[0] = "Au"
    whole = evaluate(potential, cells).metrics()
    mixed = evaluate(potential, [gold, toy_structures[0], *cells, relabelled(cells[0], stress=None, forces=None)])
    assert mixed.metrics()["stress_rmse"] == pytest.approx(whole["stress_rmse"])
    assert mixed.metrics()["structures"] == len(cells) + 2
    assert [line.split(":")[0] for line in mixed.rejected] == ["structure 0"]
    assert any(f"stress of {len(cells)} of {len(cells) + 2}" in line for line in mixed.remarks)
    assert any(f"forces of {len(cells) + 1} of" in line for line in mixed.remarks)
    hidden = [moved_to_arrays(atoms, energy="e", forces="my_forces") for atoms in cells]
    assert any("my_forces" in line for line in evaluate(potential, hidden, LabelKeys("e")).to_dict()["remarks"])
    with pytest.raises(StructureError, match="in any frame"):
        evaluate(potential, hidden, LabelKeys("e", "my_force"))


def test_cells_change_where_they_repeat(model_file):
    slab = fcc111("Cu", (1, 1, 3), vacuum=8.0)
    assert cell_mask(slab) == [True, True, False, False, False, True]
    assert cell_mask(bulk("Cu")) == [True] * 6
    slab.pbc = True
    assert vacuum(slab)["c"] == pytest.approx(16.0)
    wire = Atoms("Cu", cell=[9, 3, 9], pbc=(False, True, False))
    assert cell_mask(wire) == [False, True, False, False, False, False]

    calculator = MekrrCalculator(model_file)
    with pytest.warns(UserWarning, match=r"16.0 angstrom of vacuum along c"):
        warn_of_cell(slab, calculator)
    untrained = replace(calculator.potential.model, validation={"weights": [1.0, 0.1, 0.0]})
    assert not untrained.knows_stress
    with pytest.warns(UserWarning, match="not trained on stress"):
        warn_of_cell(bulk("C", "diamond", 3.6), MekrrCalculator(untrained))
