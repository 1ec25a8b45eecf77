"""What a fit makes of too little and of too much: references, rare elements, candidates, folds, and what it says."""

import math
from dataclasses import replace

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator

from mekrr_scale.arrays import ISOLATED, ByKind, RowKind
from mekrr_scale.distributed import Group
from mekrr_scale.errors import ConfigError, SolverError
from mekrr_scale.models import Potential
from mekrr_scale.pipeline import ExtractPlan, FitPlan, RowPlan, Validation, evaluate, extract, fit, resources
from mekrr_scale.pipeline.fitting import FitData, calibration
from mekrr_scale.pipeline.fitting.search import Candidate, preferred
from mekrr_scale.regression import Execution
from mekrr_scale.solvers import Direct
from mekrr_scale.store import FeatureStore, deal, isolated_atoms, merge, repack
from tests.conftest import toy_energy

ENERGY = RowKind.ENERGY


def labelled(atoms, energy=None, forces=None):
    if energy is None:
        energy, forces = toy_energy(atoms)
    atoms.calc = SinglePointCalculator(atoms, energy=energy, free_energy=energy, forces=forces)
    return atoms


def molecules(count, seed=0):
    generator = np.random.default_rng(seed)
    found = []
    for i in range(count):
        atoms = molecule(["H2O", "CH4", "CO"][i % 3])
        atoms.rattle(0.1, rng=generator)
        found.append(labelled(atoms))
    return found


def free(symbol, energy, **cell):
    return labelled(Atoms(symbol, [[0.3, 0.1, 0.0]], **cell), energy, np.zeros((1, 3)))


def made(folder, structures, spec, **options):
    extract(structures, folder, ExtractPlan(spec, dtype="float64", **options))
    return folder


PLAN = FitPlan(
    kernel={"length_scales": "2x", "standardize": "scale-per-species"},
    landmarks=40,
    baseline="composition",
    solver=Direct((1e-6, 1e-4)),
    validation=3,
)


@pytest.fixture(scope="module")
def plain(spec, tmp_path_factory):
    return made(tmp_path_factory.mktemp("plain") / "s", molecules(24), spec, derivatives=4)


@pytest.fixture(scope="module")
def free_atoms():
    """In no cell, in a large one, twice, and one whose energy nobody knows."""
    return [
        free("H", -13.6),
        free("H", -13.2, cell=[18, 18, 18], pbc=True),
        free("C", 0.0, cell=[20, 20, 20], pbc=True),
        free("O", -432.0, cell=[15, 15, 15]),
    ]


@pytest.fixture(scope="module")
def mixed(spec, free_atoms, tmp_path_factory):
    listed = molecules(24)
    listed = [free_atoms[0], *listed[:10], *free_atoms[1:3], *listed[10:], free_atoms[3]]
    return made(tmp_path_factory.mktemp("mixed") / "s", listed, spec, derivatives=4, shard_bytes=20_000)


def test_atoms_without_neighbours_are_recognised(mixed, spec, tmp_path):
    """In any cell; a primitive cell of a crystal has neighbours, its own images."""
    groups = torch.cat([batch.groups for batch in FeatureStore(mixed)])
    assert (groups == ISOLATED).nonzero()[:, 0].tolist() == [0, 11, 12, 27]
    assert isolated_atoms(FeatureStore(mixed)) == {1: [-13.6, -13.2], 6: [0.0], 8: [-432.0]}
    crystal = [labelled(bulk("C", "sc", a), -9.0 + (a - 2) ** 2, np.zeros((1, 3))) for a in np.linspace(1.8, 2.4, 8)]
    store = FeatureStore(made(tmp_path / "s", crystal, spec))
    assert not any(bool(batch.isolated.any()) for batch in store)
    assert isolated_atoms(store) == {}


def test_free_atoms_change_nothing_of_the_fit(plain, mixed):
    """Rows, folds, landmarks, errors and uncertainties are those of the molecules alone."""
    alone, found = fit(plain, PLAN), fit(mixed, PLAN)
    assert found.metrics() == pytest.approx(alone.metrics(), rel=1e-4)
    assert found.chosen.ridge == alone.chosen.ridge
    torch.testing.assert_close(found.model.baseline.energies, alone.model.baseline.energies, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.model.landmarks.features, alone.model.landmarks.features)
    assert found.model.posterior.energy.within_68 == pytest.approx(alone.model.posterior.energy.within_68, rel=1e-4)
    assert len(found.reference) == len(alone.reference) == 24
    (line,) = [text for text in found.remarks if "isolated" in text]
    assert "4 isolated atoms (H, C, O)" in line
    assert "not used (--baseline isolated takes them)" in line
    assert not any("isolated" in text for text in alone.remarks)
    assert found.to_dict()["remarks"] == list(found.remarks)
    assert line in found.headline()


@pytest.mark.parametrize("of", ["structures", "store"])
def test_free_atoms_are_in_no_error_of_an_evaluation(mixed, plain, free_atoms, of):
    """They stand apart, in files and in stores; the errors are those of the molecules alone."""
    model = fit(plain, PLAN).model
    listed = molecules(24)
    both = [free_atoms[0], *listed[:10], *free_atoms[1:3], *listed[10:], free_atoms[3]]
    alone = evaluate(model, plain if of == "store" else listed, uncertainty=True)
    found = evaluate(model, mixed if of == "store" else both, uncertainty=True)
    assert found.metrics() == pytest.approx(alone.metrics(), rel=1e-5, abs=1e-6)  # meV/atom; batches are others
    assert found.metrics()["structures"] == 24
    assert found.coverage() == pytest.approx(alone.coverage(), abs=1e-6)
    assert found.headline() == "Evaluation of 24 structures, 4 isolated atoms apart"
    assert alone.headline() == "Evaluation of 24 structures"
    errors = found.isolated_errors()
    assert {symbol: row[0] for symbol, row in errors.items()} == {"H": 2, "C": 1, "O": 1}
    (oxygen,) = found.isolated_predicted[found.isolated == 8]
    assert errors["O"][1] == pytest.approx(1e3 * abs(oxygen + 432.0))
    assert found.to_dict()["isolated_atoms"]["O"] == {"frames": 1, "mae": errors["O"][1], "rmse": errors["O"][2]}
    assert found.tables()[-1].rows[0][:2] == ("H", "2")
    assert alone.to_dict()["isolated_atoms"] == {}
    only = evaluate(model, free_atoms)  # nothing else: they are what was asked for
    assert only.metrics()["structures"] == 4
    assert not len(only.isolated)


def test_free_atoms_are_the_baseline_if_asked(mixed, plain):
    found = fit(mixed, replace(PLAN, baseline="isolated"))
    assert found.model.baseline.energies.tolist() == [-13.6, 0.0, -432.0]
    assert any("-13.6000 to -13.2000 eV; the lowest is taken" in text for text in found.remarks)
    given = replace(PLAN, baseline={"kinds": ["isolated"], "isolated": {"C": -37.8}})
    assert fit(mixed, given).model.baseline.energies.tolist() == [-13.6, -37.8, -432.0]
    with pytest.raises(ConfigError, match=r"needs an energy for species \[1, 6, 8\].*a frame of the atom alone"):
        fit(plain, replace(PLAN, baseline="isolated"))


def test_free_atoms_survive_merging_and_other_shards(mixed, tmp_path):
    """The mark is in the store: joined and repacked it is there, and elements that nothing else holds are said."""
    merge([mixed], tmp_path / "merged")
    repack(tmp_path / "merged", tmp_path / "packed")
    assert isolated_atoms(FeatureStore(tmp_path / "packed")) == isolated_atoms(FeatureStore(mixed))


def test_nothing_but_free_atoms_is_fitted_as_it_is(spec, tmp_path):
    listed = [free(symbol, energy) for symbol, energy in zip("HCNOFHCNOF", range(10), strict=True)]
    store = made(tmp_path / "s", listed, spec)
    plan = replace(PLAN, landmarks=5, kernel={"length_scales": 1.0}, validation=0, solver=Direct((1e-6,)))
    assert fit(store, plan).model.species == (1, 6, 7, 8, 9)


def test_an_element_that_is_only_a_free_atom_is_unknown(spec, tmp_path):
    store = made(tmp_path / "s", [*molecules(12), free("Ne", -5.0)], spec)
    found = fit(store, replace(PLAN, rows=RowPlan(derivatives=False), landmarks=20))
    assert 10 not in found.model.species
    assert any("Ne only as isolated atom: the model does not know it" in text for text in found.remarks)


@pytest.fixture(scope="module")
def rare(spec, tmp_path_factory):
    """Thirty molecules, and two with an element of their own in one structure each."""
    listed = molecules(30)
    listed.insert(7, labelled(molecule("HF")))
    listed.insert(19, labelled(molecule("N2")))
    return made(tmp_path_factory.mktemp("rare") / "s", listed, spec, derivatives=3)


def test_an_element_in_one_structure(rare, plain):
    """Its fold knows nothing of it: the reference is borrowed, and its atoms are extrapolation."""
    found, usual = fit(rare, PLAN), fit(plain, PLAN)
    assert found.metrics()["energy_mae"] < 5 * usual.metrics()["energy_mae"] + 20
    said = [text for text in found.remarks if "borrowed" in text]
    assert len(said) == 2
    assert {text.split()[0] for text in said} == {"N", "F"}
    thresholds = found.model.posterior.thresholds
    assert set(thresholds) == {1, 6, 8}
    grades = Potential(found.model, dtype=torch.float64).uncertainty([molecule("HF"), molecule("H2O")]).grade
    assert math.isinf(float(grades[1]) if molecule("HF").numbers[1] == 9 else float(grades[0]))
    assert bool(torch.isfinite(grades[2:]).all())


def test_rare_elements_are_looked_at(spec, tmp_path, monkeypatch):
    """Calibration draws a part of the structures: a larger one for a rare element, for common ones what it was."""
    generator, listed = np.random.default_rng(0), molecules(120)
    for place in (5, 47):
        atoms = molecule("N2")
        atoms.rattle(0.05, rng=generator)
        listed.insert(place, labelled(atoms))
    store = made(tmp_path / "s", listed, spec)
    plan = replace(PLAN, validation=4)
    monkeypatch.setattr(calibration, "LOOKED_AT", 30)
    thresholds = {}
    for rare in (0, 4, 10_000):
        monkeypatch.setattr(calibration, "RARE", rare)
        thresholds[rare] = fit(store, plan).model.posterior.thresholds
    assert 7 not in thresholds[0]
    assert set(thresholds[4]) == set(thresholds[10_000]) == {1, 6, 7, 8}
    assert thresholds[4] == {**thresholds[0], 7: thresholds[10_000][7]}
    monkeypatch.setattr(calibration, "LOOKED_AT", 4000)
    everything = fit(store, plan).model.posterior.thresholds
    monkeypatch.setattr(calibration, "RARE", 0)
    assert fit(store, plan).model.posterior.thresholds == everything


def test_several_weights_without_folds(plain):
    """Lists that somebody wrote are refused, those of the defaults give their first, which is said."""
    one = {"validation": 0, "solver": Direct((1e-6,)), "landmarks": 20, "kernel": {"length_scales": "2x"}}
    for weights in ({"force": [0.1, 0.2]}, [1, [0.1, 0.2]], {"energy": [1, 2]}, {"stress": [0, 0.1]}):
        with pytest.raises(ConfigError, match="several candidates but no folds"):
            FitPlan(rows={"weights": weights}, **one)
    found = fit(plain, FitPlan(baseline="composition", **one))
    assert found.solution.weights[RowKind.FORCE] == 1e-4
    (line,) = [text for text in found.remarks if "no folds" in text]
    assert "4 weights of force rows: 0.0001, the first" in line
    given = fit(plain, FitPlan(baseline="composition", rows={"weights": (1, 0.01)}, **one))
    assert given.solution.weights[RowKind.FORCE] == 0.01
    assert not any("no folds" in text for text in given.remarks)


def test_a_criterion_of_rows_that_are_not_there(plain):
    energies = {"rows": RowPlan(derivatives=False)}
    for criterion in ({"energy": 0, "force": 1}, {"energy": 0, "force": 0, "stress": 1}):
        plan = replace(PLAN, validation=Validation(3, criterion), **energies)
        with pytest.raises(ConfigError, match="there are no such rows"):
            fit(plain, plan)
    with pytest.raises(ConfigError, match="chooses by nothing"):
        resources(plain, replace(PLAN, validation=Validation(3, {"energy": 0, "force": 0}), **energies))
    assert fit(plain, replace(PLAN, validation=Validation(3, {"energy": 0, "force": 1}))).metrics()


def test_no_candidate_is_better_than_a_broken_one(plain, monkeypatch):
    from mekrr_scale.solvers import direct_work

    paths = direct_work.weight_paths

    def broken(*given):
        return {key: value * math.nan for key, value in paths(*given).items()}

    monkeypatch.setattr(direct_work, "weight_paths", broken)
    with pytest.raises(SolverError, match="no candidate has a finite cross-validated error"):
        fit(plain, PLAN)


def test_the_table_of_candidates(plain):
    """By the criterion, which weighs forces here; the one that was saved is marked, and its weights are told."""
    criterion = {"energy": 0.0, "force": 1.0}
    plan = replace(PLAN, kernel={"length_scales": "0.5x,2x,8x"}, validation=Validation(3, criterion, uncertainty=False))
    report = fit(plain, plan)
    (table,) = report.tables()
    saved, weight, force = (table.columns.index(name) for name in ("saved", "force weight", "force rmse"))
    forces = [float(row[force]) for row in table.rows]
    assert forces == sorted(forces)
    assert [row[saved] for row in table.rows] == ["*", "", ""]
    assert float(table.rows[0][weight]) == report.chosen.weights[RowKind.FORCE]
    assert f"{report.chosen.length_scale:.3g}" in table.rows[0]
    lines = [replace(report.tried[0], rmse=ByKind.of({ENERGY: math.inf}, math.inf)), *report.tried[1:]]
    broken = replace(report, tried=lines).tables()[0]
    assert broken.rows[-1][force] == "inf"
    assert "stress weight" not in table.columns
    balanced = fit(plain, replace(plan, validation=Validation(3, uncertainty=False)))
    (table,) = balanced.tables()
    energy = table.columns.index("energy rmse")
    products = [float(row[force]) * float(row[energy]) for row in table.rows]
    assert products == sorted(products)
    assert table.rows[0][saved] == "*"
    assert "geometric mean of errors: energy, force" in table.caption


def test_an_end_of_the_grid_is_warned_of(plain):
    """Ridges that somebody gave are not extended; where errors still fall at their end, that is said."""
    report = fit(plain, replace(PLAN, solver=Direct((1e2, 1e3, 1e4))))
    assert report.chosen.ridge == 1e2
    (line,) = [text for text in report.warnings if "ridge" in text]
    assert "1.0e+02, is the smallest" in line
    assert "--ridge 1e+01, 1e+00, 1e-01" in line
    assert not [text for text in fit(plain, replace(PLAN, solver=Direct())).warnings if "ridge" in text]


def test_landmarks_that_are_copies_are_counted(spec, tmp_path):
    """Perfect crystals: atoms of a cell have the same features, and so have larger cells."""
    listed = []
    for a in np.linspace(1.7, 2.3, 8):
        for repeat in (2, 3):
            atoms = bulk("C", "sc", a).repeat(repeat)
            listed.append(labelled(atoms, -9.0 * len(atoms) * (1 + (a - 2) ** 2), np.zeros((len(atoms), 3))))
    store = made(tmp_path / "s", listed, spec)
    plan = replace(PLAN, landmarks=100, validation=Validation(3, uncertainty=False))
    found = fit(store, plan)
    (line,) = [text for text in found.remarks if "distinct" in text]
    assert line.startswith("100 landmarks asked for, 8 distinct")
    assert any("copies of others" in text for text in found.remarks)
    assert not any("distinct" in text for text in fit(store, replace(plan, landmarks=3)).remarks)


def test_which_folds_were_used_is_said(spec, tmp_path, plain):
    """A trajectory that nobody named gives blocks, the same for any shards; a named one, and other data, do not."""
    generator = np.random.default_rng(1)
    atoms, step, frames = molecule("CH4"), np.zeros((5, 3)), []
    start = atoms.positions.copy()
    for i in range(60):
        step = 0.97 * step + 0.02 * generator.normal(size=(5, 3))
        atoms.positions = start + step
        frames.append(labelled(atoms.copy()))
        frames[-1].info["run"] = f"part{i // 12}"
    ase.io.write(tmp_path / "run.xyz", frames, format="extxyz")
    plan = replace(PLAN, validation=Validation(3, uncertainty=False))
    whole = fit(made(tmp_path / "a", tmp_path / "run.xyz", spec), plan)
    assert whole.remarks[0].startswith("folds: 3 blocks of consecutive frames")
    pieces = fit(made(tmp_path / "b", tmp_path / "run.xyz", spec, shard_bytes=3000), plan)
    assert pieces.remarks == whole.remarks
    assert pieces.metrics() == pytest.approx(whole.metrics(), rel=1e-6)
    named = fit(made(tmp_path / "c", tmp_path / "run.xyz", spec, group_key="run"), plan)
    assert named.remarks[0] == "folds: whole trajectories, as --group-key named them"
    assert fit(plain, plan).remarks[0] == "folds: at random by content; consecutive frames are not alike"
    shuffled = [frames[i] for i in generator.permutation(60)]
    leaking = fit(made(tmp_path / "d", shuffled, spec), plan)
    assert leaking.metrics()["energy_rmse"] < whole.metrics()["energy_rmse"]


def test_ranks_give_their_structures_places(mixed):
    """Of two ranks with shards of their own: together the places of the whole data, each structure once."""
    data = FitData.open(mixed, PLAN)
    expected = torch.cat([batch.ids for batch in data.energies]).tolist()
    found = {}
    for rank in range(2):
        own = replace(data, stores=deal(data.stores, rank, 2), group=Group(rank, 2))
        for first, batch in own.placed():
            found |= {first + i: number for i, number in enumerate(batch.ids.tolist())}
    assert len(FeatureStore(mixed).shards) > 2
    assert [number for _, number in sorted(found.items())] == expected


def test_copies_of_one_file_do_not_flatter(spec, tmp_path):
    """Every structure twice, moved and in another order: errors are those without the copies."""
    listed = molecules(24, seed=3)
    generator = np.random.default_rng(2)
    copies = []
    for atoms in listed:
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        order = generator.permutation(len(atoms))
        moved = atoms.copy()[order]
        moved.positions += generator.normal(size=3) * 4
        copies.append(labelled(moved, energy, forces[order]))
    plan = replace(PLAN, validation=Validation(3, uncertainty=False), execution=Execution())
    once = fit(made(tmp_path / "once", listed, spec), plan).metrics()["energy_mae"]
    report = fit(made(tmp_path / "twice", [*listed, *copies], spec), plan)
    assert any("24 copies of others stay in the same fold" in text for text in report.remarks)
    assert report.metrics()["energy_mae"] > 0.5 * once


class Scored(Candidate):
    """A candidate of which nothing but the score is known."""

    score = math.nan

    def __init__(self, score):
        object.__setattr__(self, "score", score)


@pytest.mark.parametrize(
    ("composition", "backbone", "taken"),
    [(1.0, 1.015, "backbone"), (1.0, 1.025, "composition"), (1.0, 0.9, "backbone"), (math.inf, math.inf, "backbone")],
)
def test_a_baseline_with_physics_far_outside_stays_while_it_is_about_as_good(composition, backbone, taken):
    """Cross-validation does not see the frames that it is for; scores are squares of errors."""
    errors = {"composition": composition, "backbone": backbone}
    found = {kind: Scored(error**2) for kind, error in errors.items()}
    assert preferred(found) is found[taken]
    assert preferred({"isolated": (alone := Scored(2.0)), "composition": Scored(3.0)}) is alone
