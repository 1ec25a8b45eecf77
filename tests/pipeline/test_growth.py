"""Landmarks where atoms are few, and more of them as long as the cross-validated error falls."""

from dataclasses import replace

import pytest
import torch
from ase.build import bulk

from mekrr_scale.arrays import RowKind
from mekrr_scale.distributed import Checkpoint
from mekrr_scale.errors import ConfigError
from mekrr_scale.landmarks import n_distinct
from mekrr_scale.pipeline import FitPlan, LandmarkPlan, RowPlan, Validation, fit
from mekrr_scale.pipeline.fitting import FitData
from mekrr_scale.pipeline.fitting.landmarks import joined
from mekrr_scale.regression import Execution, Problem
from mekrr_scale.solvers import Direct, Falkon
from tests.pipeline.test_choosing import labelled, made, molecules

ENERGY, FORCE = RowKind.ENERGY, RowKind.FORCE
PLAN = FitPlan(
    kernel={"length_scales": "2x", "standardize": "scale-per-species"}, landmarks=LandmarkPlan(count=20),
    baseline="composition", solver=Direct((1e-6, 1e-4)), validation=Validation(3, uncertainty=False),
)  # fmt: skip


def landmarks(count, grow_to=0, method="auto", **changes):
    return replace(PLAN, landmarks=LandmarkPlan(method, count, grow_to=grow_to), **changes)


@pytest.fixture(scope="module")
def plain(spec, tmp_path_factory):
    """24 molecules, 80 atoms."""
    return made(tmp_path_factory.mktemp("plain") / "s", molecules(24), spec, derivatives=4)


def chosen(store, plan):
    data = FitData.open(store, plan)
    kernel = data.kernels(next(iter(choices_of(data))))[0]
    return data.landmarks(kernel)


def choices_of(data):
    from mekrr_scale.pipeline.fitting.search import choices

    return choices(data.plan, data)


def same(a, b):
    return torch.equal(a.features, b.features) and torch.equal(a.species, b.species)


def test_few_atoms_are_displaced_and_many_are_not(plain):
    atoms = FitData.open(plain, PLAN).n_atoms
    assert same(chosen(plain, landmarks(atoms)), chosen(plain, landmarks(atoms, method="uniform")))
    assert same(chosen(plain, landmarks(2 * atoms)), chosen(plain, landmarks(2 * atoms, method="displaced")))
    without = landmarks(2 * atoms, rows=RowPlan(derivatives=False))
    with pytest.raises(ConfigError, match=f"{2 * atoms} landmarks asked for, but the data hold {atoms} atoms"):
        fit(plain, without)


def test_copies_of_atoms_do_not_count_as_atoms(spec, tmp_path):
    """Perfect crystals: more atoms than landmarks, few of them distinct."""
    crystals = [labelled(bulk("C", "sc", a).repeat(3)) for a in (1.7, 2.0, 2.3)]
    store = made(tmp_path / "s", crystals, spec, derivatives=4)
    found = chosen(store, landmarks(32))
    assert n_distinct(chosen(store, landmarks(32, method="uniform"))) == 3
    assert same(found, chosen(store, landmarks(32, method="displaced")))
    assert n_distinct(found) == found.n_sets == 32


def test_grown_landmarks_give_what_a_fit_with_as_many_gives(plain, monkeypatch):
    """Errors and model; rows are made of the new landmarks alone."""
    made_of, rows = [], Problem.rows

    def counted(self, *given):
        made_of.append(self.landmarks.n_sets)
        return rows(self, *given)

    monkeypatch.setattr(Problem, "rows", counted)
    exact = RowPlan(weights={"force": 1e-2}, derivative_precision="float64")
    report = fit(plain, landmarks(20, 80, rows=exact))
    assert [step.landmarks for step in report.growth] == [20, 40, 80]
    assert made_of[:3] == [20, 20, 40]
    for step in report.growth:
        alone = fit(plain, landmarks(step.landmarks, rows=exact)).chosen
        for kind in (ENERGY, FORCE):
            assert step.line.rmse[kind] == pytest.approx(alone.rmse[kind], rel=1e-6)
    assert report.chosen is min(
        (step.line for step in report.growth), key=lambda line: line.rmse[ENERGY] * line.rmse[FORCE]
    )
    candidates, grown = report.tables()
    assert [row[0] for row in candidates.rows] == ["*"]
    assert [row[1] for row in grown.rows] == ["20", "40", "80"]
    assert [row[0] for row in grown.rows].count("*") == 1
    assert [step["landmarks"] for step in report.to_dict()["growth"]] == [20, 40, 80]
    assert report.model.landmarks.n_sets == max(report.growth, key=lambda step: step.line is report.chosen).landmarks
    assert any("landmarks grown from 20 to" in line for line in report.remarks)


def test_why_growth_ends(plain):
    def told(**changes):
        report = fit(plain, replace(PLAN, **changes))
        (line,) = [line for line in report.remarks if "landmarks grown" in line]
        return line, [step.landmarks for step in report.growth]

    assert "need more than the memory" in told(
        landmarks=LandmarkPlan(count=20, grow_to=80), execution=Execution(memory=30_000, scratch=None)
    )[0]  # fmt: skip
    line, tried = told(landmarks=LandmarkPlan(count=40, grow_to=50))
    assert "50 were the most that were asked for" in line or "50 made the error less than 1% smaller" in line
    assert tried == [40, 50]
    # where the ridge makes everything flat, more landmarks gain nothing
    line, tried = told(landmarks=LandmarkPlan(count=10, grow_to=80), solver=Direct((1e6,)))
    assert line.endswith("20 made the error less than 1% smaller")
    assert tried == [10, 20]


@pytest.mark.parametrize("method", ["auto", "uniform", "farthest"])
def test_growth_ends_where_atoms_end(plain, method):
    rows = RowPlan(derivatives=method != "auto")
    report = fit(plain, landmarks(50, 1000, method, rows=rows, solver=Direct((1e-10,))))
    atoms = FitData.open(plain, PLAN).n_atoms
    assert [step.landmarks for step in report.growth] in ([50, atoms], [50, atoms - 1])
    assert any("the data hold no more atoms to take" in line or "less than 1%" in line for line in report.remarks)


def test_copies_end_too(plain):
    """Ten of an atom, where nobody asked for them by name."""
    atoms = FitData.open(plain, PLAN).n_atoms
    report = fit(
        plain, landmarks(8 * atoms, 100 * atoms, solver=Direct((1e-10,)), rows=RowPlan(weights={"force": 1e-2}))
    )
    assert [step.landmarks for step in report.growth][:2] == [8 * atoms, 10 * atoms]


@pytest.mark.parametrize("left_out", ["frames", "types", "outliers"])
def test_atoms_that_are_left_out_are_not_counted(spec, tmp_path, left_out):
    """More landmarks than there are atoms without them: displaced copies, as where they are not stored."""
    frames = molecules(24)
    for atoms in frames[12:]:
        atoms.info |= {"frames": {"config_weight": 0.0}, "types": {"config_type": "off"}, "outliers": {}}[left_out]
    whole = made(tmp_path / "whole", frames, spec, derivatives=4)
    part = made(tmp_path / "part", molecules(24)[:12], spec, derivatives=4)
    data = FitData.open(part, PLAN)
    plan = landmarks(data.n_atoms + 10)
    expected = chosen(part, plan)
    if left_out == "types":
        plan = replace(plan, rows=RowPlan(config_weights="off=0"))
    counted = FitData.open(whole, plan)
    assert counted.n_atoms >= data.n_atoms + 10
    if left_out == "outliers":
        kept = {int(number) for batch in data.energies for number in batch.ids}
        counted = counted.without(
            frozenset(int(i) for batch in counted.energies for i in batch.ids if int(i) not in kept)
        )
    found = counted.landmarks(counted.kernels(next(iter(choices_of(counted))))[0])
    assert same(found, expected)


def test_growth_goes_on_where_it_was(plain, tmp_path, monkeypatch):
    """What was solved is not solved again, and gives the same bits."""
    plan = landmarks(20, 80)
    first = fit(plain, plan, checkpoint=Checkpoint(tmp_path / "kept", {}, interval=0.0))
    monkeypatch.setattr(Direct, "accumulate", None)
    again = fit(plain, plan, checkpoint=Checkpoint(tmp_path / "kept", {}, interval=0.0))
    assert torch.equal(first.model.coefficients, again.model.coefficients)
    assert [step.to_dict() for step in first.growth] == [step.to_dict() for step in again.growth]


def test_other_solvers_grow_by_rows_made_anew(plain):
    weights = RowPlan(weights={"force": 1e-2})
    direct = fit(plain, landmarks(20, 40, rows=weights))
    falkon = fit(plain, landmarks(20, 40, rows=weights, solver=Falkon((1e-6, 1e-4), rtol=1e-10)))
    assert [step.landmarks for step in falkon.growth] == [20, 40]
    for kind in (ENERGY, FORCE):
        assert falkon.growth[1].line.rmse[kind] == pytest.approx(direct.growth[1].line.rmse[kind], rel=1e-2)


@pytest.mark.parametrize("ridges", [(1e-6, 1e-4), (1e-8, 1e-6, 1e-4)])
@pytest.mark.parametrize("seed", range(4))
def test_ridges_are_compared_by_errors_that_are_known(plain, ridges, seed):
    """Twice as many rows as landmarks: small ridges take long, and before they are solved their errors are large."""
    plan = landmarks(60, rows=RowPlan(weights={"force": 1e-2}), seed=seed)
    direct, falkon = (fit(plain, replace(plan, solver=solver(ridges))) for solver in (Direct, Falkon))
    assert falkon.chosen.ridge == direct.chosen.ridge
    for found, expected in zip(falkon.solution.path.points, direct.solution.path.points, strict=True):
        if found.kinds():
            assert found.rmse[FORCE] == pytest.approx(expected.rmse[FORCE], rel=1e-3)


def test_ridges_that_were_not_solved_are_told(plain):
    """Those that have no error beside the others; where none is solved, the result says so."""
    solver = Falkon((1e-10, 1e-8, 1e-3, 1e-2), max_steps=30)
    plan = landmarks(60, rows=RowPlan(weights={"force": 1e-2}), solver=solver)
    report = fit(plain, plan)
    told = {point.ridge: bool(point.kinds()) for point in report.solution.path.points}
    assert told == {1e-10: False, 1e-8: False, 1e-3: True, 1e-2: True}
    assert report.chosen.ridge == 1e-3
    assert any("2 ridges from 1.0e-10 to 1.0e-08 were not solved in 30 iterations" in said for said in report.warnings)
    none = fit(plain, replace(plan, solver=Falkon((1e-10, 1e-8), max_steps=5)))
    assert all(point.kinds() for point in none.solution.path.points)
    assert any("maximum number of iterations" in said for said in none.warnings)


def test_joined_landmarks_keep_the_old_ones(plain):
    old, more = (chosen(plain, landmarks(count)) for count in (20, 50))
    both, new, order = joined(old, more)
    assert both.n_sets == 50 == 20 + new.n_sets
    assert torch.equal(torch.cat([old.features, new.features])[order], both.features)
    assert bool((both.species.diff() >= 0).all())
    nothing = joined(more, more)
    assert nothing[1] is None
    assert nothing[0] is more


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"validation": 0, "solver": Direct((1e-4,))}, "give folds"),
        ({"landmarks": LandmarkPlan("structures", 10, grow_to=20)}, "not by whole structures"),
    ],
)
def test_growth_that_cannot_be(changes, named):
    with pytest.raises(ConfigError, match=named):
        replace(landmarks(20, 40), **changes)


def test_sums_do_not_grow(plain, tmp_path):
    with pytest.raises(ConfigError, match="leave --grow-landmarks out"):
        fit(plain, landmarks(20, 40), sums=tmp_path / "sums")
