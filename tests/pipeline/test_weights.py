"""Weights of frames, of configuration types and of single atoms: what counts double counts like two."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator

from mekrr_scale.arrays import config_hash
from mekrr_scale.errors import ConfigError, StructureError
from mekrr_scale.pipeline import ExtractPlan, FitPlan, KernelPlan, LandmarkPlan, RowPlan, Validation, extract, fit
from mekrr_scale.solvers import Direct, Exact, Falkon
from mekrr_scale.store import FeatureStore, configs_of, merge
from mekrr_scale.structures import read_weights

SOLVERS = {
    "direct": Direct(ridges=(1e-6, 1e-4)),
    "falkon": Falkon(ridges=(1e-5,), rtol=1e-14),
}


def plan_of(solver=None, reduce="sum", alpha="1", landmarks=None, **rows):
    return FitPlan(
        kernel=KernelPlan(length_scales="3", reduce=reduce, alphas=alpha),
        landmarks=LandmarkPlan(count=30) if landmarks is None else LandmarkPlan(count=0, model=landmarks),
        baseline="composition",
        rows=RowPlan(weights={"energy": 1.0, "force": 1e-2, "stress": 1e-3}, derivative_precision="float64", **rows),
        solver=solver or SOLVERS["direct"],
        validation=Validation(folds=3, uncertainty=False),
    )


def frames_of(toy_structures, twice=(), **info):
    """Structures of trajectories (folds); some of them twice, or with more to say."""
    found = []
    for place, atoms in enumerate(copy.deepcopy(toy_structures)):
        if place in twice:
            found.append(copy.deepcopy(atoms))
        atoms.info |= {name: value(place) for name, value in info.items()}
        found.append(atoms)
    return found


def stored(frames, folder, spec, **more):
    plan = ExtractPlan(spec, derivatives=5, strain=True, dtype="float64", group_key="trajectory", **more)
    return extract(frames, folder, plan).store


TWICE = (0, 3, 6, 13)


@pytest.mark.parametrize("reduce", ["sum", "mean"])
@pytest.mark.parametrize("alpha", ["1", "0.5"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_weight_two_is_the_same_frame_twice(toy_structures, spec, tmp_path, solver, reduce, alpha):
    double = {
        name: lambda place: 2.0 if place in TWICE else 1.0
        for name in ("energy_weight", "forces_weight", "stress_weight")
    }
    weighed = stored(frames_of(toy_structures, **double), tmp_path / "weighed", spec)
    twice = stored(frames_of(toy_structures, TWICE), tmp_path / "twice", spec, on_duplicate="keep")
    assert twice.n_structures == weighed.n_structures + len(TWICE)
    plain = stored(frames_of(toy_structures), tmp_path / "plain", spec)
    file = tmp_path / "plain.mekrr"
    fit(plain, plan_of(SOLVERS[solver], reduce, alpha)).model.save(file)
    found, expected, other = (fit(s, plan_of(SOLVERS[solver], reduce, alpha, file)) for s in (weighed, twice, plain))
    for batch in plain:
        a, b, c = (report.model.energies(batch) for report in (found, expected, other))
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
        assert float((a - c).abs().max()) > 1e-6  # it does make a difference
    torch.testing.assert_close(found.model.baseline.energies, expected.model.baseline.energies, rtol=1e-10, atol=1e-10)
    for mine, theirs in zip(found.solution.path.points, expected.solution.path.points, strict=True):
        np.testing.assert_allclose(mine.rmse.entries, theirs.rmse.entries, rtol=1e-8)
    for name in ("energy_mae", "energy_rmse"):
        assert found.metrics()[name] == pytest.approx(expected.metrics()[name], rel=1e-8)


@pytest.mark.parametrize(("derivatives", "tolerance"), [("none", 1e-8), (5, 1e-7)])
def test_by_default_too(toy_structures, spec, tmp_path, derivatives, tolerance):
    """Elements of derivative rows are float32 by default, whose products differ in their last bits by blocks; and
    of few rows more is left of rounding."""
    plan = ExtractPlan(spec, derivatives=derivatives, group_key="trajectory", on_duplicate="keep")
    double = frames_of(toy_structures, config_weight=lambda place: 2.0 if place in TWICE else 1.0)
    weighed = extract(double, tmp_path / "weighed", plan).store
    twice = extract(frames_of(toy_structures, TWICE), tmp_path / "twice", plan).store
    file, kernel = tmp_path / "plain.mekrr", KernelPlan(length_scales="3")
    solver = Direct(ridges=1e-5)
    fit(weighed, FitPlan(kernel=kernel, landmarks=30, solver=solver, validation=3)).model.save(file)
    same = FitPlan(kernel=kernel, landmarks=LandmarkPlan(count=0, model=file), solver=solver, validation=3)
    found, expected = (fit(s, same).model for s in (weighed, twice))
    for batch in weighed:
        torch.testing.assert_close(found.energies(batch), expected.energies(batch), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("weights", [{"energy": "0"}, {"forces": "0", "energy": "1"}])
def test_weight_zero_is_no_label(toy_structures, spec, tmp_path, weights):
    silenced = frames_of(toy_structures)
    lacking = frames_of(toy_structures)
    for place in TWICE:
        silenced[place].info |= {f"{name}_weight": value for name, value in weights.items()}
        for name in ("energy", "free_energy") if weights["energy"] == "0" else ("forces",):
            del lacking[place].calc.results[name]
    plan = ExtractPlan(spec, derivatives="all", dtype="float64", need_energy=False)  # drawn directions go by labels
    a, b = (extract(f, tmp_path / name, plan).store for name, f in (("silenced", silenced), ("lacking", lacking)))
    file = tmp_path / "first.mekrr"
    only = {"solver": Direct(ridges=1e-5), "validation": Validation(folds=0)}
    fit(a, FitPlan(**{**vars(plan_of()), **only})).model.save(file)
    found, expected = (fit(s, FitPlan(**{**vars(plan_of(landmarks=file)), **only})).model for s in (a, b))
    for batch in a:
        torch.testing.assert_close(found.energies(batch), expected.energies(batch), rtol=1e-9, atol=1e-9)


def moved(frames, places, weight=None):
    """Frames of which some are compressed, so that their features are others, and may bring a weight along."""
    for place in places:
        frames[place].positions *= 0.85
        if weight is not None:
            frames[place].info["config_weight"] = weight
    return frames


@pytest.mark.parametrize("solver", [Direct, Exact])
def test_frames_of_weight_zero_are_left_out(toy_structures, spec, tmp_path, solver):
    """Of centring, folds and landmarks too: the model is that of a store without them."""
    places = range(10)
    silenced = stored(moved(frames_of(toy_structures), places, 0.0), tmp_path / "silenced", spec)
    others = stored(frames_of(toy_structures)[10:], tmp_path / "others", spec)
    plan = replace(plan_of(solver(ridges=(1e-5,))), rows=RowPlan())
    found, expected = (fit(store, plan).model for store in (silenced, others))
    torch.testing.assert_close(found.kernel.transform.mean, expected.kernel.transform.mean, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.landmarks.features, expected.landmarks.features, rtol=1e-9, atol=1e-9)
    for batch in others:
        torch.testing.assert_close(found.energies(batch), expected.energies(batch), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("told", ["frames", "types", "sigmas"])
def test_means_of_features_are_weighed(toy_structures, spec, tmp_path, told):
    """By weights below one too, wherever they come from."""
    frames, places = frames_of(toy_structures, config_type=lambda place: "few" if place < 10 else "other"), range(10)
    store = stored(moved(frames, places, 0.01 if told == "frames" else None), tmp_path / "s", spec)
    given = {
        "frames": {},
        "types": {"config_weights": "few:energy=0.01,few:force=0.01,few:stress=0.01"},
        "sigmas": {"sigmas": "default=0.001:0.1:0.05,few=0.01:1:0.5"},
    }[told]
    plan = plan_of()
    transform = fit(store, replace(plan, rows=RowPlan(**given))).model.kernel.transform
    few = {config_hash("few"): 0.01}
    for z, mean in zip(transform.species, transform.mean, strict=True):
        sums, count = 0.0, 0.0
        for batch in store:
            weight = torch.tensor([few.get(int(config), 1.0) for config in batch.configs], dtype=torch.float64)
            for run in (run for run in batch.runs if z in (0, run.z)):
                of_atoms = weight.repeat_interleave(run.ptr.diff())
                sums, count = sums + of_atoms @ run.features.double(), count + float(of_atoms.sum())
        torch.testing.assert_close(mean, sums / count, rtol=1e-10, atol=1e-12)


def test_configuration_types_are_weighed_by_the_fit(toy_structures, spec, tmp_path):
    kinds = frames_of(toy_structures, config_type=lambda place: "cell" if place % 4 == 2 else "molecule")
    told = frames_of(toy_structures, forces_weight=lambda place: 3.0 if place % 4 == 2 else 1.0)
    by_type, by_frame = stored(kinds, tmp_path / "type", spec), stored(told, tmp_path / "frame", spec)
    assert configs_of(by_type) == ("cell", "molecule")
    for text in ("config_type:cell:force=3", "cell:forces=3"):
        found = fit(by_type, plan_of(config_weights=text)).model
        expected = fit(by_frame, plan_of()).model
        torch.testing.assert_close(found.coefficients, expected.coefficients, rtol=1e-8, atol=1e-8)
    with pytest.raises(ConfigError, match="Do you mean 'molecule'"):
        fit(by_type, plan_of(config_weights="molecules=2"))
    with pytest.raises(ConfigError, match="extract with --config-key"):
        fit(by_frame, plan_of(config_weights="cell=2"))


def test_sigmas_are_weights(toy_structures, spec, tmp_path):
    kinds = frames_of(toy_structures, config_type=lambda place: "cell" if place % 4 == 2 else "molecule")
    store = stored(kinds, tmp_path / "s", spec)
    base = plan_of()
    rows = {"weights": {"energy": 1.0, "force": 1e-4, "stress": 0.25}, "derivative_precision": "float64"}
    weights = FitPlan(**{**vars(base), "rows": RowPlan(**rows, config_weights="cell:energy=0.25,cell:force=0.0625")})
    sigma = FitPlan(
        **{
            **vars(base),
            "rows": RowPlan(sigmas="default=0.001:0.1:0.002,cell=0.002:0.4", derivative_precision="float64"),
        }
    )
    a, b = fit(store, weights).model, fit(store, sigma).model
    torch.testing.assert_close(a.coefficients, b.coefficients, rtol=1e-9, atol=1e-9)
    with pytest.raises(ConfigError, match="relative to those of 'default'"):
        RowPlan(sigmas="cell=0.001:0.1:0.1")


def test_forces_of_some_atoms_count_otherwise(toy_structures, spec, tmp_path):
    """Along all displacements the rows of an atom are scaled by the root of its weight; masked atoms have none."""
    frames = frames_of(toy_structures[:4])
    for atoms in frames:
        atoms.arrays["forces_weight"] = np.linspace(0, 4, len(atoms))
    store = extract(frames, tmp_path / "all", ExtractPlan(spec, derivatives="all", dtype="float64")).store
    records = {
        batch.ids[i]: batch for batch in FeatureStore(store.path, tangents=True) for i in range(batch.n_structures)
    }
    assert store.n_directions == sum(3 * (len(atoms) - 1) for atoms in frames)
    batch = next(iter(FeatureStore(store.path, tangents=True)))
    expected = -(np.sqrt(np.linspace(0, 4, len(frames[0])))[1:, None] * frames[0].get_forces()[1:]).ravel()
    np.testing.assert_allclose(batch.directions.label[: len(expected)].numpy(), expected, rtol=1e-12)
    assert records


def test_random_directions_leave_masked_atoms_where_they_are(toy_structures, spec, tmp_path):
    """A wrong force on a masked atom changes nothing."""
    frames, wrong = frames_of(toy_structures[:6]), frames_of(toy_structures[:6])
    for mine, theirs in zip(frames, wrong, strict=True):
        mask = np.arange(len(mine)) == 1
        mine.arrays["force_mask"] = theirs.arrays["force_mask"] = mask
        theirs.calc.results["forces"] = np.where(mask[:, None], np.nan_to_num(0.0), theirs.calc.results["forces"])
    plan = ExtractPlan(spec, derivatives=4, dtype="float64")
    a, b = (extract(f, tmp_path / str(k), plan).store for k, f in enumerate((frames, wrong)))
    for mine in FeatureStore(a.path, tangents=True):
        assert mine.directions is not None
    assert a.n_directions == b.n_directions


def test_weights_survive_merging(toy_structures, spec, tmp_path):
    weights = {"energy_weight": lambda place: 1.0 + place, "config_type": lambda place: f"k{place % 3}"}
    store = stored(frames_of(toy_structures, **weights), tmp_path / "s", spec)
    merge([store.path], tmp_path / "merged")
    mine, theirs = (FeatureStore(path) for path in (store.path, tmp_path / "merged"))
    assert configs_of(mine) == configs_of(theirs) == ("k0", "k1", "k2")
    by_id = [
        {int(i): (w.tolist(), int(c)) for b in s for i, w, c in zip(b.ids, b.weights, b.configs, strict=True)}
        for s in (mine, theirs)
    ]
    assert by_id[0] == by_id[1]


@pytest.mark.parametrize("value", ["many", -1.0, float("nan")])
def test_weights_that_are_none_are_rejected(toy_structures, value):
    atoms = toy_structures[0].copy()
    atoms.info["energy_weight"] = value
    with pytest.raises(StructureError, match="energy_weight"):
        read_weights(atoms)


def test_landmarks_are_not_displaced_along_what_counts_nothing(spec, tmp_path):
    """Perfect cells have few distinct atoms; those with forces, along which others would be made, count nothing."""
    frames = [bulk("C", "diamond", a, cubic=True) for a in np.linspace(3.4, 3.8, 12)]
    for place, atoms in enumerate(frames):
        forces = {"forces": np.zeros((8, 3))} if place % 2 else {}
        atoms.calc = SinglePointCalculator(atoms, energy=float(place), **forces)
        atoms.info["config_type"] = "forced" if place % 2 else "plain"
    store = extract(frames, tmp_path / "s", ExtractPlan(spec, derivatives=3)).store
    plan = replace(plan_of(config_weights="forced=0"), landmarks=LandmarkPlan(count=10))
    assert fit(store, plan).model.landmarks.n_sets == 10


def test_an_element_of_structures_that_count_nothing_is_no_obstacle(toy_structures, spec, tmp_path):
    """Carbon by its configuration type alone: features that nothing is centred by are not asked for."""
    kinds = frames_of(toy_structures, config_type=lambda place: "carbon" if place % 4 else "water")
    store = stored(kinds, tmp_path / "s", spec)
    few = FitPlan(**{**vars(plan_of(config_weights="carbon=0")), "landmarks": LandmarkPlan(count=10)})
    report = fit(store, few)
    water = next(atoms for atoms in kinds if atoms.info["config_type"] == "water")
    assert set(report.model.landmarks.species.tolist()) <= set(water.numbers.tolist())
    with pytest.raises(ConfigError, match="no structure has the configuration type 'carbons'"):
        fit(store, plan_of(config_weights="carbons=0"))
